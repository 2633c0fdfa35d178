"""Rows that are told are told by their file and their line, whatever their ids are."""

import datasets
import pandas as pd
import pytest

from training.data.columns import ProductColumns
from training.data.pairs import find_pairs
from training.data.read_tables import load_products
from training.data.row_places import row_files, told_rows
from training.data.skipped_rows import SkipCounter
from training.data.sources import ProductSource, load_sources


@pytest.fixture(autouse=True)
def cache_in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write(folder, **files):
    """Files `NAME_FORMAT` of products with these titles; `sku` is `s-TITLE`."""
    for name, titles in files.items():
        stem, kind = name.split("_")
        table = pd.DataFrame({"title": titles, "image": "x.png", "sku": [f"s-{title}" for title in titles]}, dtype=str)
        path = folder / f"{stem}.{kind}"
        if kind == "csv":
            table.to_csv(path, index=False)
        elif kind == "jsonl":
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_parquet(path, row_group_size=2)


def told(sources, titles, id_column=None, **settings):
    """Where the rows with these titles are, which is the same map-style and streamed."""
    both = []
    for streaming in (False, True):
        products = load_products(sources, ProductColumns(row_id=id_column), streaming=streaming, **settings)
        ids = {row["title"]: row["row_id"] for row in products.select_columns(["title", "row_id"])}
        both.append(told_rows([ids[title] for title in titles], row_files(products)))
    assert both[0] == both[1]
    return both[0]


@pytest.mark.parametrize(("kind", "word", "header"), [("csv", "line", 1), ("jsonl", "line", 0), ("parquet", "row", 0)])
def test_rows_are_told_by_file_and_line(tmp_path, kind, word, header):
    write(tmp_path, **{f"a_{kind}": ["p", "q", "r"], f"b_{kind}": ["t"], f"c_{kind}": ["u", "v", "w"]})
    a, b, c = (str(tmp_path / f"{name}.{kind}") for name in "abc")
    assert told([a], ["p", "r"]) == [f"{a} {word} {1 + header}", f"{a} {word} {3 + header}"]
    # a glob, rows of which are left out, and a file after it
    glob = str(tmp_path / f"[ab].{kind}")
    assert told([glob, c], ["r", "t", "w"], exclude_rows=["title=q", "title=u"]) == [
        f"{a} {word} {3 + header}",
        f"{b} {word} {1 + header}",
        f"{c} {word} {3 + header}",
    ]
    # ids that were given, beside where they are
    assert told([str(tmp_path / f"*.{kind}")], ["t", "q"], "sku") == [
        f"s-t ({b} {word} {1 + header})",
        f"s-q ({a} {word} {2 + header})",
    ]


def test_a_source_may_lack_the_column_of_ids(tmp_path):
    write(tmp_path, a_parquet=["p"], b_parquet=["q"])
    a, b = (tmp_path / f"{name}.parquet" for name in "ab")
    pd.read_parquet(b).drop(columns="sku").to_parquet(b)
    for one, other in ((a, b), (b, a)):
        assert told([str(one), str(other)], ["p", "q"], "sku") == [f"s-p ({a} row 1)", f"{b} row 1"]


def test_lines_are_those_of_the_file(tmp_path):
    csv = tmp_path / "a.csv"
    csv.write_text('title,image,sku\n\n"a\nmug",x.png,1\n   \n"a ""cup""",x.png,\nb,x.png,7\n')
    titles = ["a\nmug", 'a "cup"', "b"]
    assert told([str(csv)], titles) == [f"{csv} line 3", f"{csv} line 6", f"{csv} line 7"]
    assert told([str(csv)], titles, "sku") == [f"1 ({csv} line 3)", f"{csv} line 6", f"7 ({csv} line 7)"]
    lines, listed = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text('{"title": "a", "image": "x"}\n\n{"title": "b", "image": "x"}\n')
    listed.write_text('[{"title": "a", "image": "x"},\n\n{"title": "b", "image": "x"}]')
    assert told([str(lines)], ["a", "b"]) == [f"{lines} line 1", f"{lines} line 3"]
    assert told([str(listed)], ["a", "b"]) == [f"{listed} record 1", f"{listed} record 2"]


def test_a_folder_and_a_split_are_told_by_their_file(tmp_path):
    shop = tmp_path / "shop"
    shop.mkdir()
    for name in ("train", "validation"):
        write(shop, **{f"{name}-00000_parquet": [name]})
    for split in ("train", "validation"):
        file = shop / f"{split}-00000.parquet"
        assert told([str(shop)], [split], split=split) == [f"{file} row 1"]


def test_what_is_made_of_products_knows_their_files_too(tmp_path):
    write(tmp_path, a_csv=["p", "q"], b_csv=["t", "q"])
    a, b = (str(tmp_path / f"{name}.csv") for name in "ab")
    columns = ProductColumns(row_id="sku")
    sources = [ProductSource([a], columns), ProductSource([b], columns, is_plain=False)]
    products = load_sources(sources).select([3, 0]).remove_columns("image")
    where = told_rows(products["row_id"], row_files(products))
    assert where == [f"{b}: s-q ({b} line 3)", f"s-p ({a} line 2)"]
    assert told_rows([" | ".join(products["row_id"])], row_files(products)) == [" | ".join(where)]
    counter = SkipCounter(row_files(products))
    counter.add({"num_rows": 2, "skipped": [("s-p", "truncated"), ("toy:3", "missing")]})
    with pytest.raises(ValueError, match=r"truncated: s-p \(.*a.csv line 2\); missing: toy:3\. Mend"):
        counter.check(min_rows=1)
    (tmp_path / "a.csv").unlink()  # a report is no place to fail
    assert told_rows(["s-p", "s-x"], row_files(products)) == ["s-p", "s-x"]


def test_errors_name_the_row(tmp_path):
    path = tmp_path / "a.jsonl"
    row = '{"title": "a", "image": "x", "sku": %s}\n'
    path.write_text(row % 1.0 + "\n" + row % 2.5 + row % 3.5)
    for columns in (ProductColumns(row_id="sku"), ProductColumns(catalog_id="sku")):
        with pytest.raises(ValueError, match=r"holds 2\.5, .* That is .*a\.jsonl line 3\."):
            load_products([str(path)], columns)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text('left,right,label\n"a\nb",c,1\nd,e,0\n')
    with pytest.raises(ValueError, match=r"pairs.csv line 4 names the product 'd', but 2 rows"):
        find_pairs(str(pairs), ["c", "d", "d", "e"])
    pairs.write_text("left,right,label\na,b,1\nd,e,maybe\n")
    with pytest.raises(ValueError, match=r"the labels \['maybe'\], the first of them in .*pairs.csv line 3"):
        find_pairs(str(pairs), ["a", "b"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('title,image\n"a\nb",x\nc,x,y\n', "line 4, has more fields"),
        ("title,image\na,x,y\nb,x,y\n", "line 2, has more fields"),
        ('title,image\na,x\n"b\nc",x\n"d,x\ne,x\n', "line 5: a quote is not closed"),
    ],
)
def test_a_broken_table_is_told_by_the_line(tmp_path, text, told):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=f"a.csv, {told}"):
        load_products([str(tmp_path / "a.csv")])
