"""Product category classification: accuracy and macro F1 at every level of a category tree.

A metric module of `evaluate`: `evaluate.load("training/metrics/product_category")`. A product's answer at a level is
the node whose leaves have most probability together; its answer as a whole is the likeliest leaf. A reference that is
not in the tree counts as a mistake from the level on where the tree does not know it.

F1 is counted with numpy: scikit-learn's `f1_score` gives the same (a test says so) in forty times the time, which an
interval by resampling would wait for a thousand times. Macro F1 is, as there, the mean over the classes that occur
among references or answers.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Accuracy and macro F1 per level of a category tree, hierarchical F1, and top-k accuracy."
_INPUTS = """
Args:
    predictions: scores of each product for every leaf, none negative, in the order of category_paths: probabilities.
    references: category path of each product, root first.
    category_paths: path of every leaf, root first, of any depth.
    top_k: how many of the likeliest leaves may hold the right one (default 5).
Returns:
    level_<n>_accuracy and level_<n>_macro_f1 for every level, 1 being the coarsest (a shorter path stays itself below
    its end), accuracy and macro_f1 of whole paths, hierarchical_f1 (nodes on the paths, all products together),
    top_<k>_accuracy.
"""


class ProductCategory(evaluate.Metric):
    """Metrics of classified products; `outcomes` and `metrics` are its two halves, for resampling between them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("string")),
                }
            ),
        )

    def _compute(
        self, predictions: Any, references: Any, category_paths: Sequence[Sequence[str]], top_k: int = 5
    ) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions, references, category_paths, top_k), top_k=top_k)

    @staticmethod
    def outcomes(
        predictions: Any, references: Any, category_paths: Sequence[Sequence[str]], top_k: int = 5
    ) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` products are made of.

        Args:
            predictions: Scores, shape `(N, leaves)`.
            references: Paths.
            category_paths: Path of every leaf.
            top_k: How many of the likeliest leaves may hold the right one.

        Returns:
            `reference` and `prediction`, class numbers per level and, last, of whole paths, int64, shape
            `(N, levels + 1)` each; `depths`, the nodes on the right path, on the answered one, and on both, int64,
            shape `(N, 3)`; `in_top`, bool, shape `(N,)`.

        Raises:
            ValueError: there are no products, the shapes do not fit, a score is negative or not a number, or a path
                is empty.
        """
        paths, right = [tuple(path) for path in category_paths], [tuple(path or ()) for path in references]
        scores = np.asarray(predictions, dtype=np.float64)
        if not right or scores.shape != (len(right), len(paths)):
            raise ValueError(
                f"predictions have shape {scores.shape}; give a score of each of the {len(paths)} category_paths for "
                f"each of the {len(right)} references, and at least one product."
            )
        if not (scores >= 0).all() or not np.isfinite(scores).all():
            raise ValueError("predictions hold negative or no numbers; give probabilities.")
        for name, given in (("references", right), ("category_paths", paths)):
            if () in given:
                raise ValueError(f"{name}[{given.index(())}] is empty; leave products without a category out.")
        if len(set(paths)) < len(paths):
            raise ValueError("category_paths names a path twice; give every leaf once.")

        best = scores.argmax(axis=1)
        answered = [paths[leaf] for leaf in best]
        references_per_level, predictions_per_level = [], []
        for depth in range(1, max(map(len, paths)) + 1):
            numbers: dict[tuple[str, ...], int] = {}
            node_of_leaf = np.array([numbers.setdefault(path[:depth], len(numbers)) for path in paths])
            by_node = np.argsort(node_of_leaf, kind="stable")
            first_leaves = np.searchsorted(node_of_leaf[by_node], np.arange(len(numbers)))
            node_scores = np.add.reduceat(scores[:, by_node], first_leaves, axis=1)  # (products, nodes)
            predictions_per_level.append(node_scores.argmax(axis=1))
            references_per_level.append([numbers.setdefault(path[:depth], len(numbers)) for path in right])
        numbers = {path: leaf for leaf, path in enumerate(paths)}
        references_per_level.append([numbers.setdefault(path, len(numbers)) for path in right])
        predictions_per_level.append(best)

        right_leaf = np.asarray(references_per_level[-1])
        top = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        shared = [_shared_depth(*pair) for pair in zip(right, answered, strict=True)]
        return {
            "reference": np.stack([np.asarray(level) for level in references_per_level], axis=1),
            "prediction": np.stack(predictions_per_level, axis=1),
            "depths": np.array([list(map(len, right)), list(map(len, answered)), shared]).T,
            "in_top": (top == right_leaf[:, None]).any(axis=1),
        }

    @staticmethod
    def metrics(outcomes: dict[str, np.ndarray], top_k: int = 5) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        reference, prediction = outcomes["reference"], outcomes["prediction"]
        names = [f"level_{level}_" for level in range(1, reference.shape[1])] + [""]
        metrics = {}
        for column, name in enumerate(names):
            metrics[f"{name}accuracy"] = float((reference[:, column] == prediction[:, column]).mean())
            metrics[f"{name}macro_f1"] = _macro_f1(reference[:, column], prediction[:, column])
        right, answered, shared = outcomes["depths"].sum(axis=0)
        metrics["hierarchical_f1"] = float(2 * shared / (right + answered))
        metrics[f"top_{top_k}_accuracy"] = float(outcomes["in_top"].mean())
        return metrics


def _shared_depth(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Return how many nodes two paths share, from the root on."""
    depth = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        depth += 1
    return depth


def _macro_f1(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur; both are class numbers, shape `(N,)`."""
    num_classes = max(reference.max(), prediction.max()) + 1
    occurring = np.bincount(reference, minlength=num_classes) + np.bincount(prediction, minlength=num_classes)
    right = np.bincount(reference[reference == prediction], minlength=num_classes)
    return float((2 * right[occurring > 0] / occurring[occurring > 0]).mean())
