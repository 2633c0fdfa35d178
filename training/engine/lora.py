"""Low-rank adapters (LoRA, Hu et al. 2022) in the towers, by peft: trained in place of the towers' weights.

The model stays an `EClipModel` whose layers are wrapped. Saved merged, adapters are added to the weights that they
adapt, and `from_pretrained` needs neither peft nor a word about them. Resuming needs the two apart, and keeps them
beside the model (`AdapterState`). How adapters are saved alone is in `adapter_files.py`.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from modeling_eclip import EClipModel
from training.engine.optimization import is_in_block

_TOWERS = ("vision_model", "text_model")
ADAPTER = "default"  # as peft names the first one
OTHER_ADAPTERS = (
    "the checkpoint has other adapters ({}); resume with the same `lora_rank`, `lora_targets` and `freeze`."
)


def add_adapters(
    model: EClipModel,
    *,
    rank: int,
    alpha: int = 16,
    targets: Sequence[str] = (),
    freeze: Sequence[str] = (),
) -> list[str]:
    """Put adapters into the towers and freeze what else there is in them.

    Projections and temperature stay trained. A layer that is frozen already gets no adapter, and its tower may have
    none: a locked tower stays locked.

    Args:
        model: The model, frozen where it shall be; changed in place.
        rank: Rank of the adapters.
        alpha: An adapter's output is multiplied by `alpha / rank`.
        targets: Regular expressions, searched for in the names of the towers' linear and convolutional layers. If not
            given, all linear layers of the towers' blocks: attention and MLP.
        freeze: The patterns that the model was frozen by. Weights in 4 bits need them, which are never trained
            themselves, and do not tell.

    Returns:
        The names of the layers that have adapters.

    Raises:
        ValueError: the rank is no rank, a pattern fits no layer, or a tower is trained and has no linear layers.
    """
    if rank < 1:
        raise ValueError(f"`lora_rank` is {rank}; give at least 1, or leave it out to train the towers themselves.")
    layers = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(_TOWERS) and _may_be_adapted(name, module, freeze)
    }
    for pattern in targets:
        if not any(re.search(pattern, name) for name in layers):
            raise ValueError(
                f"`lora_targets` has {pattern!r}, which fits no trained layer; names look like {list(layers)[:3]}."
            )
    if targets:
        chosen = [name for name in layers if any(re.search(pattern, name) for pattern in targets)]
    else:
        chosen = [name for name, layer in layers.items() if not isinstance(layer, nn.Conv2d) and is_in_block(name)]
        for tower in _TOWERS:
            is_trained = any(parameter.requires_grad for parameter in getattr(model, tower).parameters())
            if is_trained and not any(name.startswith(tower) for name in chosen):
                kind = type(getattr(model, tower)).__name__
                raise ValueError(
                    f"`lora_rank` is {rank}, but {tower} ({kind}) has no linear layers in its "
                    f"blocks; freeze it (`--freeze '^{tower}\\.'`), or name its convolutions in `lora_targets`."
                )
    if not chosen:
        raise ValueError(f"`lora_rank` is {rank}, but both towers are frozen; freeze less, or leave it out.")
    others = [p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(_TOWERS)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen), model, ADAPTER)
    for parameter in others:  # peft has frozen all but the adapters
        parameter.requires_grad_(True)
    return chosen


def _may_be_adapted(name: str, module: nn.Module, freeze: Sequence[str]) -> bool:
    if hasattr(module, "quant_state"):  # bitsandbytes' layers of 4 bits; pooling heads are subclasses of linear ones
        return not any(re.search(pattern, f"{name}.weight") for pattern in freeze)
    return type(module) in (nn.Linear, nn.Conv2d) and bool(module.weight.requires_grad)


def merge_adapters(model: EClipModel) -> None:
    """Add the adapters to the weights that they adapt, and take them out: the model is a plain one again."""
    for name, layer in adapted_layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


@torch.no_grad()
def plain_state_dict(model: EClipModel) -> dict[str, torch.Tensor]:
    """Return the weights as they are with the adapters merged, and leave the model as it is.

    Args:
        model: The model, with adapters or without.

    Returns:
        What `save_pretrained(..., state_dict=...)` and `from_pretrained` take.
    """
    state = model.state_dict()
    for name, layer in adapted_layers(model).items():
        parts = {key: state.pop(f"{name}.{key}") for key in layer.state_dict()}
        for key in layer.get_base_layer().state_dict():
            state[f"{name}.{key}"] = parts[f"base_layer.{key}"]
        # Out of place: the layer's own weight stays apart from its adapter.
        state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return state


class AdapterState:
    """What a checkpoint keeps beside the merged weights: the adapted layers' own weights and their adapters.

    Args:
        model: The model, with adapters.
    """

    def __init__(self, model: EClipModel) -> None:
        """Find the adapted layers."""
        self._layers = adapted_layers(model)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by layer."""
        return {name: layer.state_dict() for name, layer in self._layers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the weights, bit for bit.

        Raises:
            ValueError: the checkpoint's adapters are others.
        """
        try:
            if state.keys() != self._layers.keys():
                raise RuntimeError(
                    f"adapters in {sorted(state.keys() ^ self._layers.keys())[:3]} in one of the two only"
                )
            for name, layer in self._layers.items():
                layer.load_state_dict(state[name])
        except RuntimeError as error:
            raise ValueError(OTHER_ADAPTERS.format(error)) from error


def check_adapters(rank: int | None, *, merge: bool, in_4bit: bool) -> None:
    """Refuse settings of adapters that do not fit together; before anything is read.

    Args:
        rank: Rank of the adapters, if there are any.
        merge: Whether they are saved merged.
        in_4bit: Whether the towers are held in 4 bits.

    Raises:
        ValueError: there is nothing to save alone, or no weights to merge into, or bitsandbytes is not installed.
    """
    if rank is None and not merge:
        raise ValueError("`merge` is false without `lora_rank`: there would be no adapters to save; give a rank.")
    if in_4bit and merge:
        raise ValueError(
            "`load_in_4bit` is true, and weights in 4 bits can't have adapters merged into them; give "
            "`--merge false`. Whoever loads what is saved merges them into the whole weights."
        )
    if in_4bit and not is_bitsandbytes_available():
        raise ValueError("`load_in_4bit` is true, and bitsandbytes is not installed: `pip install bitsandbytes`.")


def quantised(accelerator: Accelerator) -> dict[str, Any]:
    """Return how `from_pretrained` loads towers in 4 bits (QLoRA, Dettmers et al. 2023) on a process's device.

    Projections stay whole, since they are trained; so do pooling heads, which use their weights otherwise than by
    calling the layer.
    """
    formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=formats.get(accelerator.mixed_precision, torch.float32),
        llm_int8_skip_modules=["visual_projection", "text_projection", "head"],
    )
    return {"quantization_config": config, "device_map": {"": accelerator.device}}


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers that have adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


__all__ = [
    "ADAPTER",
    "OTHER_ADAPTERS",
    "AdapterState",
    "adapted_layers",
    "add_adapters",
    "check_adapters",
    "merge_adapters",
    "plain_state_dict",
    "quantised",
]
