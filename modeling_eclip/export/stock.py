"""A model and its processor as stock classes of transformers, which load without this package and remote code.

Two towers of CLIP become a `CLIPModel`, of SigLIP a `SiglipModel`, of SigLIP 2 a `Siglip2Model`, and others a
`VisionTextDualEncoderModel` where it has a place for all that they do. The weights are copied; the one exception is
SigLIP, which projects inside its towers, so that the projection of titles is multiplied into the last layer there.
`modeling_eclip.hub.pretrained_parts` is the way back.
"""

import copy
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Siglip2Config,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from ..modeling_eclip import EClipModel
from ..processing_eclip import EClipProcessor
from ..towers_eclip import tower_width

__all__ = ["save_stock", "stock_model", "stock_processor"]


class _Stock(NamedTuple):
    config_class: Any
    model_class: Any
    processor_class: Any


_DUAL_ENCODER = _Stock(VisionTextDualEncoderConfig, VisionTextDualEncoderModel, VisionTextDualEncoderProcessor)
# By the model types of the image tower and of the title tower.
_FAMILIES = {
    ("clip_vision_model", "clip_text_model"): _Stock(CLIPConfig, CLIPModel, CLIPProcessor),
    ("siglip_vision_model", "siglip_text_model"): _Stock(SiglipConfig, SiglipModel, SiglipProcessor),
    ("siglip2_vision_model", "siglip2_text_model"): _Stock(Siglip2Config, Siglip2Model, Siglip2Processor),
}
# Tokenizer classes that transformers 4 has not; all that they do is in `tokenizer.json`.
_NEW_TOKENIZERS = ("Siglip2Tokenizer", "TokenizersBackend")


def stock_model(model: EClipModel) -> PreTrainedModel:
    """Return a model as a stock class of transformers, with the same features, embeddings and logits.

    SigLIP's logits have a bias, as e-CLIP's have that were trained with a sigmoid. Of a model without one it becomes
    0, and the sigmoid of its logits is no probability, as it was none before. Stock classes of other towers have no
    place for a bias: their logits lack it, all alike, which changes no ranking and no softmax.

    Args:
        model: The model. What its configuration says of the loss has no counterpart and is left out.

    Returns:
        The model in the dtype of the given one, in evaluation mode; `save_pretrained` makes the folder.

    Raises:
        ValueError: no stock class does what the model does; the message says what it lacks.
    """
    family = _family_of(model.config)
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    # Configurations as dictionaries, or the stock model would share and change those of the model.
    vision, text = (tower.to_dict() for tower in _towers(model.config))
    fields: dict[str, Any] = {}
    for name in ("vision", "text"):
        _check_pooling(model, name, family)
    if family.config_class in (SiglipConfig, Siglip2Config):
        text["projection_size"] = model.config.projection_dim
        state = _without_projections(state, family)
    else:
        fields = {
            "projection_dim": model.config.projection_dim,
            "logit_scale_init_value": model.config.logit_scale_init_value,
        }
        state.pop("logit_bias", None)
    if family is _DUAL_ENCODER:
        _check_dual_encoder(model)
        # The only field of a tower's width that the class reads; families name it differently.
        vision["hidden_size"] = model.visual_projection.in_features
        text["hidden_size"] = model.text_projection.in_features
    config = family.config_class(vision_config=vision, text_config=text, **fields)
    stock = family.model_class._from_config(config, dtype=model.dtype)
    stock.load_state_dict(state)
    return stock.eval()


def stock_processor(processor: EClipProcessor, config: PreTrainedConfig) -> ProcessorMixin:
    """Return a processor as the stock class that belongs to [`stock_model`], with the same inputs where it can.

    Padding and length of titles are kept as settings of the tokenizer, so that a call without them gives the inputs of
    this package's processor. What that does beyond stock ones is lost: images are turned as their cameras held them,
    transparent ones laid on white, large files reduced and broken ones named; very long titles are cut before they are
    tokenized.

    Args:
        processor: The processor.
        config: Configuration of the [`EClipModel`].

    Returns:
        The processor, with copies of the parts of the given one.

    Raises:
        ValueError: no stock class does what the model does.
    """
    family = _family_of(config)
    tokenizer, image_processor = copy.deepcopy(processor.tokenizer), copy.deepcopy(processor.image_processor)
    if hasattr(image_processor, "do_convert_rgb"):  # without, a grey image is an error
        image_processor.do_convert_rgb = True
    titles = processor.text_kwargs
    names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    tokenizer.model_max_length, tokenizer.model_input_names = titles["max_length"], names
    # What a stock processor takes for its calls from `tokenizer_config.json`, before the defaults of its class.
    settings = {name: titles[name] for name in ("padding", "truncation", "max_length")}
    if titles["padding"] == "max_length":
        # Callers with a habit of `padding=True`, servers among them, would pad to the longest title, which reads as
        # another text in SigLIP.
        settings["pad_to_multiple_of"] = titles["max_length"]
    class_settings: Mapping[str, Any] = getattr(family.processor_class, "images_kwargs", {})
    for name, value in class_settings.items():
        if getattr(image_processor, name, value) != value:
            settings[name] = getattr(image_processor, name)
    tokenizer.init_kwargs = {**tokenizer.init_kwargs, **settings, "model_input_names": names}
    for part in (tokenizer.init_kwargs, vars(image_processor)):
        for name in ("auto_map", "processor_class", "_processor_class"):
            part.pop(name, None)
    return family.processor_class(image_processor=image_processor, tokenizer=tokenizer)


