"""What training minimizes: the contrastive loss as a model's configuration has it, at each of its sizes."""

from collections.abc import Callable

import torch

from ..configuration_eclip import EClipConfig
from .contrastive import contrastive_loss
from .matryoshka import matryoshka_loss


def configured_loss(
    config: EClipConfig,
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor | None = None,
    *,
    tile_size: int | None = None,
    distributed: bool = False,
    addition: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Compute [`contrastive_loss`] by a configuration, at each of its `matryoshka_dims` if there are any.

    Args:
        config: Its `catalog_weight`, `catalog_mates`, `matryoshka_dims` and `matryoshka_weights` are read.
        text_embeds: As for [`contrastive_loss`], and so are the next.
        image_embeds: Likewise.
        logit_scale: Likewise.
        catalog_ids: Likewise.
        tile_size: Likewise.
        distributed: Likewise.
        addition: Takes titles' and images' embeddings, of one size, and returns what the loss has added.

    Returns:
        The loss, a scalar.
    """

    def loss_of(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        loss = contrastive_loss(
            text,
            image,
            logit_scale,
            catalog_ids,
            catalog_weight=config.catalog_weight,
            mates=config.catalog_mates,
            tile_size=tile_size,
            distributed=distributed,
        )
        return loss if addition is None else loss + addition(text, image)

    return matryoshka_loss(loss_of, (text_embeds, image_embeds), config.matryoshka_dims, config.matryoshka_weights)


__all__ = ["configured_loss"]
