"""From arguments to what a run needs: products, processor, model."""

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import datasets
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, set_seed

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.sources import Source, parse_fields, parse_sources
from training.data.columns import ProductColumns
from training.data.held_out import hold_out
from training.data.read_tables import Products
from training.data.sources import ProductSource, load_sources
from training.engine.adapter_files import refuse_adapters

logger = logging.getLogger(__name__)

_SPECIAL_TOKENS = ("pad", "bos", "eos", "cls", "sep")
_DEFAULT_TITLE_LENGTH = 32
# Arguments that a checkpoint fixes, since its weights depend on them.
_SETTLED = ("tokenizer", "image_size", "projection_dim", "vision_pooling", "text_pooling")


def load_split(arguments: DataArguments, split: str, *, keeps_row_ids: bool = False) -> Products:
    """Load the offers of a split.

    Args:
        arguments: The data arguments.
        split: `"train"`, `"validation"` or `"test"`. Only training offers are streamed, cut or filtered by rules.
        keeps_row_ids: Whether ids of rows stay as they are written, since others find them by these.

    Returns:
        Products with the canonical columns.

    Raises:
        ValueError: No sources are named.
    """
    columns = ProductColumns(
        title=parse_fields("text_columns", arguments.text_columns) or arguments.title_column,
        image=parse_fields("image_columns", arguments.image_columns) or arguments.image_column,
        catalog_id=tuple(arguments.catalog_id_column),
        row_id=arguments.pair_id_column if _has_labelled_pairs(arguments, split) else arguments.id_column,
    )
    is_held_out = split == "validation" and bool(arguments.validation_share)
    part = "train" if is_held_out else split
    training = part == "train"
    sources = getattr(arguments, f"{part}_data")
    if not sources:
        other = ", or hold some of `train_data` out by `validation_share`" if split == "validation" else ""
        raise ValueError(f"`{split}_data` is empty; name the sources of the {split} offers{other}.")
    rules = arguments.exclude_rows if training else []
    products = load_sources(
        [_product_source(source, columns, rules) for source in parse_sources(f"{part}_data", sources)],
        split=getattr(arguments, f"{part}_split"),
        streaming=training and arguments.streaming,
        max_rows=arguments.max_train_rows if training else None,
        max_catalog_share=arguments.max_catalog_share,
        keeps_row_ids=keeps_row_ids or _has_labelled_pairs(arguments, split),
        encoding=arguments.encoding,
        toy_offers=arguments.toy_offers,
        toy_seed=arguments.toy_seed,
    )
    if training and arguments.validation_share:
        assert isinstance(products, datasets.Dataset)  # the arguments refuse a share of a stream
        return hold_out(products, arguments.validation_share)[is_held_out]
    return products


def _product_source(source: Source, columns: ProductColumns, exclude_rows: list[str]) -> ProductSource:
    """Give a source the columns and rules of the other arguments where it names none."""
    named = {
        "title": source.text_columns or source.title_column,
        "image": source.image_columns or source.image_column,
        "row_id": source.id_column,
    }
    given: dict[str, Any] = {field: name for field, name in named.items() if name is not None}
    if source.catalog_id_column is not None:
        given["catalog_id"] = source.catalog_id_column
    return ProductSource(
        source.files,
        replace(columns, **given),
        exclude_rows=exclude_rows if source.exclude_rows is None else source.exclude_rows,
        weight=source.weight,
        is_plain=source.is_plain,
        has_pairs=source.pairs,
        may_lack=() if source.is_plain else [field for field in ("title", "image") if field not in given],
    )


def _has_labelled_pairs(arguments: DataArguments, split: str) -> bool:
    """Tell whether pairs name the rows of a split; those of the test split may be of other offers than it."""
    return getattr(arguments, f"{split}_pairs") is not None and not (split == "test" and arguments.pairs_data)


