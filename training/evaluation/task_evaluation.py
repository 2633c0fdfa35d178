"""Heads on a split of any data: loaded and measured, with intervals.

A checkpoint without a head is measured, too, where a head works without training: matching and clustering start from
the similarity of what the towers see.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import datasets
from accelerate import Accelerator

import modeling_eclip
from modeling_eclip import EClipConfig, EClipProcessor
from training.arguments.groups import DataArguments, EvaluationArguments
from training.data.columns import CANONICAL_FEATURES
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.evaluation.predictions import TaskAnswers, answer_task
from training.evaluation.task_metrics import MetricValue, Outcomes, measure, metrics_to_json
from training.tasks.features import represent
from training.tasks.heads import TASK_HEADS, load_head
from training.tasks.labels import find_labels
from training.tasks.splits import load_task_split

__all__ = [
    "TaskEvaluation",
    "answer_split",
    "evaluate_head",
    "load_evaluated_split",
    "load_task_head",
    "load_zero_shot_head",
]

logger = logging.getLogger(__name__)

_UNTRAINED_TASKS = ("matching", "clustering")


@dataclass
class TaskEvaluation:
    """How a head did.

    Args:
        task: The task.
        modality: What of a product it saw.
        split: The split that it was measured on.
        answers: Its answers.
        figures: Its figures, with intervals.
    """

    task: str
    modality: str
    split: str
    answers: TaskAnswers
    metrics: dict[str, MetricValue]

    def to_json(self) -> dict[str, Any]:
        """Return what the report holds."""
        return {
            "task": self.task,
            "modality": self.modality,
            "split": self.split,
            "rows": len(self.answers.references),
            "left_out": self.answers.left_out,
            "unknown_labels": {column: dict(counts) for column, counts in self.answers.unknown.items()},
            "metrics": metrics_to_json(self.metrics),
        }


def load_task_head(task: str, folder: str, modality: str | None) -> Any:
    """Load the head of a checkpoint.

    Args:
        task: A key of `TASK_HEADS`.
        folder: Folder or Hub id.
        modality: What it shall see, for a checkpoint that has no head yet.

    Returns:
        The head, in evaluation mode.

    Raises:
        ValueError: the checkpoint has the head of another task, or none, and the task wants a trained one; or it does
            not look at what it shall see.
    """
    config = EClipConfig.from_pretrained(folder)
    names = [name for name in config.architectures or () if name in TASK_HEADS.values()]
    wanted = TASK_HEADS[task]
    if names and wanted not in names:
        raise ValueError(f"{folder!r} holds {names[0]}, the head of another task than {task!r}, which has {wanted}.")
    if not names and task not in _UNTRAINED_TASKS:
        raise ValueError(
            f"{folder!r} holds {config.architectures} and no {wanted}; train one: `python training/finetune.py "
            f"--checkpoint {folder} --task {task}`."
        )
    if not names:
        return getattr(modeling_eclip, wanted).from_pretrained(folder, modality=modality or "both").eval()
    head = load_head(folder)
    if modality is not None and head.config.modality not in ("both", modality):
        raise ValueError(f"`modality` is {modality!r}, but the head of {folder!r} sees {head.config.modality} only.")
    return head


def load_zero_shot_head(
    task: str, folder: str, modality: str | None, products: Products | ProductPairs, data: DataArguments
) -> Any:
    """Load a checkpoint as a head that answers by the names of its classes, without training.

    Args:
        task: `"category"` or `"attributes"`.
        folder: Folder or Hub id.
        modality: What it shall see, for a checkpoint that has no head yet.
        products: Where the classes are found, for a checkpoint that has no head yet.
        data: The data arguments, which name the columns of the labels.

    Returns:
        The head, in evaluation mode.

    Raises:
        ValueError: the task's classes have no names.
    """
    if task not in ("category", "attributes") or isinstance(products, ProductPairs):
        raise ValueError(
            f"`zero_shot` is true, but the task is {task!r}; category and attributes have classes with names."
        )
    if EClipConfig.from_pretrained(folder).architectures == [TASK_HEADS[task]]:
        head = load_task_head(task, folder, modality)
    else:
        labels = find_labels(task, products, data)
        assert labels is not None  # these tasks have some
        head_class = getattr(modeling_eclip, TASK_HEADS[task])
        head = head_class.from_pretrained(folder, modality=modality or "both", **labels.config_fields()).eval()
    processor = EClipProcessor.from_pretrained(folder)
    embed = head.embed_categories if task == "category" else head.embed_values
    head.answer = partial(head.zero_shot, embed(processor))
    return head


def load_evaluated_split(task: str, data: DataArguments, split: str, seed: int) -> Products | ProductPairs:
    """Load what heads are measured on.

    Args:
        task: A key of `TASK_HEADS`.
        data: The data arguments. For matching, the test split is `test_pairs` of `pairs_data`, or of `test_data` where
            that is empty.
        split: `"train"`, `"validation"` or `"test"`.
        seed: Seed of pairs that are derived from catalogs, where none are named.

    Returns:
        Products, or pairs of them.
    """
    data = replace(data, streaming=False)
    if task == "matching" and split == "test" and data.test_pairs:
        data = replace(data, test_data=data.pairs_data or data.test_data, id_column=data.pair_id_column)
        if data.pairs_data:
            # The training offers' columns of catalogs need not be there, and the pairs tell what is of one product.
            data = replace(data, catalog_id_column=[])
    return load_task_split(task, data, split, seed)


def evaluate_head(
    task: str,
    head: Any,
    processor: EClipProcessor,
    products: Products | ProductPairs,
    data: DataArguments,
    arguments: EvaluationArguments,
    accelerator: Accelerator,
) -> TaskEvaluation | None:
    """Measure a head; all ranks call this together.

    Args:
        task: A key of `TASK_HEADS`.
        head: The head.
        processor: Its processor.
        products: The products, or pairs of products.
        data: The data arguments, which name the columns of the labels.
        arguments: The evaluation arguments.
        accelerator: The process's accelerator.

    Returns:
        How it did; nothing on other ranks than the first.

    Raises:
        ValueError: a column is missing, or no row has a label.
    """
    modality = arguments.modality or head.config.modality
    if modality != head.config.modality:
        products = _hidden(products, "image" if modality == "text" else "text")
    answers = answer_split(
        task, head, processor, products, data, accelerator, batch_size=arguments.eval_batch_size, split=arguments.split
    )
    if answers is None:
        return None
    figures = measure(
        [Outcomes.of(answers)],
        num_resamples=arguments.num_resamples,
        by_catalog=arguments.resample_by == "catalogs",
        seed=arguments.seed,
    )
    return TaskEvaluation(task, modality, arguments.split, answers, figures)


def answer_split(
    task: str,
    head: Any,
    processor: EClipProcessor,
    products: Products | ProductPairs,
    data: DataArguments,
    accelerator: Accelerator,
    *,
    batch_size: int,
    split: str,
) -> TaskAnswers | None:
    """Let a head answer; all ranks call this together.

    Args:
        task: A key of `TASK_HEADS`.
        head: The head.
        processor: Its processor.
        products: The products, or pairs of products.
        data: The data arguments, which name the columns of the labels.
        accelerator: The process's accelerator.
        batch_size: Products embedded at a time.
        split: What the progress bar calls them.

    Returns:
        Its answers; nothing on other ranks than the first.

    Raises:
        ValueError: a column is missing, or no row has a label.
    """
    workers = data.num_workers
    represented = represent(
        head, products, processor, accelerator, batch_size=batch_size, num_workers=workers, description=f"{split} rows"
    )
    if not accelerator.is_main_process:
        return None
    answers = answer_task(task, head, products, represented, data)
    for reason, count in answers.left_out.items():
        logger.warning("%s of %s rows left out: %s", count, len(products), reason)
    for column, counts in answers.unknown.items():
        told = ", ".join(f"{value} {count}" for value, count in counts.most_common(5))
        logger.warning("%s: %s rows with values that the head has not, all wrong (%s)", column, counts.total(), told)
    return answers


def _hidden(products: Any, side: str) -> Any:
    """Return the same rows without one side."""
    if isinstance(products, ProductPairs):
        return replace(products, products=_hidden(products.products, side))
    name, nothing = ("image", None) if side == "image" else ("title", "")
    blank = datasets.Dataset.from_dict(
        {name: [nothing] * len(products)}, features=datasets.Features({name: CANONICAL_FEATURES[name]})
    )
    return datasets.concatenate_datasets([products.remove_columns(name), blank], axis=1)
