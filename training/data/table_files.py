"""Table files of all formats, read by one set of rules: as tables of `datasets`, or part by part.

`training.data.text_files` reads CSV and JSON lines. Tables that have types (parquet, arrow) keep them, but for types
that `datasets` does not know: text and bytes "views" and dictionaries become plain columns, and a column that it can't
hold at all is left out with a warning. Text that is no UTF-8 is read as missing, and counted.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import table_cast

from training.data.text_files import TextFile, check_names, read_text_files, text_schema

__all__ = [
    "FORMATS",
    "RULES",
    "TableFiles",
    "format_of",
    "open_file",
    "plain_schema",
    "plain_table",
    "read_row_group",
    "read_table",
    "tables_of",
]

logger = logging.getLogger(__name__)

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".arrow": "arrow",
}
"""Formats of table files, by the end of their names."""
RULES = "1"
"""Version of the rules, to be raised where the rules change: tables that were read by others are read again."""


def format_of(name: str) -> str | None:
    """Returns the format of a file by the end of its name; `None` if it is no table."""
    return FORMATS.get(Path(name.split("?")[0] if "://" in name else name).suffix.lower())


@dataclass
class TableFilesConfig(datasets.BuilderConfig):
    """How files are read.

    Args:
        kind: Their format, one of the values of `FORMATS`.
        encoding: Encoding of CSV and JSON.
        rules: Version of the rules.
    """

    kind: str = "parquet"
    encoding: str = "utf-8"
    rules: str = RULES


class TableFiles(datasets.ArrowBasedBuilder):
    """Reads table files of one format to one table, which is kept on disk until a file changes."""

    BUILDER_CONFIG_CLASS = TableFilesConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        (names,) = self.config.data_files.values()
        paths = dl_manager.download(list(names))
        if self.config.kind in ("parquet", "arrow"):
            files: Any = list(zip(map(str, names), paths, strict=True))
            schemas = [_schema(name, functools.partial(open_file, path), self.config.kind) for name, path in files]
            # A part without rows is often one without types, too.
            chosen = next((schema for schema, num_rows in schemas if num_rows), schemas[0][0])
            files = [file for file, (_, num_rows) in zip(files, schemas, strict=True) if num_rows]
            schema = plain_schema(chosen, str(names[0]))
        else:
            files = [
                TextFile(str(name), functools.partial(open_file, path), self.config.kind, self.config.encoding)
                for name, path in zip(names, paths, strict=True)
            ]
            schema = text_schema(files)
        self.info.features = datasets.Features.from_arrow_schema(schema)
        return [datasets.SplitGenerator("train", gen_kwargs={"files": files})]

    def _generate_tables(self, files: Sequence[Any]) -> Iterator[tuple[Any, pa.Table]]:
        from datasets.builder import Key

        schema = self.info.features.arrow_schema
        if self.config.kind not in ("parquet", "arrow"):
            for number, table in enumerate(read_text_files(files, schema)):
                yield Key(0, number), table.cast(schema)
            return
        for place, (name, path) in enumerate(files):
            first_row = 0
            for number, table in enumerate(tables_of(name, functools.partial(open_file, path), self.config.kind)):
                plain = plain_table(table, name, first_row)
                try:
                    yield Key(place, number), table_cast(plain, schema)
                except (pa.ArrowException, ValueError, TypeError) as error:
                    raise ValueError(f"{name} has other columns than the files before it: {error}") from error
                first_row += len(table)

    def _generate_shards(self, files: Sequence[Any]) -> Iterator[str]:
        yield from (str(file) for file in files)


def read_table(path: str, encoding: str = "utf-8") -> pa.Table:
    """Reads a whole file on this machine, or wherever `fsspec` reaches, into memory.

    Args:
        path: The file, of any format of `FORMATS`.
        encoding: Encoding of CSV and JSON.

    Returns:
        Its rows.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its format is not known, or it can't be read.
    """
    kind = format_of(path)
    if kind is None:
        raise ValueError(f"{path} is not a table that can be read; give one of {', '.join(sorted(FORMATS))}.")
    opener = functools.partial(open_file, path)
    if kind in ("parquet", "arrow"):
        schema, num_rows = _schema(path, opener, kind)
        tables: list[pa.Table] = []
        for table in tables_of(path, opener, kind) if num_rows else []:
            tables.append(plain_table(table, path, sum(map(len, tables))))
        return pa.concat_tables(tables) if tables else plain_schema(schema, path).empty_table()
    files = [TextFile(path, opener, kind, encoding)]
    schema = text_schema(files)
    return pa.concat_tables([schema.empty_table(), *read_text_files(files, schema)])


def plain_schema(schema: pa.Schema, file: str) -> pa.Schema:
    """Returns the columns of a table as `datasets` can hold them.

    Args:
        schema: The table's columns.
        file: Name of the file, for messages.

    Returns:
        The columns, with plain types. One that `datasets` can't hold is left out, with a warning.

    Raises:
        ValueError: If two columns have one name.
    """
    check_names(schema.names, file)
    fields = []
    for field in schema:
        plain = field.with_type(_plain_type(field.type))
        try:
            datasets.Features.from_arrow_schema(pa.schema([plain]))
        except (ValueError, NotImplementedError, TypeError) as error:
            logger.warning("%s: column %r is left out, since it holds %s (%s)", file, field.name, field.type, error)
        else:
            fields.append(plain)
    return pa.schema(fields, metadata=schema.metadata)


def plain_table(table: pa.Table, file: str, first_row: int = 0) -> pa.Table:
    """Returns a table with plain types; text that is no UTF-8 becomes null, with a warning.

    Args:
        table: Some rows of a file.
        file: Name of the file, for messages.
        first_row: Place of the first of them in the file, from 0; messages count from 1.

    Returns:
        The table, without the columns that `datasets` can't hold.
    """
    schema = plain_schema(table.schema, file)
    columns = []
    for field in schema:
        column = table[field.name]
        if pa.types.is_dictionary(column.type):
            column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
        if column.type != field.type:  # a cast to the same type breaks lists of structs that hold nulls alone
            column = column.cast(field.type)
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = _readable(column, f"{file}: column {field.name!r}", first_row)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _readable(column: pa.ChunkedArray, place: str, first_row: int) -> pa.ChunkedArray:
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        values = column.cast(binary).to_pylist()
    bad = np.array([value is not None and not _is_utf8(value) for value in values])
    rows = first_row + 1 + np.flatnonzero(bad)
    logger.warning("%s: %d values are no UTF-8 and read as missing, the first in row %d", place, len(rows), rows[0])
    kept = [None if is_bad else value for value, is_bad in zip(values, bad.tolist(), strict=True)]
    return pa.chunked_array([pa.array(kept, binary).cast(column.type)])


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type without what is only a way of storing it."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    return kind


def open_file(path: str) -> IO[bytes]:
    """Opens a file on this machine, or wherever `fsspec` reaches."""
    system, place = fsspec.core.url_to_fs(path)
    return system.open(place, "rb")


def _schema(name: str, opener: Callable[[], IO[bytes]], kind: str) -> tuple[pa.Schema, int]:
    """Returns a file's columns, and its number of rows; of an arrow stream, 1 for any number."""
    with opener() as file:
        try:
            if kind == "parquet":
                footer = pq.read_metadata(file)
                return footer.schema.to_arrow_schema(), footer.num_rows
            return _open_arrow(file).schema, 1
        except pa.ArrowException as error:
            raise ValueError(f"{name} is no {kind} file ({error}); check how it was written or downloaded.") from error


