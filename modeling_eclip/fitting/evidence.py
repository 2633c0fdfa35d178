"""What a matcher weighs: a linear part and boosted trees, fitted by scikit-learn and written into tensors."""

import logging
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from ..fusion_eclip import BLOCK_PAIRS, BoostedTrees, PairEvidence
from ..processing_eclip import lexical_ids
from .lexical import inverse_document_frequencies

__all__ = ["fit_evidence", "fit_idf", "weigh_evidence"]

logger = logging.getLogger(__name__)

_FEWEST_POSITIVES = 20  # below, trees learn the pairs by heart
_STRENGTHS = (0.01, 1.0)
_BLOCK_TITLES = 4096  # each takes some kilobytes


def fit_idf(evidence: PairEvidence, titles: Iterable[str | None]) -> None:
    """Learn from titles how rare n-grams are: before [`fit_evidence`], whose features depend on it.

    It takes no labels, so all titles of a catalog of products can be given, also where few pairs are labelled.

    Args:
        evidence: What weighs the evidence, a head's `evidence`.
        titles: Titles; each counts once, however often it comes, and an absent one does not.
    """
    different = list(dict.fromkeys(title for title in titles if title))
    frequencies = np.zeros(len(evidence.idf), dtype=np.int64)
    for start in range(0, len(different), _BLOCK_TITLES):
        lexical = lexical_ids(different[start : start + _BLOCK_TITLES])
        frequencies += lexical.flatten().bincount(minlength=len(frequencies)).numpy()
    evidence.idf.copy_(torch.from_numpy(inverse_document_frequencies(frequencies, len(different))))


