import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict

import datasets
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from modeling_eclip.toy import FEATURES, draw_catalog_sheet, generate_offers, toy_catalog
from modeling_eclip.toy.__main__ import main
from modeling_eclip.toy.drawing import SILHOUETTES, draw_product
from modeling_eclip.toy.pen import COLOURS, PATTERNS
from modeling_eclip.toy.products import KINDS, generate_products

NUM_OFFERS = 1500  # about 640 products: 20 of each kind
IMAGE_SIZE = 48


@pytest.fixture(scope="module")
def offers():
    return list(generate_offers(NUM_OFFERS, seed=3, image_size=IMAGE_SIZE))


@pytest.fixture(scope="module")
def catalogs(offers):
    """Offers of the products that several sellers list."""
    grouped = defaultdict(list)
    for offer in offers:
        if offer["catalog_id"] is not None:
            grouped[offer["catalog_id"]].append(offer)
    return grouped


def _environment(hash_seed):
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}


def test_same_seed_gives_the_same_bytes_in_every_process():
    code = (
        "import hashlib\n"
        "from modeling_eclip.toy.catalog import generate_offers\n"
        "rows = [repr(sorted(row.items())) for row in generate_offers(60, seed=5, image_size=48)]\n"
        "print(hashlib.sha256(''.join(rows).encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env=_environment(seed), capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    here = "".join(repr(sorted(row.items())) for row in generate_offers(60, seed=5, image_size=48))
    assert digests == {hashlib.sha256(here.encode()).hexdigest()}


def test_another_seed_gives_other_offers():
    first, second = (list(generate_offers(40, seed=seed, image_size=48)) for seed in (0, 1))
    assert {row["title"] for row in first}.isdisjoint(row["title"] for row in second)


def test_more_offers_start_with_the_same_ones():
    # The last product of the fewer ones may be cut short, which changes it.
    assert list(generate_offers(40, image_size=48))[:34] == list(generate_offers(80, image_size=48))[:34]


def test_rows_have_the_documented_columns(offers):
    assert len(offers) == NUM_OFFERS
    assert all(list(row) == list(FEATURES) for row in offers)
    assert [row["offer_id"] for row in offers] == list(range(NUM_OFFERS))
    for row in offers[:50]:
        root, middle, leaf = row["category"]
        assert KINDS[leaf].category == (root, middle, leaf)
        assert row["colour"] in COLOURS
        assert row["pattern"] in PATTERNS


def test_products_of_a_single_seller_have_no_catalog(offers, catalogs):
    single = sum(row["catalog_id"] is None for row in offers)
    assert all(2 <= len(group) <= 5 for group in catalogs.values())
    # 34 % of the products, 1 of 2.34 offers each.
    assert 0.09 < single / NUM_OFFERS < 0.2


def test_offers_of_a_catalog_are_of_one_product(catalogs):
    for group in catalogs.values():
        for column in ("category", "colour", "pattern", "brand", "restricted"):
            assert all(row[column] == group[0][column] for row in group)


def test_sellers_word_and_photograph_a_product_differently(catalogs):
    for group in catalogs.values():
        assert len({row["seller"] for row in group}) == len(group)
        assert len({row["image"]["bytes"] for row in group}) == len(group)
        assert group[0]["seller"] == group[0]["brand"]
    differing = [len({row["title"].lower() for row in group}) == len(group) for group in catalogs.values()]
    assert np.mean(differing) > 0.98


def test_titles_are_short_lists_of_words(offers):
    lengths = [len(row["title"].split()) for row in offers]
    assert min(lengths) >= 1
    assert max(lengths) <= 16
    assert 5 < np.mean(lengths) < 9


def test_titles_mostly_name_kind_colour_and_pattern(offers):
    brand_listings = [row for row in offers if row["seller"] == row["brand"]]
    assert brand_listings
    for row in brand_listings:
        assert row["title"].startswith(row["brand"])
        assert row["title"].endswith(f"{row['category'][-1]}, {row['colour'].title()}")
    others = [row for row in offers if row["seller"] != row["brand"]]
    named = [any(name in row["title"].lower() for name in KINDS[row["category"][-1]].names) for row in others]
    assert np.mean(named) > 0.95


def test_restricted_products_are_rare(offers):
    products = {
        row["catalog_id"] if row["catalog_id"] is not None else -row["offer_id"]: row["restricted"] for row in offers
    }
    assert 0.025 < np.mean(list(products.values())) < 0.036
    assert all(row["restricted"] == (row["category"][0] == "Adult") for row in offers)


def test_every_kind_and_every_look_occurs(offers):
    assert set(SILHOUETTES) == set(KINDS)
    assert {row["category"][-1] for row in offers} == set(KINDS)
    assert {(row["colour"], row["pattern"]) for row in offers} == {(c, p) for c in COLOURS for p in PATTERNS}
    assert len({row["category"][0] for row in offers}) >= 6


def test_no_look_of_a_kind_returns_before_all_were_used():
    products = generate_products(0)
    looks = Counter((p.kind, p.colour, p.pattern) for p in (next(products) for _ in range(1200)))
    assert max(looks.values()) == 1


def test_some_products_differ_in_look_alone():
    products = generate_products(0)
    models = Counter((p.kind, p.brand, p.model, p.code) for p in (next(products) for _ in range(300)))
    assert sum(count > 1 for count in models.values()) > 30


def test_images_are_jpeg_of_the_given_size(offers):
    dataset = datasets.Dataset.from_list(offers[:4], features=FEATURES)
    for image in dataset["image"]:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (IMAGE_SIZE, IMAGE_SIZE))
        assert np.asarray(image).std() > 5


