"""What tasks with a yes or no answer share: calibration, a threshold, precision and recall.

The threshold is chosen in `choose_threshold`: by the best F1 here, by a target recall in `training.tasks.adult`.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from modeling_eclip.fitting.thresholds import calibrate, threshold_of_best_f1
from training.plots.tasks import draw_precision_recall
from training.tasks.answers import AnsweredSplit, JudgedAnswers, Mistake, TaskAnswers
from training.tasks.classifier_task import ClassifierTask
from training.tasks.features import Represented, answer
from training.tasks.task import Intervals, PlotFile

__all__ = ["YesOrNoTask"]

logger = logging.getLogger("training")


class YesOrNoTask(ClassifierTask):
    """A task whose head gives a probability that is compared with a threshold.

    Attributes:
        metric_class: The class of the metric module.
        words: What no and yes mean, for people.
    """

    scored_by: ClassVar[tuple[str, ...]] = ("average_precision",)
    metric_class: ClassVar[Any]
    words: ClassVar[tuple[str, str]]

    def choose_threshold(self, probabilities: torch.Tensor, labels: torch.Tensor) -> float:
        """Choose the probability from which the answer is yes, on held-out rows.

        Args:
            probabilities: Calibrated probabilities of yes, shape `(N,)`.
            labels: 1 or 0, shape `(N,)`; others do not count.
        """
        return threshold_of_best_f1(probabilities, labels)

    def fit_decisions(self, head: Any, validation: Represented) -> None:
        """Calibrate, and set the threshold."""
        logits = answer(head, validation).logits
        for label, word in enumerate(self.words):
            if not (validation.labels == label).any():
                logger.warning(
                    "validation has no row of %r: probabilities are not calibrated, and its threshold means little; "
                    "name `validation_data`, or pairs, of both kinds",
                    word,
                )
        head.config.calibration = calibrate(logits, validation.labels)
        head.config.decision_threshold = self.choose_threshold(head.probabilities(logits), validation.labels)

    def metrics(self, head: Any, rows: Represented) -> dict[str, float]:
        """Measure the ranking, and the answers at the threshold."""
        logits, counted = answer(head, rows).logits, (rows.labels == 0) | (rows.labels == 1)
        outcomes = self.metric_class.outcomes(
            head.probabilities(logits[counted]).numpy(), rows.labels[counted].numpy()
        )
        return self.metric_class.metrics(outcomes, threshold=head.decision_threshold)

    @classmethod
    def answers(cls, split: AnsweredSplit) -> TaskAnswers:
        """Answer about products with a label."""
        probabilities = split.head.probabilities(answer(split.head, split.represented).logits).double().numpy()
        labels = np.array([split.labels.encode(row) for row in split.label_rows], dtype=np.int64)
        labelled = labels >= 0
        rows, threshold = split.rows[labelled], split.head.decision_threshold
        return TaskAnswers(
            cls.metric,
            probabilities[labelled],
            labels[labelled],
            split.catalogs[rows],
            metric_settings={"threshold": threshold},
            mistakes=cls.wrong_decisions(rows[:, None], probabilities[labelled], labels[labelled], threshold),
            left_out={"without a label": int((~labelled).sum())},
        )

    @classmethod
    def judge(cls, answers: TaskAnswers) -> JudgedAnswers:
        """Judge yes and no apart: where one is rare, the other's precision says nothing of it."""
        yes, is_yes = np.asarray(answers.predictions), np.asarray(answers.references) == 1
        says_yes = yes >= answers.metric_settings["threshold"]
        confidences = np.stack([np.where(says_yes, np.nan, 1 - yes), np.where(says_yes, yes, np.nan)], axis=1)
        return JudgedAnswers(["no", "yes"], confidences, np.stack([~is_yes, is_yes], axis=1), answers.review_below)

    @classmethod
    def wrong_decisions(
        cls, rows: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, threshold: float
    ) -> list[Mistake]:
        """Return the rows on the wrong side of the threshold.

        Args:
            rows: The products of each answer, as rows of the table, shape `(N, products)`.
            probabilities: Probabilities of yes, shape `(N,)`.
            labels: 1 or 0, shape `(N,)`.
            threshold: Probability from which the answer is yes.
        """
        mistakes = []
        for place in np.flatnonzero((probabilities >= threshold) != (labels == 1)):
            label, probability = int(labels[place]), float(probabilities[place])
            prediction = f"{cls.words[1 - label]} ({probability:.2f})"
            weight = 1 - probability if label else probability
            mistakes.append(Mistake(rows[place].tolist(), prediction, cls.words[label], weight))
        return mistakes

    @classmethod
    def draw(cls, answers: Mapping[str, TaskAnswers], metrics: Intervals, title: str, file: PlotFile) -> None:
        """Draw precision over recall."""
        curves = {
            name: (np.asarray(one.references), one.predictions, one.metric_settings["threshold"])
            for name, one in answers.items()
        }
        draw_precision_recall(curves, title, file("precision_recall"))