def fit_evidence(
    evidence: PairEvidence,
    features: torch.Tensor,
    labels: torch.Tensor,
    validation_features: torch.Tensor,
    validation_labels: torch.Tensor,
    *,
    itself: torch.Tensor | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Fit what weighs the evidence of pairs; what has the best average precision on validation stays.

    That is one of: the vectors' answer as it was, a logistic regression, boosted trees, the mean of these two; and the
    last two without the vectors, for where these have been trained on the very pairs and seem better than they are.

    Args:
        evidence: What weighs the evidence, a head's `evidence`, with its IDF.
        features: What `head.pair_evidence` gives for the training pairs, shape `(N, F)`. The logit of the vectors
            should come from a classifier that was not fitted on the same pairs.
        labels: 1 for one product, 0 for two; others do not count, shape `(N,)`.
        validation_features: Those of the held-out pairs.
        validation_labels: Their labels.
        itself: Those of products with themselves, shape `(M, F)`, which are learned as one product, too: no other pair
            is as alike, and labelled pairs have none of them. They are not counted where too few labels are refused.
        seed: Seed of the trees.

    Returns:
        The average precision on validation of everything that was tried.
    """
    rows, held_out_rows = (labels >= 0) & (labels <= 1), (validation_labels >= 0) & (validation_labels <= 1)
    x, y = features[rows].cpu().numpy().astype(np.float64), labels[rows].cpu().numpy()
    held_out, truth = validation_features[held_out_rows].float().cpu(), validation_labels[held_out_rows].cpu().numpy()
    alike = np.empty((0, x.shape[1])) if itself is None else itself.cpu().numpy().astype(np.float64)
    y_seen = np.concatenate([y, np.ones(len(alike), dtype=y.dtype)])
    evidence.is_fitted.fill_(False)
    before = {name: value.clone() for name, value in evidence.state_dict().items()}
    for split, of in (("training", y), ("validation", truth)):
        if len(np.unique(of)) < 2:
            logger.warning(
                "what titles say literally is not weighed, and vectors answer alone: %s has no labelled pair of %s",
                split,
                "one product" if len(of) == 0 or not of.any() else "two products",
            )
            return {}
    found = {"vectors": average_precision_score(truth, held_out[:, 3].numpy())}
    kept: tuple[str, dict[str, torch.Tensor]] = ("vectors", before)

    def offer(name: str) -> None:
        nonlocal kept
        found[name] = average_precision_score(truth, weigh_evidence(evidence, held_out).numpy())
        if found[name] > found[kept[0]]:
            evidence.is_fitted.fill_(True)
            kept = name, {key: value.clone() for key, value in evidence.state_dict().items()}

    for suffix, hidden in (("", 0), (" without vectors", 4)):
        seen = np.concatenate([x, alike])
        seen[:, :hidden] = np.nan
        if np.isnan(seen).all():
            continue
        linears = []
        for strength in _STRENGTHS:
            name = f"linear, C = {strength:g}{suffix}"
            _clear(evidence)
            _write_linear(evidence, seen, y_seen, strength)
            offer(name)
            linears.append((found[name], evidence.weight.clone(), evidence.bias.clone(), evidence.mean.clone()))
        if y.sum() < _FEWEST_POSITIVES or (1 - y).sum() < _FEWEST_POSITIVES:
            continue
        _clear(evidence)
        _write_trees(evidence, seen, y_seen, seed)
        offer(f"trees{suffix}")
        _, weight, bias, mean = max(linears, key=lambda linear: linear[0])
        evidence.mean.copy_(mean)
        evidence.weight.copy_(weight / 2)
        evidence.bias.copy_(bias / 2 + evidence.bias / 2)
        evidence.trees.value.mul_(0.5)
        offer(f"linear and trees{suffix}")
    evidence.load_state_dict(kept[1])
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    logger.info("evidence of pairs, average precision on validation: %s; taken: %s", told, kept[0])
    return found


@torch.no_grad()
def weigh_evidence(evidence: PairEvidence, features: torch.Tensor) -> torch.Tensor:
    """Answer about many pairs, some at a time: features of shape `(P, F)` to log odds on the CPU, shape `(P,)`."""
    blocks = features.split(BLOCK_PAIRS)
    return torch.cat([evidence(block.to(evidence.weight.device)).cpu() for block in blocks])


def _clear(evidence: PairEvidence) -> None:
    """Forget what was fitted, but for the IDF."""
    for buffer in (evidence.mean, evidence.weight, evidence.bias, *evidence.trees.buffers()):
        buffer.zero_()


def _write_linear(evidence: PairEvidence, x: np.ndarray, y: np.ndarray, strength: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that no pair has
        means = np.nan_to_num(np.nanmean(x, axis=0))
    known = np.where(np.isnan(x), means, x)
    scaler = StandardScaler().fit(known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression = LogisticRegression(C=strength, max_iter=500).fit(scaler.transform(known), y)
    weight = regression.coef_[0] / scaler.scale_
    evidence.mean.copy_(torch.from_numpy(means))
    evidence.weight.copy_(torch.from_numpy(weight))
    evidence.bias.fill_(float(regression.intercept_[0] - weight @ scaler.mean_))


def _write_trees(evidence: PairEvidence, x: np.ndarray, y: np.ndarray, seed: int) -> None:
    num_trees, num_nodes = evidence.trees.value.shape
    x = np.where(np.isnan(x).all(axis=0), 0, x)  # scikit-learn can't cut a feature that no pair has
    boosting = HistGradientBoostingClassifier(
        max_iter=num_trees,
        learning_rate=0.05,
        max_leaf_nodes=(num_nodes + 1) // 2,
        max_depth=6,
        max_features=0.3,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    ).fit(x, y)
    write_trees(evidence.trees, boosting)
    evidence.bias.fill_(float(np.ravel(boosting._baseline_prediction)[0]))
    ours = (evidence.trees(torch.from_numpy(x[:256]).to(evidence.bias.device)) + evidence.bias).cpu().numpy()
    if not np.allclose(ours, boosting.decision_function(x[:256]), atol=1e-4):
        raise RuntimeError("the trees of this version of scikit-learn are not read correctly; please report it.")


def write_trees(trees: BoostedTrees, boosting: HistGradientBoostingClassifier) -> None:
    """Write the nodes of scikit-learn's trees, which it has no public names for, into tensors."""
    for buffer in trees.buffers():
        buffer.zero_()
    for number, (predictor,) in enumerate(boosting._predictors):
        nodes = predictor.nodes
        first, own = number * trees.value.shape[1], np.arange(len(nodes))
        is_leaf = nodes["is_leaf"].astype(bool)
        left, right = (first + np.where(is_leaf, own, nodes[side].astype(np.int64)) for side in ("left", "right"))
        unknown = np.where(nodes["missing_go_to_left"].astype(bool), left, right)
        size = slice(0, len(nodes))
        trees.feature[number, size] = torch.from_numpy(np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int32))
        # Rounded down, every feature in float32 stays on its side.
        threshold = nodes["num_threshold"].astype(np.float32)
        threshold = np.where(
            threshold > nodes["num_threshold"], np.nextafter(threshold, np.float32(-np.inf)), threshold
        )
        # A node that asks only whether a feature is known has a threshold of infinity.
        trees.threshold[number, size] = torch.from_numpy(np.nan_to_num(threshold))
        trees.next_node[number, size] = torch.from_numpy(np.stack([left, right, unknown], axis=1).astype(np.int32))
        trees.value[number, size] = torch.from_numpy(np.where(is_leaf, nodes["value"], 0).astype(np.float32))
