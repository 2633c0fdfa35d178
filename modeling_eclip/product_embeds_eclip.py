"""ProductEmbeds: what every head gets to see of a batch of products, side by side."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .normalization_eclip import normalize


@dataclass
class ProductEmbeds(ModelOutput):
    """Products as their titles and images show them; the fields of a side that the head does not look at are `None`.

    The vectors of a side that a product has are of length `sqrt(width)`, so that their components vary by about one
    and the cosine of two of them is their dot product divided by the width. A side that it has not is its learned
    stand-in instead, of any length.

    Args:
        text: Vectors of the titles, shape `(B, text width)`.
        image: Vectors of the images, shape `(B, image width)`.
        has_text: Which of `text` are of a title, bool, shape `(B,)`; the others are the stand-in.
        has_image: The same of `image`.
    """

    text: torch.Tensor | None = None
    image: torch.Tensor | None = None
    has_text: torch.Tensor | None = None
    has_image: torch.Tensor | None = None

    @property
    def sides(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The sides that there are: `{"text" or "image": (vectors (B, width), whether it is there (B,))}`."""
        sides = {"text": (self.text, self.has_text), "image": (self.image, self.has_image)}
        return {name: (embeds, has) for name, (embeds, has) in sides.items() if embeds is not None and has is not None}

    def joined(self) -> torch.Tensor:
        """Join the sides in one vector per product, of unit length.

        The cosine of two joined vectors is the mean of the cosines of their sides.

        Returns:
            The vectors, shape `(B, sum of the sides' widths)`.
        """
        parts = [embeds / embeds.shape[-1] ** 0.5 for embeds, _ in self.sides.values()]
        return normalize(torch.cat([part.to(parts[0].device) for part in parts], dim=-1))


__all__ = ["ProductEmbeds"]
