"""Heads of the report that stay: of each task and modality the one that validation prefers, and plots of it."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from modeling_eclip import EClipProcessor
from training.benchmark.runs import RunGroup, head_folder, run_file
from training.data.files import whole_folder
from training.engine.setup import open_accelerator
from training.evaluation.gallery import draw_evaluations
from training.evaluation.task_evaluation import evaluate_head, load_evaluated_split, load_task_head
from training.tasks.registry import find_task

_RUN = "run.json"  # beside a kept head: the run that it is of

__all__ = ["draw_checkpoints", "keep_checkpoints"]


def keep_checkpoints(groups: Sequence[RunGroup], folder: Path) -> dict[str, RunGroup]:
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
            there = [run for run in group.runs(modality) if head_folder(run, folder).is_dir()]
            if not there:  # moved by the run before
                continue
            best = max(there, key=lambda run: _score(run_file(run, folder)))
            checkpoint, best_file = folder / "checkpoints" / name, run_file(best, folder)
            # That of the run before stays where the new ones are no better.
            if not checkpoint.is_dir() or _score(best_file) > _score(checkpoint / _RUN):
                shutil.rmtree(checkpoint, ignore_errors=True)
                shutil.rmtree(folder / "pictures" / name, ignore_errors=True)
                shutil.copyfile(best_file, head_folder(best, folder) / _RUN)
                shutil.move(head_folder(best, folder), checkpoint)
            for run in there:
                shutil.rmtree(head_folder(run, folder), ignore_errors=True)
    return kept


def _score(path: Path) -> float:
    """Read the score on validation that a run has."""
    score = json.loads(path.read_text(encoding="utf-8"))["score"]
    return float("-inf") if score is None else float(score)


def draw_checkpoints(checkpoints: Mapping[str, RunGroup], folder: Path) -> dict[str, list[Path]]:
    """Draw how the heads that see most modalities do on the test split.

    Args:
        checkpoints: What `keep_checkpoints` returned.
        folder: Folder of the report.

    Returns:
        The files by the checkpoint's name, in `pictures/NAME`.
    """
    drawn: dict[str, list[Path]] = {}
    accelerator = open_accelerator()
    level = logging.getLogger("training").level
    logging.getLogger("training").setLevel(logging.WARNING)
    for name, group in tqdm(checkpoints.items(), desc="drawing"):
        drawn[name] = []
        if not name.endswith(f"-{group.on.modalities[-1]}"):
            continue
        directory = folder / "pictures" / name
        if not directory.is_dir():
            checkpoint, task = str(folder / "checkpoints" / name), find_task(group.on.task)
            head, processor = load_task_head(task, checkpoint, None), EClipProcessor.from_pretrained(checkpoint)
            data, evaluation = group.on.products, replace(group.on.evaluation, num_resamples=100)
            products = load_evaluated_split(task, data, "test", seed=0)
            found = evaluate_head(task, head, processor, products, data, evaluation, accelerator)
            if found is None:
                continue
            with whole_folder(directory) as partial:
                draw_evaluations({name: found}, products, partial)
        drawn[name] = sorted(directory.glob("*.png"))
    logging.getLogger("training").setLevel(level)
    return drawn
