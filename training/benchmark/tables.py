"""Runs to what people read: the tables of `report.md`, `report.json`, and curves over the share of the labels.

`report.json` is a list of `{"task", "modality", "data", "method", "labels", "metric", "value", "low", "high",
"spread", "seeds"}`: the mean over the seeds, its 95 % interval (see `training.evaluation.task_metrics.measure`), and
the standard deviation over the seeds, null where one run stands for all.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.benchmark.page import are_apart, draw_overview, first_page
from training.benchmark.retrieval import RETRIEVAL, reported_task
from training.benchmark.runs import RunGroup, outcomes_file
from training.evaluation.task_metrics import Outcomes, measure, metrics_to_json
from training.plots.canvas import plt

__all__ = ["measure_group", "write_report"]

Row = dict[str, Any]

_OURS = "eclip"


def measure_group(group: RunGroup, folder: Path, num_resamples: int) -> list[Row]:
    """Measure the runs of a group, the seeds together.

    Args:
        group: The runs.
        folder: Folder of the report.
        num_resamples: How often rows are drawn for the intervals.

    Returns:
        A row per modality and metric. A run that does not depend on the seed stands for all of them.
    """
    rows = []
    by_catalog = group.on.evaluation.resample_by == "catalogs"
    for modality in group.on.modalities:
        outcomes = [Outcomes.load(outcomes_file(run, folder)) for run in group.runs(modality)]
        metrics = metrics_to_json(measure(outcomes, num_resamples=num_resamples, by_catalog=by_catalog))
        each = [of.metrics(of.arrays) for of in outcomes]
        key = {"task": group.on.task, "modality": modality, "data": group.on.data, "method": group.method}
        rows += [
            {
                **key,
                "labels": group.labels,
                "metric": metric,
                **value,
                "spread": _spread([of[metric] for of in each]),
                "seeds": len(group.seeds),
            }
            for metric, value in metrics.items()
        ]
    return rows


def write_report(
    rows: Sequence[Row],
    groups: Sequence[RunGroup],
    folder: Path,
    plots: Mapping[str, Sequence[Path]],
    seconds: float,
) -> None:
    """Write the tables and draw the curves.

    Args:
        rows: What `measure_group` returned, of all groups.
        groups: The groups.
        folder: Where to.
        plots: Per checkpoint its plots.
        seconds: How long it took.
    """
    (folder / "report.json").write_text(json.dumps(list(rows), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    methods = list(dict.fromkeys(group.method for group in groups))
    shares = sorted({group.labels for group in groups}, reverse=True)
    lines = [
        "# What the backbone is worth",
        "",
        "Every value is measured on test products that no training has seen. It is the mean over seeds, "
        f"{len(groups[0].seeds)} here, which choose the labels to learn from and the order of training; where "
        "nothing depends on the seed, one run stands for all. Brackets hold 95 % intervals, over the choice of test "
        f"products and of seeds; ± is the standard deviation over the seeds. The best value of a row is bold. "
        f"The report took {seconds / 60:.0f} minutes.",
        "",
        *first_page(rows, methods, "overview.png"),
        "## All tasks",
        "",
        *_summary(rows, methods, sorted(shares)),
        "",
        *_verdict(rows, methods),
    ]
    draw_overview(rows, methods, folder / "overview.png")
    for task, data in dict.fromkeys((group.on.task, group.on.data) for group in groups):
        of_task = [row for row in rows if (row["task"], row["data"]) == (task, data) and _is_shown(row)]
        plot = folder / f"labels-{data}-{task}.png"
        has_curves = len(shares) > 1 and task != RETRIEVAL
        if has_curves:
            draw_label_curves(of_task, methods, f"{task} on {data}, test products", plot)
        lines += [f"## {task}, {data}", "", *_table(of_task, methods, shares), ""]
        lines += [f"![{task} on {data} by the share of the labels]({plot.name})", ""] if has_curves else []
    lines += ["## The checkpoints", ""]
    for name, files in plots.items():
        drawn = ", ".join(f"[{file.stem}]({file.relative_to(folder)})" for file in files)
        lines.append(f"- `checkpoints/{name}`: {drawn}")
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summary(rows: Sequence[Row], methods: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Return a line per task, data and modality: the main metric of the task, per share."""
    percents = " / ".join(f"{share:.0%}" for share in shares)
    lines = [f"With {percents} of the labels:", "", f"| task, data | metric | from | {' | '.join(methods)} |"]
    lines.append("|---|---|---|" + "---|" * len(methods))
    for task, data, modality in dict.fromkeys((row["task"], row["data"], row["modality"]) for row in rows):
        metric = reported_task(task).main_metric()
        of_task = [row for row in rows if (row["task"], row["data"]) == (task, data)]
        by_share = [_by_method(of_task, modality, metric, share) for share in shares]
        columns = []
        for method in methods:
            parts = []
            for found in by_share:
                value = found[method]["value"] if method in found else None
                text = "-" if value is None else f"{value:.3f}"
                is_best = value is not None and value == max(row["value"] for row in found.values())
                if found:
                    parts.append(f"**{text}**" if is_best else text)
            columns.append(" / ".join(parts))
        lines.append(f"| {task}, {data} | {metric.replace('_', ' ')} | {modality} | {' | '.join(columns)} |")
    return lines


