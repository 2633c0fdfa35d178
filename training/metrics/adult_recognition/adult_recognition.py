"""Adult product recognition: how well scores tell products that are restricted to adults from all others.

A metric module of `evaluate`: `evaluate.load("training/metrics/adult_recognition")`. Where the products are all of one
kind: without a restricted product every metric is not a number; with nothing else, average precision, precision and
recall at precision are 1 for any scores.

The curve is counted with numpy: scikit-learn's has the same points (a test says so) in ten times the time, which an
interval by resampling would wait for a thousand times.

One file, which shares no code with the module of matching: `evaluate.load(path)` copies this file alone.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Average precision, precision at a recall of 0.95 and recall at a precision of 0.95 of scored products."
_INPUTS = """
Args:
    predictions: score of each product, the higher the likelier restricted: a probability, or any other number.
    references: 1 for a product that is restricted to adults, 0 for any other.
    threshold: score from which the answer is yes (default 0.5, for probabilities).
Returns:
    average_precision, precision_at_recall_95 and recall_at_precision_95 (each the best of all thresholds that keep the
    other at 0.95 or above; recall 0 where none does), precision, recall and f1 (at the threshold).
"""
_METRICS = ("average_precision", "precision_at_recall_95", "recall_at_precision_95", "precision", "recall", "f1")


class AdultRecognition(evaluate.Metric):
    """Metrics of scored products; `outcomes` and `metrics` are its two halves, for resampling between them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, threshold: float = 0.5) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions, references), threshold=threshold)

    @staticmethod
    def outcomes(predictions: Any, references: Any) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` products are made of.

        Args:
            predictions: Scores, shape `(N,)`.
            references: 1 or 0, shape `(N,)`.

        Returns:
            `score`, float, `rank` of the score among all, int64, and `label`, bool, shape `(N,)` each.

        Raises:
            ValueError: there are no products, a score is not a finite number, or a reference is neither 1 nor 0.
        """
        score, label = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        if score.ndim != 1 or score.shape != label.shape or not len(score):
            raise ValueError(
                f"predictions have shape {score.shape}, references {label.shape}; give one of each for every product, "
                "and at least one product."
            )
        if not np.isfinite(score).all():
            place = int(np.flatnonzero(~np.isfinite(score))[0])
            raise ValueError(f"predictions[{place}] is {score[place]}; give finite scores.")
        if not np.isin(label, (0, 1)).all():
            place = int(np.flatnonzero(~np.isin(label, (0, 1)))[0])
            raise ValueError(f"references[{place}] is {label[place]}; give 1 (restricted) or 0.")
        # Ranks, so that a curve is counted and nothing sorted: a resample keeps them.
        return {"score": score, "rank": np.unique(score, return_inverse=True)[1], "label": label.astype(bool)}

    @staticmethod
    def metrics(outcomes: dict[str, np.ndarray], threshold: float = 0.5) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        score, rank, label = outcomes["score"], outcomes["rank"], outcomes["label"]
        answer = score >= threshold
        num_right, num_found, num_true = (answer & label).sum(), answer.sum(), label.sum()
        if not num_true:
            return dict.fromkeys(_METRICS, float("nan"))
        at_rank = np.bincount(rank)[::-1]
        # Per threshold, the highest first: what it finds, and what of that is right.
        found = at_rank.cumsum()[at_rank > 0]
        right = np.bincount(rank[label], minlength=len(at_rank))[::-1].cumsum()[at_rank > 0]
        precision, recall = right / found, right / num_true
        return {
            "average_precision": float(np.diff(recall, prepend=0.0) @ precision),
            "precision_at_recall_95": float(precision[recall >= 0.95].max()),
            "recall_at_precision_95": float(recall[precision >= 0.95].max(initial=0.0)),
            "precision": float(num_right / num_found) if num_found else 0.0,
            "recall": float(num_right / num_true),
            "f1": float(2 * num_right / (num_found + num_true)),
        }
