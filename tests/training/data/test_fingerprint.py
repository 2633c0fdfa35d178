"""The fingerprint of data differs where a run would see something else, and says where."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.fingerprint import data_fingerprint
from training.data.pairs import ProductPairs
from training.data.read_tables import load_products


def write(folder, rows=3, **columns):
    table = {"title": [f"mug {row}" for row in range(rows)], "image": ["a.jpg"] * rows, "colour": ["red"] * rows}
    pq.write_table(pa.table(table | columns), folder / "offers.parquet")
    return [str(folder / "offers.parquet")]


def fingerprint(sources, columns=(), **settings):
    return data_fingerprint(load_products(sources, **settings), sources, "train", columns)


def differing(one, other):
    return [name for name in one if one[name] != other[name]]


@pytest.mark.parametrize(
    ("changed", "columns", "where"),
    [
        ({"rows": 4}, (), ["rows", "content", "files"]),
        ({"title": ["mug 0", "mug 1", "cup"]}, (), ["content", "files"]),
        ({"title": ["mug 1", "mug 0", "mug 2"]}, (), ["content", "files"]),
        ({"catalog_id": [1, 1, 2]}, (), ["content", "files"]),
        ({"colour": ["red", "red", "blue"]}, ("colour",), ["content", "files"]),
        ({"colour": ["red", "red", "blue"]}, (), ["files"]),
    ],
)
def test_changes_are_seen(tmp_path, changed, columns, where):
    before = fingerprint(write(tmp_path), columns)
    assert fingerprint([str(tmp_path / "offers.parquet")], columns) == before
    assert differing(before, fingerprint(write(tmp_path, **changed), columns)) == where


def test_image_files_are_looked_at_and_images_in_tables_are_not_read(tmp_path):
    sources = write(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"one")
    before = fingerprint(sources)
    (tmp_path / "a.jpg").write_bytes(b"another")
    assert differing(before, fingerprint(sources)) == ["files"]
    sources = write(tmp_path, image=pa.array([b"not an image"] * 3))
    before = fingerprint(sources)
    os.utime(tmp_path / "offers.parquet", ns=(0, 0))
    assert differing(before, fingerprint(sources)) == ["files"]


def test_streams_and_pairs_have_one(tmp_path):
    sources = write(tmp_path)
    before = fingerprint(sources, streaming=True)
    assert differing(before, fingerprint(write(tmp_path, rows=4), streaming=True)) == ["rows", "content", "files"]
    products = load_products(sources)
    left, right, labels = np.array([0, 1]), np.array([1, 2]), np.array([1, 0])
    one = data_fingerprint(ProductPairs(products, left, right, labels), sources, "train")
    other = data_fingerprint(ProductPairs(products, left, right, 1 - labels), sources, "train")
    assert one["rows"] == 2 and differing(one, other) == ["content"]
