"""ProductRepresentation, how heads see products; EClipTaskModel, what all heads have in common.

Notable choices:
- heads take the towers' vectors before the projection: the projection keeps what title and image share, and drops what
  only one of them tells, which a task needs;
- the vectors of both modalities are scaled to one length, so that neither outweighs the other;
- a learned missing-modality embedding, zero at the start, stands where a product lacks a modality;
- a head on both modalities is trained without one of them now and then (modality dropout), so that it can do without.
"""

import importlib
import json
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple, find_adapter_config_file, is_peft_available, logging

from .configuration_eclip import EClipConfig
from .fusion_eclip import LateFusionClassifier, LexicalLinear, ProductEmbeds, apply_linear
from .modeling_eclip import IMAGE_INPUTS, TEXT_INPUTS, EClipModel, EClipPreTrainedModel, normalize
from .processing_eclip import HUB_ARGUMENTS, LEXICAL_LENGTH, LEXICAL_PADDING, prepare_products, read_product
from .towers_eclip import tower_width

logger = logging.get_logger(__name__)

_NAMES = {"text": "title", "image": "image"}
# What is fitted to a classifier, and to no other one.
_FITTED = ("calibration", "decision_threshold", "target_recall", "target_precision", "review_below")

SENT_TO_REVIEW = "sent to review"  # the answer that is left to people


def modality_widths(config: EClipConfig) -> dict[str, int]:
    """Return the width of the towers' vectors of each modality that the head uses."""
    widths = {
        "text": tower_width(config.text_config, config.text_pooling),
        "image": tower_width(config.vision_config, config.vision_pooling),
    }
    return {name: width for name, width in widths.items() if config.modality in (name, "both")}


