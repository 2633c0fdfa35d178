"""The filter of mismatched pairs: scores against a plain loop, and offers dropped by a model, given or trained."""

import json
import statistics
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import MODEL

from training.corpus import mismatch_scores
from training.corpus.mismatch_scores import embed_parts, read_embeddings, relative_scores
from training.corpus.options import PrepareArguments
from training.corpus.pipeline import prepare
from training.corpus.toy_raw_offers import write_raw_offers
from training.engine import contrastive_training
from training.engine.build import build_model, build_processor
from training.prepare import first_model_trainer


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_pairs(number, categories, seed=0, noise=1.0):
    """Titles and images that share what they show, of some categories."""
    dice = np.random.default_rng(seed)
    shown = dice.standard_normal((number, 24))
    images, texts = (unit(shown + noise * dice.standard_normal((number, 24))) for _ in range(2))
    return images, texts, dice.integers(0, categories, number)


def naive_scores(images, texts, categories):
    """The same in loops over Python floats, as the docstring of the module says it."""
    images, texts = images.astype(float).tolist(), texts.astype(float).tolist()
    number = len(images)

    def cosine(image, text):
        return sum(left * right for left, right in zip(image, text, strict=True))

    fit = []
    for place in range(number):
        of_image = sum(cosine(images[place], text) for text in texts) / number
        of_title = sum(cosine(image, texts[place]) for image in images) / number
        fit.append(cosine(images[place], texts[place]) - (of_image + of_title) / 2)

    def middle_and_spread(values):
        middle = statistics.median(values)
        return middle, 1.4826 * statistics.median(abs(value - middle) for value in values)

    whole = middle_and_spread(fit)
    scores = []
    for place in range(number):
        own = [fit[other] for other in range(number) if categories[other] == categories[place]]
        weight = len(own) / (len(own) + 20)
        middle, spread = (
            weight * of_own + (1 - weight) * of_all
            for of_own, of_all in zip(middle_and_spread(own), whole, strict=True)
        )
        scores.append((fit[place] - middle) / max(spread, 1e-6))
    return scores


@pytest.mark.parametrize(("number", "categories"), [(1, 1), (2, 1), (7, 7), (40, 1), (60, 5), (61, 40)])
def test_scores_are_those_of_a_plain_loop(number, categories):
    pairs = random_pairs(number, categories, seed=number)
    found = relative_scores(*pairs)
    assert found.shape == (number,) and found.dtype == np.float64
    np.testing.assert_allclose(found, naive_scores(*pairs), rtol=1e-6, atol=1e-6)


def test_one_offer_is_neither_good_nor_bad():
    assert relative_scores(*random_pairs(1, 1)).tolist() == [0.0]


def test_categories_of_one_offer_each_are_drawn_towards_all():
    """Its own median is the offer itself: a weight of 1/21 of it leaves 20/21 of how far it is from all."""
    images, texts, _ = random_pairs(50, 1)
    together = relative_scores(images, texts, np.zeros(50, dtype=np.int64))
    alone = relative_scores(images, texts, np.arange(50))
    assert np.argsort(alone).tolist() == np.argsort(together).tolist()


def test_the_order_of_offers_and_the_numbers_of_categories_change_nothing():
    images, texts, categories = random_pairs(80, 6)
    expected = relative_scores(images, texts, categories)
    order = np.random.default_rng(1).permutation(80)
    found = relative_scores(images[order], texts[order], (99 - 3 * categories)[order])
    np.testing.assert_allclose(found, expected[order], rtol=1e-9)


def test_planted_mismatches_come_last():
    images, texts, categories = random_pairs(400, 4, noise=0.3)
    planted = np.arange(0, 400, 20)
    texts[planted] = texts[np.roll(planted, 1)]
    scores = relative_scores(images, texts, categories)
    assert set(np.argsort(scores)[:20].tolist()) == set(planted.tolist())


