"""Product retrieval: how often what belongs to a query is among the first that are found.

A metric module of `evaluate`: `evaluate.load("training/metrics/product_retrieval")`.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Recall at 1, 5 and 10, and mean reciprocal rank, of the first right answer of each query."
_INPUTS = """
Args:
    predictions: rank of the first right candidate for each query, 1 being the first, a list with one for each
        direction that is searched in.
    directions: names of the directions, in the same order; one without a name by default.
Returns:
    recall@1, recall@5, recall@10 (share of the queries with a right candidate among the first k) and
    mean_reciprocal_rank; of a direction with a name, each after it.
"""
_RANKS = (1, 5, 10)


class ProductRetrieval(evaluate.Metric):
    """Metrics of ranks; `outcomes` and `metrics` are its two halves, for resampling between them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.List(datasets.Value("int64"))}),
        )

    def _compute(self, predictions: Any, directions: Sequence[str] = ("",)) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions), directions)

    @staticmethod
    def outcomes(predictions: Any, references: Any = None) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` queries are made of.

        Args:
            predictions: Ranks, shape `(N, directions)`.
            references: Not read: a rank is judged already.

        Returns:
            `first_right`, int64, shape `(N, directions)`.

        Raises:
            ValueError: there are no queries, or a rank is less than 1.
        """
        ranks = np.asarray(predictions, dtype=np.int64)
        if ranks.ndim != 2 or not ranks.size or ranks.min() < 1:
            raise ValueError(
                f"predictions have shape {ranks.shape}, and the least is {ranks.min(initial=1)}; give a rank from 1 "
                "on for every query and direction, and at least one query."
            )
        return {"first_right": ranks}

    @staticmethod
    def metrics(outcomes: dict[str, np.ndarray], directions: Sequence[str] = ("",)) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        metrics: dict[str, float] = {}
        for column, direction in enumerate(directions):
            ranks, prefix = outcomes["first_right"][:, column], f"{direction}_" if direction else ""
            metrics |= {f"{prefix}recall@{k}": float((ranks <= k).mean()) for k in _RANKS}
            metrics[f"{prefix}mean_reciprocal_rank"] = float((1 / ranks).mean())
        return metrics
