"""A loss at several embedding sizes at once, so that embeddings can be cut to their first values (Matryoshka).

Kusupati et al. 2022 train such embeddings: cut, they are shorter and nearly as good, so that one stored set of vectors
serves indexes of several sizes. Here it is any loss of unit vectors. `EClipModel` takes the mean of its dense loss by
itself, since its file travels without this one.
"""

from collections.abc import Callable, Sequence

import torch

from ..modeling_eclip import truncate_embeds


def matryoshka_loss(
    loss_function: Callable[..., torch.Tensor],
    embeds: Sequence[torch.Tensor],
    dims: Sequence[int] | None,
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """Compute a loss of embeddings at several sizes, and return the weighted mean.

    Kusupati et al. take the sum; with the mean, the scale of the loss does not depend on the number of sizes, and the
    learning rate stays. With `dims=None` it is `loss_function(*embeds)`.

    Args:
        loss_function: Takes as many tensors as `embeds` has, all cut to one size, and returns a scalar.
        embeds: Vectors of unit length, each of shape `(B, D)`.
        dims: Sizes, each from 1 to `D`; `D` itself is among them only if it is named.
        weights: Weight of each size's loss, none below zero; all the same if not given.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: a size that the vectors have not, or weights that are not one per size.
    """
    if dims is None:
        return loss_function(*embeds)
    weights = [1.0] * len(dims) if weights is None else weights
    if len(weights) != len(dims) or not sum(weights) > 0 or min(weights) < 0:
        raise ValueError(
            f"`weights` is {list(weights)} for `dims` {list(dims)}; give a weight per size, not all zero."
        )
    losses = [
        weight * loss_function(*(truncate_embeds(vectors, dim) for vectors in embeds))
        for dim, weight in zip(dims, weights, strict=True)
        if weight
    ]
    return torch.stack(losses).sum() / sum(weights)


__all__ = ["matryoshka_loss"]
