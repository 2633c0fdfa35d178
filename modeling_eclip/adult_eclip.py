"""EClipForAdultRecognition: a product -> the probability that it is for adults only.

A yes-or-no classifier for a rare yes: positive products may weigh more in the loss, the threshold is fitted for the
recall that is wished for, and both travel in the configuration (e-CLIP, Shin et al. 2022, has adult product
recognition among its downstream tasks; the head is this package's).
"""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .configuration_eclip import EClipConfig
from .fusion_eclip import LateFusionClassifier, ProductEmbeds
from .representation_eclip import EClipYesOrNoModel, modality_widths


@dataclass
class AdultOutput(ModelOutput):
    """What [`EClipForAdultRecognition`] returns.

    Args:
        loss: The loss, a scalar; with `labels`.
        logits: Log odds, before calibration, float32, shape `(B,)`.
        products: The products as the head saw them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    products: ProductEmbeds | None = None


class EClipForAdultRecognition(EClipYesOrNoModel):
    """Recognise products that not everybody may see.

    Args:
        config: The configuration; its `positive_weight` counts in the loss, its `calibration` and
            `decision_threshold` in the answers.
    """

    def __init__(self, config: EClipConfig):
        """Build the classifier: class 0 is no, class 1 is yes."""
        super().__init__(config)
        self.classifier = LateFusionClassifier(modality_widths(config), 2, config.lexical_rows)
        self.post_init()

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> AdultOutput:
        """Judge products that are represented already.

        Args:
            embeds: The products.
            labels: Whether they are for adults only, bool or a number, 0 or 1, shape `(B,)`; -100 for a product that
                carries no loss.

        Returns:
            [`AdultOutput`].
        """
        if labels is not None:
            labels = labels.long()
        weights = torch.tensor([1.0, float(self.config.positive_weight)])
        class_logits, loss = self.classifier(embeds, labels, weights)
        return AdultOutput(loss=loss, logits=class_logits[:, 1] - class_logits[:, 0], products=embeds)


__all__ = ["AdultOutput", "EClipForAdultRecognition"]
