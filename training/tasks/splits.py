"""What a task is learned from: its splits, its classes, and the share of the labels that may be used."""

import logging

import numpy as np

from training.arguments.groups import DataArguments, FinetuneArguments
from training.data.pairs import ProductPairs, load_pairs, load_title_pairs, pairs_of_catalogs
from training.data.read_tables import Products
from training.engine.build import load_split
from training.tasks.labels import NO_LABEL, find_labels, read_labels
from training.tasks.specification import TASKS, Task

__all__ = ["choose_labelled", "choose_rows", "load_task_split"]

logger = logging.getLogger(__name__)


def load_task_split(task: str, data: DataArguments, split: str, seed: int) -> Products | ProductPairs:
    """Load what a task is learned from or judged on.

    Args:
        task: A key of `TASKS`.
        data: The data arguments.
        split: `"train"` or `"validation"`.
        seed: Seed of pairs that are derived from catalogs.

    Returns:
        Products; for matching labelled pairs of them, derived from catalog ids where none are named.

    Raises:
        ValueError: pairs of a stream are asked for.
    """
    if task != "matching":
        return load_split(data, split)
    path = getattr(data, f"{split}_pairs")
    if path and data.pair_id_column == data.title_column:
        return load_title_pairs(path)
    products = load_split(data, split)
    if not hasattr(products, "select"):
        raise ValueError("`streaming` is true, but the products of pairs must be found by their ids; leave it out.")
    if path:
        return load_pairs(path, products)
    return pairs_of_catalogs(products, seed=seed, group_column=data.category_column)


def choose_rows(
    train_products: Products | ProductPairs,
    validation_products: Products | ProductPairs,
    data: DataArguments,
    arguments: FinetuneArguments,
) -> tuple[Task, np.ndarray, np.ndarray]:
    """Find the classes of a task in its training products, and choose the rows that are learned from.

    Args:
        train_products: Training products, or pairs of them.
        validation_products: Held-out ones; what of their labels can't be used is reported.
        data: The data arguments.
        arguments: The fine-tuning arguments.

    Returns:
        The task, the chosen rows in ascending order, and their labels.

    Raises:
        ValueError: a column is missing, all rows are of one class, or a share of a stream is asked for.
    """
    if isinstance(train_products, ProductPairs):
        labels, encoded = None, train_products.labels
    else:
        labels = find_labels(arguments.task, train_products, data)
        assert labels is not None  # of all tasks but matching, which has pairs
        encoded = read_labels(train_products, labels).labels
        held_out = read_labels(validation_products, labels)
        if told := held_out.report():
            logger.info("validation rows: %s", told)
        if arguments.task != "clustering" and (held_out.labels == NO_LABEL).all():
            raise ValueError(
                f"none of the {len(held_out.labels)} rows of `validation_data` has a label that training has seen in "
                f"{labels.columns}; give rows that do, since the best head is chosen there."
            )
    task = TASKS[arguments.task](arguments, labels)
    if arguments.label_share < 1.0 and not hasattr(train_products, "select"):
        raise ValueError(
            f"`label_share` is {arguments.label_share}, but of a stream all rows are taken; leave it out."
        )
    if arguments.task == "clustering":
        groups = np.unique(encoded[encoded >= 0])
        chosen = groups[choose_labelled(groups, arguments.label_share, arguments.seed)]
        rows = np.flatnonzero(np.isin(encoded, chosen) | (encoded < 0))
    else:
        labelled = np.flatnonzero((encoded.reshape(len(encoded), -1) != NO_LABEL).any(axis=1))
        rows = labelled[choose_labelled(encoded[labelled], arguments.label_share, arguments.seed)]
    return task, rows, encoded[rows]


def choose_labelled(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a share of labelled rows at random, a smaller share always being part of a larger one.

    Where the labels are yes or no, one row of each is among them.

    Args:
        labels: Labels of all rows, shape `(N,)` or `(N, attributes)`.
        share: Share of the rows, above 0 and at most 1; at least two are chosen.
        seed: Seed of the choice.

    Returns:
        The chosen rows, in ascending order.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    number = max(2, round(share * len(labels)))
    if labels.ndim == 1 and set(np.unique(labels)) <= {0, 1, NO_LABEL}:
        firsts = [int(np.flatnonzero(labels[order] == kind)[0]) for kind in (0, 1) if (labels == kind).any()]
        order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return np.sort(order[:number])
