"""Batches to what a model takes: which of their entries, on which device, and pixels as numbers.

Batches hold 8-bit pixels, a quarter of the bytes that a tower takes; they are normalised where they are needed.
"""

from collections.abc import Mapping
from typing import Any

import torch

from modeling_eclip.accumulation.transfer import move_inputs

__all__ = ["finish_pixels", "model_inputs", "raw_inputs"]

# What a batch holds beside the model's inputs.
_NOT_INPUTS = ("catalog_ids", "row_ids", "positions", "titles", "skipped", "passed_over", "num_rows")


def raw_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's inputs of a batch as they lie, with the `normalization` of their pixels if one is due.

    Args:
        batch: A batch, as `training.data.collator` describes it.
    """
    return {name: value for name, value in batch.items() if name not in _NOT_INPUTS and value is not None}


def finish_pixels(inputs: Mapping[str, Any], *, channels_last: bool = False) -> dict[str, Any]:
    """Normalise pixels where that is due, on the device where they lie.

    Args:
        inputs: What `raw_inputs` returns, or some rows of it.
        channels_last: Whether images `(N, C, H, W)` are to lie in memory channel by channel of each pixel.

    Returns:
        The model's inputs.
    """
    finished = dict(inputs)
    normalization = finished.pop("normalization", None)
    pixels = finished.get("pixel_values")
    if pixels is not None:
        if channels_last and pixels.ndim == 4:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        finished["pixel_values"] = pixels if normalization is None else normalization(pixels)
    return finished


def model_inputs(batch: Mapping[str, Any], device: torch.device, *, channels_last: bool = False) -> dict[str, Any]:
    """Return the model's inputs of a whole batch, on its device.

    Args:
        batch: A batch, as `training.data.collator` describes it.
        device: The device.
        channels_last: As for `finish_pixels`.
    """
    return finish_pixels(move_inputs(raw_inputs(batch), device), channels_last=channels_last)
