"""The contrastive losses of e-CLIP, as pure functions of named tensors.

Notable choices:
- one function has the three modes for offers of the same catalog, so that they can be compared;
- everything is computed in float32 at least, for embeddings of any dtype, and in tiles, for batches of any size;
- with `distributed=True` a rank gives its own rows, and the loss is over those of all ranks.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from .gather import count_rows, gather_rows, is_distributed
from .tiles import Targets, find_catalogs, tiled_cross_entropy

CatalogMates = Literal["positive", "negative", "masked"]


def contrastive_loss(
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor | None = None,
    *,
    catalog_weight: float = 1.0,
    mates: CatalogMates = "positive",
    tile_size: int | None = None,
    distributed: bool = False,
    row_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Symmetric cross entropy between titles and images, with soft labels over catalogs.

    Offers of one catalog are the same product listed by several sellers, and no negatives of each other (e-CLIP, Shin
    et al. 2022, section 3.3). With `s_ij = exp(logit_scale) <u_i, w_j>` for title `i` and image `j`, and target rows
    `P_i` that have mass 1 on `j = i` and `catalog_weight` on the mates of `i`, divided by the row's sum:

        L = 1/2 * mean_i CE(P_i, softmax_j s_ij) + 1/2 * mean_j CE(P_j, softmax_i s_ij)

    This form and the two other modes for mates are this package's. It is tested against the dense form of the same
    loss, [`dense_contrastive_loss`]. No `B x B` matrix is held: beside the embeddings' gradients, memory is one tile.
    Gradients of float32 embeddings have a relative error below 1e-6; where they all but vanish, at a scale near 100
    with every pair found, a large batch leaves a few 1e-6. It can be differentiated once.

    Args:
        text_embeds: Embeddings of the titles, of unit length, shape `(B, D)`.
        image_embeds: Embeddings of the images of the same offers in the same order, of unit length, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        catalog_ids: Which catalog each offer is of, int64, shape `(B,)`; negative means that the offer is alone.
            `None` means that all are.
        catalog_weight: Mass of a mate relative to the offer's own partner, from 0 to 1; used when mates are positive.
        mates: What the other offers of a row's catalog are to it: `"positive"` shares the target mass with them,
            `"negative"` is plain CLIP, `"masked"` takes them out of the softmax's denominator.
        tile_size: Rows and columns of a tile; 1024 on CPUs and 8192 on accelerators if not given.
        distributed: Whether the rows are this rank's share of a batch over all ranks, which may have different
            numbers of rows, or none. The loss is the same on every rank; its gradients are multiplied by the number
            of ranks, so that their average over ranks, as distributed training takes it, is exact.
        row_counts: Rows of every rank, for a caller who has counted them; they are asked for if not given.

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings).

    Raises:
        ValueError: shapes that do not fit, an empty batch, ids that are not integers, or an unknown mode.
    """
    _check_embeds(text_embeds, image_embeds, logit_scale, tile_size)
    if mates not in get_args(CatalogMates):
        raise ValueError(f"`mates` is {mates!r}; choose one of {', '.join(map(repr, get_args(CatalogMates)))}.")
    if not 0 <= catalog_weight <= 1:
        raise ValueError(f"`catalog_weight` is {catalog_weight}; give a number from 0 to 1.")
    row_counts = _count_rows(text_embeds, distributed, row_counts)
    ids = _ids_of_all(catalog_ids, text_embeds, row_counts)
    if len(ids) == 0:
        raise ValueError("the batch holds no offers on any rank; give at least one.")
    groups, sizes, largest_catalog = _find_catalogs(ids, text_embeds.device)
    # A catalog of n offers has the mass 1 + catalog_weight (n - 1) to share.
    mate_mass = catalog_weight if mates == "positive" else 0.0
    masses = 1 / (1 + mate_mass * (torch.cat([sizes, sizes.new_ones(1)])[groups] - 1).double())
    targets = Targets(
        groups=groups,
        num_groups=len(sizes),
        own=masses,
        mate=mate_mass * masses * (groups < len(sizes)),
        weights=torch.full_like(masses, 1 / len(ids)),
        largest_catalog=largest_catalog if mate_mass else 0,
        excluded="mates" if mates == "masked" else "none",
    )
    return tiled_cross_entropy(
        text_embeds, image_embeds, logit_scale, targets, tile_size=tile_size, row_counts=row_counts
    )


