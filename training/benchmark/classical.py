"""The classical floor: what features without any learned representation know of a task.

Logistic regression on them for classes, cosines for pairs, average linkage for groups. What is chosen is chosen on
validation, as for heads: the strength of the regression, calibration, thresholds, how much titles count in groups.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from modeling_eclip import EClipConfig
from modeling_eclip.fitting.decisions import calibrate, threshold_of_best_f1, threshold_of_recall
from modeling_eclip.retrieval.linkage import average_linkage
from training.arguments.groups import DataArguments, FinetuneArguments
from training.benchmark.classical_features import ClassicalFeatures
from training.data.pairs import ProductPairs
from training.evaluation.predictions import TaskAnswers, products_of_pairs
from training.tasks.labels import NO_LABEL, AttributeLabels, CategoryLabels, read_labels
from training.tasks.splits import choose_rows

__all__ = ["answer_classically"]

_STRENGTHS = (1.0, 10.0, 100.0)
_UNSEEN = -30.0  # log probability of a class without training rows
_JUDGED = ("validation", "test")
_TEXT_SHARES = np.linspace(0, 1, 11)


def answer_classically(
    splits: Mapping[str, Any], data: DataArguments, arguments: FinetuneArguments
) -> tuple[TaskAnswers, float]:
    """Learn a task from its training rows, and answer about its test rows.

    Args:
        splits: Products, or pairs of products, of `"train"`, `"validation"` and `"test"`.
        data: The data arguments, which name the columns of the labels.
        arguments: Task, modality, share of the labels and seed.

    Returns:
        The answers about all test rows that have a label, as `answer_task` gives those of heads; and the score on
        validation.

    Raises:
        ValueError: a column is missing.
    """
    task, rows, train_labels = choose_rows(splits["train"], splits["validation"], data, arguments)
    tables = {name: split.products if isinstance(split, ProductPairs) else split for name, split in splits.items()}
    describe = ClassicalFeatures(tables["train"], arguments.modality)
    if arguments.task in ("matching", "clustering"):  # what titles are compared by is chosen
        features = {name: describe.views(table) for name, table in tables.items()}
    else:
        features = {name: describe(table) for name, table in tables.items()}
    return _ANSWERS[arguments.task](_Learning(arguments, task, rows, train_labels, splits, features))


@dataclass
class _Learning:
    """What is learned from.

    Args:
        arguments: The fine-tuning arguments.
        task: The task.
        rows: Training rows whose labels are used.
        train_labels: Their labels.
        splits: The three splits.
        features: Per split and side (of pairs and groups: view) the features of its products.
    """

    arguments: FinetuneArguments
    task: Any
    rows: np.ndarray
    train_labels: np.ndarray
    splits: Mapping[str, Any]
    features: dict[str, dict[str, Any]]

    @cached_property
    def held_out_labels(self) -> np.ndarray:
        """Labels of all validation rows."""
        return read_labels(self.splits["validation"], self.task.labels).labels

    def logits(
        self, column: int | None = None, class_weight: str | None = None
    ) -> tuple[dict[str, np.ndarray], float]:
        """Fit a regression per side, of the strength that validation prefers, and join what they say.

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
            right, answers = held_out[held_out_rows], logits[held_out_rows].argmax(axis=1)
            if class_weight is not None:
                return float(average_precision_score(right, logits[held_out_rows, 1] - logits[held_out_rows, 0]))
            macro_f1 = f1_score(right, answers, average="macro", zero_division=0.0)
            return float((answers == right).mean() + macro_f1) / 2

        of_sides = []
        for side, train in self.features["train"].items():
            if len(classes := np.unique(train_labels[counted])) < 2:  # some labels are too few to tell anything apart
                constant = np.full(num_classes, _UNSEEN)
                constant[classes] = 0.0
                of_sides.append({split: np.tile(constant, (len(self.splits[split]), 1)) for split in _JUDGED})
                continue
            trials = []
            for strength in _STRENGTHS:
                regression = LogisticRegression(C=strength, class_weight=class_weight, max_iter=300, tol=1e-3)
                regression.fit(train[self.rows[counted]], train_labels[counted])
                logits = {}
                for split in _JUDGED:
                    logits[split] = np.full((len(self.splits[split]), num_classes), _UNSEEN)
                    said = regression.predict_log_proba(self.features[split][side])
                    logits[split][:, regression.classes_] = said
                trials.append((score(logits["validation"]), logits))
            of_sides.append(max(trials, key=lambda trial: trial[0])[1])
        if len(of_sides) == 1:
            return of_sides[0], score(of_sides[0]["validation"])
        title, image = of_sides
        joined = [
            {split: share * title[split] + (1 - share) * image[split] for split in title} for share in _TEXT_SHARES
        ]
        best = max(joined, key=lambda logits: score(logits["validation"]))
        return best, score(best["validation"])


def _category(given: _Learning) -> tuple[TaskAnswers, float]:
    labels: CategoryLabels = given.task.labels
    logits, score = given.logits()
    probabilities = np.zeros((len(given.splits["test"]), len(labels.paths)))
    probabilities[:, : logits["test"].shape[1]] = softmax(logits["test"], axis=1)
    right = [labels.path(row) for row in given.splits["test"].select_columns(labels.columns)]
    labelled = np.array([bool(path) for path in right])
    answers = TaskAnswers(
        "product_category",
        probabilities[labelled],
        [list(path) for path in right if path],
        _catalogs(given)[labelled],
        outcome_settings={"category_paths": labels.paths},
    )
    return answers, score


