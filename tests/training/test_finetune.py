"""Fine-tuning from arguments to saved heads, on generated offers: every method, resuming, the best by validation."""

import json
import subprocess
import sys
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from conftest import MODEL, WITHOUT_PACKAGE
from safetensors.torch import load_file

from modeling_eclip import EClipForCategoryClassification, EClipModel, EClipProcessor
from modeling_eclip.fitting.linear import fit_linear
from modeling_eclip.fitting.thresholds import (
    calibrate,
    threshold_of_best_f1,
    threshold_of_precision,
    threshold_of_recall,
)
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.engine.build import build_model, build_processor, load_split
from training.engine.checkpoint import find_checkpoints
from training.evaluation.task_evaluation import evaluate_head
from training.tasks.best_weights import BestWeights
from training.tasks.finetuning import finetune
from training.tasks.heads import load_head
from training.tasks.label_share import choose_labelled
from training.tasks.registry import find_task

DATA = DataArguments(train_data=["toy"], toy_offers=100, num_workers=0)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Vectors of frozen towers are kept in the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base checkpoint with its processor."""
    folder = tmp_path_factory.mktemp("base")
    titles = load_split(DATA, "train")["title"]
    processor = build_processor(MODEL, titles)
    build_model(MODEL, processor.tokenizer, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return ModelArguments(checkpoint=str(folder))


def arguments(folder, **fields):
    settings = {"output_dir": str(folder), "num_epochs": 1.0, "batch_size": 16, "warmup_share": 0.0}
    return FinetuneArguments(**settings | fields)


def answers(head, processor, titles):
    head.eval()
    with torch.no_grad():
        return head(**processor(text=titles, return_tensors="pt")).logits


@pytest.mark.parametrize("modality", ["text", "both"])
def test_a_linear_probe_answers_in_words(base, tmp_path, modality):
    data = replace(DATA, validation_split="train")  # a few held-out rows of 30 kinds would choose by chance
    report = finetune(
        replace(MODEL, checkpoint=base.checkpoint), data, arguments(tmp_path, method="linear", modality=modality)
    )
    head, processor = (
        EClipForCategoryClassification.from_pretrained(tmp_path),
        EClipProcessor.from_pretrained(tmp_path),
    )
    assert head.config.modality == modality
    rows = load_split(DATA, "train")
    found = head.decode(answers(head, processor, list(rows["title"])))
    is_correct = [paths[0][0] == tuple(path) for paths, path in zip(found, rows["category"], strict=True)]
    assert np.mean(is_correct) > 0.3  # of 30 kinds, from towers that have learned nothing
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["validation"] == report["validation"] and 0 <= report["validation"]["accuracy"] <= 1
    assert report["trained_weights"] < report["weights"] / 2
    before = load_file(f"{base.checkpoint}/model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(after[f"eclip.{name}"], value) for name, value in before.items())  # towers stay
    assert isinstance(EClipModel.from_pretrained(tmp_path), EClipModel)


def test_a_linear_probe_tells_what_it_used_and_stops_where_most_rows_cannot_be(base, tmp_path):
    rows = load_split(DATA, "train").select(range(60))
    rows.save_to_disk(tmp_path / "validation")
    place = iter(range(60))
    broken = rows.map(lambda row: {"image": {"bytes": b"none", "path": None} if next(place) < 50 else row["image"]})
    broken.save_to_disk(tmp_path / "train")
    data = replace(DATA, train_data=[str(tmp_path / "train")], validation_data=[str(tmp_path / "validation")])
    settings = arguments(tmp_path / "head", method="linear", modality="image")
    with pytest.raises(ValueError, match=r"50 of 60 rows skipped \(83.3%\): missing 50"):
        finetune(base, data, settings)
    data = replace(data, max_skipped_share=0.9)
    report = finetune(base, data, replace(settings, output_dir=str(tmp_path / "other")))
    assert (report["rows"], report["skipped"]) == (10, {"missing": 50})


@pytest.mark.parametrize("method, task", [("full", "category"), ("linear", "clustering")])
def test_weights_are_the_same_whether_vectors_are_made_or_found(method, task, base, tmp_path):
    start = replace(base, freeze=[r"^vision_model\."])
    for name in ("cold", "warm"):
        settings = {"method": method, "task": task, "cache_frozen_towers": True}
        finetune(start, DATA, arguments(tmp_path / name, modality="both", **settings))
    cold, warm = (load_file(tmp_path / name / "model.safetensors") for name in ("cold", "warm"))
    assert all(torch.equal(cold[name], value) for name, value in warm.items())


@pytest.mark.parametrize("task", ["category", "attributes"])
def test_unknown_classes_are_mistakes_in_fine_tuning_and_in_evaluation(base, tmp_path, task):
    words = ["red mug", "blue boot", "green lamp"]
    rows = [{"title": f"{words[i % 3]} {i}", "category": words[i % 3].split()[1]} for i in range(60)]
    held_out = [
        *rows[:24],
        *({"title": f"tent {i}", "category": "tent"} for i in range(8)),
        {"title": "x", "category": ""},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    pd.DataFrame(held_out).to_parquet(tmp_path / "held_out.parquet")
    data = DataArguments(
        train_data=[str(tmp_path / "train.parquet")],
        validation_data=[str(tmp_path / "held_out.parquet")],
        test_data=[str(tmp_path / "held_out.parquet")],
        attribute_columns=["category"],
        image_column="none",
        num_workers=0,
    )
    report = finetune(base, data, arguments(tmp_path / "head", task=task, method="linear", modality="text"))
    assert report["validation_rows"] == {"measured": 32, "unknown": 8, "unlabelled": 1, "unusable": 0}
    assert report["validation"]["accuracy"] <= 24 / 32
    kind, head = find_task(task), load_head(str(tmp_path / "head"))
    processor = EClipProcessor.from_pretrained(tmp_path / "head")
    settings = EvaluationArguments(checkpoint=["head"], num_resamples=2)
    found = evaluate_head(kind, head, processor, load_split(data, "test"), data, settings, Accelerator())
    # Evaluation tells coverage and calibration beside them.
    assert {name: found.metrics[name].value for name in report["validation"]} == pytest.approx(report["validation"])
    assert 0 <= found.metrics["coverage_at_precision_95"].value <= 1
    written = found.to_json()
    assert (written["rows"], written["unknown_labels"]) == (32, {"category": {"tent": 8}})


def test_a_whole_model_learns_resumes_and_ends_at_its_best(base, tmp_path):
    settings = {"modality": "text", "num_epochs": 2.0, "save_every_samples": 32, "save_total_limit": 9}
    # Without n-grams, which tell the kinds at once and would hide what the towers learn.
    settings |= {"tower_learning_rate": 5e-3, "learning_rate": 1e-2, "lexical_features": False}
    data = replace(DATA, validation_split="train")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    report = finetune(base, data, arguments(whole, **settings))
    history = report["training"]["history"]
    evaluations = [record for record in history if "loss" not in record]
    assert [record["samples"] for record in evaluations] == [0, 96, 172]  # once an epoch of 86, after a step
    scores = [(record["accuracy"] + record["macro_f1"]) / 2 for record in evaluations]
    best = evaluations[scores.index(max(scores))]
    assert best["samples"] > 0 and report["best_at_samples"] == best["samples"]
    assert report["validation"]["accuracy"] == best["accuracy"] > 2 * evaluations[0]["accuracy"]
    losses = [record["loss"] for record in history if "loss" in record]
    assert losses[-1] < losses[0]

    finetune(base, data, arguments(stopped, **settings))
    for checkpoint in find_checkpoints(stopped)[1:]:
        checkpoint.rename(tmp_path / checkpoint.name)  # as if the run had been killed after the first
    resumed = finetune(base, data, arguments(stopped, resume_from_checkpoint="latest", **settings))
    assert [record["samples"] for record in resumed["training"]["history"]] == [r["samples"] for r in history]
    expected, found = load_file(whole / "model.safetensors"), load_file(stopped / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    before = load_file(f"{base.checkpoint}/model.safetensors")
    # Titles alone: the other tower, and the space that the two share, stay as they were.
    same = {name for name, value in before.items() if torch.equal(value, expected[f"eclip.{name}"])}
    assert {name for name in before if name.startswith("vision_model.")} <= same
    assert not any(name.startswith("text_model.encoder") for name in same)


def test_adapters_are_saved_alone_or_merged(base, tmp_path):
    arguments_of = {"modality": "both", "method": "lora", "num_epochs": 3.0}
    model = replace(base, lora_rank=2)
    alone = finetune(model, DATA, arguments(tmp_path / "alone", **arguments_of))
    finetune(model, DATA, arguments(tmp_path / "merged", merge=True, **arguments_of))
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    assert alone["trained_weights"] < alone["weights"]
    heads = [load_head(str(tmp_path / name)) for name in ("alone", "merged")]
    processor = EClipProcessor.from_pretrained(tmp_path / "alone")
    titles = list(load_split(DATA, "validation")["title"])
    logits = [answers(head, processor, titles) for head in heads]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    # By the Auto class, from another folder, in a process that has the code beside the adapters alone.
    inputs = processor(text=titles[:4], return_tensors="pt")
    torch.save(dict(inputs), tmp_path / "inputs.pt")
    code = (
        "import sys, torch, transformers\n"
        "head = transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "torch.save(head(**torch.load(sys.argv[2])).logits.detach(), sys.argv[3])\n"
    )
    paths = [str(tmp_path / name) for name in ("alone", "inputs.pt", "logits.pt")]
    subprocess.run([sys.executable, "-c", WITHOUT_PACKAGE + code, *paths], check=True, cwd=tmp_path / "merged")
    stranger = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(stranger, heads[0](**inputs).logits.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="holds adapters; train them with `--merge true`"):
        finetune(replace(base, checkpoint=paths[0]), DATA, arguments(tmp_path / "next", modality="text"))
    untrained = EClipForCategoryClassification.from_pretrained(base.checkpoint, config=heads[0].config)
    assert not torch.allclose(answers(untrained, processor, titles), logits[0], atol=1e-3)
    adapted = EClipModel.from_pretrained(tmp_path / "merged").state_dict()
    before = EClipModel.from_pretrained(base.checkpoint).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(adapted[name], value)}
    assert changed and all("layer" in name and name.endswith("weight") for name in changed)


def test_adapters_alone_need_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="comes from `configs`.*--merge true"):
        finetune(MODEL, DATA, arguments(tmp_path, method="lora"))


def test_calibration_and_thresholds():
    logits, labels = torch.tensor([-4.0, -2.0, 2.0, 4.0]), torch.tensor([0, 1, 0, 1])
    slope, intercept = calibrate(logits, labels)
    assert 0 < slope < 1 and abs(intercept) < 1e-3  # symmetric, and less sure than the logits were
    assert calibrate(-logits, labels) == [1.0, 0.0]  # never turned round
    assert calibrate(logits, torch.ones(4)) == [1.0, 0.0]
    probabilities = torch.tensor([0.1, 0.3, 0.6, 0.9, 0.8])
    # Yes from 0.6 on: both positives and one other, F1 0.8; from 0.8 on: 2/3; from 0.3 on: 2/3.
    assert threshold_of_best_f1(probabilities, torch.tensor([0, 0, 1, 1, 0])) == pytest.approx(0.45)
    labels = torch.tensor([1, 0, 1, 1, 1])
    assert threshold_of_recall(probabilities, labels, 0.75) == pytest.approx(0.6, abs=1e-5)
    assert threshold_of_recall(probabilities, labels, 0.76) == pytest.approx(0.1, abs=1e-5)
    assert threshold_of_recall(probabilities, torch.zeros(5), 0.9) == 0.5


def test_thresholds_of_a_precision():
    confidences = np.array([0.6, 0.9, 0.8, 0.7, 0.5])
    is_right = np.array([False, True, True, True, False])
    # One more answer is counted as wrong: of the surest 1, 2, 3, 4, 5 that leaves 1/2, 2/3, 3/4, 3/5, 3/6.
    for precision, lowest in ((0.75, 0.65), (0.7, 0.65), (0.6, 0.55), (0.5, 0.0), (0.76, None)):
        found = threshold_of_precision(confidences, is_right, precision)
        assert found == (None if lowest is None else pytest.approx(lowest)), precision
    assert threshold_of_precision(np.full(3, 0.7), np.array([True, True, False]), 0.7) is None  # equals stay together
    assert threshold_of_precision(np.empty(0), np.empty(0, dtype=bool), 0.5) is None
    # As many as the rule says it needs.
    for precision, needed in ((0.95, 19), (0.99, 99)):
        right = np.ones(needed, dtype=bool)
        assert threshold_of_precision(np.linspace(0.5, 1, needed), right, precision) == 0.0
        assert threshold_of_precision(np.linspace(0.5, 1, needed - 1), right[1:], precision) is None


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("category", ["category"]),
        ("attributes", ["colour", "pattern"]),
        ("matching", ["no", "yes"]),
        ("adult", ["no", "yes"]),
    ],
)
def test_answers_below_the_wished_precision_are_sent_to_review(base, tmp_path, caplog, task, kinds):
    data = replace(DATA, validation_split="train", test_split="train")
    settings = {"task": task, "method": "linear", "modality": "text", "label_share": 0.2}
    settings |= {"lexical_features": False}  # with them there is little to send to review
    report = finetune(base, data, arguments(tmp_path, **settings, target_precision=0.8))
    assert sorted(report["review_below"]) == kinds
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["target_precision"] == 0.8 and written["review_below"] == report["review_below"]
    kind, head = find_task(task), load_head(str(tmp_path))
    assert head.config.review_below == report["review_below"]
    processor = EClipProcessor.from_pretrained(tmp_path)
    options = EvaluationArguments(checkpoint=["head"], num_resamples=2)
    products = kind.load_split(data, "train", 0)
    found = evaluate_head(kind, head, processor, products, data, options, Accelerator())
    metrics = {name: one.value for name, one in found.metrics.items()}
    reviews = found.to_json()["review"]
    assert sorted(reviews) == kinds
    answers = sum(one["answers"] for one in reviews.values())
    left = sum(one["sent_to_review"] for one in reviews.values())
    # On the rows that it was fitted to, what is given is right so often, and more cannot be given.
    assert 0 < left < answers and metrics["selective_precision"] >= 0.8
    assert metrics["coverage"] == pytest.approx(1 - left / answers)
    # What cannot be reached is said.
    with caplog.at_level("WARNING"):
        finetune(base, data, arguments(tmp_path / "all", **settings, target_precision=1.0))
    assert "precision 1 is not reached by" in caplog.text and "all go to review" in caplog.text
    assert set(load_head(str(tmp_path / "all")).config.review_below.values()) == {None}
    # A head that starts from one with review has none of its own accord.
    again = replace(base, checkpoint=str(tmp_path / "all"))
    finetune(again, data, arguments(tmp_path / "none", **settings))
    assert load_head(str(tmp_path / "none")).config.review_below is None


def test_groups_of_a_wished_precision(base, tmp_path, caplog):
    data = replace(DATA, validation_split="train")
    # Without n-grams, by which no wrong pair is left to be more careful about.
    settings = {"task": "clustering", "method": "linear", "modality": "text", "lexical_features": False}
    loose = finetune(base, data, arguments(tmp_path / "loose", **settings))["validation"]
    precise = finetune(base, data, arguments(tmp_path / "precise", **settings, target_precision=0.4))["validation"]
    assert loose["pairwise_precision"] < 0.4 <= precise["pairwise_precision"] < 1
    assert load_head(str(tmp_path / "precise")).config.review_below is None
    with caplog.at_level("WARNING"):
        finetune(base, data, arguments(tmp_path / "none", **settings, target_precision=1.0))
    assert "is not reached by any group" in caplog.text
    assert load_head(str(tmp_path / "none")).config.cluster_threshold == 1.0


def test_shares_of_labels_are_nested_and_hold_both_kinds():
    labels = np.zeros(100, dtype=np.int64)
    labels[77] = 1
    small, large = choose_labelled(labels, 0.02, seed=4), choose_labelled(labels, 0.3, seed=4)
    assert len(small) == 2 and len(large) == 30 and set(small) <= set(large)
    assert 77 in small
    assert len(choose_labelled(np.arange(100), 0.001, seed=0)) == 2
    assert not np.array_equal(choose_labelled(np.arange(100), 0.1, 0), choose_labelled(np.arange(100), 0.1, 1))


def test_the_best_weights_come_back():
    layer = torch.nn.Linear(1, 1, bias=False)
    best = BestWeights(layer)
    for weight, score in ((1.0, 0.5), (2.0, 0.7), (3.0, 0.6)):
        torch.nn.init.constant_(layer.weight, weight)
        best.offer(score, int(weight))
    assert (best.score, best.samples) == (0.7, 2)
    again = BestWeights(layer)
    again.load_state_dict(best.state_dict())
    again.restore()
    assert layer.weight.item() == 2.0
    assert not best.offer(float("nan"), 4)
    nothing = BestWeights(layer)
    assert nothing.offer(float("nan"), 1) and nothing.offer(float("nan"), 2)  # nothing to choose by: the latest
    assert nothing.offer(0.1, 3) and nothing.samples == 3


def test_labels_of_one_class_make_a_constant_answer():
    layer = torch.nn.Linear(3, 4)
    fit_linear(layer, np.eye(3), np.array([2, 2, 2]), np.eye(3), np.array([2, 1, 2]))
    assert layer(torch.randn(5, 3)).argmax(dim=1).tolist() == [2] * 5
    fit_linear(layer, np.empty((0, 3)), np.empty(0, dtype=int), np.eye(3), np.array([2, 1, 2]))
    assert not layer(torch.randn(5, 3)).any()


def test_validation_without_labels_is_refused(base, tmp_path):
    with_other_kinds = load_split(DATA, "validation").map(lambda row: {"category": ["Elsewhere", "Nothing"]})
    with_other_kinds.to_parquet(tmp_path / "validation.parquet")
    data = replace(DATA, validation_data=[str(tmp_path / "validation.parquet")])
    with pytest.raises(
        ValueError, match="none of the .* rows of `validation_data` has a label that training has seen"
    ):
        finetune(base, data, arguments(tmp_path / "head", method="linear"))


def test_metrics_that_are_not_defined_are_null(base, tmp_path):
    blank = load_split(DATA, "validation").map(lambda row: {"restricted": False})
    blank.to_parquet(tmp_path / "validation.parquet")
    data = replace(DATA, validation_data=[str(tmp_path / "validation.parquet")])
    report = finetune(base, data, arguments(tmp_path / "head", task="adult", method="linear", modality="text"))
    assert np.isnan(report["validation"]["average_precision"])
    written = (tmp_path / "head" / "report.json").read_text()
    assert json.loads(written, parse_constant=pytest.fail)["validation"]["average_precision"] is None


def test_unlikely_values_are_not_stated(base, tmp_path):
    settings = arguments(tmp_path, task="attributes", method="linear", modality="text", min_probability=1.0)
    finetune(base, DATA, settings)
    head, processor = load_head(str(tmp_path)), EClipProcessor.from_pretrained(tmp_path)
    predictions = head.decode(answers(head, processor, ["what is it"]))
    assert set(predictions[0].values()) == {head.config.not_stated}


@pytest.mark.parametrize("method", ["linear", "full", "lora"])
@pytest.mark.parametrize("task", ["attributes", "matching", "clustering", "adult"])
def test_every_other_task_by_every_method(base, tmp_path, task, method):
    # Restricted offers are rare: a few held-out rows have none.
    data = replace(DATA, validation_split="train") if task == "adult" else DATA
    report = finetune(base, data, arguments(tmp_path, task=task, method=method, num_epochs=0.3, modality="both"))
    names = {"attributes": "colour_macro_f1", "clustering": "adjusted_rand_index"}
    assert np.isfinite(report["validation"][names.get(task, "average_precision")])
    head, processor = load_head(str(tmp_path)), EClipProcessor.from_pretrained(tmp_path)
    inputs = processor(text=["red mug", "red shoes"], return_tensors="pt")
    with torch.no_grad():
        if task == "matching":
            inputs = {name: value[None] for name, value in inputs.items()}  # one pair
        output = head(**inputs)
    if task == "clustering":
        assert head.config.cluster_threshold != type(head.config)().cluster_threshold
        assert head.cluster(output.embeds, products=output.products).tolist() in ([0, 0], [0, 1])
        if head.scores_pairs:
            with pytest.raises(ValueError, match="give `outputs.products`"):
                head.cluster(output.embeds)
    elif task == "attributes":
        assert all(row.keys() == {"colour", "pattern"} for row in head.decode(output.logits))
        assert head.decode(output.logits)[0]["colour"] in head.config.attributes["colour"]
    else:
        assert head.decode(output.logits)[0] in (True, False)
        assert head.config.decision_threshold is not None and head.config.calibration[0] > 0
