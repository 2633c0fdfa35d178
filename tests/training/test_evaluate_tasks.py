"""Heads on a split: predictions against labels, by hand; and the command from checkpoints to plots."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from call_script import call_script
from conftest import MODEL
from torch import nn

import modeling_eclip
from modeling_eclip import ProductEmbeds
from modeling_eclip.representation_eclip import EClipYesOrNoModel
from modeling_eclip.toy.catalog import toy_catalog
from training import evaluate_tasks
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.data.columns import CANONICAL_FEATURES
from training.data.pairs import ProductPairs
from training.engine.build import build_model, build_processor
from training.evaluation import measure_checkpoints
from training.evaluation.predictions import answer_task
from training.evaluation.task_evaluation import load_evaluated_split, load_task_head
from training.evaluation.task_metrics import Estimate, Outcomes, measure, metrics_to_json
from training.tasks.answers import TaskAnswers
from training.tasks.features import Represented
from training.tasks.registry import find_task

DATA = DataArguments(train_data=["toy"], num_workers=0)


class Output(dict):
    """A head's output."""

    __getattr__ = dict.__getitem__


class FixedHead(nn.Module):
    """A head whose answers are given beforehand."""

    device = torch.device("cpu")
    decision_threshold = EClipYesOrNoModel.decision_threshold

    def __init__(self, given, **fields):
        super().__init__()
        self.given = given
        self.config = SimpleNamespace(decision_threshold=None, not_stated="not stated", review_below=None, **fields)

    def answer(self, embeds, labels=None, right=None):
        return Output(logits=self.given, embeds=self.given, products=self.given)

    def probabilities(self, logits):
        return logits

    def decode(self, logits, review=True):
        columns = {
            name: [self.config.attributes[name][value] for value in values.argmax(dim=1).tolist()]
            for name, values in logits.items()
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def cluster(self, embeds, products=None):
        return embeds


def products(num_rows=4, **columns):
    canonical = {
        "title": [f"title {row}" for row in range(num_rows)],
        "image": [None] * num_rows,
        "catalog_id": [-1] * num_rows,
        "row_id": [str(row) for row in range(num_rows)],
    }
    table = datasets.Dataset.from_dict(canonical, features=datasets.Features(CANONICAL_FEATURES))
    for name, values in columns.items():
        table = table.remove_columns(name) if name in canonical else table
        table = table.add_column(name, values)
    return table


def represented(row_ids, labels=None, rows=None):
    rows = np.array([int(row_id) for row_id in row_ids] if rows is None else rows)
    labels = torch.zeros(len(row_ids), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Represented(ProductEmbeds(), labels, list(row_ids), rows, list(row_ids))


def told(mistakes):
    return [(mistake.rows, mistake.prediction, mistake.label) for mistake in mistakes]


def test_category_answers():
    paths = [["Shoes", "Boots"], ["Bags"]]
    rows = [["Shoes", "Boots"], ["Bags"], None, ["Shoes", "Clogs"], ["Bags"]]
    # The first row could not be used.
    head = FixedHead(torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [0.3, 0.7]]).log(), category_paths=paths)
    answers = answer_task(find_task("category"), head, products(5, category=rows), represented("1234"), DATA)
    assert answers.references == [["Bags"], ["Shoes", "Clogs"], ["Bags"]]
    assert answers.predictions == pytest.approx(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]))
    assert answers.left_out == {"without a label": 1, "unusable": 1}
    assert answers.unknown == {"category": {"Shoes > Clogs": 1}}
    assert told(answers.mistakes) == [
        ([1], "Shoes > Boots (0.90)", "Bags"),
        ([3], "Shoes > Boots (0.60)", "Shoes > Clogs"),
    ]
    metrics = measure([Outcomes.of(answers)], num_resamples=50)
    assert metrics["accuracy"].value == pytest.approx(1 / 3)
    assert metrics["level_1_accuracy"].value == pytest.approx(2 / 3)  # shoes they are
    judged = find_task("category").judge(answers)
    assert judged.confidences[:, 0] == pytest.approx([0.9, 0.6, 0.7]) and judged.count_reviews() is None
    assert judged.is_right[:, 0].tolist() == [False, False, True]