def save_stock(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> None:
    """Save a stock model and its processor so that transformers 4 and transformers.js load them, too.

    Args:
        model: What [`stock_model`] returned.
        processor: What [`stock_processor`] returned.
        folder: Where; it is made where it is not there.
    """
    for part in (model, processor, processor.image_processor):  # the last one's `preprocessor_config.json`
        part.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["tokenizer_class"] in _NEW_TOKENIZERS:
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _family_of(config: Any) -> _Stock:
    return _FAMILIES.get((config.vision_config.model_type, config.text_config.model_type), _DUAL_ENCODER)


def _check_pooling(model: EClipModel, name: str, family: _Stock) -> None:
    pooling = getattr(model.config, f"{name}_pooling")
    if pooling != "pooler":
        raise ValueError(
            f"`{name}_pooling` is {pooling!r}, but {family.model_class.__name__} reads the tower's own pooled output "
            f"('pooler'); train with `{name}_pooling: pooler`, or export to ONNX or OpenVINO."
        )


def _without_projections(state: dict[str, torch.Tensor], family: _Stock) -> dict[str, torch.Tensor]:
    """Fold the projections into SigLIP's towers; `state` is that of an [`EClipModel`], the result the stock one's."""
    bias = state.get("logit_bias")
    visual, projection = state.pop("visual_projection.weight"), state.pop("text_projection.weight")
    if visual.shape[0] != visual.shape[1] or not torch.equal(visual, torch.eye(len(visual)).to(visual)):
        # Its last step is `x + mlp(layer_norm(x))`: no weights there give `W x` and leave what is normalised the same.
        raise ValueError(
            f"`visual_projection` is not the identity, and {family.model_class.__name__} has no place for it: its "
            "image tower ends in a sum of a layer's input and output, which no layer can take up for it. Start from "
            "the SigLIP checkpoint and train with `--freeze '^visual_projection'`, or export to ONNX or OpenVINO."
        )
    # Titles end in a linear layer, which takes it up: P (W x + b) = (P W) x + P b. In float64, then rounded once.
    for name in ("text_model.head.weight", "text_model.head.bias"):
        state[name] = (projection.double() @ state[name].double()).to(state[name].dtype)
    state["logit_scale"] = state["logit_scale"].reshape(1)
    state["logit_bias"] = bias.reshape(1) if bias is not None else torch.zeros_like(state["logit_scale"])
    return state


def _towers(config: PreTrainedConfig) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """Return the configurations of the image tower and of the title tower."""
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, PreTrainedConfig) and isinstance(text, PreTrainedConfig)
    return vision, text


def _check_dual_encoder(model: EClipModel) -> None:
    """Refuse towers that `VisionTextDualEncoderModel` can't build, or whose inputs or outputs it can't handle."""
    reason = None
    towers = _towers(model.config)
    for tower in towers:
        if type(tower) not in AutoModel._model_mapping:
            reason = f"builds its towers by AutoModel, which has none for {tower.model_type!r} alone"
    if "spatial_shapes" in inspect.signature(model.vision_model.forward).parameters:
        reason = f"passes on neither masks nor sizes of images, which {towers[0].model_type!r} needs"
    elif not _pools_to_vectors(model):
        reason = f"takes no map as the pooled output, which {towers[0].model_type!r} gives"
    if reason:
        raise ValueError(
            f"VisionTextDualEncoderModel {reason}; train with another tower, or export to ONNX or OpenVINO."
        )


@torch.no_grad()
def _pools_to_vectors(model: EClipModel) -> bool:
    """Tell whether the image tower's own pooled output has the shape `(B, width)`, and no further axes."""
    if hasattr(model.config.vision_config, "hidden_size"):
        return True
    # Only convolutional towers have no such field, and they take images of any size.
    pixels = torch.zeros(1, getattr(model.config.vision_config, "num_channels", 3), 64, 64, dtype=model.dtype)
    pooled = model.vision_model(pixel_values=pixels.to(model.device), return_dict=True).pooler_output
    return pooled.shape == (1, tower_width(model.config.vision_config, "pooler"))
