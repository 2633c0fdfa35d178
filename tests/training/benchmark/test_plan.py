"""What the report compares: its configurations, which method answers what, and what its rivals are trained with."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import MODEL_SETTINGS

from training.arguments.parser import parse_arguments
from training.arguments.report import ReportArguments
from training.benchmark.report import is_run, plan_tasks, pretrain
from training.benchmark.runs import CLASSICAL, CLASSICAL_LEXICAL, RunGroup, TaskConfig


@pytest.mark.parametrize("name", ["report", "report_fast"])
def test_shipped_configurations_parse_with_their_tasks(name):
    (arguments,) = parse_arguments((ReportArguments,), ["--config", f"training/configs/{name}.yaml"])
    assert len(plan_tasks(arguments)) == len(arguments.tasks) > 0
    assert Path(arguments.pretraining).is_file()


def test_plain_clip_is_trained_without_what_catalogs_give(tmp_path, monkeypatch):
    config = {"train_data": ["toy"], **MODEL_SETTINGS, "mates_share": 0.5, "mate_contrast_weight": 0.4}
    (tmp_path / "pretraining.yaml").write_text(yaml.safe_dump(config))
    arguments = ReportArguments(
        output_dir=str(tmp_path), pretraining=str(tmp_path / "pretraining.yaml"), tasks=["unused"]
    )
    calls = []
    monkeypatch.setattr("training.benchmark.report.train", lambda *given: calls.append(given))
    for method in ("eclip", "hard_labels"):
        pretrain(method, arguments, 0)
    (model, data, training), (rival, rival_data, rival_training) = calls
    assert (model.catalog_mates, data.mates_share, training.mate_contrast_weight) == (None, 0.5, 0.4)  # positives
    assert (rival.catalog_mates, rival_data.mates_share, rival_training.mate_contrast_weight) == ("negative", 0, 0)
    # And with all the rest.
    assert replace(rival, catalog_mates=None) == model and replace(rival_data, mates_share=0.5) == data
    assert replace(rival_training, mate_contrast_weight=0.4, output_dir=training.output_dir) == training


def test_the_literal_baseline_answers_about_pairs_and_groups_with_each_seed():
    tasks = [TaskConfig(task, "toy", ("text",)) for task in ("category", "matching", "clustering", "retrieval")]
    assert [is_run(task, CLASSICAL_LEXICAL, has_most_labels=True) for task in tasks] == [False, True, True, False]
    assert [is_run(task, CLASSICAL, has_most_labels=True) for task in tasks] == [True, True, True, False]
    for method, runs in ((CLASSICAL, 1), (CLASSICAL_LEXICAL, 3)):  # its trees are drawn
        matching = replace(tasks[1], products=replace(tasks[1].products, train_pairs=["pairs.csv"]))
        assert len(RunGroup(matching, method, (), 1.0, (0, 1, 2)).runs("text")) == runs
