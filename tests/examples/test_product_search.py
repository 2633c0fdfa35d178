"""Search in a table on disk: what is near, what filters leave, what is left out, and when it is built anew."""

import io
import threading

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TRANSFORMER, VIT
from PIL import Image
from transformers import ViTImageProcessorPil

pytest.importorskip("lancedb")

from examples.demo.product_search import (  # noqa: E402
    ProductEmbedder,
    ProductTable,
    index_vectors,
    nearest_rows,
    product_schema,
)
from modeling_eclip import EClipConfig, EClipModel, EClipProcessor  # noqa: E402
from modeling_eclip.fitting.tokenizer import train_title_tokenizer  # noqa: E402


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "JPEG")
    return file.getvalue()


PRODUCTS = [
    {"id": "a", "title": "red shoes", "image": jpeg("red"), "category": ["Women's", "Shoes"], "colour": "red"},
    {"id": "b", "title": "blue shoes", "image": jpeg("blue"), "category": ["Women's", "Shoes"], "colour": "blue"},
    {"id": "c", "title": "red hat", "image": None, "category": ["Women's", "Shoes and hats"], "colour": "red"},
    {"id": "d", "title": None, "image": jpeg("green"), "category": None, "colour": None},
    {"id": "e", "title": " ", "image": None, "category": None, "colour": None},
    {"id": "f", "title": "broken", "image": b"\xff\xd8\xff nothing", "category": None, "colour": None},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_title_tokenizer(["red shoes", "a blue shirt", "a red square"], vocab_size=300)
    torch.manual_seed(0)
    text = {"model_type": "bert", **TRANSFORMER, "vocab_size": len(tokenizer)}
    config = EClipConfig(vision_config={"model_type": "vit", **VIT}, text_config=text, projection_dim=16)
    EClipModel(config).save_pretrained(folder)
    EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return ProductEmbedder(checkpoint)


@pytest.fixture(scope="module")
def table(embedder, tmp_path_factory):
    return ProductTable.build(str(tmp_path_factory.mktemp("search")), embedder, PRODUCTS, batch_size=2)


def test_what_cannot_be_used_is_left_out_and_counted(embedder, tmp_path, capsys):
    table = ProductTable.build(str(tmp_path), embedder, PRODUCTS)
    assert sorted(row["id"] for row in table.table.to_arrow().to_pylist()) == ["a", "b", "c", "d"]
    told = capsys.readouterr().err
    assert "2 products left out" in told and "1 x truncated" in told and "1 x neither title nor image" in told
    with pytest.raises(ValueError, match="no product could be used"):
        ProductTable.build(str(tmp_path), embedder, PRODUCTS[4:])


def test_an_image_that_takes_too_long_is_given_up(embedder, monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr(embedder, "_load", lambda image: may_end.wait(60))
    monkeypatch.setattr("examples.demo.product_search._IMAGE_SECONDS", 0.05)
    with pytest.raises(ValueError, match="0.05 seconds to read"):
        embedder.load_image(b"")
    may_end.set()


def test_cells_of_real_tables_are_taken_as_text_or_as_nothing(embedder, tmp_path):
    nothing = float("nan")
    odd = [
        {"title": nothing, "image": jpeg("red"), "category": nothing, "colour": nothing, "id": nothing},
        {"title": 3, "image": nothing, "category": 5, "colour": 7},
        {"title": "half \ud83d", "image": None, "category": ["x", None], "colour": "red"},
        {"title": nothing, "image": nothing},
    ]
    table = ProductTable.build(str(tmp_path), embedder, odd)
    rows = sorted(table.table.to_arrow().to_pylist(), key=lambda row: row["title"])
    assert [(row["title"], row["category"], row["colour"]) for row in rows] == [
        ("", None, None),
        ("3", "5", "7"),
        ("half \ufffd", "x", "red"),
    ]
    assert [row["id"] for row in rows] == ["0", "1", "2"]


def test_similarity_is_the_cosine_of_the_means_of_title_and_image(table, checkpoint):
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        outputs = model(**processor(text=["red shoes"], images=[jpeg("red")], return_tensors="pt"))
    text, image = outputs.text_embeds[0].numpy(), outputs.image_embeds[0].numpy()
    product = (text + image) / np.linalg.norm(text + image)

    def similarity_of_a(**question):
        return next(row["similarity"] for row in table.search(**question) if row["id"] == "a")

    assert similarity_of_a(text="red shoes") == pytest.approx(text @ product, abs=1e-5)
    assert similarity_of_a(image=jpeg("red")) == pytest.approx(image @ product, abs=1e-5)
    assert similarity_of_a(text="red shoes", image=jpeg("red")) == pytest.approx(1, abs=1e-5)


def test_the_nearest_come_first_and_no_more_than_wished(table):
    found = table.search("red hat")  # which has no image: its vector is that of its title
    assert found[0]["id"] == "c" and found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    similarities = [row["similarity"] for row in found]
    assert len(found) == 4 and similarities == sorted(similarities, reverse=True)
    assert [row["id"] for row in table.search("red hat", limit=1)] == ["c"]
    assert table.search(image=jpeg("green"))[0]["id"] == "d"
    assert "vector" not in found[0] and found[0]["thumbnail"] is None
    assert Image.open(io.BytesIO(table.search(image=jpeg("green"))[0]["thumbnail"])).size == (40, 30)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"category": "Women's"}, "abc"),
        ({"category": "Women's > Shoes"}, "ab"),  # and not "Shoes and hats"
        ({"colour": "red"}, "ac"),
        ({"category": "Women's > Shoes", "colour": "red"}, "a"),
        ({"colour": "' OR 1=1 OR colour = '"}, ""),
        ({"category": "Shoes"}, ""),
    ],
)
def test_filters(table, filters, expected):
    assert sorted(row["id"] for row in table.search("shoes", **filters)) == list(expected)


