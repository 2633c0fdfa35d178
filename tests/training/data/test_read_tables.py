"""Every kind of source, the mapping of columns, and the errors."""

import io
import json

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.data.catalog_ids import stable_id
from training.data.columns import ProductColumns
from training.data.open_sources import source_files
from training.data.parquet_stream import StreamedProducts
from training.data.read_tables import load_products


@pytest.fixture(autouse=True)
def cache_in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, num_rows=4, first=0, **columns):
    """A plain parquet file, as other tools than `datasets` write it."""
    rows = range(first, first + num_rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "title": [f"title {i}" for i in rows],
        "image": [{"bytes": png(i), "path": None} for i in rows],
        "catalog_id": list(rows),
        **columns,
    }
    pq.write_table(pa.table({name: values for name, values in data.items() if values is not None}), path)
    return str(path)


def write_image_folder(folder, suffix, image_column="file_name"):
    """Images and a table; the last image is listed but absent."""
    (folder / "images").mkdir(parents=True)
    rows = [{image_column: f"images/{i}.png", "title": f"title {i}", "catalog_id": 10 + i} for i in range(3)]
    for i in range(2):
        (folder / "images" / f"{i}.png").write_bytes(png(i))
    table = folder / f"metadata{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        table.write_text("\n".join(lines) + "\n")
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), table)
    return table


def both_ways(*args, **kwargs):
    """The rows read map-style and streamed, which must agree in all columns that a stream has."""
    mapped = load_products(*args, **kwargs)
    streamed = load_products(*args, streaming=True, **kwargs)
    assert isinstance(mapped, datasets.Dataset)
    assert isinstance(streamed, StreamedProducts)
    assert {"title", "image", "catalog_id", "row_id"} <= set(streamed.column_names) <= set(mapped.column_names)
    rows = list(mapped)
    assert [{name: row[name] for name in streamed.column_names} for row in rows] == list(streamed)
    assert len(streamed) == len(rows)
    return rows


def test_a_parquet_file_becomes_canonical_columns(tmp_path):
    path = write_parquet(tmp_path / "offers.parquet", colour=["red", "blue", None, "red"])
    rows = both_ways([path])
    assert rows[1] == {
        "title": "title 1",
        "image": {"bytes": png(1), "path": None},
        "catalog_id": 1,
        "row_id": f"{path}:1",
        "colour": "blue",
    }
    products = load_products([path])
    assert products.features["image"] == datasets.Image(decode=False)
    assert products.features["catalog_id"] == datasets.Value("int64")
    assert products.features["row_id"] == datasets.Value("string")


def test_names_are_mapped_and_the_rest_is_kept(tmp_path):
    path = write_parquet(
        tmp_path / "offers.parquet",
        title=None,
        image=None,
        name=["a", "b", None, "d"],
        photo=[png(i) for i in range(4)],
        catalog_id=["x", "y", "z", "w"],
        group=[None, "g", "7", " "],
        product=[4, 5, 6, None],
        sku=["s0", "s1", None, "s3"],
    )
    columns = ProductColumns(title="name", image="photo", catalog_id=("group", "product"), row_id="sku")
    products = load_products([path], columns)
    assert products["title"] == ["a", "b", None, "d"]
    assert products["image"][2] == {"bytes": png(2), "path": None}
    assert products["catalog_id"] == [4, stable_id("g"), 7, -1]
    assert products["row_id"] == ["s0", "s1", f"{path}:2", "s3"]
    assert products["catalog_id_original"] == ["x", "y", "z", "w"]
    assert set(products.column_names) == {
        *("title", "image", "catalog_id", "row_id"),
        *("catalog_id_original", "group", "product", "sku"),
    }
    streamed = load_products([path], columns, streaming=True)
    assert list(streamed) == list(products.select_columns(streamed.column_names))
    assert set(streamed.column_names) == set(products.column_names)


