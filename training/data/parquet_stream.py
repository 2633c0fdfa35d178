"""Streamed products: rows of parquet files that are read in blocks when they are needed, without a download.

The footer of a parquet file says where its row groups are and how long they are. These are the blocks: any row can be
found without reading the ones before it, on a local disk or wherever `fsspec` reaches (the Hub, S3, ...). So a stream
has a length, every row has an index, and a reader that knows the order (see `training.data.sampler`) can start
anywhere and reads only the blocks that it needs.
"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.columns import ColumnLayout, ProductColumns
from training.data.row_places import RowFiles, row_files
from training.data.table_files import open_file, plain_schema, plain_table, read_row_group

__all__ = ["ParquetBlocks", "StreamedProducts", "TableBlocks"]

logger = logging.getLogger(__name__)

_FOOTERS_AT_ONCE = 16
_TABLE_BLOCK_ROWS = 100


class Blocks(Protocol):
    """Rows of one part of a source, in blocks.

    Attributes:
        column_names: Canonical and kept columns.
        lengths: Rows of each block.
        num_bytes: Size of each block in bytes, once it is read.
        row_files: Files that the rows come from, as far as they are known.
    """

    column_names: list[str]
    lengths: list[int]
    num_bytes: list[int]
    row_files: list[RowFiles]

    def read(self, block: int, names: Sequence[str]) -> pa.Table:
        """Reads some columns of a block."""


class ParquetBlocks:
    """The row groups of parquet files.

    Args:
        row_files: The files, whose columns are the same, and the name of their source.
        columns: The user's column names.
        folder: Folder that relative paths of images start from.
        rules: Columns, and the value of each whose rows are excluded; these columns are read at the start.

    Attributes:
        num_source_rows: Rows of the files, excluded ones counted.
        layout: How the files' columns become canonical columns.

    Raises:
        ValueError: If a file is not parquet or lacks a column.
    """

    def __init__(
        self,
        row_files: RowFiles,
        columns: ProductColumns,
        folder: Path | None = None,
        rules: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Reads the files' footers."""
        source, files, first_index = row_files.source, row_files.files, row_files.first_index
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            self._footers = list(pool.map(_read_footer, files))
        self._files = list(files)
        # A part without rows is often one without types, too.
        chosen = next((number for number, footer in enumerate(self._footers) if footer.num_rows), 0)
        schema = plain_schema(self._footers[chosen].schema.to_arrow_schema(), str(files[chosen]))
        for file, footer in zip(files, self._footers, strict=True):
            missing = set(schema.names) - set(footer.schema.to_arrow_schema().names)
            if missing and footer.num_rows:
                raise ValueError(
                    f"source {source!r}: {file} has no column {sorted(missing)[0]!r}, which {files[chosen]} has. "
                    "Name them as separate sources."
                )
        self.layout = ColumnLayout(source, datasets.Features.from_arrow_schema(schema), columns, folder, row_files)
        self.row_files = [replace(row_files, id_column=self.layout.row_id)]
        self.column_names = [*self.layout.made, *self.layout.kept.values()]
        self.lengths: list[int] = []
        self.num_bytes: list[int] = []
        self._places: list[tuple[int, int, int, np.ndarray | None]] = []
        # Of each file's row groups, once: summed up for every block, long files would pay for each of their groups.
        self._first_rows = [
            np.cumsum([0, *(footer.row_group(group).num_rows for group in range(footer.num_row_groups))])
            for footer in self._footers
        ]
        num_excluded = dict.fromkeys(rules, 0)
        for number, footer in enumerate(self._footers):
            for group in range(footer.num_row_groups):
                length = footer.row_group(group).num_rows
                kept = None
                rule_columns = [name for name, _ in rules if name in schema.names]
                if rule_columns:
                    keep = np.ones(length, dtype=bool)
                    for rule, is_excluded in self.layout.excluded_rows(
                        self._read(number, group, rule_columns), rules
                    ).items():
                        num_excluded[rule] += int((keep & is_excluded).sum())
                        keep &= ~is_excluded
                    kept = None if keep.all() else np.flatnonzero(keep)
                if length and (kept is None or len(kept)):
                    self._places.append((number, group, first_index, kept))
                    self.lengths.append(length if kept is None else len(kept))
                    self.num_bytes.append(footer.row_group(group).total_byte_size)
                first_index += length
        for (name, value), number in num_excluded.items():
            if name in schema.names:
                logger.info("%s: %d rows excluded by %s=%s", source, number, name, value)
        self.num_source_rows = sum(footer.num_rows for footer in self._footers)

    def read(self, block: int, names: Sequence[str]) -> pa.Table:
        """Reads some columns of a block.

        Args:
            block: Number of the block.
            names: Names of canonical or kept columns.

        Returns:
            The columns.
        """
        number, group, first_index, kept = self._places[block]
        index = first_index + np.arange(self._footers[number].row_group(group).num_rows)
        table = self._read(number, group, [column for name in names for column in self.layout.read_from(name)])
        if kept is not None:
            table, index = table.take(pa.array(kept)), index[kept]
        return pa.table({name: self.layout.make(name, table, index) for name in names})

    def _read(self, number: int, group: int, columns: Sequence[str]) -> pa.Table:
        # Opened for each read: processes that share an open file would share its position.
        with open_file(self._files[number]) as file:
            parquet = pq.ParquetFile(file, metadata=self._footers[number])
            table = read_row_group(parquet, group, self._files[number], list(dict.fromkeys(columns)))
        return plain_table(table, self._files[number], int(self._first_rows[number][group]))


