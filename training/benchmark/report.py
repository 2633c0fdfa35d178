"""The report as a whole: what is computed, in which order, and with which settings.

What is there already is not computed again; `training.benchmark.tables` writes what was found.
"""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.report import ReportArguments
from training.arguments.train import TrainArguments
from training.benchmark.kept_heads import draw_checkpoints, keep_checkpoints
from training.benchmark.retrieval import RETRIEVAL, reported_task
from training.benchmark.runs import CLASSICAL, CLASSICAL_LEXICAL, PRETRAININGS, RunGroup, TaskConfig, compute_group
from training.benchmark.tables import measure_group, write_report
from training.benchmark.workers import Workers
from training.data.files import as_written, write_json
from training.engine.build import build_model, build_processor, load_split
from training.engine.checkpoint import find_checkpoints
from training.engine.contrastive_training import train

__all__ = ["plan_tasks", "pretrain", "report"]

logger = logging.getLogger("training")


def report(arguments: ReportArguments) -> list[dict[str, Any]]:
    """Compute what is not there yet, and write the report.

    Args:
        arguments: What is compared.

    Returns:
        The rows of `report.json`.
    """
    folder = Path(arguments.output_dir)
    tasks = plan_tasks(arguments)  # a mistake there is told before anything is computed
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(arguments, tasks, folder / "settings.json")
    for method in arguments.baseline:
        pretrain(method, arguments, seed=0)  # one that is not there is told before hours of work
    with Stopwatch(folder / "seconds.json") as stopwatch:
        models = {
            method: tuple(pretrain(method, arguments, seed) for seed in range(arguments.pretraining_seeds))
            for method in [*arguments.methods, *arguments.baseline]
        }
        most = max(arguments.label_shares)
        seeds = tuple(range(arguments.num_seeds))
        groups = [
            RunGroup(
                task,
                method,
                of,
                share,
                seeds,
                keep_heads=(method, share) == ("eclip", most) and task.task != RETRIEVAL,
            )
            for task in tasks
            for share in sorted(set(arguments.label_shares), reverse=True)
            for method, of in models.items()
            if is_run(task, method, share == most)
        ]
        for left in folder.glob("heads/tmp*"):  # by a run that was killed
            shutil.rmtree(left)
        with Workers(arguments.jobs, folder / "logs", stopwatch.note) as workers:
            workers.call(compute_group, [(group, folder) for group in groups], "learning tasks")
            measured = [(group, folder, arguments.num_resamples) for group in groups]
            rows = [row for found in workers.call(measure_group, measured, "measuring") for row in found]
        checkpoints = keep_checkpoints([group for group in groups if group.keep_heads], folder)
        plots = draw_checkpoints(checkpoints, folder)
        write_report(rows, groups, folder, plots, stopwatch.seconds)
    logger.info(
        "%.0f minutes in all; report.md, report.json and checkpoints/ are in %s", stopwatch.seconds / 60, folder
    )
    return rows


class Stopwatch:
    """Counts the time of a run to that of those before, which it goes on from.

    Args:
        path: JSON file of the seconds so far.
    """

    def __init__(self, path: Path) -> None:
        """Read the time so far."""
        self.path = path
        self._before = float(_read_whole(path)) if path.is_file() else 0.0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of all runs until now."""
        return self._before + time.perf_counter() - self._started

    def __enter__(self) -> "Stopwatch":
        """Run."""
        return self

    def __exit__(self, *error: object) -> None:
        """Note the time, also of a run that fails or is stopped."""
        self.note()

    def note(self) -> None:
        """Write the time."""
        write_json(self.seconds, self.path)


def is_run(task: TaskConfig, method: str, has_most_labels: bool) -> bool:
    """Tell whether a method has anything to say of a task.

    Args:
        task: The task.
        method: The method.
        has_most_labels: Whether it learns from as many labels as any.
    """
    if task.task == RETRIEVAL:  # nothing is learned there, and titles and images have no n-grams in common
        return has_most_labels and method in PRETRAININGS
    # Of single products, the classical baseline reads the n-grams anyway.
    return method != CLASSICAL_LEXICAL or reported_task(task.task).baseline_compares_pairs


def check_settings(arguments: ReportArguments, tasks: Sequence[TaskConfig], path: Path) -> None:
    """Refuse to go on with what was computed with other settings; further tasks and methods may come.

    Args:
        arguments: What is compared.
        tasks: The tasks.
        path: Where the settings are kept.

    Raises:
        ValueError: a setting, or the content of a configuration, has changed.
    """
    names = ("pretraining", "pretraining_samples", "pretraining_seeds", "max_task_rows")
    settings: dict[str, Any] = {f"`{name}`": getattr(arguments, name) for name in names}
    for path_of in (arguments.pretraining, *(task.path for task in tasks)):
        settings[path_of] = Path(path_of).read_text(encoding="utf-8")
    settings |= {f"`trained_modalities` of {task.task}, {task.data}": list(task.trained_modalities) for task in tasks}
    before = _read_whole(path) if path.is_file() else {}
    for name, value in settings.items():
        if name in before and before[name] != as_written(value):
            raise ValueError(
                f"{name} is not what it was when {path.parent} was begun; give another `output_dir`, or remove that."
            )
    write_json(before | settings, path)


def _read_whole(path: Path) -> Any:
    """Read a JSON file that an earlier run left."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, or give another `output_dir`.") from error