def tables_of(
    name: str, opener: Callable[[], IO[bytes]], kind: str, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Reads a parquet or arrow file, some rows at a time.

    Args:
        name: Name of the file, for errors.
        opener: Opens it.
        kind: `"parquet"` or `"arrow"`.
        columns: Columns of a parquet file that are read; all if not given.

    Yields:
        Its rows.

    Raises:
        ValueError: If its bytes are broken.
    """
    with opener() as file:
        if kind == "arrow":
            reader = _open_arrow(file)
            is_stream = isinstance(reader, pa.RecordBatchStreamReader)
            batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
            yield from (pa.Table.from_batches([batch]) for batch in batches)
            return
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            yield read_row_group(parquet, group, name, columns)


def read_row_group(parquet: pq.ParquetFile, group: int, file: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a row group of a parquet file.

    Args:
        parquet: The file.
        group: Number of the row group.
        file: Name of the file, for the error.
        columns: Columns that are read; all if not given.

    Returns:
        Its rows.

    Raises:
        ValueError: If its bytes are broken.
    """
    try:
        return parquet.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file}: row group {group} of {parquet.num_row_groups} can't be read ({error}); check how the file was "
            "written or downloaded."
        ) from error


def _open_arrow(file: IO[bytes]) -> Any:
    try:
        return pa.ipc.open_stream(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_file(file)
