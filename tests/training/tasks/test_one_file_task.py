"""A sixth task in one file: all that it needs to be learned and measured is the class below."""

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import MODEL

from modeling_eclip import EClipForAdultRecognition
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.parser import parse_arguments
from training.evaluation.measure_checkpoints import evaluate_task
from training.metrics.adult_recognition.adult_recognition import AdultRecognition
from training.tasks import registry
from training.tasks.finetuning import finetune
from training.tasks.labels import TaskLabels
from training.tasks.task import register_task
from training.tasks.yes_or_no_task import YesOrNoTask

WORD = "zigzag"


@dataclass
class WordLabels(TaskLabels):
    """Whether a title has the word."""

    def encode(self, row):
        return int(WORD in row["title"].lower().split())

    def values(self, row):
        return {"title": row["title"]}


class BrightTask(YesOrNoTask):
    """Whether the title says that the pattern is zigzag."""

    name = "bright"
    head_class = EClipForAdultRecognition
    metric = "adult_recognition"
    metric_class = AdultRecognition
    words = ("not bright", "bright")

    @classmethod
    def find_classes(cls, products, data):
        return WordLabels(["title"])

    @classmethod
    def labels_of_config(cls, config, data):
        return WordLabels(["title"])


@pytest.fixture
def bright():
    """The task, registered for one test; the registry is then as it was."""
    tasks = dict(registry.TASKS)
    yield register_task(BrightTask)
    registry.TASKS.pop("bright")
    assert tasks == registry.TASKS


def test_a_task_in_one_file_is_learned_and_measured(bright, tmp_path):
    (arguments,) = parse_arguments((FinetuneArguments,), ["--task", "bright", "--modality", "text"])
    arguments.method, arguments.output_dir = "linear", str(tmp_path / "head")
    data = DataArguments(train_data=["toy"], toy_offers=600, num_workers=0)
    report = finetune(MODEL, data, arguments)
    assert report["task"] == "bright" and report["validation"]["average_precision"] > 0.5  # of a tenth by chance

    folder = str(tmp_path / "head")
    evaluation = EvaluationArguments(
        task="bright", checkpoint=[folder], split="train", num_resamples=10, output_dir=str(tmp_path / "report")
    )
    found = evaluate_task("bright", data, evaluation)[folder]
    assert found["task"] == "bright" and np.isfinite(found["metrics"]["average_precision"]["value"])
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files == {"precision_recall.png", "reliability.png", "mistakes.png"}


def test_a_task_that_nobody_has_registered_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`task` is 'bright'; choose one of adult, attributes, category"):
        finetune(MODEL, DataArguments(train_data=["toy"]), FinetuneArguments(task="bright", output_dir=str(tmp_path)))
