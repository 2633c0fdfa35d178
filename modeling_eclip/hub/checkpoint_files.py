"""Which files of a folder are a checkpoint: what is published of it, and whether that is whole.

Contract: weights are those that `from_pretrained` would load, found by its names, and their headers agree with the
index, and hold finite numbers; every file of code that a configuration names is there. The error for one that is not
whole names the file.
"""

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which adapters are told from a model."""

_PUBLISHED = (  # beside the weights
    "*_eclip.py",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "*.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.*",
)
_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
# What training leaves beside a model, to go on from: pickles that no one loads a model from.
_TRAINING_STATE = (
    "custom_checkpoint_*.pkl",
    "optimizer*",
    "random_state_*.pt",
    "random_states_*.pkl",
    "rng_state*.pth",
    "scaler.pt",
    "scheduler*",
    "training_args.bin",
    "training_state.pt",
)


def list_published(folder: Path) -> list[Path]:
    """List the files of a checkpoint that are published.

    Args:
        folder: The folder: a whole model, adapters, or a processor alone.

    Returns:
        The files. Others of the folder (states of training, logs, reports, weights by other names) are not published.

    Raises:
        ValueError: it is no checkpoint, holds weights in a pickle or that are not finite, or lacks some of its weights
            or code.
    """
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder; give one that `save_pretrained` has written.")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    names = [path.name for path in files]
    pickles = [
        name for name in names if name.endswith(_PICKLES) and not any(fnmatch(name, of) for of in _TRAINING_STATE)
    ]
    if pickles:
        raise ValueError(
            f"{str(folder)!r} holds {pickles[0]!r}: a pickle runs what is in it when it is loaded, and is not "
            "published. Load it where you trust it and save it with `save_pretrained`, which writes safetensors; or "
            "take the file away if it is something else."
        )
    names_of_weights = _weights(folder, names)
    published = [
        path
        for path in files
        if path.name in names_of_weights or any(fnmatch(path.name, pattern) for pattern in _PUBLISHED)
    ]
    found = {path.name for path in published}
    is_model = "config.json" in found and read_json(folder / "config.json").get("model_type") == "eclip"
    is_processor = "processor_config.json" in found and not found & {"config.json", ADAPTER_CONFIG, *names_of_weights}
    if not (is_model and names_of_weights) and not is_processor:
        raise ValueError(
            f"{str(folder)!r} holds no e-CLIP checkpoint (it has {names[:5]}); give a folder with config.json of "
            "model type eclip and weights in safetensors, as `save_pretrained` writes them."
        )
    _check_code(folder, found)
    return published


def is_finite(value: torch.Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity, as one of whole numbers never does."""
    if not value.is_floating_point() or value.numel() == 0:
        return True
    if value.itemsize == 1:  # extremes of such numbers are not computed
        value = value.float()
    # Not by `isfinite`, which takes a byte a value: the sum of finite numbers could be infinite, their extremes not.
    return all(torch.isfinite(one).item() for one in value.aminmax())


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ValueError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON ({error}); write it again with what has written it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds {type(content).__name__} and no JSON object; write it again.")
    return content


def _weights(folder: Path, names: Sequence[str]) -> set[str]:
    """Find the weights, and the index of their parts, that `from_pretrained` would load; look into their headers."""
    whole = "adapter_model.safetensors" if ADAPTER_CONFIG in names else "model.safetensors"
    index = f"{whole}.index.json"
    if whole not in names and index not in names:
        return set()
    if whole in names and index in names:
        raise ValueError(
            f"{str(folder)!r} holds {whole!r} and {index!r}, weights in one file and in several; take away those that "
            "are out of date."
        )
    if whole in names:
        _tensors(folder / whole)
        return {whole}
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or {type(part) for part in weight_map.values()} != {str}:
        raise ValueError(f"{str(folder / index)!r} has no `weight_map`; save the model again with `save_pretrained`.")
    parts = set(weight_map.values())
    for part in sorted(parts):
        if part not in names:
            raise ValueError(
                f"{str(folder)!r} lacks {part!r}, which {index!r} names; save the model again with `save_pretrained`."
            )
        expected = {tensor for tensor, of in weight_map.items() if of == part}
        if differing := sorted(expected ^ _tensors(folder / part)):
            raise ValueError(
                f"{str(folder / part)!r} and {index!r} do not agree on {differing[0]!r}; save the model again with "
                "`save_pretrained`."
            )
    return parts | {index}


def _tensors(path: Path) -> set[str]:
    """Read the names in the header of a safetensors file, whose size must be what the header says, and look at all."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            bad = [name for name in sorted(names) if not is_finite(file.get_tensor(name))]
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is no whole safetensors file ({error}); save the model again with `save_pretrained`."
        ) from error
    if not names:
        raise ValueError(f"{str(path)!r} holds no weights; save the model again with `save_pretrained`.")
    if bad:
        raise ValueError(
            f"{str(path)!r} holds {len(bad)} tensors with NaN or infinity ({', '.join(bad[:3])}), and a model of them "
            "gives nothing else; publish an earlier checkpoint, or train again with a lower learning rate."
        )
    return names


def _check_code(folder: Path, found: set[str]) -> None:
    """Refuse a checkpoint some of whose code is not there: it would load only where the package is installed."""
    wanted: set[str] = set()
    for name in ("config.json", "processor_config.json"):
        if name in found:
            references = read_json(folder / name).get("auto_map") or {}
            wanted |= {reference.split("--")[-1].split(".")[0] for reference in references.values()}
    if not wanted:
        raise ValueError(
            f"{str(folder)!r} has no `auto_map`, so nobody without this package could load it; save it again with "
            "`save_pretrained` of this package's classes."
        )
    seen: set[str] = set()
    while wanted - seen:
        module = min(wanted - seen)
        path = folder / f"{module}.py"
        if not path.is_file():
            raise ValueError(
                f"{str(folder)!r} lacks {path.name}, which its code needs; save it again with `save_pretrained`."
            )
        seen.add(module)
        wanted |= set(re.findall(r"^\s*from \.(\w+) import", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


__all__ = ["ADAPTER_CONFIG", "is_finite", "list_published", "read_json"]
