"""Columns of a table to the labels of a task, and to the fields of a configuration that a head answers from.

Contract: what a class is called and which number it has is found once, in the training products, and travels in the
model's configuration; any other table is read by that. A null is no label (-100: no loss, no figure); a value that
training has not seen is none either, and is counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modeling_eclip import EClipConfig
from training.arguments.groups import DataArguments
from training.data.read_tables import Products

__all__ = [
    "NO_LABEL",
    "AttributeLabels",
    "CatalogLabels",
    "CategoryLabels",
    "LabelTable",
    "RestrictedLabels",
    "TaskLabels",
    "find_labels",
    "labels_of_config",
    "read_labels",
]

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


@dataclass
class CategoryLabels(TaskLabels):
    """Paths in the category tree; a class is a leaf.

    Args:
        columns: The one column.
        paths: The leaves, root first; a leaf's class is its place.
        separator: What separates the levels where the column holds text.
    """

    paths: list[list[str]] = field(default_factory=list)
    separator: str = ">"

    def __post_init__(self) -> None:
        """Number the leaves."""
        self._classes = {tuple(path): number for number, path in enumerate(self.paths)}

    @classmethod
    def find(cls, products: Products, column: str, separator: str) -> "CategoryLabels":
        """Find the leaves that products have, in alphabetical order."""
        reader = cls([column], separator=separator)
        found = {path for row in products.select_columns(column) if (path := reader.path(row))}
        _check_classes(column, found)
        return cls([column], [list(path) for path in sorted(found)], separator)

    def path(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a row's path, root first; empty where it has none."""
        value = row[self.columns[0]]
        levels = () if _is_null(value) else value.split(self.separator) if isinstance(value, str) else value
        return tuple(str(level).strip() for level in levels if level is not None and str(level).strip())

    def encode(self, row: Mapping[str, Any]) -> int:
        """Return the number of the row's leaf."""
        return self._classes.get(self.path(row), NO_LABEL)

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the path in one line."""
        return {self.columns[0]: " > ".join(self.path(row)) or None}

    def config_fields(self) -> dict[str, Any]:
        """Return the tree."""
        return {"category_paths": self.paths}


@dataclass
class AttributeLabels(TaskLabels):
    """Values of any number of attributes, each of which may be absent.

    Args:
        columns: A column per attribute, which is its name, too; in alphabetical order, as configurations have them.
        classes: Values of each attribute; a value's class is its place.
    """

    classes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Number the values."""
        self._numbers = {
            name: {value: number for number, value in enumerate(values)} for name, values in self.classes.items()
        }

    @property
    def blank(self) -> list[int]:
        """Label of a row that has none."""
        return [NO_LABEL] * len(self.columns)

    @classmethod
    def find(cls, products: Products, columns: Sequence[str]) -> "AttributeLabels":
        """Find the values that products have, in alphabetical order."""
        found: dict[str, set[str]] = {name: set() for name in sorted(columns)}
        for row in products.select_columns(sorted(columns)):
            for name, values in found.items():
                if (value := _text(row[name])) is not None:
                    values.add(value)
        for name, values in found.items():
            _check_classes(name, values)
        return cls(list(found), {name: sorted(values) for name, values in found.items()})

    def encode(self, row: Mapping[str, Any]) -> list[int]:
        """Return the number of the row's value of each attribute."""
        return [self._numbers[name].get(_text(row[name]) or "", NO_LABEL) for name in self.columns]

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the value of each attribute."""
        return {name: _text(row[name]) for name in self.columns}

    def config_fields(self) -> dict[str, Any]:
        """Return the values of each attribute."""
        return {"attributes": self.classes}


@dataclass
class RestrictedLabels(TaskLabels):
    """Whether a product is for adults only."""

    @classmethod
    def find(cls, products: Products, column: str) -> "RestrictedLabels":
        """Check that there are products of both kinds."""
        labels = cls([column])
        _check_classes(
            column, {label for row in products.select_columns(column) if (label := labels.encode(row)) >= 0}
        )
        return labels

    def encode(self, row: Mapping[str, Any]) -> int:
        """Return 1 for a restricted product, 0 for another."""
        value = row[self.columns[0]]
        return NO_LABEL if _is_null(value) else _truth(value, self.columns[0])

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the label as a word."""
        value = row[self.columns[0]]
        return {self.columns[0]: None if _is_null(value) else str(value)}


