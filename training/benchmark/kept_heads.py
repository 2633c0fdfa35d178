"""Heads of the report that stay: of each task and modality the one that validation prefers, and pictures of it."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_eclip import EClipProcessor
from training.arguments.groups import DataArguments, EvaluationArguments
from training.arguments.parser import parse_arguments
from training.benchmark.runs import EMBEDDED_AT_ONCE, CellGroup, head_folder
from training.data.files import whole_folder
from training.evaluation.gallery import draw_evaluations
from training.evaluation.task_evaluation import evaluate_head, load_evaluated_split, load_task_head

_CELL = "cell.json"  # beside a kept head: the cell that it is of

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
            best = max(there, key=lambda cell: _score(folder / "cells" / f"{cell.name}.json"))
            checkpoint, cell_file = folder / "checkpoints" / name, folder / "cells" / f"{best.name}.json"
            # That of the run before stays where the new ones are no better.
            if not checkpoint.is_dir() or _score(cell_file) > _score(checkpoint / _CELL):
                shutil.rmtree(checkpoint, ignore_errors=True)
                shutil.rmtree(folder / "pictures" / name, ignore_errors=True)
                shutil.copyfile(cell_file, head_folder(best, folder) / _CELL)
                shutil.move(head_folder(best, folder), checkpoint)
            for cell in there:
                shutil.rmtree(head_folder(cell, folder), ignore_errors=True)
    return kept


def _score(path: Path) -> float:
    """Read the score on validation that a cell has."""
    score = json.loads(path.read_text(encoding="utf-8"))["score"]
    return float("-inf") if score is None else float(score)


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
            evaluation.eval_batch_size = EMBEDDED_AT_ONCE
            checkpoint = str(folder / "checkpoints" / name)
            head = load_task_head(group.on.task, checkpoint, None)
            products = load_evaluated_split(group.on.task, data, "test", seed=0)
            processor = EClipProcessor.from_pretrained(checkpoint)
            found = evaluate_head(group.on.task, head, processor, products, data, evaluation, accelerator)
            if found is None:
                continue
            with whole_folder(directory) as partial:
                draw_evaluations({name: found}, products, partial)
        drawn[name] = sorted(directory.glob("*.png"))
    logging.getLogger("training").setLevel(level)
    return drawn
