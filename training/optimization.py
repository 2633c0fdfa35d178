"""What is trained, and how fast: freezing, parameter groups, batch norm."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from modeling_eclip import EClipModel

logger = logging.getLogger(__name__)

# Tokens that stand in for masked patches in a tower's own pre-training; here they never get a gradient.
_NEVER_USED = r"\.mask_token$"


def freeze_parameters(model: EClipModel, patterns: Sequence[str]) -> int:
    """Exclude parameters from training.

    Args:
        model: The model.
        patterns: Regular expressions, searched for in the parameters' names.

    Returns:
        How many numbers are frozen.

    Raises:
        ValueError: a pattern fits no parameter, or nothing is left to train.
    """
    for pattern in patterns:
        if not any(re.search(pattern, name) for name, _ in model.named_parameters()):
            examples = [name for name, _ in model.named_parameters()][:3]
            raise ValueError(f"`freeze` has {pattern!r}, which fits no parameter; names look like {examples}.")
    frozen = 0
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in (*patterns, _NEVER_USED)):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"`freeze` is {list(patterns)}, which leaves nothing to train; freeze less.")
    return frozen


def build_optimizer(
    model: EClipModel,
    *,
    learning_rate: float,
    tower_learning_rate: float | None = None,
    weight_decay: float = 0.1,
    no_weight_decay: Sequence[str] = (),
    betas: tuple[float, float] = (0.9, 0.98),
    epsilon: float = 1e-6,
) -> torch.optim.Optimizer:
    """Return AdamW over the trained parameters.

    Args:
        model: The model.
        learning_rate: Peak rate of projections and temperature.
        tower_learning_rate: Peak rate of the towers; the same if not given.
        weight_decay: Decay of matrices; vectors (biases, norms) and the temperature have none.
        no_weight_decay: Regular expressions of further parameters without decay.
        betas: AdamW's betas.
        epsilon: AdamW's epsilon.

    Returns:
        The optimizer; each group keeps its peak rate as `initial_lr`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_tower = name.startswith(("vision_model.", "text_model."))
            decays = parameter.ndim > 1 and not any(re.search(pattern, name) for pattern in no_weight_decay)
            groups.setdefault((is_tower, decays), []).append(parameter)
    tower_rate = learning_rate if tower_learning_rate is None else tower_learning_rate
    parameter_groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": tower_rate if is_tower else learning_rate,
            "initial_lr": tower_rate if is_tower else learning_rate,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (is_tower, decays), parameters in groups.items()
    ]
    return torch.optim.AdamW(parameter_groups, betas=betas, eps=epsilon, fused=True)


def set_training_mode(model: nn.Module, *, fix_batch_norm: bool) -> None:
    """Put a model into training mode.

    Args:
        model: The model.
        fix_batch_norm: Leave batch norm's statistics as they are. What a batch-normalised tower makes of an image
            otherwise depends on the images beside it, and so on how a batch is cut.
    """
    model.train()
    if fix_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


__all__ = ["build_optimizer", "freeze_parameters", "set_training_mode"]
