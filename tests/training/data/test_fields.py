"""Several texts and images of an offer: read from any table, drawn by their weights, pooled in evaluation."""

import collections
import csv
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from modeling_eclip.processing_eclip import EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.embed import EmbedArguments
from training.arguments.parser import parse_arguments
from training.arguments.sources import parse_fields
from training.data.collator import ProductCollator
from training.data.columns import ProductColumns
from training.data.fields import draw_order, draw_text, row_images, row_texts
from training.data.fingerprint import data_fingerprint
from training.data.loaders import evaluation_loader, train_loader
from training.data.read_tables import load_products
from training.data.skipped_rows import SkipCounter
from training.data.sources import has_images, has_titles
from training.engine.build import load_split

COLOURS = ("red", "green", "blue", "white")
TEXTS = {"title": 1.0, "brand": 0.0, "description": 0.5, "joined": 2.0}
ROWS = [
    {"title": "Trail shoe", "brand": "Acme", "description": "Light.", "front": "red.png", "side": "green.png"},
    {"title": "Mug", "brand": None, "description": " ", "front": None, "side": "blue.png"},
    {"title": None, "brand": "Acme", "description": None, "front": "white.png", "side": None},
    {"title": "", "brand": None, "description": None, "front": None, "side": None},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and the rows as CSV, JSON Lines and parquet with paths, and as parquet with the images' bytes."""
    folder = tmp_path_factory.mktemp("fields")
    for colour in COLOURS:
        Image.new("RGB", (8, 8), colour).save(folder / f"{colour}.png")
    with (folder / "offers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    (folder / "offers.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "offers.parquet")
    pq.write_table(pa.Table.from_pylist([row | with_bytes(folder, row) for row in ROWS]), folder / "bytes.parquet")
    return folder


def with_bytes(folder, row):
    return {
        name: None if row[name] is None else {"bytes": (folder / row[name]).read_bytes(), "path": None}
        for name in ("front", "side")
    }


@pytest.fixture(scope="module")
def processor():
    image_processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    return EClipProcessor(image_processor, train_title_tokenizer(["trail shoe", "mug"], vocab_size=300))


def load(path, **settings):
    columns = ProductColumns(title=TEXTS, image={"front": 3.0, "side": 1.0})
    return load_products([str(path)], columns, **settings)


def rows_of(products):
    return products.__getitems__(list(range(len(products))))


def colour_of(image):
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))
    return {(255, 0, 0): "red", (0, 128, 0): "green", (0, 0, 255): "blue", (255, 255, 255): "white"}[pixel]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["offers.csv", "offers.jsonl", "offers.parquet", "bytes.parquet"])
def test_fields_are_read_from_any_table(folder, name, streaming):
    products = load(folder / name, streaming=streaming)
    shoe, mug, nameless, empty = rows_of(products)
    assert shoe["title"] == "Trail shoe | brand: Acme | description: Light."
    assert row_texts(shoe) == [("Trail shoe", 1.0), ("Acme", 0.0), ("Light.", 0.5), (shoe["title"], 2.0)]
    assert (mug["title"], row_texts(mug)) == ("Mug", [("Mug", 1.0), ("Mug", 2.0)])
    assert nameless["title"] == "brand: Acme"
    assert not empty["title"] and row_texts(empty) == []
    assert [[(colour_of(image), weight) for image, weight in row_images(row)] for row in (shoe, mug, nameless)] == [
        [("red", 3.0), ("green", 1.0)],
        [("blue", 1.0)],
        [("white", 3.0)],
    ]
    assert row_images(empty) == []
    assert shoe["brand"] == "Acme"  # kept: it may be a label, too
    if not streaming:
        assert has_titles(products).tolist() == has_images(products).tolist() == [True, True, True, False]
        assert has_images(products, in_files=True).tolist() == [name != "bytes.parquet"] * 3 + [False]
        assert has_images(products.select([3, 0]).skip(0)).tolist() == [False, True]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_cells_may_be_lists(folder, in_file, streaming):
    images = [["red.png", None, "green.png"], ["blue.png"], [], None]
    if in_file:
        images = [None if cell is None else [
            None if one is None else {"bytes": (folder / one).read_bytes(), "path": None} for one in cell
        ] for cell in images]  # fmt: skip
    table = {"title": ["a", "b", "c", None], "points": [["x", " ", "y"], None, ["z"], []], "photos": images}
    pq.write_table(pa.table(table), folder / "lists.parquet", row_group_size=2)
    products = load_products(
        [str(folder / "lists.parquet")],
        ProductColumns(title={"title": 1.0, "points": 1.0, "joined": 0.0}, image="photos"),
        streaming=streaming,
    )
    first, *others = rows_of(products)
    assert row_texts(first) == [("a", 1.0), ("x", 0.5), ("y", 0.5), ("a | points: x, y", 0.0)]
    assert [row["title"] for row in others] == ["b", "c | points: z", None]
    assert [(colour_of(image), weight) for image, weight in row_images(first)] == [("red", 0.5), ("green", 0.5)]
    assert [len(row_images(row)) for row in others] == [1, 0, 0]
    if not streaming:
        assert has_images(products).tolist() == [True, True, False, False]


