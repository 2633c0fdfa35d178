"""Selective prediction: how many answers can be given at a wished precision, and whether probabilities mean something.

A metric module of `evaluate`: `evaluate.load("training/metrics/selective_prediction")`. Answers come in kinds, such as
yes and no, or one per attribute: precision is held in each of them alone, so that a frequent kind hides no mistakes of
a rare one.

Coverage at a precision is chosen on these very answers, as a point of the risk-coverage curve (El-Yaniv and Wiener,
2010): it says what the ranking by confidence allows, and flatters a little. `coverage` and `selective_precision` are
of thresholds that were fixed before. Expected calibration error is that of Guo et al. (2017), with 15 bins of equal
width.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Coverage at a precision of 0.95 and 0.99, and expected calibration error, of answers with confidences."
_INPUTS = """
Args:
    predictions: confidence of each answer, for each row: the probability that it is right; null where no answer of
        that kind is given or its truth is not known.
    references: 1 where the answer is right, 0 where it is wrong, likewise.
    kinds: names of the kinds of answers, in the same order; one without a name by default.
    thresholds: confidence from which answers of each kind are given, null for a kind that is never given; without it
        all are.
Returns:
    coverage_at_precision_95 and coverage_at_precision_99 (share of the answers that can be given so that of those so
    many are right, in each kind), expected_calibration_error; with thresholds coverage (share of the answers that is
    given) and selective_precision (share of those that is right). With several kinds the same of each, after its name.
"""
_NUM_BINS = 15
_PRECISIONS = (0.95, 0.99)
# Of the rounding of a product of a share and a count.
_ROUNDING = 1e-9


class SelectivePrediction(evaluate.Metric):
    """Metrics of answers with confidences; `outcomes` and `metrics` are its halves, for resampling between them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        kinds: Sequence[str] = ("",),
        thresholds: Sequence[float | None] | None = None,
    ) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions, references), kinds, thresholds)

    @staticmethod
    def outcomes(predictions: Any, references: Any) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` rows are made of.

        Args:
            predictions: Confidences, shape `(N, kinds)`; null or not-a-number for no answer.
            references: 1 for right and 0 for wrong, shape `(N, kinds)`.

        Returns:
            `confidence`, float, not-a-number for no answer, `confidence_rank` among all of its kind, int64, and
            `is_right`, bool, shape `(N, kinds)` each.

        Raises:
            ValueError: there are no rows, the shapes differ, or a confidence is no probability.
        """
        confidence = np.asarray(predictions, dtype=np.float64)
        right = np.asarray([[bool(one) for one in row] for row in references], dtype=bool)
        if confidence.ndim != 2 or confidence.shape != right.shape or not len(right):
            raise ValueError(
                f"predictions have shape {confidence.shape}, references {right.shape}; give one of each for every row "
                "and kind, and at least one row."
            )
        wrong = confidence[(confidence < 0) | (confidence > 1)]
        if len(wrong):
            raise ValueError(f"predictions hold {wrong[0]}; give probabilities, or null for no answer.")
        # Ranks, so that a curve is counted and nothing sorted: a resample keeps them.
        ranks = [np.unique(column, return_inverse=True)[1] for column in confidence.T]
        return {"confidence": confidence, "confidence_rank": np.stack(ranks, axis=1), "is_right": right}

    @staticmethod
    def metrics(
        outcomes: dict[str, np.ndarray],
        kinds: Sequence[str] = ("",),
        thresholds: Sequence[float | None] | None = None,
    ) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        confidence, rank, right = (outcomes[name] for name in ("confidence", "confidence_rank", "is_right"))
        answered = ~np.isnan(confidence)
        given = np.zeros_like(answered)
        # Of each kind: its answers, those that can be given at each precision, those that are given, and the right.
        counts = np.zeros((len(kinds), len(_PRECISIONS) + 3))
        for column in range(len(kinds)):
            is_answer = answered[:, column]
            ranks, is_right = rank[is_answer, column], right[is_answer, column]
            at_rank = np.bincount(ranks)[::-1]
            # Per confidence, the highest first: the answers from it on, and what of them is right.
            found = at_rank.cumsum()
            hits = np.bincount(ranks[is_right], minlength=len(at_rank))[::-1].cumsum()
            reached = [found[hits >= precision * found - _ROUNDING].max(initial=0) for precision in _PRECISIONS]
            if thresholds is not None and (lowest := thresholds[column]) is not None:
                given[:, column] = is_answer & (np.nan_to_num(confidence[:, column], nan=-1.0) >= lowest)
            kept = given[:, column]
            counts[column] = [len(ranks), *reached, kept.sum(), right[kept, column].sum()]
        is_fixed = thresholds is not None
        metrics = _metrics("", counts.sum(axis=0), confidence[answered], right[answered], is_fixed)
        if len(kinds) > 1:
            for column, kind in enumerate(kinds):
                own = answered[:, column]
                metrics |= _metrics(f"{kind}_", counts[column], confidence[own, column], right[own, column], is_fixed)
        return metrics


def _metrics(
    prefix: str, counts: np.ndarray, confidence: np.ndarray, right: np.ndarray, is_fixed: bool
) -> dict[str, float]:
    """Return the metrics of a kind, or of all: not-a-number where there are no answers."""
    number, *reached, given, hits = counts.tolist()
    metrics = {
        f"{prefix}coverage_at_precision_{100 * precision:.0f}": among / number if number else float("nan")
        for precision, among in zip(_PRECISIONS, reached, strict=True)
    }
    metrics[f"{prefix}expected_calibration_error"] = _calibration_error(confidence, right)
    if is_fixed:
        metrics[f"{prefix}coverage"] = given / number if number else float("nan")
        metrics[f"{prefix}selective_precision"] = hits / given if given else float("nan")
    return metrics


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the mean distance of confidence and accuracy, over bins of equal width weighted by their answers."""
    if not len(confidence):
        return float("nan")
    bins = np.minimum((confidence * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    distances = np.bincount(bins, weights=confidence - right, minlength=_NUM_BINS)
    return float(np.abs(distances).sum() / len(confidence))
