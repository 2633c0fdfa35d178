"""The runs of the report: a method learns a task from some of the labels, and answers about the test split.

Its answers are kept. A run that is kept is not computed again, so that a report goes on where it was stopped.
"""

import json
import logging
import math
import shutil
import tempfile
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from modeling_eclip import EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments, ResamplingArguments
from training.arguments.finetune import FinetuneArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.benchmark.classical import answer_classically
from training.benchmark.retrieval import RETRIEVAL, rank_offers, reported_task
from training.data.collator import modalities_of
from training.data.fields import field_columns
from training.data.files import write_json
from training.engine.feature_cache import cache_frozen_towers
from training.engine.setup import open_accelerator
from training.evaluation.task_evaluation import answer_split, load_evaluated_split
from training.evaluation.task_metrics import Outcomes
from training.tasks.answers import TaskAnswers
from training.tasks.finetuning import finetune
from training.tasks.heads import load_head
from training.tasks.registry import find_task

logger = logging.getLogger("training")

__all__ = [
    "CLASSICAL",
    "CLASSICAL_LEXICAL",
    "PRETRAININGS",
    "Run",
    "RunGroup",
    "TaskConfig",
    "compute_group",
    "head_folder",
    "outcomes_file",
    "run_file",
]

CLASSICAL = "classical"
CLASSICAL_LEXICAL = "classical_lexical"
"""The same, and the literal evidence of pairs that heads weigh: what their vectors add stands beside it."""
PRETRAININGS = ("eclip", "hard_labels", "no_pretraining")


@dataclass(frozen=True)
class Run:
    """One learning of a task.

    Args:
        task: Name of the task.
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
        """Name of the run's files."""
        method = self.method.replace("/", "--")
        return f"{self.data}-{self.task}-{self.modality}-{method}-{self.labels:g}-{self.seed}"


@dataclass(frozen=True)
class TaskConfig:
    """A task on some data, as a YAML file configures it.

    Args:
        task: Name of the task.
        data: Name of the data.
        modalities: What of a product it is learned from; both after its parts.
        trained_modalities: Modalities whose towers are trained, too, with all labels, where validation prefers that to
            a probe.
        path: The YAML file.
        model: What the file says of the model; heads take over its longest title, and which weights stay frozen.
        products: Where the data is.
        finetuning: How heads are trained.
        evaluation: How they are measured.
    """

    task: str
    data: str
    modalities: tuple[str, ...]
    trained_modalities: tuple[str, ...] = ()
    path: str = ""
    model: ModelArguments = field(default_factory=ModelArguments)
    products: DataArguments = field(default_factory=DataArguments)
    finetuning: FinetuneArguments = field(default_factory=FinetuneArguments)
    evaluation: EvaluationArguments = field(default_factory=EvaluationArguments)

    @classmethod
    def read(cls, task: str, path: str, max_rows: int | None = None) -> "TaskConfig":
        """Read a YAML file.

        Args:
            task: Name of the task.
            path: The file; its name is that of the data.
            max_rows: Training rows at most, if not as the file says.

        Returns:
            The task, of the modalities that the file says.
        """
        classes = (ModelArguments, DataArguments, FinetuneArguments, ResamplingArguments)
        model, products, finetuning, resampling = parse_arguments(classes, ["--config", path])
        if max_rows is not None:
            products = replace(products, max_train_rows=max_rows)
        modalities = ("text", "image", "both") if finetuning.modality == "both" else (finetuning.modality,)
        modalities = ("both",) if task == RETRIEVAL else modalities
        return cls(
            task,
            Path(path).stem,
            modalities,
            path=path,
            model=model,
            products=replace(products, num_workers=0),  # runs share the cores already
            finetuning=replace(finetuning, task=task),
            evaluation=EvaluationArguments(**asdict(resampling), task=task, seed=finetuning.seed),
        )


@dataclass(frozen=True)
class RunGroup:
    """Runs that are computed one after the other, since the head of both modalities is joined from those of each.

    Args:
        on: The task and its data.
        method: Name of the method.
        models: What heads are put on, the one after the other by the seed; nothing for the classical baseline.
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

    def runs(self, modality: str) -> list[Run]:
        """Return a run per seed; the first one alone where all would be the same, as regression on all rows is."""
        task = reported_task(self.on.task)
        varies = self.labels < 1 or task.draws_rows(self.on.products) or len(set(map(str, self.models))) > 1
        if self.method == CLASSICAL:
            varies = varies and task.baseline_uses_training
        elif self.method == CLASSICAL_LEXICAL:  # trees are drawn
            varies = True
        else:
            varies = varies or task.linear_depends_on_seed or any(map(self.trains, modalities_of(modality)))
        seeds = self.seeds if varies else self.seeds[:1]
        return [Run(self.on.task, modality, self.on.data, self.method, self.labels, seed) for seed in seeds]

    def trains(self, modality: str) -> bool:
        """Tell whether a modality's tower is trained, too: some labels are too few for that."""
        return self.labels == 1.0 and modality in self.on.trained_modalities

    def model(self, run: Run) -> ModelArguments:
        """Return what the head of a run is put on."""
        return self.models[run.seed % len(self.models)]

    def run(self, modality: str, seed: int) -> Run:
        """Return the run that stands for a seed."""
        runs = self.runs(modality)
        return runs[self.seeds.index(seed)] if len(runs) > 1 else runs[0]


