"""Adapters in files, alone: a folder as peft has it, which names the checkpoint that they belong to.

Beside the adapters lie the weights that were trained in full, the configuration, the code and the processor. peft puts
all of it onto that checkpoint; merged, it is the model that was trained.
"""

import copy
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.utils import find_adapter_config_file

from modeling_eclip import EClipConfig, EClipModel
from modeling_eclip.hub.publishing import save_code
from training.arguments.model import ModelArguments
from training.engine.lora import ADAPTER, OTHER_ADAPTERS, adapted_layers, plain_state_dict

__all__ = [
    "base_of",
    "load_adapters",
    "load_eclip",
    "load_merged",
    "needs_base",
    "refuse_adapters",
    "save_model",
    "with_settings_of",
]

_TOWERS = ("vision_model", "text_model")
_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_COUNTED = ("running_mean", "running_var", "num_batches_tracked")  # by batch norm, which may be left to go on


def save_model(model: Any, folder: Path, adapters_of: str | None = None) -> None:
    """Save a model or a head, with its adapters merged or with them alone.

    What an earlier run has left of the other way is removed: loading would take it for the model.

    Args:
        model: The model, with adapters or without; left as it is.
        folder: Where to.
        adapters_of: Checkpoint that the adapters were trained on, to save them alone; `None` to save the whole model.
    """
    if adapters_of is None:
        model.save_pretrained(folder, state_dict=plain_state_dict(model))
        stale = [folder / name for name in (_WEIGHTS, _SETTINGS)]
    else:
        _save_adapters(model, folder, adapters_of)
        stale = [*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"]
    for path in stale:
        path.unlink(missing_ok=True)


def _save_adapters(model: Any, folder: Path, base: str) -> None:
    """Save adapters and what else is trained, as peft does: `PeftModel.from_pretrained` reads them."""
    towers = model.base_model
    own = [name for name, part in model.named_children() if part is not towers and name not in _TOWERS]
    if model is towers:  # of a head, all is kept: what is fitted to it is no matter of gradients alone
        own = [name for name in own if any(p.requires_grad for p in model.get_submodule(name).parameters())]
    (trained,) = towers.peft_config.values()
    LoraConfig(
        r=trained.r,
        lora_alpha=trained.lora_alpha,
        target_modules=list(adapted_layers(model)),
        modules_to_save=own or None,
        # A folder by its whole path: whoever loads the adapters does so from elsewhere.
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
        inference_mode=True,
    ).save_pretrained(str(folder))
    # peft's names: https://huggingface.co/docs/peft/developer_guides/checkpoint. It looks for the modules to save by
    # the end of their names, and wants the weights of all that it finds.
    found = tuple(f"{name}." for name, _ in model.named_modules() if own and name.endswith(tuple(own)))
    # A bare parameter, the temperature, can't be among those modules. peft loads any weight by its plain name, too.
    bare = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = {
        f"base_model.model.{name.replace(f'.{ADAPTER}', '')}": value.contiguous()
        for name, value in model.state_dict().items()
        if ".lora_" in name or name.startswith(found) or name in bare or name.endswith(_COUNTED)
    }
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / _SETTINGS, folder / _WEIGHTS)  # not for its owner alone
    of_weights, model.config = model.config, copy.deepcopy(model.config)
    if hasattr(model.config, "quantization_config"):  # adapters that were trained on 4 bits belong to all of them
        del model.config.quantization_config
    save_code(model, folder)
    model.config = of_weights


def base_of(folder: Path, *, merge: bool) -> str | None:
    """Return the checkpoint that the adapters of a stopped run belong to.

    Args:
        folder: Where the run is resumed from.
        merge: Whether it saves adapters merged.

    Returns:
        Folder or Hub id; `None` where adapters are merged.

    Raises:
        ValueError: the run was started to save them in the other way.
    """
    if merge is (folder / _SETTINGS).is_file():
        held = "adapters" if merge else "a whole model"
        raise ValueError(
            f"`merge` is {str(merge).lower()}, and {str(folder)!r} holds {held}; "
            f"resume with `--merge {str(not merge).lower()}`."
        )
    return None if merge else str(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)