class TableBlocks:
    """Blocks of consecutive rows of a table on this machine.

    Args:
        products: Map-style products with the canonical columns.
    """

    def __init__(self, products: datasets.Dataset) -> None:
        """Splits the table into blocks."""
        self._products = products
        self.column_names = products.column_names
        self.row_files = row_files(products)
        starts = range(0, len(products), _TABLE_BLOCK_ROWS)
        self.lengths = [min(_TABLE_BLOCK_ROWS, len(products) - start) for start in starts]
        self.num_bytes = [0] * len(self.lengths)  # the table is mapped into memory, not held in it

    def read(self, block: int, names: Sequence[str]) -> pa.Table:
        """Reads some columns of a block."""
        start = block * _TABLE_BLOCK_ROWS
        rows = range(start, start + self.lengths[block])
        return self._products.select_columns(list(names)).select(rows).with_format("arrow")[:]


class StreamedProducts:
    """Products that are read block by block; used as a `datasets.Dataset` otherwise.

    Args:
        parts: Where the rows are, one part after the other.
        max_rows: Keeps only the first rows.

    Attributes:
        column_names: Columns that are read: those that all parts have, until some are selected.
        block_lengths: Rows of each block, shape `(num_blocks,)`.
        block_bytes: Size of each block in bytes, once it is read, shape `(num_blocks,)`.
        cached_blocks: Number of blocks, those read last, that are held in memory.
        row_files: Files that the rows come from, as far as they are known.
    """

    def __init__(self, parts: Sequence[Blocks], max_rows: int | None = None) -> None:
        """Counts the rows."""
        self._parts = list(parts)
        self.row_files = [files for part in self._parts for files in part.row_files]
        self.column_names = [
            name for name in self._parts[0].column_names if all(name in part.column_names for part in self._parts)
        ]
        self._places = [(part, block) for part in self._parts for block in range(len(part.lengths))]
        lengths = np.array([length for part in self._parts for length in part.lengths], dtype=np.int64)
        if max_rows is not None:
            starts = np.cumsum(lengths) - lengths
            lengths = np.clip(max_rows - starts, 0, lengths)
            self._places = self._places[: int((lengths > 0).sum())]
        self.block_lengths = lengths[lengths > 0]
        sizes = np.array([size for part in self._parts for size in part.num_bytes], dtype=np.int64)
        self.block_bytes = sizes[: len(self.block_lengths)]
        self.cached_blocks = 2
        self._block_stops = np.cumsum(self.block_lengths)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.block_lengths.sum())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Reads all rows in the order of the files."""
        for block in range(len(self.block_lengths)):
            yield from self.read_block(block).to_pylist()

    def __getitem__(self, key: int | str) -> Any:
        """Reads a row, or all values of a column."""
        if isinstance(key, str):
            return [row[key] for row in self.select_columns(key)]
        return self.__getitems__([key])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Reads rows.

        Args:
            rows: `N` row indices, in any order.

        Returns:
            The rows, in the order asked for.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        blocks = np.searchsorted(self._block_stops, wanted, side="right")
        found: list[dict[str, Any]] = [{} for _ in wanted]
        for block in dict.fromkeys(blocks.tolist()):
            places = np.flatnonzero(blocks == block)
            start = self._block_stops[block] - self.block_lengths[block]
            taken = self._block(block).take(pa.array(wanted[places] - start))
            for place, row in zip(places.tolist(), taken.to_pylist(), strict=True):
                found[place] = row
        return found

    def select_columns(self, names: str | Sequence[str]) -> "StreamedProducts":
        """Returns the same products with fewer columns, which are the only ones read."""
        names = [names] if isinstance(names, str) else list(names)
        missing = [name for name in names if name not in self.column_names]
        if missing:
            raise ValueError(f"there is no column {missing[0]!r}. There are: {', '.join(self.column_names)}.")
        selected = copy.copy(self)
        selected.column_names = names
        selected._cache = OrderedDict()
        return selected

    def holding(self, num_blocks: int) -> "StreamedProducts":
        """Returns the same products with that many blocks, those read last, held in memory."""
        held = copy.copy(self)
        held.cached_blocks = num_blocks
        held._cache = OrderedDict()
        return held

    def read_block(self, block: int) -> pa.Table:
        """Reads a block."""
        part, number = self._places[block]
        return part.read(number, self.column_names).slice(0, int(self.block_lengths[block]))

    def _block(self, block: int) -> pa.Table:
        if block not in self._cache:
            while len(self._cache) >= self.cached_blocks:
                self._cache.popitem(last=False)
            self._cache[block] = self.read_block(block)
        self._cache.move_to_end(block)
        return self._cache[block]


def _read_footer(file: str) -> pq.FileMetaData:
    try:
        with open_file(file) as opened:
            return pq.read_metadata(opened)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a parquet file ({error}). Check how it was written or downloaded.") from error
