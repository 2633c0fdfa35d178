"""Category classification: the leaves of a tree of categories, each a path from the root."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import softmax

from modeling_eclip import EClipConfig, EClipForCategoryClassification
from training.arguments.data import DataArguments
from training.data.ids import word_of
from training.data.read_tables import Products
from training.metrics.product_category.product_category import ProductCategory
from training.tasks.answers import AnsweredSplit, JudgedAnswers, Mistake, TaskAnswers
from training.tasks.baseline import BaselineData
from training.tasks.classifier_task import ClassifierTask
from training.tasks.features import Represented, answer
from training.tasks.labels import NO_LABEL, TaskLabels, check_classes
from training.tasks.task import register_task

__all__ = ["CategoryLabels", "CategoryTask"]


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
        check_classes(column, found)
        return cls([column], [list(path) for path in sorted(found)], separator)

    def path(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a row's path, root first; empty where it has none. A number is a path of one level."""
        (column,), value = self.columns, row[self.columns[0]]
        levels = value.split(self.separator) if isinstance(value, str) else value
        levels = levels if isinstance(levels, list | tuple) else [levels]
        return tuple(word for level in levels if (word := word_of(level, column)) is not None)

    def encode(self, row: Mapping[str, Any]) -> int:
        """Return the number of the row's leaf."""
        return self._classes.get(self.path(row), NO_LABEL)

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the path in one line."""
        return {self.columns[0]: " > ".join(self.path(row)) or None}

    def config_fields(self) -> dict[str, Any]:
        """Return the tree."""
        return {"category_paths": self.paths}


@register_task
class CategoryTask(ClassifierTask):
    """Category classification."""

    name = "category"
    head_class = EClipForCategoryClassification
    metric = "product_category"
    reported = ("accuracy", "macro_f1", "level_1_accuracy", "level_1_macro_f1")
    works_zero_shot = True

    @classmethod
    def label_columns(cls, data: DataArguments) -> dict[str, list[str]]:
        """Return the column of the path."""
        return {"category_column": [data.category_column]}

    @classmethod
    def find_classes(cls, products: Products, data: DataArguments) -> CategoryLabels:
        """Find the leaves."""
        return CategoryLabels.find(products, data.category_column, data.category_separator)

    @classmethod
    def labels_of_config(cls, config: EClipConfig, data: DataArguments) -> CategoryLabels:
        """Read paths by the head's tree."""
        if config.category_paths is None:
            raise ValueError("the checkpoint's `category_paths` is None: it was not trained on categories.")
        paths = [list(path) for path in config.category_paths]
        return CategoryLabels([data.category_column], paths, data.category_separator)

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure every level of the tree; a row of an unknown leaf counts as a mistake, as in evaluation."""
        assert isinstance(self.labels, CategoryLabels)
        labels = [self.labels.path(row) for row in rows.label_rows]
        labelled = np.array([bool(path) for path in labels])
        probabilities = answer(head, rows).logits.softmax(dim=-1).numpy()[labelled]
        paths, labels = head.config.category_paths, [path for path in labels if path]
        return ProductCategory.metrics(ProductCategory.outcomes(probabilities, labels, paths))

    @classmethod
    def answers(cls, split: AnsweredSplit) -> TaskAnswers:
        """Answer with the likeliest leaf."""
        column, paths = split.labels.columns[0], [tuple(path) for path in split.head.config.category_paths]
        probabilities = answer(split.head, split.represented).logits.softmax(dim=-1).double().numpy()
        labels = [split.labels.path(row) for row in split.label_rows]
        labelled = np.array([bool(path) for path in labels], dtype=bool)
        known = set(paths)
        mistakes = []
        for place in np.flatnonzero(labelled):
            best = int(probabilities[place].argmax())
            if paths[best] != labels[place]:
                probability = float(probabilities[place, best])
                prediction = f"{' > '.join(paths[best])} ({probability:.2f})"
                mistakes.append(Mistake([int(split.rows[place])], prediction, " > ".join(labels[place]), probability))
        return TaskAnswers(
            cls.metric,
            probabilities[labelled],
            [list(path) for path in labels if path],
            split.catalogs[split.rows[labelled]],
            outcome_settings={"category_paths": [list(path) for path in paths]},
            mistakes=mistakes,
            left_out={"without a label": int((~labelled).sum())},
            unknown={column: Counter(" > ".join(path) for path in labels if path and path not in known)},
        )

    @classmethod
    def judge(cls, answers: TaskAnswers) -> JudgedAnswers:
        """Judge the chosen leaf."""
        scores, paths = np.asarray(answers.predictions), answers.outcome_settings["category_paths"]
        chosen = zip(scores.argmax(axis=1), answers.references, strict=True)
        is_right = np.array([list(paths[leaf]) == list(path) for leaf, path in chosen])
        return JudgedAnswers(["category"], scores.max(axis=1)[:, None], is_right[:, None], answers.review_below)

    @classmethod
    def embed_classes(cls, head: Any, processor: Any) -> Any:
        """Embed the names of the leaves."""
        return head.embed_categories(processor)

    @classmethod
    def confusions(cls, answers: TaskAnswers) -> dict[str, tuple[list[str], list[str]]]:
        """Name leaves by their last level, or by the path where several end alike."""
        paths = [tuple(path) for path in answers.outcome_settings["category_paths"]]
        labels = [tuple(path) for path in answers.references]
        predictions = [paths[leaf] for leaf in np.asarray(answers.predictions).argmax(axis=1)]
        names = Counter(path[-1] for path in {*paths, *labels})
        words = {path: path[-1] if names[path[-1]] == 1 else " > ".join(path) for path in {*paths, *labels}}
        return {"category": ([words[path] for path in labels], [words[path] for path in predictions])}

    def baseline(self, given: BaselineData) -> tuple[TaskAnswers, float]:
        """Fit a regression on the leaves."""
        assert isinstance(given.labels, CategoryLabels)
        column, paths = given.labels.columns, given.labels.paths
        logits, score = given.logits()
        probabilities = np.zeros((len(given.splits["test"]), len(paths)))
        probabilities[:, : logits["test"].shape[1]] = softmax(logits["test"], axis=1)
        labels = [given.labels.path(row) for row in given.splits["test"].select_columns(column)]
        labelled = np.array([bool(path) for path in labels])
        answers = TaskAnswers(
            self.metric,
            probabilities[labelled],
            [list(path) for path in labels if path],
            given.catalogs[labelled],
            outcome_settings={"category_paths": paths},
        )
        return answers, score
