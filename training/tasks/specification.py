"""The five tasks, as fine-tuning sees them.

Each says what the configuration tells its head, how a linear probe of it is fitted, what is decided on validation, and
by which figures a model is judged: those of the metrics in `training/metrics`. The score that chooses the best
checkpoint is the mean of some of them.
"""

from typing import Any

import numpy as np
import torch

from modeling_eclip.fitting.decisions import calibrate, threshold_of_best_f1, threshold_of_recall
from modeling_eclip.fitting.linear import count_classes, fit_classifier
from modeling_eclip.fusion_eclip import LateFusionClassifier, ProductEmbeds
from modeling_eclip.matching_eclip import MatchingOutput
from training.arguments.groups import FinetuneArguments
from training.metrics.adult_recognition.adult_recognition import AdultRecognition
from training.metrics.product_attributes.product_attributes import ProductAttributes
from training.metrics.product_category.product_category import ProductCategory
from training.metrics.product_clustering.product_clustering import ProductClustering
from training.metrics.product_matching.product_matching import ProductMatching
from training.tasks.best_weights import BestWeights
from training.tasks.features import Represented
from training.tasks.labels import NO_LABEL, TaskLabels
from training.tasks.projection import fit_projection

__all__ = ["TASKS", "Task", "answer"]

_PAIRS_AT_ONCE = 4096


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

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
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
        before = self.score(self.metrics(head, validation))
        self.fit_joining(head, train_labels, validation)
        if learned and self.score(self.metrics(head, validation)) < before:
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

    def seen(self, head: Any, rows: Represented) -> ProductEmbeds:
        """Return what the classifiers look at."""
        return rows.embeds

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit a regression per classifier and side."""
        seen, held_out_seen = self.seen(head, train), self.seen(head, validation)
        columns = zip(_columns(train.labels), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            weights = self.class_weights(head)
            fit_classifier(classifier, seen, labels, held_out_seen, held_out, class_weights=weights)
        self.fit_joining(head, train.labels.numpy(), validation)

    def fit_joining(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how each classifier joins the sides, or leave its answer to one of them if that scores higher."""
        if head.config.modality != "both":
            return
        columns = zip(_columns(torch.from_numpy(train_labels)), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            counts = None if self.class_weights(head) else count_classes(classifier, labels)
            classifier.fit_fusion(self.seen(head, validation), held_out, counts)
            fitted = {name: value.clone() for name, value in classifier.state_dict().items()}
            best, score = fitted, self.score(self.metrics(head, validation))
            for side in ("text", "image"):
                classifier.rely_on(side)
                if (alone := self.score(self.metrics(head, validation))) > score:
                    best, score = {name: value.clone() for name, value in classifier.state_dict().items()}, alone
            classifier.load_state_dict(best)


def _columns(labels: torch.Tensor) -> list[torch.Tensor]:
    return list(labels.reshape(len(labels), -1).unbind(dim=1))


class CategoryTask(ClassifierTask):
    """Category classification."""

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure every level of the tree."""
        counted = rows.labels != NO_LABEL
        probabilities = answer(head, rows).logits[counted].softmax(dim=-1).numpy()
        paths = head.config.category_paths
        right = [paths[leaf] for leaf in rows.labels[counted].tolist()]
        return ProductCategory.metrics(ProductCategory.outcomes(probabilities, right, paths))


class AttributesTask(ClassifierTask):
    """Attribute extraction."""

    def classifiers(self, head: Any) -> list[LateFusionClassifier]:
        """Return a classifier per attribute."""
        return list(head.classifier.attributes)

    def config_fields(self, train_labels: np.ndarray) -> dict[str, Any]:
        """Tell from where on a value is stated."""
        return super().config_fields(train_labels) | {"decision_threshold": self.arguments.min_probability}

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure every attribute."""
        names, values = head.config.attribute_names, head.config.attributes
        right = [
            [None if number == NO_LABEL else values[name][number] for name, number in zip(names, row, strict=True)]
            for row in rows.labels.tolist()
        ]
        answered = [[row[name] for name in names] for row in head.decode(answer(head, rows).logits)]
        outcomes = ProductAttributes.outcomes(answered, right, names, head.config.not_stated)
        return ProductAttributes.metrics(outcomes, names)


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
        head.config.target_recall = self.arguments.target_recall
        head.config.decision_threshold = threshold_of_recall(
            head.probabilities(logits), validation.labels, self.arguments.target_recall
        )

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the ranking, and the answers at the threshold."""
        return _yes_or_no(AdultRecognition, head, answer(head, rows).logits, rows.labels)


class MatchingTask(ClassifierTask):
    """Product matching."""

    scored_by = ("average_precision",)

    def seen(self, head: Any, rows: Represented) -> ProductEmbeds:
        """Return what pairs have in common."""
        return head.pair_features(rows.embeds, rows.right)

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit a regression per side, unless the cosine that the head starts with is better."""
        start = {name: value.clone() for name, value in head.classifier.state_dict().items()}
        before = self.score(self.metrics(head, validation))
        super().fit_linear(head, train, validation)
        if self.score(self.metrics(head, validation)) < before:
            head.classifier.load_state_dict(start)

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Calibrate, and set the threshold with the best F1."""
        logits = answer(head, validation).logits
        head.config.calibration = calibrate(logits, validation.labels)
        head.config.decision_threshold = threshold_of_best_f1(head.probabilities(logits), validation.labels)

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the ranking, and the answers at the threshold."""
        return _yes_or_no(ProductMatching, head, answer(head, rows).logits, rows.labels)


class ClusteringTask(Task):
    """Product clustering."""

    scored_by = ("adjusted_rand_index",)

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Train the linear maps by the head's own loss, and keep them at their best on validation."""
        best = BestWeights(head.product_projection)

        def judge(epoch: int) -> None:
            self.fit_decisions(head, validation)
            best.offer(self.score(self.metrics(head, validation)), epoch)

        judge(0)
        fit_projection(head, train.embeds, train.labels, seed=self.arguments.seed, after_epoch=judge)
        best.restore()

    def fit_joining(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how much each side of a product counts."""
        head.fit_fusion(_on(head.device, validation.embeds), validation.labels)

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Set the similarity from which groups are joined."""
        head.fit_threshold(answer(head, validation).embeds, validation.labels)

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the groups at the threshold."""
        groups = head.cluster(answer(head, rows).embeds)
        return ProductClustering.metrics(ProductClustering.outcomes(groups.numpy(), rows.labels.numpy()))


def _yes_or_no(metric: Any, head: Any, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    counted = (labels == 0) | (labels == 1)
    outcomes = metric.outcomes(head.probabilities(logits[counted]).numpy(), labels[counted].numpy())
    return metric.metrics(outcomes, threshold=head.decision_threshold)


@torch.no_grad()
def answer(head: Any, rows: Represented) -> Any:
    """Return what a head makes of rows that are represented already, on the CPU; of pairs the logits alone."""
    was_training = head.training
    head.eval()
    if rows.right is None:
        output = _on("cpu", head.answer(_on(head.device, rows.embeds)))
    else:
        left, right = dict(rows.embeds), dict(rows.right)
        logits = [
            head.answer(
                ProductEmbeds(**{name: value[block].to(head.device) for name, value in left.items()}),
                right=ProductEmbeds(**{name: value[block].to(head.device) for name, value in right.items()}),
            ).logits.cpu()
            for block in torch.arange(len(rows.row_ids)).split(_PAIRS_AT_ONCE)
        ]
        output = MatchingOutput(logits=torch.cat(logits))
    head.train(was_training)
    return output


def _on(device: torch.device | str, value: Any) -> Any:
    """Bring a tensor, or all tensors of a dictionary or an output, to a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)(**{name: _on(device, part) for name, part in value.items()})


TASKS: dict[str, type[Task]] = {
    "category": CategoryTask,
    "attributes": AttributesTask,
    "matching": MatchingTask,
    "clustering": ClusteringTask,
    "adult": AdultTask,
}
"""By name, what is particular to a task."""
