"""Calibration and thresholds: what heads decide by, and what they leave to people, fitted on validation.

Everything fitted here travels in the configuration of a head.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

__all__ = ["calibrate", "threshold_of_best_f1", "threshold_of_precision", "threshold_of_recall"]

_FEWEST = 1e-12


def calibrate(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Fit the slope and the intercept that turn logits into log odds (Platt, 1999), by logistic regression.

    Args:
        logits: Shape `(N,)`.
        labels: 1 or 0, shape `(N,)`; others do not count.

    Returns:
        Slope and intercept; `[1, 0]` where the labels are all alike, or where higher logits are no likelier yes.
    """
    counted = (labels == 0) | (labels == 1)
    scores, truth = logits[counted].double().numpy(), labels[counted].numpy()
    if len(np.unique(truth)) < 2:
        return [1.0, 0.0]
    spread = float(scores.std()) or 1.0
    # Of one number of spread 1: the default regularisation keeps the slope finite where the two kinds do not overlap.
    regression = LogisticRegression().fit(scores[:, None] / spread, truth)
    slope, intercept = float(regression.coef_[0, 0]) / spread, float(regression.intercept_[0])
    return [slope, intercept] if slope > 0 else [1.0, 0.0]


def threshold_of_best_f1(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Find the threshold with the best F1, in the middle between two probabilities.

    Args:
        probabilities: Shape `(N,)`.
        labels: 1 or 0, shape `(N,)`.

    Returns:
        The threshold; 0.5 where no label is 1.
    """
    truth = labels.numpy()
    if not (truth == 1).any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(truth == 1, probabilities.double().numpy())
    f1 = 2 * precision * recall / np.maximum(precision + recall, _FEWEST)
    best = int(f1[:-1].argmax())
    below = thresholds[best - 1] if best else thresholds[best]
    return float((thresholds[best] + below) / 2)


def threshold_of_recall(probabilities: torch.Tensor, labels: torch.Tensor, target_recall: float) -> float:
    """Find the highest threshold that finds so many of the positive rows.

    Args:
        probabilities: Shape `(N,)`.
        labels: 1 or 0, shape `(N,)`.
        target_recall: Share of the rows with label 1 that is to be found.

    Returns:
        The threshold; 0.5 where no label is 1.
    """
    positive = np.sort(probabilities[labels == 1].double().numpy())[::-1]
    if not len(positive):
        return 0.5
    needed = int(np.ceil(target_recall * len(positive) - 1e-9))
    # A little below, so that rounding to other number formats does not lose the last one.
    return max(float(positive[needed - 1]) - 1e-6, 0.0)


def threshold_of_precision(confidences: np.ndarray, is_right: np.ndarray, target_precision: float) -> float | None:
    """Find the lowest confidence from which so many of the answers are right, to send the others to review.

    Answers above it are counted as if one more of them were wrong (as conformal risk control counts; Angelopoulos et
    al., 2022), so that few rows promise little: .95 needs at least 19 answers, .99 at least 99, all of them right.

    Args:
        confidences: Probability of each answer, shape `(N,)`.
        is_right: Whether it is right, bool, shape `(N,)`.
        target_precision: Share of the given answers that are to be right.

    Returns:
        The confidence, midway between two answers, or 0 where all may be given; `None` where none reaches it.
    """
    order = np.argsort(-confidences, kind="stable")
    sorted_confidences, right = confidences[order].astype(float), is_right[order].cumsum()
    below = np.append(sorted_confidences[1:], -1.0)
    # A threshold cannot separate answers of equal confidence.
    reached = (right >= target_precision * (np.arange(len(right)) + 2) - 1e-9) & (below < sorted_confidences)
    if not reached.any():
        return None
    last = int(np.flatnonzero(reached)[-1])
    return float((sorted_confidences[last] + below[last]) / 2) if last + 1 < len(right) else 0.0