def test_attribute_answers():
    logits = {
        "colour": torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]).log(),
        "size": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]).log(),
    }
    head = FixedHead(
        logits, attributes={"colour": ["blue", "red"], "size": ["L", "S"]}, attribute_names=["colour", "size"]
    )
    table = products(3, colour=["red", "pink", None], size=["L", None, None])
    answers = answer_task(find_task("attributes"), head, table, represented("012"), DATA)
    assert answers.references == [["red", "L"], ["pink", None]]
    assert answers.predictions == [["blue", "L"], ["red", "S"]]
    assert answers.left_out == {"without a label": 1} and answers.unknown == {"colour": {"pink": 1}}
    assert told(answers.mistakes) == [
        ([0], "colour: blue (0.80)", "colour: red"),
        ([1], "colour: red (0.60)", "colour: pink"),
    ]
    assert measure([Outcomes.of(answers)], num_resamples=50)["accuracy"].value == pytest.approx(1 / 3)
    judged = find_task("attributes").judge(answers)
    assert judged.confidences == pytest.approx(np.array([[0.8, 0.9], [0.6, np.nan]]), nan_ok=True)
    assert judged.is_right[:, 0].tolist() == [False, False] and judged.is_right[0, 1]


def test_adult_answers():
    head = FixedHead(torch.tensor([0.9, 0.4, 0.3, 0.2]))
    table = products(restricted=[False, True, None, False])
    answers = answer_task(find_task("adult"), head, table, represented("0123"), DATA)
    assert told(answers.mistakes) == [
        ([0], "restricted (0.90)", "not restricted"),
        ([1], "not restricted (0.40)", "restricted"),
    ]
    assert answers.left_out == {"without a label": 1}
    head.config.decision_threshold = 0.4
    answers = answer_task(find_task("adult"), head, table, represented("0123"), DATA)
    assert len(answers.mistakes) == 1
    assert measure([Outcomes.of(answers)], num_resamples=50)["recall"].value == 1.0
    # Restricted at .9 (wrong) and at .4 (right), and one that is not, at .2.
    head.config.review_below = {"yes": 0.5, "no": None}
    answers = answer_task(find_task("adult"), head, table, represented("0123"), DATA)
    judged = find_task("adult").judge(answers)
    assert judged.confidences == pytest.approx(np.array([[np.nan, 0.9], [np.nan, 0.4], [0.8, np.nan]]), nan_ok=True)
    assert judged.count_reviews() == {
        "no": {"answers": 1, "sent_to_review": 1},
        "yes": {"answers": 2, "sent_to_review": 1},
    }
    metrics = measure([Outcomes.of(answers, judged)], num_resamples=50)
    assert metrics["coverage"].value == pytest.approx(1 / 3) and metrics["yes_selective_precision"].value == 0.0
    assert metrics["coverage_at_precision_95"].value == pytest.approx(1 / 3)  # the no; the surest yes is wrong


def test_matching_answers():
    pairs = ProductPairs(
        products(6),
        left=np.array([0, 0, 1, 4]),
        right=np.array([1, 2, 3, 5]),
        labels=np.array([1, 0, 0, 1]),
    )
    # The pair 0 and 2 could not be used.
    rows = represented(["0 | 1", "1 | 3", "4 | 5"], labels=[1, 0, 1], rows=[0, 2, 3])
    answers = answer_task(find_task("matching"), FixedHead(torch.tensor([0.8, 0.7, 0.1])), pairs, rows, DATA)
    assert told(answers.mistakes) == [
        ([4, 5], "two products (0.10)", "one product"),
        ([1, 3], "one product (0.70)", "two products"),
    ]
    # 0 and 1 are one product, so their pairs are resampled together.
    assert answers.groups[0] == answers.groups[1] != answers.groups[2]
    assert answers.left_out == {"unusable": 1}


def test_clustering_answers():
    table = products(6, catalog_id=[5, 5, 5, 7, 7, -1])
    answers = answer_task(
        find_task("clustering"), FixedHead(torch.tensor([0, 0, 1, 1, 1, 1])), table, represented("012345"), DATA
    )
    assert told(answers.mistakes) == [
        ([3, 2, 5], "one group of 4 offers", "3 products"),  # 5 wrong pairs
        ([0, 2], "2 groups", "one product of 3 offers"),  # 2 pairs apart
    ]
    assert measure([Outcomes.of(answers)])["pairwise_recall"].value == 0.5