def test_a_category_that_fits_worse_is_not_dropped_for_it():
    images, texts, _ = random_pairs(2000, 1, noise=0.4)
    categories = np.repeat([0, 1], 1000)
    texts[1000:] = unit(texts[1000:] + unit(np.random.default_rng(5).standard_normal((1000, 24))))
    cosines = (images * texts).sum(axis=1)
    scores = relative_scores(images, texts, categories)
    in_worse = [int((np.argsort(values)[:200] >= 1000).sum()) for values in (cosines, scores)]
    assert in_worse[0] > 190 and 80 <= in_worse[1] <= 120


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_raw_offers(folder, 200)
    return folder / "raw.parquet"


@pytest.fixture(scope="module")
def checkpoint(raw, tmp_path_factory):
    """A model that has learned nothing; its vectors are vectors all the same."""
    folder = tmp_path_factory.mktemp("model")
    processor = build_processor(MODEL, [title or "" for title in pq.read_table(raw)["title"].to_pylist()])
    build_model(MODEL, processor.tokenizer, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(given, output, **settings):
    columns = {"id_column": "offer_id", "rows_per_shard": 50, "num_examples": 2}
    arguments = PrepareArguments(input=[str(given)], output=str(output), **columns | settings)
    return prepare(arguments, first_model_trainer(arguments.first_model) if arguments.first_model else None)


def rows_of(folder, kind):
    paths = sorted((Path(folder) / kind).glob("*.parquet"))
    return {row["offer_id"]: row for path in paths for row in pq.read_table(path).to_pylist()}


@pytest.fixture(scope="module")
def unfiltered(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unfiltered")
    run(raw, folder)
    return folder


def test_a_model_drops_the_worst_share(raw, checkpoint, unfiltered, tmp_path, monkeypatch):
    loaded = []
    original = mismatch_scores._embed
    monkeypatch.setattr(mismatch_scores, "_embed", lambda *given: loaded.append(given) or original(*given))
    settings = {"checkpoint": str(checkpoint), "mismatch_share": 0.1, "bytes_at_once": 60_000}
    report = run(raw, tmp_path, **settings)
    number = len(rows_of(unfiltered, "kept"))
    expected = round(0.1 * number)
    dropped = {sku: row for sku, row in rows_of(tmp_path, "dropped").items() if row["reason"] == "mismatched"}
    assert len(dropped) == expected == report["dropped"]["mismatched"] and report["kept"] == number - expected
    mismatches = report["mismatches"]
    assert (mismatches["scored"], mismatches["share"], sum(mismatches["counts"])) == (number, 0.1, number)
    assert len(mismatches["edges"]) == len(mismatches["counts"]) + 1
    # The notes say the scores, and no offer that stays has a worse one.
    kept = np.load(tmp_path / "work" / "mismatch_scores.npz")
    worst = np.sort(kept["score"])[:expected]
    notes = sorted(float(row["note"].removeprefix("score ")) for row in dropped.values())
    np.testing.assert_allclose(notes, worst, atol=0.0051)
    assert mismatches["threshold"] == worst[-1]
    # All other offers are as they are without a model; only derived catalogs may differ.
    assert rows_of(tmp_path, "kept").keys() | dropped.keys() == rows_of(unfiltered, "kept").keys()
    # A second run embeds nothing again, and says the same.
    assert len(loaded) > 1
    loaded.clear()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "round-1" / "embeddings").iterdir()}
    again = run(raw, tmp_path, **settings)
    assert not loaded and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert again["mismatches"] == json.loads(json.dumps(mismatches)) and again["dropped"] == report["dropped"]


def test_a_model_may_look_for_catalogs_alone(raw, checkpoint, tmp_path):
    report = run(raw, tmp_path, checkpoint=str(checkpoint))
    assert "mismatched" not in report["dropped"]
    assert report["mismatches"]["threshold"] is None and report["mismatches"]["scored"] == report["kept"]