def draw_label_curves(rows: Sequence[Row], methods: Sequence[str], title: str, path: Path) -> None:
    """Draw the main metrics of a task over the share of the labels, with intervals.

    Args:
        rows: Rows of the report, of one task and its data.
        methods: Methods, in the order of their colours.
        title: What is drawn.
        path: PNG file to write.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows if reported_task(row["task"]).is_drawn(row["metric"])))
    modalities = list(dict.fromkeys(row["modality"] for row in rows))
    size = (3.6 * len(modalities) + 0.5, 2.8 * len(metrics) + 0.8)
    figure, grid = plt.subplots(
        len(metrics), len(modalities), figsize=size, squeeze=False, sharey="row", layout="constrained"
    )
    figure.suptitle(title)
    for metric, axes_row in zip(metrics, grid, strict=True):
        for modality, axes in zip(modalities, axes_row, strict=True):
            for place, method in enumerate(methods):
                found = [
                    row
                    for row in rows
                    if (row["metric"], row["modality"], row["method"]) == (metric, modality, method)
                    and row["value"] is not None
                ]
                found.sort(key=lambda row: row["labels"])
                values = [row["value"] for row in found]
                errors = [
                    [0.0 if row[end] is None else max(sign * (row[end] - row["value"]), 0.0) for row in found]
                    for end, sign in (("low", -1), ("high", 1))
                ]
                shares = [row["labels"] * 1.05 ** (place - len(methods) / 2) for row in found]  # side by side
                axes.errorbar(shares, values, errors, marker="o", capsize=2, label=method)
            axes.set(xscale="log", title=f"{modality}: {metric.replace('_', ' ')}")
            axes.set_xticks(sorted({row["labels"] for row in rows}))
            axes.set_xticklabels([f"{share:.0%}" for share in sorted({row["labels"] for row in rows})])
    for axes in grid[-1]:
        axes.set_xlabel("share of the labels")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _is_shown(row: Row) -> bool:
    return reported_task(row["task"]).is_reported(row["metric"])


def _table(rows: Sequence[Row], methods: Sequence[str], shares: Sequence[float]) -> list[str]:
    lines = [f"| labels | from | metric | {' | '.join(methods)} |", "|---|---|---|" + "---|" * len(methods)]
    for share in shares:
        keys = dict.fromkeys((row["modality"], row["metric"]) for row in rows if row["labels"] == share)
        for modality, metric in keys:
            found = _by_method(rows, modality, metric, share)
            best = max((row["value"] for row in found.values()), default=None)
            columns = []
            for method in methods:
                row = found.get(method)
                columns.append("" if row is None else _with_interval(row, bold=row["value"] == best))
            lines.append(f"| {share:.0%} | {modality} | {metric.replace('_', ' ')} | {' | '.join(columns)} |")
    return lines


def _with_interval(row: Row, bold: bool) -> str:
    value = f"**{row['value']:.3f}**" if bold else f"{row['value']:.3f}"
    value += f" ± {row['spread']:.3f}" if row["spread"] is not None else ""
    return value if row["low"] is None else f"{value} [{row['low']:.3f}, {row['high']:.3f}]"


def _by_method(rows: Sequence[Row], modality: str, metric: str, share: float) -> dict[str, Row]:
    return {
        row["method"]: row
        for row in rows
        if (row["modality"], row["metric"], row["labels"]) == (modality, metric, share) and row["value"] is not None
    }


def _verdict(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """Count where e-CLIP is ahead of each other method, and list where it is behind."""
    if _OURS not in methods or len(methods) < 2:
        return []
    shown = [row for row in rows if _is_shown(row) and row["value"] is not None]
    key = ("task", "data", "modality", "metric", "labels")
    ours = {tuple(row[name] for name in key): row for row in shown if row["method"] == _OURS}
    lines = [
        "| e-CLIP against | ahead, intervals apart | ahead | equal | behind | behind, intervals apart |",
        "|---|---|---|---|---|---|",
    ]
    behind = []
    for method in methods:
        if method == _OURS:
            continue
        counts = dict.fromkeys(("clearly ahead", "ahead", "equal", "behind", "clearly behind"), 0)
        for row in shown:
            place = tuple(row[name] for name in key)
            if row["method"] != method or place not in ours:
                continue
            difference, apart = ours[place]["value"] - row["value"], are_apart(ours[place], row)
            if abs(difference) < 0.0005:
                counts["equal"] += 1
            else:
                word = "ahead" if difference > 0 else "behind"
                counts[f"clearly {word}" if apart else word] += 1
            if difference <= -0.0005:
                where = f"{row['task']} on {row['data']} from {row['modality']}, {row['labels']:.0%} of the labels"
                values = f"{ours[place]['value']:.3f} against {row['value']:.3f}"
                behind.append(f"- {where}: {row['metric'].replace('_', ' ')} {values} ({method})")
        lines.append(f"| {method} | {' | '.join(str(count) for count in counts.values())} |")
    lines += ["", "Counted are the metrics of the tables below, with each share of the labels.", ""]
    if behind:
        lines += ["<details><summary>Where e-CLIP is behind</summary>", "", *behind, "", "</details>", ""]
    return lines


def _spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation over the seeds; nothing of one run, or where a value is not defined."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return None if np.isnan(spread) else spread
