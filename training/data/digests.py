"""Digests of weights, configurations and processors: equal where these are equal, wherever they were loaded from."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, ProcessorMixin

__all__ = ["add_processor", "add_settings", "add_weights", "config_digest", "processor_digest", "weights_digest"]

_LENGTH = 20
# Settings that say where something was loaded from or how it was last called, not what it does.
_IGNORED_SETTINGS = {"_name_or_path", "architectures", "dtype", "is_local", "local_files_only", "name_or_path"} | {
    "max_length", "pad_to_multiple_of", "pad_token_type_id", "padding", "padding_side", "stride",
    "transformers_version", "truncation", "truncation_side", "truncation_strategy",
}  # fmt: skip


def add_weights(digest: Any, module: torch.nn.Module) -> None:
    """Adds names, types, shapes and values of a module's weights to a digest of `hashlib`."""
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def add_settings(digest: Any, name: str, settings: dict[str, Any]) -> None:
    """Adds the settings of a configuration to a digest, under a name."""
    written = json.dumps(_relevant(settings), sort_keys=True, default=str)
    digest.update(f"{name} {written}\0".encode())


def add_processor(digest: Any, processor: ProcessorMixin) -> None:
    """Adds the settings of a processor, of its image processor and its tokenizer, and the vocabulary to a digest."""
    # left out by `_IGNORED_SETTINGS`, since a saved tokenizer may have those of its last call
    own = {name: getattr(processor.tokenizer, name) for name in ("padding_side", "truncation_side")}
    digest.update(f"{own}\0".encode())
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.suffix == ".json":
                add_settings(digest, file.name, json.loads(file.read_text(encoding="utf-8")))
            elif file.is_file() and file.suffix != ".py":
                digest.update(f"{file.name}\0".encode() + file.read_bytes())


def weights_digest(model: torch.nn.Module) -> str:
    """Returns a digest of a model's weights."""
    digest = hashlib.sha256()
    add_weights(digest, model)
    return digest.hexdigest()[:_LENGTH]


def config_digest(config: PreTrainedConfig) -> str:
    """Returns a digest of a configuration, the same wherever it was loaded from."""
    digest = hashlib.sha256()
    add_settings(digest, "config", config.to_dict())
    return digest.hexdigest()[:_LENGTH]


def processor_digest(processor: ProcessorMixin) -> str:
    """Returns a digest of a processor, the same wherever it was loaded from."""
    digest = hashlib.sha256()
    add_processor(digest, processor)
    return digest.hexdigest()[:_LENGTH]


def _relevant(settings: dict[str, Any]) -> dict[str, Any]:
    left = {name: value for name, value in settings.items() if name not in _IGNORED_SETTINGS}
    towers = {name: value for name, value in left.items() if name.endswith("_config") and isinstance(value, dict)}
    return left | {name: _relevant(value) for name, value in towers.items()}
