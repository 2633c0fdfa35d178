"""Labels of rows, what all tasks share: each task's own subclass of `TaskLabels` is in its file.

Contract: the names and numbers of classes are found once, in the training products, and travel in the model's
configuration; any other table is read by them. A null is no label (-100: it has no loss and is not measured); a value
that training has not seen is none either, and is counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_eclip.representation_eclip import SENT_TO_REVIEW
from training.data.read_tables import Products
from training.data.row_places import row_files, told_rows

__all__ = ["NO_LABEL", "LabelTable", "TaskLabels", "check_classes", "check_columns", "count_labels", "read_labels"]

NO_LABEL = -100
"""The label of a row that has none; losses and metrics leave it out."""


@dataclass(frozen=True)
class LabelTable:
    """The labels of `N` rows.

    Args:
        row_ids: Id of each row.
        labels: What the head is trained on, shape `(N,)` or `(N, attributes)`.
        absent: Rows without a label (by attribute).
        unknown: Values that are no class, and how often they occur, by column.
    """

    row_ids: list[str]
    labels: np.ndarray
    absent: dict[str, int]
    unknown: dict[str, Counter[str]]

    def report(self) -> str:
        """A line such as `"category: 2 of 90 without a label, 3 of unknown kinds (Fez 2, Ruff 1)"`, or nothing."""
        parts = []
        for column, absent in self.absent.items():
            unknown = self.unknown[column]
            told = [f"{absent} of {len(self.row_ids)} without a label"] if absent else []
            if unknown:
                examples = ", ".join(f"{value} {count}" for value, count in unknown.most_common(5))
                told.append(f"{unknown.total()} with values that training has not seen ({examples})")
            if told:
                parts.append(f"{column}: {', '.join(told)}")
        return "; ".join(parts)


@dataclass
class TaskLabels:
    """Reads labels of rows; one subclass per kind of label.

    Args:
        columns: Columns that the labels are read from.
    """

    columns: list[str]

    @property
    def blank(self) -> Any:
        """Label of a row that has none."""
        return NO_LABEL

    def encode(self, row: Mapping[str, Any]) -> Any:
        """Return a row's label as numbers, `NO_LABEL` where there is none."""
        raise NotImplementedError

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return a row's labels as words, by column; `None` where there is none."""
        raise NotImplementedError

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of `EClipConfig` that tell what the labels mean."""
        return {}


def read_labels(products: Products, labels: TaskLabels) -> LabelTable:
    """Read the labels of all rows, and count what has none.

    Args:
        products: Products with the canonical columns.
        labels: Reads the labels.

    Returns:
        The labels, in the order of the rows.

    Raises:
        ValueError: a column is missing.
    """
    check_columns(products, {"the checkpoint's labels": labels.columns})
    row_ids, encoded = [], []
    absent = dict.fromkeys(labels.columns, 0)
    unknown: dict[str, Counter[str]] = {name: Counter() for name in labels.columns}
    for row in products.select_columns(list(dict.fromkeys(["row_id", *labels.columns]))):
        try:
            label = labels.encode(row)
        except ValueError as error:
            (told,) = told_rows([row["row_id"]], row_files(products))
            raise ValueError(f"{told}: {error}") from error
        row_ids.append(row["row_id"])
        encoded.append(label)
        numbers = label if isinstance(label, list) else [label]
        for number, (name, value) in zip(numbers, labels.values(row).items(), strict=True):
            if value is None:
                absent[name] += 1
            elif number == NO_LABEL:
                unknown[name][value] += 1
    return LabelTable(row_ids, np.asarray(encoded), absent, unknown)


def count_labels(labels: TaskLabels, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the rows that a metric is over.

    Args:
        labels: Reads the labels.
        rows: The columns of the labels of each row.

    Returns:
        `measured`, the rows with a label; `unknown`, how many of them have one that training has not seen, which
        counts as a mistake; and `unlabelled`.
    """
    counts = {"measured": 0, "unknown": 0, "unlabelled": 0}
    for row in rows:
        label, words = labels.encode(row), list(labels.values(row).values())
        numbers = label if isinstance(label, list) else [label]
        is_measured = any(word is not None for word in words)
        counts["measured" if is_measured else "unlabelled"] += 1
        counts["unknown"] += any(
            word is not None and number == NO_LABEL for word, number in zip(words, numbers, strict=True)
        )
    return counts


def check_columns(products: Products, columns: Mapping[str, Sequence[str]]) -> None:
    """Refuse columns that are not there; `columns` has them by the argument that names them."""
    for argument, names in columns.items():
        if not names:
            raise ValueError(
                f"`{argument}` is empty; name one or more of the columns {sorted(products.column_names)}."
            )
        for name in names:
            if name not in products.column_names:
                raise ValueError(
                    f"`{argument}` names {name!r}, which the products have not; they have "
                    f"{', '.join(sorted(products.column_names))}."
                )


def check_classes(column: str, found: Iterable[Any]) -> None:
    """Refuse a column with fewer than two classes, or one that is called as what is left to people."""
    values = list(found)
    if SENT_TO_REVIEW in values or (SENT_TO_REVIEW,) in values:
        raise ValueError(
            f"column {column!r} holds the label {SENT_TO_REVIEW!r}, which is what heads answer where they are not "
            "certain; give these products another label, or none."
        )
    if len(values) < 2:
        raise ValueError(
            f"column {column!r} holds {len(values)} different values ({values}) in the training products; there is "
            "nothing to tell apart. Name another column, or more products."
        )
