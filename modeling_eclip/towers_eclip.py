"""One view of every transformers tower: how to build it, how wide its vectors are, how its output becomes one of them.

Nothing here knows a model by name, except where transformers itself makes an exception of it.
"""

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Self

import torch
import transformers
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_eclip import EClipConfig

# Where towers write the width of their vectors, most telling first: convolutional towers have one width per stage.
_WIDTH_FIELDS = ("hidden_size", "hidden_dim", "hidden_sizes", "num_features", "d_model", "embed_dim")


def build_tower(config: PreTrainedConfig, pooling: str) -> PreTrainedModel:
    """Build a tower with new weights, whose output will be pooled in that way.

    One whose own pooler is not asked for is built without it: weights without a gradient stop distributed training.

    Raises:
        ValueError: transformers has no model that encodes for this configuration.
    """
    tower_class = tower_class_of(config)
    if config._attn_implementation == "sdpa" and not tower_class._supports_sdpa:
        # A convolutional tower has no attention to switch, and must not stop the other one from switching.
        config._attn_implementation = "eager"
    return tower_class._from_config(config, **pooler_arguments(tower_class, pooling))


def tower_width(config: PreTrainedConfig, pooling: str) -> int:
    """Read the width of a tower's pooled output from its configuration; families name the field differently.

    It depends on the pooling: the pooler of SigLIP's text tower has a width of its own.

    Raises:
        ValueError: no field of the configuration tells.
    """
    fields = ("projection_size", *_WIDTH_FIELDS) if pooling == "pooler" else _WIDTH_FIELDS
    for field in fields:
        width = getattr(config, field, None)
        if isinstance(width, (list, tuple)) and width:
            width = width[-1]
        if isinstance(width, int) and width > 0:
            return width
    raise ValueError(
        f"The configuration of {config.model_type!r} has none of the fields {', '.join(fields)}; add `hidden_size`, "
        "the width of the tower's pooled output, to its sub-configuration."
    )