def trained_fields(data: DataArguments) -> dict[str, list[list[Any]]] | None:
    """Return the columns of several texts or images that offers are trained with, for the processor to keep.

    Args:
        data: The data arguments; where sources alone name such columns, those of the first that does.

    Returns:
        Pairs of a column and its weight as `"text"`, `"image"` or both: in JSON, an object would lose their order.
        `None` where there is one title and one image.
    """
    sources = parse_sources("train_data", data.train_data)
    found: dict[str, Any] = {}
    for kind in ("text", "image"):
        name = f"{kind}_columns"
        of_sources = (getattr(source, name) for source in sources if getattr(source, name))
        found[kind] = parse_fields(name, getattr(data, name)) or next(of_sources, None)
    return {kind: [[*pair] for pair in fields.items()] for kind, fields in found.items() if fields} or None


def on_checkpoint(arguments: ModelArguments, checkpoint: str) -> ModelArguments:
    """Replace the arguments that say how to build a model by a checkpoint.

    Args:
        arguments: The model arguments.
        checkpoint: Hub id or folder.

    Returns:
        Arguments with the checkpoint, and with those values that a checkpoint does not fix.
    """
    left = ("max_title_length", "freeze", "loss", "catalog_mates", "catalog_weight", "matryoshka_dims",
            "matryoshka_weights", "lora_rank", "lora_alpha", "lora_targets", "load_in_4bit")  # fmt: skip
    return ModelArguments(checkpoint=checkpoint, **{name: getattr(arguments, name) for name in left})


def build_processor(arguments: ModelArguments, titles: Iterable[str | None]) -> EClipProcessor:
    """Build or load the processor that goes with the model.

    Args:
        arguments: The model arguments.
        titles: Titles of the training offers; read only where a tokenizer is trained on them.

    Returns:
        The processor.
    """
    source = source_of(arguments)
    if source in ("checkpoint", "clip"):
        return EClipProcessor.from_pretrained(
            arguments.checkpoint or arguments.clip, max_title_length=arguments.max_title_length
        )
    max_title_length = arguments.max_title_length or _DEFAULT_TITLE_LENGTH
    if source == "towers":
        return EClipProcessor.from_towers(
            arguments.vision_tower,
            arguments.text_tower,
            image_size=arguments.image_size,
            max_title_length=max_title_length,
        )
    if arguments.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    else:
        logger.info("training a tokenizer of %s tokens on the titles", arguments.vocab_size)
        tokenizer = train_title_tokenizer(
            (title for title in titles if title),
            vocab_size=arguments.vocab_size,
            max_title_length=max_title_length,
        )
    size = arguments.image_size or _config_of(arguments.vision_config)["image_size"]
    image_processor = _plain_image_processor(size)
    return EClipProcessor(image_processor, tokenizer, max_title_length=max_title_length)


