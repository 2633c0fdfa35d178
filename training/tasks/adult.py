"""Adult recognition: true and false as labels, few positives, and a threshold by a target recall."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modeling_eclip import EClipConfig, EClipForAdultRecognition
from modeling_eclip.fitting.thresholds import threshold_of_recall
from training.arguments.groups import DataArguments
from training.data.ids import word_of
from training.data.read_tables import Products
from training.metrics.adult_recognition.adult_recognition import AdultRecognition
from training.tasks.answers import TaskAnswers
from training.tasks.baseline import BaselineData, calibrated
from training.tasks.features import Represented
from training.tasks.labels import NO_LABEL, TaskLabels, check_classes, read_labels
from training.tasks.task import register_task
from training.tasks.yes_or_no_task import YesOrNoTask

__all__ = ["AdultTask", "RestrictedLabels"]


@dataclass
class RestrictedLabels(TaskLabels):
    """Whether a product is for adults only."""

    @classmethod
    def find(cls, products: Products, column: str) -> "RestrictedLabels":
        """Check that there are products of both kinds."""
        labels = cls([column])
        found = {label for row in products.select_columns(column) if (label := labels.encode(row)) >= 0}
        check_classes(column, found)
        return labels

    def encode(self, row: Mapping[str, Any]) -> int:
        """Return 1 for a restricted product, 0 for another."""
        word = self.values(row)[self.columns[0]]
        return NO_LABEL if word is None else _truth(word, self.columns[0])

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the label as a word."""
        (column,) = self.columns
        return {column: word_of(row[column], column)}


def _truth(word: str, column: str) -> int:
    words = {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}
    if word.lower() in words:
        return words[word.lower()]
    raise ValueError(f"column {column!r} holds {word!r}; give true and false, or null where it is not known.")


@register_task
class AdultTask(YesOrNoTask):
    """Recognition of products for adults only."""

    name = "adult"
    head_class = EClipForAdultRecognition
    metric = "adult_recognition"
    metric_class = AdultRecognition
    words = ("not restricted", "restricted")
    reported = ("average_precision", "precision_at_recall_95")

    @classmethod
    def label_columns(cls, data: DataArguments) -> dict[str, list[str]]:
        """Return the column of the restriction."""
        return {"restricted_column": [data.restricted_column]}

    @classmethod
    def find_classes(cls, products: Products, data: DataArguments) -> RestrictedLabels:
        """Check that there are products of both kinds."""
        return RestrictedLabels.find(products, data.restricted_column)

    @classmethod
    def labels_of_config(cls, config: EClipConfig, data: DataArguments) -> RestrictedLabels:
        """Read the column."""
        return RestrictedLabels([data.restricted_column])

    def config_fields(self, train_labels: np.ndarray) -> dict[str, Any]:
        """Have restricted products weigh as much as all others together, if no weight is given."""
        weight = self.arguments.positive_weight
        if weight is None:
            weight = float((train_labels == 0).sum() / max(1, (train_labels == 1).sum()))
        return super().config_fields(train_labels) | {"positive_weight": weight}

    def class_weights(self, head: Any) -> tuple[float, ...]:
        """Return those of the head's loss."""
        return (1.0, head.config.positive_weight)

    def choose_threshold(self, probabilities: torch.Tensor, labels: torch.Tensor) -> float:
        """Choose the highest threshold that finds as many of the restricted products as `target_recall` says."""
        return threshold_of_recall(probabilities, labels, self.arguments.target_recall)

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Calibrate, set the threshold, and keep the recall that it was chosen for."""
        super().fit_decisions(head, validation)
        head.config.target_recall = self.arguments.target_recall

    def baseline(self, given: BaselineData) -> tuple[TaskAnswers, float]:
        """Fit a regression with balanced classes, calibrate it, and choose its threshold as the head's is chosen."""
        assert given.labels is not None
        found, score = given.logits(class_weight="balanced")
        logits = {split: torch.from_numpy(of[:, 1] - of[:, 0]) for split, of in found.items()}
        held_out = torch.from_numpy(given.held_out_labels)
        assert given.labels is not None  # a task of products, not of pairs, has some
        labels = read_labels(given.splits["test"], given.labels).labels
        probabilities = calibrated(logits, held_out)
        labelled = labels != NO_LABEL
        answers = TaskAnswers(
            self.metric,
            probabilities["test"].numpy()[labelled],
            labels[labelled],
            given.catalogs[labelled],
            metric_settings={"threshold": self.choose_threshold(probabilities["validation"], held_out)},
        )
        return answers, score
