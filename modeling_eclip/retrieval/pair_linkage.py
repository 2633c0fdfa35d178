"""Average linkage of products by the scores of pairs, such as those of a matcher, where vectors have no say.

The similarity of two groups is the mean over all pairs of their products; a pair that was not scored counts as zero.
As in `linkage`, groups that are each other's most similar ones are joined at once, which changes no result.
"""

import torch

from .linkage import Joins

__all__ = ["pair_linkage"]


def pair_linkage(
    pairs: torch.Tensor,
    similarities: torch.Tensor,
    num_products: int,
    threshold: float = 0.0,
    *,
    copies: torch.Tensor | None = None,
) -> Joins:
    """Join products into groups.

    Args:
        pairs: Pairs of row numbers, each pair once and of two products, int64, shape `(P, 2)`.
        similarities: Of each pair, such as the probability that both are one product, from 0, shape `(P,)`.
        num_products: `N`.
        threshold: Similarity from which groups are joined.
        copies: For each product the first that it is a copy of, itself for that one and for one without copies, int64,
            shape `(N,)`. Copies are joined first, and pairs are of those first ones alone.

    Returns:
        The joins, in the order in which they were made.
    """
    rows = torch.arange(num_products, device=pairs.device)
    firsts = rows if copies is None else copies
    sizes = firsts.bincount(minlength=num_products).double()
    left, right = pairs[:, 0], pairs[:, 1]
    sums = similarities.double() * sizes[left] * sizes[right]
    is_copy = firsts != rows
    made = [(firsts[is_copy], rows[is_copy], torch.ones(int(is_copy.sum()), device=pairs.device))]
    while len(sums):
        means = sums / (sizes[left] * sizes[right])
        order = means.argsort(descending=True, stable=True)
        # The place of each group's best pair in that order; among equally good ones the first counts for both groups.
        places = torch.arange(len(order), device=pairs.device)
        best = torch.full((num_products,), len(order), device=pairs.device)
        best = best.scatter_reduce(0, left[order], places, "amin").scatter_reduce(0, right[order], places, "amin")
        is_join = (best[left[order]] == places) & (best[right[order]] == places) & (means[order] >= threshold)
        joins = order[is_join]
        if not len(joins):
            break
        kept, absorbed = left[joins], right[joins]
        made.append((kept, absorbed, means[joins].float()))
        sizes[kept] += sizes[absorbed]
        parents = rows.clone()
        parents[absorbed] = kept
        left, right = parents[left], parents[right]
        between = left != right
        keys = torch.minimum(left, right)[between] * num_products + torch.maximum(left, right)[between]
        keys, group = keys.unique(return_inverse=True)
        sums = torch.zeros(len(keys), dtype=torch.float64, device=pairs.device).index_add(0, group, sums[between])
        left, right = keys // num_products, keys % num_products
    kept, absorbed, values = (torch.cat(parts) for parts in zip(*made, strict=True))
    return Joins(num_products, kept, absorbed, values)