def plan_tasks(arguments: ReportArguments) -> list[TaskConfig]:
    """Read which tasks are learned on which data.

    Args:
        arguments: What is compared.

    Returns:
        A task and its data each.

    Raises:
        ValueError: an entry of `tasks` or `trained_modalities` is not understood.
    """
    if not arguments.tasks:
        raise ValueError("`tasks` is empty; name some as task:configuration, or give a --config that does.")
    planned: list[TaskConfig] = []
    named = set()
    for entry in arguments.tasks:
        task, _, path = entry.partition(":")
        if not Path(path).is_file():
            raise ValueError(f"`tasks` holds {entry!r}, and {path!r} is no file; write task:configuration.")
        reported_task(task)
        config = TaskConfig.read(task, path, arguments.max_task_rows)
        named.add(f"{task}:{config.data}")
        modalities = tuple(modality for modality in arguments.modalities if modality in config.modalities)
        if not modalities:
            logger.info("%s on %s is left out: it has %s only", task, config.data, *config.modalities)
            continue
        if any((on.task, on.data) == (task, config.data) for on in planned):
            raise ValueError(f"`tasks` names {task} on {config.data!r} twice; a file's name is that of its data.")
        trained = tuple(
            modality for modality in modalities if f"{task}:{config.data}:{modality}" in arguments.trained_modalities
        )
        planned.append(replace(config, modalities=modalities, trained_modalities=trained))
    known = {f"{on.task}:{on.data}:{modality}" for on in planned for modality in on.modalities}
    for entry in sorted(set(arguments.trained_modalities) - known):
        if entry.count(":") != 2 or entry.rpartition(":")[0] in named:
            raise ValueError(f"`trained_modalities` holds {entry!r}, which is none of {sorted(known)}.")
        logger.info("`trained_modalities` holds %s, which is not learned", entry)
    return planned


def pretrain(method: str, arguments: ReportArguments, seed: int) -> ModelArguments:
    """Make what a method's heads are put on, or find it made.

    Args:
        method: A method of the report, or a Hub id or folder.
        arguments: What is compared.
        seed: Seed of the pre-training.

    Returns:
        Where heads start from.
    """
    if method in (CLASSICAL, CLASSICAL_LEXICAL):
        return ModelArguments()
    if method not in PRETRAININGS:
        is_ours = AutoConfig.from_pretrained(method).model_type == "eclip"
        return ModelArguments(checkpoint=method) if is_ours else ModelArguments(clip=method)
    output_dir = Path(arguments.output_dir) / "pretraining" / (method if seed == 0 else f"{method}-{seed}")
    model = ModelArguments(checkpoint=str(output_dir))
    classes = (ModelArguments, DataArguments, TrainArguments)
    model_arguments, data, training = parse_arguments(classes, ["--config", arguments.pretraining])
    training = replace(training, output_dir=str(output_dir), seed=seed)
    if method == "hard_labels":  # plain CLIP: a mate is a negative like any other offer, in all losses
        model_arguments = replace(model_arguments, catalog_mates="negative")
        data, training = replace(data, mates_share=0.0), replace(training, mate_contrast_weight=0.0)
    if method == "no_pretraining":
        if not (output_dir / "model.safetensors").is_file():
            processor = build_processor(model_arguments, load_split(data, "train")["title"])
            processor.save_pretrained(output_dir)
            build_model(model_arguments, processor.tokenizer, seed=seed).save_pretrained(output_dir)
        return model
    if not (output_dir / "report.json").is_file():
        logger.info("pre-training %s", output_dir.name)
        latest = "latest" if find_checkpoints(output_dir) else None
        samples = arguments.pretraining_samples or training.max_samples
        train(model_arguments, data, replace(training, resume_from_checkpoint=latest, max_samples=samples))
    return model
