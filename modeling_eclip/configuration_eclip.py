"""Configuration of e-CLIP: two towers of any transformers architecture, and the space they share."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

POOLINGS = ("pooler", "cls", "mean", "last")

# Text towers that were themselves trained by contrast: their own pooled output is the sentence embedding.
_CONTRASTIVE_TEXT_TOWERS = ("clip_text_model", "siglip_text_model", "siglip2_text_model")


@strict
class EClipConfig(PreTrainedConfig):
    r"""Configuration of an [`EClipModel`]: the towers, their pooling, the shared space and the loss.

    Args:
        vision_config (`dict` or [`PreTrainedConfig`], *optional*):
            Configuration of the vision tower: any model type known to `AutoConfig`, named by its `model_type`
            (`"vit"` where it names none). Of a configuration that is itself composite, such as CLIP's, the vision
            part is taken.
        text_config (`dict` or [`PreTrainedConfig`], *optional*):
            The same for the text tower; `"bert"` where it names no `model_type`.
        projection_dim (`int`, defaults to 512):
            Dimension of the space that titles and images share.
        logit_scale_init_value (`float`, defaults to `log(1 / 0.07)`):
            Initial value of the log of the inverse temperature.
        logit_scale_max_value (`float`, defaults to `log(100)`):
            The value that [`EClipModel.clamp_logit_scale`] keeps it under while it is trained.
        vision_pooling (`str`, defaults to `"auto"`):
            How the vision tower's output becomes one vector per image: `"pooler"` (the tower's own pooled output;
            what `"auto"` becomes), `"cls"` (the first token), `"mean"` (mean over the patches, or over a map's places)
            or `"last"`.
        text_pooling (`str`, defaults to `"auto"`):
            The same for titles: `"pooler"` (what `"auto"` becomes for CLIP's and SigLIP's text towers), `"cls"`,
            `"mean"` over the tokens that the attention mask keeps (what it becomes for all others) or `"last"`, the
            last of those.
        catalog_mates (`str`, defaults to `"positive"`):
            What the other offers of a row's catalog are to it in the loss: `"positive"`, `"negative"` or `"masked"`;
            see [`contrastive_loss`].
        catalog_weight (`float`, defaults to 1.0):
            Mass of a positive mate relative to the row's own partner, between 0 and 1.

    Raises:
        ValueError: a field has a value that no model can be built from.
    """

    model_type = "eclip"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = math.log(1 / 0.07)
    logit_scale_max_value: float | int = math.log(100)
    vision_pooling: str = "auto"
    text_pooling: str = "auto"
    catalog_mates: Literal["positive", "negative", "masked"] = "positive"
    catalog_weight: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the towers' configurations and settle what is left to them."""
        super().__post_init__(**kwargs)
        # CLIP and its kin name one configuration for both towers; each of ours wants its own half.
        self.vision_config = getattr(self.vision_config, "vision_config", self.vision_config)
        self.text_config = getattr(self.text_config, "text_config", self.text_config)
        text_model_type = getattr(self.text_config, "model_type", None)
        if self.vision_pooling == "auto":
            self.vision_pooling = "pooler"
        if self.text_pooling == "auto":
            self.text_pooling = "pooler" if text_model_type in _CONTRASTIVE_TEXT_TOWERS else "mean"

    def validate_pooling(self) -> None:
        """Part of `@strict` validation: both poolings are known."""
        for field in ("vision_pooling", "text_pooling"):
            value = getattr(self, field)
            if value != "auto" and value not in POOLINGS:
                raise ValueError(f"`{field}` is {value!r}; choose one of {', '.join(map(repr, POOLINGS))}.")

    def validate_projection(self) -> None:
        """Part of `@strict` validation: the shared space has a dimension, the temperature a usable range."""
        if self.projection_dim < 1:
            raise ValueError(f"`projection_dim` is {self.projection_dim}; give a positive number of dimensions.")
        if not math.isfinite(self.logit_scale_max_value):
            raise ValueError(f"`logit_scale_max_value` is {self.logit_scale_max_value}; give a finite number.")
        if not math.isfinite(self.logit_scale_init_value) or self.logit_scale_init_value > self.logit_scale_max_value:
            raise ValueError(
                f"`logit_scale_init_value` is {self.logit_scale_init_value}; give a finite log of the inverse "
                f"temperature that is at most `logit_scale_max_value` ({self.logit_scale_max_value})."
            )

    def validate_catalog(self) -> None:
        """Part of `@strict` validation: the mass of a catalog mate is a share of the row's own."""
        if not 0 <= self.catalog_weight <= 1:
            raise ValueError(
                f"`catalog_weight` is {self.catalog_weight}; give a number from 0 (mates carry no mass) to 1 (as much "
                "as the row's own partner)."
            )


__all__ = ["POOLINGS", "EClipConfig"]