def test_lists_and_single_images_are_joined_but_not_streamed(folder):
    pq.write_table(pa.table({"title": ["a"], "photos": ["red.png"]}), folder / "single.parquet")
    pq.write_table(pa.table({"title": ["b"], "photos": [["blue.png", "green.png"]]}), folder / "several.parquet")
    paths, columns = (
        [str(folder / f"{name}.parquet") for name in ("single", "several")],
        ProductColumns(image="photos"),
    )
    found = [[colour_of(image) for image, _ in row_images(row)] for row in load_products(paths, columns)]
    assert found == [["red"], ["blue", "green"]]
    with pytest.raises(ValueError, match="lists of texts or images in some files and single ones in others"):
        load_products(paths, columns, streaming=True)


def test_images_that_are_in_a_table_are_not_copied(folder):
    products = load(folder / "bytes.parquet")
    column = products.data.column("fields:images:1")
    source = datasets.Dataset.from_parquet(str(folder / "bytes.parquet")).data.column("side")
    assert column.chunk(0).flatten().field("bytes").to_pylist() == source.chunk(0).field("bytes").to_pylist()
    before = pa.total_allocated_bytes()
    pq.write_table(pa.table({"title": ["a"] * 50, "photos": [[bytes(100_000)]] * 50}), folder / "many.parquet")
    many = load_products([str(folder / "many.parquet")], ProductColumns(image="photos"))
    assert pa.total_allocated_bytes() - before < 1_000_000  # of 5 MB; the table is a file that is mapped into memory
    assert len(row_images(many[49])[0][0]["bytes"]) == 100_000


def test_sources_have_fields_of_their_own(folder):
    plain = {"name": ["Pen"], "picture": ["blue.png"]}
    pq.write_table(pa.table(plain), folder / "plain.parquet")
    sources = [
        json.dumps({"files": str(folder / "offers.parquet"), "text_columns": ["title", "brand"],
                    "image_columns": {"side": 1, "front": 2}}),
        json.dumps({"files": str(folder / "plain.parquet"), "title_column": "name", "image_column": "picture"}),
    ]  # fmt: skip
    products = load_split(DataArguments(train_data=sources), "train")
    shoe, pen = products[0], products[4]
    assert row_texts(shoe) == [("Trail shoe", 1.0), ("Acme", 1.0), ("Trail shoe | brand: Acme", 2.0)]
    assert [(colour_of(image), weight) for image, weight in row_images(shoe)] == [("green", 1.0), ("red", 2.0)]
    assert row_texts(pen) == [("Pen", 1.0)] and [colour_of(image) for image, _ in row_images(pen)] == ["blue"]
    one = load_split(DataArguments(train_data=[str(folder / "offers.parquet")], text_columns=["title", "brand"],
                                   image_columns=["side=1", "front=2"]), "train")  # fmt: skip
    assert [row_texts(row) for row in one] == [row_texts(row) for row in products.select(range(4))]


def test_a_column_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match=r"text_columns names 'colour'.*It has: .*brand.*Set text_columns to some"):
        load_products([str(folder / "offers.csv")], ProductColumns(title={"title": 1.0, "colour": 1.0}, image="front"))
    with pytest.raises(ValueError, match=r"image_columns names 'back'.*It has: .*front.*side"):
        load_products([str(folder / "offers.csv")], ProductColumns(image={"front": 1.0, "back": 1.0}))
    with pytest.raises(ValueError, match=r"image_columns names 'year'.*holds int64.*Name a column of images"):
        pq.write_table(pa.table({"title": ["a"], "year": [[1]], "front": ["red.png"]}), folder / "year.parquet")
        load_products([str(folder / "year.parquet")], ProductColumns(image={"front": 1.0, "year": 1.0}))


