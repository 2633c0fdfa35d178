"""A model that starts from checkpoints of transformers: two towers, or CLIP, SigLIP and SigLIP 2."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ..configuration_eclip import EClipConfig
from ..towers_eclip import pooler_arguments, tower_class_of, tower_width

__all__ = ["model_from_clip", "model_from_towers"]


def model_from_towers(
    model_class: Any, vision: str, text: str, tower_kwargs: dict[str, Any], config_kwargs: dict[str, Any]
) -> Any:
    """Build a model of two pretrained towers: what [`EClipModel.from_towers`] does.

    Args:
        model_class: Class of the model.
        vision: Hub id or folder of the image tower.
        text: The same for the title tower.
        tower_kwargs: Passed to `from_pretrained` of both towers.
        config_kwargs: Fields of [`EClipConfig`].

    Returns:
        The model, in evaluation mode.
    """
    tower_kwargs = {"dtype": torch.float32, **tower_kwargs}
    hub_kwargs = {key: value for key, value in tower_kwargs.items() if key not in ("dtype", "attn_implementation")}
    config = model_class.config_class(
        vision_config=AutoConfig.from_pretrained(vision, **hub_kwargs),
        text_config=AutoConfig.from_pretrained(text, **hub_kwargs),
        **config_kwargs,
    )
    vision_model = _load_tower(vision, config.vision_config, config.vision_pooling, tower_kwargs)
    text_model = _load_tower(text, config.text_config, config.text_pooling, tower_kwargs)
    model = model_class._from_config(config, dtype=vision_model.dtype, **_attention(tower_kwargs))
    model.vision_model.load_state_dict(vision_model.state_dict())
    model.text_model.load_state_dict(text_model.state_dict())
    return model.eval()


def model_from_clip(
    model_class: Any, checkpoint: str, clip_kwargs: dict[str, Any], config_kwargs: dict[str, Any]
) -> Any:
    """Build a model with the towers, projections and scale of a checkpoint: what [`EClipModel.from_clip`] does.

    With `loss="sigmoid"` the bias is that of SigLIP's checkpoint, too; a scale of CLIP's, which was learned without a
    bias, is not kept then, and both start as SigLIP's do.

    Args:
        model_class: Class of the model.
        checkpoint: Hub id or folder.
        clip_kwargs: Passed to `AutoModel.from_pretrained`.
        config_kwargs: Fields of [`EClipConfig`].

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: the checkpoint is of another kind, or has settled a field that is given.
    """
    source = AutoModel.from_pretrained(checkpoint, **{"dtype": torch.float32, **clip_kwargs})
    parts = ("vision_model", "text_model", "logit_scale")
    own_type = model_class.config_class.model_type
    if source.config.model_type == own_type or not all(hasattr(source, part) for part in parts):
        raise ValueError(
            f"{checkpoint!r} holds a {type(source).__name__}, not a CLIP, SigLIP or SigLIP 2 model; to join two "
            "towers use EClipModel.from_towers."
        )
    has_projections = hasattr(source, "visual_projection")
    bias = getattr(source, "logit_bias", None)
    width = tower_width(source.config.vision_config, "pooler")
    if config_kwargs.keys() & {"projection_dim", "vision_pooling", "text_pooling"}:
        raise ValueError(
            f"from_clip received {sorted(config_kwargs)}: projection and poolings are those of the checkpoint; "
            "leave them out, or use EClipModel.from_towers for new ones."
        )
    config = model_class.config_class(
        vision_config=source.config.vision_config,
        text_config=source.config.text_config,
        **{
            "projection_dim": source.config.projection_dim if has_projections else width,
            "vision_pooling": "pooler",
            "text_pooling": "pooler",
            **({} if bias is None and config_kwargs.get("loss") == "sigmoid" else _scale_of(source)),
            **config_kwargs,
        },
    )
    model = model_class._from_config(config, dtype=source.dtype, **_attention(clip_kwargs))
    model.vision_model.load_state_dict(source.vision_model.state_dict())
    model.text_model.load_state_dict(source.text_model.state_dict())
    with torch.no_grad():
        for name in ("visual_projection", "text_projection"):
            weight = getattr(model, name).weight
            if has_projections:
                weight.copy_(getattr(source, name).weight)
            else:
                nn.init.eye_(weight)
        if model.logit_bias is not None and bias is not None:
            model.logit_bias.copy_(bias.squeeze())
    return model.eval()


def _scale_of(source: Any) -> dict[str, float]:
    """Return a trained scale as fields of a configuration; it may lie beyond the range that a new one is kept in."""
    scale = source.logit_scale.item()
    return {
        "logit_scale_max_value": max(scale, EClipConfig.logit_scale_max_value),
        "logit_scale_init_value": scale,
    }


def _load_tower(checkpoint: str, config: PreTrainedConfig, pooling: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load a tower with the weights of a checkpoint, or of the matching half of a composite one such as CLIP's."""
    tower_class = tower_class_of(config)
    return tower_class.from_pretrained(checkpoint, config=config, **pooler_arguments(tower_class, pooling), **kwargs)


def _attention(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the attention implementation asked for, if any."""
    return {key: value for key, value in kwargs.items() if key == "attn_implementation"}
