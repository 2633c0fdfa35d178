"""Rows are found in row groups without reading what lies before them."""

import copy
import multiprocessing

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.columns import ProductColumns
from training.data.parquet_stream import ParquetBlocks, StreamedProducts, TableBlocks
from training.data.row_places import RowFiles


def write(path, rows: range, rows_per_group: int, **columns) -> str:
    table = {
        "title": [f"title {i}" for i in rows],
        "image": [{"bytes": bytes([i]), "path": None} for i in rows],
        "catalog_id": list(rows),
        **columns,
    }
    pq.write_table(pa.table(table), path, row_group_size=rows_per_group)
    return str(path)


def parquet_blocks(files, **settings) -> ParquetBlocks:
    return ParquetBlocks(RowFiles("shop", files, "parquet"), ProductColumns(), **settings)


@pytest.fixture
def blocks(tmp_path) -> ParquetBlocks:
    """Rows 0 to 6 in groups of 3, 3 and 1, rows 7 to 11 in groups of 2, 2 and 1."""
    files = [write(tmp_path / "0.parquet", range(7), 3), write(tmp_path / "1.parquet", range(7, 12), 2)]
    return parquet_blocks(files)


def numbers(rows) -> list[int]:
    return [row["catalog_id"] for row in rows]


def test_row_groups_are_blocks(blocks):
    assert blocks.lengths == [3, 3, 1, 2, 2, 1]
    assert blocks.num_source_rows == 12
    products = StreamedProducts([blocks])
    assert len(products) == 12
    assert numbers(products) == list(range(12))
    assert numbers(products.__getitems__([11, 0, 7, 6, 0, 3])) == [11, 0, 7, 6, 0, 3]
    assert products[4] == {
        "title": "title 4",
        "image": {"bytes": b"\x04", "path": None},
        "catalog_id": 4,
        "row_id": "shop:4",
    }
    assert products["title"] == [f"title {i}" for i in range(12)]


def test_only_the_blocks_and_columns_that_are_needed_are_read(blocks, monkeypatch):
    reads = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns, **kwargs: (
            reads.append((group, columns)) or read_row_group(self, group, columns, **kwargs)
        ),
    )
    products = StreamedProducts([blocks]).select_columns(["title", "row_id"])
    assert products.__getitems__([8, 7]) == [{"title": f"title {i}", "row_id": f"shop:{i}"} for i in (8, 7)]
    assert reads == [(0, ["title"])]
    products.__getitems__([7])
    assert len(reads) == 1  # held in memory
    for row in (0, 3, 7):
        products.__getitems__([row])
    assert len(reads) == 4  # two blocks are held: the third pushed out the first
    reads.clear()
    roomy = products.holding(6)
    for row in (0, 3, 7, 0, 3, 7):
        roomy.__getitems__([row])
    assert len(reads) == 3


def test_rows_that_are_left_out_keep_the_others_places(tmp_path, caplog):
    sellers = ["x", "brand", None, "brand", "brand", "brand", "y"]
    file = write(tmp_path / "0.parquet", range(7), 3, seller=sellers)
    with caplog.at_level("INFO", logger="training.data.parquet_stream"):
        blocks = ParquetBlocks(
            RowFiles("shop", [file], "parquet"), ProductColumns(), rules=[("seller", "brand"), ("colour", "red")]
        )
    assert "shop: 4 rows excluded by seller=brand" in caplog.text
    assert "colour" not in caplog.text
    assert blocks.lengths == [2, 1]  # the second group has no row left
    products = StreamedProducts([blocks])
    assert [row["row_id"] for row in products] == ["shop:0", "shop:2", "shop:6"]
    assert numbers(products.__getitems__([2, 0])) == [6, 0]


def test_the_first_rows_only(blocks):
    for max_rows, lengths in [(1, [1]), (3, [3]), (5, [3, 2]), (12, [3, 3, 1, 2, 2, 1]), (99, [3, 3, 1, 2, 2, 1])]:
        products = StreamedProducts([blocks], max_rows)
        assert products.block_lengths.tolist() == lengths
        assert len(products.block_bytes) == len(lengths)
        assert numbers(products) == list(range(min(max_rows, 12)))


def test_parts_of_several_kinds_are_one_stream(blocks):
    table = datasets.Dataset.from_dict(
        {"title": ["t"] * 250, "catalog_id": range(100, 350), "row_id": ["r"] * 250, "colour": ["red"] * 250}
    )
    products = StreamedProducts([blocks, TableBlocks(table)])
    assert products.column_names == ["title", "catalog_id", "row_id"]  # what both have
    assert products.block_lengths.tolist() == [3, 3, 1, 2, 2, 1, 100, 100, 50]
    assert numbers(products) == [*range(12), *range(100, 350)]
    assert numbers(products.__getitems__([261, 11, 12])) == [349, 11, 100]
    with pytest.raises(ValueError, match="there is no column 'image'. There are: title, catalog_id, row_id"):
        products.select_columns("image")


def test_files_must_be_parquet_of_the_same_columns(tmp_path):
    first = write(tmp_path / "0.parquet", range(2), 2, colour=["red", "blue"])
    second = write(tmp_path / "1.parquet", range(2), 2)
    with pytest.raises(ValueError, match="1.parquet has no column 'colour', which .*0.parquet has"):
        parquet_blocks([first, second])
    (tmp_path / "2.parquet").write_bytes(b"<html>404</html>" * 9)
    with pytest.raises(ValueError, match="2.parquet is not a parquet file"):
        parquet_blocks([str(tmp_path / "2.parquet")])


def test_files_are_read_wherever_fsspec_reaches(tmp_path):
    fsspec.filesystem("memory").put(write(tmp_path / "0.parquet", range(5), 2), "/blocks/0.parquet")
    products = StreamedProducts([parquet_blocks(["memory://blocks/0.parquet"])])
    assert numbers(products.__getitems__([4, 1])) == [4, 1]


def test_processes_that_share_a_stream_do_not_disturb_each_other(blocks):
    products = StreamedProducts([blocks])
    products.__getitems__([0])  # something was read before the processes part
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(copy.copy(products).__getitems__, [[i % 12] for i in range(48)], chunksize=1)
    assert [row["catalog_id"] for (row,) in found] == [i % 12 for i in range(48)]
    assert np.all(products.block_bytes > 0)
