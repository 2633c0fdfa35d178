"""Answers to metrics with intervals, through the metric modules in `training/metrics`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import evaluate
import numpy as np
from scipy.stats import t

from training.evaluation.bootstrap import bootstrap_intervals, jackknife_intervals
from training.tasks.answers import JudgedAnswers, TaskAnswers

__all__ = ["Estimate", "Outcomes", "load_metric", "measure", "metrics_to_json"]

METRICS = Path(__file__).parents[1] / "metrics"


class Estimate(NamedTuple):
    """A metric's value and the ends of its 95 % interval; not-a-number where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Outcomes:
    """What the metrics of one run are computed from.

    Args:
        metric: Name of the metric module in `training/metrics`.
        arrays: Its outcomes: arrays over the rows.
        groups: Rows that are right or wrong together, int64, shape `(N,)`; -1 for a row that is alone.
        settings: Further arguments that metrics depend on.
        selection: Arguments of the metrics of coverage and calibration, whose arrays are there, too; `None` without.
    """

    metric: str
    arrays: dict[str, np.ndarray]
    groups: np.ndarray
    settings: dict[str, Any]
    selection: dict[str, Any] | None = None

    @classmethod
    def of(cls, answers: TaskAnswers, judged: JudgedAnswers | None = None) -> "Outcomes":
        """Judge answers, row by row; those with probabilities, which the task has judged, by coverage, too."""
        metric = load_metric(answers.metric)
        arrays = metric.outcomes(answers.predictions, answers.references, **answers.outcome_settings)
        if judged is None:
            return cls(answers.metric, arrays, answers.groups, answers.metric_settings)
        arrays |= load_metric(_SELECTION).outcomes(judged.confidences, judged.is_right)
        selection = {"kinds": judged.kinds, "thresholds": judged.thresholds}
        return cls(answers.metric, arrays, answers.groups, answers.metric_settings, selection)

    def metrics(self, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics of the rows, or of a selection of them."""
        found = dict(load_metric(self.metric).metrics(arrays, **self.settings))
        if self.selection is not None:
            found |= load_metric(_SELECTION).metrics(arrays, **self.selection)
        return found

    def save(self, path: Path) -> None:
        """Write an `.npz` file, which holds no pickled objects."""
        described = {"metric": self.metric, "settings": self.settings, "selection": self.selection}
        settings = np.array(json.dumps(described))
        np.savez_compressed(path, allow_pickle=False, settings=settings, groups=self.groups, **_prefixed(self.arrays))

    @classmethod
    def load(cls, path: Path) -> "Outcomes":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as content:
            settings = json.loads(str(content["settings"]))
            arrays = {name[len(_PREFIX) :]: content[name] for name in content.files if name.startswith(_PREFIX)}
            return cls(settings["metric"], arrays, content["groups"], settings["settings"], settings["selection"])


_PREFIX = "outcome."
_SELECTION = "selective_prediction"


def _prefixed(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {_PREFIX + name: values for name, values in arrays.items()}


@cache
def load_metric(name: str) -> Any:
    """Load a metric module of `training/metrics`."""
    return evaluate.load(str(METRICS / name), keep_in_memory=True)


def measure(
    runs: Sequence[Outcomes], *, num_resamples: int = 1000, by_catalog: bool = True, seed: int = 0
) -> dict[str, Estimate]:
    """Measure one run, or several of the same rows.

    Args:
        runs: What each answered, judged.
        num_resamples: How often rows are drawn for the intervals; where a metric is one of pairs of rows, as those
            of clustering are, a jackknife takes their place (see `training.evaluation.bootstrap`).
        by_catalog: Whether the rows of a catalog are drawn together. Where training has seen the very catalogs, rows
            are what varies.
        seed: Seed of what is drawn.

    Returns:
        By name the mean of the runs' metrics. Its interval is that of which rows are drawn; with several runs it is
        widened by the interval of their mean, by Student's t.

    Raises:
        ValueError: there are no rows, or the runs are of different rows or metrics.
    """
    first = runs[0]
    if any(run.metric != first.metric or not np.array_equal(run.groups, first.groups) for run in runs):
        raise ValueError("the runs are of different rows or metrics; measure those of one split together.")
    metric = load_metric(first.metric)
    each = [run.metrics(run.arrays) for run in runs]

    def mean_metrics(chosen: dict[str, np.ndarray]) -> dict[str, float]:
        parts: list[dict[str, np.ndarray]] = [{} for _ in runs]
        for key, values in chosen.items():
            number, name = key.split(" ", 1)
            parts[int(number)][name] = values
        found = [run.metrics(part) for part, run in zip(parts, runs, strict=True)]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    arrays = {f"{number} {name}": values for number, run in enumerate(runs) for name, values in run.arrays.items()}
    groups = first.groups if by_catalog else None
    if getattr(metric, "over_pairs_of_rows", False):
        intervals = jackknife_intervals(mean_metrics, arrays, groups, seed=seed)
    else:
        intervals = bootstrap_intervals(mean_metrics, arrays, groups, num_resamples=num_resamples, seed=seed)
    found = {}
    for name in each[0]:
        values = np.array([one[name] for one in each])
        value, (low, high) = float(values.mean()), intervals[name]
        if len(values) > 1:
            error = float(t.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
            low = value - math.hypot(value - low, error)
            high = min(value + math.hypot(high - value, error), 1.0)
        found[name] = Estimate(value, low, high)
    return found


def metrics_to_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Return metrics as JSON has them: `{name: {"value", "low", "high"}}`, null for what is not a number."""
    return {
        name: {part: None if math.isnan(number) else number for part, number in value._asdict().items()}
        for name, value in metrics.items()
    }
