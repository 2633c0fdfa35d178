"""Files of all formats are divided into parts, and prepared: nothing is read twice, or left out."""

import csv
import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.arguments.prepare import PrepareArguments
from training.corpus.pipeline import prepare
from training.corpus.plan_parts import Part, plan_parts
from training.data.catalog_ids import stable_id


def table(number, size=10):
    return pa.table({"title": [f"{number}-{place}" for place in range(size)]})


def titles(parts):
    return [title for part in parts for title in part.read().to_pydict()["title"]]


def places(parts, folder):
    """Paths within a folder, and the row groups."""
    start = f"file://{folder}/"
    assert all(path.startswith(start) for part in parts for path in part.paths)
    return [([path.removeprefix(start) for path in part.paths], part.row_groups) for part in parts]


def test_files_are_gathered_up_to_so_many_bytes_in_the_order_of_their_names(tmp_path):
    for number in (3, 1, 2, 4):
        pq.write_table(table(number), tmp_path / f"{number}.parquet")
    size = (tmp_path / "1.parquet").stat().st_size
    expected = [(["1.parquet", "2.parquet"], None), (["3.parquet", "4.parquet"], None)]
    parts = plan_parts([str(tmp_path)], 2 * size)
    assert places(parts, tmp_path) == expected
    assert titles(parts) == [f"{number}-{place}" for number in (1, 2, 3, 4) for place in range(10)]
    assert plan_parts([str(tmp_path / "*.parquet")], 2 * size) == parts
    # However they are named, and how often: the same parts.
    names = [str(tmp_path / f"{number}.parquet") for number in (4, 2, 1, 3, 1)]
    assert plan_parts([*names, str(tmp_path)], 2 * size) == parts
    assert len(plan_parts([str(tmp_path)], 10**6)) == 1


def test_a_large_parquet_file_is_divided_by_its_row_groups(tmp_path):
    dice = random.Random(0)
    words = pa.table({"title": ["".join(dice.choices("abcdefgh", k=50)) for _ in range(170)]})
    pq.write_table(words, tmp_path / "b.parquet", row_group_size=10)
    pq.write_table(table("a", 1), tmp_path / "a.parquet")
    pq.write_table(table("c", 1), tmp_path / "c.parquet")
    metadata = pq.read_metadata(tmp_path / "b.parquet")
    group = max(metadata.row_group(number).column(0).total_compressed_size for number in range(17))
    parts = plan_parts([str(tmp_path)], 4 * group)
    found = places(parts, tmp_path)
    assert found[0] == (["a.parquet"], None) and found[-1] == (["c.parquet"], None)
    runs = [groups for _, groups in found[1:-1]]
    assert sum(runs, ()) == tuple(range(17)) and {len(run) for run in runs[:-1]} == {4}
    assert titles(parts) == ["a-0", *words["title"].to_pylist(), "c-0"]
    one_by_one = plan_parts([str(tmp_path / "b.parquet")], 1)
    assert [part.row_groups for part in one_by_one] == [(number,) for number in range(17)]
    assert titles(one_by_one) == words["title"].to_pylist()


def test_a_file_without_rows(tmp_path):
    pq.write_table(table("a", 0), tmp_path / "a.parquet")
    pq.write_table(table("b", 2), tmp_path / "b.parquet")
    for bytes_at_once in (1, 10**6):
        assert titles(plan_parts([str(tmp_path)], bytes_at_once)) == ["b-0", "b-1"]


def test_every_format_is_read_and_none_with_another(tmp_path):
    (tmp_path / "a.csv").write_text('title,n\n"a, b",1\n', encoding="utf-8")
    (tmp_path / "b.TSV").write_text("title\tn\nc, d\t2\n", encoding="utf-8")
    (tmp_path / "c.tsv").write_text("title\tn\ne, f\t3\n", encoding="utf-8")
    for number, name in enumerate(("d.jsonl", "e.NDJSON", "f.json"), start=4):
        (tmp_path / name).write_text(f'{{"title": "ü{number}", "n": {number}}}\n', encoding="utf-8")
    pq.write_table(pa.table({"title": ["g"], "n": [7]}), tmp_path / "g.parquet")
    for other in ("readme.txt", "_SUCCESS", "h.parquet.crc", "image.png"):
        (tmp_path / other).write_text("nothing")
    parts = plan_parts([str(tmp_path)], 10**6)
    assert [len(part.paths) for part in parts] == [1, 2, 3, 1]
    assert titles(parts) == ["a, b", "c, d", "e, f", "ü4", "ü5", "ü6", "g"]


