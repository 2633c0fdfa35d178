"""The one way to represent a product, and what all heads have in common.

Notable choices:
- the towers' vectors before the projection: the projection keeps what title and image share, and drops what one of
  them alone tells, which is what a task asks for;
- each side scaled to one length, so that no tower speaks louder;
- a product without one of its sides gets a learned stand-in, which starts at zero and then says nothing;
- a head that looks at both sides is trained without one of them now and then (modality dropout), so that products
  without it are no surprise.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_eclip import EClipConfig
from .late_fusion_eclip import LateFusionClassifier
from .modeling_eclip import EClipModel, EClipPreTrainedModel
from .normalization_eclip import normalize
from .product_embeds_eclip import ProductEmbeds
from .product_inputs_eclip import encode_products, prepare_products, read_product
from .towers_eclip import tower_width

_SIDE_NAMES = {"text": "title", "image": "image"}


def side_widths(config: EClipConfig) -> dict[str, int]:
    """Tell the width of the towers' vectors, of the sides that `config.modality` looks at."""
    widths = {
        "text": tower_width(config.text_config, config.text_pooling),
        "image": tower_width(config.vision_config, config.vision_pooling),
    }
    return {side: width for side, width in widths.items() if config.modality in (side, "both")}


class ProductRepresentation(nn.Module):
    """Represent products by the vectors that the towers gave for them.

    Args:
        config: Its `modality` tells the sides, its `modality_dropout` how often training hides one.
    """

    def __init__(self, config: EClipConfig):
        """Build the stand-ins, of a head that looks at both sides."""
        super().__init__()
        self.widths = side_widths(config)
        self.dropout = float(config.modality_dropout) if config.modality == "both" else 0.0
        if config.modality == "both":
            self.text_stand_in = nn.Parameter(torch.zeros(self.widths["text"]))
            self.image_stand_in = nn.Parameter(torch.zeros(self.widths["image"]))

    def forward(
        self,
        text_features: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
    ) -> ProductEmbeds:
        """Represent products.

        Args:
            text_features: The title tower's vectors, before the projection, shape `(B, text width)`; `None` where no
                product has a title.
            image_features: The image tower's vectors, likewise, shape `(B, image width)`.
            has_text: Which products have a title, bool, shape `(B,)`; `None` means all, if there are vectors. A row of
                `text_features` without is not read.
            has_image: The same for images.

        Returns:
            The products as the sides of the configured modality show them.

        Raises:
            ValueError: a product has none of the sides that the head looks at.
        """
        given = {"text": (text_features, has_text), "image": (image_features, has_image)}
        features = {side: given[side][0] for side in self.widths}
        present = {}
        some = next((vectors for vectors in features.values() if vectors is not None), None)
        if some is None:
            raise ValueError(f"No product has {self._wanted()}, and the head looks at nothing else; give it.")
        for side, vectors in features.items():
            mask = given[side][1]
            if vectors is None:
                mask = torch.zeros(len(some), dtype=torch.bool)
            elif mask is None:
                mask = torch.ones(len(some), dtype=torch.bool)
            present[side] = mask.to(device=some.device, dtype=torch.bool)
        if has_text is not None or has_image is not None:
            self._check(present)
        if self.training and self.dropout:
            present = self._hide(present)
        embeds = {side: self._embed(side, vectors, present[side]) for side, vectors in features.items()}
        return ProductEmbeds(
            text=embeds.get("text"),
            image=embeds.get("image"),
            has_text=present.get("text"),
            has_image=present.get("image"),
        )

    def _embed(self, side: str, features: torch.Tensor | None, present: torch.Tensor) -> torch.Tensor:
        """Scale one side's vectors, and put the stand-in where there are none."""
        embeds = None if features is None else normalize(features) * features.shape[-1] ** 0.5
        if len(self.widths) == 1:
            assert embeds is not None  # the only side, and `forward` has checked that there is one
            return embeds
        stand_in = getattr(self, f"{side}_stand_in")
        if embeds is None:
            return stand_in.expand(len(present), -1)
        return torch.where(present.to(embeds.device).unsqueeze(1), embeds, stand_in.to(embeds.dtype))

    def _hide(self, present: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Hide one side of some of the products that have both."""
        draw = torch.rand(len(present["text"]), device=present["text"].device)  # one per row: never both sides
        both = present["text"] & present["image"]
        return {
            "text": present["text"] & ~(both & (draw < self.dropout)),
            "image": present["image"] & ~(both & (draw >= 1 - self.dropout)),
        }

    def _check(self, present: dict[str, torch.Tensor]) -> None:
        if torch.compiler.is_compiling():  # the check reads values, which a graph does not have
            return
        empty = ~torch.stack(list(present.values())).any(dim=0)
        if empty.any():
            rows = empty.nonzero().flatten().tolist()
            raise ValueError(
                f"Product {rows[0]} of the batch ({len(rows)} of {len(empty)}) has neither {self._wanted(' nor ')}; "
                "leave it out, or use a head that looks at what it has."
                if len(self.widths) > 1
                else f"Product {rows[0]} of the batch ({len(rows)} of {len(empty)}) has no {self._wanted()}, and the "
                "head looks at nothing else; leave it out, or use a head that looks at what it has."
            )

    def _wanted(self, conjunction: str = " or ") -> str:
        return conjunction.join(_SIDE_NAMES[side] for side in self.widths)


class EClipTaskModel(EClipPreTrainedModel):
    """What all heads have in common: the model they stand on, and how they see products.

    A checkpoint of an [`EClipModel`] loads into every head, whose own weights are new then, and one of a head loads as
    an [`EClipModel`]. A head says what it makes of products in `answer`, and has `forward` from here.

    Args:
        config: The configuration.
    """

    def __init__(self, config: EClipConfig):
        """Build the towers and the representation; a head adds its own and calls `post_init`."""
        super().__init__(config)
        config.validate()  # fields given to `from_pretrained` are set one by one
        self.eclip = EClipModel(config)
        self.representation = ProductRepresentation(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ProductRepresentation) and len(module.widths) == 2:
            init.zeros_(module.text_stand_in)
            init.zeros_(module.image_stand_in)
        elif isinstance(module, LateFusionClassifier) and module.text is not None and module.image is not None:
            init.constant_(module.fusion_scale, 0.5)
            init.zeros_(module.fusion_bias)

    def represent(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        text_pooler_output: torch.Tensor | None = None,
        image_pooler_output: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ProductEmbeds:
        """Represent products by their titles, their images or both; a tower that the head does not use is not run.

        Args:
            input_ids: Tokens of the titles, shape `(B, N)`.
            attention_mask: Which tokens are real, shape `(B, N)`; `None` means all.
            pixel_values: Images, shape `(B, 3, H, W)`.
            has_text: Which products have a title, bool, shape `(B,)`; `None` means all, if `input_ids` is given.
                What stands in `input_ids` for the others is not looked at.
            has_image: The same for images.
            text_pooler_output: The title tower's vectors in place of `input_ids`, shape `(B, text width)`: what
                [`EClipModel.encode_text`] gave once, for a tower that is not trained.
            image_pooler_output: The image tower's in place of `pixel_values`, likewise.
            position_ids: As for [`EClipModel.encode_text`].
            token_type_ids: As for [`EClipModel.encode_text`].
            pixel_attention_mask: As for [`EClipModel.encode_image`].
            spatial_shapes: As for [`EClipModel.encode_image`].
            interpolate_pos_encoding: As for [`EClipModel.encode_image`].
            **kwargs: Passed to the towers.

        Returns:
            The products.

        Raises:
            ValueError: a product has none of the sides that the head looks at.
        """
        if input_ids is not None and self.config.modality != "image":
            text_pooler_output = self.eclip.encode_text(
                input_ids, attention_mask, position_ids, token_type_ids, **kwargs
            ).pooler_output
        if pixel_values is not None and self.config.modality != "text":
            image_pooler_output = self.eclip.encode_image(
                pixel_values, pixel_attention_mask, spatial_shapes, interpolate_pos_encoding, **kwargs
            ).pooler_output
        return self.representation(text_pooler_output, image_pooler_output, has_text, has_image)

    @torch.no_grad()
    def represent_products(self, processor: Any, products: Iterable[Any], batch_size: int = 64) -> ProductEmbeds:
        """Represent products as people hand them over, once and for all that is done with them afterwards.

        Args:
            processor: The [`EClipProcessor`] of the checkpoint.
            products: `N` products, each a title, a picture, or `{"text": title, "image": picture}` with either or
                both.
            batch_size: Products that are encoded at a time.

        Returns:
            The products, without gradients. Call `eval` on the head first, unless it is in training.

        Raises:
            ValueError: there are no products, or one has none of the sides that the head looks at.
        """
        parts: list[ProductEmbeds] = []
        rows = iter(products)
        while batch := [read_product(product) for product in islice(rows, batch_size)]:
            parts.append(self.represent_batch(processor, batch))
        if not parts:
            raise ValueError("`products` is empty; give at least one.")
        fields = [name for name, value in parts[0].items() if value is not None]
        return ProductEmbeds(**{name: torch.cat([part[name] for part in parts]) for name in fields})

    def represent_batch(self, processor: Any, batch: Sequence[tuple[str | None, Any]]) -> ProductEmbeds:
        """Represent a few products at once.

        Args:
            processor: The [`EClipProcessor`] of the checkpoint.
            batch: Titles and pictures as `read_product` tells them.

        Returns:
            The products.
        """
        inputs = prepare_products(processor, batch, self.config.modality)
        on_device = {name: value.to(self.device) for name, value in inputs.items()}
        encoded: dict[str, Any] = encode_products(self.eclip, on_device)
        return self.represent(**encoded)

    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """Tell the tasks of `transformers.pipeline` that checkpoints of this class bring along."""
        from .pipelines_eclip import custom_pipelines_of

        return custom_pipelines_of(type(self))

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> ModelOutput:
        """Say what the head makes of products that are represented already.

        Args:
            embeds: The products, as `represent` returns them.
            labels: Labels of the task, `None` where no loss is wanted.

        Returns:
            The head's output.
        """
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        text_pooler_output: torch.Tensor | None = None,
        image_pooler_output: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ModelOutput:
        """Represent products, and say what the head makes of them.

        Args:
            input_ids: As for [`EClipTaskModel.represent`], and so are all that are not named here.
            attention_mask: See there.
            pixel_values: See there.
            labels: Labels of the task, as the head's `answer` takes them; `None` where no loss is wanted.
            has_text: See there.
            has_image: See there.
            text_pooler_output: See there.
            image_pooler_output: See there.
            position_ids: See there.
            token_type_ids: See there.
            pixel_attention_mask: See there.
            spatial_shapes: See there.
            interpolate_pos_encoding: See there.
            **kwargs: Passed to the towers; and `return_dict`.

        Returns:
            The head's output, or a tuple with `return_dict=False`.

        Raises:
            ValueError: a product has none of the sides that the head looks at.
        """
        embeds = self.represent(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            has_text=has_text,
            has_image=has_image,
            text_pooler_output=text_pooler_output,
            image_pooler_output=image_pooler_output,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            pixel_attention_mask=pixel_attention_mask,
            spatial_shapes=spatial_shapes,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **kwargs,
        )
        return self.answer(embeds, labels)


class EClipYesOrNoModel(EClipTaskModel):
    """What heads have in common that answer yes or no: log odds, calibration, a threshold."""

    @property
    def decision_threshold(self) -> float:
        """Probability from which the answer is yes: `config.decision_threshold`, or 0.5 where that is `None`."""
        threshold = self.config.decision_threshold
        return 0.5 if threshold is None else threshold

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits into calibrated probabilities, shape `(B,)` to the same."""
        slope, intercept = self.config.calibration
        return torch.sigmoid(slope * logits + intercept)

    def decode(self, logits: torch.Tensor) -> list[bool]:
        """Answer yes or no.

        Args:
            logits: Shape `(B,)`.

        Returns:
            Whether each probability reaches the threshold.
        """
        return (self.probabilities(logits) >= self.decision_threshold).tolist()


__all__ = ["EClipTaskModel", "EClipYesOrNoModel", "ProductRepresentation", "side_widths"]
