"""prepare.py: what is dropped from raw offers, that nothing is lost, and that the result is always the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ON_RAY, ROOT
from filelock import FileLock

from training.arguments.parser import parse_arguments
from training.arguments.prepare import PrepareArguments
from training.corpus import pipeline, write_shards
from training.corpus.pipeline import prepare
from training.corpus.toy_raw_offers import write_raw_offers

REASON_OF = {
    "relisting": "duplicate",
    "placeholder": "placeholder_image",
    "broken": "image_unreadable",
    "tiny": "image_too_small",
    "thin": "image_too_thin",
    "blank": "image_blank",
    "no_image": "image_missing",
    "no_title": "empty_title",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_raw_offers(folder, 400)
    return folder


@pytest.fixture(scope="module")
def corpus(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    run(raw / "raw.parquet", folder)
    return folder


def run(given, output, **others):
    settings = {"id_column": "offer_id", "rows_per_shard": 100, "num_examples": 3} | others
    return prepare(PrepareArguments(input=[str(given)], output_dir=str(output), **settings))


def read(folder, kind):
    tables = [pq.read_table(path) for path in sorted((folder / kind).glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def by_id(folder, kind):
    return {row["offer_id"]: row for row in read(folder, kind)}


def test_what_is_wrong_is_dropped_and_nothing_else(raw, corpus):
    answers = {row["offer_id"]: row["wrong"] for row in pq.read_table(raw / "answers.parquet").to_pylist()}
    expected = {place: REASON_OF[wrong] for place, wrong in answers.items() if wrong in REASON_OF}
    assert {place: row["reason"] for place, row in by_id(corpus, "dropped").items()} == expected


def test_every_offer_is_in_one_file_once_and_the_report_adds_up(raw, corpus):
    given = pq.read_table(raw / "raw.parquet", columns=["offer_id"])["offer_id"].to_pylist()
    kept, dropped = read(corpus, "kept"), read(corpus, "dropped")
    assert sorted(row["offer_id"] for row in kept + dropped) == sorted(given)
    report = json.loads((corpus / "report.json").read_text())
    assert report["input"] == len(given)
    assert report["kept"] == len(kept) == sum(report["splits"].values())
    assert sum(report["dropped"].values()) == len(dropped)
    assert report["funnel"][-1]["after"] == len(kept)
    assert {path.name for path in corpus.iterdir()} == {
        "kept",
        "dropped",
        "pictures",
        "work",
        "report.html",
        "report.json",
    }


def test_the_oldest_listing_stays_and_it_is_said_which(corpus):
    kept = by_id(corpus, "kept")
    relistings = [row for row in read(corpus, "dropped") if row["reason"] == "duplicate"]
    assert relistings
    for row in relistings:
        original = kept[int(row["kept_instead"])]
        assert original["offer_id"] < row["offer_id"]
        assert (original["title"], original["image"]) == (row["title"], row["image"])


def test_titles_are_clean_and_what_they_were_is_kept(corpus):
    rows = read(corpus, "kept")
    assert any(row["title"] != row["title_original"] for row in rows)
    assert not any(sign in row["title"] for row in rows for sign in ("[HOT]", "★", "<b>", "Best Price", "  "))
    rules = json.loads((corpus / "report.json").read_text())["titles"]["rules"]
    assert rules and all(rule["rows"] and rule["examples"] for rule in rules.values())


def test_files_have_the_stated_number_of_rows_and_training_reads_them(corpus):
    counts = {path.name: pq.read_metadata(path).num_rows for path in sorted((corpus / "kept").glob("train-*"))}
    assert set(list(counts.values())[:-1]) == {100} and 0 < list(counts.values())[-1] <= 100
    loaded = datasets.load_dataset("parquet", data_dir=str(corpus / "kept"), cache_dir=str(corpus / "cache"))
    shutil.rmtree(corpus / "cache")
    assert set(loaded) == {"train", "validation", "test"}
    row = loaded["train"][0]
    assert row["image"].size == (96, 96) and isinstance(row["title"], str)
    assert row["category"] and row["seller"]  # the user's own columns


def test_the_corpus_is_trained_on_as_it_is(corpus, tmp_path):
    from training.arguments.data import DataArguments
    from training.arguments.model import ModelArguments
    from training.arguments.train import TrainArguments
    from training.engine.contrastive_training import train

    words = ["--config", "training/configs/quickstart.yaml", "--output_dir", str(tmp_path), "--max_samples", "32"]
    words += ["--batch_size", "16", "--num_workers", "0"]
    for split in ("train", "validation"):
        words += [f"--{split}_data", str(corpus / "kept" / f"{split}-*.parquet")]
    result = train(*parse_arguments((ModelArguments, DataArguments, TrainArguments), words))
    assert result.samples == 32


@pytest.mark.parametrize("how", ["in parts", "several files", "json lines"])
def test_the_offers_that_stay_do_not_depend_on_how_they_come(raw, corpus, tmp_path, how):
    table = pq.read_table(raw / "raw.parquet")
    if how == "in parts":
        given, settings = raw / "raw.parquet", {"bytes_at_once": 100_000}
    elif how == "several files":
        given, settings = tmp_path / "raw", {"bytes_at_once": 1}
        given.mkdir()
        for number, start in enumerate(range(0, len(table), 150)):
            pq.write_table(table.slice(start, 150), given / f"{9 - number}.parquet")
    else:
        given, settings = tmp_path / "raw.jsonl", {}
        (tmp_path / "images").mkdir()
        with given.open("w", encoding="utf-8") as file:
            for row in table.to_pylist():
                if row["image"] is not None:
                    (tmp_path / "images" / f"{row['offer_id']}").write_bytes(row["image"])
                    row["image"] = f"images/{row['offer_id']}"
                file.write(json.dumps(row) + "\n")
    run(given, tmp_path / "corpus", **settings)
    for kind in ("kept", "dropped"):
        assert by_id(tmp_path / "corpus", kind) == by_id(corpus, kind)
    kept = [path.name for path in sorted((tmp_path / "corpus" / "kept").iterdir())]
    assert kept == [path.name for path in sorted((corpus / "kept").iterdir())]


def test_a_run_that_was_stopped_goes_on(raw, corpus, tmp_path, monkeypatch):
    calls = []

    def stop_at(number):
        def prepare_part(*given):
            calls.append(given[0])
            if given[0] == number:
                raise KeyboardInterrupt
            return original(*given)

        return prepare_part

    original = pipeline.prepare_part
    monkeypatch.setattr(pipeline, "prepare_part", stop_at(2))
    settings = {"bytes_at_once": 100_000}
    with pytest.raises(KeyboardInterrupt):
        run(raw / "raw.parquet", tmp_path, **settings)
    monkeypatch.undo()
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "rows").glob("part-*/*")}
    assert first and not (tmp_path / "kept").exists()
    (tmp_path / "work" / "rows" / "partial-00002").mkdir()
    (tmp_path / "work" / "rows" / "partial-00002" / "half.parquet").write_bytes(b"PAR1")
    run(raw / "raw.parquet", tmp_path, **settings)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    for kind in ("kept", "dropped"):
        assert by_id(tmp_path, kind) == by_id(corpus, kind)
    # A file of the corpus that is there is left as it is; one that is not is written again.
    kept = sorted((tmp_path / "kept").iterdir())
    before = kept[0].stat().st_mtime_ns, kept[1].read_bytes()
    kept[1].unlink()
    run(raw / "raw.parquet", tmp_path, **settings)
    assert (kept[0].stat().st_mtime_ns, kept[1].read_bytes()) == before


def test_other_arguments_do_not_go_on_where_a_run_was_stopped(raw, corpus):
    with pytest.raises(ValueError, match="`min_image_side` is not what it was"):
        run(raw / "raw.parquet", corpus, min_image_side=64)


def test_without_ids_they_are_made_of_the_content(raw, corpus, tmp_path):
    report = run(raw / "raw.parquet", tmp_path, id_column="")
    before = json.loads((corpus / "report.json").read_text())
    assert (report["kept"], report["dropped"]) == (before["kept"], before["dropped"])


def test_an_id_that_is_there_twice_is_counted(tmp_path):
    write_raw_offers(tmp_path, 40)
    table = pq.read_table(tmp_path / "raw.parquet")
    kept = by_id_of_run(table, tmp_path / "once")
    twice = pa.concat_tables([table, table.slice(0, 7)])
    assert by_id_of_run(twice, tmp_path / "twice") == kept
    report = json.loads((tmp_path / "twice" / "report.json").read_text())
    good = {row["offer_id"] for row in read(tmp_path / "once", "dropped") if "duplicate" not in row["reason"]}
    assert report["dropped"]["repeated_id"] == len(set(table["offer_id"].to_pylist()[:7]) - good)


def by_id_of_run(table, folder):
    folder.mkdir()
    pq.write_table(table, folder / "raw.parquet")
    run(folder / "raw.parquet", folder)
    return by_id(folder, "kept")


def test_given_catalogs_are_kept_and_decide_the_split(tmp_path):
    write_raw_offers(tmp_path, 120)
    table = pq.read_table(tmp_path / "raw.parquet")
    catalogs = [None if place % 3 == 0 else place % 20 for place in range(len(table))]
    pq.write_table(table.append_column("catalog_id", pa.array(catalogs)), tmp_path / "raw.parquet")
    run(tmp_path / "raw.parquet", tmp_path)
    given = dict(zip(table["offer_id"].to_pylist(), catalogs, strict=True))
    splits: dict[int, set[str]] = {}
    for path in (tmp_path / "kept").iterdir():
        for row in pq.read_table(path).to_pylist():
            if given[row["offer_id"]] is not None:
                assert row["catalog_id"] == given[row["offer_id"]]
                splits.setdefault(row["catalog_id"], set()).add(path.name.split("-")[0])
    assert splits and all(len(names) == 1 for names in splits.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"title_column": "name"}, "`title_column` is 'name', a column that .*raw.parquet has not; it has .*title"),
        ({"id_column": "sku"}, "`id_column` is 'sku'"),
        ({"category_column": "kind"}, "`category_column` is 'kind'"),
        ({"image_column": "category"}, "`image_column` is 'category', which holds"),
    ],
)
def test_a_missing_column_is_named(raw, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(raw / "raw.parquet", tmp_path, **settings)


def test_input_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`input` names .*nowhere"):
        run(tmp_path / "nowhere.parquet", tmp_path / "corpus")
    (tmp_path / "raw.txt").touch()
    with pytest.raises(ValueError, match="whose format is not known; give one of .parquet"):
        run(tmp_path / "raw.txt", tmp_path / "corpus")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": []}, "`input` is empty"),
        ({"mismatch_share": 0.1}, "`mismatch_share` asks for scores"),
        ({"mismatch_share": 1.5}, "`mismatch_share` is 1.5"),
        ({"test_share": 0.6, "validation_share": 0.5}, "leave some offers to training"),
        ({"checkpoint": "a", "first_model": "b"}, "give one of them"),
        ({"rows_per_shard": 0}, "`rows_per_shard` is 0"),
        ({"catalog_title_similarity": 1.5}, "`catalog_title_similarity` is 1.5"),
        ({"max_aspect_ratio": float("nan")}, "`max_aspect_ratio` is nan"),
        ({"min_image_side": -1}, "`min_image_side` is -1"),
        ({"download_timeout": 0}, "`download_timeout` is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PrepareArguments(**({"input": ["raw.parquet"]} | settings))


def test_files_that_can_not_be_read_are_named_and_the_others_are_prepared(raw, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    shutil.copy(raw / "raw.parquet", given / "b.parquet")
    (given / "a.parquet").write_bytes(b"PAR1 and then nothing")
    (given / "c.csv").touch()
    report = run(given, tmp_path / "corpus")
    assert report["input"] == pq.read_metadata(raw / "raw.parquet").num_rows
    assert [Path(path).name for path in report["skipped_files"]] == ["a.parquet", "c.csv"]
    assert report["skipped_files"][str(given / "c.csv")] == "it is empty"
    page = (tmp_path / "corpus" / "report.html").read_text(encoding="utf-8")
    assert "Files that could not be read" in page and "c.csv" in page


def test_two_runs_in_one_folder_are_refused(raw, tmp_path):
    (tmp_path / "work").mkdir()
    with FileLock(tmp_path / "work" / "lock"), pytest.raises(ValueError, match="another run is at work"):
        run(raw / "raw.parquet", tmp_path)


def test_ray_makes_the_same_corpus(raw, corpus, tmp_path):
    words = ["--input", str(raw / "raw.parquet"), "--output_dir", str(tmp_path), "--id_column", "offer_id"]
    words += ["--rows_per_shard", "100", "--num_examples", "3", "--engine", "ray"]
    root = ROOT
    result = subprocess.run([sys.executable, *ON_RAY, "prepare", *words], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "::execute" not in result.stdout + result.stderr  # Daft's operators are no report
    for kind in ("kept", "dropped"):
        files = sorted(path.name for path in (corpus / kind).iterdir())
        assert files == sorted(path.name for path in (tmp_path / kind).iterdir())
        for name in files:
            assert pq.read_table(tmp_path / kind / name).equals(pq.read_table(corpus / kind / name))
    reports = [json.loads((folder / "report.json").read_text()) for folder in (corpus, tmp_path)]
    for report in reports:
        del report["seconds"], report["settings"]
    assert reports[0] == reports[1]


def test_splits_stay_when_mates_are_added(tmp_path):
    write_raw_offers(tmp_path, 60)
    table = pq.read_table(tmp_path / "raw.parquet").slice(0, 40)

    def splits(name, given):
        (tmp_path / name).mkdir()
        pq.write_table(given, tmp_path / name / "raw.parquet")
        settings = {"test_share": 0.3, "validation_share": 0.2, "near_image_distance": 0}
        run(tmp_path / name / "raw.parquet", tmp_path / name, **settings)
        found = {}
        for path in (tmp_path / name / "kept").glob("*.parquet"):
            for row in pq.read_table(path).to_pylist():
                found[row["offer_id"]] = path.name.split("-")[0], row["catalog_id"]
        return found

    before = splits("before", table)
    mates = table.set_column(0, "offer_id", pa.array([10_000 + place for place in range(40)]))
    titles = pa.array([f"{title} new" for title in table["title"].to_pylist()])
    mates = mates.set_column(mates.column_names.index("title"), "title", titles)
    after = splits("after", pa.concat_tables([table, mates]))
    joined = [place for place in before if after[place][1] is not None and before[place][1] is None]
    assert len(joined) > 10
    assert all(after[place][0] == before[place][0] for place in before)


def test_input_that_has_changed_is_noticed(tmp_path):
    write_raw_offers(tmp_path, 20)
    run(tmp_path / "raw.parquet", tmp_path / "corpus")
    write_raw_offers(tmp_path, 40)
    with pytest.raises(ValueError, match="`input` is not what it was"):
        run(tmp_path / "raw.parquet", tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus" / "work")
    with pytest.raises(ValueError, match="holds a corpus and nothing to go on from"):
        run(tmp_path / "raw.parquet", tmp_path / "corpus")


def test_a_mistyped_column_does_not_spoil_the_folder(tmp_path):
    write_raw_offers(tmp_path, 20)
    with pytest.raises(ValueError, match="`title_column` is 'nome'"):
        run(tmp_path / "raw.parquet", tmp_path / "corpus", title_column="nome")
    assert run(tmp_path / "raw.parquet", tmp_path / "corpus")["kept"]


def test_own_columns_that_have_a_name_of_the_corpus_are_kept(tmp_path):
    write_raw_offers(tmp_path, 20)
    table = pq.read_table(tmp_path / "raw.parquet")
    columns = {
        "name": table["title"],
        "photo": table["image"],
        "offer_id": table["offer_id"],
        "title": table["seller"],
    }
    pq.write_table(pa.table(columns), tmp_path / "raw.parquet")
    run(tmp_path / "raw.parquet", tmp_path / "corpus", title_column="name", image_column="photo")
    names = dict(zip(table["offer_id"].to_pylist(), table["seller"].to_pylist(), strict=True))
    rows = read(tmp_path / "corpus", "kept")
    assert rows and all(row["title_own"] == names[row["offer_id"]] for row in rows)


def test_row_groups_of_large_images_have_few_of_them(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(write_shards, "_BYTES_PER_GROUP", 20_000)
    run(raw / "raw.parquet", tmp_path)
    rows = groups = 0
    for path in (tmp_path / "kept").glob("*.parquet"):
        for group in range(pq.read_metadata(path).num_row_groups):
            images = [image["bytes"] for image in pq.ParquetFile(path).read_row_group(group)["image"].to_pylist()]
            assert sum(map(len, images)) <= 20_000 or len(images) == 1
            rows, groups = rows + len(images), groups + 1
    assert groups > 10 and rows == json.loads((tmp_path / "report.json").read_text())["kept"]