def test_columns_whose_names_mean_something_here_are_kept_under_free_ones(tmp_path):
    names = ["source", "source:weight", "text_pooler_output", "fields:texts"]
    own = {"title_original": ["w", "x", "y", "z"], "heading": ["a", "b", "c", "d"]}
    path = write_parquet(tmp_path / "offers.parquet", **own, **dict.fromkeys(names, ["1", "2", "3", "4"]))
    rows = both_ways([path], ProductColumns(title="heading"))
    assert [row["title"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["title_original"] for row in rows] == ["w", "x", "y", "z"]
    assert [row["title_original_original"] for row in rows] == [f"title {i}" for i in range(4)]
    assert all([row[name] for row in rows] == ["1", "2", "3", "4"] for name in names[:1])
    assert all([row[f"{name}_original"] for row in rows] == ["1", "2", "3", "4"] for name in names[1:])
    assert not rows[0].keys() & set(names[1:])


def test_one_column_name_will_do_for_the_catalog():
    assert ProductColumns(catalog_id="group").catalog_id == ("group",)


@pytest.mark.parametrize("lacking", ["title", "image"])
def test_tables_without_titles_or_without_images(tmp_path, lacking):
    path = write_parquet(tmp_path / "train.parquet", **{lacking: None})
    rows = both_ways([path], ProductColumns(**{lacking: "none"}), split="train")
    assert [row[lacking] for row in rows] == [None] * 4
    assert all(row["title" if lacking == "image" else "image"] for row in rows)
    assert [row["catalog_id"] for row in rows] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=f"{lacking}_column='{lacking}'.*, or to none where there is none"):
        load_products([path], ProductColumns(), split="train")


def test_titles_that_are_numbers_are_text(tmp_path):
    path = write_parquet(tmp_path / "offers.parquet", title=[1, 2, 3, None])
    assert [row["title"] for row in both_ways([path])] == ["1", "2", "3", None]


def test_offers_without_catalogs_are_alone(tmp_path):
    path = write_parquet(tmp_path / "offers.parquet", catalog_id=None)
    assert [row["catalog_id"] for row in both_ways([path])] == [-1] * 4


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_folder_of_images_with_a_table(tmp_path, suffix, as_folder):
    table = write_image_folder(tmp_path / "shop", suffix)
    rows = both_ways([str(table.parent if as_folder else table)])
    assert [row["title"] for row in rows] == ["title 0", "title 1", "title 2"]
    assert [row["catalog_id"] for row in rows] == [10, 11, 12]
    assert [row["image"]["path"] for row in rows] == [str(tmp_path / f"shop/images/{i}.png") for i in range(3)]
    assert Image.open(rows[1]["image"]["path"]).getpixel((0, 0)) == (1, 0, 0)


def test_a_table_whose_image_column_holds_paths(tmp_path):
    table = write_image_folder(tmp_path / "shop", ".csv", image_column="picture")
    table.write_text(table.read_text() + f"{tmp_path}/elsewhere.png,absolute,\n,no image,\n")
    columns = ProductColumns(image="picture")
    paths = [row["image"] and row["image"]["path"] for row in both_ways([str(table)], columns=columns)]
    assert paths == [*(str(tmp_path / f"shop/images/{i}.png") for i in range(3)), f"{tmp_path}/elsewhere.png", None]
    assert list(load_products([str(table)], columns)["catalog_id"]) == [10, 11, 12, -1, -1]


def test_folders_are_read_by_split(tmp_path):
    write_parquet(tmp_path / "shop/train.parquet", num_rows=3)
    write_parquet(tmp_path / "shop/test.parquet", num_rows=2, first=7)
    write_parquet(tmp_path / "shards/data/train-00000-of-00002.parquet", num_rows=1)
    write_parquet(tmp_path / "shards/data/train-00001-of-00002.parquet", num_rows=1, first=1)
    assert [row["catalog_id"] for row in both_ways([str(tmp_path / "shop")], split="test")] == [7, 8]
    assert [row["catalog_id"] for row in both_ways([str(tmp_path / "shards")])] == [0, 1]
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"could not be opened \(split='validation'\)"):
            load_products([str(tmp_path / "shards")], split="validation", streaming=streaming)


