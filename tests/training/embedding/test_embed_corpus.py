"""A corpus embedded to files: every row once and in order, also after a stop and with several processes."""

import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import MODEL, ON_RAY, ROOT
from PIL import Image
from ranks import run_script

from modeling_eclip import EClipModel, EClipProcessor
from training.arguments.embed import EmbedArguments
from training.data.read_tables import load_products
from training.embedding import embed_corpus as embedding
from training.embedding.embed_corpus import embed_corpus
from training.embedding.embedder import CorpusEmbedder, deal_to_workers
from training.embedding.vector_shards import EmbeddedShards
from training.engine.build import build_model, build_processor

NUM_ROWS = 37
# Of a vector of unit length that was computed in bfloat16, whose numbers have three digits.
HALF = 0.02
WORDS = ["red", "blue", "shoes", "shirt", "long", "cotton", "mug"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    processor = build_processor(MODEL, [" ".join(WORDS)])
    build_model(MODEL, processor.tokenizer, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Titles of 1 to 7 words; row 5 has no title, row 9 no readable image, row 11 neither."""
    path = tmp_path_factory.mktemp("corpus") / "products.parquet"
    dice = np.random.default_rng(0)
    titles = [" ".join(dice.choice(WORDS, dice.integers(1, 8))) for _ in range(NUM_ROWS)]
    images = []
    for _ in range(NUM_ROWS):
        file = io.BytesIO()
        Image.fromarray(dice.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    titles[5], titles[11], images[9], images[11] = None, "  ", b"no image", None
    catalogs = [row // 2 if row % 3 else None for row in range(NUM_ROWS)]
    ids = [f"offer {row}" for row in range(NUM_ROWS)]
    table = pa.table({"id": ids, "title": titles, "image": images, "catalog_id": catalogs})
    pq.write_table(table, path, row_group_size=8)
    return str(path)


def arguments(checkpoint, corpus, output_dir, **fields):
    given = {"rows_per_shard": 10, "image_batch_size": 4, "num_workers": 0, "max_skipped_share": 0.5}
    return EmbedArguments(
        checkpoint=str(checkpoint),
        input=[str(corpus)],
        output_dir=str(output_dir),
        id_column="id",
        **{**given, **fields},
    )


def read(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(Path(folder).glob("*.parquet"))])


def vectors(table, name):
    """Vectors, NaN where there are none."""
    values = np.array(table[name].to_pylist())
    has = np.array(table[f"has_{name.removesuffix('_embeds')}"].to_pylist())
    assert not values[~has].any()
    return np.where(has[:, None], values, np.nan)


@pytest.fixture(scope="module")
def expected(checkpoint, corpus):
    """Each row alone."""
    model, processor = EClipModel.from_pretrained(checkpoint).eval(), EClipProcessor.from_pretrained(checkpoint)
    table = pq.read_table(corpus)
    embeds = {"text_embeds": np.full((NUM_ROWS, 16), np.nan), "image_embeds": np.full((NUM_ROWS, 16), np.nan)}
    with torch.no_grad():
        for row, offer in enumerate(table.to_pylist()):
            if row not in (5, 11):
                inputs = processor(text=offer["title"], return_tensors="pt")
                embeds["text_embeds"][row] = model(**inputs).text_embeds[0].numpy()
            if row not in (9, 11):
                inputs = processor(images=offer["image"], return_tensors="pt")
                embeds["image_embeds"][row] = model(**inputs).image_embeds[0].numpy()
    return embeds


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"streaming": False, "image_batch_size": 64, "rows_per_shard": 1000},
        {"image_batch_size": 3, "num_workers": 2, "token_budget": 9, "rows_per_shard": 11},
    ],
    ids=str,
)
def test_every_row_is_embedded_once_and_in_order(fields, checkpoint, corpus, expected, tmp_path):
    report = embed_corpus(arguments(checkpoint, corpus, tmp_path, **fields))
    table = read(tmp_path)
    assert table["row_id"].to_pylist() == [f"offer {row}" for row in range(NUM_ROWS)]
    assert table["catalog_id"].to_pylist() == [row // 2 if row % 3 else None for row in range(NUM_ROWS)]
    for name, rows in expected.items():
        np.testing.assert_allclose(vectors(table, name), rows, atol=1e-3 if "image" in name else 1e-5)
    assert report["rows"] == NUM_ROWS and report["dim"] == 16
    assert report["skipped"] == {"text": {"empty_title": 2}, "image": {"not_an_image": 1, "missing": 1}}
    assert report["examples"]["image"] == {
        "not_an_image": [f"offer 9 ({corpus} row 10)"],
        "missing": [f"offer 11 ({corpus} row 12)"],
    }
    assert report == json.loads((tmp_path / "report.json").read_text())


def test_workers_may_be_spawned(checkpoint, corpus, expected, tmp_path, start_method):
    """As on macOS and Windows: all that a worker needs is pickled."""
    start_method("spawn")
    embed_corpus(arguments(checkpoint, corpus, tmp_path, num_workers=1, rows_per_shard=64))
    for name, rows in expected.items():
        np.testing.assert_allclose(vectors(read(tmp_path), name), rows, atol=1e-3 if "image" in name else 1e-5)


def test_one_modality_cut_short(checkpoint, corpus, expected, tmp_path):
    embed_corpus(arguments(checkpoint, corpus, tmp_path, modality="text", truncate_dim=4))
    table = read(tmp_path)
    assert table.column_names == ["row_id", "catalog_id", "has_text", "text_embeds"]
    cut = expected["text_embeds"][:, :4]
    cut = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(table, "text_embeds"), cut, atol=1e-5)


def test_a_size_that_does_not_fit_leaves_the_folder_free(checkpoint, corpus, tmp_path):
    with pytest.raises(ValueError, match="`truncate_dim` is 999, but the model's embeddings have 16 values"):
        embed_corpus(arguments(checkpoint, corpus, tmp_path, truncate_dim=999))
    assert {path.name for path in tmp_path.iterdir()} <= {"lock"}  # which two runs at a time would share
    assert embed_corpus(arguments(checkpoint, corpus, tmp_path, truncate_dim=16))["dim"] == 16


def test_vectors_that_are_no_numbers_are_not_written(checkpoint, corpus, tmp_path, monkeypatch):
    broken = EClipModel.from_pretrained(checkpoint)
    with torch.no_grad():
        broken.text_projection.weight[0, 0] = math.nan
    broken.save_pretrained(tmp_path / "broken")
    EClipProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "broken")
    with pytest.raises(FloatingPointError, match=r"not finite \(text_projection.weight\); it is not used to embed"):
        embed_corpus(arguments(str(tmp_path / "broken"), corpus, tmp_path / "out"))

    # Weights may be numbers and their products none, as in float16.
    def overflow(self, shard):
        return torch.full((len(shard.tokens["input_ids"]), self.dim), math.inf)

    monkeypatch.setattr(CorpusEmbedder, "_embed_titles", overflow)
    with pytest.raises(FloatingPointError, match="the text embeddings of 8 rows are not finite, the first of"):
        embed_corpus(arguments(checkpoint, corpus, tmp_path / "out", rows_per_shard=9))
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_shard_without_one_vector_has_the_columns_of_the_others(checkpoint, tmp_path):
    path = tmp_path / "products.parquet"
    pq.write_table(pa.table({"title": ["red", "", "", "blue"], "image": pa.array([b"x"] * 4)}), path)
    settings = {"id_column": None, "rows_per_shard": 1, "max_skipped_share": 1.0}
    given = EmbedArguments(checkpoint=checkpoint, input=[str(path)], output_dir=str(tmp_path / "out"), **settings)
    report = embed_corpus(given)
    table = read(tmp_path / "out")
    assert table["has_text"].to_pylist() == [True, False, False, True]
    assert not any(table["has_image"].to_pylist()) and report["skipped"]["image"] == {"not_an_image": 4}


def test_what_is_there_is_not_done_again(checkpoint, corpus, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    embed_corpus(arguments(checkpoint, corpus, whole))
    report = embed_corpus(arguments(checkpoint, corpus, stopped))
    names = sorted(path.name for path in stopped.glob("*.parquet"))
    assert names == [f"embeddings-{shard:05}-of-00004.parquet" for shard in range(4)]
    times = {name: (stopped / name).stat().st_mtime_ns for name in names}
    (stopped / names[1]).unlink()
    (stopped / names[2]).rename((stopped / names[2]).with_suffix(".partial"))  # as a killed run leaves it
    again = embed_corpus(arguments(checkpoint, corpus, stopped, image_batch_size=7))
    assert {name for name in names if (stopped / name).stat().st_mtime_ns != times[name]} == set(names[1:3])
    assert not list(stopped.glob("*.partial"))
    assert again["skipped"] == report["skipped"], "counts of finished files are read from them"
    for name in ("text_embeds", "image_embeds"):
        np.testing.assert_allclose(vectors(read(stopped), name), vectors(read(whole), name), atol=1e-5)


def test_files_whose_images_changed_or_appeared_and_broken_ones_are_made_anew(checkpoint, tmp_path, monkeypatch):
    for place in range(8):
        Image.effect_noise((32, 32), 50 + place).convert("RGB").save(tmp_path / f"{place}.png")
    names = [f"{place}.png" for place in range(9)]  # the last of which is not there
    pq.write_table(pa.table({"id": names, "title": names, "image": names}), tmp_path / "in.parquet")
    given = arguments(checkpoint, tmp_path / "in.parquet", tmp_path / "out", rows_per_shard=3)
    written = []
    embed = CorpusEmbedder.__call__
    monkeypatch.setattr(CorpusEmbedder, "__call__", lambda *a, **k: (written.extend(a[2]), embed(*a, **k))[1])

    def run():
        written.clear()
        embed_corpus(given)
        return vectors(read(tmp_path / "out"), "image_embeds")

    first = run()
    assert written == [0, 1, 2] and np.isnan(first[8]).all()
    np.testing.assert_array_equal(run(), first)
    assert not written
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "1.png")
    Image.new("RGB", (32, 32), "grey").save(tmp_path / "8.png")
    second = run()
    assert written == [0, 2] and not np.isnan(second).any() and np.abs(second[1] - first[1]).max() > 0.01
    np.testing.assert_allclose(second[8], second[1], atol=1e-5)
    path = next((tmp_path / "out").glob("embeddings-00001-*"))
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(run(), second)
    assert written == [1]


def test_another_model_or_input_needs_another_folder(checkpoint, corpus, tmp_path):
    embed_corpus(arguments(checkpoint, corpus, tmp_path / "out"))
    with pytest.raises(ValueError, match="`truncate_dim` is 8.*begun with None.*another `output_dir`"):
        embed_corpus(arguments(checkpoint, corpus, tmp_path / "out", truncate_dim=8))
    with pytest.raises(ValueError, match="`rows_per_shard` is 5"):
        embed_corpus(arguments(checkpoint, corpus, tmp_path / "out", rows_per_shard=5))
    model = EClipModel.from_pretrained(checkpoint)
    with torch.no_grad():
        model.text_projection.weight.mul_(2)
    model.save_pretrained(tmp_path / "other")
    EClipProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="`model` is "):
        embed_corpus(arguments(str(tmp_path / "other"), corpus, tmp_path / "out"))


def change_input(checkpoint, corpus):
    pq.write_table(pq.read_table(corpus).take(list(range(NUM_ROWS))[::-1]), corpus)


def divide_input(checkpoint, corpus):
    table = pq.read_table(corpus)
    pq.write_table(table.slice(0, 20), corpus)
    pq.write_table(table.slice(20), corpus.with_name("more.parquet"))


def change_pooling(checkpoint, corpus):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    assert config["text_pooling"] == "mean"
    path.write_text(json.dumps(config | {"text_pooling": "cls"}))


def change_tower(checkpoint, corpus):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"text_config": config["text_config"] | {"layer_norm_eps": 0.1}}))


def change_pixels(checkpoint, corpus):
    path = checkpoint / "processor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.4"))


def change_vocabulary(checkpoint, corpus):
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    numbers = tokenizer["model"]["vocab"]
    first, second = list(numbers)[-2:]
    numbers[first], numbers[second] = numbers[second], numbers[first]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "field"),
    [(change_input, "input_files"), (divide_input, "input_files"), (change_pooling, "config"),
     (change_tower, "config"), (change_pixels, "processor"), (change_vocabulary, "processor")],
)  # fmt: skip
def test_a_model_or_input_that_has_changed_needs_another_folder(change, field, checkpoint, corpus, tmp_path):
    folder, table, out = tmp_path / "model", tmp_path / "in" / "products.parquet", tmp_path / "out"
    shutil.copytree(checkpoint, folder)
    table.parent.mkdir()
    shutil.copy(corpus, table)
    given = arguments(folder, table.parent / "*.parquet", out)
    embed_corpus(given)
    first = out / "embeddings-00001-of-00004.parquet"
    first.unlink()
    embed_corpus(given)
    assert first.is_file(), "nothing has changed"
    first.unlink()
    change(folder, table)
    with pytest.raises(ValueError, match=f"`{field}` is .*begun with.*another `output_dir`"):
        embed_corpus(given)
    assert not first.is_file()


def test_a_model_may_move(checkpoint, corpus, tmp_path):
    embed_corpus(arguments(checkpoint, corpus, tmp_path / "out"))
    EClipModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "moved")
    EClipProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "moved")
    embed_corpus(arguments(str(tmp_path / "moved"), corpus, tmp_path / "out"))


def test_too_many_unusable_rows_stop_the_run(checkpoint, tmp_path):
    path = tmp_path / "products.parquet"
    pq.write_table(pa.table({"title": ["red"] * 250, "image": pa.array([b"x"] * 250)}), path)
    with pytest.raises(ValueError, match="250 of 250 rows skipped.*more than the 5.0% allowed"):
        given = {"rows_per_shard": 250, "num_workers": 0}
        embed_corpus(EmbedArguments(checkpoint=checkpoint, input=[str(path)], output_dir=str(tmp_path), **given))


def test_processes_end_with_a_run_that_fails(checkpoint, tmp_path):
    """Its workers ignore SIGTERM, by which Python ends those of a process that exits, and waits for them."""
    columns = {"title": ["red"] * 500, "image": pa.array([b"x"] * 500)}
    pq.write_table(pa.table(columns), tmp_path / "products.parquet")
    given = {"checkpoint": checkpoint, "input": [str(tmp_path / "products.parquet")], "output_dir": str(tmp_path)}
    given |= {"rows_per_shard": 100, "image_batch_size": 10, "num_workers": 2}
    imports = "from training.arguments.embed import *; from training.embedding.embed_corpus import *"
    code = f"{imports}; embed_corpus(EmbedArguments(**{given!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, process_group=0)
    try:
        error = process.communicate(timeout=300)[1]  # it would be for ever
        assert process.returncode == 1 and b"rows skipped (100.0%)" in error
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left of the group
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("num_rows", "rows_per_shard"), [(300, 10_000), (300, 100), (30, 10_000), (30, 7)])
def test_unusable_rows_stop_every_run(num_rows, rows_per_shard, checkpoint, tmp_path):
    path, out = tmp_path / "products.parquet", tmp_path / "out"
    columns = {"id": [str(row) for row in range(num_rows)], "title": ["red"] * num_rows, "image": [b"x"] * num_rows}
    pq.write_table(pa.table(columns), path)
    given = {"rows_per_shard": rows_per_shard, "image_batch_size": 50}
    for _ in range(4):
        with pytest.raises(ValueError, match=r"rows skipped \(100.0%\): not_an_image.*`max_skipped_share`"):
            embed_corpus(arguments(checkpoint, path, out, **given, max_skipped_share=0.05))
    assert not (out / "report.json").exists()
    report = embed_corpus(arguments(checkpoint, path, out, **given, max_skipped_share=1.0))
    assert report["skipped"]["image"] == {"not_an_image": num_rows}


def test_workers_read_neighbours():
    spans = [range(start, start + 1) for start in range(7)]
    dealt = [span.start for span in deal_to_workers(spans, 2)]
    assert dealt[0::2] == [0, 1, 2, 3] and dealt[1::2] == [4, 5, 6]
    assert [span.start for span in deal_to_workers(spans, 0)] == list(range(7))


def test_two_processes_share_the_files(checkpoint, corpus, expected, tmp_path):
    words = ["--checkpoint", checkpoint, "--input", corpus, "--output_dir", str(tmp_path), "--id_column", "id"]
    words += ["--rows_per_shard", "10", "--num_workers", "1", "--max_skipped_share", "0.5"]
    run_script("training/embed.py", words, 2)
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    table = read(tmp_path)
    assert table["row_id"].to_pylist() == [f"offer {row}" for row in range(NUM_ROWS)]
    np.testing.assert_allclose(vectors(table, "text_embeds"), expected["text_embeds"], atol=1e-5)


def test_ray_makes_the_same_files(checkpoint, corpus, expected, tmp_path):
    pytest.importorskip("ray")
    words = ["--checkpoint", checkpoint, "--input", corpus, "--output_dir", str(tmp_path), "--id_column", "id"]
    words += ["--rows_per_shard", "10", "--max_skipped_share", "0.5", "--engine", "ray"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *ON_RAY, "embed", *words]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stdout + printed.stderr
    table = read(tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    assert table["row_id"].to_pylist() == [f"offer {row}" for row in range(NUM_ROWS)]
    for name in ("text_embeds", "image_embeds"):
        np.testing.assert_allclose(vectors(table, name), expected[name], atol=1e-5)
    assert json.loads((tmp_path / "settings.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_that_ask_at_once_get_one_whole_model(dtype, checkpoint, corpus, expected, tmp_path, monkeypatch):
    """As an engine runs them: loaded side by side, some weights stay float32, and the default dtype changes."""
    loaded, load, together = [], EClipModel.from_pretrained, threading.Barrier(4)

    def slow_load(*words, **settings):
        time.sleep(0.2)  # the other threads come meanwhile
        loaded.append(load(*words, **settings))
        return loaded[-1]

    def in_threads(function, numbers):
        def call(number):
            together.wait(timeout=60)
            function(number)

        with ThreadPoolExecutor(len(numbers)) as pool:
            list(pool.map(call, numbers))

    given = arguments(checkpoint, corpus, tmp_path, dtype=dtype)
    shards = EmbeddedShards(tmp_path, NUM_ROWS, given.rows_per_shard)
    monkeypatch.setattr("training.data.parallel.for_each", in_threads)
    monkeypatch.setattr("training.data.parallel.use_engine", lambda engine: None)
    monkeypatch.setattr(EClipModel, "from_pretrained", slow_load)
    embedding._embed_on_ray(given, shards.missing())
    assert len(loaded) == 1
    assert {parameter.dtype for parameter in loaded[0].parameters()} == {getattr(torch, dtype)}
    assert torch.get_default_dtype() == torch.float32
    for name in ("text_embeds", "image_embeds"):
        found = vectors(read(tmp_path), name)
        np.testing.assert_allclose(found, expected[name], atol=1e-5 if dtype == "float32" else HALF)


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_a_cpu_embeds_in_float32_whatever_its_instructions(has_bfloat16, checkpoint, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bfloat16, "amx_bf16": has_bfloat16})
    report = embed_corpus(arguments(checkpoint, corpus, tmp_path))
    assert report["dtype"] == "float32" == json.loads((tmp_path / "settings.json").read_text())["dtype"]
    with pytest.raises(ValueError, match="`dtype` is 'bfloat16', but .* was begun with 'float32'"):
        embed_corpus(arguments(checkpoint, corpus, tmp_path, dtype="bfloat16"))


KILLED = """
import sys, time
from training.embedding.embedder import CorpusEmbedder
from training.arguments.embed import EmbedArguments
from training.embedding.embed_corpus import embed_corpus
embed = CorpusEmbedder._embed_titles
def slow(self, shard):
    time.sleep(0 if shard.start == 0 else 60)
    return embed(self, shard)
CorpusEmbedder._embed_titles = slow
checkpoint, corpus, output_dir = sys.argv[1:]
embed_corpus(EmbedArguments(checkpoint=checkpoint, input=[corpus], output_dir=output_dir, id_column="id",
                            rows_per_shard=10, num_workers=1, max_skipped_share=0.5))
"""


def test_a_killed_run_goes_on(checkpoint, corpus, expected, tmp_path):
    """SIGKILL after the first file: it stays as it is, and the others come."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, checkpoint, corpus, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first = tmp_path / "embeddings-00000-of-00004.parquet"
    until = time.monotonic() + 60
    while not first.is_file() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
    assert process.poll() is None, "it was still at work"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.glob("*.parquet")] == [first.name]
    written = first.stat().st_mtime_ns
    embed_corpus(arguments(checkpoint, corpus, tmp_path))
    assert first.stat().st_mtime_ns == written
    table = read(tmp_path)
    assert table["row_id"].to_pylist() == [f"offer {row}" for row in range(NUM_ROWS)]
    np.testing.assert_allclose(vectors(table, "image_embeds"), expected["image_embeds"], atol=1e-3)


def test_the_numbers_of_shards_cover_every_row(tmp_path):
    for num_rows, rows_per_shard in ((1, 1), (10, 3), (9, 3), (2, 100)):
        shards = EmbeddedShards(tmp_path, num_rows, rows_per_shard)
        assert [row for shard in range(len(shards)) for row in shards.rows(shard)] == list(range(num_rows))


def test_an_embedder_of_nothing_does_nothing(checkpoint, corpus, tmp_path):
    model, processor = EClipModel.from_pretrained(checkpoint), EClipProcessor.from_pretrained(checkpoint)
    embedder = CorpusEmbedder(load_products([corpus]), model, processor)
    assert embedder(EmbeddedShards(tmp_path, NUM_ROWS, 10), []) == 0.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields", [{"checkpoint": ""}, {"input": []}, {"rows_per_shard": 0}, {"truncate_dim": 0}], ids=str
)
def test_arguments_are_checked(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        EmbedArguments(**{"checkpoint": "model", "input": ["toy"], **fields})