def mate_contrast_loss(
    embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor,
    *,
    tile_size: int | None = None,
    distributed: bool = False,
    row_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Contrast of titles with titles, or of images with images, between catalog mates (this package's addition).

    Each row that has mates looks for them among all other rows of its own modality: the cross entropy between equal
    mass on its mates and the softmax over all rows but itself, averaged over the rows that have mates. As in
    supervised contrastive learning (Khosla et al. 2020), with catalogs for labels.

    Args:
        embeds: Embeddings of titles or of images, of unit length, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        catalog_ids: As for [`contrastive_loss`].
        tile_size: As for [`contrastive_loss`].
        distributed: As for [`contrastive_loss`].
        row_counts: As for [`contrastive_loss`].

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings); zero where no row has a mate, or there is none.

    Raises:
        ValueError: shapes that do not fit, or ids that are not integers.
    """
    _check_embeds(embeds, embeds, logit_scale, tile_size)
    row_counts = _count_rows(embeds, distributed, row_counts)
    ids = _ids_of_all(catalog_ids, embeds, row_counts)
    groups, sizes, largest_catalog = _find_catalogs(ids, embeds.device)
    if len(sizes) == 0:
        return embeds.sum(dtype=torch.promote_types(embeds.dtype, torch.float32)) * 0
    has_mates = groups < len(sizes)
    masses = 1 / (torch.cat([sizes, sizes.new_full((1,), 2)])[groups] - 1).double()
    targets = Targets(
        groups=groups,
        num_groups=len(sizes),
        own=torch.zeros_like(masses),
        mate=masses * has_mates,
        weights=has_mates.double() / has_mates.sum(),
        largest_catalog=largest_catalog,
        excluded="self",
    )
    return tiled_cross_entropy(embeds, embeds, logit_scale, targets, tile_size=tile_size, row_counts=row_counts)


def _count_rows(embeds: torch.Tensor, distributed: bool, row_counts: Sequence[int] | None) -> Sequence[int] | None:
    """Return the rows of every rank; `None` where no other rank takes part."""
    if not distributed or not is_distributed():
        return None
    return count_rows(len(embeds), embeds.device) if row_counts is None else row_counts


def _ids_of_all(
    catalog_ids: torch.Tensor | None, embeds: torch.Tensor, row_counts: Sequence[int] | None
) -> torch.Tensor:
    """Return the catalog ids of the rows of all ranks, int64, shape `(B,)`, on the CPU."""
    if catalog_ids is None:
        catalog_ids = torch.full((len(embeds),), -1)
    if not isinstance(catalog_ids, torch.Tensor):
        raise ValueError(f"`catalog_ids` is a {type(catalog_ids).__name__}; give a tensor of int64, one id per offer.")
    if catalog_ids.shape != embeds.shape[:1]:
        raise ValueError(
            f"`catalog_ids` has shape {tuple(catalog_ids.shape)}; give one id per offer, shape ({len(embeds)},), with "
            "-1 for an offer that is alone."
        )
    if catalog_ids.is_floating_point() or catalog_ids.is_complex() or catalog_ids.dtype == torch.bool:
        raise ValueError(f"`catalog_ids` has dtype {catalog_ids.dtype}; give integers (int64).")
    catalog_ids = catalog_ids.to(torch.int64)
    if row_counts is not None:
        catalog_ids = gather_rows(catalog_ids.to(embeds.device, non_blocking=True), row_counts)
    return catalog_ids.cpu()


def _find_catalogs(catalog_ids: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return what `find_catalogs` does, on a device, and the rows of the largest catalog, 0 without any.

    How many catalogs there are depends on the ids: found on a GPU, the host would wait for it several times. Ids that
    lie on the CPU, as loaders give them, need no wait at all.
    """
    groups, sizes = find_catalogs(catalog_ids)
    largest = int(sizes.max()) if len(sizes) else 0
    return groups.to(device, non_blocking=True), sizes.to(device, non_blocking=True), largest


def _check_embeds(
    text_embeds: torch.Tensor, image_embeds: torch.Tensor, logit_scale: torch.Tensor, tile_size: int | None
) -> None:
    if text_embeds.ndim != 2 or text_embeds.shape != image_embeds.shape:
        raise ValueError(
            f"the embeddings have shapes {tuple(text_embeds.shape)} and {tuple(image_embeds.shape)}; give two of the "
            "same shape (B, D), one row per offer."
        )
    if not isinstance(logit_scale, torch.Tensor) or logit_scale.numel() != 1:
        raise ValueError(f"`logit_scale` is {logit_scale!r:.200}; give a tensor with a single element.")
    if tile_size is not None and (not isinstance(tile_size, int) or tile_size < 1):
        raise ValueError(f"`tile_size` is {tile_size!r}; give a positive number of rows, or None.")


__all__ = ["CatalogMates", "contrastive_loss", "mate_contrast_loss"]
