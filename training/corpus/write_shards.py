"""Write the corpus: files `kept/SPLIT-00000-of-00001.parquet` of a given number of rows, and `dropped/` with reasons.

A file is written whole or not at all, and a file that exists is not written again. Its content depends on the
decisions alone: the offers of a split, in the order of their parts and ids, are cut into files of `rows_per_shard`
rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from training.corpus.assign_splits import SPLITS, read_decisions
from training.corpus.read_offers import OWN, part_name
from training.data.files import whole_file
from training.data.parallel import for_each

__all__ = ["Shard", "iterate_rows", "plan_shards", "rows_schema", "write_shards"]

_DROPPED = "dropped"
_BYTES_AT_ONCE = 2**26
_ROWS_PER_GROUP = 100  # readers, and this writer, hold a row group in memory
_BYTES_PER_GROUP = 2**24


@dataclass(frozen=True)
class Shard:
    """A file of the corpus.

    Args:
        path: Path of the file, relative to the folder of the corpus.
        split: Name of the split; `"dropped"` for offers that are not in the corpus.
        runs: The file's rows as `(part, start, end)`, counted among the rows of the split in that part.
    """

    path: str
    split: str
    runs: tuple[tuple[int, int, int], ...]

    @property
    def in_corpus(self) -> bool:
        """Whether the file's offers are kept."""
        return self.split != _DROPPED


def plan_shards(decisions: Path, num_parts: int, rows_per_shard: int) -> list[Shard]:
    """Divide the offers into files.

    Args:
        decisions: Folder of the decisions.
        num_parts: Number of parts.
        rows_per_shard: Rows of a file; the last file of a split may have fewer.

    Returns:
        The files; none for a split without offers.
    """
    shards: list[Shard] = []
    counts = [_count(read_decisions(decisions, part)) for part in range(num_parts)]
    for split in (*SPLITS, _DROPPED):
        runs: list[tuple[int, int, int]] = []
        room = rows_per_shard
        files: list[tuple[tuple[int, int, int], ...]] = []
        for part, count in enumerate(counts):
            start = 0
            while start < count.get(split, 0):
                end = min(count[split], start + room)
                runs.append((part, start, end))
                room -= end - start
                start = end
                if not room:
                    files.append(tuple(runs))
                    runs, room = [], rows_per_shard
        if runs:
            files.append(tuple(runs))
        folder = _DROPPED if split == _DROPPED else "kept"
        shards += [
            Shard(f"{folder}/{split}-{place:05d}-of-{len(files):05d}.parquet", split, of)
            for place, of in enumerate(files)
        ]
    return shards


def write_shards(
    shards: Sequence[Shard],
    folder: Path,
    rows: Path,
    decisions: Path,
    schema: pa.Schema,
    id_column: str,
) -> int:
    """Write the files that do not exist yet, on all cores or machines of the engine.

    Args:
        shards: The files.
        folder: Folder of the corpus.
        rows: Folder of the offers' parts.
        decisions: Folder of the decisions.
        schema: Schema of the offers, from [`rows_schema`].
        id_column: Name of the id column in the corpus.

    Returns:
        Number of files that were written.
    """
    missing = [place for place, shard in enumerate(shards) if not (folder / shard.path).is_file()]
    for_each(lambda place: _write(shards[place], folder, rows, decisions, schema, id_column), missing)
    return len(missing)


def rows_schema(rows: Path) -> pa.Schema:
    """Return the columns of all parts together; a part that lacks a column has nulls there.

    Raises:
        ValueError: parts differ in the type of a column.
    """
    schemas = [pads.dataset(part).schema for part in sorted(rows.glob("part-*"))]
    ids = sorted({str(schema.field("id").type) for schema in schemas if "id" in schema.names})
    if len(ids) > 1:
        raise ValueError(f"`id_column` holds {' and '.join(ids)} in different files of `input`; give it one type.")
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise ValueError(
            f"`input` has a column of different types in different files ({error}); give it one."
        ) from error


def _count(decided: pa.Table) -> dict[str, int]:
    splits = pc.value_counts(decided["split"].fill_null(_DROPPED))
    return {entry["values"]: entry["counts"] for entry in splits.to_pylist()}


