"""The classical baseline: what features without any learned representation know of a task.

Logistic regression on them for classes, cosines for pairs, average linkage for groups: each task's own `baseline`.
"""

from collections.abc import Mapping
from typing import Any

from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.benchmark.classical_features import ClassicalFeatures
from training.data.pairs import ProductPairs
from training.tasks.answers import TaskAnswers
from training.tasks.baseline import BaselineData
from training.tasks.registry import find_task
from training.tasks.splits import choose_rows

__all__ = ["answer_classically"]


def answer_classically(
    splits: Mapping[str, Any], data: DataArguments, arguments: FinetuneArguments, *, reads_lexical: bool = False
) -> tuple[TaskAnswers, float]:
    """Learn a task from its training rows, and answer about its test rows.

    Args:
        splits: Products, or pairs of products, of `"train"`, `"validation"` and `"test"`.
        data: The data arguments, which name the columns of the labels.
        arguments: Task, modality, share of the labels and seed.
        reads_lexical: Whether pairs are compared by the literal evidence that heads weigh, too.

    Returns:
        The answers about all test rows that have a label, as `answer_task` gives those of heads; and the score on
        validation.

    Raises:
        ValueError: a column is missing.
    """
    task, rows, train_labels = choose_rows(
        find_task(arguments.task), splits["train"], splits["validation"], data, arguments
    )
    train = splits["train"]
    describe = ClassicalFeatures(train.products if isinstance(train, ProductPairs) else train, arguments.modality)
    reads_lexical = reads_lexical and arguments.modality != "image"
    given = BaselineData(task.labels, rows, train_labels, splits, describe, reads_lexical, arguments.seed)
    return task.baseline(given)
