"""Labels: classes found in the training products, other tables read by them, pairs, and labels in batches."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import ViTImageProcessorPil

from modeling_eclip import EClipProcessor
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from training.arguments.data import DataArguments
from training.data.collator import ProductCollator
from training.data.columns import CANONICAL_FEATURES
from training.data.loaders import evaluation_loader, train_loader
from training.data.pairs import load_pairs, load_title_pairs, pairs_of_catalogs
from training.engine.build import load_split
from training.tasks.category import CategoryLabels
from training.tasks.labels import NO_LABEL, read_labels
from training.tasks.registry import find_task


def table(**columns):
    number = len(next(iter(columns.values())))
    canonical = {"title": [f"t{i}" for i in range(number)], "image": [None] * number, "catalog_id": [-1] * number}
    canonical["row_id"] = [f"r{i}" for i in range(number)]
    types = {name: feature for name, feature in CANONICAL_FEATURES.items() if name not in columns}
    made = datasets.Dataset.from_dict({name: canonical[name] for name in types}, features=datasets.Features(types))
    return datasets.concatenate_datasets([made, datasets.Dataset.from_dict(columns)], axis=1)


@pytest.fixture(scope="module")
def processor():
    image_processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    return EClipProcessor(image_processor, train_title_tokenizer(["red shoes", "a blue shirt"], vocab_size=300))


@pytest.fixture(scope="module")
def toy():
    return load_split(DataArguments(train_data=["toy"], toy_offers=60), "train")


def test_leaves_are_found_in_order_and_read_from_lists_and_from_text():
    products = table(category=[["B", "b"], ["A"], None, ["A", "a"], ["B", "b"], []])
    labels = find_task("category").find_labels(products, DataArguments())
    assert labels.config_fields() == {"category_paths": [["A"], ["A", "a"], ["B", "b"]]}  # ragged, prefixes too
    found = read_labels(products, labels)
    assert found.labels.tolist() == [2, 0, NO_LABEL, 1, 2, NO_LABEL]
    assert found.row_ids == [f"r{i}" for i in range(6)]
    assert found.absent == {"category": 2}
    written = read_labels(table(category=["B > b", "A", "A>a", "C > c", "C>c"]), labels)
    assert written.labels.tolist() == [2, 0, 1, NO_LABEL, NO_LABEL]
    assert written.report() == "category: 2 with values that training has not seen (C > c 2)"


def test_each_attribute_has_its_own_values_and_its_own_gaps():
    products = table(colour=["red", None, "blue", " "], size=[2, 1, None, 2])
    labels = find_task("attributes").find_labels(products, DataArguments(attribute_columns=["colour", "size"]))
    assert labels.config_fields() == {"attributes": {"colour": ["blue", "red"], "size": ["1", "2"]}}
    found = read_labels(products, labels)
    assert found.labels.tolist() == [[1, 1], [NO_LABEL, 0], [0, NO_LABEL], [NO_LABEL, 1]]
    assert found.absent == {"colour": 2, "size": 1}
    assert labels.blank == [NO_LABEL, NO_LABEL]


@pytest.mark.parametrize(
    "values", [[1, 2, 1, None], [1.0, 2.0, 1.0, None], ["1", "2.0", "1", ""], [[1], [2], [1], []]]
)
def test_a_category_may_be_a_number(values):
    labels = find_task("category").find_labels(table(category=values), DataArguments())
    assert labels.paths == [["1"], ["2"]]
    assert read_labels(table(category=[2, 3]), labels).labels.tolist() == [1, NO_LABEL]


def test_a_whole_number_is_one_class_however_it_is_stored():
    columns = DataArguments(attribute_columns=["size"])
    labels = find_task("attributes").find_labels(table(size=[40.0, 41.5, None]), columns)
    assert labels.classes == {"size": ["40", "41.5"]}
    for stored in ([40, 41], ["40", "41.5"], ["40.0", "41.5"], [[40], []]):
        assert read_labels(table(size=stored), labels).labels[0].tolist() == [0]


def test_an_attribute_in_a_list_is_its_one_value():
    columns = DataArguments(attribute_columns=["colour"])
    labels = find_task("attributes").find_labels(table(colour=[["red"], ["blue", None], None, []]), columns)
    assert labels.classes == {"colour": ["blue", "red"]}
    with pytest.raises(ValueError, match=r"column 'colour' holds \['red', 'blue'\].*one value is wanted"):
        read_labels(table(colour=[["red", "blue"]]), labels)


def test_restricted_products_are_told_by_booleans_numbers_or_words():
    labels = find_task("adult").find_labels(table(restricted=[True, False, None]), DataArguments())
    assert read_labels(table(restricted=[True, False, None]), labels).labels.tolist() == [1, 0, NO_LABEL]
    assert read_labels(table(restricted=["yes", "False"]), labels).labels.tolist() == [1, 0]
    assert read_labels(table(restricted=[1.0, float("nan")]), labels).labels.tolist() == [1, NO_LABEL]
    assert read_labels(table(restricted=["1.0", "0", ""]), labels).labels.tolist() == [1, 0, NO_LABEL]  # as in CSV
    with pytest.raises(ValueError, match="'perhaps'; give true and false"):
        read_labels(table(restricted=["perhaps"]), labels)


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("category", {"kind": ["a", "b"]}, "`category_column` names 'category', which the products have not"),
        ("category", {"category": ["a", "a"]}, "'category' holds 1 different values"),
        ("attributes", {"colour": ["a", "b"]}, "`attribute_columns` is empty"),
        ("adult", {"restricted": [False, False]}, "'restricted' holds 1 different values"),
        ("category", {"category": ["a", "sent to review"]}, "'category' holds the label 'sent to review'"),
        ("clustering", {"x": [1, 2]}, "no two offers are of one product"),
    ],
)
def test_what_can_not_be_learned_from_is_refused(task, columns, message):
    with pytest.raises(ValueError, match=message):
        find_task(task).find_labels(table(**columns), DataArguments(train_data=["products.parquet"]))


def test_labels_pass_with_their_rows_through_the_loader(processor, toy):
    labels = find_task("category").find_labels(toy, DataArguments())
    expected = dict(zip(toy["row_id"], read_labels(toy, labels).labels.tolist(), strict=True))
    assert set(expected.values()) == set(range(len(labels.paths)))
    settings = {"modality": "text", "labels": labels, "batch_size": 7}
    for loader in (
        train_loader(toy, processor, total_samples=20, seed=3, **settings),
        evaluation_loader(toy, processor, **settings),
    ):
        batch = next(iter(loader))
        assert batch["labels"].tolist() == [expected[row_id] for row_id in batch["row_ids"]]
        assert "pixel_values" not in batch  # no image is opened for titles


def test_a_row_with_one_modality_is_used_where_a_task_looks_at_both(processor, toy):
    image = toy[0]["image"]
    row = {"catalog_id": -1, "title": "red shoes", "image": image}
    rows = [
        {**row, "row_id": "whole"},
        {**row, "row_id": "no title", "title": " "},
        {**row, "row_id": "no image", "image": None},
        {**row, "row_id": "neither", "image": None, "title": None},
    ]
    batch = ProductCollator(processor, modality="both")(rows, range(4))
    assert batch["row_ids"] == ["whole", "no title", "no image"]
    assert batch["has_text"].tolist() == [True, False, True]
    assert batch["has_image"].tolist() == [True, True, False]
    assert batch["pixel_values"].shape[0] == batch["input_ids"].shape[0] == 3
    assert batch["skipped"] == [("neither", "empty_title")]
    assert ProductCollator(processor, modality="image")(rows, range(4))["row_ids"] == ["whole", "no title"]
    assert ProductCollator(processor, modality="text")(rows, range(4))["row_ids"] == ["whole", "no image"]
    assert ProductCollator(processor)(rows, range(4))["row_ids"] == ["whole"]  # pre-training needs both


def test_a_share_without_rows_has_a_placeholder_row_without_a_label(processor):
    batch = ProductCollator(processor, modality="both", labels=CategoryLabels(["category"], [["a"]]))([], [])
    assert batch["row_ids"] == [] and batch["labels"].tolist() == [NO_LABEL]
    assert batch["has_text"].tolist() == batch["has_image"].tolist() == [True]


def test_frozen_vectors_tell_which_modalities_a_row_has(processor):
    row = {"catalog_id": -1, "title": "red shoes", "row_id": "r", "image_pooler_output": None}
    collator = ProductCollator(processor, modality="both", frozen_widths={"image_pooler_output": 3})
    batch = collator([row, {**row, "image_pooler_output": [1.0, 2.0, 3.0]}], range(2))
    assert batch["has_image"].tolist() == [False, True]
    assert batch["image_pooler_output"].tolist() == [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]


def write_pairs(path, left, right, label):
    pq.write_table(pa.table({"left": left, "right": right, "label": label}), path)
    return str(path)


def test_pairs_of_ids_and_their_batches(processor, toy, tmp_path):
    products = toy.select(range(4))
    ids = products["row_id"]
    path = write_pairs(tmp_path / "p.parquet", [ids[0], ids[1], "gone"], [ids[2], ids[3], ids[0]], [1, 0, 1])
    pairs = load_pairs(path, products)
    assert (pairs.left.tolist(), pairs.right.tolist(), pairs.labels.tolist()) == ([0, 1], [2, 3], [1, 0])
    (batch,) = evaluation_loader(pairs, processor, batch_size=4, modality="both")
    assert batch["labels"].tolist() == [1, 0]
    assert batch["pixel_values"].shape == (2, 2, 3, 8, 8) and batch["has_image"].shape == (2, 2)
    titles = processor.batch_decode(batch["input_ids"].flatten(0, 1), skip_special_tokens=True)
    alone = processor(text=[products[row]["title"] for row in (0, 2, 1, 3)], return_tensors="pt")["input_ids"]
    assert titles == processor.batch_decode(alone, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        (["00012345", "12345"], ["00012345", "12345"]),
        (["4006381333931", "4006381333955"], [4006381333931, 4006381333955]),
        (["4006381333931", "4006381333955"], [4006381333931.0, 4006381333955.0]),  # of a column with a gap
        (["ff01", "ab"], [b"\xff\x01", b"ab"]),
    ],
)
def test_ids_of_pairs_are_written_as_those_of_products(tmp_path, ids, named):
    products = table(row_id=ids, category=["a", "b"])
    pairs = load_pairs(write_pairs(tmp_path / "p.parquet", named[:1], named[1:], [1]), products)
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0], [1])


def test_pairs_may_be_csv(tmp_path):
    products = table(row_id=["007", "NA"], category=["a", "b"])
    (tmp_path / "p.csv").write_text("left,right,label\n007,NA,1\n7,NA,0\nNA,007,0.0\n")
    pairs = load_pairs(str(tmp_path / "p.csv"), products)
    assert (pairs.left.tolist(), pairs.right.tolist(), pairs.labels.tolist()) == ([0, 1], [1, 0], [1, 0])


def test_a_pair_of_an_id_that_several_rows_have_is_refused(tmp_path):
    products = table(row_id=["a", "b", "a"], category=["x", "y", "z"])
    with pytest.raises(ValueError, match="names the product 'a', but 2 rows have that id"):
        load_pairs(write_pairs(tmp_path / "p.parquet", ["a"], ["b"], [1]), products)


def test_a_pair_with_an_unusable_product_is_skipped(processor, toy, tmp_path):
    products = table(category=["a", "b", "c"])  # no images
    pairs = load_pairs(write_pairs(tmp_path / "p.parquet", ["r0"], ["r1"], [1]), products)
    (batch,) = evaluation_loader(pairs, processor, batch_size=4, modality="image")
    assert batch["row_ids"] == [] and batch["labels"].tolist() == [NO_LABEL]
    assert batch["skipped"] == [("r0 | r1", "missing")] and batch["pixel_values"].shape[:2] == (1, 2)
    (batch,) = evaluation_loader(pairs, processor, batch_size=4, modality="both")
    assert batch["has_image"].tolist() == [[False, False]]


def test_pairs_may_hold_the_titles_themselves(tmp_path):
    path = write_pairs(tmp_path / "p.parquet", ["a", "b", "a"], ["b", None, "c"], [1, 0, 0])
    pairs = load_title_pairs(path)
    assert pairs.products["title"][:] == ["a", "b", "", "c"]
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 1, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="int64 as 'left' and no titles"):
        load_title_pairs(write_pairs(tmp_path / "q.parquet", [1], [2], [1]))


def test_wrong_pairs_are_refused(tmp_path, toy):
    with pytest.raises(ValueError, match="labels \\['2'\\]"):
        load_pairs(write_pairs(tmp_path / "p.parquet", ["a"], ["b"], [2]), toy)
    with pytest.raises(ValueError, match="no pair of .* names two of the products"):
        load_pairs(write_pairs(tmp_path / "q.parquet", ["a"], ["b"], [1]), toy)


def test_pairs_derived_from_catalogs():
    products = table(catalog_id=[7, 7, 7, 8, 8, -1, -1, 9], category=["a", "a", "a", "a", "b", "b", "b", "a"])
    pairs = pairs_of_catalogs(products, seed=0, negatives=4, group_column="category")
    ids = np.asarray(products["catalog_id"])
    same = ids[pairs.left] == ids[pairs.right]
    assert torch.equal(torch.from_numpy(same), torch.from_numpy(pairs.labels == 1))
    assert list(zip(pairs.left[:3], pairs.right[:3], strict=True)) == [(0, 1), (1, 2), (3, 4)]
    assert 0 < (pairs.labels == 0).sum() <= 12
    again = pairs_of_catalogs(products, seed=0, negatives=4, group_column="category")
    assert np.array_equal(pairs.right, again.right)
    with pytest.raises(ValueError, match="share a catalog"):
        pairs_of_catalogs(table(x=[1, 2]), seed=0)
