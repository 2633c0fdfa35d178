"""Tables of all formats by one set of rules: types, words that look like null, encodings, parts that are broken."""

import traceback

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.columns import ProductColumns
from training.data.files import without_secrets
from training.data.read_tables import load_products


@pytest.fixture(autouse=True)
def cache_in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return str(path)


def both_ways(sources, columns=None, **settings):
    tables = [list(load_products(sources, columns, streaming=way, **settings)) for way in (False, True)]
    assert tables[0] == tables[1]
    return tables[0]


def column(rows, name):
    return [row[name] for row in rows]


def test_a_csv_cell_is_text_as_written_and_only_an_empty_one_is_null(tmp_path):
    words = ["NA", "None", "null", "nan", "n/a", "1e5", "00012345", "12.0", "true", " x "]
    lines = ["title,image,pattern,sku", *(f"{word},x.png,{word},{word}" for word in words), "mug,x.png,,"]
    rows = both_ways([write(tmp_path / "a.csv", "\n".join(lines) + "\n")], ProductColumns(row_id="sku"))
    assert column(rows, "title") == [*words, "mug"]
    assert column(rows, "pattern") == [*words, None]
    assert column(rows, "row_id")[:-1] == words
    assert column(rows, "row_id")[-1].endswith("a.csv:10")


def test_a_word_far_down_does_not_change_what_is_above(tmp_path):
    number = 20_000  # more rows than are read at once
    lines = ["title,image,sku", *(f"a,x.png,0{row}" for row in range(number)), "a,x.png,B7"]
    rows = load_products([write(tmp_path / "a.csv", "\n".join(lines) + "\n")], ProductColumns(row_id="sku"))["row_id"]
    assert (rows[1], rows[-1]) == ("01", "B7")


def test_a_json_column_with_a_number_among_titles_is_text_as_written(tmp_path):
    lines = '{"title": "mug", "image": "x.png"}\n{"title": 1.50, "image": "x.png"}\n{"title": 12, "image": "x.png"}\n'
    lines += '{"title": true, "image": "x.png"}\n{"title": null, "image": "x.png"}\n'
    rows = both_ways([write(tmp_path / "a.jsonl", lines)])
    assert column(rows, "title") == ["mug", "1.50", "12", "true", None]


def test_json_ids_that_64_bits_do_not_hold_stay_different(tmp_path):
    first = 2**63 + 1
    lines = [f'{{"title": "a", "image": "x.png", "catalog_id": {first + row}}}' for row in range(40)]
    rows = both_ways([write(tmp_path / "a.jsonl", "\n".join(lines))], ProductColumns(row_id="catalog_id"))
    assert column(rows, "row_id") == [str(first + row) for row in range(40)]
    rows = both_ways([str(tmp_path / "a.jsonl")])
    assert len(set(column(rows, "catalog_id"))) == 40


