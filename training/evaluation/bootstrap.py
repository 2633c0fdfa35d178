"""Confidence intervals of metrics by seeded resampling.

Units are resampled: rows, or groups of rows whose outcomes depend on each other, such as the offers of one catalog.
Metrics are any function of arrays over rows; the metric modules in `training/metrics` have one each.
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

__all__ = ["Intervals", "Metrics", "bootstrap_intervals", "jackknife_intervals"]

Outcomes = Mapping[str, np.ndarray]
Metrics = Callable[[dict[str, np.ndarray]], Mapping[str, float]]
Intervals = dict[str, tuple[float, float]]


def bootstrap_intervals(
    metrics: Metrics,
    outcomes: Outcomes,
    groups: np.ndarray | None = None,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Tell the percentile bootstrap interval of every metric.

    Args:
        metrics: Returns metrics by name of a selection of the rows.
        outcomes: Arrays over the `N` rows, the first axis being the rows.
        groups: Unit of each row, int, shape `(N,)`; a row with a negative one is a unit of its own, as all are
            without it.
        num_resamples: How often as many units as there are are drawn, with replacement.
        confidence: Share of the resamples that the interval holds.
        seed: Seed of what is drawn.

    Returns:
        `{name: (low, high)}`; not-a-number where a metric is not defined for half of the resamples or more.

    Raises:
        ValueError: there are no rows, or the arrays differ in length, or `num_resamples` or `confidence` make no
            interval.
    """
    _check(outcomes, groups, confidence)
    if num_resamples < 2:
        raise ValueError(f"`num_resamples` is {num_resamples}; draw at least 2, and better 1000.")
    rows, starts, counts = _units(_num_rows(outcomes), groups)
    rng = np.random.default_rng(seed)
    drawn_metrics: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        units = rng.integers(len(starts), size=len(starts))
        chosen = rows[_ranges(starts[units], counts[units])]
        for name, value in metrics({key: values[chosen] for key, values in outcomes.items()}).items():
            drawn_metrics.setdefault(name, []).append(value)
    tail = 100 * (1 - confidence) / 2
    intervals = {}
    for name, drawn in drawn_metrics.items():
        values = np.array(drawn)
        defined = values[~np.isnan(values)]
        low, high = np.percentile(defined, (tail, 100 - tail)) if len(defined) > len(values) / 2 else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def jackknife_intervals(
    metrics: Metrics,
    outcomes: Outcomes,
    groups: np.ndarray | None = None,
    *,
    num_blocks: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Tell an interval of every metric from what it becomes without one block of units after the other.

    For metrics of pairs of rows, as those of clustering are: a bootstrap draws a product several times, and its copies
    make pairs that the data has not. The variance is the delete-a-group jackknife's, which errs on the wide side
    (Efron and Stein, 1981), the interval the normal one around the metric itself.

    Args:
        metrics: As for [`bootstrap_intervals`].
        outcomes: Likewise.
        groups: Likewise.
        num_blocks: Into how many blocks the units are dealt; one for each unit where there are fewer.
        confidence: As for [`bootstrap_intervals`].
        seed: Seed of the dealing.

    Returns:
        `{name: (low, high)}`, not above 1, which no metric is; not-a-number where there is one unit only, or a metric
        is not defined without some block.

    Raises:
        ValueError: as for [`bootstrap_intervals`], or `num_blocks` is less than 2.
    """
    _check(outcomes, groups, confidence)
    if num_blocks < 2:
        raise ValueError(f"`num_blocks` is {num_blocks}; leave out one of at least 2 blocks, and better of 100.")
    values = dict(metrics(dict(outcomes)))
    without = {name: np.array(left) for name, left in _leave_out(metrics, outcomes, groups, num_blocks, seed).items()}
    half_width = NormalDist().inv_cdf((1 + confidence) / 2)
    intervals = {}
    for name, value in values.items():
        left = without.get(name, np.full(1, np.nan))
        deviation = half_width * np.sqrt((len(left) - 1) * left.var())
        low, high = (value - deviation, min(value + deviation, 1.0)) if len(left) > 1 else (np.nan, np.nan)
        intervals[name] = (float(low), float(high)) if np.isfinite(deviation) else (float("nan"), float("nan"))
    return intervals


def _leave_out(
    metrics: Metrics, outcomes: Outcomes, groups: np.ndarray | None, num_blocks: int, seed: int
) -> dict[str, list[float]]:
    """Return each metric without every block."""
    rows, _, counts = _units(_num_rows(outcomes), groups)
    num_blocks = min(num_blocks, len(counts))
    block_of_unit = np.random.default_rng(seed).permutation(len(counts)) % num_blocks
    block = np.empty(len(rows), dtype=np.int64)
    block[rows] = np.repeat(block_of_unit, counts)
    without: dict[str, list[float]] = {}
    for number in range(num_blocks if num_blocks > 1 else 0):
        kept = block != number
        for name, value in metrics({key: values[kept] for key, values in outcomes.items()}).items():
            without.setdefault(name, []).append(value)
    return without


def _units(num_rows: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows, those of a unit side by side, and where each unit starts there and how long it is."""
    if groups is None:
        return np.arange(num_rows), np.arange(num_rows), np.ones(num_rows, dtype=np.int64)
    alone = groups < 0
    numbers = np.unique(groups, return_inverse=True)[1]
    numbers[alone] = num_rows + np.arange(alone.sum())
    rows = np.argsort(numbers, kind="stable")
    _, starts, counts = np.unique(numbers[rows], return_index=True, return_counts=True)
    return rows, starts, counts


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return `starts[0], starts[0] + 1, ...`, `counts[0]` of them, then those of the next, and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)


def _num_rows(outcomes: Outcomes) -> int:
    return len(next(iter(outcomes.values())))


def _check(outcomes: Outcomes, groups: np.ndarray | None, confidence: float) -> None:
    lengths = {name: len(values) for name, values in outcomes.items()}
    if groups is not None:
        lengths["groups"] = len(groups)
    if len(set(lengths.values())) != 1 or not any(lengths.values()):
        raise ValueError(f"the arrays have {lengths} rows; give one row or more, and as many in each.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence}; give a share such as 0.95.")