def test_a_large_wrong_group_is_shown_in_part():
    table = products(9, catalog_id=list(range(9)))
    head = FixedHead(torch.zeros(9, dtype=torch.int64))
    (mistake,) = answer_task(find_task("clustering"), head, table, represented("012345678"), DATA).mistakes
    assert (mistake.prediction, mistake.label) == ("one group of 9 offers", "9 products, 6 of them shown")
    assert len(mistake.rows) == 6


def test_what_cannot_be_answered():
    head = FixedHead(torch.zeros(4, 2), category_paths=[["A"], ["B"]])
    with pytest.raises(ValueError, match="no column 'category'.*it has catalog_id, image, row_id, title"):
        answer_task(find_task("category"), head, products(), represented("0123"), DATA)
    with pytest.raises(ValueError, match="none of the 4 usable rows has a label"):
        answer_task(find_task("category"), head, products(category=[[]] * 4), represented("0123"), DATA)


def test_rows_of_a_catalog_are_drawn_together_on_request():
    labels = np.tile([1, 0, 0, 0], 50)
    answers = TaskAnswers("adult_recognition", np.tile([0.9, 0.1, 0.6, 0.2], 50), labels, np.repeat(np.arange(25), 8))
    by_catalog = measure([Outcomes.of(answers)], num_resamples=200)
    by_row = measure([Outcomes.of(answers)], num_resamples=200, by_catalog=False)
    # Catalogs are all alike here: to draw others changes nothing.
    assert by_catalog["precision"] == Estimate(0.5, 0.5, 0.5)
    assert by_row["precision"].low < 0.5 < by_row["precision"].high


def test_report_is_json_where_a_metric_is_not_defined():
    answers = TaskAnswers("adult_recognition", [0.1, 0.2], [0, 0], np.array([-1, -1]))
    metrics = measure([Outcomes.of(answers)], num_resamples=10)
    assert math.isnan(metrics["recall"].value)
    report = json.loads(json.dumps(metrics_to_json(metrics), allow_nan=False))
    assert report["recall"] == {"value": None, "low": None, "high": None}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A base checkpoint, and heads with new weights on it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    catalog = toy_catalog(150)
    for split in ("test", "validation"):
        catalog[split].to_parquet(folder / f"{split}.parquet")
    processor = build_processor(MODEL, catalog["train"]["title"])
    model = build_model(MODEL, processor.tokenizer, seed=0)
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    paths = sorted(map(list, {tuple(path) for path in catalog["test"]["category"]}))
    heads = {
        "category": ("EClipForCategoryClassification", {"category_paths": paths[1:]}),
        "adult": ("EClipForAdultRecognition", {"modality": "image"}),
    }
    for name, (head, fields) in heads.items():
        torch.manual_seed(0)
        getattr(modeling_eclip, head).from_pretrained(folder / "base", **fields).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.fixture
def run(checkpoints, tmp_path, monkeypatch):
    """Run the command, without plots if not asked for, and return what it reports."""

    def run(*words, plots=False):
        data = ["--test_data", str(checkpoints / "test.parquet"), "--num_workers", "0", "--num_resamples", "20"]
        data += ["--validation_data", str(checkpoints / "validation.parquet")]
        if not plots:
            monkeypatch.setattr(measure_checkpoints, "draw_evaluations", lambda *arguments: [])
        call_script(evaluate_tasks.main, [*data, *words, "--output_dir", str(tmp_path)])
        return json.loads((tmp_path / "report.json").read_text())

    return run


def test_the_command_measures_and_draws(checkpoints, run, tmp_path, caplog):
    folder = str(checkpoints / "category")
    with caplog.at_level("INFO"):
        report = run("--task", "category", "--checkpoint", folder, plots=True)[folder]
    rows = pq.read_table(checkpoints / "test.parquet").to_pylist()
    assert report | {"metrics": None, "unknown_labels": None} == {
        "task": "category", "modality": "both", "split": "test", "rows": len(rows), "left_out": {},
        "unknown_labels": None, "metrics": None,
    }  # fmt: skip
    # The tree lacks the first of the paths that are there.
    lacking = min(" > ".join(row["category"]) for row in rows)
    assert list(report["unknown_labels"]["category"]) == [lacking]
    assert f"({lacking} {report['unknown_labels']['category'][lacking]})" in caplog.text
    accuracy = report["metrics"]["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert f"{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]" in caplog.text
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "figures.png", "confusion_category.png", "mistakes.png", "reliability.png",
    }  # fmt: skip


