"""Answers to figures with intervals, through the metric modules in `training/metrics`."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import evaluate

from training.bootstrap import bootstrap_intervals, jackknife_intervals
from training.task_answers import TaskAnswers

__all__ = ["Figure", "figures_to_json", "measure"]

METRICS = Path(__file__).parent / "metrics"
# Their figures are of pairs of rows.
_METRICS_OF_PAIRS = ("product_clustering",)


class Figure(NamedTuple):
    """A figure and the ends of its 95 % interval; not-a-number where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as people read it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def measure(
    answers: TaskAnswers, *, num_resamples: int = 1000, by_catalog: bool = True, seed: int = 0
) -> dict[str, Figure]:
    """Measure answers.

    Args:
        answers: The answers, of a head or of anything else.
        num_resamples: How often rows are drawn for the intervals; for clustering a jackknife takes their place, since
            its figures are of pairs of rows (see `training.bootstrap`).
        by_catalog: Whether the rows of a catalog are drawn together. Where training has seen the very catalogs, rows
            are what varies.
        seed: Seed of what is drawn.

    Returns:
        The figures of the answers' metric, by name.

    Raises:
        ValueError: there are no rows, or the metric refuses them.
    """
    metric = evaluate.load(str(METRICS / answers.metric), keep_in_memory=True)
    values = metric.compute(
        predictions=answers.predictions,
        references=answers.references,
        **(answers.outcome_settings | answers.figure_settings),
    )
    outcomes = metric.outcomes(answers.predictions, answers.references, **answers.outcome_settings)
    figures = partial(metric.figures, **answers.figure_settings)
    groups = answers.groups if by_catalog else None
    if answers.metric in _METRICS_OF_PAIRS:
        intervals = jackknife_intervals(figures, outcomes, groups, seed=seed)
    else:
        intervals = bootstrap_intervals(figures, outcomes, groups, num_resamples=num_resamples, seed=seed)
    return {name: Figure(value, *intervals[name]) for name, value in values.items()}


def figures_to_json(figures: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
    """Return figures as JSON has them: `{name: {"value", "low", "high"}}`, null for what is not a number."""
    return {
        name: {part: None if math.isnan(number) else number for part, number in figure._asdict().items()}
        for name, figure in figures.items()
    }