def test_a_glob_counts_its_rows_through(tmp_path):
    write_parquet(tmp_path / "a/0.parquet", num_rows=2)
    write_parquet(tmp_path / "b/0.parquet", num_rows=2, first=2)
    pattern = str(tmp_path / "*/*.parquet")
    rows = both_ways([pattern])
    assert [row["catalog_id"] for row in rows] == [0, 1, 2, 3]
    assert [row["row_id"] for row in rows] == [f"{pattern}:{i}" for i in range(4)]


@pytest.mark.parametrize("name", ["a[1]/x.parquet", "x[ab].parquet", "what?.parquet"])
def test_a_file_may_have_the_name_of_a_pattern(tmp_path, name):
    path = write_parquet(tmp_path / name)
    write_parquet(tmp_path / name.replace("[1]", "1").replace("[ab]", "a").replace("?", "x"), num_rows=2)
    assert len(both_ways([path])) == 4


def test_a_folder_may_have_the_name_of_a_pattern(tmp_path):
    write_parquet(tmp_path / "a[1]" / "train.parquet")
    assert len(both_ways([str(tmp_path / "a[1]")], split="train")) == 4


def test_the_files_of_a_source(tmp_path):
    files = [write_parquet(tmp_path / "shop" / f"{name}.parquet") for name in ("test", "train")]
    assert source_files(files[1], "train") == [files[1]]
    assert source_files(str(tmp_path / "shop" / "*.parquet"), "train") == files
    assert source_files(str(tmp_path / "shop"), "train") == [files[1]]
    assert source_files(str(tmp_path), "train") == files, "all, since no table is clearly it"
    assert source_files("toy", "train") == source_files("owner/name", "train") == []
    with pytest.raises(FileNotFoundError, match="does not exist"):
        source_files(str(tmp_path / "absent.parquet"), "train")


def test_sources_are_joined_and_share_one_space_of_ids(tmp_path):
    first = write_parquet(tmp_path / "first.parquet", num_rows=2, catalog_id=["7", "B0"], colour=["red", "blue"])
    second = write_parquet(tmp_path / "second.parquet", num_rows=2, catalog_id=[7, 8], seller=["x", "y"])
    rows = both_ways([first, second])
    assert [row["catalog_id"] for row in rows] == [7, stable_id("B0"), 7, 8]
    assert [(row["colour"], row["seller"]) for row in rows] == [
        ("red", None),
        ("blue", None),
        (None, "x"),
        (None, "y"),
    ]


def test_rows_are_excluded_where_a_source_has_the_column(tmp_path, caplog):
    first = write_parquet(tmp_path / "first.parquet", num_rows=2)
    second = write_parquet(
        tmp_path / "second.parquet",
        first=2,
        seller=["brand", "x", None, "brand"],
        restricted=[False, True, False, False],
    )
    rows = both_ways([first, second], exclude_rows=["seller=brand", "restricted=true"])
    assert [row["catalog_id"] for row in rows] == [0, 1, 4]
    with caplog.at_level("INFO", logger="training.data.read_tables"):
        products = load_products([first, second], exclude_rows=["seller=brand", "restricted=true"])
    assert f"{second}: 2 rows excluded by seller=brand" in caplog.text
    assert f"{second}: 1 rows excluded by restricted=true" in caplog.text
    assert products["row_id"][-1] == f"{second}:2"  # the row of the file, not of what is left


def test_max_rows(tmp_path):
    path = write_parquet(tmp_path / "offers.parquet", num_rows=5)
    assert [row["catalog_id"] for row in both_ways([path], max_rows=2)] == [0, 1]
    assert len(both_ways([path], max_rows=30)) == 5


def test_addresses_that_fsspec_knows_are_streamed(tmp_path):
    local = [write_parquet(tmp_path / f"{i}.parquet", num_rows=2, first=2 * i) for i in range(2)]
    memory = fsspec.filesystem("memory")
    for number, path in enumerate(local):
        memory.put(path, f"/shop/{number}.parquet")
    streamed = load_products(["memory://shop/*.parquet"], streaming=True)
    assert [row["catalog_id"] for row in streamed] == [0, 1, 2, 3]
    assert [row["row_id"] for row in streamed][-1] == "memory://shop/*.parquet:3"
    with pytest.raises(FileNotFoundError, match="matches no file"):
        load_products(["memory://shop/*.csv"], streaming=True)


