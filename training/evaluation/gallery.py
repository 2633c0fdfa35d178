"""Evaluations of heads to plots: the task's own, confusions of classes, and the worst mistakes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps

from modeling_eclip import ProductImageError, load_product_image
from training.data.fields import first_image
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.evaluation.task_evaluation import TaskEvaluation
from training.plots.tasks import ShownMistake, draw_confusions, draw_mistakes, draw_reliability
from training.tasks.answers import Mistake

__all__ = ["draw_evaluations"]

_NUM_MISTAKES = 24
_IMAGE_SIZE = (160, 160)


def draw_evaluations(
    evaluations: Mapping[str, TaskEvaluation], products: Products | ProductPairs, folder: Path
) -> list[Path]:
    """Draw how heads of one task did.

    Args:
        evaluations: Per name of a checkpoint how it did.
        products: What they were measured on.
        folder: Folder of the plots.

    Returns:
        The files.
    """
    table = products.products if isinstance(products, ProductPairs) else products
    first = next(iter(evaluations.values()))
    task, title = first.task, f"{first.task.name} from {first.modality}, {first.split}"
    files = []

    def file(name: str) -> Path:
        files.append(folder / (re.sub(r"[^\w.-]+", "_", name) + ".png"))
        return files[-1]

    answers = {name: one.answers for name, one in evaluations.items()}
    task.draw(answers, {name: one.metrics for name, one in evaluations.items()}, title, file)
    for name, one in answers.items():
        suffix = f"_{name}" if len(evaluations) > 1 else ""
        if (judged := task.judge(one)) is not None:
            kinds = {}
            for kind, sureness, is_right in zip(judged.kinds, judged.confidences.T, judged.is_right.T, strict=True):
                kinds[kind] = (sureness[~np.isnan(sureness)], is_right[~np.isnan(sureness)])
            draw_reliability(kinds, f"{name}: {title}", file(f"reliability{suffix}"))
        for classes, (labels, predictions) in task.confusions(one).items():
            draw_confusions(labels, predictions, f"{title}, {classes}", file(f"confusion_{classes}{suffix}"))
        shown = [_shown(mistake, table) for mistake in one.mistakes[:_NUM_MISTAKES]]
        draw_mistakes(shown, f"{name}: {title}, the worst mistakes", file(f"mistakes{suffix}"))
    return files


def _shown(mistake: Mistake, table: Any) -> ShownMistake:
    return ShownMistake([_title_and_image(table[row]) for row in mistake.rows], mistake.prediction, mistake.label)


def _title_and_image(row: Mapping[str, Any]) -> tuple[str, Any]:
    try:
        image = ImageOps.pad(load_product_image(first_image(row)), _IMAGE_SIZE, color="white")
    except ProductImageError:
        image = None
    return row["title"] or "", image