def test_fields_are_given_as_names_or_with_weights(tmp_path):
    assert parse_fields("text_columns", []) is None
    assert parse_fields("text_columns", ["title", "brand=0.5"]) == {"title": 1.0, "brand": 0.5, "joined": 1.5}
    assert parse_fields("text_columns", ['{"title": 1, "joined": 0}']) == {"title": 1.0, "joined": 0.0}
    assert parse_fields("image_columns", ["front", "side"]) == {"front": 1.0, "side": 1.0}
    config = tmp_path / "run.yaml"
    config.write_text("train_data: [a.csv]\ntext_columns: {title: 1, brand: 0.3}\nimage_columns: [front, side]\n")
    (arguments,) = parse_arguments((DataArguments,), ["--config", str(config)])
    assert parse_fields("text_columns", arguments.text_columns) == {"title": 1.0, "brand": 0.3, "joined": 1.3}
    (arguments,) = parse_arguments((DataArguments,), ["--train_data", "a.csv", "--image_columns", "front=2", "side"])
    assert parse_fields("image_columns", arguments.image_columns) == {"front": 2.0, "side": 1.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text_columns": ["title=-1"]}, r"`text_columns` gives 'title' the weight '-1'; give a number at least 0"),
        ({"text_columns": ["title=much"]}, r"gives 'title' the weight 'much'"),
        ({"image_columns": ["front=0"]}, r"gives 'front' the weight '0'; give a number above 0"),
        ({"text_columns": ["title", "title"]}, "names the column 'title' twice"),
        ({"text_columns": ["joined"]}, "names no column; name those that are joined"),
        ({"text_columns": ["title=0"]}, "nothing is ever drawn"),
        ({"text_columns": ["{title"]}, "no JSON object"),
        ({"text_columns": ["name"], "title_column": "name"}, "`title_column` is 'name'; give one of them"),
        ({"image_columns": ["a"], "image_column": "none"}, "`image_column` is 'none'; give one of them"),
    ],
)
def test_malformed_fields_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(train_data=["a.csv"], **given)
    with pytest.raises(ValueError, match=message):
        EmbedArguments(checkpoint="c", input=["a.csv"], **given)


def test_draws_follow_the_weights():
    counts = collections.Counter(draw_order([3.0, 1.0, 0.0], (7, position))[0] for position in range(4000))
    # Four standard deviations of the share of 4,000 draws of probability 3/4 are 0.027.
    assert counts[0] / 4000 == pytest.approx(0.75, abs=0.03) and counts[2] == 0
    seconds = collections.Counter(tuple(draw_order([3.0, 1.0, 1.0], (7, position))) for position in range(4000))
    assert len(seconds) == 6  # any order may come
    assert seconds[1, 2, 0] / 4000 == pytest.approx(1 / 5 * 1 / 4, abs=0.015)
    assert draw_order([1.0], (0,)) == [0]
    assert draw_text([("only in joined", 0.0), ("joined", 0.0)], (0, 0)) == "joined"


def many(folder, number=60):
    """A table of equal offers whose texts and images tell which was drawn."""
    path = folder / "equal.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS[0]] * number), path, row_group_size=8)
    return path


def train(products, processor, **settings):
    settings = {"batch_size": 12, "total_samples": 120, "seed": 5, "part_size": 5, **settings}
    return list(train_loader(products, processor, **settings))


@pytest.mark.parametrize("streaming", [False, True])
def test_one_text_and_one_image_are_drawn_at_each_visit(folder, processor, streaming):
    batches = train(load(many(folder), streaming=streaming), processor)
    titles = collections.Counter(title for batch in batches for title in batch["titles"])
    assert set(titles) == {"Trail shoe", "Light.", "Trail shoe | brand: Acme | description: Light."}
    assert "Acme" not in titles  # of weight 0: in the joined text alone
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    assert pixels.shape == (120, 3, 8, 8)  # one image each
    assert set(map(tuple, pixels[:, :, 0, 0].tolist())) == {(255, 0, 0), (0, 128, 0)}
    # In the order of the positions, the draws are what the seed says.
    texts = [1.0, 0.0, 0.5, 2.0]
    by_place = ["Trail shoe", "Acme", "Light.", "Trail shoe | brand: Acme | description: Light."]
    expected = [by_place[draw_order(texts, (5, position, 1))[0]] for position in range(120)]
    assert [title for batch in batches for title in batch["titles"]] == expected
    first, second = expected[:60], expected[60:]
    assert first != second  # another epoch draws anew


