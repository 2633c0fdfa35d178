"""What training minimises: the one place where the terms of the loss are added up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..configuration_eclip import EClipConfig
from .contrastive import contrastive_loss, mate_contrast_loss
from .gather import gather_numbers
from .matryoshka import matryoshka_loss


@dataclass(frozen=True)
class ContrastiveObjective:
    """The loss of a model's embeddings, as its configuration has it.

    At each of the configuration's `matryoshka_dims`, or at the full size if it has none, the loss is
    [`contrastive_loss`] between titles and images, in the form that its `loss` names. With a `mate_contrast_weight`,
    that weight times the mean of [`mate_contrast_loss`] among titles and among images is added: of the offers that
    have them.

    Args:
        config: Its `loss`, `catalog_weight`, `catalog_mates`, `matryoshka_dims` and `matryoshka_weights` are read.
        mate_contrast_weight: Weight of the contrast among titles and among images; without catalog ids it is not
            added.
        tile_size: As for [`contrastive_loss`].
        distributed: As for [`contrastive_loss`].
    """

    config: EClipConfig
    mate_contrast_weight: float = 0.0
    tile_size: int | None = None
    distributed: bool = False

    def __call__(
        self,
        text_embeds: torch.Tensor,
        image_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        catalog_ids: torch.Tensor | None = None,
        *,
        logit_bias: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        row_counts: Mapping[str, Sequence[int]] | None = None,
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            text_embeds: Embeddings of the titles, of unit length, shape `(B, D)`.
            image_embeds: Embeddings of the images of the same offers in the same order, shape `(B, D)`.
            logit_scale: Log of the inverse temperature, a single element.
            catalog_ids: Catalog of each offer, int64, shape `(B,)`; negative, or `None`, for offers that are alone.
            logit_bias: The model's, which has one where `loss` is `"sigmoid"`, a single element.
            has_text: Which offers have a title, as for [`contrastive_loss`].
            has_image: Which offers have an image, likewise.
            row_counts: Of every rank, its `"offers"`, those with a title, `"text"`, and those with an image,
                `"image"`; counted once for all terms if not given.

        Returns:
            The loss, a scalar.

        Raises:
            ValueError: the bias is missing, or is one too many.
        """
        config = self.config
        if (config.loss == "sigmoid") != (logit_bias is not None):
            raise ValueError(
                f"`loss` is {config.loss!r} and `logit_bias` is {logit_bias}; give the model's `logit_bias`, which is "
                "None unless `loss` is 'sigmoid'."
            )
        has = {"text": has_text, "image": has_image}
        if self.distributed and row_counts is None:
            num_offers = len(text_embeds)
            own = [num_offers, *(num_offers if rows is None else int(rows.sum()) for rows in has.values())]
            row_counts = dict(
                zip(("offers", *has), zip(*gather_numbers(own, text_embeds.device), strict=True), strict=True)
            )
        counts = row_counts if self.distributed and row_counts is not None else {}

        def loss_at_one_size(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            loss = contrastive_loss(
                text,
                image,
                logit_scale,
                catalog_ids,
                logit_bias=logit_bias,
                catalog_weight=config.catalog_weight,
                mates=config.catalog_mates,
                has_text=has_text,
                has_image=has_image,
                tile_size=self.tile_size,
                distributed=self.distributed,
                row_counts=counts.get("offers"),
            )
            if self.mate_contrast_weight and catalog_ids is not None:
                for (modality, rows), embeds in zip(has.items(), (text, image), strict=True):
                    ids = catalog_ids
                    if rows is not None:
                        ids, embeds = ids[rows.to(ids.device)], embeds[rows.to(embeds.device)]
                    among = mate_contrast_loss(
                        embeds,
                        logit_scale,
                        ids,
                        logit_bias=logit_bias,
                        tile_size=self.tile_size,
                        distributed=self.distributed,
                        row_counts=counts.get(modality),
                    )
                    loss = loss + self.mate_contrast_weight / 2 * among
            return loss

        embeds = (text_embeds, image_embeds)
        return matryoshka_loss(loss_at_one_size, embeds, config.matryoshka_dims, config.matryoshka_weights)


__all__ = ["ContrastiveObjective"]
