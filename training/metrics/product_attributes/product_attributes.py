"""Product attribute extraction: accuracy and F1 of each attribute's values, and of all attributes together.

A metric module of `evaluate`: `evaluate.load("training/metrics/product_attributes")`. Values that are not known (null
references) are ignored. "Not stated" is an answer: it is no value, so it lowers recall where there is one to find, but
not precision; a reference of that name makes it a value like any other.

F1 is counted with numpy: scikit-learn's `f1_score` gives the same (a test says so) in forty times the time, which an
interval by resampling would wait for a thousand times. Macro F1 is, as there, the mean over the values that occur
among references or answers. An attribute of which no value is known has metrics that are not numbers, and no part in
those of all attributes.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Accuracy, micro F1 and macro F1 of attribute values, per attribute and together."
_INPUTS = """
Args:
    predictions: answered value of every attribute, for each product.
    references: right value of every attribute, for each product; null where it is not known.
    attributes: names of the attributes, in the same order.
    not_stated: the answer that names no value (default "not stated").
Returns:
    <attribute>_accuracy, <attribute>_micro_f1 and <attribute>_macro_f1 for every attribute; accuracy and micro_f1 of
    all known values together; macro_f1, the mean of the attributes' own.
"""
_ABSTAINED, _UNKNOWN = -1, -2


class ProductAttributes(evaluate.Metric):
    """Metrics of extracted values; `outcomes` and `metrics` are its two halves, for resampling between them."""

    def _info(self) -> evaluate.MetricInfo:
        values = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": values, "references": values}),
        )

    def _compute(
        self, predictions: Any, references: Any, attributes: Sequence[str], not_stated: str = "not stated"
    ) -> dict[str, float]:
        return self.metrics(self.outcomes(predictions, references, attributes, not_stated), attributes)

    @staticmethod
    def outcomes(
        predictions: Any, references: Any, attributes: Sequence[str], not_stated: str = "not stated"
    ) -> dict[str, np.ndarray]:
        """Return what the metrics of `N` products are made of.

        Args:
            predictions: Answers, `N` rows of a value per attribute.
            references: Right values, likewise, `None` where not known.
            attributes: Names of the attributes.
            not_stated: The answer that names no value.

        Returns:
            `reference` and `prediction`, numbers of values, int64, shape `(N, attributes)` each; negative for no
            value.

        Raises:
            ValueError: there are no products, or a row has not one value per attribute.
        """
        if not len(references) or len(predictions) != len(references):
            raise ValueError(
                f"there are {len(predictions)} predictions and {len(references)} references; give one of each for "
                "every product, and at least one product."
            )
        for name, rows in (("predictions", predictions), ("references", references)):
            for place, row in enumerate(rows):
                if len(row) != len(attributes):
                    raise ValueError(
                        f"{name}[{place}] has {len(row)} values; give one for each of the attributes "
                        f"{list(attributes)}, None where it is not known."
                    )
        columns = []
        for place in range(len(attributes)):
            right, answered = [row[place] for row in references], [row[place] for row in predictions]
            numbers = {value: number for number, value in enumerate(dict.fromkeys(right)) if value is not None}
            abstained = {None: _ABSTAINED} if not_stated in numbers else {None: _ABSTAINED, not_stated: _ABSTAINED}
            for value in answered:
                if value not in abstained:
                    numbers.setdefault(value, len(numbers) + 1)
            columns.append(
                (
                    [_UNKNOWN if value is None else numbers[value] for value in right],
                    [abstained[value] if value in abstained else numbers[value] for value in answered],
                )
            )
        reference, prediction = np.array(columns, dtype=np.int64).reshape(len(attributes), 2, -1).transpose(1, 2, 0)
        return {"reference": reference, "prediction": prediction}

    @staticmethod
    def metrics(outcomes: dict[str, np.ndarray], attributes: Sequence[str]) -> dict[str, float]:
        """Return the metrics of what `outcomes` returned, or of a selection of its rows."""
        metrics: dict[str, float] = {}
        counts = np.zeros(3, dtype=np.int64)
        macro = []
        for column, name in enumerate(attributes):
            is_known = outcomes["reference"][:, column] != _UNKNOWN
            reference, prediction = (outcomes[key][is_known, column] for key in ("reference", "prediction"))
            right = reference == prediction
            own_counts = np.array([right.sum(), len(reference), (prediction != _ABSTAINED).sum()])
            counts += own_counts
            metrics |= _accuracy_and_micro_f1(f"{name}_", own_counts)
            metrics[f"{name}_macro_f1"] = float("nan")
            if len(reference):
                occurring = np.bincount(np.concatenate([reference, prediction[prediction != _ABSTAINED]]))
                hits = np.bincount(reference[right], minlength=len(occurring))
                metrics[f"{name}_macro_f1"] = float((2 * hits[occurring > 0] / occurring[occurring > 0]).mean())
                macro.append(metrics[f"{name}_macro_f1"])
        metrics |= _accuracy_and_micro_f1("", counts)
        metrics["macro_f1"] = float(np.mean(macro)) if macro else float("nan")
        return metrics


def _accuracy_and_micro_f1(prefix: str, counts: np.ndarray) -> dict[str, float]:
    """Return both from the counts of right answers, of known values and of stated answers."""
    num_right, num_known, num_stated = counts.tolist()
    return {
        f"{prefix}accuracy": num_right / num_known if num_known else float("nan"),
        f"{prefix}micro_f1": 2 * num_right / (num_known + num_stated) if num_known else float("nan"),
    }