def pool_tower_output(
    output: Any, pooling: str, *, attention_mask: torch.Tensor | None = None, num_patches: int | None = None
) -> torch.Tensor:
    """Turn a tower's output into one vector per row.

    Args:
        output: The tower's output, with `last_hidden_state` of shape `(B, N, C)` or, of a convolutional tower,
            `(B, C, H, W)`, and `pooler_output` of shape `(B, C)` or `(B, C, 1, 1)` where the tower has one.
        pooling: `"pooler"`, `"cls"`, `"mean"` or `"last"`.
        attention_mask: Which of the `N` tokens are real, shape `(B, N)`; `None` means all.
        num_patches: How many of the `N` tokens of an image are its patches; class and register tokens, which come
            before them, are left out of the mean. `None` means all, and so does a number above `N`.

    Returns:
        One vector per row, shape `(B, C)`.

    Raises:
        ValueError: the tower has no such output.
    """
    hidden = output.last_hidden_state
    if pooling == "pooler":
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            raise ValueError(
                f"{type(output).__name__} has no pooled output of its own; set the tower's pooling to 'cls', 'mean' "
                "or 'last' (`vision_pooling` and `text_pooling` of EClipConfig)."
            )
        return pooled.flatten(1)
    if hidden.ndim == 4:
        if pooling != "mean":
            raise ValueError(f"A map has no tokens to take {pooling!r} of; use 'pooler' or 'mean'.")
        return hidden.mean(dim=(2, 3))
    if pooling == "cls":
        return hidden[:, 0]
    if attention_mask is None:
        if pooling == "last":
            return hidden[:, -1]
        first_patch = 0 if num_patches is None else max(hidden.shape[1] - num_patches, 0)
        return hidden[:, first_patch:].mean(dim=1)
    mask = attention_mask.to(hidden.device)
    if pooling == "mean":
        # A title without a single real token (an empty one, of a tokenizer without special tokens) pools to zero.
        weights = mask.to(hidden.dtype).unsqueeze(-1)  # (B, N, 1)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    # The last real token, on whichever side the tokenizer pads.
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    last = (positions * (mask != 0)).argmax(dim=1)  # (B,)
    # `len` would fix the batch size of an exported model.
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def count_patches(config: PreTrainedConfig, pixel_values: torch.Tensor) -> int | None:
    """Tell how many patches images of this size, shape `(B, 3, H, W)`, are cut into by a vision tower.

    `None` where it does not cut them into tokens of one size, and of images in patches already, shape `(B, N, C)`.
    """
    patch_size = getattr(config, "patch_size", None)
    if patch_size is None or pixel_values.ndim != 4 or getattr(config, "depths", None) is not None:
        return None
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    return (pixel_values.shape[-2] // height) * (pixel_values.shape[-1] // width)


def tower_class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Find the class that encodes for a configuration."""
    if type(config) in AutoModel._model_mapping:
        tower_class = AutoModel._model_mapping[type(config)]
        if isinstance(tower_class, tuple):
            tower_class = tower_class[0]
    else:
        # SigLIP's text towers have a configuration and a class, but no entry in the table of AutoModel.
        tower_class = getattr(transformers, type(config).__name__.replace("Config", "Model"), None)
    if tower_class is None or config.is_encoder_decoder:
        raise ValueError(f"transformers has no encoder for model type {config.model_type!r}; choose another tower.")
    return tower_class


def pooler_arguments(tower_class: type[PreTrainedModel], pooling: str) -> dict[str, bool]:
    """Return what a tower's class takes, for one whose own pooler is not asked for to be built without it."""
    if "add_pooling_layer" not in inspect.signature(tower_class.__init__).parameters:
        return {}
    return {"add_pooling_layer": pooling == "pooler"}


class FromPretrainedParts:
    """Class methods of [`EClipModel`]."""

    config_class: type[EClipConfig]
    _from_config: Callable[..., Any]

    @classmethod
    def from_towers(
        cls, vision: str, text: str, *, tower_kwargs: dict[str, Any] | None = None, **config_kwargs: Any
    ) -> Self:
        """Join two pretrained towers; the projections and the temperature are new.

        Args:
            vision: Hub id or folder of the image tower. Of a composite checkpoint (CLIP, SigLIP) its image half.
            text: The same for the title tower.
            tower_kwargs: Passed to `from_pretrained` of both towers: `token`, `cache_dir`, `dtype`, ...
            **config_kwargs: Fields of [`EClipConfig`], such as `projection_dim` and the poolings.

        Returns:
            The model, in evaluation mode as `from_pretrained` leaves it.
        """
        return _start().model_from_towers(cls, vision, text, tower_kwargs or {}, config_kwargs)

    @classmethod
    def from_clip(cls, checkpoint: str, *, clip_kwargs: dict[str, Any] | None = None, **config_kwargs: Any) -> Self:
        """Continue from a CLIP, SigLIP or SigLIP 2 checkpoint of transformers, with its projections and scale.

        The embeddings equal the source model's. SigLIP projects inside its towers: the projections start as the
        identity there, and its bias is dropped, since no softmax depends on it. The checkpoint's processor comes along
        by `EClipProcessor.from_pretrained(checkpoint)`.

        Args:
            checkpoint: Hub id or folder.
            clip_kwargs: Passed to `AutoModel.from_pretrained`: `token`, `cache_dir`, `dtype`, ...
            **config_kwargs: Fields of [`EClipConfig`], such as `catalog_mates`.

        Returns:
            The model, in evaluation mode as `from_pretrained` leaves it.

        Raises:
            ValueError: the checkpoint is not of that kind.
        """
        return _start().model_from_clip(cls, checkpoint, clip_kwargs or {}, config_kwargs)


def _start() -> ModuleType:
    # Not imported by name: it does not travel, and who starts a model has the package.
    return importlib.import_module("modeling_eclip.hub.pretrained_parts")


__all__ = [
    "FromPretrainedParts", "build_tower", "count_patches", "pool_tower_output", "pooler_arguments", "tower_class_of",
    "tower_width",
]  # fmt: skip