def _attributes(given: _Learning) -> tuple[TaskAnswers, float]:
    labels: AttributeLabels = given.task.labels
    said, scores = {}, []
    for column, name in enumerate(labels.columns):
        logits, score = given.logits(column)
        said[name] = [labels.classes[name][number] for number in logits["test"].argmax(axis=1)]
        scores.append(score)
    right = [labels.values(row) for row in given.splits["test"].select_columns(labels.columns)]
    labelled = np.flatnonzero([any(value is not None for value in row.values()) for row in right])
    answers = TaskAnswers(
        "product_attributes",
        [[said[name][place] for name in labels.columns] for place in labelled],
        [[right[place][name] for name in labels.columns] for place in labelled],
        _catalogs(given)[labelled],
        outcome_settings={"attributes": labels.columns, "not_stated": EClipConfig().not_stated},
        metric_settings={"attributes": labels.columns},
    )
    return answers, float(np.mean(scores))


def _adult(given: _Learning) -> tuple[TaskAnswers, float]:
    found, score = given.logits(class_weight="balanced")
    logits = {split: torch.from_numpy(of[:, 1] - of[:, 0]) for split, of in found.items()}
    held_out = torch.from_numpy(given.held_out_labels)
    right = read_labels(given.splits["test"], given.task.labels).labels
    probabilities = _calibrated(logits, held_out)
    threshold = threshold_of_recall(probabilities["validation"], held_out, given.arguments.target_recall)
    labelled = right != NO_LABEL
    answers = TaskAnswers(
        "adult_recognition",
        probabilities["test"].numpy()[labelled],
        right[labelled],
        _catalogs(given)[labelled],
        metric_settings={"threshold": threshold},
    )
    return answers, score


def _matching(given: _Learning) -> tuple[TaskAnswers, float]:
    cosines = {split: _cosines(given.features[split], given.splits[split]) for split in given.splits}
    train, held_out = cosines["train"][given.rows], torch.from_numpy(given.splits["validation"].labels)
    trained = LogisticRegression(class_weight="balanced").fit(train, given.train_labels).decision_function
    # Without training: the cosine by one of the views, or the mean of all.
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"trained": trained, "mean": lambda of: of.mean(axis=1)}
    ways |= {view: partial(_column, place) for place, view in enumerate(given.features["test"])}
    scores = {name: {split: torch.from_numpy(way(cosines[split])) for split in _JUDGED} for name, way in ways.items()}
    precision = {name: average_precision_score(held_out, of["validation"]) for name, of in scores.items()}
    chosen = max(precision, key=lambda name: precision[name])
    probabilities = _calibrated(scores[chosen], held_out)
    pairs = given.splits["test"]
    answers = TaskAnswers(
        "product_matching",
        probabilities["test"].numpy(),
        pairs.labels,
        products_of_pairs(pairs)[pairs.left],
        metric_settings={"threshold": threshold_of_best_f1(probabilities["validation"], held_out)},
    )
    return answers, float(precision[chosen])


def _clustering(given: _Learning) -> tuple[TaskAnswers, float]:
    held_out = torch.tensor(given.splits["validation"]["catalog_id"])
    neighbors = EClipConfig().cluster_neighbors
    views = list(given.features["test"])
    title_views, has_image = [view for view in views if view != "image"], "image" in views
    ways: list[dict[str, float]] = [{"image": 1.0}] if has_image else []
    for view in title_views:
        ways += [{view: share, "image": 1 - share} for share in _TEXT_SHARES[1:-1]] if has_image else []
        ways.append({view: 1.0})
    best: tuple[float, dict[str, float], float] | None = None
    for way in ways:
        joins = average_linkage(_dense(given.features["validation"], way), -1.0, num_neighbors=neighbors)
        threshold, score = joins.best_threshold(held_out)
        if best is None or score > best[0]:
            best = (score, way, threshold)
    assert best is not None
    score, way, threshold = best
    groups = average_linkage(_dense(given.features["test"], way), threshold, num_neighbors=neighbors).groups()
    catalogs = _catalogs(given)
    return TaskAnswers("product_clustering", groups.numpy().astype(np.int64), catalogs, catalogs), score


_ANSWERS: dict[str, Callable[[_Learning], tuple[TaskAnswers, float]]] = {
    "category": _category,
    "attributes": _attributes,
    "adult": _adult,
    "matching": _matching,
    "clustering": _clustering,
}


def _calibrated(logits: Mapping[str, torch.Tensor], held_out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Turn logits into probabilities, by the labels of validation."""
    slope, intercept = calibrate(logits["validation"], held_out)
    return {split: torch.sigmoid(slope * of + intercept) for split, of in logits.items()}


def _catalogs(given: _Learning) -> np.ndarray:
    return np.asarray(given.splits["test"]["catalog_id"], dtype=np.int64)


def _cosines(features: Mapping[str, Any], pairs: ProductPairs) -> np.ndarray:
    """Return the cosine of every pair, a column per side."""
    columns = []
    for part in features.values():
        left, right = part[pairs.left], part[pairs.right]
        product = left.multiply(right) if hasattr(left, "multiply") else left * right
        columns.append(np.asarray(product.sum(axis=1)).ravel())
    return np.stack(columns, axis=1)


def _column(place: int, cosines: np.ndarray) -> np.ndarray:
    return cosines[:, place]


def _dense(features: Mapping[str, Any], shares: Mapping[str, float]) -> torch.Tensor:
    """Put views side by side, each with its share of a dot product."""
    parts = [features[view] * share**0.5 for view, share in shares.items()]
    arrays = [part.toarray() if hasattr(part, "toarray") else part for part in parts]
    return torch.from_numpy(np.concatenate(arrays, axis=1).astype(np.float32))