def test_a_head_gets_to_see_less(checkpoints, run, tmp_path):
    folder = str(checkpoints / "category")
    words = ["--task", "category", "--checkpoint", folder]
    reports = {modality: run(*words, "--modality", modality)[folder] for modality in ("text", "image", "both")}
    assert [reports[modality]["modality"] for modality in reports] == list(reports)
    assert reports["text"]["metrics"] != reports["image"]["metrics"] != reports["both"]["metrics"]
    # Titles alone: broken images do not matter.
    table = pq.read_table(checkpoints / "test.parquet").drop_columns("image")
    broken = table.append_column("image", pa.array([b"no image"] * len(table)))
    pq.write_table(broken, tmp_path / "broken.parquet")
    report = run(*words, "--modality", "text", "--test_data", str(tmp_path / "broken.parquet"))[folder]
    assert report["metrics"] == reports["text"]["metrics"]


def test_checkpoints_side_by_side_and_another_split(checkpoints, run, tmp_path):
    folders = [str(checkpoints / "adult"), str(checkpoints / "again" / "adult")]
    head, processor = load_task_head(find_task("adult"), folders[0], None), checkpoints / "adult"
    head.save_pretrained(folders[1])
    for file in processor.glob("*token*"):
        (Path(folders[1]) / file.name).write_bytes(file.read_bytes())
    (Path(folders[1]) / "processor_config.json").write_bytes((processor / "processor_config.json").read_bytes())
    words = ["--task", "adult", "--split", "validation", "--checkpoint", *folders]
    report = run(*words, plots=True)
    assert list(report) == folders and report[folders[0]]["metrics"] == report[folders[1]]["metrics"]
    assert report[folders[0]]["rows"] == pq.read_metadata(checkpoints / "validation.parquet").num_rows
    assert "precision_recall.png" in {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.glob("mistakes_*.png"))) == 2


@pytest.mark.parametrize("task", ["matching", "clustering"])
def test_a_checkpoint_without_a_head_matches_and_groups(checkpoints, run, task):
    folder = str(checkpoints / "base")
    report = run("--task", task, "--checkpoint", folder, "--modality", "text")[folder]
    metric = {"matching": "average_precision", "clustering": "adjusted_rand_index"}[task]
    assert report["modality"] == "text" and math.isfinite(report["metrics"][metric]["value"])


def test_titles_without_images_are_measured_without_a_task(checkpoints, run, tmp_path):
    """Mates of titles are looked for, as in training, and pairs are told apart by titles alone."""
    folder = str(checkpoints / "base")
    rows = pq.read_table(checkpoints / "test.parquet").to_pylist()
    rows = [rows[0]] + sorted(rows[1:], key=lambda row: row["catalog_id"] != rows[0]["catalog_id"])[:4]
    pairs = [
        {"left": a["offer_id"], "right": b["offer_id"], "label": int(a["catalog_id"] == b["catalog_id"])}
        for a, b in itertools.combinations(rows, 2)
    ]
    assert {pair["label"] for pair in pairs} == {0, 1}
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    words = ["--image_column", "none", "--checkpoint", folder, "--pair_id_column", "offer_id"]
    metrics = run(*words, "--test_pairs", str(tmp_path / "pairs.parquet"))[folder]
    assert set(metrics) >= {"title_mates_recall@1", "title_mates_chance@1", "matching_embeds_text"}
    assert not any("image" in name or "both" in name for name in metrics)
    # With the images, the same titles are told apart as well.
    both = run(*words[2:], "--test_pairs", str(tmp_path / "pairs.parquet"))[folder]
    assert both["matching_embeds_text"] == pytest.approx(metrics["matching_embeds_text"])
    assert "text_to_image_recall@1" in both and "matching_embeds_both" in both


def test_pairs_of_titles_are_measured_without_a_task_or_a_table(checkpoints, tmp_path):
    pairs = {"left": ["red mug", "red mug", "blue lamp"], "right": ["red mug", "blue lamp", "lamp, blue"]}
    pq.write_table(pa.table(pairs | {"label": [1, 0, 1]}), tmp_path / "pairs.parquet")
    data = DataArguments(test_pairs=str(tmp_path / "pairs.parquet"), pair_id_column="title", num_workers=0)
    base = {"base": measure_checkpoints.load_checkpoint(str(checkpoints / "base"))}
    (metrics,) = measure_checkpoints.evaluate(base, data, EvaluationArguments()).values()
    assert set(metrics) == {"matching_features_text", "matching_embeds_text"}
    assert 0 < metrics["matching_embeds_text"] <= 1
    with pytest.raises(ValueError, match="`test_data` is empty"):
        measure_checkpoints.evaluate(base, replace(data, test_pairs=None), EvaluationArguments())