def _write(shard: Shard, folder: Path, rows: Path, decisions: Path, schema: pa.Schema, id_column: str) -> None:
    with whole_file(folder / shard.path) as partial, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for part, start, end in shard.runs:
            decided = read_decisions(decisions, part)
            of_split = pc.equal(decided["split"].fill_null(_DROPPED), shard.split)
            decided = decided.filter(of_split).slice(start, end - start)
            done = 0
            for found in iterate_rows(rows / part_name(part), decided["row"], _ROWS_PER_GROUP, schema=schema):
                for first, last in _groups(found["image"]):
                    some, of_some = found.slice(first, last - first), decided.slice(done, last - first)
                    table = _as_corpus(some, of_some, not shard.in_corpus, id_column)
                    if writer is None:
                        writer = stack.enter_context(pq.ParquetWriter(partial, table.schema, compression="zstd"))
                    writer.write_table(table)
                    done += len(table)
            assert done == len(decided), f"{part} has {done} of {len(decided)} offers"


def _groups(images: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """Cut rows into groups, each at most as large as a row group may be, or of one row."""
    start = held = 0
    for place, size in enumerate(pc.fill_null(pc.binary_length(images), 0).to_pylist()):
        if place > start and held + size > _BYTES_PER_GROUP:
            yield start, place
            start, held = place, 0
        held += size
    yield start, len(images)


def iterate_rows(
    part: Path,
    numbers: pa.ChunkedArray | pa.Array,
    rows_at_once: int,
    *,
    schema: pa.Schema | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Read offers of a part, a few at a time, so that their images need not fit into memory together.

    Args:
        part: Folder of the part.
        numbers: Their row numbers.
        rows_at_once: Offers of a table; the last table may have fewer.
        schema: Columns of all parts, where all columns are read.
        columns: Columns that are read; all if not given.

    Yields:
        The offers, in the order of the numbers.
    """
    wanted = None if columns is None else list(dict.fromkeys(["row", *columns]))
    files = list(part.glob("*.parquet"))
    bytes_per_row = sum(file.stat().st_size for file in files) // max(
        sum(pq.read_metadata(file).num_rows for file in files), 1
    )
    # A part is not sorted, so each scan reads all of it. Scans are as few as memory allows.
    rows_per_scan = max(_BYTES_AT_ONCE // max(bytes_per_row, 1) // rows_at_once, 1) * rows_at_once
    for start in range(0, len(numbers), rows_per_scan):
        some = numbers.slice(start, rows_per_scan)
        scan = pads.dataset(part, schema=schema).scanner(
            columns=wanted,
            filter=pads.field("row").isin(some),
            batch_size=256,
            batch_readahead=1,
            fragment_readahead=1,
        )
        found = scan.to_table().combine_chunks()  # taking rows from thousands of chunks is slow
        place = {row: number for number, row in enumerate(found["row"].to_pylist())}
        places = [place[row] for row in some.to_pylist()]
        for first in range(0, len(places), rows_at_once):
            yield found.take(places[first : first + rows_at_once])


def _as_corpus(found: pa.Table, decided: pa.Table, dropped: bool, id_column: str) -> pa.Table:
    """Return offers with the columns that training reads, and the further columns of the input."""
    own = {name.removeprefix(OWN): found[name] for name in found.column_names if name.startswith(OWN)}
    images = found["image"].cast(pa.binary()).combine_chunks()
    columns = {
        id_column: found["id"],
        "title": found["title"],
        "image": pa.StructArray.from_arrays([images, pa.nulls(len(images), pa.string())], ["bytes", "path"]),
        "catalog_id": decided["catalog_id"],
        "title_original": found["title_original"],
    }
    if dropped:
        columns |= {name: decided[name] for name in ("reason", "kept_instead", "note")}
    own = {f"{name}_own" if name in columns else name: value for name, value in own.items()}
    table = pa.table(columns | own)
    features = datasets.Features.from_arrow_schema(table.schema) | {"image": datasets.Image()}
    return table.cast(datasets.Features(features).arrow_schema)  # its metadata declares the images
