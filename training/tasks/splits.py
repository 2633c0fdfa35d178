"""What a task is learned from: its classes, as the training products have them, and the rows whose labels are used."""

import logging

import numpy as np

from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.tasks.labels import NO_LABEL, read_labels
from training.tasks.task import Task

__all__ = ["choose_rows"]

logger = logging.getLogger(__name__)


def choose_rows(
    task_class: type[Task],
    train_products: Products | ProductPairs,
    validation_products: Products | ProductPairs,
    data: DataArguments,
    arguments: FinetuneArguments,
) -> tuple[Task, np.ndarray, np.ndarray]:
    """Find the classes of a task in its training products, and choose the rows that are learned from.

    Args:
        task_class: The task.
        train_products: Training products, or pairs of them.
        validation_products: Held-out ones; what of their labels can't be used is reported.
        data: The data arguments.
        arguments: The fine-tuning arguments.

    Returns:
        The task with its labels, the chosen rows in ascending order, and their labels.

    Raises:
        ValueError: a column is missing, all rows are of one class, or a share of a stream is asked for.
    """
    if isinstance(train_products, ProductPairs):
        labels, encoded = None, train_products.labels
    else:
        labels = task_class.find_labels(train_products, data)
        encoded = read_labels(train_products, labels).labels
        held_out = read_labels(validation_products, labels)
        if unusable := held_out.report():
            logger.info("validation rows: %s", unusable)
        if (held_out.labels == NO_LABEL).all():
            raise ValueError(
                f"none of the {len(held_out.labels)} rows of `validation_data` has a label that training has seen in "
                f"{labels.columns}; give rows that do, since the best head is chosen there."
            )
    if arguments.label_share < 1.0 and not hasattr(train_products, "select"):
        raise ValueError(
            f"`label_share` is {arguments.label_share}, but of a stream all rows are taken; leave it out."
        )
    rows = task_class.choose_rows(encoded, arguments.label_share, arguments.seed)
    return task_class(arguments, labels), rows, encoded[rows]