def test_files_of_several_folders_are_in_parts_of_their_own(tmp_path):
    """Paths of images begin in the folder of their table."""
    for name in ("a", "b", "b/c"):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            (tmp_path / name / f"{number}.jsonl").write_text('{"title": "x"}\n')
    parts = plan_parts([str(tmp_path)], 10**6)
    assert [part.folder for part in parts] == [tmp_path / name for name in ("a", "b", "b/c")]
    assert all(len(part.paths) == 2 for part in parts)


def test_the_folder_of_a_part(tmp_path, monkeypatch):
    assert Part((f"file://{tmp_path}/a.csv",)).folder == tmp_path
    assert Part(("s3://bucket/a.csv",)).folder is None and Part(("https://a.b/c.csv",)).folder is None
    monkeypatch.chdir(tmp_path)
    assert Part(("a.csv",)).folder == tmp_path
    # As the Hub's cache has it: the table is a link to a file elsewhere, and images lie beside the link.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "12ab").write_text("title\nx\n")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.csv").symlink_to(tmp_path / "blobs" / "12ab")
    (part,) = plan_parts(["snapshot"], 1)
    assert part.folder == tmp_path / "snapshot" and titles([part]) == ["x"]


def test_names_of_files_may_hold_anything(tmp_path):
    folder = tmp_path / "my offers, 50% #1 ü"
    folder.mkdir()
    pq.write_table(table("a"), folder / "a b%20c.parquet", row_group_size=5)
    for given in (folder, folder / "a b%20c.parquet"):
        for bytes_at_once in (1, 10**6):
            parts = plan_parts([str(given)], bytes_at_once)
            assert len(titles(parts)) == 10 and parts[0].folder == folder


def test_an_address_is_a_part(tmp_path):
    (tmp_path / "a.csv").write_text("title\nx\n")
    parts = plan_parts(["https://shop.example/offers.csv?version=2", str(tmp_path)], 10**6)
    assert [part.paths for part in parts] == [
        (f"file://{tmp_path}/a.csv",),
        ("https://shop.example/offers.csv?version=2",),
    ]
    with pytest.raises(ValueError, match="offers.xlsx', whose format is not known"):
        plan_parts(["https://shop.example/offers.xlsx"], 1)


def test_what_is_not_there_is_named(tmp_path):
    for given in (tmp_path, tmp_path / "none.parquet", tmp_path / "*.csv"):
        with pytest.raises(FileNotFoundError, match="`input` names"):
            plan_parts([str(given)], 1)
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match="holds no file of .parquet"):
        plan_parts([str(tmp_path)], 1)
    with pytest.raises(ValueError, match="whose format is not known"):
        plan_parts([str(tmp_path / "a.txt")], 1)


WORDS = ["alder", "birch", "cedar", "ebony", "maple", "olive", "pine", "teak", "walnut", "willow"]


def png_of(number):
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((48, 48), resample=0).save(buffer, "PNG")
    return buffer.getvalue()


