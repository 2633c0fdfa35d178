"""The five tasks, as fine-tuning sees them.

Each says what the configuration tells its head, how a linear probe of it is fitted, what is decided on validation, and
by which figures a model is judged: those of the metrics in `training/metrics`. The score that chooses the best
checkpoint is the mean of some of them.
"""

import logging
from typing import Any

import numpy as np
import torch

from modeling_eclip.late_fusion_eclip import LateFusionClassifier
from modeling_eclip.representation_eclip import EClipTaskModel
from training.arguments import DataArguments, FinetuneArguments
from training.build import load_split
from training.decisions import calibrate, threshold_of_best_f1, threshold_of_recall
from training.linear_probe import count_classes, fit_classifier
from training.metrics.adult_recognition.adult_recognition import AdultRecognition
from training.metrics.product_attributes.product_attributes import ProductAttributes
from training.metrics.product_category.product_category import ProductCategory
from training.metrics.product_matching.product_matching import ProductMatching
from training.pairs import ProductPairs, load_pairs, load_title_pairs, pairs_of_catalogs
from training.products import Products
from training.representing import Represented
from training.task_labels import NO_LABEL, TaskLabels, find_labels, read_labels

__all__ = ["TASKS", "Task", "answer", "choose_labelled", "choose_rows", "load_task_split"]

logger = logging.getLogger(__name__)


