"""Plots of a head's answers: bars with intervals, confusions, curves, sizes of groups, and the worst mistakes.

Each function draws one PNG file of plain data. Dollar signs in titles and names are drawn as they are, not as
formulas.
"""

import itertools
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve

from modeling_eclip.plots.fonts import drawable
from training.plots.canvas import plt

__all__ = [
    "ShownMistake",
    "draw_bars",
    "draw_confusions",
    "draw_group_sizes",
    "draw_mistakes",
    "draw_precision_recall",
    "draw_reliability",
    "size_bars",
]

_DPI = 110
_NUM_BINS = 15  # of confidences, as the metric of calibration has them


def draw_bars(bars: Mapping[str, Mapping[str, tuple[float, float, float]]], title: str, path: Path) -> None:
    """Draw metrics as bars with their intervals, models side by side.

    Args:
        bars: Per model its metrics by name, each `(value, low, high)`; not-a-number leaves out a bar or an interval.
        title: What is measured.
        path: PNG file to write.

    Raises:
        ValueError: there is nothing to draw.
    """
    names = list(dict.fromkeys(name for metrics in bars.values() for name in metrics))
    if not names:
        raise ValueError("`bars` holds no metrics; give at least one model with one metric.")
    width = 0.8 / len(bars)
    figure, axes = plt.subplots(figsize=(max(5.0, 0.6 * len(names) * (len(bars) + 1)), 4), layout="constrained")
    for place, (model, metrics) in enumerate(bars.items()):
        values, lows, highs = (
            np.array([metrics.get(name, (np.nan,) * 3)[part] for name in names]) for part in range(3)
        )
        positions = np.arange(len(names)) + (place - (len(bars) - 1) / 2) * width
        errors = np.clip(np.nan_to_num([values - lows, highs - values]), 0, None)
        axes.bar(positions, values, width, yerr=errors, capsize=3, label=_plain(model))
        for position, value, error in zip(positions, values, errors[1], strict=True):
            if np.isfinite(value):
                axes.text(position, value + error + 0.01, f"{value:.3f}", ha="center", va="bottom", fontsize=8)
    axes.set(title=_plain(title), ylim=(min(0.0, _least(bars)), 1.1))
    axes.set_xticks(range(len(names)), [_wrapped(name, 14) for name in names], fontsize=9)
    if len(bars) > 1:
        figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    _save(figure, path)


def draw_confusions(
    references: Sequence[str], predictions: Sequence[str], title: str, path: Path, max_classes: int = 12
) -> None:
    """Draw the confusion matrix of the classes that are confused most.

    Args:
        references: Label of each row.
        predictions: Predicted class of each row.
        title: What the classes are.
        path: PNG file to write.
        max_classes: About how many classes to show. Those of the commonest mistakes are taken. The last column counts
            predictions of all other classes, so that each row of the matrix is complete.

    Raises:
        ValueError: there are no rows.
    """
    if not len(references):
        raise ValueError("`references` is empty; there is nothing to draw.")
    mistakes = Counter(pair for pair in zip(references, predictions, strict=True) if pair[0] != pair[1])
    shown: list[str] = []
    for pair, _ in mistakes.most_common():
        if len(shown) < max_classes:
            shown += [name for name in pair if name not in shown]
    shown = shown or [name for name, _ in Counter(references).most_common(max_classes)]
    number = {name: place for place, name in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown) + 1), dtype=np.int64)
    for label, prediction in zip(references, predictions, strict=True):
        if label in number:
            counts[number[label], number.get(prediction, len(shown))] += 1
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.5 * len(shown)
    figure, axes = plt.subplots(figsize=(side + 1.5, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.6 else "tab:red" if row != column else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    labels = [_wrapped(name, 24) for name in shown]
    axes.set_xticks(range(len(shown) + 1), [*labels, "another"], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    num_wrong = mistakes.total()
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(_plain(f"{title}: {num_wrong} of {len(references)} wrong"), fontsize=11)
    _save(figure, path)


def draw_precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, float | None]], title: str, path: Path
) -> None:
    """Draw precision over recall.

    Args:
        curves: Per model the labels (bool, shape `(N,)`), the scores (shape `(N,)`), and the threshold that it decides
            by, which is marked. A model without a positive row has no curve, and the legend says so.
        title: What is scored.
        path: PNG file to write.
    """
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    for model, (labels, scores, threshold) in curves.items():
        labels = np.asarray(labels, dtype=bool)
        if not labels.any():
            axes.plot([], [], label=_plain(f"{model}: nothing to find"))
            continue
        precision, recall, thresholds = precision_recall_curve(labels, scores)
        name = f"{model} ({average_precision_score(labels, scores):.3f})"
        (line,) = axes.step(recall, precision, where="post", label=_plain(name))
        if threshold is not None:
            place = int(np.searchsorted(thresholds, threshold))
            axes.plot(recall[place], precision[place], "o", color=line.get_color())
        axes.axhline(labels.mean(), color=line.get_color(), linestyle=":", linewidth=1)
    axes.axvline(0.95, color="grey", linewidth=0.5)
    axes.plot([], [], "o", color="grey", label="where it decides")
    axes.plot([], [], ":", color="grey", label="chance")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(_plain(f"{title} (average precision)"), fontsize=11)
    axes.legend(fontsize=8, loc="lower left")
    _save(figure, path)


