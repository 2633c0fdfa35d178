"""The contrastive losses of e-CLIP, as pure functions of named tensors.

Notable choices:
- one function has the three modes for offers of the same catalog, so that they can be compared;
- everything is computed in float32 at least, for embeddings of any dtype, and in tiles, for batches of any size;
- with `distributed=True` a rank gives its own rows, and the loss is over those of all ranks.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from .gather import count_rows, gather_rows, is_distributed
from .sigmoid import Labels, tiled_sigmoid_loss
from .sweep import find_catalogs
from .tiles import Targets, tiled_cross_entropy

CatalogMates = Literal["positive", "negative", "masked"]


def contrastive_loss(
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor | None = None,
    *,
    logit_bias: torch.Tensor | None = None,
    catalog_weight: float = 1.0,
    mates: CatalogMates = "positive",
    has_text: torch.Tensor | None = None,
    has_image: torch.Tensor | None = None,
    tile_size: int | None = None,
    distributed: bool = False,
    row_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Contrast of titles with images, with soft labels over catalogs, by a softmax or by a sigmoid of each pair.

    Offers of one catalog are the same product listed by several sellers, and no negatives of each other (e-CLIP, Shin
    et al. 2022, section 3.3). With `s_ij = exp(logit_scale) <u_i, w_j>` for title `i` and image `j`, and target rows
    `P_i` that have mass 1 on `j = i` and `catalog_weight` on the mates of `i`, divided by the row's sum:

        L = 1/2 * mean_i CE(P_i, softmax_j s_ij) + 1/2 * mean_j CE(P_j, softmax_i s_ij)

    With a `logit_bias` `b` it is the sigmoid loss of SigLIP (Zhai et al. 2023) instead, with labels `y_ij` that are 1
    for `j = i`, `catalog_weight` for mates and 0 for all others:

        L = -1/B sum_ij [y_ij log sigmoid(s_ij + b) + (1 - y_ij) log sigmoid(-s_ij - b)]

    This form and the two other modes for mates are this package's. It is tested against the dense form of the same
    loss, [`dense_contrastive_loss`]. No `B x B` matrix is held: beside the embeddings' gradients, memory is one tile.
    Gradients of float32 embeddings have a relative error below 1e-6; where they all but vanish, at a scale near 100
    with every pair found, a large batch leaves a few 1e-6. It can be differentiated once.

    Offers may lack a title or an image (this package's form). What is missing is in no softmax and no pair; what is
    there is compared with all that is there of the other modality. A title whose offer has no image has a target only
    where mates that are positive have images, and likewise for images. Each mean is over the titles, or images, that
    have a target: an offer that lacks a side takes no weight from the others. Without any target the loss is zero. In
    the sigmoid form a title without a partner is a negative of every image all the same, and the mean of the inverse
    numbers of titles and of images takes the place of `1/B`.

    Args:
        text_embeds: Embeddings of the titles, of unit length, shape `(B, D)`.
        image_embeds: Embeddings of the images of the same offers in the same order, of unit length, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        catalog_ids: Which catalog each offer is of, int64, shape `(B,)`; negative means that the offer is alone.
            `None` means that all are.
        logit_bias: What the sigmoid form adds to similarities, a single element; `None` for the softmax form.
        catalog_weight: Mass of a mate relative to the offer's own partner, from 0 to 1; used when mates are positive.
        mates: What the other offers of a row's catalog are to it: `"positive"` shares the target mass with them,
            `"negative"` is plain CLIP or SigLIP, `"masked"` takes them out of the softmax's denominator, or the pairs.
        has_text: Which offers have a title, bool, shape `(B,)`, best on the CPU; `None` for all. The embeddings of the
            others do not matter, and have no gradient.
        has_image: Which offers have an image, likewise.
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
    _check_embeds(text_embeds, image_embeds, logit_scale, logit_bias, tile_size)
    if mates not in get_args(CatalogMates):
        raise ValueError(f"`mates` is {mates!r}; choose one of {', '.join(map(repr, get_args(CatalogMates)))}.")
    if not 0 <= catalog_weight <= 1:
        raise ValueError(f"`catalog_weight` is {catalog_weight}; give a number from 0 to 1.")
    row_counts = _count_rows(text_embeds, distributed, row_counts)
    text_embeds, image_embeds = _existing(text_embeds, has_text), _existing(image_embeds, has_image)
    ids, exists = _facts_of_all(catalog_ids, has_text, has_image, text_embeds, row_counts)
    if len(ids) == 0:
        raise ValueError("the batch holds no offers on any rank; give at least one.")
    groups, sizes, largest_catalog = find_catalogs(ids)
    # Titles and images of each catalog; of the rows that are alone, that have the last number, no mates.
    counts = torch.stack([torch.bincount(groups[has], minlength=len(sizes) + 1) for has in exists])
    is_complete, num_groups = bool(exists.all()), len(sizes)
    groups, counts, exists = (value.to(text_embeds.device, non_blocking=True) for value in (groups, counts, exists))
    mate_mass = catalog_weight if mates == "positive" else 0.0
    is_pair, has_mates, partners = exists.all(0), groups < num_groups, exists.flip(0)
    pairs: dict[str, Any] = {
        "groups": groups,
        "num_groups": num_groups,
        "is_pair": is_pair,
        "are_mates_excluded": mates == "masked",
        "exists": None if is_complete else exists,
    }
    if logit_bias is not None:
        weight = (1 / exists.sum(1).clamp(min=1).double()).mean()
        labels = Labels(**pairs, mate=mate_mass, weights=exists[0] * weight)
        return tiled_sigmoid_loss(
            text_embeds, image_embeds, logit_scale, logit_bias, labels, tile_size=tile_size, row_counts=row_counts
        )
    # A catalog of n offers has the mass 1 + catalog_weight (n - 1) to share.
    mass_to_share = is_pair + mate_mass * ((counts.flip(0)[:, groups] - partners.long()) * has_mates).double()
    has_target = exists & (mass_to_share > 0)
    masses = torch.where(has_target, 1 / mass_to_share, 0.0)
    targets = Targets(
        **pairs,
        own=masses * is_pair,
        mate=mate_mass * masses * has_mates,
        weights=has_target / has_target.sum(1, keepdim=True).clamp(min=1).double(),
        largest_catalog=largest_catalog if mate_mass else 0,
    )
    return tiled_cross_entropy(
        text_embeds, image_embeds, logit_scale, targets, tile_size=tile_size, row_counts=row_counts
    )


def mate_contrast_loss(
    embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor,
    *,
    logit_bias: torch.Tensor | None = None,
    tile_size: int | None = None,
    distributed: bool = False,
    row_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Contrast of titles with titles, or of images with images, between catalog mates (this package's addition).

    Each row that has mates looks for them among all other rows of its own modality: the cross entropy between equal
    mass on its mates and the softmax over all rows but itself, averaged over the rows that have mates. As in
    supervised contrastive learning (Khosla et al. 2020), with catalogs for labels. With a `logit_bias` a row's loss is
    the sum of the binary cross entropies of it with each of them, with the label 1 for mates and 0 for all others.

    Args:
        embeds: Embeddings of titles or of images, of unit length, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        catalog_ids: As for [`contrastive_loss`].
        logit_bias: As for [`contrastive_loss`].
        tile_size: As for [`contrastive_loss`].
        distributed: As for [`contrastive_loss`].
        row_counts: As for [`contrastive_loss`].

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings); zero where no row has a mate, or there is none.

    Raises:
        ValueError: shapes that do not fit, or ids that are not integers.
    """
    _check_embeds(embeds, embeds, logit_scale, logit_bias, tile_size)
    row_counts = _count_rows(embeds, distributed, row_counts)
    ids, _ = _facts_of_all(catalog_ids, None, None, embeds, row_counts)
    groups, sizes, largest_catalog = find_catalogs(ids)
    if len(sizes) == 0:
        return embeds.sum(dtype=torch.promote_types(embeds.dtype, torch.float32)) * 0
    groups, sizes = (value.to(embeds.device, non_blocking=True) for value in (groups, sizes))
    has_mates = groups < len(sizes)
    weights = has_mates.double() / has_mates.sum()
    # A row is not compared with itself.
    pairs: dict[str, Any] = {
        "groups": groups, "num_groups": len(sizes), "is_pair": torch.zeros_like(has_mates)
    }  # fmt: skip
    if logit_bias is not None:
        labels = Labels(**pairs, mate=1.0, weights=weights)
        return tiled_sigmoid_loss(
            embeds, embeds, logit_scale, logit_bias, labels, tile_size=tile_size, row_counts=row_counts
        )
    masses = 1 / (torch.cat([sizes, sizes.new_full((1,), 2)])[groups] - 1).double()
    targets = Targets(
        **pairs,
        own=torch.zeros_like(masses).expand(2, -1),
        mate=(masses * has_mates).expand(2, -1),
        weights=weights.expand(2, -1),
        largest_catalog=largest_catalog,
    )
    return tiled_cross_entropy(embeds, embeds, logit_scale, targets, tile_size=tile_size, row_counts=row_counts)


