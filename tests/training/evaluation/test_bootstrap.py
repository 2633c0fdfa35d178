"""Intervals by resampling: against standard errors known from theory, and against new samples of a population."""

import math

import numpy as np
import pytest

from training.evaluation.bootstrap import bootstrap_intervals, jackknife_intervals


def mean(outcomes):
    return {"mean": float(outcomes["value"].mean())}


def joined_pairs(outcomes):
    """Share of right pairs among those that share a group, a metric of pairs of rows."""
    group, product = outcomes["group"], outcomes["product"]
    is_joined = np.triu(group[:, None] == group[None, :], 1)
    return {"precision": float((product[:, None] == product[None, :])[is_joined].mean())}


def width(interval):
    return interval[1] - interval[0]


def test_interval_of_a_mean_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for seed in range(200):
        low, high = bootstrap_intervals(
            mean, {"value": rng.random(80) < 0.7}, num_resamples=200, confidence=0.9, seed=seed
        )["mean"]
        held.append(low <= 0.7 <= high)
    # 200 trials of probability 0.9: two standard deviations are 0.04; percentile intervals are a little narrow.
    assert 0.82 <= np.mean(held) <= 0.95


def test_width_is_that_of_theory():
    values = np.random.default_rng(1).normal(size=400)
    expected = 2 * 1.96 * values.std() / math.sqrt(400)
    assert width(bootstrap_intervals(mean, {"value": values})["mean"]) == pytest.approx(expected, rel=0.1)
    # Leaving out row by row is the textbook's standard error of a mean, to rounding.
    low, high = jackknife_intervals(mean, {"value": values}, num_blocks=400)["mean"]
    exact = 1.959964 * values.std(ddof=1) / math.sqrt(400)
    assert (low, high) == (
        pytest.approx(values.mean() - exact, abs=1e-6),
        pytest.approx(values.mean() + exact, abs=1e-6),
    )


def test_rows_of_a_group_stand_and_fall_together():
    values = np.random.default_rng(2).normal(size=200)
    alone = {"value": values}
    # Each row four times over tells no more than once.
    copied = {"value": np.repeat(values, 4)}
    groups = np.repeat(np.arange(200) * 3 + 1, 4)
    for intervals in (bootstrap_intervals, jackknife_intervals):
        once = width(intervals(mean, alone)["mean"])
        assert width(intervals(mean, copied, groups)["mean"]) == pytest.approx(once, rel=0.1)
        assert width(intervals(mean, copied)["mean"]) == pytest.approx(once / 2, rel=0.15)


def test_negative_groups_are_alone():
    values = np.random.default_rng(3).normal(size=100)
    for intervals in (bootstrap_intervals, jackknife_intervals):
        assert intervals(mean, {"value": values}, np.full(100, -1)) == intervals(mean, {"value": values})


def test_whole_groups_are_drawn():
    seen = []

    def look(outcomes):
        seen.append(outcomes["row"].tolist())
        return {"mean": 0.0}

    groups = np.array([5, 2, 5, -1, 2, 5])
    bootstrap_intervals(look, {"row": np.arange(6)}, groups, num_resamples=50)
    for rows in seen:
        counts = [rows.count(row) for row in range(6)]
        assert counts[0] == counts[2] == counts[5] and counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len({tuple(rows) for rows in seen}) > 5


def test_jackknife_of_pairs_is_no_narrower_than_new_samples_differ():
    rng = np.random.default_rng(4)

    def sample():
        product = np.repeat(np.arange(150), rng.integers(1, 6, 150))
        # Some products are taken for another one, in part.
        taken_for = np.where(rng.random(150) < 0.15, rng.integers(0, 150, 150), np.arange(150))
        confused = rng.random(len(product)) < 0.5
        return {"group": np.where(confused, taken_for[product], product), "product": product}

    spread = np.std([joined_pairs(sample())["precision"] for _ in range(300)])
    widths = []
    for _ in range(8):
        outcomes = sample()
        low, high = jackknife_intervals(joined_pairs, outcomes, outcomes["product"])["precision"]
        widths.append((high - low) / (2 * 1.96))
    # A jackknife errs on the wide side (Efron and Stein, 1981), here by up to the square root of two, since a wrong
    # pair goes with either of its products.
    assert 0.9 * spread < np.mean(widths) < 1.6 * spread
    # A bootstrap would tell of another metric altogether: copies of a product are no pairs of two.
    low, high = bootstrap_intervals(joined_pairs, outcomes, outcomes["product"], num_resamples=50)["precision"]
    assert low > joined_pairs(outcomes)["precision"]


def test_seeds_decide():
    values = np.random.default_rng(5).normal(size=50)
    for intervals in (bootstrap_intervals, jackknife_intervals):
        settings = {"num_blocks": 5} if intervals is jackknife_intervals else {"num_resamples": 50}
        first, same, other = (intervals(mean, {"value": values}, seed=seed, **settings) for seed in (1, 1, 2))
        assert first == same != other


def test_metrics_that_are_not_defined():
    def of_positives(outcomes):
        return {"recall": float(outcomes["found"][outcomes["label"]].mean()) if outcomes["label"].any() else math.nan}

    # One positive of a hundred: a third of the resamples lack it, the others agree.
    label = np.arange(100) == 7
    assert bootstrap_intervals(of_positives, {"label": label, "found": label})["recall"] == (1.0, 1.0)
    for intervals in (bootstrap_intervals, jackknife_intervals):
        nothing = {"label": np.zeros(100, bool), "found": label}
        assert all(map(math.isnan, intervals(of_positives, nothing)["recall"]))
    assert all(map(math.isnan, jackknife_intervals(of_positives, {"label": label, "found": label})["recall"]))
    # One unit: nothing to leave out.
    assert all(map(math.isnan, jackknife_intervals(mean, {"value": np.ones(3)}, np.ones(3, int))["mean"]))
    assert bootstrap_intervals(mean, {"value": np.ones(3)}, np.ones(3, int))["mean"] == (1.0, 1.0)


def test_what_is_refused():
    values = {"value": np.ones(3)}
    for intervals in (bootstrap_intervals, jackknife_intervals):
        with pytest.raises(ValueError, match="'groups': 2"):
            intervals(mean, values, np.zeros(2, int))
        with pytest.raises(ValueError, match="one row or more"):
            intervals(mean, {"value": np.ones(0)})
        with pytest.raises(ValueError, match="`confidence` is 95"):
            intervals(mean, values, confidence=95)
    with pytest.raises(ValueError, match="`num_resamples` is 1"):
        bootstrap_intervals(mean, values, num_resamples=1)
    with pytest.raises(ValueError, match="`num_blocks` is 1"):
        jackknife_intervals(mean, values, num_blocks=1)