def test_choices_name_every_level(table):
    assert table.choices("category") == ["Women's", "Women's > Shoes", "Women's > Shoes and hats"]
    assert table.choices("colour") == ["blue", "red"]


def test_nothing_and_what_is_no_image_are_refused(table):
    with pytest.raises(ValueError, match="neither a title nor an image"):
        table.search("  ")
    with pytest.raises(ValueError, match="not an image"):
        table.search(image=b"hello")


def test_a_table_is_built_once_for_a_model_and_a_content(embedder, checkpoint, tmp_path, monkeypatch):
    parquet = tmp_path / "products.parquet"
    pq.write_table(pa.Table.from_pylist(PRODUCTS[:3]), parquet)
    assert len(ProductTable.open_or_build(str(tmp_path / "db"), embedder, str(parquet))) == 3

    with monkeypatch.context() as patch:
        patch.setattr(ProductTable, "build", None)
        assert len(ProductTable.open_or_build(str(tmp_path / "db"), embedder, str(parquet))) == 3
    other = ProductEmbedder(checkpoint)
    other.model.logit_scale.data += 1
    pq.write_table(pa.Table.from_pylist(PRODUCTS[:2]), tmp_path / "fewer.parquet")
    for embedder_, file, rows in ((other, parquet, 3), (embedder, tmp_path / "fewer.parquet", 2)):
        before = len(lancedb.connect(str(tmp_path / "db")).list_tables().tables)
        assert len(ProductTable.open_or_build(str(tmp_path / "db"), embedder_, str(file))) == rows
        assert len(lancedb.connect(str(tmp_path / "db")).list_tables().tables) == before + 1


def test_a_model_of_another_width_is_refused(embedder, tmp_path):
    table = lancedb.connect(str(tmp_path)).create_table("products", schema=product_schema(32))
    with pytest.raises(ValueError, match="32 numbers, the checkpoint makes 16"):
        ProductTable(table, embedder)


def test_the_index_finds_what_comparing_with_all_finds(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 64), dtype=np.float32)
    vectors = centres[rng.integers(40, size=3000)] + 0.5 * rng.standard_normal((3000, 64), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        {"id": str(row), "colour": "red" if row % 3 else "blue", "vector": vector}
        for row, vector in enumerate(vectors)
    ]
    table = lancedb.connect(str(tmp_path)).create_table(
        "products", data=pa.Table.from_pylist(rows, schema=product_schema(64))
    )
    index_vectors(table)
    assert table.list_indices()[0].index_type == "IvfRq"
    hits = 0
    for query in vectors[:50]:
        expected = np.argsort(-(vectors @ query), kind="stable")[:10]
        found = nearest_rows(table, query, 10)
        hits += len({int(row["id"]) for row in found} & set(expected.tolist()))
        assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert hits >= 0.95 * 500
    blue = nearest_rows(table, vectors[0], 10, where="colour = 'blue'")
    expected = [row for row in np.argsort(-(vectors @ vectors[0]), kind="stable").tolist() if row % 3 == 0][:10]
    assert len({int(row["id"]) for row in blue} & set(expected)) >= 9