def draw_reliability(kinds: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, path: Path) -> None:
    """Draw what confidences are worth: how many answers are right at each, and among the most confident ones.

    Args:
        kinds: Per kind of answers their confidences (shape `(N,)`) and whether they are right (bool, shape `(N,)`). A
            kind without answers has no curve, and the legend says so.
        title: What is answered.
        path: PNG file to write.
    """
    figure, (reliability, coverage) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    reliability.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    for kind, (confidences, is_right) in kinds.items():
        if not len(confidences):
            coverage.plot([], [], label=_plain(f"{kind}: no answers"))
            reliability.plot([], [])
            continue
        bins = np.minimum((confidences * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
        counts = np.bincount(bins, minlength=_NUM_BINS)
        filled = counts > 0
        mean, accuracy = (
            np.bincount(bins, weights=values, minlength=_NUM_BINS)[filled] / counts[filled]
            for values in (confidences, is_right)
        )
        (line,) = reliability.plot(mean, accuracy, linewidth=1)
        sizes = 12 + 200 * counts[filled] / len(confidences)
        reliability.scatter(mean, accuracy, sizes, color=line.get_color(), alpha=0.6)
        order = np.argsort(-confidences, kind="stable")
        number = np.arange(1, len(order) + 1)
        name = f"{kind}: {len(order)} answers, {is_right.mean():.0%} right"
        coverage.plot(number / len(order), is_right[order].cumsum() / number, label=_plain(name))
    for precision in (0.95, 0.99):
        coverage.axhline(precision, color="grey", linestyle=":", linewidth=1)
    reliability.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    reliability.set_title("reliability (dots: 15 bins, by their answers)", fontsize=10)
    coverage.set(xlabel="coverage: share of the answers, the surest first", ylabel="precision", xlim=(0, 1.02))
    coverage.set_title("precision of those given (dotted: .95, .99)", fontsize=10)
    coverage.legend(fontsize=8, loc="lower left")
    figure.suptitle(_plain(title), fontsize=11)
    _save(figure, path)


def draw_group_sizes(sizes: Mapping[str, np.ndarray], title: str, path: Path) -> None:
    """Draw how many groups there are of every size.

    Args:
        sizes: Size of every group, by what made the groups, such as the data itself and a model.
        title: What is grouped.
        path: PNG file to write.
    """
    largest = max(int(np.max(values)) for values in sizes.values())
    bounds, names = size_bars(largest)
    if bounds[-2] == largest:
        names[-1] = str(largest)
    width = 0.8 / len(sizes)
    figure, axes = plt.subplots(figsize=(max(6.0, 0.8 * len(names)), 4), layout="constrained")
    for place, (model, values) in enumerate(sizes.items()):
        counts, _ = np.histogram(values, bins=bounds)
        positions = np.arange(len(counts)) + (place - (len(sizes) - 1) / 2) * width
        axes.bar(positions, counts, width, label=_plain(f"{model}: {len(values)} groups"))
    axes.set(title=_plain(title), xlabel="offers in a group", ylabel="groups", yscale="symlog")
    axes.set_xticks(range(len(names)), names)
    axes.legend(fontsize=8)
    _save(figure, path)


def size_bars(largest: int) -> tuple[list[int], list[str]]:
    """Return the sizes of groups at which bars begin, and at which the last one ends; and the bars' names."""
    # Sizes one by one up to here, then by doubling: one wrong group may hold most of the rows.
    bounds = list(range(1, min(largest, 9) + 1))
    bounds.append(bounds[-1] + 1)
    while bounds[-1] <= largest:
        bounds.append(2 * bounds[-1])
    names = [str(low) if high - low == 1 else f"{low:,} to {high - 1:,}" for low, high in itertools.pairwise(bounds)]
    return bounds, names


@dataclass
class ShownMistake:
    """A mistake to look at.

    Args:
        products: Title and image (Pillow, or `None`) of each product that it is about.
        prediction: What was predicted.
        label: The label.
    """

    products: Sequence[tuple[str, Any]]
    prediction: str
    label: str


def draw_mistakes(mistakes: Sequence[ShownMistake], title: str, path: Path, columns: int = 6) -> None:
    """Draw mistakes on a page: images and titles, the prediction (red) and the label (green).

    Args:
        mistakes: The mistakes, the worst first; without any, the page says so.
        title: What is shown.
        path: PNG file to write.
        columns: Images on a line; those of one mistake stay together, as many as fit.
    """
    lines: list[list[ShownMistake]] = []
    for mistake in mistakes:
        room = columns - sum(_width(other, columns) for other in lines[-1]) if lines else 0
        if _width(mistake, columns) > room:
            lines.append([])
        lines[-1].append(mistake)
    height = 3.1 * max(len(lines), 1) + 0.9
    figure, grid = plt.subplots(max(len(lines), 1), columns, figsize=(2.1 * columns, height), squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.6 / height, top=1 - 1.2 / height, wspace=0.08, hspace=0.6)
    figure.suptitle(_plain(title if mistakes else f"{title}: none"), y=1 - 0.15 / height, va="top", fontsize=12)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        axes.spines[:].set_visible(False)
    for axes_row, line in zip(grid, lines, strict=False):
        place = 0
        for mistake in line:
            for name, image in mistake.products[:columns]:
                axes = axes_row[place]
                if image is None:
                    axes.text(0.5, 0.5, "no image", ha="center", va="center", fontsize=9, color="grey")
                else:
                    axes.imshow(image, extent=(0, 1, 0, 1))
                axes.spines[:].set(visible=True, color="lightgrey")
                axes.set_xlabel(_wrapped(name, 28, max_lines=3), fontsize=7)
                place += 1
            first = axes_row[place - min(len(mistake.products), columns)]
            characters = 30 * _width(mistake, columns)
            texts = (mistake.prediction, mistake.label)
            prediction, label = (_wrapped(text, characters, max_lines=2) for text in texts)
            above = 1.04 + 0.09 * (label.count("\n") + 1)
            first.annotate(prediction, (0, above), color="tab:red", fontsize=8, annotation_clip=False)
            first.annotate(label, (0, 1.04), color="tab:green", fontsize=8, annotation_clip=False)
    _save(figure, path)


def _width(mistake: ShownMistake, columns: int) -> int:
    return min(len(mistake.products), columns)


def _least(bars: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> float:
    parts = [part for metrics in bars.values() for metric in metrics.values() for part in metric]
    return float(np.nanmin([*parts, 0.0]))


def _plain(text: str) -> str:
    return drawable(text).replace("$", r"\$")


def _wrapped(text: str, width: int, max_lines: int | None = None) -> str:
    lines = textwrap.wrap(drawable(text.replace("_", " ")), width, max_lines=max_lines, placeholder=" ...")
    return "\n".join(_plain(line) for line in lines)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
