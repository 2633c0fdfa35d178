"""Embedding many products: titles sorted by length, batches bounded by tokens, images decoded no larger than needed.

Contract: every embedding is what the model gives for the product alone, up to rounding, in the order of the inputs. It
is computed in the format of the model's weights: what `from_pretrained(..., dtype=...)` was asked for. A
padded title costs as much as a title of the padded length, so titles of like lengths form a batch, and a batch is
bounded by its tokens, not by its titles.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers.utils.logging import tqdm

from ..images_eclip import ProductImageError
from ..modeling_eclip import EClipModel, normalize, truncate_embeds
from ..processing_eclip import check_title
from .fields import are_several, pool_vectors, read_images, read_texts
from .pixels import PixelReader

__all__ = ["batch_size_for", "embed_inputs", "embed_products", "embed_tokens", "title_batches", "tokenize_titles"]

# Tokens, and images, of a batch: on a CPU as many as its caches hold, on an accelerator enough to keep it busy.
_TOKENS_AT_ONCE = {"cpu": 1024, "accelerator": 65536}
_IMAGES_AT_ONCE = {"cpu": 32, "accelerator": 256}
_TITLES_AT_ONCE = 4096  # tokenized in one call, to bound the tokenizer's memory


def embed_products(
    model: EClipModel,
    processor: Any,
    titles: Sequence[str | Mapping[str, Any]] | None = None,
    images: Sequence[Any] | None = None,
    *,
    field_pooling: str = "joined",
    truncate_dim: int | None = None,
    token_budget: int | None = None,
    image_batch_size: int | None = None,
    num_workers: int = 0,
    show_progress: bool = False,
) -> dict[str, torch.Tensor]:
    """Embed titles, images or both, any number of them.

    Threads may share a model and a processor, if the model is in evaluation mode: one in training is put into it for
    the time of the call.

    Args:
        model: The model.
        processor: Its `EClipProcessor`.
        titles: Titles, which may be empty: a list, a column of a table, or any other iterable. In place of a title
            stands `{"title": ..., "brand": ..., ...}` for several texts of a product.
        images: Images in any form that `load_product_image` accepts, in the same containers. In a list or tuple, a
            list, or a mapping of fields to images, stands for several images of one product, whose vector is their
            average, by the weights that the model was trained with. What decoding costs is bounded by what the header
            states: two seconds or so, with no limit of time beside that.
        field_pooling: What several texts of a product become: `"joined"` to one, as [`join_texts`] does, or the
            `"mean"` of their vectors, by the weights that the model was trained with.
        truncate_dim: Number of leading values of each embedding that are kept; see [`truncate_embeds`]. Of several
            images or texts, it is the kept values that are averaged.
        token_budget: Tokens of a batch of titles, padding included; 1,024 on a CPU and 65,536 on an accelerator
            if not given.
        image_batch_size: Images of a batch; 32 and 256 if not given.
        num_workers: Processes that read images; 0 reads them in this one. The files of open Pillow images are then
            read into memory first, since an open file has one position for all processes.
        show_progress: Whether to show progress bars.

    Returns:
        `text_embeds`, shape `(num_titles, dim)`, and `image_embeds`, shape `(num_images, dim)`, of those that were
        given: of unit length, float32, on the CPU, in the order of the inputs.

    Raises:
        ProductImageError: an image cannot be used; the message starts with its index, as in `images[3]`.
        ValueError: neither is given, one title or image is given in place of many, or a title is not text.
    """
    if titles is None and images is None:
        raise ValueError("`titles` and `images` are both None; give titles, images or both.")
    found = {}
    fields = getattr(processor, "fields", None) or {}
    if titles is not None:
        of_products: Sequence[Any] = _many("titles", titles)
        texts, owners, weights = read_texts(of_products, dict(fields.get("text", [])), field_pooling)
        found["text_embeds"] = _pooled(
            embed_tokens(
                model,
                processor,
                tokenize_titles(processor, texts),
                truncate_dim=truncate_dim,
                token_budget=token_budget,
                show_progress=show_progress,
            ),
            owners,
            weights,
        )
    if images is not None:
        size = image_batch_size or batch_size_for(model.device)
        of_images = dict(fields.get("image", []))
        sources, image_owners, names, image_weights = _flat(_many("images", images), of_images)
        if num_workers > 0 and isinstance(sources, list | tuple):
            sources = [_OpenedImage.of(image) for image in sources]
        batches = _ImageBatches(sources, names, PixelReader(processor), size)
        loader: DataLoader[Any] = DataLoader(
            batches,
            batch_size=None,  # an item is a whole batch
            num_workers=num_workers,
            collate_fn=_as_is,
            generator=torch.Generator(),  # not the one that dropout uses
        )
        parts = []
        # tqdm asks for an iterator twice, and a loader would start its workers twice.
        progress = tqdm(iter(loader), total=len(loader), desc="images", unit="batch", disable=not show_progress)
        for inputs in progress:
            if isinstance(inputs, ProductImageError):
                raise inputs
            parts.append(embed_inputs(model, inputs, truncate_dim=truncate_dim))
        found["image_embeds"] = _pooled(_joined(parts, model, truncate_dim), image_owners, image_weights)
    return {name: embeds.cpu() for name, embeds in found.items()}


def embed_tokens(
    model: EClipModel,
    processor: Any,
    tokens: Mapping[str, Sequence[Any]],
    *,
    truncate_dim: int | None = None,
    token_budget: int | None = None,
    show_progress: bool = False,
) -> torch.Tensor:
    """Embed titles that are tokenized already.

    Args:
        model: The model.
        processor: Its `EClipProcessor`.
        tokens: `N` titles as [`tokenize_titles`] returns them.
        truncate_dim: As for [`embed_products`].
        token_budget: As for [`embed_products`].
        show_progress: As for [`embed_products`].

    Returns:
        Embeddings in the titles' order, float32, on the model's device, shape `(N, dim)`.
    """
    budget = token_budget or _for_device(_TOKENS_AT_ONCE, model.device)
    batches = title_batches(tokens, processor.tokenizer, budget)
    embeds, places = [], []
    with tqdm(total=len(tokens["input_ids"]), desc="titles", disable=not show_progress) as progress:
        for rows, inputs in batches:
            embeds.append(embed_inputs(model, inputs, truncate_dim=truncate_dim))
            places.append(rows)
            progress.update(len(rows))
    joined = _joined(embeds, model, truncate_dim)
    if not embeds:
        return joined
    order = torch.cat(places).to(joined.device)
    return torch.empty_like(joined).index_copy_(0, order, joined)


@torch.no_grad()
def embed_inputs(model: EClipModel, inputs: Mapping[str, Any], *, truncate_dim: int | None = None) -> torch.Tensor:
    """Embed one batch of titles, or one of images, in evaluation mode.

    Args:
        model: The model.
        inputs: Arguments of [`EClipModel.get_text_features`] or of [`EClipModel.get_image_features`].
        truncate_dim: As for [`embed_products`].

    Returns:
        Embeddings of unit length, float32 for weights of any type, on the model's device, shape `(B, dim)`.
    """
    features: Any = model.get_text_features if "input_ids" in inputs else model.get_image_features
    given = {name: value.to(model.device, non_blocking=True) for name, value in inputs.items()}
    was_training = model.training
    if was_training:
        model.eval()
    try:
        pooled = features(**given).pooler_output.float()
    finally:
        if was_training:
            model.train()
    # Normalised in half precision, a vector's length would be wrong by a thousandth.
    return truncate_embeds(normalize(pooled), truncate_dim)


def batch_size_for(device: torch.device) -> int:
    """Return the default number of images in a batch."""
    return _for_device(_IMAGES_AT_ONCE, device)


def tokenize_titles(processor: Any, titles: Sequence[str]) -> dict[str, list[Any]]:
    """Tokenize titles, without padding if the processor pads to the longest title of a batch.

    Args:
        processor: The model's `EClipProcessor`.
        titles: `N` titles.

    Returns:
        What the tokenizer returns, by name: `N` lists of numbers each.

    Raises:
        ValueError: a title is not text.
    """
    padding = processor.title_padding if processor.title_padding == "max_length" else False
    tokens: dict[str, list[Any]] = {"input_ids": []}
    for place, title in enumerate(titles):
        check_title(title, f"text[{place}]")
    for start in range(0, len(titles), _TITLES_AT_ONCE):
        for name, rows in processor(text=titles[start : start + _TITLES_AT_ONCE], padding=padding).items():
            tokens.setdefault(name, []).extend(rows)
    return tokens


def title_batches(
    tokens: Mapping[str, Sequence[Any]], tokenizer: Any, token_budget: int
) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Make batches of titles of like lengths; the longest come first, so that too little memory shows at once.

    Titles of different lengths are in one batch only if an attention mask marks the padding.

    Args:
        tokens: `N` titles as [`tokenize_titles`] returns them.
        tokenizer: Its `pad_token_id` and `padding_side` are used.
        token_budget: Tokens of a batch, padding included; a longer title is a batch of its own.

    Yields:
        Indices of a batch's titles, int64, shape `(B,)`, and the text tower's inputs, each of shape `(B, length)`.
    """
    ids = tokens["input_ids"]
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    can_pad = tokenizer.pad_token_id is not None and "attention_mask" in tokens
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(token_budget // max(longest, 1), 1)]
        if not can_pad:
            rows = rows[lengths[rows] == longest]
        start += len(rows)
        inputs = {}
        for name, values in tokens.items():
            fill = tokenizer.pad_token_id if name == "input_ids" and can_pad else 0
            parts = [torch.tensor(values[row], dtype=torch.int64) for row in rows]
            inputs[name] = pad_sequence(
                parts, batch_first=True, padding_value=fill, padding_side=tokenizer.padding_side
            )
        yield torch.from_numpy(rows), inputs


class _ImageBatches(Dataset[Any]):
    """Batches of images, read when a loader asks for them; the error instead, if an image cannot be used."""

    def __init__(self, images: Sequence[Any], names: list[str] | None, reader: PixelReader, size: int) -> None:
        self.images, self.names, self.reader, self.size = images, names, reader, size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __getitem__(self, number: int) -> dict[str, Any] | ProductImageError:
        start = number * self.size
        images = []
        for place in range(start, min(start + self.size, len(self.images))):
            try:
                image = self.images[place]
                images.append(self.reader.read(image.open() if isinstance(image, _OpenedImage) else image))
            except ProductImageError as error:
                name = f"images[{place}]" if self.names is None else self.names[place]
                return ProductImageError(f"{name}: {error}", error.reason)
        return self.reader.batch(images)


@dataclass(frozen=True)
class _OpenedImage:
    """A Pillow image that was opened and not decoded yet, on its way to another process.

    Args:
        content: The whole file.
        frame: Which of its frames is shown.
    """

    content: bytes
    frame: int

    @classmethod
    def of(cls, image: Any) -> Any:
        """Read the file of such an image; return anything else as it is."""
        if not getattr(image, "fp", None) or not getattr(image, "tile", None):
            return image
        try:
            position = image.fp.tell()
            image.fp.seek(0)
            content = image.fp.read()
            image.fp.seek(position)
        except (OSError, ValueError):  # a closed file, which reading the image will name
            return image
        return cls(content, image.tell())

    def open(self) -> Any:
        """Open the image again."""
        from PIL import Image

        image = Image.open(io.BytesIO(self.content))
        image.seek(self.frame)
        return image


def _many(name: str, values: Any) -> Sequence[Any]:
    """Return values that are indexed from 0, which those of a pandas column need not be."""
    num_axes = getattr(values, "ndim", 1)
    is_one = isinstance(values, str | bytes | os.PathLike | Mapping) or not hasattr(values, "__iter__")
    if is_one or num_axes not in (1, 4):
        shape = f" of shape {tuple(values.shape)}" if num_axes != 1 else ""
        raise ValueError(f"`{name}` is one {type(values).__name__}{shape}; give a list, if only of one.")
    # A sequence stays as it is: it may read values when asked for, and all of them may not fit into memory.
    return values if num_axes == 4 or isinstance(values, Sequence) else list(values)


def _flat(
    images: Sequence[Any], fields: Mapping[str, float]
) -> tuple[Sequence[Any], list[int], list[str] | None, list[float]]:
    """Return images one after the other, which product each is of, its name where a product has several, its weight.

    A product's images are one, a list, or a mapping of fields, as `read_images` reads it with the weights of `fields`.
    """
    if not isinstance(images, list | tuple) or not any(isinstance(one, Mapping) or are_several(one) for one in images):
        return images, [], None, []
    flat, owners, names, weights = [], [], [], []
    for place, of_product in enumerate(images):
        several = are_several(of_product)
        if several and not len(of_product):
            raise ValueError(f"`images[{place}]` is an empty list; give a product's images, or leave it out.")
        found = read_images(of_product, fields)
        for number, (image, weight) in enumerate(found if isinstance(found, list) else [(found, 1.0)]):
            flat.append(image)
            owners.append(place)
            names.append(f"images[{place}][{number}]" if several or isinstance(found, list) else f"images[{place}]")
            weights.append(weight)
    return flat, owners, names, weights


def _pooled(embeds: torch.Tensor, owners: Sequence[int], weights: Sequence[float] | None = None) -> torch.Tensor:
    """Average the embeddings of each product; as they are where each has one."""
    if not owners or len(owners) == owners[-1] + 1:
        return embeds
    return pool_vectors(embeds, torch.tensor(owners), torch.tensor(weights or [1.0] * len(owners)), owners[-1] + 1)


def _as_is(batch: Any) -> Any:
    return batch


def _joined(parts: Sequence[torch.Tensor], model: EClipModel, truncate_dim: int | None) -> torch.Tensor:
    """Join embeddings; of nothing, of the width that others would have."""
    if parts:
        return torch.cat(list(parts))
    return truncate_embeds(torch.empty(0, model.config.projection_dim, device=model.device), truncate_dim)


def _for_device(sizes: Mapping[str, int], device: torch.device) -> int:
    return sizes["cpu" if device.type == "cpu" else "accelerator"]