def import_from_package(module: str, purpose: str) -> ModuleType:
    """Import a module that does not travel with checkpoints.

    Args:
        module: Its name within `modeling_eclip`.
        purpose: What it is needed for.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return importlib.import_module(f"modeling_eclip.{module}")
    except ModuleNotFoundError as error:
        if not (error.name or "modeling_eclip").startswith("modeling_eclip"):
            raise
        raise ImportError(f"{purpose} needs the package modeling-eclip: pip install modeling-eclip") from None


class ProductRepresentation(nn.Module):
    """Represent products by the vectors that the towers gave for them.

    Args:
        config: Its `modality` names what is used, its `modality_dropout` how often training hides one.
    """

    def __init__(self, config: EClipConfig):
        """Build the missing-modality embeddings of a head on both modalities."""
        super().__init__()
        self.widths = modality_widths(config)
        self.dropout = float(config.modality_dropout) if config.modality == "both" else 0.0
        if config.modality == "both":
            self.missing_text_embedding = nn.Parameter(torch.zeros(self.widths["text"]))
            self.missing_image_embedding = nn.Parameter(torch.zeros(self.widths["image"]))

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
            The products' vectors by modality.

        Raises:
            ValueError: a product has no modality that the head uses.
        """
        given = {"text": (text_features, has_text), "image": (image_features, has_image)}
        features = {modality: given[modality][0] for modality in self.widths}
        present = {}
        some = next((vectors for vectors in features.values() if vectors is not None), None)
        if some is None:
            raise ValueError(f"No product has {self._wanted()}, and the head uses nothing else; give it.")
        for modality, vectors in features.items():
            mask = given[modality][1]
            if vectors is None:
                mask = torch.zeros(len(some), dtype=torch.bool)
            elif mask is None:
                mask = torch.ones(len(some), dtype=torch.bool)
            present[modality] = mask.to(device=some.device, dtype=torch.bool)
        if has_text is not None or has_image is not None:
            self._check(present)
        if self.training and self.dropout:
            present = self._hide(present)
        embeds = {name: self._embed(name, vectors, present[name]) for name, vectors in features.items()}
        return ProductEmbeds(
            text=embeds.get("text"),
            image=embeds.get("image"),
            has_text=present.get("text"),
            has_image=present.get("image"),
        )

    def _embed(self, modality: str, features: torch.Tensor | None, present: torch.Tensor) -> torch.Tensor:
        """Scale the vectors of a modality, and put the missing-modality embedding where there are none."""
        embeds = None if features is None else normalize(features) * features.shape[-1] ** 0.5
        if len(self.widths) == 1:
            assert embeds is not None  # the only modality, and `forward` has checked that it is there
            return embeds
        missing: torch.Tensor = getattr(self, f"missing_{modality}_embedding")
        if embeds is None:
            return missing.expand(len(present), -1)
        return torch.where(present.to(embeds.device).unsqueeze(1), embeds, missing.to(embeds.dtype))

    def _hide(self, present: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Hide one modality of some of the products that have both."""
        draw = torch.rand(len(present["text"]), device=present["text"].device)  # one per row: never both
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
                "leave it out, or use a head on what it has."
                if len(self.widths) > 1
                else f"Product {rows[0]} of the batch ({len(rows)} of {len(empty)}) has no {self._wanted()}, and the "
                "head uses nothing else; leave it out, or use a head on what it has."
            )

    def _wanted(self, conjunction: str = " or ") -> str:
        return conjunction.join(_NAMES[modality] for modality in self.widths)


class EClipTaskModel(EClipPreTrainedModel):
    """What all heads have in common: the model they stand on, and how they see products.

    A checkpoint of an [`EClipModel`] loads into every head, whose own weights are new then, and one of a head loads as
    an [`EClipModel`]. A subclass defines `answer`, and has `forward` from here.

    Args:
        config: The configuration.

    Attributes:
        class_field: Field of the configuration that names the head's classes; `None` where they are always the same.
    """

    class_field: str | None = None

    def __init__(self, config: EClipConfig):
        """Build the towers and the representation; a head adds its own and calls `post_init`."""
        super().__init__(config)
        config.validate()  # fields given to `from_pretrained` are set one by one
        self.eclip = EClipModel(config)
        self.representation = ProductRepresentation(config)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Self:
        """Load a head as any transformers model: from its checkpoint, a base model's, another head's, or adapters.

        Of a head of another task, or with other classes, all but its classifier is taken; the classifier is new, and
        so are calibration and threshold, which were fitted to the old one. Adapters (peft) with a head's configuration
        beside them are put on the checkpoint that they name.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            *args: As in transformers.
            **kwargs: As in transformers: fields of the configuration, `revision`, `dtype`, ... A whole `config` is
                taken as it is.

        Returns:
            The head, in evaluation mode.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        try:
            saved = cls.config_class.from_pretrained(pretrained_model_name_or_path, **hub)
        except (OSError, TypeError):  # adapters alone, a state without a name, or nothing, as transformers will tell
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        adapters = find_adapter_config_file(pretrained_model_name_or_path, **hub) if is_peft_available() else None
        if adapters is not None and not list(Path(str(pretrained_model_name_or_path)).glob("model*.safetensors")):
            settings = json.loads(Path(adapters).read_text(encoding="utf-8"))
            for name in cls.config_class.__annotations__.keys() & kwargs.keys():
                setattr(saved, name, kwargs.pop(name))
            kwargs = {"config": saved} | {name: value for name, value in kwargs.items() if name != "revision"}
            source = {"_adapter_model_path": str(pretrained_model_name_or_path), "revision": hub.get("revision")}
            kwargs["adapter_kwargs"] = (kwargs.get("adapter_kwargs") or {}) | source
            base, revision = settings["base_model_name_or_path"], settings.get("revision")
            return super().from_pretrained(base, *args, revision=revision or "main", **kwargs)
        config = kwargs.get("config")
        field = cls.class_field
        classes = None if field is None else kwargs.get(field, getattr(saved if config is None else config, field))
        is_same = field is None or _plain(classes) == _plain(getattr(saved, field))
        if saved.architectures == [EClipModel.__name__] or (saved.architectures == [cls.__name__] and is_same):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if config is None:
            kwargs = {name: getattr(cls.config_class(), name) for name in _FITTED} | kwargs
        mode = {"ignore_mismatched_sizes": True, "output_loading_info": True}
        head, info = super().from_pretrained(pretrained_model_name_or_path, *args, **(kwargs | mode))
        head._renew_classifier(info)
        if info["mismatched_keys"] and not kwargs.get("ignore_mismatched_sizes"):
            raise ValueError(
                f"{pretrained_model_name_or_path!s} has other shapes: {sorted(info['mismatched_keys'])[:3]}; "
                "leave the configuration of its towers as it is, or give ignore_mismatched_sizes=True."
            )
        return (head, info) if kwargs.get("output_loading_info") else head  # type: ignore[return-value]

    def _renew_classifier(self, info: dict[str, Any]) -> None:
        """Initialise the classifier whatever was loaded into it, and say so in the log and in the loading info."""
        own = nn.ModuleDict({name: part for name, part in self.named_children() if name in ("classifier", "evidence")})
        names = set(own.state_dict())
        if not (was_loaded := names - info["missing_keys"]):
            return
        for tensor in own.state_dict(keep_vars=True).values():
            tensor._is_hf_initialized = False
        for module in own.modules():
            self._init_weights(module)
        logger.warning("New, since the checkpoint is of another task or other classes: %s", sorted(was_loaded))
        info["missing_keys"] |= names
        info["mismatched_keys"] = {key for key in info["mismatched_keys"] if key[0] not in names}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ProductRepresentation) and len(module.widths) == 2:
            init.zeros_(module.missing_text_embedding)
            init.zeros_(module.missing_image_embedding)
        elif isinstance(module, LateFusionClassifier) and module.text is not None and module.image is not None:
            init.constant_(module.fusion_scale, 0.5)
            init.zeros_(module.fusion_bias)
        elif isinstance(module, LexicalLinear):
            init.zeros_(module.weight)
            init.zeros_(module.idf)

    def represent(
        self,
        *,
        has_text: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        text_pooler_output: torch.Tensor | None = None,
        image_pooler_output: torch.Tensor | None = None,
        lexical_ids: torch.Tensor | None = None,
        **inputs: Any,
    ) -> ProductEmbeds:
        """Represent products by title, image or both; a tower that the head does not use is not run.

        Args:
            has_text: As for [`EClipTaskModel.forward`], and so are all others.
            has_image: See there.
            text_pooler_output: See there.
            image_pooler_output: See there.
            lexical_ids: See there.
            **inputs: The towers' inputs, by name; what is no tower's by name is given to both.

        Returns:
            The products.

        Raises:
            ValueError: a product has no modality that the head uses.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        text = {name: given.pop(name) for name in TEXT_INPUTS if name in given}
        image = {name: given.pop(name) for name in (*IMAGE_INPUTS, "interpolate_pos_encoding") if name in given}
        if "input_ids" in text and self.config.modality != "image":
            text_pooler_output = self.eclip.encode_text(**text, **given).pooler_output
        if "pixel_values" in image and self.config.modality != "text":
            image_pooler_output = self.eclip.encode_image(**image, **given).pooler_output
        embeds = self.representation(text_pooler_output, image_pooler_output, has_text, has_image)
        if self.config.lexical_rows and self.config.modality != "image":
            missing = ~embeds.has_text.unsqueeze(1)
            if text_pooler_output is None:  # no title to read: the same field as for a batch with some
                embeds.lexical = missing.int().expand(-1, LEXICAL_LENGTH) * LEXICAL_PADDING
            elif lexical_ids is not None:
                embeds.lexical = lexical_ids.masked_fill(missing.to(lexical_ids.device), LEXICAL_PADDING)
            elif not torch.compiler.is_compiling():
                logger.warning_once("No `lexical_ids` are given, which this head reads; its own processor makes them.")
        return embeds

    @torch.no_grad()
    def represent_products(self, processor: Any, products: Iterable[Any], batch_size: int = 64) -> ProductEmbeds:
        """Represent products as users have them, for any number of answers afterwards.

        Args:
            processor: The [`EClipProcessor`] of the checkpoint.
            products: `N` products, each as `read_product` takes it.
            batch_size: Products that are encoded at a time.

        Returns:
            The products, without gradients. Call `eval` on the head first, unless it is in training.

        Raises:
            ValueError: there are no products, or one has no modality that the head uses.
        """
        parts: list[ProductEmbeds] = []
        rows = iter(products)
        while batch := [read_product(product, processor.fields) for product in islice(rows, batch_size)]:
            parts.append(self.represent_batch(processor, batch))
        if not parts:
            raise ValueError("`products` is empty; give at least one.")
        fields = [name for name in parts[0] if all(name in part for part in parts)]
        return ProductEmbeds(**{name: torch.cat([part[name] for part in parts]) for name in fields})

    def represent_batch(self, processor: Any, batch: Sequence[tuple[str | None, Any]]) -> ProductEmbeds:
        """Represent a few products at once.

        Args:
            processor: The [`EClipProcessor`] of the checkpoint.
            batch: Titles and images as `read_product` returns them.

        Returns:
            The products.
        """
        if any(isinstance(image, list) for _, image in batch):
            return import_from_package("inference.fields", "Several images").represent_several(self, processor, batch)
        inputs = prepare_products(processor, batch, self.config.modality)
        on_device = {name: value.to(self.device) for name, value in inputs.items()}
        return self.represent(**self.eclip.encode_products(on_device))

    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """Return the tasks of `transformers.pipeline` whose code is saved with checkpoints of this class."""
        from .pipelines_eclip import custom_pipelines_of

        return custom_pipelines_of(type(self))

    def sent_to_review(self, kind: str, confidences: torch.Tensor) -> torch.Tensor:
        """Tell which answers are left to people: those less probable than `config.review_below`; none without it.

        Args:
            kind: What is answered: `"category"`, the name of an attribute, `"yes"` or `"no"`.
            confidences: Probability of each answer, shape `(B,)`.

        Returns:
            Bool, shape `(B,)`.
        """
        thresholds = self.config.review_below
        lowest = 0.0 if thresholds is None else thresholds.get(kind)
        return torch.ones_like(confidences, dtype=torch.bool) if lowest is None else confidences < lowest

    def answer(self, embeds: ProductEmbeds, labels: torch.Tensor | None = None) -> ModelOutput:
        """Answer about products that are represented already.

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
        lexical_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ModelOutput:
        """Represent products, and answer about them. A head of pairs takes all inputs in the shape `(B, 2, ...)`.

        Args:
            input_ids: Tokens of the titles, shape `(B, N)`.
            attention_mask: Which tokens are real, shape `(B, N)`; `None` means all.
            pixel_values: Images, shape `(B, 3, H, W)`.
            labels: Labels of the task, as the head's `answer` takes them; `None` where no loss is wanted.
            has_text: Which products have a title, bool, shape `(B,)`; `None` means all, if titles are given. What
                `input_ids` holds for the others is not read.
            has_image: The same for images.
            text_pooler_output: The title tower's vectors in place of `input_ids`, shape `(B, text width)`: what
                [`EClipModel.encode_text`] gave once, for a tower that is not trained.
            image_pooler_output: The image tower's in place of `pixel_values`, likewise.
            lexical_ids: Hashed n-grams of the titles, int32, shape `(B, 1024)`, for a head that reads them.
            position_ids: As for [`EClipModel.encode_text`].
            token_type_ids: As for [`EClipModel.encode_text`].
            pixel_attention_mask: As for [`EClipModel.encode_image`].
            spatial_shapes: As for [`EClipModel.encode_image`].
            interpolate_pos_encoding: As for [`EClipModel.encode_image`].
            **kwargs: Passed to the towers; and `return_dict`.

        Returns:
            The head's output, or a tuple with `return_dict=False`.

        Raises:
            ValueError: a product has no modality that the head uses.
        """
        of_products = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": pixel_values,
            "has_text": has_text,
            "has_image": has_image,
            "text_pooler_output": text_pooler_output,
            "image_pooler_output": image_pooler_output,
            "lexical_ids": lexical_ids,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
        }
        given = {name: value for name, value in of_products.items() if value is not None}
        return self.answer_inputs(given, labels, interpolate_pos_encoding=interpolate_pos_encoding or None, **kwargs)

    def answer_inputs(
        self, inputs: dict[str, torch.Tensor], labels: torch.Tensor | None, **kwargs: Any
    ) -> ModelOutput:
        """Represent products and answer: `inputs` are the tensors given to `forward`, `kwargs` its other arguments."""
        return self.answer(self.represent(**inputs, **kwargs), labels)


