"""Configuration of e-CLIP: two towers of any transformers architecture, and the space they share."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

POOLINGS = ("pooler", "cls", "mean", "last")

# Text towers that were themselves trained by contrast: their own pooled output is the sentence embedding.
_CONTRASTIVE_TEXT_TOWERS = ("clip_text_model", "siglip_text_model", "siglip2_text_model")


@strict
class EClipConfig(PreTrainedConfig):
    r"""Configuration of an [`EClipModel`] and of the heads on it.

    A head's classes, thresholds and calibration are kept here, so that a loaded head answers in words.

    Args:
        vision_config (`dict` or [`PreTrainedConfig`], *optional*):
            Configuration of the vision tower: any model type known to `AutoConfig`, named by its `model_type`
            (`"vit"` where it names none). Of a configuration that is itself composite, such as CLIP's, the vision
            part is taken.
        text_config (`dict` or [`PreTrainedConfig`], *optional*):
            The same for the text tower; `"bert"` where it names no `model_type`.
        projection_dim (`int`, defaults to 512):
            Dimension of the space that titles and images share.
        logit_scale_init_value (`float`, *optional*):
            Initial value of the log of the inverse temperature; `log(1 / 0.07)` if not given, `log(10)` of a sigmoid.
        logit_scale_max_value (`float`, defaults to `log(100)`):
            The value that [`EClipModel.clamp_logit_scale`] keeps it under while it is trained.
        vision_pooling (`str`, defaults to `"auto"`):
            How the vision tower's output becomes one vector per image: `"pooler"` (the tower's own pooled output;
            what `"auto"` becomes), `"cls"` (the first token), `"mean"` (mean over the patches, or over a map's places)
            or `"last"`.
        text_pooling (`str`, defaults to `"auto"`):
            The same for titles: `"pooler"` (what `"auto"` becomes for CLIP's and SigLIP's towers), `"cls"`, `"mean"`
            over the tokens that the attention mask keeps (what it becomes for others) or `"last"`, the last of those.
        loss (`str`, defaults to `"softmax"`):
            `"softmax"` (CLIP) or `"sigmoid"` (SigLIP, with a learned bias of the logits); see [`contrastive_loss`].
        catalog_mates (`str`, defaults to `"positive"`):
            What the other offers of a row's catalog are to it in the loss: `"positive"`, `"negative"` or `"masked"`.
        catalog_weight (`float`, defaults to 1.0):
            Mass of a positive mate relative to the row's own partner, between 0 and 1.
        matryoshka_dims (`list[int]`, *optional*):
            Sizes that embeddings can be cut to, `projection_dim` among them; see [`matryoshka_loss`].
        matryoshka_weights (`list[float]`, *optional*):
            Weight of each of these in the loss; all the same if not given.
        modality (`str`, defaults to `"both"`):
            What a head looks at: `"text"`, `"image"` or `"both"`.
        modality_dropout (`float`, defaults to 0.1):
            Probability, per modality, that a head on `"both"` is trained without it; up to 0.5: none loses both.
        category_paths (`list[list[str]]`, *optional*):
            Leaves of the category tree as paths, root first, of any depth; a leaf's position is its class.
        attributes (`dict[str, list[str]]`, *optional*):
            Values of each attribute; a value's position is its class. See [`EClipConfig.attribute_names`].
        not_stated (`str`, defaults to `"not stated"`):
            Answer for an attribute that a product does not state. It may be one of the attribute's values, and it is
            answered where no value is as probable as `decision_threshold`.
        decision_threshold (`float`, *optional*):
            Probability from which a head answers yes; 0.5 where it is `None`, and 0 for attributes.
        target_recall (`float`, *optional*):
            Recall that `decision_threshold` was fitted for.
        lexical_rows (`int`, defaults to 0):
            Rows of weights, per kind, that a head has for the hashed n-grams of titles; 0 for a head without them.
        target_precision (`float`, *optional*):
            Precision that `review_below` was fitted for.
        review_below (`dict[str, float | None]`, *optional*):
            Probability of an answer below which it is sent to review: of the `"category"`, of each attribute, or of
            `"yes"` and of `"no"`; `None` sends all of them.
        positive_weight (`float`, defaults to 1.0):
            Weight of positive products in the loss of a recogniser, against 1 for all others.
        label_smoothing (`float`, defaults to 0.0):
            Share of each label's mass that the losses of classifiers spread over all classes.
        calibration (`list[float]`, defaults to `[1.0, 0.0]`):
            Slope and intercept that turn the logit of a yes-or-no head into that of a calibrated probability (Platt).
        cluster_threshold (`float`, defaults to 0.8):
            Cosine similarity from which products are joined into one cluster.
        cluster_neighbors (`int`, defaults to 10):
            Nearest neighbours per product among which clusters are looked for.

    Raises:
        ValueError: a field has a value that no model can be built from.
    """

    model_type = "eclip"
    _auto_class = "AutoConfig"
    # What `Trainer` does not collect from every batch that it predicts.
    keys_to_ignore_at_inference = ["text_model_output", "vision_model_output", "products", "right_products"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float | int | None = None
    logit_scale_max_value: float | int = math.log(100)
    vision_pooling: str = "auto"
    text_pooling: str = "auto"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    catalog_mates: Literal["positive", "negative", "masked"] = "positive"
    catalog_weight: float | int = 1.0
    matryoshka_dims: list[int] | None = None
    matryoshka_weights: list[float | int] | None = None
    modality: Literal["text", "image", "both"] = "both"
    modality_dropout: float | int = 0.1
    category_paths: list[list[str] | tuple[str, ...]] | tuple[list[str] | tuple[str, ...], ...] | None = None
    attributes: dict[str, list[str] | tuple[str, ...]] | None = None
    not_stated: str = "not stated"
    decision_threshold: float | int | None = None
    target_recall: float | int | None = None
    lexical_rows: int = 0
    target_precision: float | int | None = None
    review_below: dict[str, float | int | None] | None = None
    positive_weight: float | int = 1.0
    label_smoothing: float | int = 0.0
    calibration: list[float | int] | tuple[float | int, float | int] = (1.0, 0.0)
    cluster_threshold: float | int = 0.8
    cluster_neighbors: int = 10

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the towers' configurations and settle what is left to them."""
        super().__post_init__(**kwargs)
        # CLIP and its kin name one configuration for both towers; each of ours wants its own half.
        self.vision_config = getattr(self.vision_config, "vision_config", self.vision_config)
        self.text_config = getattr(self.text_config, "text_config", self.text_config)
        text_model_type = getattr(self.text_config, "model_type", None)
        self.vision_pooling = "pooler" if self.vision_pooling == "auto" else self.vision_pooling
        if self.text_pooling == "auto":
            self.text_pooling = "pooler" if text_model_type in _CONTRASTIVE_TEXT_TOWERS else "mean"
        if self.logit_scale_init_value is None:
            self.logit_scale_init_value = math.log(10 if self.loss == "sigmoid" else 1 / 0.07)
        self.calibration = list(self.calibration)
        self.category_paths = self.category_paths and [list(path) for path in self.category_paths]
        # `AutoModel` picks a class by it; saving a head writes the head's.
        self.architectures = getattr(self, "architectures", None) or ["EClipModel"]

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attributes, as labels and logits have them: sorted, since what is saved keeps no order."""
        return sorted(self.attributes or {})

    def validate_pooling(self) -> None:
        """Part of `@strict` validation: both poolings are known."""
        for field in ("vision_pooling", "text_pooling"):
            if (value := getattr(self, field)) not in ("auto", *POOLINGS):
                raise ValueError(f"`{field}` is {value!r}; choose one of {', '.join(map(repr, POOLINGS))}.")

    def validate_logit_scale(self) -> None:
        """Part of `@strict` validation: the temperature has a usable range."""
        if not math.isfinite(self.logit_scale_max_value):
            raise ValueError(f"`logit_scale_max_value` is {self.logit_scale_max_value}; give a finite number.")
        value = self.logit_scale_init_value
        if value is None or not math.isfinite(value) or value > self.logit_scale_max_value:
            raise ValueError(
                f"`logit_scale_init_value` is {self.logit_scale_init_value}; give a finite log of the inverse "
                f"temperature that is at most `logit_scale_max_value` ({self.logit_scale_max_value})."
            )

    def validate_matryoshka(self) -> None:
        """Part of `@strict` validation: the sizes are some that embeddings can be cut to, each with a weight."""
        dims, weights = self.matryoshka_dims, self.matryoshka_weights
        if weights is not None and (
            dims is None or len(weights) != len(dims) or min(weights) < 0 or not 0 < sum(weights) < math.inf
        ):
            raise ValueError(
                f"`matryoshka_weights` is {weights} for `matryoshka_dims` {dims}; give each size a weight, not all 0."
            )
        if dims is None:
            return
        if len({*dims}) < len(dims) or min(dims, default=0) < 1 or max(dims) != self.projection_dim:
            raise ValueError(
                f"`matryoshka_dims` is {dims}; give different sizes from 1 to `projection_dim` "
                f"({self.projection_dim}), and that one among them."
            )

    def validate_classes(self) -> None:
        """Part of `@strict` validation: every class can be told from the others."""
        if self.category_paths is not None:
            paths = [tuple(path) for path in self.category_paths]
            if not paths:
                raise ValueError("`category_paths` is []; give the path of at least one category, or leave it out.")
            for path in paths:
                if not path or not all(path):
                    raise ValueError(f"`category_paths` holds {list(path)}; give each category a path of names.")
            _check_unique("category_paths", paths)
        if self.attributes is not None:
            if not self.attributes:
                raise ValueError("`attributes` is {}; give the values of at least one attribute, or leave it out.")
            for name, values in self.attributes.items():
                if not name or not values:
                    raise ValueError(f"`attributes` holds {{{name!r}: {values}}}; give it a name and its values.")
                _check_unique(f"attributes[{name!r}]", values)

    def validate_decisions(self) -> None:
        """Part of `@strict` validation: probabilities, weights and similarities are in their ranges."""
        ranges: dict[str, tuple[float, float]] = {
            "projection_dim": (1, math.inf),
            "catalog_weight": (0, 1),
            "modality_dropout": (0, 0.5),
            "decision_threshold": (0, 1),
            "target_recall": (0, 1),
            "target_precision": (0, 1),
            "label_smoothing": (0, 1),
            "lexical_rows": (0, 2**16),
            "cluster_threshold": (-1, 1),
            "cluster_neighbors": (1, math.inf),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise ValueError(f"`{field}` is {value}; give a number from {low} to {high}.")
        if any(value is not None and not 0 <= value <= 1 for value in (self.review_below or {}).values()):
            raise ValueError(f"`review_below` is {self.review_below}; give numbers from 0 to 1, or None for all.")
        if not 0 < self.positive_weight < math.inf:
            raise ValueError(f"`positive_weight` is {self.positive_weight}; give a positive number.")
        # A negative slope would turn every decision round.
        if len(self.calibration) != 2 or not all(map(math.isfinite, self.calibration)) or self.calibration[0] <= 0:
            raise ValueError(f"`calibration` is {[*self.calibration]}; give a positive slope and a finite intercept.")


def _check_unique(field: str, names: Sequence[object]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"`{field}` names {repeated[0]!r} more than once; name each class once.")


__all__ = ["POOLINGS", "EClipConfig"]
