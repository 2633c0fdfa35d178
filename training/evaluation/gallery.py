"""Evaluations of heads to pictures: which are drawn of which task, and of what."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps

from modeling_eclip import ProductImageError, load_product_image
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.evaluation.predictions import Mistake, TaskAnswers
from training.evaluation.task_evaluation import TaskEvaluation
from training.evaluation.task_metrics import MetricValue
from training.plots.tasks import (
    ShownMistake,
    draw_bars,
    draw_confusions,
    draw_group_sizes,
    draw_mistakes,
    draw_precision_recall,
)

__all__ = ["draw_evaluations"]

_NUM_MISTAKES = 24
_PICTURE_SIZE = (160, 160)
_BARS = {
    "product_category": "accuracy",
    "product_attributes": "accuracy",
    "product_clustering": "agreement with the products",
}


def draw_evaluations(
    evaluations: Mapping[str, TaskEvaluation], products: Products | ProductPairs, folder: Path
) -> list[Path]:
    """Draw how heads of one task did.

    Args:
        evaluations: Per name of a checkpoint how it did.
        products: What they were measured on.
        folder: Folder of the pictures.

    Returns:
        The files.
    """
    table = products.products if isinstance(products, ProductPairs) else products
    first = next(iter(evaluations.values()))
    metric, of_what = first.answers.metric, f"{first.task} from {first.modality}, {first.split}"
    files = []

    def file(name: str) -> Path:
        files.append(folder / (re.sub(r"[^\w.-]+", "_", name) + ".png"))
        return files[-1]

    if metric in _BARS:
        bars = {name: _shown_metrics(one) for name, one in evaluations.items()}
        draw_bars(bars, f"{of_what}: {_BARS[metric]}, with 95 % intervals", file("figures"))
    if metric in ("product_matching", "adult_recognition"):
        curves = {name: _curve(one.answers) for name, one in evaluations.items()}
        draw_precision_recall(curves, of_what, file("precision_recall"))
    if metric == "product_clustering":
        sizes = {name: _sizes(one.answers.predictions) for name, one in evaluations.items()}
        sizes = {"products": _sizes(first.answers.groups)} | sizes
        draw_group_sizes(sizes, f"{of_what}: groups by their size", file("group_sizes"))
    for name, one in evaluations.items():
        suffix = f"_{name}" if len(evaluations) > 1 else ""
        for what, (right, said) in _classes(one.answers).items():
            draw_confusions(right, said, f"{of_what}, {what}", file(f"confusion_{what}{suffix}"))
        shown = [_shown(mistake, table) for mistake in one.answers.mistakes[:_NUM_MISTAKES]]
        draw_mistakes(shown, f"{name}: {of_what}, the worst mistakes", file(f"mistakes{suffix}"))
    return files


def _shown_metrics(evaluation: TaskEvaluation) -> dict[str, MetricValue]:
    """Return the figures that are drawn as bars: accuracies, or how groups agree with products."""
    wanted = ("accuracy", "_f1", "index", "measure") if evaluation.task == "clustering" else ("accuracy",)
    shown = {name: figure for name, figure in evaluation.metrics.items() if name.endswith(wanted)}
    return {name.removesuffix("_accuracy"): figure for name, figure in shown.items()}


def _classes(answers: TaskAnswers) -> dict[str, tuple[list[str], list[str]]]:
    """Return right and answered classes, as words: of the category, or of each attribute."""
    if answers.metric == "product_category":
        paths = [tuple(path) for path in answers.outcome_settings["category_paths"]]
        right = [tuple(path) for path in answers.references]
        said = [paths[leaf] for leaf in np.asarray(answers.predictions).argmax(axis=1)]
        names = Counter(path[-1] for path in {*paths, *right})
        words = {path: path[-1] if names[path[-1]] == 1 else " > ".join(path) for path in {*paths, *right}}
        return {"category": ([words[path] for path in right], [words[path] for path in said])}
    if answers.metric != "product_attributes":
        return {}
    classes = {}
    for column, name in enumerate(answers.outcome_settings["attributes"]):
        rows = [
            (right[column], said[column])
            for right, said in zip(answers.references, answers.predictions, strict=True)
            if right[column] is not None
        ]
        if rows:
            classes[name] = ([right for right, _ in rows], [said for _, said in rows])
    return classes


def _curve(answers: TaskAnswers) -> tuple[np.ndarray, np.ndarray, float]:
    return np.asarray(answers.references), answers.predictions, answers.metric_settings["threshold"]


def _sizes(numbers: np.ndarray) -> np.ndarray:
    """Return how many rows each group has; those of negative numbers are alone."""
    alone = int((numbers < 0).sum())
    return np.concatenate([np.unique(numbers[numbers >= 0], return_counts=True)[1], np.ones(alone, dtype=np.int64)])


def _shown(mistake: Mistake, table: Any) -> ShownMistake:
    return ShownMistake([_title_and_picture(table[row]) for row in mistake.rows], mistake.said, mistake.right)


def _title_and_picture(row: Mapping[str, Any]) -> tuple[str, Any]:
    try:
        picture = ImageOps.pad(load_product_image(row["image"]), _PICTURE_SIZE, color="white")
    except ProductImageError:
        picture = None
    return row["title"] or "", picture
