"""The cells of the report: a method learns a task from some of the labels, and answers about the test split.

What it answers is kept. A cell that is kept is not computed again, so that a report goes on where it was stopped.
"""

import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from modeling_eclip import EClipProcessor
from training.arguments.groups import DataArguments, FinetuneArguments, ModelArguments
from training.arguments.parser import parse_arguments
from training.benchmark.classical import answer_classically
from training.data.collator import modalities_of
from training.data.files import write_json
from training.engine.feature_cache import cache_frozen_towers
from training.evaluation.predictions import TaskAnswers
from training.evaluation.task_evaluation import answer_split, load_evaluated_split
from training.evaluation.task_metrics import Outcomes
from training.finetune import finetune
from training.tasks.heads import load_head
from training.tasks.specification import TASKS
from training.tasks.splits import load_task_split

__all__ = [
    "CLASSICAL",
    "EMBEDDED_AT_ONCE",
    "PRETRAININGS",
    "Cell",
    "CellGroup",
    "TaskConfig",
    "compute_group",
    "head_folder",
]

CLASSICAL = "classical"
PRETRAININGS = ("eclip", "hard_labels", "no_pretraining")

# On CPUs, convolutions on few pictures are twice as fast: what a layer makes of them stays in the cores' caches.
EMBEDDED_AT_ONCE = 256 if torch.cuda.is_available() else 16


@dataclass(frozen=True)
class Cell:
    """One learning of a task.

    Args:
        task: The task.
        modality: What of a product it is learned from.
        data: Name of the data.
        method: What it is learned with.
        labels: Share of the labels.
        seed: Seed of the share and of the learning.
    """

    task: str
    modality: str
    data: str
    method: str
    labels: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's files."""
        method = self.method.replace("/", "--")
        return f"{self.data}-{self.task}-{self.modality}-{method}-{self.labels:g}-{self.seed}"


@dataclass(frozen=True)
class TaskConfig:
    """A task on some data.

    Args:
        task: The task.
        data: Name of the data.
        config: YAML file that says where the data is, and how heads are trained.
        modalities: What of a product it is learned from; both after its parts.
        trained_modalities: Sides whose towers are trained, too, with all labels, where validation prefers that to a probe.
        draws_pairs: Whether the pairs that it learns from are drawn by the seed.
        max_rows: Training rows at most.
    """

    task: str
    data: str
    config: str
    modalities: tuple[str, ...]
    trained_modalities: tuple[str, ...] = ()
    draws_pairs: bool = False
    max_rows: int | None = None


@dataclass(frozen=True)
class CellGroup:
    """Cells that are computed one after the other, since the head of both sides is put together from those of each.

    Args:
        on: The task and its data.
        method: Name of the method.
        models: What heads are put on, the one after the other by the seed; of the classical floor nothing.
        labels: Share of the labels.
        seeds: The seeds.
        keep_heads: Whether the heads stay on disk.
    """

    on: TaskConfig
    method: str
    models: tuple[ModelArguments, ...]
    labels: float
    seeds: tuple[int, ...]
    keep_heads: bool = False

    def cells(self, modality: str) -> list[Cell]:
        """Return a cell per seed; the first one alone where all would be the same, as regression on all rows is."""
        sides = modalities_of(modality)
        by_chance = self.labels < 1 or self.on.draws_pairs or len(set(map(str, self.models))) > 1
        if self.method == CLASSICAL:
            by_chance = by_chance and self.on.task != "clustering"  # where it learns from validation alone
        else:
            by_chance = by_chance or self.on.task == "clustering" or any(map(self.trains, sides))
        seeds = self.seeds if by_chance else self.seeds[:1]
        return [Cell(self.on.task, modality, self.on.data, self.method, self.labels, seed) for seed in seeds]

    def trains(self, side: str) -> bool:
        """Tell whether a side's tower is trained, too: some labels are too few for that."""
        return self.labels == 1.0 and side in self.on.trained_modalities

    def cell(self, modality: str, seed: int) -> Cell:
        """Return the cell that stands for a seed."""
        cells = self.cells(modality)
        return cells[self.seeds.index(seed)] if len(cells) > 1 else cells[0]


def compute_group(group: CellGroup, folder: Path) -> None:
    """Compute the cells of a group that are not there yet.

    Args:
        group: The cells.
        folder: Where to: `cells/NAME.json` and `cells/NAME.npz`, and `heads/NAME`.

    Raises:
        ValueError: the data or the arguments do not fit; the cell is named.
    """
    for directory in ("cells", "heads"):
        (folder / directory).mkdir(parents=True, exist_ok=True)
    cells = [cell for modality in group.on.modalities for cell in group.cells(modality)]
    for cell in cells:
        if not is_computed(cell, folder):
            try:
                _compute(group, cell, folder)
            except ValueError as error:
                raise ValueError(f"{cell.name}: {error}") from error
    if not group.keep_heads:
        for cell in cells:
            shutil.rmtree(head_folder(cell, folder), ignore_errors=True)


