"""Products to groups, without their number: average linkage over nearest neighbours, modality by modality."""

from collections.abc import Sequence

import torch

from ..modeling_eclip import normalize
from .linkage import average_linkage, number_groups
from .neighbors import nearest_neighbors

__all__ = ["cluster_embeds"]


@torch.no_grad()
def cluster_embeds(
    embeds: torch.Tensor, threshold: float, *, widths: Sequence[int], num_neighbors: int
) -> torch.Tensor:
    """Group products by their vectors; deterministic.

    Products with both modalities are grouped first, see [`average_linkage`]. A product with one modality then joins
    the group of the nearest product with both, compared by that modality. Those without such a product within the
    threshold are grouped among themselves by that modality.

    Args:
        embeds: Vectors of `N` products as [`EClipForProductClustering`] returns them, zero for a missing modality,
            shape `(N, D)`.
        threshold: Cosine similarity from which groups are joined.
        widths: Width of the vectors of each modality; their sum is `D`.
        num_neighbors: Nearest neighbours per product that may join its group.

    Returns:
        Number of each product's group, int64, shape `(N,)`: groups are numbered from 0 in the order of their first
        products.

    Raises:
        ValueError: the vectors have another width, or are not finite.
        ImportError: there are more than 20,000 products on a CPU, and faiss is absent.
    """
    if embeds.ndim != 2 or embeds.shape[1] != sum(widths):
        raise ValueError(
            f"`embeds` has shape {tuple(embeds.shape)}; give what `forward` returns as `embeds`, of shape "
            f"(N, {sum(widths)})."
        )
    if len(widths) == 1:
        return average_linkage(embeds, threshold, num_neighbors=num_neighbors).groups()
    by_modality = embeds.float().split(list(widths), dim=1)
    has_modalities = torch.stack([vectors.any(dim=1) for vectors in by_modality])  # (2, N)
    has_both = has_modalities.all(dim=0)
    groups = torch.full_like(has_both, -1, dtype=torch.int64)
    groups[has_both] = average_linkage(embeds[has_both], threshold, num_neighbors=num_neighbors).groups()
    for own, has_modality in zip(by_modality, has_modalities, strict=True):
        # Products with both come first: a row below `num_both` has a group already.
        rows = torch.cat([has_both.nonzero().flatten(), (has_modality & ~has_both).nonzero().flatten()])
        num_both = int(has_both.sum())
        if len(rows) == num_both:
            continue
        vectors = normalize(own[rows])
        if num_both:
            similarities, neighbors = nearest_neighbors(vectors, num_neighbors)
            near = (similarities >= threshold) & (neighbors < num_both) & (neighbors >= 0)
            nearest = neighbors.gather(1, near.int().argmax(dim=1, keepdim=True)).squeeze(1)
            joins = near.any(dim=1)
            joins[:num_both] = False
            groups[rows[joins]] = groups[rows[nearest[joins]]]
        alone = groups[rows] < 0
        new_groups = average_linkage(vectors[alone], threshold, num_neighbors=num_neighbors).groups()
        groups[rows[alone]] = new_groups + groups.amax() + 1
    return number_groups(groups)