def compute_group(group: RunGroup, folder: Path) -> None:
    """Compute the runs of a group that are not there yet.

    Args:
        group: The runs.
        folder: Where to: `runs/NAME.json` and `runs/NAME.npz`, and `heads/NAME`.

    Raises:
        ValueError: the data or the arguments do not fit; the run is named.
    """
    for directory in ("runs", "heads"):
        (folder / directory).mkdir(parents=True, exist_ok=True)
    runs = [run for modality in group.on.modalities for run in group.runs(modality)]
    for run in runs:
        if not is_computed(run, folder):
            try:
                _compute(group, run, folder)
            except ValueError as error:
                raise ValueError(f"{run.name}: {error}") from error
    if not group.keep_heads:
        for run in runs:
            shutil.rmtree(head_folder(run, folder), ignore_errors=True)


def head_folder(run: Run, folder: Path) -> Path:
    """Return where the head of a run is."""
    return folder / "heads" / run.name


def run_file(run: Run, folder: Path) -> Path:
    """Return the JSON file of a run, which is written last."""
    return folder / "runs" / f"{run.name}.json"


def outcomes_file(run: Run, folder: Path) -> Path:
    """Return the file of what a run answered."""
    return folder / "runs" / f"{run.name}.npz"


def is_computed(run: Run, folder: Path) -> bool:
    """Tell whether a run is there and whole; what is damaged is told, and computed anew."""
    path = run_file(run, folder)
    if not path.is_file():
        return False
    try:
        Outcomes.load(outcomes_file(run, folder))
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s is damaged and computed anew: %s", path, error)
        return False
    return isinstance(told, dict) and {name: told.get(name) for name in asdict(run)} == asdict(run)


def _compute(group: RunGroup, run: Run, folder: Path) -> None:
    started = time.perf_counter()
    data, arguments, task = group.on.products, _arguments(group, run), reported_task(run.task)
    found: dict[str, Any]
    if run.task == RETRIEVAL:
        source = replace(group.model(run), max_title_length=group.on.model.max_title_length)
        answers = rank_offers(source, data, batch_size=arguments.eval_batch_size)
        found = {"how": "as it is", "score": math.nan}
    elif run.method in (CLASSICAL, CLASSICAL_LEXICAL):
        test = load_evaluated_split(task, data, "test", seed=0)
        splits = {name: task.load_split(data, name, run.seed) for name in ("train", "validation")}
        reads_lexical = run.method == CLASSICAL_LEXICAL
        answers, score = answer_classically(splits | {"test": test}, data, arguments, reads_lexical=reads_lexical)
        found = {"how": run.method, "score": score}
    else:
        test = load_evaluated_split(task, data, "test", seed=0)
        found = _learn(group, run, folder)
        answers = _answer(run, head_folder(run, folder), test, data, arguments)
    Outcomes.of(answers, task.judge(answers)).save(outcomes_file(run, folder))
    found["score"] = None if math.isnan(found["score"]) else found["score"]  # where validation says nothing
    content = asdict(run) | found | {"rows": len(answers.references), "left_out": answers.left_out}
    content |= {"seconds": time.perf_counter() - started}
    write_json(content, run_file(run, folder), allow_nan=False)


def _arguments(group: RunGroup, run: Run) -> FinetuneArguments:
    modality = cast(Any, run.modality)
    return replace(group.on.finetuning, modality=modality, label_share=run.labels, seed=run.seed)


def _learn(group: RunGroup, run: Run, folder: Path) -> dict[str, Any]:
    """Train the heads that are to be compared, and leave the one that validation prefers."""
    configured, data, arguments = group.on.model, group.on.products, _arguments(group, run)
    # Its patterns are those of the towers that the pre-training has; another model may call its layers otherwise.
    freeze = configured.freeze if run.method in PRETRAININGS else []
    model = replace(group.model(run), freeze=freeze, max_title_length=configured.max_title_length)
    if run.modality == "both":
        parts = [group.run(modality, run.seed) for modality in ("text", "image")]
        for part in parts:
            if not head_folder(part, folder).is_dir():  # of a run that was stopped before it came to this run
                _learn(group, part, folder)
        ways = {"joined": replace(arguments, join=[str(head_folder(part, folder)) for part in parts])}
    else:
        ways = {"linear": replace(arguments, method="linear")}
        if group.trains(run.modality):
            ways["full"] = replace(arguments, method="full")
    task = find_task(run.task)
    best: tuple[float, str, dict[str, Any]] | None = None
    with tempfile.TemporaryDirectory(dir=folder / "heads") as scratch:
        for way, of_way in ways.items():
            report = finetune(model, data, replace(of_way, output_dir=str(Path(scratch) / way)))
            score = task.score(report["validation"])
            if best is None or score > best[0] or math.isnan(best[0]):
                best = (score, way, report)
        assert best is not None
        score, way, report = best
        shutil.rmtree(head_folder(run, folder), ignore_errors=True)
        shutil.move(Path(scratch) / way, head_folder(run, folder))
    return {"how": way, "score": score, "trained_weights": report["trained_weights"]}


def _answer(run: Run, head_dir: Path, test: Any, data: DataArguments, arguments: FinetuneArguments) -> TaskAnswers:
    """Let a head answer about the test split, from vectors on disk where there are any."""
    accelerator = open_accelerator()
    head, processor = load_head(str(head_dir)), EClipProcessor.from_pretrained(head_dir)
    head.eclip.requires_grad_(False)
    products = test
    if not field_columns(test.column_names):
        products = cache_frozen_towers(
            test,
            head.eclip,
            processor,
            accelerator,
            batch_size=arguments.eval_batch_size,
            num_workers=data.num_workers,
            modalities=modalities_of(run.modality),
        )
    answers = answer_split(
        find_task(run.task),
        head,
        processor,
        products,
        data,
        accelerator,
        batch_size=arguments.eval_batch_size,
        split="test",
    )
    assert answers is not None  # there is one rank
    return answers
