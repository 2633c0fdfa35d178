"""Product retrieval: how far ahead what belongs to a query is among what is found.

A metric module of `evaluate`: `evaluate.load("training/metrics/product_retrieval")`.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Recall at 1, 5 and 10, nDCG at 10, mean reciprocal rank and mean average precision of queries."
_INPUTS = """
Args:
    predictions: for each query, a list with one entry for each direction that is searched in: the rank of the first
        right candidate, 1 being the first, the average precision, and the nDCG at 10.
    directions: names of the directions, in the same order; one without a name by default.
Returns:
    recall@1, recall@5, recall@10 (share of the queries with a right candidate among the first k),
    mean_reciprocal_rank, mean_average_precision and ndcg@10; of a direction with a name, each after it.
"""
_RANKS = (1, 5, 10)


class ProductRetrieval(evaluate.Metric):
    """Means over queries; `outcomes` and `metrics` are its two halves, for resampling between them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.List(datasets.List(datasets.Value("float64")))}),
        )

    def _compute(self, predictions: Any, directions: Sequence[str] = ("",)) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions), directions)

    @staticmethod
    def outcomes(predictions: Any, references: Any = None) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` queries are made of.

        Args:
            predictions: Rank of the first right candidate, average precision and nDCG at 10, shape
                `(N, directions, 3)`.
            references: Not read: a rank is judged already.

        Returns:
            `first_right`, `average_precision` and `ndcg`, float64, each of shape `(N, directions)`.

        Raises:
            ValueError: there are no queries, a rank is less than 1, or one of the others is not from 0 to 1.
        """
        given = np.asarray(predictions, dtype=np.float64)
        if given.ndim != 3 or given.shape[-1] != 3 or not given.size:
            raise ValueError(
                f"predictions have shape {given.shape}; give a rank, an average precision and an nDCG for every query "
                "and direction, and at least one query."
            )
        first_right, average_precision, ndcg = np.moveaxis(given, -1, 0)
        if not (first_right >= 1).all():
            raise ValueError(f"predictions hold the rank {first_right.min()}; give ranks from 1 on.")
        for name, values in (("average precision", average_precision), ("nDCG", ndcg)):
            if not ((values >= 0) & (values <= 1 + 1e-9)).all():  # a sum of several may be rounded up
                raise ValueError(f"predictions hold an {name} of {values.max()}; give values from 0 to 1.")
        return {"first_right": first_right, "average_precision": average_precision, "ndcg": ndcg}

    @staticmethod
    def metrics(outcomes: dict[str, np.ndarray], directions: Sequence[str] = ("",)) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        metrics: dict[str, float] = {}
        for column, direction in enumerate(directions):
            ranks, prefix = outcomes["first_right"][:, column], f"{direction}_" if direction else ""
            metrics |= {f"{prefix}recall@{k}": float((ranks <= k).mean()) for k in _RANKS}
            metrics[f"{prefix}ndcg@10"] = float(outcomes["ndcg"][:, column].mean())
            metrics[f"{prefix}mean_reciprocal_rank"] = float((1 / ranks).mean())
            metrics[f"{prefix}mean_average_precision"] = float(outcomes["average_precision"][:, column].mean())
        return metrics
