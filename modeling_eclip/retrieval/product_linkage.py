"""Products to groups by the scores of pairs: first those worth comparing, then all among products that these link.

Average linkage counts a pair without a score as zero. Of thirty offers of one product each has but ten neighbours, and
the twenty other pairs of each would tear them apart. So copies are one product from the start, and products that are
linked by pairs of more than even odds are compared with each other.
"""

from collections.abc import Callable

import torch

from ..fusion_eclip import ProductEmbeds
from ..modeling_eclip import normalize
from .linkage import ROUNDING, Joins, connect_pairs
from .neighbors import pair_similarities, unique_pairs
from .pair_linkage import pair_linkage
from .product_pairs import product_pairs

__all__ = ["join_products", "score_linked_pairs"]

# Products that are linked are compared with this many others at most, so that a chain of them costs no N^2 pairs.
_MAX_LINKED = 128
# Pairs whose n-grams are compared at a time.
_BLOCK_PAIRS = 2**16


def join_products(products: ProductEmbeds, score: Callable[[torch.Tensor], torch.Tensor], num_neighbors: int) -> Joins:
    """Join products into groups by the scores of pairs.

    Args:
        products: `N` products, as a head represents them.
        score: Tells the probabilities that the two of pairs of row numbers, shape `(P, 2)`, are one product, shape
            `(P,)`.
        num_neighbors: As for [`product_pairs`].

    Returns:
        The joins; copies, of equal n-grams and equal vectors, are joined with a similarity of 1.

    Raises:
        ImportError: there are more than 20,000 products on a CPU, and faiss is absent.
    """
    num_products = len(next(iter(products.modalities.values()))[0])
    pairs = product_pairs(products, num_neighbors)
    copies = connect_pairs(pairs[_are_copies(products, pairs)], num_products)
    pairs, scores = score_linked_pairs(unique_pairs(copies[pairs], num_products), score, num_products)
    return pair_linkage(pairs, scores, num_products, copies=copies)


def score_linked_pairs(
    pairs: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor], num_products: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score pairs, and all pairs among the products that are linked by pairs of more than even odds.

    Of a set of more than 129 linked products each is compared with 128 others.

    Args:
        pairs: Pairs of row numbers as [`unique_pairs`] returns them, shape `(P, 2)`.
        score: As for [`join_products`].
        num_products: Number of rows.

    Returns:
        The pairs, the given ones first, and their scores.
    """
    scores = score(pairs)
    roots = connect_pairs(pairs[scores > 0.5], num_products)
    order = roots.argsort(stable=True)
    sizes = roots.bincount(minlength=num_products)
    first = (sizes.cumsum(0) - sizes)[roots[order]]  # where the set of each product begins
    place, sizes = torch.arange(num_products, device=pairs.device) - first, sizes[roots[order]]
    found = [pairs[:0]]
    for step in range(1, _MAX_LINKED // 2 + 1):
        has_more = sizes >= 2 * step
        if not has_more.any():
            break
        others = order[first + (place + step) % sizes]
        found.append(torch.stack([order, others], dim=1)[has_more])
    linked = unique_pairs(torch.cat(found), num_products)
    left, right = pairs.T
    known = left * num_products + right
    linked = linked[~torch.isin(linked[:, 0] * num_products + linked[:, 1], known)]
    return torch.cat([pairs, linked]), torch.cat([scores, score(linked)])


def _are_copies(products: ProductEmbeds, pairs: torch.Tensor) -> torch.Tensor:
    """Tell which pairs are of equal products: of equal n-grams and, up to rounding, of equal vectors."""
    left, right = pairs.T
    # Pairs are of products with a modality in common.
    is_copy = pairs.new_ones(len(pairs), dtype=torch.bool)
    for vectors, has_modality in products.modalities.values():
        is_equal = pair_similarities(normalize(vectors.float()), pairs) >= 1 - ROUNDING
        is_copy &= (has_modality[left] == has_modality[right]) & (is_equal | ~has_modality[left])
    if products.lexical is not None:
        rows = is_copy.nonzero().flatten()
        for block in rows.split(_BLOCK_PAIRS):
            one, other = (products.lexical[pairs[block, side].to(products.lexical.device)] for side in (0, 1))
            is_copy[block] = (one == other).all(dim=1).to(pairs.device)
    return is_copy
