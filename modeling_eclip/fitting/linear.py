"""Linear probes: logistic regression on the vectors of frozen towers, written into a head's own classifiers.

Each modality of a product gets its own regression, of standardised vectors, its strength chosen on validation; the
standardisation is folded into the weights, so that the head is like any other. How the modalities are joined is
fitted apart, by `fitting.fusion`.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from ..fusion_eclip import IGNORED_LABEL, LateFusionClassifier, ProductEmbeds

__all__ = [
    "STRENGTHS",
    "choose_regression",
    "count_classes",
    "fit_classifier",
    "fit_linear",
    "score_answers",
    "write_regression",
]

logger = logging.getLogger(__name__)

STRENGTHS = (3e-4, 3e-3, 3e-2, 3e-1)
"""Inverse strengths of regularisation that are tried, as scikit-learn's `C`."""
_LEAST = 1e-12
_UNSEEN = 10.0  # how far the logit of a class without training rows lies below all others


def fit_classifier(
    classifier: LateFusionClassifier,
    train: ProductEmbeds,
    train_labels: torch.Tensor,
    validation: ProductEmbeds,
    validation_labels: torch.Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    strengths: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """Fit every modality of a classifier.

    Args:
        classifier: The classifier; its weights are replaced.
        train: Products to learn from.
        train_labels: Their classes, shape `(N,)`, -100 for none.
        validation: Products to choose by.
        validation_labels: Their classes, likewise.
        class_weights: Weight of each class in the loss; 1 for all if not given.
        strengths: What the `C` of each modality is chosen from; `STRENGTHS` if not given.

    Returns:
        The chosen strength of each modality.
    """
    chosen = {}
    held_out = validation.modalities
    for modality, (vectors, has_modality) in train.modalities.items():
        rows, held_out_rows = (
            has_modality & (train_labels != IGNORED_LABEL),
            held_out[modality][1] & (validation_labels != IGNORED_LABEL),
        )
        chosen[modality] = fit_linear(
            getattr(classifier, modality),
            vectors[rows].numpy(),
            train_labels[rows].numpy(),
            held_out[modality][0][held_out_rows].numpy(),
            validation_labels[held_out_rows].numpy(),
            class_weights=class_weights,
            strengths=STRENGTHS if strengths is None else strengths[modality],
        )
    return chosen


def count_classes(classifier: LateFusionClassifier, labels: torch.Tensor) -> torch.Tensor:
    """Count the rows of each of a classifier's classes, shape `(N,)` to `(classes,)`."""
    num_classes = next(part.out_features for part in (classifier.text, classifier.image) if part is not None)
    return labels[labels != IGNORED_LABEL].bincount(minlength=num_classes)


def fit_linear(
    linear: nn.Linear,
    vectors: np.ndarray,
    labels: np.ndarray,
    validation_vectors: np.ndarray,
    validation_labels: np.ndarray,
    *,
    class_weights: Sequence[float] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """Fit one logistic regression into a linear layer.

    Args:
        linear: The layer; its weights are replaced.
        vectors: Vectors to learn from, shape `(N, D)`.
        labels: Their classes, shape `(N,)`.
        validation_vectors: Vectors to choose by.
        validation_labels: Their classes; the strength with the best mean of accuracy and macro F1 is taken.
        class_weights: Weight of each class in the loss; 1 for all if not given.
        strengths: What `C` is chosen from.

    Returns:
        The chosen `C`. Rows of one class make a layer that always answers it, and no rows one that answers nothing.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        logger.warning("the %s labelled training rows are all of class %s: nothing is learned", len(labels), classes)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[classes] = _UNSEEN
        return min(strengths)
    scaler = StandardScaler().fit(vectors)
    weights = None if class_weights is None else {int(number): class_weights[int(number)] for number in classes}
    regression = LogisticRegression(class_weight=weights, max_iter=300, tol=1e-3, warm_start=True)
    scaled = scaler.transform(vectors)
    held_out = scaler.transform(validation_vectors) if len(validation_labels) else validation_vectors
    strength, coefficients, intercepts = choose_regression(
        regression, strengths, scaled, labels, held_out, validation_labels
    )
    coefficients = coefficients / scaler.scale_
    intercepts = intercepts - coefficients @ scaler.mean_
    write_regression(linear, classes, coefficients, intercepts)
    return strength


def choose_regression(
    regression: LogisticRegression,
    strengths: Sequence[float],
    rows: Any,
    labels: np.ndarray,
    validation_rows: Any,
    validation_labels: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Fit a regression with several strengths, and keep the one that validation likes best.

    Args:
        regression: The regression, with `warm_start`.
        strengths: What `C` is chosen from.
        rows: Rows to learn from, dense or sparse, shape `(N, D)`.
        labels: Their classes, two or more, shape `(N,)`.
        validation_rows: Rows to choose by; the weakest strength is taken where there are none.
        validation_labels: Their classes.

    Returns:
        The chosen `C`, and for each class in ascending order its coefficients `(classes, D)` and intercept.
    """
    best: tuple[tuple[float, float], float, np.ndarray, np.ndarray] | None = None
    for strength in sorted(strengths):
        regression.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: the best of several is taken
            regression.fit(rows, labels)
        score = (0.0, 0.0)
        if len(validation_labels):
            num_classes = int(max(validation_labels.max(), regression.classes_.max())) + 1
            score = score_answers(validation_labels, _logits(regression, validation_rows, num_classes))
        if best is None or score > best[0]:
            best = (score, strength, regression.coef_.copy(), regression.intercept_.copy())
    assert best is not None
    _, strength, coefficients, intercepts = best
    if len(regression.classes_) == 2:  # one row of weights, for the second class
        coefficients, intercepts = (np.stack([-part[0], part[0]]) / 2 for part in (coefficients, intercepts))
    return strength, coefficients, intercepts


@torch.no_grad()
def write_regression(linear: nn.Linear, classes: np.ndarray, coefficients: np.ndarray, intercepts: np.ndarray) -> None:
    """Write a regression into a linear layer, where a class that it has not seen is far below all others."""
    linear.weight.zero_()
    linear.bias.fill_(float(intercepts.min()) - _UNSEEN)
    linear.weight[classes] = torch.from_numpy(coefficients).to(linear.weight)
    linear.bias[classes] = torch.from_numpy(intercepts).to(linear.bias)


def score_answers(labels: np.ndarray, logits: torch.Tensor) -> tuple[float, float]:
    """Mean of accuracy and macro F1, and for where that is the same the mean log probability of the labels."""
    if not len(labels):
        return 0.0, 0.0
    answers = logits.argmax(dim=1).numpy()
    f1 = f1_score(labels, answers, average="macro", zero_division=0.0)
    log_probabilities = logits.log_softmax(dim=1)[torch.arange(len(labels)), torch.from_numpy(labels)]
    return float((labels == answers).mean() + f1) / 2, float(log_probabilities.mean())


def _logits(regression: LogisticRegression, rows: Any, num_classes: int) -> torch.Tensor:
    """Return log probabilities of all classes, shape `(N, num_classes)`."""
    probabilities = torch.zeros((rows.shape[0], num_classes), dtype=torch.float64)
    probabilities[:, torch.from_numpy(regression.classes_)] = torch.from_numpy(regression.predict_proba(rows)).double()
    return probabilities.clamp(min=_LEAST).log()