def needs_base(arguments: ModelArguments) -> bool:
    """Tell whether adapters would belong to nothing that is there: to new weights, or to a model of another loss."""
    if not arguments.checkpoint:
        return True
    return arguments.loss not in (None, EClipConfig.from_pretrained(arguments.checkpoint).loss)


def with_settings_of(folder: Path, arguments: ModelArguments) -> ModelArguments:
    """Give arguments the settings of a stopped run, which its base does not know, where they name none.

    Args:
        folder: Where the run is resumed from.
        arguments: The model arguments, of the base.

    Returns:
        The arguments, with the loss, the mode of mates and the sizes of embeddings.
    """
    config = EClipConfig.from_pretrained(folder)
    names = ("loss", "catalog_mates", "catalog_weight", "matryoshka_dims", "matryoshka_weights")
    left = {name: getattr(config, name) for name in names if getattr(arguments, name) in (None, [])}
    return replace(arguments, **{name: value for name, value in left.items() if value is not None})


def load_adapters(model: EClipModel, folder: Path) -> None:
    """Go on with adapters that were saved alone, and with what was trained beside them, bit for bit.

    Args:
        model: The checkpoint that they belong to, with new adapters; changed in place.
        folder: What [`save_model`] has written.

    Raises:
        ValueError: they are others.
    """
    state = load_file(folder / _WEIGHTS)
    lora = re.compile(r"(\.lora_[A-Z])\.")
    state = {lora.sub(rf"\1.{ADAPTER}.", name.removeprefix("base_model.model.")): state[name] for name in state}
    expected = {name for name in model.state_dict() if ".lora_" in name}
    try:
        if differing := sorted(expected ^ {name for name in state if ".lora_" in name}):
            raise RuntimeError(f"adapters in {differing[:3]} in one of the two only")
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(OTHER_ADAPTERS.format(error)) from error


def load_merged(folder: str) -> Any:
    """Load adapters that were saved alone, merged into the checkpoint that they name.

    Args:
        folder: Folder or Hub id of the adapters of a model or a head.

    Returns:
        The model or head, in float32, in evaluation mode.

    Raises:
        ValueError: that checkpoint does not load.
    """
    config = EClipConfig.from_pretrained(folder)
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    try:
        model = AutoModel.from_pretrained(base, config=config, dtype=torch.float32)
    except OSError as error:
        raise ValueError(
            f"{folder!r} holds adapters of {base!r}, which does not load ({error}); name that checkpoint as "
            "`base_model_name_or_path` in adapter_config.json."
        ) from error
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval()


def load_eclip(checkpoint: str, dtype: torch.dtype = torch.float32) -> EClipModel:
    """Load an e-CLIP model from a whole checkpoint, or from adapters, which are merged into what they belong to.

    Args:
        checkpoint: Folder or Hub id, of a model or a head.
        dtype: Number format of its weights; adapters are merged in float32.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: it holds adapters of a checkpoint that does not load.
    """
    if find_adapter_config_file(checkpoint) is None:
        return EClipModel.from_pretrained(checkpoint, dtype=dtype)
    model: EClipModel = load_merged(checkpoint).base_model.to(dtype)
    return model


def refuse_adapters(checkpoint: str) -> None:
    """Refuse to train on adapters: what would be saved of that belongs to no checkpoint.

    Args:
        checkpoint: Folder or Hub id that a training is to start from.

    Raises:
        ValueError: it holds adapters.
    """
    if find_adapter_config_file(checkpoint) is not None:
        raise ValueError(
            f"`checkpoint` is {checkpoint!r}, which holds adapters; train them with `--merge true`, or "
            "merge them (`PeftModel.from_pretrained(...).merge_and_unload()`), and give what that saves."
        )
