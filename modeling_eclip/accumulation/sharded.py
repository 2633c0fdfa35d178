"""Streams of a model whose weights are sharded over the ranks (FSDP2, `fully_shard`).

Whoever encodes gathers weights, block by block, from all ranks. Ranks therefore encode the same streams in the same
order, twice or once alike: those with fewer add streams of one row that does not count.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from .plan import INPUTS, Stream

if dist.is_available():
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

SCALARS = ("logit_scale", "logit_bias")
"""Parameters that the loss reads, which cannot be sharded; a model whose loss is a softmax has the first alone."""


def is_sharded(model: nn.Module) -> bool:
    """Tell whether a model's weights are sharded, in a way that streams can follow.

    Args:
        model: An [`EClipModel`], or one that is wrapped.

    Raises:
        NotImplementedError: they are sharded by FSDP1.
        ValueError: they are sharded only in part.
    """
    if not dist.is_available():
        return False
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise NotImplementedError(
            "the model is wrapped by `FullyShardedDataParallel` (FSDP1), which reduces gradients in every backward "
            "pass; shard it with `torch.distributed.fsdp.fully_shard` (FSDP2), or use DistributedDataParallel."
        )
    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        return False
    whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    scalars = [name for name, _ in model.named_parameters() if name in SCALARS]
    if whole != scalars:
        ignored = ", ".join(f"model.{name}" for name in scalars)
        raise ValueError(
            f"the model is sharded, but {whole[:3]} are not: their gradients would stay each rank's own. Shard its "
            f"blocks and then the model itself: `fully_shard(model, ignored_params={{{ignored}}})`; scalars cannot be "
            "sharded, and are averaged here."
        )
    return True


def count_streams(streams: Sequence[Stream]) -> tuple[int, ...]:
    """Return how many streams of titles alone there are, and how many of images alone."""
    others = streams[:-1]
    return tuple(sum(stream.units(modality) > 0 for stream in others) for modality in ("text", "image"))


def pad_streams(streams: Sequence[Stream], num_streams: Sequence[int]) -> list[Stream]:
    """Add streams of one row that does not count, so that all ranks encode as many of each modality.

    Args:
        streams: This rank's, as [`plan_streams`] returns them: titles, images, and the last of both.
        num_streams: The most that any rank has of titles alone, and of images alone, as [`count_streams`] counts.

    Returns:
        Streams in the same order, with the added ones at the end of their modality's.
    """
    *others, last = streams
    nothing = last.text_rows[:0]
    padded = []
    for modality, other, number in zip(("text", "image"), ("image", "text"), num_streams, strict=True):
        own = [stream for stream in others if stream.units(modality)]
        inputs = {
            name: value.new_ones((1, *value.shape[1:])) if isinstance(value, torch.Tensor) else value
            for name, value in last.inputs.items()
            if name not in INPUTS[other] and (modality == "image" or name in INPUTS[modality])
        }
        placeholder = replace(last, inputs=inputs, text_rows=nothing, image_rows=nothing)
        padded += own + [placeholder] * (number - len(own))
    return [*padded, last]


@contextlib.contextmanager
def without_reduction(model: nn.Module) -> Iterator[None]:
    """Have backward passes inside add to gradients on this rank alone; the next one outside reduces them."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(False)
    model.set_is_last_backward(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)
        model.set_is_last_backward(True)


def average_over_ranks(gradient: torch.Tensor) -> torch.Tensor:
    """Return the average of a gradient over the ranks, as a reduction of sharded ones takes it."""
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient / dist.get_world_size()


__all__ = ["SCALARS", "average_over_ranks", "count_streams", "is_sharded", "pad_streams", "without_reduction"]
