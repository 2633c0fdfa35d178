"""Attribute extraction: a column per attribute, each with its own values, any of which may be absent."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import softmax

from modeling_eclip import EClipConfig, EClipForAttributeExtraction
from modeling_eclip.fusion_eclip import LateFusionClassifier
from training.arguments.data import DataArguments
from training.data.ids import word_of
from training.data.read_tables import Products
from training.metrics.product_attributes.product_attributes import ProductAttributes
from training.tasks.answers import AnsweredSplit, JudgedAnswers, Mistake, TaskAnswers
from training.tasks.baseline import BaselineData
from training.tasks.classifier_task import ClassifierTask
from training.tasks.features import Represented, answer
from training.tasks.labels import NO_LABEL, TaskLabels, check_classes
from training.tasks.task import register_task

__all__ = ["AttributeLabels", "AttributesTask"]


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
                if (value := word_of(row[name], name)) is not None:
                    values.add(value)
        for name, values in found.items():
            check_classes(name, values)
        return cls(list(found), {name: sorted(values) for name, values in found.items()})

    def encode(self, row: Mapping[str, Any]) -> list[int]:
        """Return the number of the row's value of each attribute."""
        return [self._numbers[name].get(word_of(row[name], name) or "", NO_LABEL) for name in self.columns]

    def values(self, row: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the value of each attribute."""
        return {name: word_of(row[name], name) for name in self.columns}

    def config_fields(self) -> dict[str, Any]:
        """Return the values of each attribute."""
        return {"attributes": self.classes}


@register_task
class AttributesTask(ClassifierTask):
    """Attribute extraction."""

    name = "attributes"
    head_class = EClipForAttributeExtraction
    metric = "product_attributes"
    reported = ("_accuracy", "_macro_f1")  # of each attribute
    works_zero_shot = True

    @classmethod
    def label_columns(cls, data: DataArguments) -> dict[str, list[str]]:
        """Return a column per attribute."""
        return {"attribute_columns": data.attribute_columns}

    @classmethod
    def find_classes(cls, products: Products, data: DataArguments) -> AttributeLabels:
        """Find the values of each attribute."""
        return AttributeLabels.find(products, data.attribute_columns)

    @classmethod
    def labels_of_config(cls, config: EClipConfig, data: DataArguments) -> AttributeLabels:
        """Read values by those of the head; attributes are called as their columns were in training."""
        if config.attributes is None:
            raise ValueError("the checkpoint's `attributes` is None: it was not trained on attributes.")
        return AttributeLabels(
            config.attribute_names, {name: list(values) for name, values in config.attributes.items()}
        )

    def classifiers(self, head: Any) -> list[LateFusionClassifier]:
        """Return a classifier per attribute."""
        return list(head.classifier.attributes)

    def config_fields(self, train_labels: np.ndarray) -> dict[str, Any]:
        """Tell from where on a value is stated."""
        return super().config_fields(train_labels) | {"decision_threshold": self.arguments.min_probability}

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure every attribute; an unknown value counts as a mistake, as in evaluation."""
        assert isinstance(self.labels, AttributeLabels)
        names = head.config.attribute_names
        labels = [[values[name] for name in names] for values in map(self.labels.values, rows.label_rows)]
        predictions = [[row[name] for name in names] for row in head.decode(answer(head, rows).logits, review=False)]
        outcomes = ProductAttributes.outcomes(predictions, labels, names, head.config.not_stated)
        return ProductAttributes.metrics(outcomes, names)

    @classmethod
    def answers(cls, split: AnsweredSplit) -> TaskAnswers:
        """Answer with a value per attribute."""
        names = list(split.head.config.attribute_names)
        logits = answer(split.head, split.represented).logits
        sureness = {name: logits[name].softmax(dim=-1).amax(dim=-1).tolist() for name in names}
        values = [split.labels.values(row) for row in split.label_rows]
        labelled = np.flatnonzero([any(value is not None for value in row.values()) for row in values])
        predictions, labels = (
            split.head.decode(logits, review=False),
            [[row[name] for name in names] for row in values],
        )
        unknown: dict[str, Counter[str]] = {name: Counter() for name in names}
        mistakes = []
        for place in labelled:
            for name, label in zip(names, labels[place], strict=True):
                prediction, probability = predictions[place][name], float(sureness[name][place])
                if label is not None and label not in split.head.config.attributes[name]:
                    unknown[name][label] += 1
                if label not in (None, prediction):
                    told = f"{name}: {prediction} ({probability:.2f})"
                    mistakes.append(Mistake([int(split.rows[place])], told, f"{name}: {label}", probability))
        return TaskAnswers(
            cls.metric,
            [[predictions[place][name] for name in names] for place in labelled],
            [labels[place] for place in labelled],
            split.catalogs[split.rows[labelled]],
            outcome_settings={"attributes": names, "not_stated": split.head.config.not_stated},
            metric_settings={"attributes": names},
            mistakes=mistakes,
            left_out={"without a label": len(values) - len(labelled)},
            unknown=unknown,
            confidences=np.array([sureness[name] for name in names]).T[labelled],
        )

    @classmethod
    def judge(cls, answers: TaskAnswers) -> JudgedAnswers:
        """Judge each attribute's value; that none is stated, and where it is not known, is not judged."""
        names, not_stated = answers.outcome_settings["attributes"], answers.outcome_settings["not_stated"]
        predictions, references = (np.array(rows, dtype=object) for rows in (answers.predictions, answers.references))
        is_blank = (references == np.array(None)) | ((predictions == not_stated) & (references != not_stated))
        confidences = np.where(is_blank, np.nan, answers.confidences)
        return JudgedAnswers(names, confidences, (predictions == references).astype(bool), answers.review_below)

    @classmethod
    def embed_classes(cls, head: Any, processor: Any) -> Any:
        """Embed the names of the values."""
        return head.embed_values(processor)

    @classmethod
    def confusions(cls, answers: TaskAnswers) -> dict[str, tuple[list[str], list[str]]]:
        """Return the values of each attribute."""
        classes = {}
        for column, name in enumerate(answers.outcome_settings["attributes"]):
            rows = [
                (label[column], prediction[column])
                for label, prediction in zip(answers.references, answers.predictions, strict=True)
                if label[column] is not None
            ]
            if rows:
                classes[name] = ([label for label, _ in rows], [prediction for _, prediction in rows])
        return classes

    @classmethod
    def is_reported(cls, metric: str) -> bool:
        """Show the metrics of each attribute."""
        return metric.endswith(cls.reported)

    @classmethod
    def is_drawn(cls, metric: str) -> bool:
        """Draw the accuracy of each attribute."""
        return metric.endswith(cls.reported[0])

    @classmethod
    def main_metric(cls) -> str:
        """Return the accuracy of all attributes together."""
        return "accuracy"

    def baseline(self, given: BaselineData) -> tuple[TaskAnswers, float]:
        """Fit a regression per attribute."""
        assert isinstance(given.labels, AttributeLabels)
        names, classes = given.labels.columns, given.labels.classes
        predictions, scores, sureness = {}, [], []
        for column, name in enumerate(names):
            logits, score = given.logits(column)
            predictions[name] = [classes[name][number] for number in logits["test"].argmax(axis=1)]
            scores.append(score)
            sureness.append(softmax(logits["test"], axis=1).max(axis=1))
        labels = [given.labels.values(row) for row in given.splits["test"].select_columns(names)]
        labelled = np.flatnonzero([any(value is not None for value in row.values()) for row in labels])
        answers = TaskAnswers(
            self.metric,
            [[predictions[name][place] for name in names] for place in labelled],
            [[labels[place][name] for name in names] for place in labelled],
            given.catalogs[labelled],
            outcome_settings={"attributes": names, "not_stated": EClipConfig().not_stated},
            metric_settings={"attributes": names},
            confidences=np.stack(sureness, axis=1)[labelled],
        )
        return answers, float(np.mean(scores))