def head_folder(cell: Cell, folder: Path) -> Path:
    """Return where the head of a cell is."""
    return folder / "heads" / cell.name


def is_computed(cell: Cell, folder: Path) -> bool:
    """Tell whether a cell is there: its JSON file is written last."""
    return (folder / "cells" / f"{cell.name}.json").is_file()


def _compute(group: CellGroup, cell: Cell, folder: Path) -> None:
    started = time.perf_counter()
    _, data, arguments = _arguments(group, cell)
    test = load_evaluated_split(cell.task, data, "test", seed=0)
    found: dict[str, Any]
    if cell.method == CLASSICAL:
        splits = {name: load_task_split(cell.task, data, name, cell.seed) for name in ("train", "validation")}
        answers, score = answer_classically(splits | {"test": test}, data, arguments)
        found = {"how": CLASSICAL, "score": score}
    else:
        found = _learn(group, cell, folder)
        answers = _answer(cell, head_folder(cell, folder), test, data, arguments)
    Outcomes.of(answers).save(folder / "cells" / f"{cell.name}.npz")
    found["score"] = None if math.isnan(found["score"]) else found["score"]  # where validation says nothing
    content = asdict(cell) | found | {"rows": len(answers.references), "left_out": answers.left_out}
    content |= {"seconds": time.perf_counter() - started}
    write_json(content, folder / "cells" / f"{cell.name}.json", allow_nan=False)


def _arguments(group: CellGroup, cell: Cell) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    words = ["--config", group.on.config, "--task", cell.task, "--modality", cell.modality]
    words += ["--label_share", str(cell.labels), "--seed", str(cell.seed)]
    words += [] if group.on.max_rows is None else ["--max_train_rows", str(group.on.max_rows)]
    words += ["--num_workers", "0"]  # the cells share the cores already
    words += ["--eval_batch_size", str(EMBEDDED_AT_ONCE)]
    model, data, arguments = parse_arguments((ModelArguments, DataArguments, FinetuneArguments), words)
    return model, data, arguments


def _learn(group: CellGroup, cell: Cell, folder: Path) -> dict[str, Any]:
    """Train the heads that are to be compared, and leave the one that validation prefers."""
    configured, data, arguments = _arguments(group, cell)
    # Its patterns are those of the towers that the pre-training has; another model may call its layers otherwise.
    freeze = configured.freeze if cell.method in PRETRAININGS else []
    base = group.models[cell.seed % len(group.models)]
    model = replace(base, freeze=freeze, max_title_length=configured.max_title_length)
    if cell.modality == "both":
        parts = [group.cell(side, cell.seed) for side in ("text", "image")]
        for part in parts:
            if not head_folder(part, folder).is_dir():  # of a run that was stopped before it came to this cell
                _learn(group, part, folder)
        ways = {"joined": replace(arguments, join=[str(head_folder(part, folder)) for part in parts])}
    else:
        ways = {"linear": replace(arguments, method="linear")}
        if group.trains(cell.modality):
            ways["full"] = replace(arguments, method="full")
    task = TASKS[cell.task](arguments, None)
    best: tuple[float, str, dict[str, Any]] | None = None
    with tempfile.TemporaryDirectory(dir=folder / "heads") as scratch:
        for way, of_way in ways.items():
            report = finetune(model, data, replace(of_way, output_dir=str(Path(scratch) / way)))
            score = task.score(report["validation"])
            if best is None or score > best[0] or math.isnan(best[0]):
                best = (score, way, report)
        assert best is not None
        score, way, report = best
        shutil.rmtree(head_folder(cell, folder), ignore_errors=True)
        shutil.move(Path(scratch) / way, head_folder(cell, folder))
    return {"how": way, "score": score, "trained_weights": report["trained_weights"]}


def _answer(cell: Cell, head_dir: Path, test: Any, data: DataArguments, arguments: FinetuneArguments) -> TaskAnswers:
    """Let a head answer about the test split, from vectors on disk where there are any."""
    accelerator = Accelerator()
    head, processor = load_head(str(head_dir)), EClipProcessor.from_pretrained(head_dir)
    head.eclip.requires_grad_(False)
    products = cache_frozen_towers(
        test,
        head.eclip,
        processor,
        accelerator,
        batch_size=arguments.eval_batch_size,
        num_workers=data.num_workers,
        modalities=modalities_of(cell.modality),
    )
    answers = answer_split(
        cell.task, head, processor, products, data, accelerator, batch_size=arguments.eval_batch_size, split="test"
    )
    assert answers is not None  # there is one rank
    return answers
