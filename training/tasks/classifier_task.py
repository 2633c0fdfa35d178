"""What tasks with late-fusion classifiers share: linear probes, weights of n-grams, and the fit of their fusion."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from modeling_eclip.fitting.fusion import fit_fusion
from modeling_eclip.fitting.lexical import fit_lexical
from modeling_eclip.fitting.linear import count_classes, fit_classifier
from modeling_eclip.fusion_eclip import LateFusionClassifier, ProductEmbeds
from training.plots.tasks import draw_bars
from training.tasks.answers import TaskAnswers
from training.tasks.features import Represented
from training.tasks.task import Intervals, PlotFile, Task

__all__ = ["ClassifierTask"]


class ClassifierTask(Task):
    """A task of one or several classifiers that join a product's modalities late."""

    scored_by: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    reads_lexical: ClassVar[bool] = True

    def classifiers(self, head: Any) -> list[LateFusionClassifier]:
        """Return the head's classifiers, in the order of the columns of labels."""
        return [head.classifier]

    def class_weights(self, head: Any) -> tuple[float, ...] | None:
        """Return the weight of each class in the loss, if they differ."""
        return None

    def seen(self, head: Any, rows: Represented) -> ProductEmbeds:
        """Return what the classifiers look at."""
        return rows.embeds

    def fit_linear(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit a regression per classifier and modality."""
        seen, held_out_seen = self.seen(head, train), self.seen(head, validation)
        columns = zip(_columns(train.labels), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            weights = self.class_weights(head)
            fit_classifier(classifier, seen, labels, held_out_seen, held_out, class_weights=weights)
        self.fit_lexical(head, train, validation)
        self.fit_fusion(head, train.labels.numpy(), validation)

    def fit_lexical(self, head: Any, train: Represented, validation: Represented) -> None:
        """Fit the n-grams of titles beside the classifiers of their vectors."""
        columns = zip(_columns(train.labels), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            weights = self.class_weights(head)
            fit_lexical(classifier, train.embeds, labels, validation.embeds, held_out, class_weights=weights)

    def fit_fusion(self, head: Any, train_labels: np.ndarray, validation: Represented) -> None:
        """Fit how each classifier joins the modalities, or leave its answer to one of them if that scores higher."""
        if head.config.modality != "both":
            return
        columns = zip(_columns(torch.from_numpy(train_labels)), _columns(validation.labels), strict=True)
        for classifier, (labels, held_out) in zip(self.classifiers(head), columns, strict=True):
            counts = None if self.class_weights(head) else count_classes(classifier, labels)
            fit_fusion(classifier, self.seen(head, validation), held_out, counts)
            best, score = _copied(classifier), self.score(self.metrics(head, validation))
            for modality in ("text", "image"):
                classifier.rely_on(modality)
                if (alone := self.score(self.metrics(head, validation))) > score:
                    best, score = _copied(classifier), alone
            classifier.load_state_dict(best)

    @classmethod
    def draw(cls, answers: Mapping[str, TaskAnswers], metrics: Intervals, title: str, file: PlotFile) -> None:
        """Draw all accuracies."""
        bars = {
            model: {name.removesuffix("_accuracy"): of for name, of in found.items() if name.endswith("accuracy")}
            for model, found in metrics.items()
        }
        draw_bars(bars, f"{title}: accuracy, with 95 % intervals", file("figures"))


def _columns(labels: torch.Tensor) -> list[torch.Tensor]:
    return list(labels.reshape(len(labels), -1).unbind(dim=1))


def _copied(classifier: LateFusionClassifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}
