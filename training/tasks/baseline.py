"""The classical baseline of a task: untrained features, and logistic regression on them.

The strength of the regression, the weight of titles and the calibration are chosen on validation, as for heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from modeling_eclip.fitting.thresholds import calibrate
from training.data.pairs import ProductPairs
from training.tasks.labels import NO_LABEL, TaskLabels, read_labels

__all__ = ["JUDGED", "TEXT_SHARES", "BaselineData", "Describe", "calibrated"]

JUDGED = ("validation", "test")
TEXT_SHARES = np.linspace(0, 1, 11)
"""How much titles may count, from nothing to all."""
_STRENGTHS = (1.0, 10.0, 100.0)
_UNSEEN = -30.0  # log probability of a class without training rows


class Describe(Protocol):
    """Turns `N` products into features of unit length, shape `(N, D)` each."""

    def __call__(self, products: Any) -> dict[str, Any]:
        """Return features by modality."""

    def views(self, products: Any) -> dict[str, Any]:
        """Return features by view: the image, and several of the title."""


@dataclass
class BaselineData:
    """What a baseline is learned from.

    Args:
        labels: Reads the labels; nothing where they are of pairs.
        rows: Training rows whose labels are used.
        train_labels: Their labels.
        splits: Products, or pairs of products, of `"train"`, `"validation"` and `"test"`.
        describe: Turns products into features.
        reads_lexical: Whether pairs are compared by the literal evidence that heads weigh, too.
        seed: Seed of what is drawn.
    """

    labels: TaskLabels | None
    rows: np.ndarray
    train_labels: np.ndarray
    splits: Mapping[str, Any]
    describe: Describe
    reads_lexical: bool = False
    seed: int = 0

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """Features of the products of each split, by modality."""
        return {name: self.describe(_products(split)) for name, split in self.splits.items()}

    @cached_property
    def views(self) -> dict[str, dict[str, Any]]:
        """Features of the products of each split, by view."""
        return {name: self.describe.views(_products(split)) for name, split in self.splits.items()}

    @cached_property
    def held_out_labels(self) -> np.ndarray:
        """Labels of all validation rows."""
        assert self.labels is not None
        return read_labels(self.splits["validation"], self.labels).labels

    @property
    def catalogs(self) -> np.ndarray:
        """Catalog of each test row, int64, shape `(N,)`; -1 for one that is alone."""
        return np.asarray(self.splits["test"]["catalog_id"], dtype=np.int64)

    def logits(
        self, column: int | None = None, class_weight: str | None = None
    ) -> tuple[dict[str, np.ndarray], float]:
        """Fit a regression per modality, of the strength that validation prefers, and join their answers.

        Args:
            column: Which attribute, where there are several.
            class_weight: `"balanced"` for classes that weigh the same.

        Returns:
            Log probabilities of the classes, shape `(N, classes)`, of the rows of `"validation"` and `"test"`; and
            the score on validation: average precision of two balanced classes, or the mean of accuracy and macro F1.
        """
        train_labels, held_out = self.train_labels, self.held_out_labels
        if column is not None:
            train_labels, held_out = train_labels[:, column], held_out[:, column]
        counted, held_out_rows = train_labels != NO_LABEL, np.flatnonzero(held_out != NO_LABEL)
        num_classes = int(max(train_labels.max(), held_out.max())) + 1

        def score(logits: np.ndarray) -> float:
            labels, predictions = held_out[held_out_rows], logits[held_out_rows].argmax(axis=1)
            if class_weight is not None:
                return float(average_precision_score(labels, logits[held_out_rows, 1] - logits[held_out_rows, 0]))
            macro_f1 = f1_score(labels, predictions, average="macro", zero_division=0.0)
            return float((predictions == labels).mean() + macro_f1) / 2

        by_modality = []
        for modality, train in self.features["train"].items():
            if len(classes := np.unique(train_labels[counted])) < 2:  # some labels are too few to tell anything apart
                constant = np.full(num_classes, _UNSEEN)
                constant[classes] = 0.0
                by_modality.append({split: np.tile(constant, (len(self.splits[split]), 1)) for split in JUDGED})
                continue
            trials = []
            for strength in _STRENGTHS:
                regression = LogisticRegression(C=strength, class_weight=class_weight, max_iter=300, tol=1e-3)
                regression.fit(train[self.rows[counted]], train_labels[counted])
                logits = {}
                for split in JUDGED:
                    logits[split] = np.full((len(self.splits[split]), num_classes), _UNSEEN)
                    predicted = regression.predict_log_proba(self.features[split][modality])
                    logits[split][:, regression.classes_] = predicted
                trials.append((score(logits["validation"]), logits))
            by_modality.append(max(trials, key=lambda trial: trial[0])[1])
        if len(by_modality) == 1:
            return by_modality[0], score(by_modality[0]["validation"])
        title, image = by_modality
        joined = [
            {split: share * title[split] + (1 - share) * image[split] for split in title} for share in TEXT_SHARES
        ]
        best = max(joined, key=lambda logits: score(logits["validation"]))
        return best, score(best["validation"])


def calibrated(logits: Mapping[str, torch.Tensor], held_out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Turn logits of the judged splits into probabilities, by the labels of validation."""
    slope, intercept = calibrate(logits["validation"], held_out)
    return {split: torch.sigmoid(slope * of + intercept) for split, of in logits.items()}


def _products(split: Any) -> Any:
    return split.products if isinstance(split, ProductPairs) else split
