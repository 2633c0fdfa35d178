"""Product clustering: how well groups of offers agree with the products that the offers are of.

A metric module of `evaluate`: `evaluate.load("training/metrics/product_clustering")`. The adjusted Rand index, the
V-measure and the counts of pairs are scikit-learn's; B-cubed precision and recall (Bagga and Baldwin, 1998) are
counted in its contingency matrix. No matrix of all pairs is held. Where no two offers were joined, none was joined
wrongly, and pairwise precision is 1; where no two are of one product, none was missed, and pairwise recall is 1.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import adjusted_rand_score, homogeneity_completeness_v_measure
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix

_DESCRIPTION = "Adjusted Rand index, V-measure, pairwise F1 and B-cubed F1 of groups of offers."
_INPUTS = """
Args:
    predictions: group of each offer, an integer; which integer does not matter.
    references: product of each offer, an integer; negative for an offer that is alone with its product.
Returns:
    adjusted_rand_index, v_measure, homogeneity, completeness, pairwise_f1, pairwise_precision, pairwise_recall,
    b_cubed_f1, b_cubed_precision, b_cubed_recall.
"""


class ProductClustering(evaluate.Metric):
    """Metrics of groups; `outcomes` and `metrics` are its two halves, for resampling between them."""

    over_pairs_of_rows = True  # a bootstrap's copies of a row would make pairs that the data has not

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions, references))

    @staticmethod
    def outcomes(predictions: Any, references: Any) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` offers are made of.

        Args:
            predictions: Groups, int, shape `(N,)`.
            references: Products, int, shape `(N,)`, negative for an offer that is alone.

        Returns:
            `group` and `product`, int64, shape `(N,)` each; offers that are alone have a product each.

        Raises:
            ValueError: there are no offers, or not one group and product for each.
        """
        group, product = np.asarray(predictions), np.asarray(references)
        if group.ndim != 1 or group.shape != product.shape or not len(group):
            raise ValueError(
                f"predictions have shape {group.shape}, references {product.shape}; give one of each for every offer, "
                "and at least one offer."
            )
        alone = product < 0
        product = np.unique(product, return_inverse=True)[1]
        product[alone] = len(product) + np.arange(alone.sum())
        return {"group": np.unique(group, return_inverse=True)[1], "product": product}

    @staticmethod
    def metrics(outcomes: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        group, product = outcomes["group"], outcomes["product"]
        homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(product, group)
        (_, wrongly_joined), (wrongly_apart, rightly_joined) = pair_confusion_matrix(product, group).astype(float)
        joined, belonging = rightly_joined + wrongly_joined, rightly_joined + wrongly_apart

        shared = contingency_matrix(product, group, sparse=True)  # offers of each product in each group
        squared = shared.multiply(shared)
        b_cubed_precision = float((squared.sum(axis=0) / shared.sum(axis=0)).sum() / len(group))
        b_cubed_recall = float((squared.sum(axis=1) / shared.sum(axis=1)).sum() / len(group))
        return {
            "adjusted_rand_index": float(adjusted_rand_score(product, group)),
            "v_measure": float(v_measure),
            "homogeneity": float(homogeneity),
            "completeness": float(completeness),
            # Without any pair on either side there is nothing to find, and nothing was found.
            "pairwise_f1": float(2 * rightly_joined / (joined + belonging)) if joined + belonging else 1.0,
            "pairwise_precision": float(rightly_joined / joined) if joined else 1.0,
            "pairwise_recall": float(rightly_joined / belonging) if belonging else 1.0,
            "b_cubed_f1": 2 * b_cubed_precision * b_cubed_recall / (b_cubed_precision + b_cubed_recall),
            "b_cubed_precision": b_cubed_precision,
            "b_cubed_recall": b_cubed_recall,
        }