def test_draws_do_not_depend_on_workers_ranks_or_resumption(folder, processor):
    products = load(many(folder))
    whole = train(products, processor)
    titles = [title for batch in whole for title in batch["titles"]]
    pixels = torch.cat([batch["pixel_values"] for batch in whole])
    with_workers = train(products, processor, num_workers=2)
    ranks = [train(products, processor, rank=rank, num_ranks=2) for rank in range(2)]
    over_ranks = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    resumed = train(products, processor, start=36)
    for batches, start in ((with_workers, 0), (over_ranks, 0), (resumed, 36)):
        assert [title for batch in batches for title in batch["titles"]] == titles[start:]
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), pixels[start:])


def broken(folder):
    (folder / "torn.png").write_bytes((folder / "red.png").read_bytes()[:40])
    rows = [ROWS[0] | {"front": "torn.png"}, ROWS[0] | {"front": "torn.png", "side": "gone.png"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "broken.parquet")
    return load(folder / "broken.parquet")


def test_another_image_stands_for_a_broken_one_and_is_counted(folder, processor):
    rows = rows_of(broken(folder))
    collator = ProductCollator(processor, fields="drawn", seed=1)
    batches = [collator(rows, [2 * visit, 2 * visit + 1]) for visit in range(20)]
    counter = SkipCounter()
    for batch in batches:
        assert batch["pixel_values"][:, :, 0, 0].tolist() == [[0, 128, 0]]
        assert [row_id for row_id, _ in batch["skipped"]] == [rows[1]["row_id"]]
        counter.add(batch)
    expected = sum(draw_order([3.0, 1.0], (1, 2 * visit, 2))[0] == 0 for visit in range(20))
    assert 0 < expected < 20 and counter.passed_over.total() == expected
    assert f"images in whose place others stand: truncated {expected}" in counter.report()
    assert counter.num_skipped == 20  # those rows alone that have no image left
    again = SkipCounter()
    again.merge(counter.state_dict())
    assert again.report() == counter.report()


def test_evaluation_takes_the_joined_text_and_all_images(folder, processor):
    products = load(folder / "offers.parquet")
    (batch,) = evaluation_loader(products, processor, batch_size=4, all_images=True)
    assert batch["titles"] == ["Trail shoe | brand: Acme | description: Light.", "Mug", "brand: Acme"]
    assert batch["image_owners"].tolist() == [0, 0, 1, 2] and batch["image_weights"].tolist() == [3, 1, 1, 3]
    assert batch["pixel_values"].shape[0] == 4 and batch["input_ids"].shape[0] == 3
    (first,) = evaluation_loader(products, processor, batch_size=4)
    assert torch.equal(first["pixel_values"], batch["pixel_values"][[0, 2, 3]]) and "image_owners" not in first
    (both,) = evaluation_loader(products, processor, batch_size=4, all_images=True, modality="both")
    assert both["image_owners"].tolist() == [0, 0, 1, 2]
    (plain,) = evaluation_loader(
        load_products([str(folder / "offers.parquet")], ProductColumns(image="side")), processor, batch_size=4,
        all_images=True,
    )  # fmt: skip
    assert "image_owners" not in plain


def test_other_texts_or_image_files_are_other_data(folder):
    def told(**changes):
        rows = [ROWS[0] | changes]
        pq.write_table(pa.Table.from_pylist(rows), folder / "told.parquet")
        products = load(folder / "told.parquet")
        return data_fingerprint(products, [], "train")

    assert told() == told()
    assert told()["content"] != told(description="Heavy.")["content"]
    assert told()["files"] != told(side="blue.png")["files"]
    columns = ProductColumns(title=TEXTS | {"title": 9.0}, image="front")
    reweighted = load_products([str(folder / "told.parquet")], columns)
    assert data_fingerprint(reweighted, [], "train")["content"] != told(side="blue.png")["content"]
    assert np.isfinite(len(reweighted))