def test_the_vectors_of_a_part_are_those_of_its_offers(raw, checkpoint, tmp_path):
    run(raw, tmp_path, bytes_at_once=60_000)
    rows = pq.read_table(tmp_path / "work" / "rows", columns=["row", "reason"]).to_pylist()
    good = np.array(sorted(row["row"] for row in rows if row["reason"] is None), dtype=np.uint64)
    parts = (good >> np.uint64(48)).astype(int)
    wanted = {int(part): good[parts == part][::2] for part in np.unique(parts)}
    assert len(wanted) > 1
    embed_parts(str(checkpoint), wanted, tmp_path / "work" / "rows", tmp_path / "embeddings")
    found = read_embeddings(tmp_path / "embeddings")
    assert found["row"].tolist() == np.concatenate(list(wanted.values())).tolist()
    for name in ("image_embeds", "text_embeds"):
        assert found[name].shape == (len(found["row"]), 16)
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1, atol=1e-5)
    # The same offer alone: the others are not in its vectors, nor in its place.
    last = {int(parts[-1]): found["row"][-1:]}
    embed_parts(str(checkpoint), last, tmp_path / "work" / "rows", tmp_path / "alone")
    alone = read_embeddings(tmp_path / "alone")
    for name in ("image_embeds", "text_embeds"):
        np.testing.assert_allclose(alone[name][0], found[name][-1], atol=1e-5)


@pytest.fixture
def first_model(tmp_path):
    """A training of two steps."""
    settings = {
        "vision_config": json.loads(MODEL.vision_config),
        "text_config": json.loads(MODEL.text_config),
        "vocab_size": 300,
        "projection_dim": 16,
        "max_title_length": 16,
        "max_samples": 32,
        "batch_size": 16,
        "num_workers": 0,
        "eval_every_samples": 32,
        "save_every_samples": 32,
    }
    path = tmp_path / "first_model.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_a_first_model_is_trained_each_round_on_what_the_one_before_left(raw, first_model, tmp_path, monkeypatch):
    trained = []

    def train(*given):
        if len(trained) == stop_at:
            raise KeyboardInterrupt
        trained.append(given[-1].output_dir)
        return original(*given)

    original, stop_at = contrastive_training.train, 1
    monkeypatch.setattr(contrastive_training, "train", train)
    settings = {"first_model": str(first_model), "mismatch_share": 0.1, "mismatch_rounds": 2}
    output = tmp_path / "corpus"
    with pytest.raises(KeyboardInterrupt):
        run(raw, output, **settings)
    stop_at = -1
    report = run(raw, output, **settings)
    rounds = [output / "work" / f"round-{number}" for number in (1, 2)]
    assert trained == [str(of / "model") for of in rounds]  # the first one was not trained again
    scored = report["mismatches"]["scored"]
    assert report["dropped"]["mismatched"] == round(0.1 * scored) and report["kept"] == scored - round(0.1 * scored)
    seen = [rows_of(of, "kept") for of in rounds]
    assert len(seen[0]) == scored and len(seen[1]) == report["kept"] and seen[1].keys() < seen[0].keys()
    first = np.load(rounds[0] / "embeddings" / "part-00000.npz")
    assert len(first["row"]) == scored == len(np.load(rounds[1] / "embeddings" / "part-00000.npz")["row"])
    again = run(raw, output, **settings)
    assert len(trained) == 2 and again["dropped"] == report["dropped"] and again["mismatches"] == report["mismatches"]


def test_no_offer_is_left_to_score(checkpoint, tmp_path):
    rows = {"offer_id": [1, 2], "title": ["red mug", ""], "image": pa.nulls(2, pa.binary())}
    pq.write_table(pa.table(rows), tmp_path / "raw.parquet")
    with pytest.raises(ValueError, match="No offer is left that a model could score"):
        run(tmp_path / "raw.parquet", tmp_path, checkpoint=str(checkpoint), mismatch_share=0.1)


def test_a_first_model_needs_a_function_that_trains_it(raw, first_model, tmp_path):
    arguments = PrepareArguments(input=[str(raw)], output=str(tmp_path / "corpus"), first_model=str(first_model))
    with pytest.raises(ValueError, match="`first_model` is .*give `train_first_model`"):
        prepare(arguments)
    assert not (tmp_path / "corpus").exists()


def test_a_mistyped_configuration_of_the_first_model_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "first_model.yaml").write_text("num_epoch: 1\n")
    with pytest.raises(SystemExit):
        first_model_trainer(str(tmp_path / "first_model.yaml"))
    assert "did you mean 'num_epochs'?" in capsys.readouterr().err
