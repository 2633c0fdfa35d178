"""Ways to start an e-CLIP model from pretrained weights: two towers, or a CLIP checkpoint with its projections."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModel

from .configuration_eclip import EClipConfig
from .towers_eclip import load_tower, load_tower_config, tower_width


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
        tower_kwargs = dict(tower_kwargs or {})
        hub_kwargs = {key: value for key, value in tower_kwargs.items() if key not in ("dtype", "attn_implementation")}
        config = cls.config_class(
            vision_config=load_tower_config(vision, "vision_config", **hub_kwargs),
            text_config=load_tower_config(text, "text_config", **hub_kwargs),
            **config_kwargs,
        )
        vision_model = load_tower(vision, config.vision_config, config.vision_pooling, **tower_kwargs)
        text_model = load_tower(text, config.text_config, config.text_pooling, **tower_kwargs)
        model = cls._from_config(config, dtype=vision_model.dtype, **_attention(tower_kwargs))
        model.vision_model.load_state_dict(vision_model.state_dict())
        model.text_model.load_state_dict(text_model.state_dict())
        return model.eval()

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
        source = AutoModel.from_pretrained(checkpoint, **{"dtype": torch.float32, **(clip_kwargs or {})})
        parts = ("vision_model", "text_model", "logit_scale")
        if source.config.model_type == cls.config_class.model_type or not all(hasattr(source, part) for part in parts):
            raise ValueError(
                f"{checkpoint!r} holds a {type(source).__name__}, not a CLIP, SigLIP or SigLIP 2 model; to join two "
                "towers use EClipModel.from_towers."
            )
        has_projections = hasattr(source, "visual_projection")
        width = tower_width(source.config.vision_config, "pooler")
        if config_kwargs.keys() & {"projection_dim", "vision_pooling", "text_pooling"}:
            raise ValueError(
                f"from_clip received {sorted(config_kwargs)}: projection and poolings are those of the checkpoint; "
                "leave them out, or use EClipModel.from_towers for new ones."
            )
        config = cls.config_class(
            vision_config=source.config.vision_config,
            text_config=source.config.text_config,
            **{
                "projection_dim": source.config.projection_dim if has_projections else width,
                "vision_pooling": "pooler",
                "text_pooling": "pooler",
                # A trained scale may lie beyond the range that a new one is kept in.
                "logit_scale_max_value": max(source.logit_scale.item(), EClipConfig.logit_scale_max_value),
                "logit_scale_init_value": source.logit_scale.item(),
                **config_kwargs,
            },
        )
        model = cls._from_config(config, dtype=source.dtype, **_attention(clip_kwargs))
        model.vision_model.load_state_dict(source.vision_model.state_dict())
        model.text_model.load_state_dict(source.text_model.state_dict())
        with torch.no_grad():
            if has_projections:
                model.visual_projection.weight.copy_(source.visual_projection.weight)
                model.text_projection.weight.copy_(source.text_projection.weight)
            else:
                nn.init.eye_(model.visual_projection.weight)
                nn.init.eye_(model.text_projection.weight)
        return model.eval()


def _attention(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the attention implementation asked for, if any."""
    return {key: value for key, value in (kwargs or {}).items() if key == "attn_implementation"}


__all__ = ["FromPretrainedParts"]
