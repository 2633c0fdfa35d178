"""The share of the labels that a task is learned from: rows chosen at random, a smaller share within a larger one."""

import numpy as np

from training.tasks.labels import NO_LABEL

__all__ = ["choose_labelled"]


def choose_labelled(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a share of labelled rows at random, a smaller share always being part of a larger one.

    Where the labels are yes or no, one row of each is among them.

    Args:
        labels: Labels of all rows, shape `(N,)` or `(N, attributes)`.
        share: Share of the rows, above 0 and at most 1; at least two are chosen.
        seed: Seed of the choice.

    Returns:
        The chosen rows, in ascending order.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    number = max(2, round(share * len(labels)))
    if labels.ndim == 1 and set(np.unique(labels)) <= {0, 1, NO_LABEL}:
        firsts = [int(np.flatnonzero(labels[order] == kind)[0]) for kind in (0, 1) if (labels == kind).any()]
        order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return np.sort(order[:number])
