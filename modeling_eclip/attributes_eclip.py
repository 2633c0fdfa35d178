"""EClipForAttributeExtraction: a product -> the value of each attribute, or that it is not stated.

One classifier per attribute over that attribute's own values; a product need not have a label for all of them (e-CLIP,
Shin et al. 2022, has attribute extraction among its downstream tasks; the head is this package's).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_eclip import EClipConfig
from .fusion_eclip import LateFusionClassifier, ProductEmbeds
from .representation_eclip import SENT_TO_REVIEW, EClipTaskModel, embed_names, modality_widths, zero_shot_logits


@dataclass
class AttributeOutput(ModelOutput):
    """What [`EClipForAttributeExtraction`] returns.

    Args:
        loss: The loss, a scalar: the mean over the attributes that have a label in the batch; with `labels`.
        logits: For each attribute the logits of its values, float32, shape `(B, values)`; their softmax is
            probabilities.
        products: The products as the head saw them.
    """

    loss: torch.Tensor | None = None
    logits: dict[str, torch.Tensor] | None = None
    products: ProductEmbeds | None = None


class AttributeClassifier(nn.Module):
    """A [`LateFusionClassifier`] per attribute, and the loss of them all.

    Args:
        widths: Width of the vectors of each modality, as [`LateFusionClassifier`] takes them.
        num_values: Number of values of each attribute.
        lexical_rows: As [`LateFusionClassifier`] takes it.
    """

    def __init__(self, widths: Mapping[str, int], num_values: Sequence[int], lexical_rows: int = 0):
        """Build the classifiers, in the order of `num_values`."""
        super().__init__()
        # A list: names of attributes are the user's, those of modules may hold no point and hide no method.
        self.attributes = nn.ModuleList(LateFusionClassifier(widths, number, lexical_rows) for number in num_values)

    def forward(
        self, embeds: ProductEmbeds, labels: torch.Tensor | None = None, label_smoothing: float = 0.0
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Classify products by every attribute.

        Args:
            embeds: The products.
            labels: Int64, shape `(B, attributes)`; -100 for a value that carries no loss.
            label_smoothing: Share of a label's mass that is spread over all values of the attribute.

        Returns:
            For each attribute its logits, float32, shape `(B, values)`, and the loss, a scalar, or `None` without
            labels: the mean over the attributes that have a label in the batch.
        """
        columns = [None] * len(self.attributes) if labels is None else labels.unbind(dim=1)
        answers = [
            classifier(embeds, column, label_smoothing=label_smoothing)
            for classifier, column in zip(self.attributes, columns, strict=True)
        ]
        logits = [attribute_logits for attribute_logits, _ in answers]
        if labels is None:
            return logits, None
        # An attribute without a label in the batch has a loss of zero, which must not weigh on the others.
        num_labelled = (labels >= 0).any(dim=0).sum().clamp(min=1)
        return logits, torch.stack([loss.to(labels.device) for _, loss in answers]).sum() / num_labelled


class EClipForAttributeExtraction(EClipTaskModel):
    """Tell the attributes of products.

    `EClipForAttributeExtraction.from_pretrained(base, attributes={"colour": ["blue", "red"], "season": ["summer"]})`
    puts a new head on an [`EClipModel`]; its checkpoints know their attributes.

    Args:
        config: The configuration, with `attributes`.

    Raises:
        ValueError: the configuration has no `attributes`.
    """

    class_field = "attributes"

    def __init__(self, config: EClipConfig):
        """Build a classifier per attribute, in the order of `config.attribute_names`."""
        super().__init__(config)
        if config.attributes is None:
            raise ValueError("`attributes` is None; give the values of each, such as {'colour': ['blue', 'red']}.")
        # In the order of labels and logits, which is not that of the configuration's dictionary.
        self.values = {name: config.attributes[name] for name in config.attribute_names}
        self.classifier = AttributeClassifier(
            modality_widths(config), [len(values) for values in self.values.values()], config.lexical_rows
        )
        self.post_init()

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> AttributeOutput:
        """Tell the attributes of products that are represented already.

        Args:
            embeds: The products.
            labels: Their values, int64, shape `(B, attributes)`, the attributes in the order of
                `config.attribute_names`; -100 for a value that is not known and carries no loss.

        Returns:
            [`AttributeOutput`].

        Raises:
            ValueError: there is not one label per attribute.
        """
        names = list(self.values)
        if labels is not None and (labels.ndim != 2 or labels.shape[1] != len(names)):
            raise ValueError(f"`labels` has shape {tuple(labels.shape)}; give one column for each of {names}.")
        logits, loss = self.classifier(embeds, labels, label_smoothing=self.config.label_smoothing)
        return AttributeOutput(loss=loss, logits=dict(zip(names, logits, strict=True)), products=embeds)

    def decode(self, logits: Mapping[str, torch.Tensor], review: bool = True) -> list[dict[str, str]]:
        """Answer in words.

        Args:
            logits: For each attribute, shape `(B, values)`.
            review: Whether values that are less probable than `config.review_below` are sent to review.

        Returns:
            For each product its most probable value of each attribute; `config.not_stated` where none is as probable
            as `config.decision_threshold`, and `"sent to review"` where the value is left to people.
        """
        threshold = self.config.decision_threshold or 0.0
        columns = {}
        for name, values in self.values.items():
            best = logits[name].softmax(dim=-1).max(dim=-1)
            left = self.sent_to_review(name, best.values) & review
            rows = zip(best.indices.tolist(), best.values.tolist(), left.tolist(), strict=True)
            columns[name] = [
                self.config.not_stated if probability < threshold else SENT_TO_REVIEW if is_left else values[value]
                for value, probability, is_left in rows
            ]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def embed_values(self, processor: Any, templates: Sequence[str] = ("{value}",)) -> dict[str, torch.Tensor]:
        """Embed the values by their names, for `zero_shot`.

        Args:
            processor: The [`EClipProcessor`] of the checkpoint.
            templates: Titles of a product with the value, with `{value}` and, if wished, `{attribute}`; the value is
                the mean of them.

        Returns:
            For each attribute the embeddings of its values, of unit length, shape `(values, projection_dim)`.
        """
        embeds = {}
        for name, values in self.values.items():
            titles = [[template.format(value=value, attribute=name) for template in templates] for value in values]
            embeds[name] = embed_names(self, processor, titles)
        return embeds

    def zero_shot(
        self, value_embeds: Mapping[str, torch.Tensor], embeds: ProductEmbeds | None = None, **inputs: Any
    ) -> AttributeOutput:
        """Tell attributes by how near products are to the names of the values, without any training for it.

        Args:
            value_embeds: What `embed_values` returned.
            embeds: The products, as `represent` returns them; `None` where `inputs` are given.
            **inputs: As for `represent`: `input_ids`, `attention_mask`, `pixel_values`, `has_text`, `has_image`, ...

        Returns:
            [`AttributeOutput`], with logits only; `decode` puts them into words.
        """
        names = list(self.values)
        embeds = self.represent(**inputs) if embeds is None else embeds
        logits = zero_shot_logits(self, torch.cat([value_embeds[name] for name in names]), embeds)
        columns = logits.split([len(value_embeds[name]) for name in names], dim=1)
        return AttributeOutput(logits=dict(zip(names, columns, strict=True)), products=embeds)


__all__ = ["AttributeClassifier", "AttributeOutput", "EClipForAttributeExtraction"]
