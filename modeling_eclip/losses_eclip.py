"""The contrastive loss of e-CLIP, as a pure function of named tensors.

Notable choices:
- one function serves the three treatments of offers of one catalog, so that they can be compared;
- everything is computed in float32 at least, whatever the embeddings come in;
- nothing here knows about ranks: give it the embeddings of all of them.
"""

from typing import Literal, get_args

import torch

CatalogMates = Literal["positive", "negative", "masked"]


def contrastive_loss(
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor | None = None,
    *,
    catalog_weight: float = 1.0,
    mates: CatalogMates = "positive",
) -> torch.Tensor:
    r"""Symmetric cross entropy between titles and images, with soft labels over catalogs.

    Offers of one catalog are the same product listed by several sellers, and no negatives of each other (e-CLIP, Shin
    et al. 2022: labels based on catalogs instead of the identity matrix). With `s_ij = exp(logit_scale) <u_i, w_j>`
    for title `i` and image `j`, and target rows `P_i` that have mass 1 on `j = i` and mass `catalog_weight` on the
    mates of `i`, divided by the row's sum:

        L = 1/2 * mean_i CE(P_i, softmax_j s_ij) + 1/2 * mean_j CE(P_j, softmax_i s_ij)

    That form, and the two other treatments of mates, are this package's.

    Args:
        text_embeds: Embeddings of the titles, of unit length, shape `(B, D)`.
        image_embeds: Embeddings of the images of the same offers in the same order, of unit length, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        catalog_ids: Which catalog each offer is of, int64, shape `(B,)`; negative means that the offer is alone.
            `None` means that all are.
        catalog_weight: Mass of a mate relative to the offer's own partner, from 0 to 1; used when mates are positive.
        mates: What the other offers of a row's catalog are to it: `"positive"` shares the target mass with them,
            `"negative"` is plain CLIP, `"masked"` takes them out of the softmax's denominator.

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings).

    Raises:
        ValueError: shapes that do not fit, an empty batch, ids that are not integers, or an unknown treatment.
    """
    _check_inputs(text_embeds, image_embeds, logit_scale, catalog_ids, catalog_weight, mates)
    dtype = torch.promote_types(torch.promote_types(text_embeds.dtype, image_embeds.dtype), torch.float32)
    # Autocast would turn the product back to half precision, where a scale of 100 leaves two digits of a logit.
    with torch.autocast(device_type=text_embeds.device.type, enabled=False):
        logits = logit_scale.to(dtype).reshape(()).exp() * (text_embeds.to(dtype) @ image_embeds.to(dtype).T)  # (B, B)
        own = torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
        is_mate = _find_mates(catalog_ids, own)
        denominators = logits.masked_fill(is_mate, float("-inf")) if mates == "masked" else logits
        targets = own.to(dtype)
        if mates == "positive":
            targets = targets + catalog_weight * is_mate.to(dtype)
            targets = targets / targets.sum(dim=1, keepdim=True)
        text_to_image = denominators.logsumexp(dim=1) - (targets * logits).sum(dim=1)  # (B,)
        image_to_text = denominators.logsumexp(dim=0) - (targets * logits.T).sum(dim=1)  # (B,)
        return (text_to_image.mean() + image_to_text.mean()) / 2


def _find_mates(catalog_ids: torch.Tensor | None, own: torch.Tensor) -> torch.Tensor:
    """Return which pairs of different rows share a catalog, bool, shape `(B, B)`."""
    if catalog_ids is None:
        return torch.zeros_like(own)
    catalog_ids = catalog_ids.to(own.device)
    in_a_catalog = catalog_ids >= 0
    return (catalog_ids[:, None] == catalog_ids[None, :]) & in_a_catalog[:, None] & ~own


def _check_inputs(
    text_embeds: torch.Tensor,
    image_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    catalog_ids: torch.Tensor | None,
    catalog_weight: float,
    mates: str,
) -> None:
    if text_embeds.ndim != 2 or text_embeds.shape != image_embeds.shape or len(text_embeds) == 0:
        raise ValueError(
            f"`text_embeds` and `image_embeds` have shapes {tuple(text_embeds.shape)} and {tuple(image_embeds.shape)};"
            " give two of the same shape (B, D), one row per offer, with B at least 1."
        )
    if not isinstance(logit_scale, torch.Tensor) or logit_scale.numel() != 1:
        raise ValueError(f"`logit_scale` is {logit_scale!r:.200}; give a tensor with a single element.")
    if catalog_ids is not None:
        if catalog_ids.shape != text_embeds.shape[:1]:
            raise ValueError(
                f"`catalog_ids` has shape {tuple(catalog_ids.shape)}; give one id per offer, shape "
                f"({len(text_embeds)},), with -1 for an offer that is alone."
            )
        if catalog_ids.is_floating_point() or catalog_ids.is_complex() or catalog_ids.dtype == torch.bool:
            raise ValueError(f"`catalog_ids` has dtype {catalog_ids.dtype}; give integers (int64).")
    if mates not in get_args(CatalogMates):
        raise ValueError(f"`mates` is {mates!r}; choose one of {', '.join(map(repr, get_args(CatalogMates)))}.")
    if not 0 <= catalog_weight <= 1:
        raise ValueError(f"`catalog_weight` is {catalog_weight}; give a number from 0 to 1.")


__all__ = ["CatalogMates", "contrastive_loss"]
