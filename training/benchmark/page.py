"""The first page of the report, for people: what won, what did not, whether both modalities pay, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.benchmark.retrieval import reported_task
from training.plots.canvas import plt

__all__ = ["are_apart", "check_both", "draw_overview", "first_page"]

Row = dict[str, Any]

_OURS = "eclip"
_MEANT = {
    "hard_labels": "plain CLIP labels",
    "no_pretraining": "the same towers without pre-training",
    "classical": "the classical baseline",
    "classical_lexical": "the classical baseline with literal evidence of titles",
}


def first_page(rows: Sequence[Row], methods: Sequence[str], picture: str) -> list[str]:
    """Say in sentences what the tables show of the main metric of each task.

    Args:
        rows: Rows of the report.
        methods: The methods, e-CLIP's name being `eclip`.
        picture: Name of the file of [`draw_overview`].

    Returns:
        Lines of markdown.
    """
    main = [row for row in rows if row["value"] is not None and row["metric"] == _main_metric(row)]
    ours = {_place(row): row for row in main if row["method"] == _OURS}
    lines = ["## What won, and what did not", ""]
    for method in methods:
        if method == _OURS or not ours:
            continue
        places: dict[str, list[str]] = {"ahead of": [], "behind": []}
        total = 0
        for row in main:
            if row["method"] != method or _place(row) not in ours:
                continue
            mine = ours[_place(row)]
            total += 1
            if are_apart(mine, row):
                where = f"{_place_words(row)} ({mine['value']:.3f} against {row['value']:.3f})"
                places["ahead of" if mine["value"] > row["value"] else "behind"].append(where)
        even = total - sum(map(len, places.values()))
        lines.append(f"**e-CLIP and {_MEANT.get(method, method)}**, by {total} comparisons of main metrics:")
        lines.append("")
        for word, found in places.items():
            lines.append(f"- {word} it, intervals apart, in {len(found)}{': ' if found else ''}{'; '.join(found)};")
        lines += [f"- no difference beyond the intervals in {even}.", ""]
    lines += [*check_both(rows), "", f"![Main metric of every task, with all labels]({picture})", ""]
    return lines


def check_both(rows: Sequence[Row]) -> list[str]:
    """Check that title and image together are never below the better of them by more than their interval.

    Args:
        rows: Rows of the report.

    Returns:
        A sentence, and a line for each place where they are; nothing where nothing is learned from both and from each.
    """
    shown = [row for row in rows if row["value"] is not None and reported_task(row["task"]).is_reported(row["metric"])]
    keys = ("task", "data", "method", "labels", "metric")
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in shown:
        found.setdefault(tuple(row[key] for key in keys), {})[row["modality"]] = row
    compared = [of for of in found.values() if {"text", "image", "both"} <= of.keys()]
    if not compared:
        return []
    below = []
    for of in compared:
        both, better = of["both"], max(of["text"], of["image"], key=lambda row: row["value"])
        highest = both["value"] if both["high"] is None else both["high"]
        if better["value"] > highest:
            below.append(
                f"- {_place_words(both)}, {both['method']}: {both['metric'].replace('_', ' ')} {both['value']:.3f} "
                f"(up to {highest:.3f}) from both, {better['value']:.3f} from {better['modality']}"
            )
    sentence = "Title and image together are never below the better of the two by more than their interval"
    if not below:
        return [f"{sentence}: {len(compared)} of {len(compared)} comparisons."]
    kept = len(compared) - len(below)
    return [f"{sentence} in {kept} of {len(compared)} comparisons. They are in {len(below)}:", "", *below]


def draw_overview(rows: Sequence[Row], methods: Sequence[str], path: Path) -> None:
    """Draw the main metric of every task with all the labels that there are, a line each, with intervals.

    Args:
        rows: Rows of the report.
        methods: The methods, in the order of their colours.
        path: PNG file to write.
    """
    most = max(row["labels"] for row in rows)
    main = [row for row in rows if row["labels"] == most and row["metric"] == _main_metric(row)]
    lines = list(dict.fromkeys((row["task"], row["data"], row["modality"]) for row in main))
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.34 * len(lines)), layout="constrained")
    for place, method in enumerate(methods):
        of_method = [row for row in main if row["method"] == method and row["value"] is not None]
        heights = [
            lines.index((row["task"], row["data"], row["modality"])) + 0.16 * (place - (len(methods) - 1) / 2)
            for row in of_method
        ]
        errors = [
            [0.0 if row[end] is None else max(sign * (row[end] - row["value"]), 0.0) for row in of_method]
            for end, sign in (("low", -1), ("high", 1))
        ]
        values = [row["value"] for row in of_method]
        axes.errorbar(values, heights, xerr=errors, fmt="o", markersize=4, capsize=2, label=method)
    axes.set_yticks(range(len(lines)), [f"{task}, {data}: {modality}" for task, data, modality in lines], fontsize=8)
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="main metric of the task, with 95 % intervals")
    axes.grid(axis="x", linewidth=0.3)
    figure.legend(loc="outside lower center", ncols=len(methods), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def are_apart(one: Row, other: Row) -> bool:
    """Tell whether the intervals of two rows have nothing in common."""
    if None in (one["low"], one["high"], other["low"], other["high"]):
        return False
    return bool(one["low"] > other["high"] or other["low"] > one["high"])


def _main_metric(row: Row) -> str:
    return reported_task(row["task"]).main_metric()


def _place(row: Row) -> tuple[Any, ...]:
    return (row["task"], row["data"], row["modality"], row["labels"])


def _place_words(row: Row) -> str:
    where = f"{row['task']} on {row['data']}"
    # Nothing is learned for retrieval, from no labels.
    return (
        where if row["task"] == "retrieval" else f"{where} from {row['modality']}, {row['labels']:.0%} of the labels"
    )
