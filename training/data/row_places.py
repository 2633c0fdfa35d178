"""Where rows are: the file and the line of a row that an error or a report names.

A row's id is either given by the user or made as `<source>:<index>`, counted from 0 over all files of the source. Ids
are what files of vectors and caches go by, so they stay as they are; they are translated when they are told. Files are
read again for that, up to the row: a few rows are told, and mostly none.
"""

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import pyarrow.parquet as pq

from training.data.files import without_secrets
from training.data.ids import id_text, id_texts
from training.data.table_files import format_of, open_file, plain_table, tables_of
from training.data.text_files import TextFile, numbered_rows

__all__ = ["RowFiles", "remember_files", "row_files", "told_file_row", "told_rows"]

logger = logging.getLogger(__name__)

_MARK = "row files: "  # begins the description of a table whose rows' files are known
_AND = " | "  # between the two ids of a pair


@dataclass(frozen=True)
class RowFiles:
    """The files that consecutive rows of a source come from.

    Args:
        source: Name of the source, as in the ids that are made for its rows.
        files: Paths or addresses of the files, in the order of the rows.
        kind: Their format, one of the values of `training.data.table_files.FORMATS`.
        encoding: Encoding of CSV and JSON.
        first_index: Index in the source of the first row.
        id_column: Column of the ids that the user gave, if there is one.
        prefix: What is put before these.
    """

    source: str
    files: Sequence[str]
    kind: str
    encoding: str = "utf-8"
    first_index: int = 0
    id_column: str | None = None
    prefix: str = ""


def remember_files(table: datasets.Dataset, files: RowFiles) -> None:
    """Notes in a table where its rows come from; selections of it, and tables that it is joined to, keep the note."""
    told = asdict(files) | {"files": [without_secrets(str(file)) for file in files.files]}
    table.info.description = _MARK + json.dumps(told)


def row_files(products: Any) -> list[RowFiles]:
    """Returns the files that products come from, as far as they are known.

    Args:
        products: Products, map-style or streamed, or pairs of them.
    """
    if (known := getattr(products, "row_files", None)) is not None:
        return list(known)
    description = getattr(getattr(products, "info", None), "description", None) or ""
    notes = [note.removeprefix(_MARK) for note in description.split("\n\n") if note.startswith(_MARK)]
    return [RowFiles(**json.loads(note)) for note in notes]


def told_rows(row_ids: Sequence[str], files: Sequence[RowFiles]) -> list[str]:
    """Tells where rows are.

    Args:
        row_ids: Ids of rows, or of pairs of rows.
        files: Where the rows come from.

    Returns:
        For each `"a.csv line 7"`, `"a.parquet row 6"` (counted from 1) or, in a file that is one list of JSON,
        `"a.json record 6"`; after the id, where the user gave one: `"G6 (a.csv line 7)"`. An id whose row is not found
        stays as it is: of a source that is no file, or one of several files elsewhere.
    """
    wanted = dict.fromkeys(one for row_id in row_ids for one in (row_id, *row_id.split(_AND)))
    found: dict[str, str] = {}
    for part in files:
        try:
            for row_id, told in _find(part, [one for one in wanted if one not in found]):
                found.setdefault(row_id, told)
        except Exception:  # files that changed or are gone: what is told of the rows matters more than where they are
            logger.debug("rows of %s are not found again", part.source, exc_info=True)
    return [
        found[one] if one in found else _AND.join(found.get(half, half) for half in one.split(_AND)) for one in row_ids
    ]


def told_file_row(path: str, row: int, encoding: str = "utf-8") -> str:
    """Tells where a row of one file is.

    Args:
        path: The file.
        row: Its place there, from 0.
        encoding: Encoding of CSV and JSON.
    """
    source = without_secrets(path)
    return told_rows([f"{source}:{row}"], [RowFiles(source, [path], format_of(path) or "", encoding)])[0]


def _find(part: RowFiles, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the rows of a part that are wanted, and where each is."""
    made = {}
    for row_id in wanted:
        source, colon, number = row_id.rpartition(":")
        if colon and source == part.source and number.isdecimal() and int(number) >= part.first_index:
            made[int(number) - part.first_index] = row_id
    given = set() if part.id_column is None else {one.removeprefix(part.prefix) for one in wanted}
    given -= {*made.values()}
    names = [without_secrets(str(file)) for file in part.files]
    if any("://" in name for name in names) and (part.kind != "parquet" or given or len(names) == 1):
        # Read no more than footers from elsewhere, and nothing to tell the number of a row in the only file.
        word = "row" if part.kind in ("parquet", "arrow") else "record"
        yield from ((row_id, f"{names[0]} {word} {place + 1}") for place, row_id in made.items() if len(names) == 1)
        return
    first = 0
    for file, name in zip(map(str, part.files), names, strict=True):
        if not given and not made:
            return
        if part.kind == "parquet" and not given:
            with open_file(file) as opened:
                length = pq.read_metadata(opened).num_rows
            for place in [one for one in made if one < first + length]:
                yield made.pop(place), f"{name} row {place - first + 1}"
        else:
            length = 0
            for word, number, value in _rows(part, file, bool(given)):
                if (row_id := made.pop(first + length, None)) is not None:
                    yield row_id, f"{name} {word} {number}"
                if value is not None and value in given:
                    given.discard(value)
                    yield part.prefix + value, f"{part.prefix}{value} ({name} {word} {number})"
                length += 1
                if not given and not made:
                    return
        first += length


def _rows(part: RowFiles, file: str, with_ids: bool) -> Iterator[tuple[str, int, str | None]]:
    """Yields for each row of a file what it is counted in, its number, and the id that the user gave."""
    name = part.id_column if with_ids else None
    if part.kind not in ("parquet", "arrow"):
        text = TextFile(file, functools.partial(open_file, file), part.kind, part.encoding)
        for word, number, row in numbered_rows(text, parse=with_ids):
            yield word, number, None if name is None else _id(row.get(name))
        return
    number = 0
    for table in tables_of(file, functools.partial(open_file, file), part.kind, None if name is None else [name]):
        ids: list[str | None] = [None] * len(table)
        if name is not None:
            column = plain_table(table.select([name]), file)[name].combine_chunks()
            ids = id_texts(column, f"{file}: column {name!r}").to_pylist()
        for value in ids:
            number += 1
            yield "row", number, value


def _id(value: Any) -> str | None:
    try:
        return id_text(value, "")
    except ValueError:
        return None
