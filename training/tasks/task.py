"""Task: what is particular to a task, as fine-tuning, evaluation and the report ask for it.

A task is one file of this folder with one subclass of [`Task`] under `@register_task`. It names the head and the
metric, reads the labels, fits a linear probe and what is decided on validation, turns a head's output into answers
and plots, and learns the classical baseline.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeling_eclip import EClipConfig
from modeling_eclip.fitting.thresholds import threshold_of_precision
from modeling_eclip.representation_eclip import EClipTaskModel
from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.engine.build import load_split
from training.tasks.answers import AnsweredSplit, JudgedAnswers, TaskAnswers
from training.tasks.baseline import BaselineData
from training.tasks.features import Represented
from training.tasks.label_share import choose_labelled
from training.tasks.labels import NO_LABEL, TaskLabels, check_columns, count_labels

__all__ = ["LEXICAL_ROWS", "REGISTERED", "Intervals", "PlotFile", "Task", "register_task"]

Intervals = Mapping[str, Mapping[str, tuple[float, float, float]]]
"""Per model its metrics by name: `(value, low, high)`."""
PlotFile = Callable[[str], Path]
"""Returns the file of a plot by its name."""

LEXICAL_ROWS = 8192
"""Rows of weights, per kind of n-gram, of a head that reads titles literally."""

logger = logging.getLogger("training")

REGISTERED: dict[str, type["Task"]] = {}
"""Tasks by name; `training.tasks.registry` imports all modules of tasks."""


def register_task(task: type["Task"]) -> type["Task"]:
    """Make a task known by its name: a decorator of its class."""
    REGISTERED[task.name] = task
    return task


class Task:
    """What is particular to a task; one subclass each.

    An instance is a task that is being learned; what evaluation asks for are class methods.

    Args:
        arguments: The fine-tuning arguments.
        labels: Reads the labels of its rows; nothing where they are of pairs.

    Attributes:
        name: What `--task` calls it.
        head_class: Class of its head.
        metric: Name of its metric module in `training/metrics`.
        scored_by: Metrics whose mean chooses the best checkpoint; the higher the better.
        reported: Metrics that the report shows, the main one first.
        rows_are_pairs: Whether a row is a pair of products.
        reads_lexical: Whether its head reads the n-grams of titles.
        works_untrained: Whether its head answers without training: a checkpoint without a head is measured, too.
        works_zero_shot: Whether its head answers by the names of its classes.
        contrasts_mates: Whether its loss compares offers of one product, which must then meet in a batch.
        linear_depends_on_seed: Whether a linear probe on all rows does.
        baseline_uses_training: Whether the classical baseline learns from the training rows.
        baseline_compares_pairs: Whether it compares products, which it may do by the literal evidence of heads, too.
    """

    name: ClassVar[str]
    head_class: ClassVar[type[EClipTaskModel]]
    metric: ClassVar[str]
    scored_by: ClassVar[tuple[str, ...]]
    reported: ClassVar[tuple[str, ...]]
    rows_are_pairs: ClassVar[bool] = False
    reads_lexical: ClassVar[bool] = False
    works_untrained: ClassVar[bool] = False
    works_zero_shot: ClassVar[bool] = False
    contrasts_mates: ClassVar[bool] = False
    linear_depends_on_seed: ClassVar[bool] = False
    baseline_uses_training: ClassVar[bool] = True
    baseline_compares_pairs: ClassVar[bool] = False

    def __init__(self, arguments: FinetuneArguments, labels: TaskLabels | None) -> None:
        """Keep the arguments."""
        self.arguments, self.labels = arguments, labels

    # What it is learned from and judged on.

    @classmethod
    def load_split(cls, data: DataArguments, split: str, seed: int) -> Products | ProductPairs:
        """Load what the task is learned from or judged on.

        Args:
            data: The data arguments.
            split: `"train"`, `"validation"` or `"test"`.
            seed: Seed of what is drawn.

        Returns:
            Products, or labelled pairs of them.
        """
        return load_split(data, split)

    @classmethod
    def evaluated_data(cls, data: DataArguments, split: str) -> DataArguments:
        """Return the data arguments that say where the rows are that heads are measured on."""
        return data

    @classmethod
    def draws_rows(cls, data: DataArguments) -> bool:
        """Whether the training rows themselves are drawn by the seed."""
        return False

    @classmethod
    def reads_catalogs(cls, data: DataArguments) -> bool:
        """Whether the labels are catalogs."""
        return cls.contrasts_mates

    @classmethod
    def choose_rows(cls, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
        """Choose the rows that are learned from.

        Args:
            labels: Labels of all rows, shape `(N,)` or `(N, attributes)`.
            share: Share of the labels that may be used.
            seed: Seed of the choice.

        Returns:
            The rows, in ascending order.
        """
        labelled = np.flatnonzero((labels.reshape(len(labels), -1) != NO_LABEL).any(axis=1))
        return labelled[choose_labelled(labels[labelled], share, seed)]

    # Labels.

    @classmethod
    def label_columns(cls, data: DataArguments) -> dict[str, list[str]]:
        """Return the columns that the labels are read from, by the argument that names them."""
        return {}

    @classmethod
    def find_labels(cls, products: Products, data: DataArguments) -> TaskLabels:
        """Find the classes of the task in its training products.

        Args:
            products: The training products.
            data: The data arguments, which name the columns.

        Returns:
            What reads the labels of a row.

        Raises:
            ValueError: a column is missing, or all its rows are of one class.
        """
        check_columns(products, cls.label_columns(data))
        return cls.find_classes(products, data)

    @classmethod
    def find_classes(cls, products: Products, data: DataArguments) -> TaskLabels:
        """Find the classes in columns that are there."""
        raise NotImplementedError

    @classmethod
    def labels_of_config(cls, config: EClipConfig, data: DataArguments) -> TaskLabels | None:
        """Read labels by the classes that a trained head has.

        Args:
            config: The head's configuration.
            data: The data arguments, which name the columns.

        Returns:
            What reads the labels of a row; nothing where they are of pairs.

        Raises:
            ValueError: the configuration has no classes.
        """
        return None

    # Learning.

    def class_fields(self) -> dict[str, Any]:
        """Return the fields of the configuration that name the classes."""
        return {} if self.labels is None else self.labels.config_fields()

    def config_fields(self, train_labels: np.ndarray) -> dict[str, Any]:
        """Return the fields of the configuration that the head reads.

        Args:
            train_labels: Labels of the rows that are learned from.
        """
        reads_titles = self.reads_lexical and self.arguments.lexical_features and self.arguments.modality != "image"
        return {
            "modality": self.arguments.modality,
            "lexical_rows": LEXICAL_ROWS if reads_titles else 0,
            "modality_dropout": self.arguments.modality_dropout,
            "label_smoothing": self.arguments.label_smoothing,
            **self.class_fields(),
        }

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit the head's own weights to products whose representation stays as it is."""
        raise NotImplementedError

    def fit_lexical(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit what the head reads literally in titles, once the weights of its vectors are fixed."""

    def fit_fusion(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how the head joins a product's modalities, once its other weights are fixed."""

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Fit what the head decides by on validation: thresholds, calibration."""

    def fit_review(self, head: Any, products: Products | ProductPairs, validation: Represented) -> None:
        """Fit the confidence below which the finished head sends answers to review, by `target_precision`.

        Args:
            head: The head.
            products: The held-out products, or pairs of products.
            validation: The usable ones, as the head represents them.
        """
        target = self.arguments.target_precision
        head.config.target_precision, head.config.review_below = target, None
        if target is None:
            return
        alone = np.full(len(products), -1)
        split = AnsweredSplit(head, products, validation, validation.rows, self.labels, validation.label_rows, alone)
        judged = self.judge(self.answers(split))
        assert judged is not None  # a task without has a rule of its own
        head.config.review_below = judged.review_below = {}
        for kind, confidences, is_right in zip(judged.kinds, judged.confidences.T, judged.is_right.T, strict=True):
            is_answer = ~np.isnan(confidences)
            lowest = threshold_of_precision(confidences[is_answer], is_right[is_answer], target)
            head.config.review_below[kind] = lowest
            number = int(is_answer.sum())
            if lowest is None:
                logger.warning("%s: precision %g is not reached by %s answers: all go to review", kind, target, number)
            else:
                given = int((confidences >= lowest).sum())
                logger.info("%s: precision %g by %s of %s answers, from %.3f on", kind, target, given, number, lowest)

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure a head.

        Args:
            head: The head.
            rows: Rows as it represents them.

        Returns:
            The values of the task's metric, over the rows that have a label, as evaluation measures them.
        """
        raise NotImplementedError

    def count_rows(self, rows: Represented) -> dict[str, int]:
        """Count the rows that `metrics` is over, and those whose labels training has not seen: they are mistakes."""
        return {"measured": len(rows.rows)} if self.labels is None else count_labels(self.labels, rows.label_rows)

    def settle(self, head: Any, train: Represented | None, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit everything that is fitted once training is over.

        How the modalities are joined stays as it was learned where fitting does not improve the score.

        Args:
            head: The head.
            train: The rows that it has learned from, as it represents them now; `None` where it reads no n-grams.
            train_labels: Their labels.
            validation: Held-out rows as it represents them.
        """
        # Scores of pairs weigh the joined answer, which classifiers join of what titles say, too.
        weighs_joined = hasattr(head, "evidence")
        if train is not None and not weighs_joined:
            self.fit_lexical(head, train, validation)
        learned = {name: value.clone() for name, value in head.state_dict().items() if "fusion" in name}
        before = self.score(self.metrics(head, validation))
        self.fit_fusion(head, train_labels, validation)
        if learned and self.score(self.metrics(head, validation)) < before:
            head.load_state_dict(learned, strict=False)
        if train is not None and weighs_joined:
            self.fit_lexical(head, train, validation)
        self.fit_decisions(head, validation)

    @classmethod
    def score(cls, metrics: Mapping[str, float]) -> float:
        """Return the score that chooses the best checkpoint."""
        return float(np.mean([metrics[name] for name in cls.scored_by]))

    # Evaluation.

    @classmethod
    def answers(cls, split: AnsweredSplit) -> TaskAnswers:
        """Let a head answer about all rows of a split that have a label."""
        raise NotImplementedError

    @classmethod
    def judge(cls, answers: TaskAnswers) -> JudgedAnswers | None:
        """Tell how sure each answer is, and whether it is right; nothing where answers have no probability."""
        return None

    @classmethod
    def embed_classes(cls, head: Any, processor: Any) -> Any:
        """Embed the names of a head's classes, for a task that works zero-shot."""
        raise NotImplementedError

    @classmethod
    def draw(cls, answers: Mapping[str, TaskAnswers], metrics: Intervals, title: str, file: PlotFile) -> None:
        """Draw how several heads did, side by side.

        Args:
            answers: Their answers, by the name of the checkpoint.
            metrics: Their metrics, likewise.
            title: What was measured.
            file: Gives the file of a plot.
        """

    @classmethod
    def confusions(cls, answers: TaskAnswers) -> dict[str, tuple[list[str], list[str]]]:
        """Return labels and predictions as words, by what they say of a product, where there are several classes."""
        return {}

    # The report.

    @classmethod
    def is_reported(cls, metric: str) -> bool:
        """Whether the tables of the report show a metric."""
        return metric in cls.reported

    @classmethod
    def is_drawn(cls, metric: str) -> bool:
        """Whether the report draws a metric over the share of the labels."""
        return metric == cls.reported[0]

    @classmethod
    def main_metric(cls) -> str:
        """Return the metric that the summary of the report shows."""
        return cls.reported[0]

    def baseline(self, given: BaselineData) -> tuple[TaskAnswers, float]:
        """Learn the classical baseline, and answer about the test split.

        Args:
            given: What is learned from.

        Returns:
            The answers about all test rows that have a label, and the score on validation.
        """
        raise NotImplementedError