@pytest.mark.parametrize("task", ["category", "attributes"])
def test_classes_by_their_names(checkpoints, run, task):
    folder = str(checkpoints / "base")
    words = ["--task", task, "--checkpoint", folder, "--zero_shot", "true", "--modality", "text"]
    words += ["--attribute_columns", "colour", "pattern"] if task == "attributes" else []
    report = run(*words)[folder]
    rows = pq.read_table(checkpoints / "test.parquet").to_pylist()
    assert report["modality"] == "text" and report["rows"] == len(rows) and not report["unknown_labels"]
    # The same predictions from the head itself.
    products = load_evaluated_split(
        find_task(task), DataArguments(test_data=[str(checkpoints / "test.parquet")]), "test", 0
    )
    if task == "category":
        head = modeling_eclip.EClipForCategoryClassification.from_pretrained(
            folder, modality="text", category_paths=sorted(map(list, {tuple(row["category"]) for row in rows}))
        ).eval()
        processor = modeling_eclip.EClipProcessor.from_pretrained(folder)
        titles = processor(text=list(products["title"]), return_tensors="pt")
        with torch.no_grad():
            predictions = head.decode(head.zero_shot(head.embed_categories(processor), **titles).logits)
        accuracy = np.mean(
            [answer[0][0] == tuple(row["category"]) for answer, row in zip(predictions, rows, strict=True)]
        )
        assert report["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    with pytest.raises(SystemExit, match="the task is 'adult'; attributes and category"):
        run("--task", "adult", "--checkpoint", folder, "--zero_shot", "true")


def test_classes_of_a_trained_head_by_their_names(checkpoints, run):
    folder = str(checkpoints / "category")
    by_name = run("--task", "category", "--checkpoint", folder, "--zero_shot", "true")[folder]
    trained = run("--task", "category", "--checkpoint", folder)[folder]
    assert by_name["unknown_labels"] == trained["unknown_labels"] and by_name["metrics"] != trained["metrics"]


def test_heads_that_do_not_fit(checkpoints):
    with pytest.raises(ValueError, match="no EClipForCategoryClassification; train one: .*finetune.py"):
        load_task_head(find_task("category"), str(checkpoints / "base"), None)
    with pytest.raises(ValueError, match="EClipForCategoryClassification, the head of another task than 'adult'"):
        load_task_head(find_task("adult"), str(checkpoints / "category"), None)
    with pytest.raises(ValueError, match="`modality` is 'text', but the head of .* sees image only"):
        load_task_head(find_task("adult"), str(checkpoints / "adult"), "text")


def test_pairs_of_the_test_split(checkpoints, tmp_path):
    offers = str(checkpoints / "test.parquet")
    ids = [str(number) for number in pq.read_table(offers, columns=["offer_id"])["offer_id"].to_pylist()]
    pq.write_table(pa.table({"left": ids[:3], "right": ids[3:6], "label": [1, 0, 1]}), tmp_path / "pairs.parquet")
    # The training offers have a column of catalogs that these have not.
    data = replace(DATA, catalog_id_column=["catalog_id", "product_id"], test_pairs=str(tmp_path / "pairs.parquet"))
    data = replace(data, pairs_data=[offers], pair_id_column="offer_id")
    pairs = load_evaluated_split(find_task("matching"), data, "test", seed=0)
    assert list(pairs.labels) == [1, 0, 1]
    assert [pairs.products["row_id"][row] for row in pairs.left] == ids[:3]
    # A source with columns of its own: its ids are still those that the pairs are given by.
    source = json.dumps({"files": offers, "title_column": "title"})
    own = replace(data, pairs_data=[], test_data=[source], catalog_id_column=["catalog_id"])
    named = load_evaluated_split(find_task("matching"), own, "test", seed=0)
    assert (named.left == pairs.left).all() and (named.right == pairs.right).all()
    # Without pairs they are made of catalogs; and any split is one.
    data = replace(DATA, validation_data=[str(checkpoints / "validation.parquet")])
    made = load_evaluated_split(find_task("matching"), data, "validation", seed=0)
    catalogs = np.array(made.products["catalog_id"])
    assert ((catalogs[made.left] == catalogs[made.right]) == (made.labels == 1)).all()
