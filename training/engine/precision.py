"""Which numbers a run computes in: a decision by what was asked for and the kind of device, not by the CPU at hand.

A CPU computes in float32 unless it is asked for something else: every CPU, whatever its instructions, then gives the
same results up to the rounding of float32. Accelerators compute in bfloat16 where their hardware does.
"""

import os
from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env

__all__ = ["MixedPrecision", "precision_of_device", "training_precision"]

MixedPrecision = Literal["no", "bf16", "fp16"]


def training_precision(asked: str) -> str:
    """Decide the mixed precision of a training.

    Args:
        asked: `"no"` (float32), `"bf16"` or `"fp16"`, or `"auto"`: what `accelerate launch --mixed_precision` asked
            for, and without a request `precision_of_device`.

    Returns:
        `"no"`, `"bf16"` or `"fp16"`.
    """
    if asked != "auto":
        return asked
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # "no" also where nothing was asked for
    return launched if launched != "no" else precision_of_device(_device_of_process())


def precision_of_device(device: torch.device) -> MixedPrecision:
    """Tell which mixed precision a device computes in where nothing else is asked for.

    Args:
        device: The device; only its type counts.

    Returns:
        `"bf16"` on accelerators that compute in it, `"fp16"` on GPUs that only emulate it, `"no"` on CPUs and others.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "xpu" else "no"


def _device_of_process() -> torch.device:
    """Return the kind of device that `Accelerator` will choose, before there is one."""
    if parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")