def _count_rows(embeds: torch.Tensor, distributed: bool, row_counts: Sequence[int] | None) -> Sequence[int] | None:
    """Return the rows of every rank; `None` where no other rank takes part."""
    if not distributed or not is_distributed():
        return None
    return count_rows(len(embeds), embeds.device) if row_counts is None else row_counts


def _existing(embeds: torch.Tensor, has_modality: torch.Tensor | None) -> torch.Tensor:
    """Return embeddings, with zero, without a gradient, for rows that lack the modality."""
    if has_modality is None:
        return embeds
    if not isinstance(has_modality, torch.Tensor) or has_modality.dtype != torch.bool:
        raise ValueError(f"`has_text` or `has_image` is {has_modality!r:.200}; give a tensor of bool, one per offer.")
    if has_modality.shape != embeds.shape[:1]:
        raise ValueError(
            f"`has_text` or `has_image` has shape {tuple(has_modality.shape)}; give one value per offer, shape "
            f"({len(embeds)},)."
        )
    return embeds.masked_fill(~has_modality.to(embeds.device, non_blocking=True)[:, None], 0.0)


def _facts_of_all(
    catalog_ids: torch.Tensor | None,
    has_text: torch.Tensor | None,
    has_image: torch.Tensor | None,
    embeds: torch.Tensor,
    row_counts: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the catalog ids of the rows of all ranks, int64, shape `(B,)`, and what they have, bool, `(2, B)`.

    Both lie on the CPU. How many catalogs there are depends on the ids: found on a GPU, the host would wait for it
    several times. What lies on the CPU, as loaders give it, needs no wait at all.
    """
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
    all_rows = torch.ones(len(embeds), dtype=torch.bool)
    exists = [all_rows if has is None else has for has in (has_text, has_image)]
    if row_counts is None:
        return catalog_ids.to("cpu", torch.int64), torch.stack([has.cpu() for has in exists])
    facts = torch.stack([fact.to(embeds.device, torch.int64, non_blocking=True) for fact in (catalog_ids, *exists)], 1)
    ids, *exists = gather_rows(facts, row_counts).cpu().unbind(1)
    return ids, torch.stack(exists).bool()


def _check_embeds(
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor | None,
    tile_size: int | None,
) -> None:
    if text_embeds.ndim != 2 or text_embeds.shape != image_embeds.shape:
        raise ValueError(
            f"the embeddings have shapes {tuple(text_embeds.shape)} and {tuple(image_embeds.shape)}; give two of the "
            "same shape (B, D), one row per offer."
        )
    for name, value in {"logit_scale": logit_scale, "logit_bias": logit_bias}.items():
        is_left_out = name == "logit_bias" and value is None
        if not is_left_out and (not isinstance(value, torch.Tensor) or value.numel() != 1):
            raise ValueError(f"`{name}` is {value!r:.200}; give a tensor with a single element.")
    if tile_size is not None and (not isinstance(tile_size, int) or tile_size < 1):
        raise ValueError(f"`tile_size` is {tile_size!r}; give a positive number of rows, or None.")


__all__ = ["CatalogMates", "contrastive_loss", "mate_contrast_loss"]
