"""What a head answers about a split, beside the labels: as metrics take it, and as people read it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.tasks.features import Represented

__all__ = ["AnsweredSplit", "JudgedAnswers", "Mistake", "TaskAnswers"]


@dataclass
class Mistake:
    """One wrong answer.

    Args:
        rows: The products that it is about, as rows of the table.
        prediction: What was answered.
        label: What is right.
        weight: How bad it is, the more the worse; of answers with a probability, how sure the head was.
    """

    rows: list[int]
    prediction: str
    label: str
    weight: float


@dataclass
class TaskAnswers:
    """A head's answers about `N` rows.

    Args:
        metric: Name of the metric module in `training/metrics`.
        predictions: What the metric takes as predictions, `N` of them.
        references: What it takes as references.
        outcome_settings: Further arguments of the metric that say what predictions and references mean.
        metric_settings: Further arguments of the metric that its values depend on.
        groups: Rows that are right or wrong together, such as those of a catalog, int64, shape `(N,)`; -1 for a row
            that is alone.
        mistakes: The wrong answers, the worst first.
        left_out: How many rows were not measured, by the reason.
        unknown: Labels that the head has no class for, and how often they occur; they count as mistakes.
        confidences: Probability of each prediction, where the predictions themselves do not hold it.
        review_below: Confidence below which the head sends answers to review, by their kind; `None` for no review.
    """

    metric: str
    predictions: Any
    references: Any
    groups: np.ndarray
    outcome_settings: dict[str, Any] = field(default_factory=dict)
    metric_settings: dict[str, Any] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, Counter[str]] = field(default_factory=dict)
    confidences: Any = None
    review_below: dict[str, float | None] | None = None


@dataclass
class JudgedAnswers:
    """How sure answers about `N` rows are, and whether they are right.

    Args:
        kinds: Kinds of answers, each with a threshold of its own.
        confidences: Probability of each answer, shape `(N, kinds)`; not-a-number where there is none to judge.
        is_right: Whether it is right, bool, shape `(N, kinds)`.
        review_below: Confidence below which they are sent to review, by their kind; `None` for no review.
    """

    kinds: list[str]
    confidences: np.ndarray
    is_right: np.ndarray
    review_below: dict[str, float | None] | None = None

    @property
    def thresholds(self) -> list[float | None] | None:
        """The confidence from which answers of each kind are given, `None` for one that never is."""
        return None if self.review_below is None else [self.review_below.get(kind) for kind in self.kinds]

    def count_reviews(self) -> dict[str, dict[str, int]] | None:
        """Count the answers of each kind, and those that are sent to review; nothing without review."""
        if (thresholds := self.thresholds) is None:
            return None
        counts = {}
        for kind, column, lowest in zip(self.kinds, self.confidences.T, thresholds, strict=True):
            number = int((~np.isnan(column)).sum())
            given = 0 if lowest is None else int((column >= lowest).sum())
            counts[kind] = {"answers": number, "sent_to_review": number - given}
        return counts


@dataclass
class AnsweredSplit:
    """What a head answers about.

    Args:
        head: The head.
        products: The products, or pairs of products.
        represented: The `N` usable ones.
        rows: Where each of them is in `products`, shape `(N,)`.
        labels: Reads the labels; nothing where they are of pairs.
        label_rows: The labels' columns of each.
        catalogs: Catalog of each row of the table, -1 for one that is alone.
    """

    head: Any
    products: Any
    represented: Represented
    rows: np.ndarray
    labels: Any
    label_rows: list[dict[str, Any]]
    catalogs: np.ndarray
