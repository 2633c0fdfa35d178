"""Heads of the report that stay: of each task and modality the one that validation prefers, and pictures of it."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_eclip import EClipProcessor
from training.arguments import DataArguments, EvaluationArguments, parse_arguments
from training.report_cells import CellGroup, head_folder
from training.task_evaluation import evaluate_head, load_evaluated_split, load_task_head
from training.task_gallery import draw_evaluations

__all__ = ["draw_checkpoints", "keep_checkpoints"]


def keep_checkpoints(groups: Sequence[CellGroup], folder: Path) -> dict[str, CellGroup]:
    """Keep the best head of each group and modality as `checkpoints/DATA-TASK-MODALITY`, and remove the others.

    Args:
        groups: The groups whose heads are there.
        folder: Folder of the report.

    Returns:
        By the checkpoint's name the group that it is of.
    """
    kept = {}
    (folder / "checkpoints").mkdir(exist_ok=True)
    for group in groups:
        for modality in group.on.modalities:
            name = f"{group.on.data}-{group.on.task}-{modality}"
            kept[name] = group
            there = [cell for cell in group.cells(modality) if head_folder(cell, folder).is_dir()]
            if not there:  # moved by the run before
                continue
            scores = {
                cell: json.loads((folder / "cells" / f"{cell.name}.json").read_text(encoding="utf-8"))["score"]
                for cell in there
            }
            best = max(there, key=lambda cell: scores[cell])
            shutil.rmtree(folder / "checkpoints" / name, ignore_errors=True)
            shutil.move(head_folder(best, folder), folder / "checkpoints" / name)
            for cell in there:
                shutil.rmtree(head_folder(cell, folder), ignore_errors=True)
    return kept


def draw_checkpoints(checkpoints: Mapping[str, CellGroup], folder: Path) -> dict[str, list[Path]]:
    """Draw how the heads that see most do on the test split.

    Args:
        checkpoints: What `keep_checkpoints` returned.
        folder: Folder of the report.

    Returns:
        The files by the checkpoint's name, in `pictures/NAME`.
    """
    drawn: dict[str, list[Path]] = {}
    accelerator = Accelerator()
    level = logging.getLogger("training").level
    logging.getLogger("training").setLevel(logging.WARNING)
    for name, group in tqdm(checkpoints.items(), desc="drawing"):
        drawn[name] = []
        if not name.endswith(f"-{group.on.modalities[-1]}"):
            continue
        directory = folder / "pictures" / name
        if not directory.is_dir():
            data, evaluation = parse_arguments((DataArguments, EvaluationArguments), ["--config", group.on.config])
            evaluation.modality, evaluation.num_resamples = None, 100
            checkpoint = str(folder / "checkpoints" / name)
            head = load_task_head(group.on.task, checkpoint, None)
            products = load_evaluated_split(group.on.task, data, "test", seed=0)
            processor = EClipProcessor.from_pretrained(checkpoint)
            found = evaluate_head(group.on.task, head, processor, products, data, evaluation, accelerator)
            if found is None:
                continue
            directory.mkdir(parents=True)
            draw_evaluations({name: found}, products, directory)
        drawn[name] = sorted(directory.glob("*.png"))
    logging.getLogger("training").setLevel(level)
    return drawn