def build_model(
    arguments: ModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    batch_size: int | None = None,
    **settings: Any,
) -> EClipModel:
    """Build or load the model.

    The bias of a sigmoid loss begins at `-log(batch_size)`, with which each title expects one image of the first
    batches to be its own (this package's design). SigLIP's -10 is that of 22,026 offers: in batches of a hundred,
    pairs that are no partners have next to no gradient with it until it is learned.

    Args:
        arguments: The model arguments.
        tokenizer: Tokenizer of the processor, whose vocabulary a new title tower gets.
        seed: Seed of new weights.
        batch_size: Offers of the first batches, for a new bias; SigLIP's if not given.
        **settings: How a checkpoint is loaded: `quantization_config`, `device_map`.

    Returns:
        The model, in float32.
    """
    set_seed(seed)
    fields: dict[str, Any] = {
        "vision_pooling": arguments.vision_pooling,
        "text_pooling": arguments.text_pooling,
        "projection_dim": arguments.projection_dim,
        "loss": arguments.loss,
        "catalog_mates": arguments.catalog_mates,
        "catalog_weight": arguments.catalog_weight,
        "matryoshka_dims": arguments.matryoshka_dims or None,
        "matryoshka_weights": arguments.matryoshka_weights or None,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    source = source_of(arguments)
    if source == "checkpoint":
        refuse_adapters(arguments.checkpoint)
        model, told = EClipModel.from_pretrained(
            arguments.checkpoint, dtype=torch.float32, output_loading_info=True, **settings, **fields
        )
        if "logit_bias" in told["missing_keys"]:
            # A softmax knows no bias. Its scale with that of a new one would find pairs among all that is similar.
            torch.nn.init.constant_(model.logit_scale, math.log(10))
            _begin_bias(model, batch_size)
        return model
    if source == "clip":
        model = EClipModel.from_clip(arguments.clip, **fields)
        if not AutoConfig.from_pretrained(arguments.clip).model_type.startswith("siglip"):  # which brings its own
            _begin_bias(model, batch_size)
        return model
    if source == "towers":
        return _begin_bias(EClipModel.from_towers(arguments.vision_tower, arguments.text_tower, **fields), batch_size)
    vision_config, text_config = _config_of(arguments.vision_config), _config_of(arguments.text_config)
    if arguments.image_size is not None:
        vision_config["image_size"] = arguments.image_size
    text_config["vocab_size"] = len(tokenizer)
    for name in _SPECIAL_TOKENS:
        if (token_id := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            text_config[f"{name}_token_id"] = token_id
    model = EClipModel(EClipConfig(vision_config=vision_config, text_config=text_config, **fields))
    return _begin_bias(model, batch_size)


def _begin_bias(model: EClipModel, batch_size: int | None) -> EClipModel:
    if model.logit_bias is not None and batch_size is not None:
        torch.nn.init.constant_(model.logit_bias, -math.log(batch_size))
    return model


def source_of(arguments: ModelArguments) -> str:
    """Tell which way to start was chosen.

    Args:
        arguments: The model arguments.

    Returns:
        `"checkpoint"`, `"clip"`, `"towers"` or `"configs"`.

    Raises:
        ValueError: none was, or several, or half of one.
    """
    ways = {
        "checkpoint": arguments.checkpoint,
        "clip": arguments.clip,
        "towers": arguments.vision_tower or arguments.text_tower,
        "configs": arguments.vision_config or arguments.text_config,
    }
    chosen = [way for way, value in ways.items() if value]
    if len(chosen) != 1:
        raise ValueError(
            f"the model is given by {chosen or 'nothing'}; give exactly one of `checkpoint`, `clip`, `vision_tower` "
            "and `text_tower`, or `vision_config` and `text_config`, or a `--config` that does."
        )
    if chosen == ["towers"] and not (arguments.vision_tower and arguments.text_tower):
        raise ValueError(
            f"`vision_tower` is {arguments.vision_tower!r} and `text_tower` is {arguments.text_tower!r}; give both."
        )
    if chosen == ["configs"] and not (arguments.vision_config and arguments.text_config):
        raise ValueError(
            f"`vision_config` is {arguments.vision_config!r}, `text_config` is {arguments.text_config!r}; give both."
        )
    if chosen[0] in ("checkpoint", "clip"):
        for name in _SETTLED:
            if value := getattr(arguments, name):
                raise ValueError(f"`{name}` is {value!r}, but `{chosen[0]}` has settled it; leave it out.")
    return chosen[0]


def _config_of(text: str) -> dict[str, Any]:
    """Read a tower's configuration, with every field that its family has."""
    try:
        config = json.loads(text)
        return AutoConfig.for_model(**config).to_dict()
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{text!r} is no tower configuration ({error}); give JSON with a `model_type`.") from error


def _plain_image_processor(size: int) -> Any:
    """Return an image processor for a tower without pretrained weights: resized whole, to values from -1 to 1."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(
        size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    )


__all__ = ["build_model", "build_processor", "load_split", "source_of", "trained_fields"]