@dataclass
class CatalogLabels(TaskLabels):
    """Which product an offer is of; one that is alone is a group of its own and has no label."""

    @classmethod
    def find(cls, products: Products, column: Sequence[str]) -> "CatalogLabels":
        """Check that some products have several offers."""
        counts = Counter(row["catalog_id"] for row in products.select_columns("catalog_id") if row["catalog_id"] >= 0)
        if not any(count > 1 for count in counts.values()):
            raise ValueError(
                f"`catalog_id_column` is {list(column)}, by which no two offers are of one product; clustering needs "
                "such offers to learn from. Name another column."
            )
        return cls(["catalog_id"])

    def encode(self, row: Mapping[str, Any]) -> int:
        """Return the catalog id, -1 for an offer that is alone."""
        return row["catalog_id"]

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the catalog id."""
        return {"catalog_id": str(row["catalog_id"]) if row["catalog_id"] >= 0 else None}


def find_labels(task: str, products: Products, data: DataArguments) -> TaskLabels | None:
    """Find the classes of a task in its training products.

    Args:
        task: `"category"`, `"attributes"`, `"adult"`, `"clustering"` or `"matching"`, whose labels are those of pairs.
        products: The training products.
        data: The data arguments, which name the columns.

    Returns:
        What reads the labels of a row; nothing for matching.

    Raises:
        ValueError: a column is missing, or all its rows are of one class.
    """
    _check_columns(products, columns_of(task, data))
    if task == "category":
        return CategoryLabels.find(products, data.category_column, data.category_separator)
    if task == "attributes":
        return AttributeLabels.find(products, data.attribute_columns)
    if task == "adult":
        return RestrictedLabels.find(products, data.restricted_column)
    return CatalogLabels.find(products, data.catalog_id_column) if task == "clustering" else None


def labels_of_config(task: str, config: EClipConfig, data: DataArguments) -> TaskLabels | None:
    """Read a task's labels by the classes that a trained head has.

    Args:
        task: As in [`find_labels`].
        config: The head's configuration.
        data: The data arguments, which name the columns. Attributes are called as their columns were in training.

    Returns:
        What reads the labels of a row; nothing for matching.

    Raises:
        ValueError: the configuration tells of no classes.
    """
    if task == "category":
        if config.category_paths is None:
            raise ValueError("the checkpoint's `category_paths` is None: it was not trained on categories.")
        return CategoryLabels([data.category_column], config.category_paths, data.category_separator)
    if task == "attributes":
        if config.attributes is None:
            raise ValueError("the checkpoint's `attributes` is None: it was not trained on attributes.")
        return AttributeLabels(config.attribute_names, config.attributes)
    if task == "adult":
        return RestrictedLabels([data.restricted_column])
    return CatalogLabels(["catalog_id"]) if task == "clustering" else None


def columns_of(task: str, data: DataArguments) -> dict[str, list[str]]:
    """Return the columns that a task's labels are read from, by the argument that names them."""
    if task == "category":
        return {"category_column": [data.category_column]}
    if task == "attributes":
        return {"attribute_columns": data.attribute_columns}
    return {"restricted_column": [data.restricted_column]} if task == "adult" else {}


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
    _check_columns(products, {"the checkpoint's labels": labels.columns})
    row_ids, encoded = [], []
    absent = dict.fromkeys(labels.columns, 0)
    unknown: dict[str, Counter[str]] = {name: Counter() for name in labels.columns}
    for row in products.select_columns(list(dict.fromkeys(["row_id", *labels.columns]))):
        label = labels.encode(row)
        row_ids.append(row["row_id"])
        encoded.append(label)
        numbers = label if isinstance(label, list) else [label]
        for number, (name, value) in zip(numbers, labels.values(row).items(), strict=True):
            if value is None:
                absent[name] += 1
            elif number == NO_LABEL:
                unknown[name][value] += 1
    return LabelTable(row_ids, np.asarray(encoded), absent, unknown)


def _check_columns(products: Products, columns: Mapping[str, Sequence[str]]) -> None:
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


def _check_classes(column: str, found: Iterable[Any]) -> None:
    values = list(found)
    if len(values) < 2:
        raise ValueError(
            f"column {column!r} holds {len(values)} different values ({values}) in the training products; there is "
            "nothing to tell apart. Name another column, or more products."
        )


def _text(value: Any) -> str | None:
    """An attribute's value as a word; nothing for null and blank text."""
    return None if _is_null(value) else str(value).strip() or None


def _is_null(value: Any) -> bool:
    """Whether a cell is empty; tables that came through pandas hold not-a-number there."""
    return value is None or (isinstance(value, float) and value != value)


def _truth(value: Any, column: str) -> int:
    if value in (0, 1):  # booleans are numbers
        return int(value)
    words = {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError(f"column {column!r} holds {value!r}; give true and false, or null where it is not known.")