def test_kinds_colours_and_patterns_look_different():
    def pixels(*look):
        return np.asarray(draw_product(*look, 64)).astype(float)

    kinds = [pixels(kind, "blue", "plain") for kind in KINDS]
    colours = [pixels("Mug", colour, "plain") for colour in COLOURS]
    patterns = [pixels("Mug", "blue", pattern) for pattern in PATTERNS]
    for family in (kinds, colours, patterns):
        for index, one in enumerate(family):
            assert all(np.abs(one - other).mean() > 3 for other in family[:index])


@pytest.mark.parametrize("size", [64, 192])
def test_drawings_stay_inside_the_image(size):
    for kind in KINDS:
        drawing = draw_product(kind, "red", "plain", size)
        opacity = np.asarray(drawing)[..., 3]
        border = np.concatenate([opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]])
        assert not border.any(), kind
        assert (opacity > 0).mean() > 0.1, kind


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind='Spaceship' cannot be drawn; choose one of Armchair"):
        draw_product("Spaceship", "red", "plain", 64)


@pytest.mark.parametrize(
    "arguments, message",
    [({"num_offers": 0}, "num_offers=0 is too few"), ({"image_size": 8}, "image_size=8 is too small")],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        next(generate_offers(**arguments))


def test_splits_are_by_product():
    splits = toy_catalog(800, seed=1, image_size=48)
    assert {name: split.features for name, split in splits.items()} == dict.fromkeys(splits, FEATURES)
    assert list(splits) == ["train", "validation", "test"]
    assert sum(map(len, splits.values())) == 800
    catalogs = [{c for c in split["catalog_id"] if c is not None} for split in splits.values()]
    assert sum(map(len, catalogs)) == len(set.union(*catalogs))
    offers = [row for split in splits.values() for row in split["offer_id"]]
    assert sorted(offers) == list(range(800))
    assert 0.7 < len(splits["train"]) / 800 < 0.9
    assert all(len(splits[name]) > 40 for name in ("validation", "test"))


def test_sheet_shows_every_offer(offers, tmp_path):
    rows = offers[:12]
    draw_catalog_sheet(rows, tmp_path / "new" / "sheet.png", columns=5)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        five, pixels = sheet.width, np.asarray(sheet.convert("L"))
    assert pixels.std() > 10
    draw_catalog_sheet(rows, tmp_path / "wide.png", columns=10)
    with Image.open(tmp_path / "wide.png") as sheet:
        assert sheet.width > five
    decoded = datasets.Dataset.from_list(rows, features=FEATURES)
    draw_catalog_sheet(decoded, tmp_path / "decoded.png", columns=5)
    with Image.open(tmp_path / "decoded.png") as sheet:
        assert np.array_equal(np.asarray(sheet.convert("L")), pixels)


def test_sheet_cuts_up_catalogs_wider_than_the_page(tmp_path):
    row = next(generate_offers(1, image_size=48))
    draw_catalog_sheet([{**row, "catalog_id": 7}] * 5, tmp_path / "sheet.png", columns=2)
    draw_catalog_sheet([{**row, "catalog_id": 7}] * 2, tmp_path / "line.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "line.png") as line:
        assert sheet.width == line.width
        assert 2.9 < sheet.height / line.height < 3.1


def test_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rows is empty"):
        draw_catalog_sheet([], tmp_path / "sheet.png")


def test_command_line_writes_parquet_that_loads(tmp_path):
    script = [sys.executable, "-m", "modeling_eclip.toy"]
    subprocess.run(
        [*script, "--output_dir", str(tmp_path / "toy"), "--num_offers", "120", "--seed", "2", "--image_size", "48"],
        env=_environment("0"), check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    files = {name: str(tmp_path / "toy" / f"{name}.parquet") for name in ("train", "validation", "test")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    expected = toy_catalog(120, seed=2, image_size=48)
    for name, split in expected.items():
        assert loaded[name].features == FEATURES
        assert loaded[name].remove_columns("image").to_list() == split.remove_columns("image").to_list()
        assert np.array_equal(np.asarray(loaded[name][0]["image"]), np.asarray(split[0]["image"]))
    with Image.open(tmp_path / "toy" / "sheet.png") as sheet:
        assert np.asarray(sheet.convert("L")).std() > 10


def test_a_single_offer_can_be_written(tmp_path):
    main(["--output_dir", str(tmp_path), "--num_offers", "1", "--image_size", "48"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"train.parquet", "validation.parquet", "test.parquet", "sheet.png"}