def test_datasets_that_are_not_parquet_are_not_streamed(tmp_path):
    (tmp_path / "shop/data").mkdir(parents=True)
    (tmp_path / "shop/data/train-0.jsonl").write_text('{"title": "a", "image": "a.png"}\n')
    with pytest.raises(ValueError, match="not stored as parquet but as json.*Leave out streaming"):
        load_products([str(tmp_path / "shop")], streaming=True)


def test_the_toy_data_is_a_source():
    rows = both_ways(["toy"], split="validation", toy_offers=60, toy_seed=1)
    assert 0 < len(rows) < 60
    assert rows[0]["image"]["bytes"].startswith(b"\xff\xd8")  # undecoded JPEG
    assert {"category", "brand"} <= set(rows[0])
    assert min(row["catalog_id"] for row in rows) >= -1
    with pytest.raises(ValueError, match="split='dev' is not in the toy data"):
        load_products(["toy"], split="dev", toy_offers=60)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ProductColumns(title="name")}, r"title_column='name': .* It has: catalog_id, image, title\."),
        ({"columns": ProductColumns(image="photo")}, r"image_column='photo': .* It has: catalog_id, image, title\."),
        ({"columns": ProductColumns(catalog_id="sku")}, "catalog_id_column names column 'sku', which no source has"),
        ({"columns": ProductColumns(row_id="sku")}, "id_column names column 'sku', which no source has"),
        ({"exclude_rows": ["seler=x"]}, "exclude_rows names column 'seler', which no source has"),
        ({"exclude_rows": ["seller"]}, "exclude_rows holds 'seller', which is not a rule"),
        ({"max_rows": 0}, "max_rows must be at least 1, received 0"),
        ({"sources": []}, "sources must be a non-empty list"),
        ({"sources": "toy"}, "sources must be a non-empty list, received 'toy'"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, message, streaming):
    path = write_parquet(tmp_path / "offers.parquet")
    with pytest.raises(ValueError, match=message):
        load_products(**{"sources": [path], "streaming": streaming, **arguments})


def test_nothing_left_is_an_error(tmp_path):
    path = write_parquet(tmp_path / "offers.parquet", num_rows=2, seller=["x", "x"])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"hold no rows after exclude_rows=\['seller=x'\]"):
            load_products([path], exclude_rows=["seller=x"], streaming=streaming)


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_products([str(tmp_path / "absent.parquet")])
    with pytest.raises(FileNotFoundError, match="matches no file"):
        load_products([str(tmp_path / "*.parquet")])
    (tmp_path / "offers.txt").write_text("a")
    with pytest.raises(ValueError, match=r"'offers.txt' is not a table that can be read"):
        load_products([str(tmp_path / "offers.txt")])


def test_columns_of_different_types_cannot_be_joined(tmp_path):
    first = write_parquet(tmp_path / "first.parquet", num_rows=1, size=[1])
    second = write_parquet(tmp_path / "second.parquet", num_rows=1, size=["one"])
    with pytest.raises(ValueError, match="a column has different types in them.*size"):
        load_products([first, second])


def test_real_data_counts_a_brands_listing_once(real_data):
    sources = [str(real_data / f"data/{name}/train.parquet") for name in ("fashion", "offers")]
    columns = ProductColumns(catalog_id=("catalog_id", "product_id"))
    products = load_products(sources, columns, exclude_rows=["seller=brand"])
    assert len(products) == 9394
    # offers are listings of products of the fashion table, so every one of their ids is there
    is_offer = [row_id.startswith(sources[1]) for row_id in products["row_id"]]
    ids = {
        name: {i for i, flag in zip(products["catalog_id"], is_offer, strict=True) if flag == name} for name in (0, 1)
    }
    assert len(ids[1]) > 1000
    assert ids[1] <= ids[0]
