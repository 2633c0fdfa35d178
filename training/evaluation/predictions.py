"""Let a head answer about a split; what is left out is counted, and mistakes are sorted."""

from typing import Any

import numpy as np

from training.arguments.data import DataArguments
from training.data.pairs import ProductPairs
from training.data.read_tables import Products
from training.tasks.answers import AnsweredSplit, TaskAnswers
from training.tasks.features import Represented, read_rows
from training.tasks.task import Task

__all__ = ["answer_task"]


def answer_task(
    task: type[Task], head: Any, products: Products | ProductPairs, represented: Represented, data: DataArguments
) -> TaskAnswers:
    """Let a head answer.

    Args:
        task: The task.
        head: The task's head.
        products: The products, or pairs of products.
        represented: Those of them that could be used, as the head sees them.
        data: The data arguments, which name the columns of the labels.

    Returns:
        The answers about all rows with a label.

    Raises:
        ValueError: a column is missing, or no row has a label.
    """
    table = products.products if isinstance(products, ProductPairs) else products
    labels = task.labels_of_config(head.config, data)
    columns = labels.columns if labels is not None else []
    if missing := [name for name in columns if name not in table.column_names]:
        raise ValueError(
            f"the split has no column {missing[0]!r}, where the checkpoint's labels are looked for; it has "
            f"{', '.join(sorted(table.column_names))}."
        )
    rows = represented.rows
    label_rows = read_rows(table.select_columns(columns), rows) if columns else []
    catalogs = np.asarray(table["catalog_id"], dtype=np.int64)
    answers = task.answers(AnsweredSplit(head, products, represented, rows, labels, label_rows, catalogs))
    if len(answers.references) == 0:
        raise ValueError(f"none of the {len(represented.row_ids)} usable rows has a label in {columns}.")
    answers.review_below = head.config.review_below
    answers.left_out["unusable"] = len(products) - len(represented.row_ids)
    answers.left_out = {reason: count for reason, count in answers.left_out.items() if count}
    answers.unknown = {column: counts for column, counts in answers.unknown.items() if counts}
    answers.mistakes.sort(key=lambda mistake: -mistake.weight)
    return answers
