"""Linear probes: logistic regression on the vectors of frozen towers, written into a head's own classifiers.

Each modality of a product gets its own regression, of standardised vectors, its strength chosen on validation; the
standardisation is folded into the weights, so that the head is like any other. How the modalities are joined is
fitted apart, by [`LateFusionClassifier.fit_fusion`].
"""

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from ..fusion_eclip import IGNORED_LABEL, LateFusionClassifier, ProductEmbeds

__all__ = ["STRENGTHS", "count_classes", "fit_classifier", "fit_linear"]

logger = logging.getLogger(__name__)

STRENGTHS = (3e-4, 3e-3, 3e-2, 3e-1)
"""Inverse strengths of regularisation that are tried, as scikit-learn's `C`."""
_UNSEEN = 10.0  # how far the logit of a class without training rows lies below all others


def fit_classifier(
    classifier: LateFusionClassifier,
    train: ProductEmbeds,
    train_labels: torch.Tensor,
    validation: ProductEmbeds,
    validation_labels: torch.Tensor,
    *,
    class_weights: Sequence[float] | None = None,
) -> dict[str, float]:
    """Fit every modality of a classifier.

    Args:
        classifier: The classifier; its weights are replaced.
        train: Products to learn from.
        train_labels: Their classes, shape `(N,)`, -100 for none.
        validation: Products to choose by.
        validation_labels: Their classes, likewise.
        class_weights: Weight of each class in the loss; 1 for all if not given.

    Returns:
        The chosen strength of each modality.
    """
    strengths = {}
    held_out = validation.modalities
    for modality, (vectors, has_modality) in train.modalities.items():
        rows, held_out_rows = (
            has_modality & (train_labels != IGNORED_LABEL),
            held_out[modality][1] & (validation_labels != IGNORED_LABEL),
        )
        strengths[modality] = fit_linear(
            getattr(classifier, modality),
            vectors[rows].numpy(),
            train_labels[rows].numpy(),
            held_out[modality][0][held_out_rows].numpy(),
            validation_labels[held_out_rows].numpy(),
            class_weights=class_weights,
        )
    return strengths


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
        logger.warning("the %s labelled training rows are of %s: that is the answer", len(labels), classes)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[classes] = _UNSEEN
        return min(strengths)
    scaler = StandardScaler().fit(vectors)
    weights = None if class_weights is None else {int(number): class_weights[int(number)] for number in classes}
    regression = LogisticRegression(class_weight=weights, max_iter=300, tol=1e-3, warm_start=True)
    scaled = scaler.transform(vectors)
    best: tuple[tuple[float, float], float, np.ndarray, np.ndarray] | None = None
    for strength in sorted(strengths):
        regression.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: the best of several is taken
            regression.fit(scaled, labels)
        score = (0.0, 0.0)
        if len(validation_labels):
            score = _score(validation_labels, regression, scaler.transform(validation_vectors))
        if best is None or score > best[0]:
            best = (score, strength, regression.coef_.copy(), regression.intercept_.copy())
    assert best is not None
    _, strength, coefficients, intercepts = best
    if len(classes) == 2:  # one row of weights, for the second class
        coefficients, intercepts = (np.stack([-part[0], part[0]]) / 2 for part in (coefficients, intercepts))
    coefficients = coefficients / scaler.scale_
    intercepts = intercepts - coefficients @ scaler.mean_
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(float(intercepts.min()) - _UNSEEN)
        linear.weight[classes] = torch.from_numpy(coefficients).to(linear.weight)
        linear.bias[classes] = torch.from_numpy(intercepts).to(linear.bias)
    return strength


def _score(labels: np.ndarray, regression: LogisticRegression, vectors: np.ndarray) -> tuple[float, float]:
    """Mean of accuracy and macro F1, and for where that is the same the mean log probability of the labels."""
    answers = regression.predict(vectors)
    score = float((labels == answers).mean() + f1_score(labels, answers, average="macro", zero_division=0.0)) / 2
    seen = np.isin(labels, regression.classes_)
    columns = np.searchsorted(regression.classes_, labels[seen])
    if not seen.any():
        return score, 0.0
    log_probabilities = regression.predict_log_proba(vectors[seen])[np.arange(len(columns)), columns]
    return score, float(log_probabilities.mean())
