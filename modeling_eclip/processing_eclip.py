"""Titles and images of offers to model inputs: any stock image processor and any tokenizer, joined.

Contract: `EClipProcessor` adds three things to transformers' `ProcessorMixin`. Images go through
`load_product_image`, and an error names the item; titles are padded and cut to `max_title_length`, which is saved
with the processor; and a processor can be put together from two towers' checkpoints or taken from a CLIP, SigLIP or
SigLIP 2 checkpoint. Every other thing (keyword arguments per call, saving, the Hub, decoding) is the mixin's.
"""

import importlib
import os
import re
import threading
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from .images_eclip import ProductImageError, load_product_image

DEFAULT_MAX_TITLE_LENGTH, _SIGLIP_TITLE_LENGTH = 128, 64
_MODALITIES = ("text", "image")
_TITLE_PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

# What a title says literally: its hashed n-grams, of these kinds in this order.
LEXICAL_KINDS = ("words", "word pairs", "3-grams", "words with digits", "numbers", "codes", "closed up", "first word")
LEXICAL_BITS = 18  # of the hash of an n-gram; its kind stands above them
LEXICAL_PADDING = len(LEXICAL_KINDS) << LEXICAL_BITS
LEXICAL_LENGTH, _MAX_LEXICAL_CHARACTERS = 1024, 320
# Vowel signs and the like, of which Python's \w knows nothing; without the selectors of how emoji look.
_MARKS = "".join(c for c in map(chr, range(0x300, 0xFE00)) if unicodedata.category(c) in ("Mn", "Mc"))
_WORD = re.compile(rf"[^\W_](?:[^\W_]|[{_MARKS}])*(?:[.,]\d+)*")