def offers_in(folder, number):
    """Unlike offers with their images in files, two without; the ids are numbers."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for place in range(10):
        code = random.Random(100 * number + place).randbytes(8).hex()
        (folder / "images" / f"{place}.png").write_bytes(png_of(100 * number + place))
        rows.append({"sku": 100 * number + place, "name": f"{WORDS[place]} {code}", "photo": f"images/{place}.png"})
    rows[8]["photo"] = ""
    rows[9]["photo"] = "images/none.png"
    return rows


def run(given, output, **settings):
    columns = {"title_column": "name", "image_column": "photo", "id_column": "sku"}
    return prepare(PrepareArguments(input=[str(given)], output_dir=str(output), num_examples=2, **columns, **settings))


def corpus(folder, kind="kept"):
    paths = sorted((folder / kind).glob("*.parquet"))
    return {row["sku"]: row for path in paths for row in pq.read_table(path).to_pylist()}


def write_lines(path, rows, kind):
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables_of_several_folders_find_their_images(tmp_path, kind):
    raw = tmp_path / "raw"
    for number, name in enumerate(("spring", "summer")):
        rows = offers_in(raw / name, number)
        write_lines(raw / name / f"offers.{kind}", rows, kind)
    report = run(raw, tmp_path / "corpus")
    assert report["dropped"] == {"image_missing": 2, "image_unreachable": 2}
    kept = corpus(tmp_path / "corpus")
    if kind != "jsonl":  # CSV has no types: ids are text, as they are written
        assert all(isinstance(sku, str) for sku in kept)
    kept = {int(sku): row for sku, row in kept.items()}
    assert sorted(kept) == [*range(8), *range(100, 108)]
    assert all(row["image"]["bytes"] == png_of(sku) for sku, row in kept.items())


@pytest.mark.parametrize("bytes_at_once", [1, 10**6])
def test_files_may_differ_in_their_columns(tmp_path, bytes_at_once):
    """One has no image at all, one no category; one has catalogs, which are text; some have no offer."""
    rows = offers_in(tmp_path / "raw", 0)
    without = [row | {"photo": None, "catalog_id": None, "category": "a"} for row in rows[:2]]
    plain = rows[2:4]
    named = [row | {"catalog_id": "shop-1", "category": "b", "stock": 3} for row in rows[4:6]]
    for place, some in enumerate((without, [], plain, named)):
        write_lines(tmp_path / "raw" / f"{place}.jsonl", some, "jsonl")
    for name in "ab":
        nothing = pa.Table.from_pylist([], pa.schema([("sku", pa.int64()), ("name", pa.null()), ("photo", pa.null())]))
        pq.write_table(nothing, tmp_path / "raw" / f"{name}.parquet")
    report = run(tmp_path / "raw", tmp_path / "corpus", bytes_at_once=bytes_at_once)
    assert report["dropped"] == {"image_missing": 2} and report["input"] == 6
    kept = corpus(tmp_path / "corpus")
    assert sorted(kept) == [2, 3, 4, 5] and kept[4]["catalog_id"] == kept[5]["catalog_id"] is not None
    assert {sku: row["stock"] for sku, row in kept.items()} == {2: None, 3: None, 4: 3, 5: 3}


def test_columns_of_csv_may_come_in_any_order(tmp_path):
    rows = offers_in(tmp_path / "raw", 0)
    write_lines(tmp_path / "raw" / "a.csv", rows[:4], "csv")
    turned = [dict(sorted(row.items(), reverse=True)) | {"stock": 1} for row in rows[4:8]]
    write_lines(tmp_path / "raw" / "b.csv", [dict(reversed(row.items())) for row in turned], "csv")
    run(tmp_path / "raw", tmp_path / "corpus")
    found = {sku: row["title"].split()[0] for sku, row in corpus(tmp_path / "corpus").items()}
    assert found == {str(sku): word for sku, word in enumerate(WORDS[:8])}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_ids_are_as_they_are_given(tmp_path, kind):
    rows = offers_in(tmp_path / "raw", 0)[:5]
    given = {
        "csv": ["00012345", "12345", "NA", "4006381333931.0", "1e5"],
        "jsonl": [2**63 + 5, 2**63 + 6, 7, "007", "7" * 5000],
    }[kind]
    catalogs = ["G0001", "G0001", "0007", "7", None]
    for row, sku, catalog in zip(rows, given, catalogs, strict=True):
        row |= {"sku": sku, "product": catalog, "catalog_id": catalog}
    write_lines(tmp_path / "raw" / f"offers.{kind}", rows, kind)
    run(tmp_path / "raw", tmp_path / "corpus", catalog_id_column="product")
    kept = corpus(tmp_path / "corpus")
    assert set(kept) == set(map(str, given))
    places = {str(sku): place for place, sku in enumerate(given)}
    for sku, row in kept.items():
        # A user's columns stay under their own names, beside those that training reads.
        assert (row["name"], row["photo"]) == (rows[places[sku]]["name"], rows[places[sku]]["photo"])
        assert row["product"] == row["catalog_id_own"] == catalogs[places[sku]]
    (of_g,) = {kept[str(sku)]["catalog_id"] for sku in given[:2]}
    assert of_g == stable_id("G0001")
    assert [kept[str(sku)]["catalog_id"] for sku in given[2:]] == [stable_id("0007"), 7, None]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([4006381333931.0, None, 4006381333955.0]), ["4006381333931", None, "4006381333955"]),
        (pa.array([b"\xff\x01", b"ab", b"\xfe\xfe"], pa.binary(2)), ["ff01", "ab", "fefe"]),
        (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
        (pa.array([5, 6, 7], pa.uint16()), [5, 6, 7]),
    ],
)
def test_ids_of_any_type(tmp_path, ids, expected):
    rows = offers_in(tmp_path / "raw", 0)[:3]
    table = pa.Table.from_pylist(rows).drop_columns("sku").append_column("sku", ids)
    pq.write_table(table, tmp_path / "raw" / "offers.parquet")
    assert run(tmp_path / "raw", tmp_path / "corpus")["kept"] == 3
    assert set(corpus(tmp_path / "corpus")) == set(expected)


def test_what_is_no_id_is_named(tmp_path):
    rows = offers_in(tmp_path / "raw", 0)[:3]
    table = pa.Table.from_pylist(rows).drop_columns("sku").append_column("sku", pa.array([[1], [2], [3]]))
    pq.write_table(table, tmp_path / "raw" / "offers.parquet")
    with pytest.raises(Exception, match=r"`id_column` holds \[1\], a list"):
        run(tmp_path / "raw", tmp_path / "corpus")


def test_titles_of_another_kind_are_named_and_columns_that_a_corpus_cannot_hold_are_left_out(tmp_path, caplog):
    rows = offers_in(tmp_path / "raw", 0)[:3]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / "raw" / "offers.parquet"
    lists = pa.array([[row["name"]] for row in rows])
    pq.write_table(table.drop_columns("name").append_column("name", lists), path)
    with pytest.raises(Exception, match=r"`title_column` is 'name', which holds List\[String\]; name a column"):
        run(tmp_path / "raw", tmp_path / "corpus")
    odd = pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))
    pq.write_table(table.append_column("odd", odd), path)
    assert run(tmp_path / "raw", tmp_path / "other")["kept"] == 3
    assert "odd" not in next(iter(corpus(tmp_path / "other").values())) and "column 'odd' is left out" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_another_encoding(tmp_path, kind):
    rows = [row | {"name": f"café {row['name']}", "category": "Möbel"} for row in offers_in(tmp_path / "raw", 0)[:3]]
    path = tmp_path / "raw" / f"offers.{kind}"
    write_lines(path, rows, kind)
    text = path.read_text(encoding="utf-8")
    if kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(
        ValueError, match=rf"offers.{kind}, line {2 if kind == 'csv' else 1}, is not text in `encoding`"
    ):
        run(tmp_path / "raw", tmp_path / "corpus")
    run(tmp_path / "raw", tmp_path / "corpus", encoding="latin-1")
    kept = corpus(tmp_path / "corpus").values()
    assert len(kept) == 3 and all("café" in row["title"] and row["category"] == "Möbel" for row in kept)


def test_words_that_look_like_null_are_words(tmp_path):
    rows = [
        row | {"pattern": word} for row, word in zip(offers_in(tmp_path / "raw", 0), ["None", "NA", ""], strict=False)
    ]
    write_lines(tmp_path / "raw" / "offers.csv", rows, "csv")
    run(tmp_path / "raw", tmp_path / "corpus")
    assert [corpus(tmp_path / "corpus")[sku]["pattern"] for sku in "012"] == ["None", "NA", None]


def test_a_broken_row_group_is_left_out_and_told(tmp_path):
    rows = offers_in(tmp_path / "raw", 0)[:8]
    path = tmp_path / "raw" / "offers.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4, compression="gzip")
    place = pq.read_metadata(path).row_group(1).column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[place + 20 : place + 60] = bytes(40)
    path.write_bytes(content)
    report = run(tmp_path / "raw", tmp_path / "corpus")
    assert (report["input"], report["kept"]) == (4, 4)
    (told,) = report["skipped_files"]
    assert told == f"{path}, row group 1 (4 rows)"


def test_a_broken_line_is_told_and_other_files_are_prepared(tmp_path):
    rows = offers_in(tmp_path / "raw", 0)
    write_lines(tmp_path / "raw" / "a.jsonl", rows[:4], "jsonl")
    path = tmp_path / "raw" / "b.jsonl"
    # Later than what is looked at to plan the parts.
    path.write_text(json.dumps(rows[4]) + "\n" + "{}\n" * 10_000 + '{"sku": ', encoding="utf-8")
    report = run(tmp_path / "raw", tmp_path / "corpus")
    assert report["input"] == 4
    assert "line 10002: no JSON object" in report["skipped_files"][str(path)]


def test_titles_that_are_no_utf8_are_offers_without_a_title(tmp_path):
    rows = offers_in(tmp_path / "raw", 0)[:3]
    table = pa.Table.from_pylist(rows)
    given = [row["name"].encode() for row in rows]
    given[1] = b"caf\xe9"
    ends = np.cumsum([0, *map(len, given)]).astype(np.int32)
    names = pa.StringArray.from_buffers(3, pa.py_buffer(ends), pa.py_buffer(b"".join(given)))
    pq.write_table(table.set_column(1, "name", names), tmp_path / "raw" / "offers.parquet")
    report = run(tmp_path / "raw", tmp_path / "corpus")
    assert (report["input"], report["kept"], report["dropped"]) == (3, 2, {"empty_title": 1})


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c.png"])]
    pq.write_table(pa.table(columns, names=["name", "name", "photo"]), tmp_path / "raw" / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has two columns named 'name'"):
        run(tmp_path / "raw", tmp_path / "corpus")


def test_one_catalog_for_all_is_refused(tmp_path):
    rows = [row | {"catalog_id": "season 7"} for row in offers_in(tmp_path / "raw", 0)]
    write_lines(tmp_path / "raw" / "offers.jsonl", rows, "jsonl")
    with pytest.raises(ValueError, match=r"`input`: 10 offers in 1 catalogs, 10 of them.*`max_catalog_share`"):
        run(tmp_path / "raw", tmp_path / "corpus")
    assert run(tmp_path / "raw", tmp_path / "corpus", max_catalog_share=1.0)["kept"] == 8


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"sku": "x-1"}, "`id_column` holds int64 and large_string in different files"),
        ({"stock": "many"}, "`input` has a column of different types .*own.stock"),
    ],
)
def test_types_that_do_not_fit_are_named(tmp_path, other, message):
    rows = [row | {"stock": 1} for row in offers_in(tmp_path / "raw", 0)]
    write_lines(tmp_path / "raw" / "a.jsonl", rows[:4], "jsonl")
    write_lines(tmp_path / "raw" / "b.jsonl", [row | other for row in rows[4:5]], "jsonl")
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "raw", tmp_path / "corpus")


def test_input_without_offers(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.jsonl").touch()
    with pytest.raises(ValueError, match="`input` names .*which hold no offers"):
        run(tmp_path / "empty", tmp_path / "corpus")
    nothing = pa.table({name: pa.array([], pa.string()) for name in ("sku", "name", "photo")})
    pq.write_table(nothing, tmp_path / "a.parquet")
    report = run(tmp_path / "a.parquet", tmp_path / "none")
    assert (report["input"], report["kept"], report["splits"]) == (0, 0, {})


def test_offers_without_an_id_are_offers(tmp_path):
    """Alike ones among them are of one catalog, and each pair is of its own."""
    rows = []
    for number in range(6):
        code = random.Random(number).randbytes(16).hex()
        for seller in ("new", "fast shipping"):
            image = np.array(Image.open(io.BytesIO(png_of(number))))
            image[0, 0] = 0 if seller == "new" else 255  # another file of the same photograph
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            sku = 10 * number if number > 2 and seller == "new" else None
            rows.append({"sku": sku, "name": f"{WORDS[number]} {code} {seller}", "photo": buffer.getvalue()})
    schema = pa.schema([("sku", pa.int64()), ("name", pa.string()), ("photo", pa.binary())])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "raw.parquet")
    report = run(tmp_path / "raw.parquet", tmp_path / "corpus", near_title_similarity=1.0)
    assert report["kept"] == 12 and report["catalogs"]["sizes"] == {"2": 6}
    paths = (tmp_path / "corpus" / "kept").glob("*.parquet")
    kept = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert len({(row["catalog_id"], row["title"].split()[0]) for row in kept}) == 6


@pytest.mark.parametrize("number", [0, 1, 2, 9])
def test_very_few_offers(tmp_path, number):
    """None that is good, one, two, and all."""
    rows = offers_in(tmp_path / "raw", 0)
    write_lines(tmp_path / "raw" / "offers.csv", rows[:number] + rows[8:], "csv")
    report = run(tmp_path / "raw", tmp_path / "corpus")
    good = min(number, 8)
    assert (report["input"], report["kept"], len(corpus(tmp_path / "corpus"))) == (number + 2, good, good)
