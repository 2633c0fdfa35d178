"""Offers -> their embeddings, on all ranks: what retrieval and the tasks are measured on."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from modeling_eclip import EClipModel, EClipProcessor
from modeling_eclip.inference.embed import batch_size_for
from modeling_eclip.inference.fields import pool_vectors
from training.data.inputs import model_inputs
from training.data.loaders import evaluation_loader, with_progress
from training.data.ranks import gather_objects
from training.data.read_tables import Products
from training.data.row_places import row_files
from training.data.skipped_rows import SkipCounter

logger = logging.getLogger(__name__)


@dataclass
class ModalityEmbeddings:
    """Embeddings of the titles, or of the images, of `N` offers, on the CPU in float32.

    Args:
        modality: `"text"` or `"image"`.
        embeds: Projected vectors, of unit length, shape `(N, projection_dim)`.
        features: The tower's vectors before the projection, shape `(N, tower width)`.
        catalog_ids: Catalog of each offer, int64, shape `(N,)`, -1 for an offer that is alone.
        positions: Its row in the table.
    """

    modality: str
    embeds: torch.Tensor
    features: torch.Tensor
    catalog_ids: torch.Tensor
    positions: list[int]


@dataclass
class OfferEmbeddings:
    """Embeddings of `N` offers, on the CPU in float32.

    Args:
        text_embeds: Projected titles, of unit length, shape `(N, projection_dim)`.
        image_embeds: Projected images, of unit length, shape `(N, projection_dim)`.
        text_features: The title tower's vectors before the projection, shape `(N, text width)`.
        image_features: The image tower's vectors before the projection, shape `(N, vision width)`.
        catalog_ids: Catalog of each offer, int64, shape `(N,)`, -1 for an offer that is alone.
        row_ids: Id of each offer.
        positions: Its row in the table.
        titles: Title of each offer.
    """

    text_embeds: torch.Tensor
    image_embeds: torch.Tensor
    text_features: torch.Tensor
    image_features: torch.Tensor
    catalog_ids: torch.Tensor
    row_ids: list[str]
    positions: list[int]
    titles: list[str]


def embed_dataset(
    model: EClipModel,
    processor: EClipProcessor,
    products: Products,
    accelerator: Accelerator,
    *,
    batch_size: int | None,
    num_workers: int,
) -> OfferEmbeddings:
    """Embed all offers of a table; unusable ones are left out, counted and reported.

    Args:
        model: The model, not wrapped for distributed training.
        processor: Turns titles and images into inputs.
        products: The offers.
        accelerator: The process's accelerator.
        batch_size: Offers embedded at a time, as for [`share_of`].
        num_workers: Processes that decode images.

    Returns:
        The embeddings.
    """
    settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
    loader = share_of(accelerator, products, processor, all_images=True, **settings)
    skips = SkipCounter(row_files(products))
    offers = embed_offers(model, loader, accelerator, skips)
    if skips.num_skipped and accelerator.is_main_process:
        logger.warning("held-out offers: %s", skips.report())
    return offers


def embed_modality(
    model: EClipModel,
    processor: EClipProcessor,
    products: Products,
    accelerator: Accelerator,
    modality: str,
    *,
    batch_size: int | None,
    num_workers: int,
) -> ModalityEmbeddings:
    """Embed the titles of a table, or its images, whether there is the other one or not.

    Args:
        model: As for [`embed_dataset`], and so are the other arguments.
        processor: Turns titles or images into inputs.
        products: The offers.
        accelerator: The process's accelerator.
        modality: `"text"` or `"image"`.
        batch_size: Offers embedded at a time, as for [`share_of`].
        num_workers: Processes that decode images.

    Returns:
        The embeddings.
    """
    settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
    loader = share_of(accelerator, products, processor, modality=modality, **settings)
    tower = "vision" if modality == "image" else "text"

    def encode(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        output = model(**inputs)
        return {"embeds": output[f"{modality}_embeds"], "features": output[f"{tower}_model_output"].pooler_output}

    columns = encode_all(model, encode, loader, accelerator, SkipCounter(row_files(products)))
    names = ("embeds", "features", "catalog_ids", "positions")
    return ModalityEmbeddings(modality, **{name: columns[name] for name in names})


def share_of(accelerator: Accelerator, *arguments: Any, batch_size: int | None, **settings: Any) -> Any:
    """Load this rank's share, as [`evaluation_loader`] does.

    Args:
        accelerator: The process's accelerator.
        *arguments: What is loaded.
        batch_size: Rows of a global batch; as many for each rank as are fast on its device if not given.
        **settings: Further settings.

    Returns:
        The loader.
    """
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    batch_size = batch_size or num_ranks * batch_size_for(accelerator.device)
    return evaluation_loader(*arguments, batch_size=batch_size, rank=rank, num_ranks=num_ranks, **settings)


def embed_offers(
    model: EClipModel,
    loader: Iterable[dict[str, Any]],
    accelerator: Accelerator,
    skips: SkipCounter,
    *,
    description: str = "embedding",
) -> OfferEmbeddings:
    """Embed the offers of a loader; every rank embeds its share and gets all.

    Args:
        model: The model, not wrapped for distributed training.
        loader: Batches as `evaluation_loader` yields them.
        accelerator: The process's accelerator.
        skips: Counts the rows that can't be used, of all ranks.
        description: What the progress bar says.

    Returns:
        The embeddings of all usable rows, in the order of the rows.

    Raises:
        ValueError: no row could be used.
    """

    def encode(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
        owners, weights = inputs.pop("image_owners", None), inputs.pop("image_weights", None)
        output = model(**inputs)
        images = {"image_embeds": output.image_embeds, "image_features": output.vision_model_output.pooler_output}
        if owners is not None and weights is not None:
            number = len(output.text_embeds)
            images = {name: pool_vectors(vectors, owners, weights, number) for name, vectors in images.items()}
        texts = {"text_embeds": output.text_embeds, "text_features": output.text_model_output.pooler_output}
        return texts | images

    return OfferEmbeddings(**encode_all(model, encode, loader, accelerator, skips, description=description))


@torch.no_grad()
def encode_all(
    model: nn.Module,
    encode: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor | None]],
    loader: Iterable[dict[str, Any]],
    accelerator: Accelerator,
    skips: SkipCounter,
    *,
    description: str = "embedding",
) -> dict[str, Any]:
    """Encode the rows of a loader in evaluation mode; every rank encodes its share and gets all.

    Args:
        model: What is put into evaluation mode.
        encode: Makes tensors, a row each, of a batch's inputs; `None` for those that the model has not.
        loader: Batches as `evaluation_loader` yields them.
        accelerator: The process's accelerator.
        skips: Counts the rows that can't be used, of all ranks.
        description: What the progress bar says.

    Returns:
        What `encode` returned of all usable rows, in their order, on the CPU and in float32 where it is no integer,
        and `catalog_ids`, `row_ids`, `positions` and `titles`.

    Raises:
        ValueError: no row could be used.
    """
    was_training = model.training
    model.eval()
    parts: list[dict[str, Any]] = []
    batches = with_progress(loader, description, disable=not accelerator.is_main_process)
    for number, batch in enumerate(batches):
        counted = {name: batch[name] for name in ("num_rows", "skipped", "passed_over") if name in batch}
        part: dict[str, Any] = {"number": number, **counted}
        if batch["row_ids"]:
            with accelerator.autocast():
                encoded = encode(model_inputs(batch, accelerator.device))
            tensors = {name: value for name, value in encoded.items() if value is not None}
            part["columns"] = {name: (v.float() if v.is_floating_point() else v).cpu() for name, v in tensors.items()}
            part["columns"] |= {name: batch[name] for name in ("catalog_ids", "row_ids", "positions", "titles")}
        parts.append(part)
    model.train(was_training)
    # Ranks take contiguous shares of each batch: batch by batch, in rank order, is the order of the rows.
    parts = [part for rank_parts in gather_objects(parts) for part in rank_parts]
    parts.sort(key=lambda part: part["number"])
    for part in parts:
        skips.add(part)
    usable = [part["columns"] for part in parts if "columns" in part]
    if not usable:
        raise ValueError(
            f"no offer could be embedded: {skips.report()} ({skips.examples()}); are `title_column` and "
            "`image_column` named correctly?"
        )
    columns: dict[str, Any] = {}
    for name, first in usable[0].items():
        values = [part[name] for part in usable]
        columns[name] = list(chain.from_iterable(values)) if isinstance(first, list) else torch.cat(values)
    return columns


__all__ = [
    "ModalityEmbeddings",
    "OfferEmbeddings",
    "embed_dataset",
    "embed_modality",
    "embed_offers",
    "encode_all",
    "share_of",
]