# Fast tokenizers keep padding and length as state between calls: one call at a time, whichever processor makes it.
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a process forked during a call would wait for ever
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class EClipProcessor(ProcessorMixin):
    """Prepare titles and images for `EClipModel`.

    Args:
        image_processor: Any image processor of transformers.
        tokenizer: Any tokenizer of transformers.
        max_title_length: Titles are cut to this many tokens, special tokens included, or to the tokenizer's
            `model_max_length` where that is less. None means 128: titles are short (under 11 words; e-CLIP, Shin et
            al. 2022), so this is room enough in any script.
        title_padding: What the tokenizer takes as `padding` where a call does not say: True or `"longest"` (to the
            longest title of the call), `"max_length"` (to the whole length, for SigLIP's text towers) or False.
        lexical_features: Whether titles come with their `lexical_ids`, too, for a head that reads them.
        fields: Pairs of a column of `"text"` or `"image"` and its weight, for `modeling_eclip.inference.fields`.
        **kwargs: `chat_template`, which the mixin accepts.

    Raises:
        ValueError: If a setting of titles is out of range, or titles are to be padded and the tokenizer has no
            padding token.
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        max_title_length: int | None = None,
        title_padding: bool | str = True,
        lexical_features: bool = False,
        fields: dict[str, list[Any]] | None = None,
        **kwargs: Any,
    ):
        """Join the parts and check the settings of titles."""
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_title_length, self.title_padding = max_title_length, title_padding
        self.lexical_features, self.fields = lexical_features, fields
        self.check_title_settings()

    @property
    def text_kwargs(self) -> dict[str, Any]:
        """What the tokenizer is called with where a call does not say."""
        return {
            "padding": self.title_padding,
            "truncation": True,
            "max_length": min(self.tokenizer.model_max_length, self.max_title_length or DEFAULT_MAX_TITLE_LENGTH),
            "return_token_type_ids": False,
        }

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that the model takes; a title has one segment, so there are no token types."""
        names = [name for name in super().model_input_names if name != "token_type_ids"]
        return names + ["lexical_ids"] * self.lexical_features

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare titles, images, or both.

        Args:
            images: One image, or any iterable of them (or an array or tensor with four axes), each in any form that
                `load_product_image` accepts.
            text: One title or a sequence of `B` titles in any script, empty ones too; 10,000 characters are read.
            **kwargs: `return_tensors` and any other argument of the tokenizer or the image processor, flat or in
                `text_kwargs` / `images_kwargs`; these go before the processor's own `max_title_length` and
                `title_padding`.

        Returns:
            What the tokenizer returns: `input_ids` and, for most, `attention_mask`, both `(B, length)`; `lexical_ids`
            as [`lexical_ids`] gives them, where the processor has `lexical_features`; and what the image processor
            returns: for most `pixel_values` `(B, channels, height, width)`.

        Raises:
            ProductImageError: If an image cannot be used; the message starts with its place, as in `images[3]`.
            ValueError: If neither is given, a batch is empty, or a title is not text.
        """
        if images is None and text is None:
            raise ValueError("EClipProcessor received neither text nor images: give text=, images= or both.")
        inputs = BatchFeature()
        if text is not None:
            text = _checked_titles(text)
            # Left to the mixin, arguments that happen to be stored with a tokenizer (such as a `max_length`) would go
            # before the processor's defaults.
            defaults = {name: value for name, value in self.text_kwargs.items() if name not in kwargs}
            kwargs["text_kwargs"] = {**defaults, **kwargs.get("text_kwargs", {})}
            with _LOCK:
                inputs.update(super().__call__(text=text, **kwargs))
            if self.lexical_features:
                inputs["lexical_ids"] = lexical_ids([text] if isinstance(text, str) else text)
        if images is not None:
            inputs.update(super().__call__(images=_loaded_images(images), **kwargs))
        return inputs

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        max_title_length: int | None = None,
        title_padding: bool | str | None = None,
        **kwargs: Any,
    ) -> "EClipProcessor":
        """Load a saved `EClipProcessor`, or take the parts from a CLIP, SigLIP or SigLIP 2 checkpoint.

        SigLIP's text towers read the last position and were trained on titles padded to 64 tokens, so with their
        checkpoints `title_padding` is `"max_length"`.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            *args: As in transformers.
            max_title_length: Takes the place of the saved value.
            title_padding: Takes the place of the saved value.
            **kwargs: As in transformers: `revision`, `token`, `trust_remote_code`, ...

        Returns:
            The processor.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        saved, _ = cls.get_processor_dict(pretrained_model_name_or_path, **hub)
        if "title_padding" not in saved:
            config = _config_or_none(pretrained_model_name_or_path, kwargs.get("trust_remote_code"), **hub)
            siglip = "Siglip" in saved.get("processor_class", "")
            processor.max_title_length, processor.title_padding = _title_settings(config, siglip)
        # Not handed down: tokenizers and image processors keep whatever they are given and would save it.
        if max_title_length is not None:
            processor.max_title_length = max_title_length
        if title_padding is not None:
            processor.title_padding = title_padding
        processor.check_title_settings()
        return processor

    @classmethod
    def from_towers(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        *,
        image_size: int | tuple[int, int] | None = None,
        max_title_length: int | None = None,
    ) -> "EClipProcessor":
        """Put a processor together from the checkpoints of two towers.

        Args:
            vision: Folder or Hub id of the vision tower, with its image processor.
            text: Folder or Hub id of the text tower, with its tokenizer.
            image_size: Side, or height and width, in pixels that images shall come out with, in place of the image
                processor's own.
            max_title_length: As for the class; None takes the text tower's limit where that is less than 128.

        Returns:
            The processor. Titles are padded to the whole length where the text tower is SigLIP's.

        Raises:
            ValueError: If the image processor cannot be set to give `image_size`.
        """
        image_processor = AutoImageProcessor.from_pretrained(vision)
        if image_size is not None:
            sizes = importlib.import_module("modeling_eclip.inference.image_size")
            image_processor = sizes.with_output_size(image_processor, image_size)
        length, padding = _title_settings(_config_or_none(text))
        tokenizer = AutoTokenizer.from_pretrained(text)
        return cls(image_processor, tokenizer, max_title_length=max_title_length or length, title_padding=padding)

    def check_title_settings(self) -> None:
        """Refuse, by a `ValueError`, settings of titles that do not fit the tokenizer, or each other."""
        if self.title_padding not in _TITLE_PADDINGS:
            raise ValueError(f"title_padding={self.title_padding!r}: give one of {_TITLE_PADDINGS}.")
        special = self.tokenizer.num_special_tokens_to_add()
        length = self.max_title_length
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length <= special):
            raise ValueError(
                f"max_title_length={length!r}: give a whole number of tokens above the tokenizer's {special} special "
                f"tokens, or None for {DEFAULT_MAX_TITLE_LENGTH}."
            )
        if self.title_padding not in (False, "do_not_pad") and self.tokenizer.pad_token is None:
            raise ValueError(
                f"title_padding={self.title_padding!r}, but the {type(self.tokenizer).__name__} has no padding token. "
                "Set tokenizer.pad_token (for instance to tokenizer.eos_token), or give title_padding=False and one "
                "title at a time."
            )


