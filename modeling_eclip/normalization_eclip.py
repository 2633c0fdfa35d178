"""Unit length, as every comparison of embeddings here wants it."""

import torch
from torch import nn


def normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Give vectors unit length; a zero vector stays zero. Shape `(..., D)` to the same."""
    # The default epsilon is zero in float16, where a zero vector would become not-a-number.
    return nn.functional.normalize(embeds, dim=-1, eps=1e-6)


__all__ = ["normalize"]