class EClipYesOrNoModel(EClipTaskModel):
    """What heads that answer yes or no have in common: log odds, calibration, a threshold."""

    @property
    def decision_threshold(self) -> float:
        """Probability from which the answer is yes: `config.decision_threshold`, or 0.5 where that is `None`."""
        threshold = self.config.decision_threshold
        return 0.5 if threshold is None else threshold

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits into calibrated probabilities, shape `(B,)` to the same."""
        slope, intercept = self.config.calibration
        return torch.sigmoid(slope * logits + intercept)

    def decode(self, logits: torch.Tensor) -> list[bool | None]:
        """Answer yes or no.

        Args:
            logits: Shape `(B,)`.

        Returns:
            Whether each probability reaches the threshold; `None` for what is sent to review.
        """
        yes = self.probabilities(logits)
        is_yes = yes >= self.decision_threshold
        left = torch.where(is_yes, self.sent_to_review("yes", yes), self.sent_to_review("no", 1 - yes))
        return [None if review else answer for answer, review in zip(is_yes.tolist(), left.tolist(), strict=True)]


def _plain(classes: Any) -> Any:
    """Return names of classes in a form that compares: tuples equal lists, and paths keep their order."""
    return json.loads(json.dumps(classes))


@torch.no_grad()
def embed_names(model: EClipTaskModel, processor: Any, names: Sequence[Sequence[str]]) -> torch.Tensor:
    """Embed classes by their names.

    Args:
        model: A head, in evaluation mode.
        processor: The [`EClipProcessor`] of its checkpoint.
        names: The names of each class; a class with several of them is their mean.

    Returns:
        Embeddings of unit length, shape `(num_classes, projection_dim)`.
    """
    embeds = []
    for class_names in names:  # one class at a time: as many tokens as it takes, and no more
        tokens = processor(text=list(class_names), return_tensors="pt").to(model.device)
        features = model.eclip.get_text_features(tokens["input_ids"], tokens.get("attention_mask")).pooler_output
        embeds.append(normalize(normalize(features).mean(dim=0)))
    return torch.stack(embeds)


def zero_shot_logits(model: EClipTaskModel, class_embeds: torch.Tensor, embeds: ProductEmbeds) -> torch.Tensor:
    """Compare products with classes.

    Args:
        model: A head.
        class_embeds: What `embed_names` returned, shape `(num_classes, projection_dim)`.
        embeds: `B` products, as the head represents them.

    Returns:
        Logits, float32, shape `(B, num_classes)`: the mean of the similarities that there are, divided by the
        temperature.
    """
    projections = {"text": model.eclip.text_projection, "image": model.eclip.visual_projection}
    device = class_embeds.device
    similarities, weights = [], []
    for modality, (vectors, has_modality) in embeds.modalities.items():
        # A product's vectors are the tower's but for their length, which the projection hands on.
        projected = normalize(apply_linear(projections[modality], vectors))
        similarity = (projected @ class_embeds.to(projected).T).float().to(device)  # (B, num_classes)
        present = has_modality.to(device).unsqueeze(1)
        similarities.append(similarity.masked_fill(~present, 0))
        weights.append(present.float())
    mean = torch.stack(similarities).sum(dim=0) / torch.stack(weights).sum(dim=0).clamp(min=1)
    return model.eclip.logit_scale.float().exp().to(device) * mean


__all__ = [
    "EClipTaskModel", "EClipYesOrNoModel", "ProductRepresentation", "embed_names", "import_from_package",
    "modality_widths", "zero_shot_logits",
]  # fmt: skip