def _checked_titles(text: Any) -> str | list[str]:
    """One title or a list of them, cut to what is read; anything else is refused with its place."""
    if isinstance(text, str):
        return check_title(text, "text")
    if isinstance(text, bytes | Mapping) or not isinstance(text, Iterable):
        raise ValueError(f"text: received {type(text).__name__}. Give a title or a sequence of titles.")
    titles = list(text)
    if not titles:
        raise ValueError("text: received no titles. Give at least one, or leave text= out.")
    return [check_title(title, f"text[{index}]") for index, title in enumerate(titles)]


def check_title(title: Any, name: str) -> str:
    """Return what is read of a title; refuse what is not text or cannot be encoded, naming its place."""
    if not isinstance(title, str):
        raise ValueError(f"{name}: received {title!r:.200}, not a title. Give a string; '' for an offer without one.")
    try:
        title.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: holds half of a surrogate pair ({error.reason} at {error.start}). "
            'Repair it with title.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
        ) from error
    return title[:10_000]  # characters; a tokenizer takes seconds for a million


def lexical_ids(titles: Sequence[str | None]) -> torch.Tensor:
    """Hash the n-grams of titles in any script: what classifiers count, and pairs of titles are compared by.

    Titles are in lower case and of compatible characters (NFKC). "Codes" are the 4-grams of words with digits, "closed
    up" those of the whole title without spaces and signs, in which codes are looked for: "dsc-w120" is in "DSCW 120".

    Args:
        titles: `B` titles, of which 320 characters are read; `None` for an offer without one.

    Returns:
        `kind << 18 | hash` of each n-gram once, ascending, then padding; int32, shape `(B, 1024)`.
    """
    rows = torch.full((len(titles), LEXICAL_LENGTH), LEXICAL_PADDING, dtype=torch.int32)
    for row, title in enumerate(titles):
        text = unicodedata.normalize("NFKC", (title or "")[:_MAX_LEXICAL_CHARACTERS]).lower()
        words = _WORD.findall(text)
        spaced, closed = f" {' '.join(words)} ", _closed_up("".join(words))
        with_digits = [word for word in words if any(map(str.isdigit, word))]
        by_kind = (
            words,
            [f"{one} {other}" for one, other in zip(words, words[1:], strict=False)],
            _ngrams(spaced, 3),
            with_digits,
            re.findall(r"\d+(?:[.,]\d+)*", text),
            [gram for word in with_digits for gram in _ngrams(_closed_up(word), 4)],
            _ngrams(closed, 4),
            words[:1],
        )
        ids = {kind << LEXICAL_BITS | _hash(ngram) for kind, ngrams in enumerate(by_kind) for ngram in ngrams}
        kept = sorted(ids)[:LEXICAL_LENGTH]
        rows[row, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
    return rows


def _hash(ngram: str) -> int:
    return zlib.crc32(ngram.encode()) % 2**LEXICAL_BITS


def _closed_up(text: str) -> str:
    return text.translate({ord("."): None, ord(","): None})


def _ngrams(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(len(text) - length + 1)]


def _loaded_images(images: Any) -> list[Any]:
    """One image or a sequence of them as a list of RGB Pillow images."""
    if isinstance(images, np.ndarray | torch.Tensor):
        single = images.ndim != 4 and images.dtype != object
    else:
        # Anything else that holds items (a list, a column of `datasets`, a generator) is a batch.
        one_image = isinstance(images, str | bytes | os.PathLike | Mapping) or hasattr(images, "getexif")
        single = one_image or not isinstance(images, Iterable)
    if not (images := [images] if single else list(images)):
        raise ValueError("images: received no images. Give at least one, or leave images= out.")
    return [_loaded(image, "images" if single else f"images[{index}]") for index, image in enumerate(images)]


def _loaded(image: Any, place: str) -> Any:
    try:
        return load_product_image(image)
    except ProductImageError as error:
        hint = " Titles are given by name, as text=..." if isinstance(image, str) and "://" not in image else ""
        raise ProductImageError(f"{place}: {error}{hint}", error.reason) from error


def _config_or_none(
    checkpoint: str | os.PathLike, trust_remote_code: bool | None = None, **hub: Any
) -> PreTrainedConfig | None:
    """The model's config, which a folder with a processor alone does not have."""
    try:
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust_remote_code, **hub)
    except (OSError, ValueError):
        return None


