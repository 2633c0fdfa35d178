"""The e-CLIP model: a title tower and an image tower, each projected to one shared space; and its loss.

Notable choices:
- two encoders and no fusion encoder (e-CLIP, Shin et al. 2022), so that titles and images are embedded apart and once;
- any transformers tower, with one rule per tower for turning its output into a vector;
- a projection without bias, even for source models that have none (there it starts as the identity);
- the losses here are plain ones, from all pairs of a batch; the package trains large batches with the same in tiles.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_eclip import EClipConfig
from .towers_eclip import FromPretrainedParts, build_tower, count_patches, pool_tower_output, tower_width

TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
"""What [`EClipModel.encode_text`] takes, by name."""
IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
"""What [`EClipModel.encode_image`] takes, by name."""


def normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Give vectors unit length; a zero vector stays zero. Shape `(..., D)` to the same."""
    # The default epsilon is zero in float16, where a zero vector would become not-a-number.
    return nn.functional.normalize(embeds, dim=-1, eps=1e-6)


def truncate_embeds(embeds: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Keep the first values of embeddings, and give what is left unit length (Matryoshka, Kusupati et al. 2022).

    Args:
        embeds: Vectors of unit length, shape `(..., D)`.
        dim: How many values are kept, at most `D`; `None` keeps all and changes nothing.

    Returns:
        Vectors of unit length, shape `(..., dim)`; a vector that is zero stays zero.

    Raises:
        ValueError: the vectors have fewer values than `dim`.
    """
    if dim is None or dim == embeds.shape[-1]:
        return embeds
    if not 1 <= dim <= embeds.shape[-1]:
        raise ValueError(f"`dim` is {dim}, but the vectors have {embeds.shape[-1]} values; give 1 to that many.")
    return normalize(embeds[..., :dim])


def similarity_logits(left: torch.Tensor, right: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Return scaled similarities of all pairs in float32 at least: `(B, D)` and `(B, D)` to `(B, B)`."""
    dtype = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(device_type=left.device.type, enabled=False):
        return logit_scale.to(left.device, dtype).exp() * left.to(dtype) @ right.to(left.device, dtype).T


def find_catalog_mates(catalog_ids: torch.Tensor) -> torch.Tensor:
    """Tell which offers are of one catalog: ids `(B,)` to bool `(B, B)`, no offer being its own mate."""
    return ((catalog_ids[:, None] == catalog_ids) & (catalog_ids >= 0)).fill_diagonal_(False)


def dense_contrastive_loss(
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor | None = None,
    *,
    logit_bias: torch.Tensor | None = None,
    catalog_weight: float = 1.0,
    mates: str = "positive",
) -> torch.Tensor:
    r"""Contrast of titles with images, with soft labels over catalogs, from all `B x B` logits.

    Offers of one catalog are the same product listed by several sellers, and no negatives of each other (e-CLIP, Shin
    et al. 2022, section 3.3). With `s_ij = exp(logit_scale) <u_i, w_j>` for title `i` and image `j`, and targets `P_i`
    with mass 1 on `j = i` and `catalog_weight` on the mates of `i`, divided by the row's sum (this package's form):

        L = 1/2 * mean_i CE(P_i, softmax_j s_ij) + 1/2 * mean_j CE(P_j, softmax_i s_ij)

    With a `logit_bias` it is `1/B` times the sum over pairs of the binary cross entropy of `sigmoid(s_ij + bias)` and
    `P_ij` before the division (SigLIP, Zhai et al. 2023). The package's `contrastive_loss` is the same in tiles.

    Args:
        text_embeds: Embeddings of the titles, of unit length, shape `(B, D)`.
        image_embeds: Embeddings of the images of the same offers in the same order, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        catalog_ids: Catalog of each offer, int64, shape `(B,)`; negative, or `None`, for offers that are alone.
        logit_bias: What is added to the logits of the sigmoid, a single element; `None` for the softmax.
        catalog_weight: Mass of a mate relative to the offer's own partner, from 0 to 1; used when mates are positive.
        mates: `"positive"` gives mates a share of the targets, `"negative"` is plain CLIP, `"masked"` leaves them out.

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings).

    Raises:
        ValueError: embeddings or `catalog_ids` that are not one per offer, no offers, or an unknown mode for mates.
    """
    if text_embeds.shape != image_embeds.shape or len(text_embeds) == 0:
        raise ValueError(
            f"the embeddings have shapes {tuple(text_embeds.shape)} and {tuple(image_embeds.shape)}; give two of the "
            "same shape (B, D), one row per offer, and at least one."
        )
    if mates not in ("positive", "negative", "masked"):
        raise ValueError(f"`mates` is {mates!r}; choose one of 'positive', 'negative', 'masked'.")
    logits = similarity_logits(text_embeds, image_embeds, logit_scale)  # (B, B)
    targets = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    if catalog_ids is not None:
        if catalog_ids.shape != text_embeds.shape[:1]:
            raise ValueError(f"`catalog_ids` has shape {tuple(catalog_ids.shape)}; give ({len(logits)},).")
        is_mate = find_catalog_mates(catalog_ids.to(logits.device))
        if mates == "masked":
            logits = logits.masked_fill(is_mate, torch.finfo(logits.dtype).min)
        elif mates == "positive":
            targets = targets + catalog_weight * is_mate.to(targets.dtype)
    if logit_bias is not None:
        logits = logits + logit_bias.to(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)
    targets = targets / targets.sum(dim=1, keepdim=True)
    return (nn.functional.cross_entropy(logits, targets) + nn.functional.cross_entropy(logits.T, targets)) / 2


@dataclass
class EClipOutput(ModelOutput):
    """What [`EClipModel`] returns; a field is `None` where its input was not given.

    Args:
        loss: The contrastive loss, a scalar; with `return_loss=True`.
        logits_per_text: Scaled similarities of each title to each image, shape `(num_titles, num_images)`.
        logits_per_image: The same per image, shape `(num_images, num_titles)`.
        text_embeds: Embeddings of the titles, of unit length, shape `(num_titles, projection_dim)`.
        image_embeds: Embeddings of the images, of unit length, shape `(num_images, projection_dim)`.
        text_model_output: The title tower's output. Its `pooler_output` is the tower's vector per title before the
            projection, shape `(num_titles, width)`, by the pooling that the configuration names.
        vision_model_output: The image tower's output, likewise.
    """

    loss: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not `None`, the towers' outputs as tuples of theirs."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class EClipPreTrainedModel(PreTrainedModel):
    """What e-CLIP models have in common: initialisation, and what the towers make possible."""

    config: EClipConfig
    base_model_prefix = "eclip"
    # The class that `AutoModel` loads; the code of a class that has one is saved with its checkpoints.
    _auto_class = "AutoModel"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: list[str] = []
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The losses are means over a batch, so `Trainer` divides them by the batches that it accumulates.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EClipModel):
            # As CLIP does it: projected vectors keep the length that the towers' have.
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5)
            init.normal_(module.visual_projection.weight, std=module.visual_projection.in_features**-0.5)
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, -10.0)  # as SigLIP has it

    def enable_input_require_grads(self) -> None:
        """Have the towers' embeddings ask for gradients, which re-entrant checkpointing and adapters need.

        As in transformers, but for embeddings that return more than a tensor (Swin's do), too.
        """

        def require_gradients(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            first.requires_grad_(True)

        self._require_grads_hooks = []
        for module in self.modules():
            if isinstance(module, PreTrainedModel) and not isinstance(module, EClipPreTrainedModel):
                with contextlib.suppress(NotImplementedError):
                    if (embeddings := module.get_input_embeddings()) is not None:
                        self._require_grads_hooks.append(embeddings.register_forward_hook(require_gradients))

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save weights, configuration and the code that loads them; arguments as for any transformers model."""
        self.config.auto_map = self.auto_map()
        if pipelines := self.custom_pipelines():
            self.config.custom_pipelines = pipelines
        elif hasattr(self.config, "custom_pipelines"):  # of a head, whose checkpoint this model came from
            del self.config.custom_pipelines
        super().save_pretrained(save_directory, *args, **kwargs)
        for weights in Path(save_directory).glob("*.safetensors"):  # which only their owner could read
            shutil.copymode(next(Path(save_directory).glob("*config.json")), weights)

    @classmethod
    def auto_map(cls) -> dict[str, str]:
        """Return the classes that Auto classes load from a checkpoint of this class: `{Auto class: "module.Class"}`.

        `AutoProcessor` is left to the processor's own file: a checkpoint without its processor must not promise one.
        """
        own = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
        return {"AutoConfig": "configuration_eclip.EClipConfig", "AutoModel": own}

    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """Return the tasks of `transformers.pipeline` whose code is saved with checkpoints of this class."""
        return {}


class EClipModel(FromPretrainedParts, EClipPreTrainedModel):
    """e-CLIP: embeds product titles and product images in one space.

    Args:
        config: The configuration; the towers get new weights. To start from pretrained ones use
            [`EClipModel.from_towers`] or [`EClipModel.from_clip`].
    """

    def __init__(self, config: EClipConfig):
        """Build both towers, the projections and the temperature."""
        super().__init__(config)
        self.vision_model = build_tower(config.vision_config, config.vision_pooling)
        self.text_model = build_tower(config.text_config, config.text_pooling)
        vision_width = tower_width(config.vision_config, config.vision_pooling)
        text_width = tower_width(config.text_config, config.text_pooling)
        self.visual_projection = nn.Linear(vision_width, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text_width, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        self.logit_bias = nn.Parameter(torch.tensor(0.0)) if config.loss == "sigmoid" else None
        self.post_init()

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as any e-CLIP model, and so that sentence-transformers loads it, too."""
        # Here, where transformers sees that the file belongs to the model's code, and past the circle of imports.
        from .sentence_transformers_eclip import write_sentence_transformers_files

        if kwargs.get("is_main_process", True):  # first, since what follows may publish the folder
            write_sentence_transformers_files(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def auto_map(cls) -> dict[str, str]:
        """Return the classes that Auto classes load; zero-shot image classification is what CLIP models are for."""
        auto_map = super().auto_map()
        return auto_map | {"AutoModelForZeroShotImageClassification": auto_map["AutoModel"]}

    def get_input_embeddings(self) -> nn.Module:
        """Return the title tower's token embeddings."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the title tower's token embeddings."""
        self.text_model.set_input_embeddings(value)

    def encode_text(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Run the title tower alone, without the projection.

        Args:
            input_ids: Tokens of the titles, shape `(B, N)`.
            attention_mask: Which of them are real, shape `(B, N)`; `None` means all.
            position_ids: Positions of the tokens, shape `(B, N)`, for towers that take them.
            token_type_ids: Segments of the tokens, shape `(B, N)`, for towers that take them.
            **kwargs: `output_hidden_states`, `output_attentions`.

        Returns:
            The tower's output; its `pooler_output` is one vector per title, shape `(B, width)`.
        """
        optional = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        given = {name: value for name, value in optional.items() if value is not None}
        kwargs.pop("lexical_ids", None)  # of a head's processor, for no tower
        output = self.text_model(input_ids=input_ids, return_dict=True, **given, **kwargs)
        return _with_pooled(output, pool_tower_output(output, self.config.text_pooling, attention_mask=attention_mask))

    def encode_image(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Run the image tower alone, without the projection.

        Args:
            pixel_values: Images, shape `(B, 3, H, W)`; for SigLIP 2's flexible towers their patches, `(B, N, C)`.
            pixel_attention_mask: Which patches are real, shape `(B, N)`; flexible towers only.
            spatial_shapes: Height and width of each image in patches, shape `(B, 2)`; flexible towers only.
            interpolate_pos_encoding: Fit the position embeddings to another image size, for towers that can.
            **kwargs: `output_hidden_states`, `output_attentions`.

        Returns:
            The tower's output; its `pooler_output` is one vector per image, shape `(B, width)`.
        """
        optional = {
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
            "interpolate_pos_encoding": interpolate_pos_encoding or None,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        kwargs.pop("lexical_ids", None)
        pixel_values = pixel_values.to(self.vision_model.dtype)  # of quantised weights, what the tower computes in
        output = self.vision_model(pixel_values=pixel_values, return_dict=True, **given, **kwargs)
        pooled = pool_tower_output(
            output,
            self.config.vision_pooling,
            attention_mask=pixel_attention_mask,
            num_patches=count_patches(self.config.vision_config, pixel_values),
        )
        return _with_pooled(output, pooled)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Embed titles; arguments as for [`EClipModel.encode_text`].

        Returns:
            The title tower's output, with the projected embeddings, not yet of unit length, as its `pooler_output`,
            shape `(B, projection_dim)`. A tuple with `return_dict=False`.
        """
        output = self.encode_text(input_ids, attention_mask, position_ids, token_type_ids, **kwargs)
        return _with_pooled(output, self.text_projection(output.pooler_output))

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Embed images; arguments as for [`EClipModel.encode_image`].

        Returns:
            The image tower's output with embeddings as [`EClipModel.get_text_features`] returns them.
        """
        output = self.encode_image(
            pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding, **kwargs
        )
        return _with_pooled(output, self.visual_projection(output.pooler_output))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        catalog_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        return_logits: bool = True,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        text_pooler_output: torch.Tensor | None = None,
        image_pooler_output: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EClipOutput:
        """Embed titles, images or both, and compare them where both are given. Inputs are those of the two encoders.

        Args:
            input_ids: Tokens of the titles, shape `(num_titles, N)`; `None` to embed images alone.
            attention_mask: Which tokens are real, shape `(num_titles, N)`; `None` means all.
            pixel_values: Images, shape `(num_images, 3, H, W)`; `None` to embed titles alone.
            catalog_ids: Catalog of each offer, int64, shape `(num_titles,)`, negative if it is alone; for the loss.
            return_loss: Whether to compute the loss; title `i` and image `i` must then be of one offer.
            return_logits: Whether to compute the similarities of all pairs; a loss that does its own does without.
            position_ids: As for [`EClipModel.encode_text`], as is `token_type_ids`.
            token_type_ids: See there.
            pixel_attention_mask: As for [`EClipModel.encode_image`], as are the next two.
            spatial_shapes: See there.
            interpolate_pos_encoding: See there.
            text_pooler_output: Vectors of the title tower in place of `input_ids`, shape `(num_titles, width)`.
            image_pooler_output: Vectors of the image tower in place of `pixel_values`, likewise.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            [`EClipOutput`], or a tuple with `return_dict=False`.

        Raises:
            ValueError: neither titles nor images are given, or a loss is asked for without both.
        """
        has_text = input_ids is not None or text_pooler_output is not None
        has_images = pixel_values is not None or image_pooler_output is not None
        if not has_text and not has_images:
            raise ValueError("Neither `input_ids` nor `pixel_values` is given; give titles, images or both.")
        if return_loss and not (has_text and has_images):
            missing = "pixel_values" if has_text else "input_ids"
            raise ValueError(f"`return_loss=True` compares titles with images, but `{missing}` is None; give both.")

        text_outputs = text_embeds = vision_outputs = image_embeds = logits_per_text = logits_per_image = loss = None
        if input_ids is not None:
            text_outputs = self.encode_text(input_ids, attention_mask, position_ids, token_type_ids, **kwargs)
            text_pooler_output = text_outputs.pooler_output
        if pixel_values is not None:
            vision_outputs = self.encode_image(
                pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding, **kwargs
            )
            image_pooler_output = vision_outputs.pooler_output
        if text_pooler_output is not None:
            text_embeds = normalize(self.text_projection(text_pooler_output))  # (num_titles, projection_dim)
        if image_pooler_output is not None:
            image_embeds = normalize(self.visual_projection(image_pooler_output))  # (num_images, projection_dim)
        if text_embeds is not None and image_embeds is not None:
            image_embeds = image_embeds.to(text_embeds.device)
            if return_logits:
                scale = self.logit_scale.to(text_embeds.device).exp()
                bias = 0.0 if self.logit_bias is None else self.logit_bias.to(text_embeds.device)
                logits_per_text = scale * text_embeds @ image_embeds.T + bias  # (num_titles, num_images)
                logits_per_image = logits_per_text.T
            if return_loss:
                loss = self._loss(text_embeds, image_embeds, catalog_ids)
        return EClipOutput(
            loss=loss,
            logits_per_text=logits_per_text,
            logits_per_image=logits_per_image,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )

    def _loss(
        self, text_embeds: torch.Tensor, image_embeds: torch.Tensor, catalog_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the configured loss: the weighted mean over `matryoshka_dims`, where there are any."""
        dims: Sequence[int | None] = self.config.matryoshka_dims or [None]
        weights = self.config.matryoshka_weights or [1.0] * len(dims)
        labels: dict[str, Any] = {"catalog_weight": self.config.catalog_weight, "mates": self.config.catalog_mates}
        labels["logit_bias"], losses = self.logit_bias, []
        for dim, weight in zip(dims, weights, strict=True):
            text, image = truncate_embeds(text_embeds, dim), truncate_embeds(image_embeds, dim)
            losses.append(weight * dense_contrastive_loss(text, image, self.logit_scale, catalog_ids, **labels))
        return torch.stack(losses).sum() / sum(weights)

    def encode_products(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the towers on the modalities that products have.

        Args:
            inputs: What `prepare_products` returned for `B` products, on the model's device.

        Returns:
            `has_text` and `has_image`, bool, shape `(B,)`; and, where any product has the modality,
            `text_pooler_output` and `image_pooler_output`, shape `(B, width)`: the towers' vectors, zero for products
            without it. All of it is what heads take in place of titles and images.
        """
        encoded = {name: inputs[name] for name in ("has_text", "has_image", "lexical_ids") if name in inputs}
        for modality, names in (("text", TEXT_INPUTS), ("image", IMAGE_INPUTS)):
            if given := {name: inputs[name] for name in names if name in inputs}:
                vectors = getattr(self, f"encode_{modality}")(**given).pooler_output
                has_modality = inputs[f"has_{modality}"].to(vectors.device)
                rows = vectors.new_zeros(len(has_modality), vectors.shape[1])
                rows[has_modality] = vectors
                encoded[f"{modality}_pooler_output"] = rows
        return encoded

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the temperature, and the bias beside it, in range; call it after each optimizer step.

        The parameter is clamped, not its use in the loss: a clamped use has no gradient and never comes back.
        """
        self.logit_scale.clamp_(max=self.config.logit_scale_max_value)
        if self.logit_bias is not None:  # more than the largest similarities would decide alone
            self.logit_bias.clamp_(-100.0, 100.0)


def _with_pooled(output: ModelOutput, pooled: torch.Tensor) -> BaseModelOutputWithPooling:
    """Return a tower's output in one form, whichever the tower has, with another pooled vector."""
    return BaseModelOutputWithPooling(
        last_hidden_state=output.last_hidden_state,
        pooler_output=pooled,
        hidden_states=output.hidden_states,
        attentions=getattr(output, "attentions", None),
    )


__all__ = [
    "IMAGE_INPUTS",
    "TEXT_INPUTS",
    "EClipModel",
    "EClipOutput",
    "EClipPreTrainedModel",
    "dense_contrastive_loss",
    "find_catalog_mates",
    "normalize",
    "similarity_logits",
    "truncate_embeds",
]
