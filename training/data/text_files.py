"""Reads CSV and JSON lines to tables, by the rules that hold for all scripts.

- CSV has no types: every value is text, as it is written, and only an empty cell is null.
- In JSON a column keeps its type where all its values have one. Where numbers and text are mixed, and where a number
  is too large for its type, the whole column is text, as it is written.
- Bytes that are not of the encoding are an error that names the line.
"""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import pandas as pd
import pyarrow as pa

__all__ = ["EncodingError", "TextFile", "check_names", "numbered_rows", "read_text_files", "text_schema"]

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
_EXACT = 2**53  # up to here every whole number is a float
_LONGEST_INTEGER = 18  # digits that fit into 64 bits
_LONGEST_CELL = 2**31 - 1  # characters, for Python's own reader of CSV


class EncodingError(ValueError):
    """A file is not of the encoding that was given."""


@dataclass(frozen=True)
class TextFile:
    """A CSV or JSON file.

    Args:
        name: Its path or address, for errors.
        open: Opens it for bytes; called several times.
        kind: `"csv"`, `"tsv"` or `"json"`.
        encoding: Encoding of its text, by Python's name for it.
    """

    name: str
    open: Callable[[], IO[bytes]]
    kind: str
    encoding: str = "utf-8"

    @property
    def codec(self) -> str:
        """The encoding, in which a mark at the beginning of the file is no text."""
        return "utf-8-sig" if self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else self.encoding

    def wrong_encoding(self, error: UnicodeError) -> EncodingError:
        """Returns the error that names the first line that is not of the encoding."""
        line = ""
        with self.open() as raw:
            for number, content in enumerate(raw, 1):
                try:
                    content.decode(self.codec)
                except UnicodeError as found:
                    line, error = f", line {number},", found
                    break
        return EncodingError(
            f"{self.name}{line} is not text in `encoding` {self.encoding!r} ({error}); give the encoding that it was "
            "written in, such as latin-1, cp1252, utf-16 or shift_jis."
        )


def check_names(names: Sequence[str], file: str) -> None:
    """Refuses a table that has two columns of one name.

    Raises:
        ValueError: If it has.
    """
    if repeated := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{file} has two columns named {repeated[0]!r}; rename or remove one of them.")


def text_schema(files: Sequence[TextFile], *, first_rows: bool = False) -> pa.Schema:
    """Finds the columns of files that are read together, and their types.

    Args:
        files: The files; a column need not be in all of them.
        first_rows: Looks at some rows at the beginning of each file alone.

    Returns:
        The columns, in the order in which they are met.

    Raises:
        EncodingError: If a file is not of its encoding.
        ValueError: If a file can't be read, or names a column twice.
    """
    columns: dict[str, _Kinds] = {}
    for file in files:
        if file.kind != "json":
            for name in _csv_header(file):
                columns.setdefault(name, _Kinds()).types.add(str)
            continue
        for rows in islice(_blocks(file), 1 if first_rows else None):
            for name in dict.fromkeys(key for row in rows for key in row):
                columns.setdefault(name, _Kinds()).add([row.get(name) for row in rows])
    for name, kinds in columns.items():
        if kinds.is_nested_mix:
            logger.warning(
                "%s: column %r holds lists or objects beside other values; it is read as text, with JSON in it",
                files[0].name,
                name,
            )
    return pa.schema([(name, kinds.arrow_type()) for name, kinds in columns.items()])


def read_text_files(files: Sequence[TextFile], schema: pa.Schema) -> Iterator[pa.Table]:
    """Reads files, some rows at a time.

    Args:
        files: The files.
        schema: Their columns, from `text_schema`.

    Yields:
        Rows with these columns, in the order of the files; null where a file lacks a column.

    Raises:
        EncodingError: If a file is not of its encoding.
        ValueError: If a file can't be read.
    """
    for file in files:
        if file.kind == "json":
            for rows in _blocks(file):
                columns = [_as_type([row.get(field.name) for row in rows], field.type) for field in schema]
                yield pa.table(columns, schema=schema)
        else:
            for chunk in _csv_chunks(file):
                nothing = pa.nulls(len(chunk), pa.string())
                columns = [
                    pa.array(chunk[name], pa.string(), from_pandas=True) if name in chunk else nothing
                    for name in schema.names
                ]
                yield pa.table(columns, schema=schema)