def test_json_columns_keep_their_types(tmp_path):
    lines = '{"title": "a", "image": "x", "n": 1, "f": 1, "b": true, "l": ["p", "q"], "o": {"k": 1}, "m": []}\n'
    lines += '{"title": "b", "image": "x", "n": 2, "f": 2.5, "b": null, "l": null, "o": {"k": 2, "j": 3}, "m": {}}\n'
    rows = both_ways([write(tmp_path / "a.jsonl", lines)])
    assert column(rows, "n") == [1, 2]
    assert column(rows, "f") == [1.0, 2.5]
    assert column(rows, "b") == [True, None]
    assert column(rows, "l") == [["p", "q"], None]
    assert column(rows, "o") == [{"k": 1, "j": None}, {"k": 2, "j": 3}]
    assert column(rows, "m") == ["[]", "{}"]  # lists beside objects: text, with JSON in it
    listed = write(tmp_path / "b.json", "[" + lines.strip().replace("\n", ",") + "]")
    assert column(both_ways([listed]), "n") == [1, 2]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_another_encoding(tmp_path, suffix):
    content = {
        ".csv": "title,image\nmug,x.png\ncafé,x.png\n",
        ".jsonl": '{"title": "mug", "image": "x.png"}\n{"title": "café", "image": "x.png"}\n',
    }[suffix]
    path = write(tmp_path / f"a{suffix}", content, "latin-1")
    line = 3 if suffix == ".csv" else 2
    with pytest.raises(ValueError, match=rf"a{suffix}, line {line}, is not text in `encoding` 'utf-8'.*latin-1"):
        load_products([path])
    assert column(both_ways([path], encoding="latin-1"), "title") == ["mug", "café"]
    marked = write(tmp_path / f"b{suffix}", content, "utf-8-sig")
    assert column(both_ways([marked]), "title") == ["mug", "café"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "title,image\na,b\na,b,c\n", "a.csv, line 3, has more fields"),
        ("a.csv", "title,image\na,b,c\na,b,c\n", "more fields than the header"),
        ("a.csv", "title,image,title\na,b,c\n", "a.csv has two columns named 'title'"),
        ("a.jsonl", '{"title": "a"}\n{"title": \n', "a.jsonl, line 2: no JSON object"),
        ("a.jsonl", '{"title": "a"}\n3\n', "a.jsonl, line 2: '3' is no JSON object"),
        ("a.parquet", "no parquet", "a.parquet is no parquet file"),
    ],
)
def test_a_broken_file_is_named_with_its_row(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_products([write(tmp_path / name, content)])


def test_columns_that_parquet_stores_in_special_ways(tmp_path):
    views = pa.table(
        {
            "title": pa.array(["mug", "boot"], pa.string_view()),
            "image": pa.array([b"1", b"2"], pa.binary_view()),
            "sku": pa.array([b"\xff\x01", b"ab"], pa.binary(2)),
            "colour": pa.array(["red", "blue"]).dictionary_encode(),
            "tags": pa.array([["a"], None], pa.list_(pa.string_view())),
            "odd": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        }
    )
    pq.write_table(views, tmp_path / "a.parquet")
    rows = both_ways([str(tmp_path / "a.parquet")], ProductColumns(row_id="sku"))
    assert rows[0] == {
        "title": "mug",
        "image": {"bytes": b"1", "path": None},
        "catalog_id": -1,
        "row_id": "ff01",
        "sku": b"\xff\x01",
        "colour": "red",
        "tags": ["a"],
        **({"odd": rows[0]["odd"]} if "odd" in rows[0] else {}),
    }
    assert rows[1]["tags"] is None


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["x.png"]), pa.array(["b"])], names=["title", "image", "title"])
    pq.write_table(table, tmp_path / "a.parquet")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="a.parquet has two columns named 'title'"):
            load_products([str(tmp_path / "a.parquet")], streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        # A list of texts, or of images, is several of one offer; a list of anything else is none.
        ("title", [[[1]]], "title_column='title': .*holds .*list.*Name a text column"),
        ("title", [{"text": "mug"}], "title_column='title': .*holds .*struct.*Name a text column"),
        ("image", [[1]], "image_column='image': .*holds int64.*Name a column of images"),
        ("image", [1], "image_column='image': .*holds int64.*Name a column of images"),
    ],
)
def test_columns_that_hold_something_else_are_named(name, values, message, streaming, tmp_path):
    table = {"title": ["mug"], "image": ["x.png"], name: values}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        list(load_products([str(tmp_path / "a.parquet")], streaming=streaming))


@pytest.mark.parametrize("untyped", [False, True])
def test_a_part_without_rows_does_not_matter(tmp_path, untyped):
    table = pa.table({"title": ["a"], "image": ["x.png"]})
    empty = pa.table({"title": pa.nulls(0), "image": pa.nulls(0)}) if untyped else table.schema.empty_table()
    pq.write_table(empty, tmp_path / "part-0.parquet")
    pq.write_table(table, tmp_path / "part-1.parquet")
    pq.write_table(empty, tmp_path / "part-2.parquet")
    assert column(both_ways([str(tmp_path / "part-*.parquet")]), "title") == ["a"]


def test_text_that_is_no_utf8_is_missing_and_told(tmp_path, caplog):
    offsets = pa.py_buffer(bytes(pa.array([0, 3, 7, 10], pa.int32()).buffers()[1])[:16])
    titles = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"mugcaf\xe9cup"))
    pq.write_table(pa.table({"title": titles, "image": ["x.png"] * 3}), tmp_path / "a.parquet")
    assert column(both_ways([str(tmp_path / "a.parquet")]), "title") == ["mug", None, "cup"]
    assert "a.parquet: column 'title': 1 values are no UTF-8 and read as missing, the first in row 2" in caplog.text


def test_a_broken_page_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": ["some title"] * 500, "image": ["x.png"] * 500}), path, compression="gzip")
    place = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[place + 20 : place + 40] = b"\0" * 20
    path.write_bytes(content)
    for streaming in (False, True):
        with pytest.raises(ValueError, match="a.parquet: row group 0"):
            load_products([str(path)], streaming=streaming)[0]


