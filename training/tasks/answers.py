"""What a head answers about a split, beside the labels: as metrics take it, and as people read it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.tasks.features import Represented

__all__ = ["AnsweredSplit", "Mistake", "TaskAnswers"]


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
