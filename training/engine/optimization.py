"""What is trained, and how fast: freezing, parameter groups, layer-wise rates, batch norm."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from modeling_eclip import EClipModel

logger = logging.getLogger(__name__)

# Tokens that replace masked patches in a tower's own pre-training; here they never get a gradient.
_NEVER_USED = r"\.mask_token$"
# The numbered lists of transformers' towers: of blocks, or of stages that are lists of blocks in their turn.
_NUMBERED = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages?|h)\.\d+(?=\.)")


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


def freeze_tower(model: nn.Module, modality: str) -> None:
    """Exclude a modality's tower and projection from training: weight decay alone would wear them down.

    Args:
        model: The model, with or without adapters.
        modality: `"text"` or `"image"`.
    """
    names = {"text": ("text_model.", "text_projection."), "image": ("vision_model.", "visual_projection.")}[modality]
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.requires_grad_(False)


def build_optimizer(
    model: PreTrainedModel,
    *,
    learning_rate: float,
    tower_learning_rate: float | None = None,
    text_learning_rate: float | None = None,
    weight_decay: float = 0.1,
    no_weight_decay: Sequence[str] = (),
    layer_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.98),
    epsilon: float = 1e-6,
) -> torch.optim.Optimizer:
    """Return AdamW over the trained parameters.

    Args:
        model: The model, or a head on it.
        learning_rate: Peak rate of projections, temperature and head.
        tower_learning_rate: Peak rate of the towers; the same if not given.
        text_learning_rate: Peak rate of the title tower; that of both if not given.
        weight_decay: Decay of matrices; vectors (biases, norms) and the temperature have none.
        no_weight_decay: Regular expressions of further parameters without decay.
        layer_decay: Factor by which the rate shrinks per block below the top of a tower. The last block, and what
            follows it (norm, pooler), have the tower's rate; the embeddings, below `N` blocks, that times
            `layer_decay ** N`.
        betas: AdamW's betas.
        epsilon: AdamW's epsilon.

    Returns:
        The optimizer; each group keeps its peak rate as `initial_lr`.

    Raises:
        ValueError: `layer_decay` is no such factor, or a tower has no numbered blocks to count it by.
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"`layer_decay` is {layer_decay}; give a factor above 0 and at most 1, such as 0.75.")
    tower_rate = learning_rate if tower_learning_rate is None else tower_learning_rate
    text_rate = tower_rate if text_learning_rate is None else text_learning_rate
    rates: dict[str, float] = {}
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    for tower, rate in (("vision_model", tower_rate), ("text_model", text_rate)):
        module = getattr(model.base_model, tower)
        depths = blocks_below_top(module) if layer_decay != 1.0 else {name: 0 for name, _ in module.named_parameters()}
        for name, depth in depths.items():
            rates[f"{prefix}{tower}.{name}"] = rate * layer_decay**depth
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(re.search(pattern, name) for pattern in no_weight_decay)
            rate = rates.get(name, learning_rate)
            groups.setdefault((rate, decays), []).append(parameter)
    parameter_groups: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]
    return torch.optim.AdamW(parameter_groups, betas=betas, eps=epsilon, fused=True)


def blocks_below_top(tower: nn.Module) -> dict[str, int]:
    """Tell how far below the top of its tower each parameter lies.

    Args:
        tower: A tower of transformers.

    Returns:
        By parameter name, the number of blocks above the parameter's own: 0 in the last block and in what follows
        it, as many as there are blocks in the embeddings.

    Raises:
        ValueError: no parameter's name has the number of a block.
    """
    heights: dict[str, int] = {}
    blocks_of: dict[str, set[str]] = {}  # by stage; a tower without stages has blocks in their place
    height = 0
    # Towers register their parts in the order in which an input passes them: embeddings, blocks, norm, pooler.
    for name, _ in tower.named_parameters():
        if stage := _NUMBERED.search(name):
            block = _NUMBERED.match(name, stage.end())
            blocks = {block.group()} if block else set()
            stage_name = name[: stage.end()]
            if stage_name not in blocks_of:
                height += 1
            elif not blocks <= blocks_of[stage_name]:
                # What a stage has before its first block goes with that block.
                height += bool(blocks_of[stage_name])
            blocks_of.setdefault(stage_name, set()).update(blocks)
        heights[name] = height
    if height == 0:
        raise ValueError(
            f"`layer_decay` counts blocks, but {type(tower).__name__} has none with a number in their names; leave it "
            "at 1."
        )
    return {name: height - own for name, own in heights.items()}


def is_in_block(name: str) -> bool:
    """Tell whether a parameter or module of this name lies in one of a tower's numbered blocks or stages."""
    return _NUMBERED.search(name) is not None


__all__ = ["blocks_below_top", "build_optimizer", "freeze_parameters", "freeze_tower", "is_in_block"]