class Task:
    """What is particular to a task; one subclass each.

    Args:
        arguments: The fine-tuning arguments.
        labels: Reads the labels of its rows; nothing where they are of pairs.

    Attributes:
        scored_by: Figures whose mean chooses the best checkpoint; the higher the better.
    """

    scored_by: tuple[str, ...] = ("average_precision",)

    def __init__(self, arguments: FinetuneArguments, labels: TaskLabels | None) -> None:
        """Keep the arguments."""
        self.arguments, self.labels = arguments, labels

    def config_fields(self, train_labels: np.ndarray) -> dict[str, Any]:
        """Return the fields of the configuration that the head reads.

        Args:
            train_labels: Labels of the rows that are learned from.
        """
        own = {} if self.labels is None else self.labels.config_fields()
        return {
            "modality": self.arguments.modality,
            "modality_dropout": self.arguments.modality_dropout,
            "label_smoothing": self.arguments.label_smoothing,
            **own,
        }

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit the head's own weights to products whose representation stays as it is."""
        raise NotImplementedError

    def fit_joining(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how the head joins a product's sides, once its other weights are settled."""

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Fit what the head decides by on validation: thresholds, calibration."""

    def figures(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure a head.

        Args:
            head: The head.
            rows: Rows as it represents them.

        Returns:
            The figures of the task's metric, over the rows that have a label.
        """
        raise NotImplementedError

    def settle(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit everything that is fitted on validation once training is over.

        How the sides are joined stays as it was learned where fitting does not improve the score.

        Args:
            head: The head.
            train_labels: Labels of the rows that it has learned from.
            validation: Held-out rows as it represents them.
        """
        learned = {name: value.clone() for name, value in head.state_dict().items() if "fusion" in name}
        before = self.score(self.figures(head, validation))
        self.fit_joining(head, train_labels, validation)
        if learned and self.score(self.figures(head, validation)) < before:
            head.load_state_dict(learned, strict=False)
        self.fit_decisions(head, validation)

    def score(self, figures: dict[str, float]) -> float:
        """Return the score that chooses the best checkpoint."""
        return float(np.mean([figures[name] for name in self.scored_by]))


class ClassifierTask(Task):
    """A task of one or several classifiers that join a product's sides late."""

    scored_by: tuple[str, ...] = ("accuracy", "macro_f1")

    def classifiers(self, head: Any) -> list[LateFusionClassifier]:
        """Return the head's classifiers, in the order of the columns of labels."""
        return [head.classifier]

    def class_weights(self, head: Any) -> tuple[float, ...] | None:
        """Return the weight of each class in the loss, if they differ."""
        return None

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit a regression per classifier and side."""
        columns = zip(_columns(train.labels), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            weights = self.class_weights(head)
            fit_classifier(classifier, train.embeds, labels, validation.embeds, held_out, class_weights=weights)

    def fit_joining(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how each classifier joins the sides."""
        columns = zip(_columns(torch.from_numpy(train_labels)), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            counts = None if self.class_weights(head) else count_classes(classifier, labels)
            classifier.fit_fusion(validation.embeds, held_out, counts)


def _columns(labels: torch.Tensor) -> list[torch.Tensor]:
    return list(labels.reshape(len(labels), -1).unbind(dim=1))


class CategoryTask(ClassifierTask):
    """Category classification."""

    def figures(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure every level of the tree."""
        counted = rows.labels != NO_LABEL
        probabilities = answer(head, rows).logits[counted].softmax(dim=-1).numpy()
        paths = head.config.category_paths
        right = [paths[leaf] for leaf in rows.labels[counted].tolist()]
        return ProductCategory.figures(ProductCategory.outcomes(probabilities, right, paths))


class AttributesTask(ClassifierTask):
    """Attribute extraction."""

    def classifiers(self, head: Any) -> list[LateFusionClassifier]:
        """Return a classifier per attribute."""
        return list(head.classifier.attributes)

    def figures(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure every attribute."""
        names, values = head.config.attribute_names, head.config.attributes
        right = [
            [None if number == NO_LABEL else values[name][number] for name, number in zip(names, row, strict=True)]
            for row in rows.labels.tolist()
        ]
        answered = [[row[name] for name in names] for row in head.decode(answer(head, rows).logits)]
        outcomes = ProductAttributes.outcomes(answered, right, names, head.config.not_stated)
        return ProductAttributes.figures(outcomes, names)


class AdultTask(ClassifierTask):
    """Recognition of products for adults only."""

    scored_by = ("average_precision",)

    def config_fields(self, train_labels: np.ndarray) -> dict[str, Any]:
        """Have restricted products weigh as much as all others together, where nothing else is said."""
        weight = self.arguments.positive_weight
        if weight is None:
            weight = float((train_labels == 0).sum() / max(1, (train_labels == 1).sum()))
        return super().config_fields(train_labels) | {"positive_weight": weight}

    def class_weights(self, head: Any) -> tuple[float, ...]:
        """Return those of the head's loss."""
        return (1.0, head.config.positive_weight)

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Calibrate, and set the threshold for the wished recall."""
        logits = answer(head, validation).logits
        head.config.calibration = calibrate(logits, validation.labels)
        head.config.wished_recall = self.arguments.wished_recall
        head.config.decision_threshold = threshold_of_recall(
            head.probabilities(logits), validation.labels, self.arguments.wished_recall
        )

    def figures(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the ranking, and the answers at the threshold."""
        return _yes_or_no(AdultRecognition, head, answer(head, rows).logits, rows.labels)


class MatchingTask(Task):
    """Product matching."""

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Calibrate, and set the threshold with the best F1."""
        logits = answer(head, validation).logits
        head.config.calibration = calibrate(logits, validation.labels)
        head.config.decision_threshold = threshold_of_best_f1(head.probabilities(logits), validation.labels)

    def figures(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the ranking, and the answers at the threshold."""
        return _yes_or_no(ProductMatching, head, answer(head, rows).logits, rows.labels)


class ClusteringTask(Task):
    """Product clustering."""

    scored_by = ("adjusted_rand_index",)


def _yes_or_no(metric: Any, head: Any, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    counted = (labels == 0) | (labels == 1)
    outcomes = metric.outcomes(head.probabilities(logits[counted]).numpy(), labels[counted].numpy())
    threshold = head.config.decision_threshold
    return metric.figures(outcomes, threshold=0.5 if threshold is None else threshold)


@torch.no_grad()
def answer(head: EClipTaskModel, rows: Represented) -> Any:
    """Return what a head makes of rows that are represented already, on the CPU."""
    device = head.device
    was_training = head.training
    try:
        return head.eval().cpu().answer(rows.embeds)
    finally:
        head.to(device).train(was_training)


TASKS: dict[str, type[Task]] = {
    "category": CategoryTask,
    "attributes": AttributesTask,
    "matching": MatchingTask,
    "clustering": ClusteringTask,
    "adult": AdultTask,
}
"""By name, what is particular to a task."""


def load_task_split(task: str, data: DataArguments, split: str, seed: int) -> Products | ProductPairs:
    """Load what a task is learned from or judged on.

    Args:
        task: A key of `TASKS`.
        data: The data arguments.
        split: `"train"` or `"validation"`.
        seed: Seed of pairs that are derived from catalogs.

    Returns:
        Products; for matching labelled pairs of them, derived from catalog ids where none are named.

    Raises:
        ValueError: pairs of a stream are asked for.
    """
    if task != "matching":
        return load_split(data, split)
    path = getattr(data, f"{split}_pairs")
    if path and data.pair_id_column == data.title_column:
        return load_title_pairs(path)
    products = load_split(data, split)
    if not hasattr(products, "select"):
        raise ValueError("`streaming` is true, but the products of pairs must be found by their ids; leave it out.")
    if path:
        return load_pairs(path, products)
    return pairs_of_catalogs(products, seed=seed, group_column=data.category_column)


def choose_rows(
    train_products: Products | ProductPairs,
    validation_products: Products | ProductPairs,
    data: DataArguments,
    arguments: FinetuneArguments,
) -> tuple[Task, np.ndarray, np.ndarray]:
    """Find the classes of a task in its training products, and choose the rows that are learned from.

    Args:
        train_products: Training products, or pairs of them.
        validation_products: Held-out ones; what of their labels can't be used is reported.
        data: The data arguments.
        arguments: The fine-tuning arguments.

    Returns:
        The task, the chosen rows in ascending order, and their labels.

    Raises:
        ValueError: a column is missing, all rows are of one class, or a share of a stream is asked for.
    """
    if isinstance(train_products, ProductPairs):
        labels, encoded = None, train_products.labels
    else:
        labels = find_labels(arguments.task, train_products, data)
        assert labels is not None  # of all tasks but matching, which has pairs
        encoded = read_labels(train_products, labels).labels
        if told := read_labels(validation_products, labels).report():
            logger.info("validation rows: %s", told)
    task = TASKS[arguments.task](arguments, labels)
    if arguments.label_share < 1.0 and not hasattr(train_products, "select"):
        raise ValueError(
            f"`label_share` is {arguments.label_share}, but of a stream all rows are taken; leave it out."
        )
    if arguments.task == "clustering":
        groups = np.unique(encoded[encoded >= 0])
        chosen = groups[choose_labelled(groups, arguments.label_share, arguments.seed)]
        rows = np.flatnonzero(np.isin(encoded, chosen) | (encoded < 0))
    else:
        labelled = np.flatnonzero((encoded.reshape(len(encoded), -1) != NO_LABEL).any(axis=1))
        rows = labelled[choose_labelled(encoded[labelled], arguments.label_share, arguments.seed)]
    return task, rows, encoded[rows]


def choose_labelled(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a share of labelled rows at random, a smaller share always being part of a larger one.

    Where the labels are yes or no, one row of each is among them.

    Args:
        labels: Labels of all rows, shape `(N,)` or `(N, attributes)`.
        share: Share of the rows, above 0 and at most 1; at least two are chosen.
        seed: Seed of the choice.

    Returns:
        The chosen rows, in ascending order.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    number = max(2, round(share * len(labels)))
    if labels.ndim == 1 and set(np.unique(labels)) <= {0, 1, NO_LABEL}:
        firsts = [int(np.flatnonzero(labels[order] == kind)[0]) for kind in (0, 1) if (labels == kind).any()]
        order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return np.sort(order[:number])
