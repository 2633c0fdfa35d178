"""Metrics of shorter embeddings: by hand, and as a user gets them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.arguments.embedding_sizes import SizesArguments
from training.embedding.embedding_sizes import measure_sizes

pytest.importorskip("faiss")


def write(folder, text, image, **columns):
    def vectors(values):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

    number = len(text)
    given = {"has_text": [True] * number, "has_image": [True] * number, "catalog_id": pa.nulls(number, pa.int64())}
    table = pa.table({**given, **columns, "text_embeds": vectors(text), "image_embeds": vectors(image)})
    half = number // 2
    for place, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"embeddings-{place:05}-of-00002.parquet")


def products(number=200, dim=64):
    dice = np.random.default_rng(0)
    image = dice.standard_normal((number, dim)) * np.linspace(1.5, 0.5, dim)
    text = image + 0.5 * dice.standard_normal((number, dim))
    return [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in (text, image)]


def test_whole_vectors_keep_everything_and_short_ones_less(tmp_path):
    text, image = products()
    write(tmp_path, text, image)
    rows = measure_sizes(SizesArguments(embeddings=str(tmp_path), dims=[16, 64], candidates=[10, 200]))
    found = {(row["dim"], row["form"]): row for row in rows}
    assert len(found) == 8 and json.loads((tmp_path / "sizes.json").read_text()) == rows
    whole = found[64, "float32"]
    assert whole["neighbors"] == 1.0 and whole["bytes"] == 256 and whole["recall@1"] > 0.9
    assert found[16, "float32"]["neighbors"] < 1 and found[16, "float32"]["bytes"] == 64
    assert found[64, "1 bit"]["bytes"] == 8 and 0.2 < found[64, "1 bit"]["neighbors"] < 0.9
    for dim in (16, 64):
        assert found[dim, "1 bit, 200 re-scored"]["neighbors"] == 1.0, "all of them"
        assert found[dim, "1 bit, 10 re-scored"]["neighbors"] < 1


def test_recall_of_a_size_by_hand(tmp_path):
    """Cut to one value, the first two products look the same; ties are not won."""
    image = np.array([[0.6, 0.8], [0.8, -0.6], [-1.0, 0.0]], dtype=np.float32)
    write(tmp_path, image, image)
    rows = measure_sizes(SizesArguments(embeddings=str(tmp_path), dims=[1, 2], candidates=[]))
    recalls = {row["dim"]: row["recall@1"] for row in rows if row["form"] == "float32"}
    assert recalls == {2: 1.0, 1: pytest.approx(1 / 3)}


def test_products_with_one_modality_are_left_out(tmp_path):
    text, image = products(20)
    write(tmp_path, text, image, has_text=[False] * 20)
    with pytest.raises(ValueError, match="both a title and an image"):
        measure_sizes(SizesArguments(embeddings=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="embed.py"):
        measure_sizes(SizesArguments(embeddings=str(tmp_path / "none")))
    write(tmp_path, text, image)
    with pytest.raises(ValueError, match="`dims` holds 65"):
        measure_sizes(SizesArguments(embeddings=str(tmp_path), dims=[65]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_queries": 0}, "`max_queries` is 0; give at least 1"),
        ({"candidates": [20, 0]}, "`candidates` holds 0; give"),
    ],
)
def test_a_search_for_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SizesArguments(**fields)