def numbered_rows(file: TextFile, *, parse: bool = True) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Finds where rows are, in the order in which `read_text_files` reads them.

    Args:
        file: The file.
        parse: Whether to read the rows' values, too.

    Yields:
        For each row `"line"` and the line that it begins on, counted from 1 as editors do, or, where the file is one
        list of JSON, `"record"` and its place there; and the values that are written in it.

    Raises:
        EncodingError: If the file is not of its encoding.
        ValueError: If it can't be read.
    """
    if file.kind == "json":
        yield from _json_rows(file, parse)
        return
    names: list[str] | None = None
    for number, cells in _csv_records(file):
        if names is None:
            names = cells
        else:
            yield "line", number, dict(zip(names, cells, strict=False)) if parse else {}


def _csv_records(file: TextFile) -> Iterator[tuple[int, list[str]]]:
    """Yields the line that a record begins on, and its cells; the header comes first. pandas does not tell lines."""
    longest = csv.field_size_limit(_LONGEST_CELL)
    try:
        with file.open() as raw:
            text = io.TextIOWrapper(raw, encoding=file.codec, errors="replace", newline="")
            records = csv.reader(text, delimiter=_csv_settings(file)["sep"])
            line = 1
            for cells in records:
                if len(cells) > 1 or (cells and cells[0].strip()):  # pandas passes over blank lines, too
                    yield line, cells
                line = records.line_num + 1
    finally:
        csv.field_size_limit(longest)


def _not_csv(file: TextFile, reason: str) -> ValueError:
    """Returns the error that names the line of the row that is none of the table."""
    header, last = 0, 1
    for line, cells in _csv_records(file):
        header, last = header or len(cells), line
        if len(cells) > header:
            return ValueError(
                f"{file.name}, line {line}, has more fields than the header names columns; name them all, or put text "
                "with commas in quotes."
            )
    if "EOF inside string" in reason:  # all that follows the quote is one record, the last
        return ValueError(f"{file.name}, line {last}: a quote is not closed before the end of the file; close it.")
    return ValueError(f"{file.name} is not a table as CSV has them: {reason}")


def _csv_header(file: TextFile) -> list[str]:
    try:
        with file.open() as raw:
            found = pd.read_csv(raw, header=None, nrows=1, **_csv_settings(file))
    except pd.errors.EmptyDataError:
        return []
    except UnicodeError as error:
        raise file.wrong_encoding(error) from error
    check_names([name for name in found.iloc[0] if isinstance(name, str)], file.name)
    with file.open() as raw:  # the names as pandas has them, with some for columns that have none
        return list(pd.read_csv(raw, nrows=0, **_csv_settings(file)).columns)


def _csv_chunks(file: TextFile) -> Iterator[pd.DataFrame]:
    try:
        with file.open() as raw, pd.read_csv(raw, chunksize=_ROWS_AT_ONCE, **_csv_settings(file)) as chunks:
            for chunk in chunks:
                if not isinstance(chunk.index, pd.RangeIndex):
                    raise _not_csv(file, "rows with more fields than the header names columns")
                yield chunk
    except pd.errors.EmptyDataError:
        return
    except pd.errors.ParserError as error:
        raise _not_csv(file, str(error).strip()) from error
    except UnicodeError as error:
        raise file.wrong_encoding(error) from error


def _csv_settings(file: TextFile) -> dict[str, Any]:
    return {
        "sep": "\t" if file.kind == "tsv" else ",",
        "dtype": str,
        "keep_default_na": False,
        "na_values": [""],
        "encoding": file.encoding,
    }


class _WrittenFloat(float):
    """A number that remembers how it was written."""

    written: str

    def __new__(cls, text: str) -> "_WrittenFloat":
        number = super().__new__(cls, text)
        number.written = text
        return number


class _Kinds:
    """What kinds of values a JSON column holds."""

    def __init__(self) -> None:
        self.types: set[type] = set()
        self.nested: list[pa.DataType] = []
        self.is_exact = True  # as floats

    @property
    def is_nested_mix(self) -> bool:
        return bool(self.types & {list, dict}) and (len(self.types) > 1 or not self.nested)

    def add(self, values: Sequence[Any]) -> None:
        types = {type(value) for value in values if value is not None}
        self.types |= types
        if types & {int, _WrittenFloat}:
            self.is_exact &= all(
                abs(value) <= _EXACT for value in values if isinstance(value, int | float) and value is not None
            )
        if types in ({list}, {dict}):
            try:
                self.nested = [pa.array(values).type] if not self.nested else [_joined(self.nested[0], values)]
            except pa.ArrowException:
                self.types |= {list, dict}  # read as text

    def arrow_type(self) -> pa.DataType:
        if not self.types:
            return pa.null()
        if self.types == {bool}:
            return pa.bool_()
        if self.types == {int}:
            return pa.int64()
        if self.types <= {int, float, _WrittenFloat} and self.is_exact:
            return pa.float64()
        if self.types in ({list}, {dict}) and self.nested:
            return self.nested[0]
        return pa.string()


def _joined(known: pa.DataType, values: Sequence[Any]) -> pa.DataType:
    """Returns a type that holds earlier values and these."""
    types = (known, pa.array(values).type)
    return pa.unify_schemas([pa.schema([("x", one)]) for one in types], promote_options="permissive").field("x").type


def _as_type(values: Sequence[Any], wanted: pa.DataType) -> pa.Array:
    if pa.types.is_string(wanted):
        try:
            return pa.array(values, wanted)
        except (pa.ArrowException, UnicodeError):  # something is no text, or half a character
            return pa.array([_as_written(value) for value in values], wanted)
    return pa.array(values, wanted)


def _as_written(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        # a half of a character, which JSON can write and UTF-8 can't
        return value if value is None else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, _WrittenFloat):
        return value.written
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)


def _integer(text: str) -> int | str:
    """Reads a whole number; one that 64 bits do not hold stays text, as it is written."""
    return int(text) if len(text) <= _LONGEST_INTEGER else text


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _blocks(file: TextFile) -> Iterator[list[dict[str, Any]]]:
    rows = (row for _, _, row in _json_rows(file))
    while block := list(islice(rows, _ROWS_AT_ONCE)):
        yield block


def _json_rows(file: TextFile, parse: bool = True) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Reads a file with an object a line, or with one list of objects; tells what they are counted in, and where."""
    decoder = json.JSONDecoder(parse_int=_integer, parse_float=_WrittenFloat, parse_constant=_constant)
    try:
        with file.open() as raw:
            is_list = raw.read(64).decode(file.codec, "ignore").lstrip().startswith("[")
        with file.open() as raw:
            if is_list:
                found: Any = enumerate(decoder.decode(raw.read().decode(file.codec).strip()), 1)
            else:
                found = _decoded_lines(raw, file.codec, decoder if parse else None)
            word = "record" if is_list else "line"
            for number, row in found:
                if not isinstance(row, dict):
                    raise ValueError(f"{file.name}, {word} {number}: {str(row)[:80]!r} is no JSON object.")
                yield word, number, row
    except UnicodeError as error:
        raise file.wrong_encoding(error) from error
    except _BadLine as error:
        raise ValueError(
            f"{file.name}, line {error.number}: no JSON object ({error.__cause__}); write one object a line, or one "
            "list of objects."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name}, line {error.lineno}: no JSON ({error.msg}).") from error


class _BadLine(Exception):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _decoded_lines(raw: IO[bytes], codec: str, decoder: json.JSONDecoder | None) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.TextIOWrapper(raw, encoding=codec, newline="\n"), 1):
        if line := line.strip():
            try:
                yield number, {} if decoder is None else decoder.decode(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise _BadLine(number) from error
