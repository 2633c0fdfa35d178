"""Several sources with columns of their own become one table: what one lacks is null, and no id is another's."""

import json
import logging
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import MODEL, saved_weights, train_arguments
from PIL import Image

from modeling_eclip import EClipConfig
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.data.columns import CANONICAL_FEATURES
from training.data.fields import field_columns
from training.data.fingerprint import data_fingerprint
from training.data.sides import check_sides
from training.data.sources import has_images, has_titles
from training.engine.build import load_split
from training.engine.contrastive_training import train
from training.retrieval import retrieval_metrics
from training.retrieval.retrieval_metrics import mate_recall


@pytest.fixture
def files(tmp_path):
    """A shop with titles and images, a site with titles alone, and a folder of images without titles."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    png = (tmp_path / "red.png").read_bytes()
    image = {"bytes": png, "path": None}
    shop = {
        "title": ["red mug", "blue mug", None, "", "green mug", "old mug"],
        "image": [image, image, image, None, None, image],
        "catalog_id": [1, 1, 2, None, 2, 3],
        "colour": ["red", "blue", None, None, "green", "black"],
        "state": ["new"] * 5 + ["old"],
    }
    pq.write_table(pa.table(shop), tmp_path / "shop.parquet")
    site = {"name": [f"phone {i}" for i in range(6)], "product": [1, 1, 2, 2, 5, 6], "colour": [1, 2, 3, 4, 5, 6],
            "number": [f"{i}" for i in range(6)]}  # fmt: skip
    pq.write_table(pa.table(site), tmp_path / "site.parquet")
    pq.write_table(pa.table({"picture": ["red.png", "red.png"], "catalog_id": [1, 1]}), tmp_path / "pictures.parquet")
    return tmp_path


def entry(path, **fields):
    return json.dumps({"files": str(path), **fields})


def entries(files, **weights):
    return [
        entry(files / "shop.parquet", exclude_rows=["state=old"]),
        entry(files / "site.parquet", title_column="name", catalog_id_column="product", id_column="number", **weights),
        entry(files / "pictures.parquet", image_column="picture"),
    ]


def load(sources, **arguments):
    return load_split(DataArguments(train_data=sources, **arguments), "train")


def test_what_a_source_lacks_is_null(files, caplog):
    caplog.set_level(logging.INFO)
    table = load(entries(files, weight=2.0))
    assert has_titles(table).tolist() == [True, True, False, False, True] + [True] * 6 + [False] * 2
    assert has_images(table).tolist() == [True, True, True, False, False] + [False] * 6 + [True] * 2
    assert table["title"][5] == "phone 0" and table["title"][11] is None
    assert table["source:number"][:] == [0] * 5 + [1] * 6 + [2] * 2
    assert table["source:weight"][:] == [1.0] * 5 + [2.0] * 6 + [1.0] * 2
    assert "colour" not in table.column_names  # text here and numbers there
    assert "3 with a title, 3 with an image; 5 offers in 2 catalogs" in caplog.text
    assert "6 with a title, 0 with an image" in caplog.text and "weight 2" in caplog.text
    assert "no column 'image': the offers there have no image" in caplog.text
    # `select` leaves the images where they are; what is told of them goes along.
    rows = [12, 3, 0]
    assert has_images(table.select(rows)).tolist() == has_images(table)[rows].tolist()


def test_a_few_rows_of_a_mixture_are_of_all_its_sources(files):
    for number, counts in ((6, [2, 3, 1]), (13, [5, 6, 2]), (100, [5, 6, 2])):
        assert np.bincount(load(entries(files), max_train_rows=number)["source:number"]).tolist() == counts


def test_a_source_without_images_has_no_columns_of_several(files):
    names = load(entries(files)[:1] + [entry(files / "site.parquet", title_column="name", image_column="none")])
    assert not field_columns(names.column_names)


def test_the_same_id_in_two_sources_is_two_products(files):
    table = load(entries(files))
    ids = np.asarray(table["catalog_id"])
    of_shop, of_site, of_pictures = ids[:5], ids[5:11], ids[11:]
    assert (of_shop[0] == of_shop[1]) and of_shop[2] == of_shop[4] and of_shop[3] == -1
    assert of_site[0] == of_site[1] != of_site[2] == of_site[3]
    assert not set(of_shop) & set(of_site) and not set(of_site) & set(of_pictures)
    assert len(set(table["row_id"])) == len(table)
    assert table["row_id"][5] == f"{files / 'site.parquet'}: 0"
    # Files of one mapping are of one space, and so are entries that are plain text.
    pictures = {"image_column": "none"}
    together = json.dumps({"files": [str(files / "shop.parquet"), str(files / "pictures.parquet")], **pictures})
    found = np.asarray(load([entries(files)[1], together])["catalog_id"])
    assert found[6] == found[-1] != -1
    plain = load([str(files / "shop.parquet"), entries(files)[1], str(files / "shop.parquet")])
    assert plain["catalog_id"][:6] == plain["catalog_id"][6:12] == [1, 1, 2, -1, 2, 3]


def test_a_plain_source_alone_is_as_it_was(files):
    table = load([str(files / "shop.parquet")])
    assert "source:number" not in table.column_names
    assert table["catalog_id"][:] == [1, 1, 2, -1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_column": "photo"}, "image_column='photo': source .* has no such column"),
        ({"title_column": "titel"}, "title_column='titel': source .* has no such column"),
        ({"weights": 2}, "unknown key 'weights'; did you mean 'weight'"),
        ({"weight": 0}, "whose weight is 0; give a number above 0"),
        ({"weight": 1e9}, "whose weight is 1000000000.0; give a number above 0, up to 1,000"),
        ({"files": []}, "names no `files`"),
        ({"exclude_rows": 3}, "whose exclude_rows is 3; give text, or a list of it"),
        ({"id_column": 3}, "whose id_column is 3; give the name of a column"),
    ],
)
def test_errors_of_an_entry_name_it(files, fields, message):
    with pytest.raises(ValueError, match=message):
        load([json.dumps({"files": str(files / "shop.parquet"), **fields})])


def test_what_cannot_be_is_refused(files):
    with pytest.raises(ValueError, match="is no JSON object"):
        load(["{files: a.parquet}"])
    with pytest.raises(ValueError, match="`streaming` is true"):
        load(entries(files), streaming=True)
    with pytest.raises(ValueError, match="`validation_data` has a source of weight 2; each row counts once"):
        DataArguments(validation_data=[entry("a.parquet", weight=2)])
    with pytest.raises(ValueError, match="source .*pictures.parquet: 40 offers in 1 catalogs.*may hold"):
        pq.write_table(pa.table({"image": ["red.png"] * 40, "catalog_id": [7] * 40}), files / "pictures.parquet")
        load([str(files / "shop.parquet"), entry(files / "pictures.parquet")])


def test_weights_and_sources_are_part_of_the_fingerprint(files):
    paths = [str(files / name) for name in ("shop.parquet", "site.parquet", "pictures.parquet")]
    before = data_fingerprint(load(entries(files)), paths, "train")
    assert data_fingerprint(load(entries(files)), paths, "train") == before
    assert data_fingerprint(load(entries(files, weight=2.0)), paths, "train")["content"] != before["content"]
    Image.new("RGB", (9, 9)).save(files / "red.png")  # named by the last rows alone
    assert data_fingerprint(load(entries(files)), paths, "train")["files"] != before["files"]


def of(titles, images, catalog_ids):
    features = datasets.Features({name: CANONICAL_FEATURES[name] for name in ("title", "image", "catalog_id")})
    pictures = [{"bytes": b"x", "path": None} if image else None for image in images]
    return datasets.Dataset.from_dict(
        {"title": titles, "image": pictures, "catalog_id": catalog_ids}, features=features
    )


@pytest.mark.parametrize(
    ("titles", "images", "ids", "weight", "mates", "absent"),
    [
        (["a", "b"], [1, 1], [-1, -1], 0.0, "positive", None),
        (["a", "b"], [0, 0], [1, 1], 0.2, "positive", "image"),
        (["a", "b"], [0, 0], [1, 1], 0.0, "positive", "refused"),
        (["a", "b"], [0, 0], [1, 2], 0.2, "positive", "refused"),
        (["a", "b"], [0, 0], [-1, -1], 0.2, "positive", "refused"),
        ([None, ""], [1, 1], [3, 3], 0.2, "positive", "text"),
        # A title alone and an image alone of one product learn from each other, if mates are positives.
        (["a", None], [0, 1], [3, 3], 0.0, "positive", None),
        (["a", None], [0, 1], [3, 3], 0.0, "masked", "refused"),
    ],
)
def test_offers_that_have_nothing_to_learn_from_are_refused(titles, images, ids, weight, mates, absent):
    config = EClipConfig(catalog_mates=mates)
    if absent == "refused":
        with pytest.raises(ValueError, match="None has anything to learn from.*mate_contrast_weight"):
            check_sides(of(titles, images, ids), config, weight)
    else:
        assert check_sides(of(titles, images, ids), config, weight) == absent


def test_offers_without_a_mate_are_told(caplog):
    check_sides(of(["a", "b", "c"], [1, 0, 0], [-1, 5, 5]), EClipConfig(), 0.0)
    told = "2 training offers lack a side and have no catalog mate to learn from (`mate_contrast_weight` is 0"
    assert told in caplog.text


def test_mates_among_titles():
    embeds = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]), dim=1)
    metrics = mate_recall(embeds, torch.tensor([4, -1, 4, -1]), ranks=(1, 2))
    # The nearest other title of 0 is 1, and of 2 it is 1, too; then their mate.
    assert (metrics["title_mates_recall@1"], metrics["title_mates_recall@2"]) == (0.0, 1.0)
    assert metrics["title_mates_chance@1"] == pytest.approx(1 / 3)
    assert metrics["title_mates_chance@2"] == pytest.approx(2 / 3)
    images = mate_recall(embeds, torch.tensor([4, -1, 4, -1]), ranks=(2,), of="image")
    assert set(images) == {"image_mates_recall@2", "image_mates_chance@2"} and images["image_mates_recall@2"] == 1.0


def test_an_empty_place_among_the_nearest_is_no_mate(monkeypatch):
    nearest = torch.tensor([[1, -1], [0, -1], [0, -1]])
    monkeypatch.setattr(retrieval_metrics, "nearest_neighbors", lambda *_: (None, nearest))
    ids = torch.tensor([4, -1, 4])  # the place -1 would be that of the last
    assert mate_recall(torch.eye(3), ids, ranks=(2,))["title_mates_recall@2"] == 0.5  # of row 2 alone


def test_a_run_on_all_sources_resumes_and_one_on_titles_leaves_the_image_tower(files, tmp_path):
    toy = {"toy_offers": 80, "num_workers": 0, "validation_data": ["toy"]}
    mixed = DataArguments(train_data=[entry("toy"), *entries(files, weight=3.0)[1:]], **toy)
    arguments = {"mate_contrast_weight": 0.5, "image_stream_size": 3}
    result = train(MODEL, mixed, train_arguments(tmp_path / "run", **arguments))
    assert all(np.isfinite(record["loss"]) for record in result.history if "loss" in record)
    assert result.skips["num_rows"] == 64 and result.skips["reasons"] == {}
    resumed = {"resume_from_checkpoint": str(tmp_path / "run/checkpoint-32"), "overwrite_output_dir": True}
    stopped = train_arguments(tmp_path / "run", **arguments, **resumed)
    again = train(MODEL, mixed, stopped)
    losses = [[record["loss"] for record in run.history if "loss" in record] for run in (result, again)]
    assert losses[0] == losses[1]
    other = DataArguments(train_data=[entry("toy"), *entries(files, weight=2.0)[1:]], **toy)
    with pytest.raises(ValueError, match="training offers are not those"):
        train(MODEL, other, stopped)

    site = [str(files / "site.parquet")]
    titles = {"title_column": "name", "catalog_id_column": ["product"], "image_column": "none", "num_workers": 0}
    alone = DataArguments(train_data=site, validation_data=site, **titles)
    with pytest.raises(ValueError, match="mate_contrast_weight"):
        train(MODEL, alone, train_arguments(tmp_path / "titles"))
    result = train(MODEL, alone, train_arguments(tmp_path / "titles", overwrite_output_dir=True, **arguments))
    assert result.trained["title_mates_recall@1"] >= 0 and "text_to_image_recall@1" not in result.trained
    # Weight decay alone would have changed the rest.
    first, last = saved_weights(tmp_path / "titles/checkpoint-16"), saved_weights(tmp_path / "titles")
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"text_model", "text_projection", "logit_scale"}


def test_a_run_on_images_alone_leaves_the_title_tower(tmp_path):
    toy = DataArguments(train_data=["toy"], validation_data=["toy"], toy_offers=80, num_workers=0)
    settings = {"mate_contrast_weight": 0.5, "save_every_samples": 16}
    both = train(MODEL, toy, train_arguments(tmp_path / "both", **settings))
    assert "image_mates_recall@1" not in both.trained
    images = replace(toy, title_column="none")
    with pytest.raises(ValueError, match="not one title with text.*name a `text_tower`"):
        train(MODEL, images, train_arguments(tmp_path / "new", **settings))
    started = ModelArguments(checkpoint=str(tmp_path / "both"))
    with pytest.raises(ValueError, match="images without titles from its images"):
        train(started, images, train_arguments(tmp_path / "none"))
    result = train(started, images, train_arguments(tmp_path / "images", **settings))
    assert result.trained["image_mates_recall@1"] >= 0 and "text_to_image_recall@1" not in result.trained
    assert result.skips["reasons"] == {}
    assert (tmp_path / "images" / "history.png").is_file()
    first, last = saved_weights(tmp_path / "images/checkpoint-16"), saved_weights(tmp_path / "images")
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"vision_model", "visual_projection", "logit_scale"}


def pairs_file(folder, rows, name="pairs.csv"):
    (folder / name).write_text("left,right,label\n" + "\n".join(map(",".join, rows)) + "\n")
    return str(folder / name)


def test_pairs_of_titles_are_offers_whose_catalogs_are_what_pairs_connect(tmp_path, files):
    first = pairs_file(tmp_path, [("a", "b", "1"), ("c", "d", "0"), ("b", "e", "1"), ("c", "c", "1")])
    second = pairs_file(tmp_path, [("f", "d", "1"), ("g", "", "0")], "more.csv")
    source = json.dumps({"files": [first, second], "pairs": True, "weight": 0.5})
    products = load([source, str(files / "shop.parquet")]).select_columns(["title", "catalog_id", "source:weight"])
    rows = [row for row in products if row["source:weight"] < 1]
    catalog_of = {row["title"]: row["catalog_id"] for row in rows}
    assert sorted(row["title"] for row in rows) == list("abcdefg")  # each once, the empty one not
    assert catalog_of["a"] == catalog_of["b"] == catalog_of["e"] != catalog_of["d"] == catalog_of["f"]
    assert catalog_of["c"] == catalog_of["g"] == -1
    assert not set(catalog_of.values()) & {1, 2, 3}  # those of the shop


def test_a_missing_title_connects_no_pairs(tmp_path, files):
    path = pairs_file(tmp_path, [("a", "", "1"), ("", "b", "1"), ("c", " ", "1"), (" ", "d", "1"), ("a ", "e", "1")])
    products = load([entry(path, pairs=True), str(files / "shop.parquet")])
    catalog_of = dict(zip(products["title"][:5], products["catalog_id"][:5], strict=True))
    assert catalog_of["b"] == catalog_of["c"] == catalog_of["d"] == -1 != catalog_of["a"] == catalog_of["e"]


def test_files_of_pairs_are_found_by_patterns_and_a_missing_one_is_told(tmp_path, files):
    pairs_file(tmp_path, [("a", "b", "1")], "one-pairs.csv")
    pairs_file(tmp_path, [("b", "c", "1")], "two-pairs.csv")
    products = load([entry(f"{tmp_path}/*-pairs.csv", pairs=True), str(files / "shop.parquet")])
    catalog_of = dict(zip(products["title"], products["catalog_id"], strict=True))
    assert catalog_of["a"] == catalog_of["b"] == catalog_of["c"] != -1
    for name, message in [("./absent.csv", "does not exist"), ("owner/name", "is not a file")]:
        with pytest.raises(FileNotFoundError, match=message):
            load([entry(name, pairs=True), str(files / "shop.parquet")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": 1}, "whose pairs is 1; give true or false"),
        ({"pairs": True, "title_column": "name"}, "names 'title_column' beside pairs"),
    ],
)
def test_a_source_of_pairs_has_nothing_but_files_and_a_weight(tmp_path, fields, message):
    path = pairs_file(tmp_path, [("a", "b", "1")])
    with pytest.raises(ValueError, match=message):
        DataArguments(train_data=[json.dumps({"files": path} | fields)])


def test_a_key_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="the key 'files' comes twice"):
        DataArguments(train_data=['{"files": "a.csv", "files": "b.csv"}'])


def test_a_source_without_any_title_or_image_is_told_at_once(tmp_path, files):
    (tmp_path / "empty.csv").write_text("title,image,catalog_id\n,,1\n,,1\n")
    with pytest.raises(ValueError, match="empty.csv: none of its 2 rows has a title or an image"):
        load([entry(str(tmp_path / "empty.csv")), str(files / "shop.parquet")])