def _title_settings(config: PreTrainedConfig | None, siglip: bool = False) -> tuple[int | None, bool | str]:
    """`max_title_length` and `title_padding` that a text tower asks for.

    The tower's config is asked since not every tokenizer of a SigLIP checkpoint is of a SigLIP class, and not every
    tokenizer states its `model_max_length`.
    """
    text_config = getattr(config, "text_config", config)
    siglip = siglip or getattr(text_config, "model_type", "").startswith("siglip")
    usual = _SIGLIP_TITLE_LENGTH if siglip else DEFAULT_MAX_TITLE_LENGTH
    length = min(usual, getattr(text_config, "max_position_embeddings", None) or usual)
    return (length if length < DEFAULT_MAX_TITLE_LENGTH else None), ("max_length" if siglip else True)


def read_product(product: Any, fields: Any = None) -> tuple[str | None, Any]:
    """Return the title and the image of a product.

    Args:
        product: A title (`str`), an image in any form that [`load_product_image`] takes but a `str`, or a mapping
            with `"text"` (a title, or a mapping of fields to texts, the title first), `"image"` (one, a list of them,
            or such a mapping) or both. One may be missing: `None` or not a number; so is a blank title of an image.
        fields: `fields` of the processor, by which several texts are ordered, and several images have weights.

    Returns:
        The title and the image, `None` where there is none. Several images are a list of pairs of one and its weight.

    Raises:
        ValueError: there is neither, or the mapping has other keys.
    """
    if isinstance(product, str):
        return product, None
    if not isinstance(product, Mapping) or (product and set(product) <= {"bytes", "path"}):
        product = {"image": product}
    if unknown := [key for key in product if key not in _MODALITIES]:
        raise ValueError(f"received a product with {unknown}; give {{'text': title, 'image': image}}, or one of them.")
    title, image = (None if is_missing(product.get(key)) else product[key] for key in _MODALITIES)
    is_list = isinstance(image, list | tuple) or str(getattr(image, "dtype", "")) == "object"  # as pandas reads one
    has_fields = isinstance(image, Mapping) and not image.keys() <= {"bytes", "path"}
    if is_list or has_fields or isinstance(title, Mapping):
        title, image = importlib.import_module("modeling_eclip.inference.fields").read_offer(title, image, fields)
    if isinstance(title, str) and not title.strip() and image is not None:
        title = None
    if title is None and image is None:
        raise ValueError("received a product with neither title nor image; give it one of them, or leave it out.")
    return title, image


def prepare_products(
    processor: Any, products: Sequence[tuple[str | None, Any]], modality: str = "both"
) -> dict[str, torch.Tensor]:
    """Prepare the modalities that products have.

    Args:
        processor: The [`EClipProcessor`] of the checkpoint.
        products: Title and image of `B` products, as `read_product` tells them.
        modality: What to prepare: `"text"`, `"image"` or `"both"`.

    Returns:
        `has_text` and `has_image`, bool, shape `(B,)`; and the model's inputs: of titles, shape `(num_titles, N)`, and
        of images, `(num_images, 3, H, W)`, in the order of the products that have them.

    Raises:
        ProductImageError: an image cannot be used; the message starts with the product's place in the batch.
    """
    titles = [None if modality == "image" else title for title, _ in products]
    images = [None if modality == "text" else image for _, image in products]
    inputs: dict[str, torch.Tensor] = {
        "has_text": torch.tensor([title is not None for title in titles], dtype=torch.bool),
        "has_image": torch.tensor([image is not None for image in images], dtype=torch.bool),
    }
    if inputs["has_text"].any():
        inputs |= processor(text=[title for title in titles if title is not None], return_tensors="pt")
        if (found := inputs.get("lexical_ids")) is not None:  # a row per product, as heads take them
            inputs["lexical_ids"] = found.new_full((len(titles), LEXICAL_LENGTH), LEXICAL_PADDING)
            inputs["lexical_ids"][inputs["has_text"]] = found
    if inputs["has_image"].any():
        loaded = [_loaded(image, f"products[{place}]") for place, image in enumerate(images) if image is not None]
        inputs |= processor(images=loaded, return_tensors="pt")
    return inputs


def is_missing(value: Any) -> bool:
    """Tell an empty cell: `None`, or the not-a-number that tables which came through pandas hold there."""
    return value is None or (isinstance(value, float | np.floating) and value != value)


__all__ = [
    "HUB_ARGUMENTS", "LEXICAL_BITS", "LEXICAL_KINDS", "LEXICAL_LENGTH", "LEXICAL_PADDING", "EClipProcessor",
    "check_title", "is_missing", "lexical_ids", "prepare_products", "read_product",
]  # fmt: skip
