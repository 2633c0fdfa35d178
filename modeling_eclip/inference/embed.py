"""Embedding many products: titles sorted by length, batches of so many tokens, pictures decoded no larger than needed.

Contract: what comes out is what the model gives for each product alone, to rounding, and in the order that it was
given in. A title that is padded to another's length costs as much as that one, so titles of one length go together,
and a batch is bounded by its tokens, not by its titles.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers.utils.logging import tqdm

from ..images_eclip import ProductImageError
from ..modeling_eclip import EClipModel, normalize, truncate_embeds
from ..processing_eclip import check_title
from .pixels import PixelReader

# Tokens, and pictures, of a batch: on a CPU what its caches hold, on an accelerator what keeps it busy.
_TOKENS_AT_ONCE = {"cpu": 1024, "accelerator": 65536}
_IMAGES_AT_ONCE = {"cpu": 32, "accelerator": 256}
_TITLES_AT_ONCE = 4096  # that are tokenized, so that the tokenizer's own memory stays small


def embed_products(
    model: EClipModel,
    processor: Any,
    titles: Sequence[str] | None = None,
    images: Sequence[Any] | None = None,
    *,
    truncate_dim: int | None = None,
    token_budget: int | None = None,
    image_batch_size: int | None = None,
    num_workers: int = 0,
    show_progress: bool = False,
) -> dict[str, torch.Tensor]:
    """Embed titles, images or both, any number of them.

    Args:
        model: The model.
        processor: Its `EClipProcessor`.
        titles: Titles; an empty one is allowed. A list, a column of a table, or whatever else gives one by one.
        images: Pictures in any form that `load_product_image` accepts, likewise.
        truncate_dim: How many of an embedding's values are kept; see [`truncate_embeds`].
        token_budget: Tokens of a batch of titles, padding included; 1,024 on a CPU and 65,536 on an accelerator
            if not given.
        image_batch_size: Images of a batch; 32 and 256 if not given.
        num_workers: Processes that read images; 0 reads them in this one.
        show_progress: Whether to show progress bars.

    Returns:
        `text_embeds`, shape `(num_titles, dim)`, and `image_embeds`, shape `(num_images, dim)`, of those that were
        given: of unit length, float32, on the CPU, in the order given.

    Raises:
        ProductImageError: an image cannot be used; the message starts with its place, as in `images[3]`.
        ValueError: neither is given, one title or picture is given in place of many, or a title is not text.
    """
    if titles is None and images is None:
        raise ValueError("`titles` and `images` are both None; give titles, images or both.")
    found = {}
    if titles is not None:
        tokens = tokenize_titles(processor, _many("titles", titles))
        found["text_embeds"] = embed_tokens(
            model, processor, tokens, truncate_dim=truncate_dim, token_budget=token_budget, show_progress=show_progress
        )
    if images is not None:
        size = image_batch_size or batch_size_for(model.device)
        batches = _PictureBatches(_many("images", images), PixelReader(processor), size)
        loader: DataLoader[Any] = DataLoader(
            batches,
            batch_size=None,  # an item is a whole batch
            num_workers=num_workers,
            collate_fn=_as_is,
            generator=torch.Generator(),  # not the one that dropout uses
        )
        parts = []
        for inputs in tqdm(loader, desc="images", unit="batch", disable=not show_progress):
            if isinstance(inputs, ProductImageError):
                raise inputs
            parts.append(embed_inputs(model, inputs, truncate_dim=truncate_dim))
        found["image_embeds"] = _joined(parts)
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
    """Embed titles that are tokens already.

    Args:
        model: The model.
        processor: Its `EClipProcessor`.
        tokens: What [`tokenize_titles`] made of `N` titles.
        truncate_dim: As there.
        token_budget: As there.
        show_progress: As there.

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
    if not embeds:
        return _joined(embeds)
    joined = torch.cat(embeds)
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
        Embeddings of unit length, float32 whatever the weights are, on the model's device, shape `(B, dim)`.
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
    # In half precision the length of a vector would be off by a thousandth.
    return truncate_embeds(normalize(pooled), truncate_dim)


def batch_size_for(device: torch.device) -> int:
    """Return how many images a batch has where nothing is given."""
    return _for_device(_IMAGES_AT_ONCE, device)


def tokenize_titles(processor: Any, titles: Sequence[str]) -> dict[str, list[Any]]:
    """Make tokens of titles, without padding where the processor pads to the longest of a batch.

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
    """Put titles of like lengths together; the longest come first, so that too little memory shows at once.

    Titles of different lengths are only put together where an attention mask tells the padding from the title.

    Args:
        tokens: What [`tokenize_titles`] made of `N` titles.
        tokenizer: Says what is padded with, and on which side.
        token_budget: Tokens of a batch, padding included; a title that has more is a batch of its own.

    Yields:
        Places of a batch's titles, int64, shape `(B,)`, and the title tower's inputs, each of shape `(B, length)`.
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


class _PictureBatches(Dataset[Any]):
    """Batches of pictures, read where a loader asks for them; in place of one, the error of a picture in it."""

    def __init__(self, images: Sequence[Any], reader: PixelReader, size: int) -> None:
        self.images, self.reader, self.size = images, reader, size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __getitem__(self, number: int) -> dict[str, Any] | ProductImageError:
        start = number * self.size
        pictures = []
        for place in range(start, min(start + self.size, len(self.images))):
            try:
                pictures.append(self.reader.read(self.images[place]))
            except ProductImageError as error:
                return ProductImageError(f"images[{place}]: {error}", error.reason)
        return self.reader.batch(pictures)


def _many(name: str, values: Any) -> Sequence[Any]:
    """Return rows that are numbered from 0, as those of a pandas column may not be."""
    num_axes = getattr(values, "ndim", 1)
    is_one = isinstance(values, str | bytes | os.PathLike | Mapping) or not hasattr(values, "__iter__")
    if is_one or num_axes not in (1, 4):
        shape = f" of shape {tuple(values.shape)}" if num_axes != 1 else ""
        raise ValueError(f"`{name}` is one {type(values).__name__}{shape}; give a list, if only of one.")
    # A sequence may read its rows one by one, which not all fit into memory.
    return values if num_axes == 4 or isinstance(values, Sequence) else list(values)


def _as_is(batch: Any) -> Any:
    return batch


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, 0)


def _for_device(sizes: Mapping[str, int], device: torch.device) -> int:
    return sizes["cpu" if device.type == "cpu" else "accelerator"]


__all__ = ["batch_size_for", "embed_inputs", "embed_products", "embed_tokens", "title_batches", "tokenize_titles"]