def test_integers_with_a_gap_are_ids(tmp_path):
    frame = pd.DataFrame({"sku": [4006381333931, None], "title": ["a", "b"], "image": ["x.png"] * 2})
    assert frame["sku"].dtype == "float64"
    frame.to_parquet(tmp_path / "a.parquet")
    rows = both_ways([str(tmp_path / "a.parquet")], ProductColumns(row_id="sku", catalog_id="sku"))
    assert (rows[0]["row_id"], rows[0]["catalog_id"]) == ("4006381333931", 4006381333931)
    assert rows[1]["row_id"].endswith(":1")


def test_class_numbers_become_their_names(tmp_path):
    features = datasets.Features(
        {
            "title": datasets.Value("string"),
            "image": datasets.Value("string"),
            "category": datasets.ClassLabel(names=["shoe", "hat"]),
            "tags": datasets.List(datasets.ClassLabel(names=["new", "old"])),
            "row_id": datasets.ClassLabel(names=["p", "q"]),
        }
    )
    given = {
        "title": ["a", "b"],
        "image": ["x.png"] * 2,
        "category": [1, -1],
        "tags": [[0, 1], None],
        "row_id": [1, 0],
    }
    given = datasets.Dataset.from_dict(given, features=features)
    given.to_parquet(str(tmp_path / "a.parquet"))
    rows = both_ways([str(tmp_path / "a.parquet")], exclude_rows=["category=shoe"])
    assert column(rows, "category") == ["hat", None]
    assert column(rows, "tags") == [["new", "old"], None]
    assert column(rows, "row_id_original") == ["q", "p"]
    given.save_to_disk(str(tmp_path / "saved"))
    assert column(load_products([str(tmp_path / "saved")]), "category") == ["hat", None]
    datasets.DatasetDict({"train": given}).save_to_disk(str(tmp_path / "splits"))
    assert column(load_products([str(tmp_path / "splits")]), "category") == ["hat", None]
    with pytest.raises(ValueError, match="no split 'test'"):
        load_products([str(tmp_path / "splits")], split="test")


def test_rules_compare_words(tmp_path):
    table = {"title": list("abcd"), "image": ["x.png"] * 4, "f": [1.0, 2.5, None, 1.0], "b": [True, False, None, True]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    pd.DataFrame(table).to_csv(tmp_path / "a.csv", index=False)
    for path in (str(tmp_path / "a.parquet"), str(tmp_path / "a.csv")):
        for rule, left in (("f=1.0", "bc"), ("f=1", "bc"), ("f=2.5", "acd"), ("b=true", "bc"), ("b=True", "bc")):
            assert "".join(column(both_ways([path], exclude_rows=[rule]), "title")) == left, (path, rule)


def test_a_dataset_that_holds_csv_is_read_by_the_same_rules(tmp_path):
    (tmp_path / "shop/data").mkdir(parents=True)
    write(tmp_path / "shop/data/train-0.csv", "title,image,sku\nNA,x.png,007\n")
    rows = load_products([str(tmp_path / "shop")], ProductColumns(row_id="sku"))
    assert (rows[0]["title"], rows[0]["row_id"]) == ("NA", "007")


def test_a_presigned_address_is_read_and_its_signature_is_told_nowhere(store, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # the server is on this machine
    address, asked = store
    write(tmp_path / "offers.csv", "title,image\nred mug,a.png\n")
    query = "?X-Amz-Signature=s3cr3t%3D&Expires=9&names=[a*?]"  # no pattern
    for streaming in (False, True):
        rows = load_products([f"{address}/offers.csv{query}"], streaming=streaming)
        assert rows[0]["title"] == "red mug" and "s3cr3t" not in rows[0]["row_id"]
    assert any("s3cr3t" in path for path in asked)
    for source, columns in (
        (f"{address}/absent.csv{query}", None),
        (f"{address}/offers.txt{query}", None),
        (f"{address}/offers.csv{query}", ProductColumns(title="name")),
        (f"{address.replace('//', '//me:s3cr3t@')}/*.parquet", None),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            load_products([source], columns)
        assert "127.0.0.1" in str(caught.value)
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in caplog.text


def test_what_opens_an_address_is_left_out():
    assert without_secrets("a?b, 'https://me:x@host/a.csv?k=v&l=w', s3://b/c.csv?versionId=1 read?") == (
        "a?b, 'https://host/a.csv?...', s3://b/c.csv?... read?"
    )
