"""Heads on a split of any data: loaded and measured, with intervals.

A checkpoint without a head is measured, too, where a task works untrained: matching and clustering start from the
similarity of the towers' vectors.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import datasets
from accelerate import Accelerator

from modeling_eclip import EClipConfig, EClipProcessor
from training.arguments.data import DataArguments
from training.arguments.evaluation import EvaluationArguments
from training.data.catalogs import CatalogSizes
from training.data.columns import CANONICAL_FEATURES
from training.data.fields import field_columns
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.evaluation.predictions import answer_task
from training.evaluation.task_metrics import Estimate, Outcomes, measure, metrics_to_json
from training.tasks.answers import TaskAnswers
from training.tasks.features import represent
from training.tasks.heads import head_without_training, load_head
from training.tasks.registry import TASKS, task_of_head
from training.tasks.task import Task

__all__ = [
    "TaskEvaluation",
    "answer_split",
    "evaluate_head",
    "load_evaluated_split",
    "load_task_head",
    "load_zero_shot_head",
]

logger = logging.getLogger(__name__)


@dataclass
class TaskEvaluation:
    """How a head did.

    Args:
        task: The task.
        modality: What of a product it saw.
        split: The split that it was measured on.
        answers: Its answers.
        metrics: Its metrics, with intervals.
    """

    task: type[Task]
    modality: str
    split: str
    answers: TaskAnswers
    metrics: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return what the report holds."""
        judged = self.task.judge(self.answers)
        reviews = None if judged is None else judged.count_reviews()
        return {
            "task": self.task.name,
            "modality": self.modality,
            "split": self.split,
            "rows": len(self.answers.references),
            "left_out": self.answers.left_out,
            "unknown_labels": {column: dict(counts) for column, counts in self.answers.unknown.items()},
            "metrics": metrics_to_json(self.metrics),
        } | ({} if reviews is None else {"review": reviews})


def load_task_head(task: type[Task], folder: str, modality: str | None) -> Any:
    """Load the head of a checkpoint.

    Args:
        task: The task.
        folder: Folder or Hub id.
        modality: What it shall see, for a checkpoint that has no head yet.

    Returns:
        The head, in evaluation mode.

    Raises:
        ValueError: the checkpoint has the head of another task, or none, and the task wants a trained one; or it does
            not look at what it shall see.
    """
    config = EClipConfig.from_pretrained(folder)
    architectures, wanted = config.architectures or [], task.head_class.__name__
    if wanted not in architectures and (other := task_of_head(architectures)) is not None:
        raise ValueError(
            f"{folder!r} holds {other.head_class.__name__}, the head of another task than {task.name!r}, which has "
            f"{wanted}."
        )
    if wanted not in architectures and not task.works_untrained:
        raise ValueError(
            f"{folder!r} holds {config.architectures} and no {wanted}; train one: `python training/finetune.py "
            f"--checkpoint {folder} --task {task.name}`."
        )
    if wanted not in architectures:
        return head_without_training(task.head_class, folder, modality=modality or "both")
    head = load_head(folder)
    if modality is not None and head.config.modality not in ("both", modality):
        raise ValueError(f"`modality` is {modality!r}, but the head of {folder!r} sees {head.config.modality} only.")
    return head


def load_zero_shot_head(
    task: type[Task], folder: str, modality: str | None, products: Products | ProductPairs, data: DataArguments
) -> Any:
    """Load a checkpoint as a head that answers by the names of its classes, without training.

    Args:
        task: The task.
        folder: Folder or Hub id.
        modality: What it shall see, for a checkpoint that has no head yet.
        products: Where the classes are found, for a checkpoint that has no head yet.
        data: The data arguments, which name the columns of the labels.

    Returns:
        The head, in evaluation mode.

    Raises:
        ValueError: the task's classes have no names.
    """
    if not task.works_zero_shot or isinstance(products, ProductPairs):
        able = " and ".join(sorted(name for name, one in TASKS.items() if one.works_zero_shot))
        raise ValueError(f"`zero_shot` is true, but the task is {task.name!r}; {able} have classes with names.")
    if EClipConfig.from_pretrained(folder).architectures == [task.head_class.__name__]:
        head = load_task_head(task, folder, modality)
    else:
        fields = task.find_labels(products, data).config_fields()
        head = head_without_training(task.head_class, folder, modality=modality or "both", **fields)
    head.answer = partial(head.zero_shot, task.embed_classes(head, EClipProcessor.from_pretrained(folder)))
    return head


def load_evaluated_split(task: type[Task], data: DataArguments, split: str, seed: int) -> Products | ProductPairs:
    """Load what heads are measured on.

    Args:
        task: The task.
        data: The data arguments.
        split: `"train"`, `"validation"` or `"test"`.
        seed: Seed of pairs that are derived from catalogs, where none are named.

    Returns:
        Products, or pairs of them.
    """
    return task.load_split(task.evaluated_data(replace(data, streaming=False), split), split, seed)


def evaluate_head(
    task: type[Task],
    head: Any,
    processor: EClipProcessor,
    products: Products | ProductPairs,
    data: DataArguments,
    arguments: EvaluationArguments,
    accelerator: Accelerator,
) -> TaskEvaluation | None:
    """Measure a head; all ranks call this together.

    Args:
        task: The task.
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
    sizes = CatalogSizes.of(answers.groups)
    if arguments.resample_by == "catalogs" and sizes.largest > data.max_catalog_share * sizes.num_rows:
        logger.warning("intervals say little, since rows of one catalog are resampled together: %s", sizes)
    metrics = measure(
        [Outcomes.of(answers, task.judge(answers))],
        num_resamples=arguments.num_resamples,
        by_catalog=arguments.resample_by == "catalogs",
        seed=arguments.seed,
    )
    return TaskEvaluation(task, modality, arguments.split, answers, metrics)


def answer_split(
    task: type[Task],
    head: Any,
    processor: EClipProcessor,
    products: Products | ProductPairs,
    data: DataArguments,
    accelerator: Accelerator,
    *,
    batch_size: int | None,
    split: str,
) -> TaskAnswers | None:
    """Let a head answer; all ranks call this together.

    Args:
        task: The task.
        head: The head.
        processor: Its processor.
        products: The products, or pairs of products.
        data: The data arguments, which name the columns of the labels.
        accelerator: The process's accelerator.
        batch_size: Products embedded at a time, as for [`share_of`].
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


def _hidden(products: Any, modality: str) -> Any:
    """Return the same rows without one modality."""
    if isinstance(products, ProductPairs):
        return replace(products, products=_hidden(products.products, modality))
    name, nothing = ("image", None) if modality == "image" else ("title", "")
    blank = datasets.Dataset.from_dict(
        {name: [nothing] * len(products)}, features=datasets.Features({name: CANONICAL_FEATURES[name]})
    )
    hidden = [name, *field_columns(products.column_names, modality)]
    return datasets.concatenate_datasets([products.remove_columns(hidden), blank], axis=1)
