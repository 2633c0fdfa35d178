"""Pairs of products whose titles share something rare, such as a code, that their vectors may have forgotten."""

import torch

from ..processing_eclip import LEXICAL_BITS, LEXICAL_KINDS, LEXICAL_PADDING
from .neighbors import pairs_of_neighbors

__all__ = ["RARE_KINDS", "shared_ngram_neighbors", "shared_ngram_pairs"]

RARE_KINDS = ("words", "word pairs", "closed up")  # codes are found in titles closed up, however they are spelt
# More titles than this share an n-gram that tells nothing; it also bounds the pairs that are weighed.
_MAX_TITLES = 32


def shared_ngram_pairs(lexical: torch.Tensor, num_neighbors: int) -> torch.Tensor:
    """List the pairs of products whose titles share most of what is rare.

    Args:
        lexical: Hashed n-grams of `N` titles, as [`ProductEmbeds`] holds them, shape `(N, L)`.
        num_neighbors: As for [`shared_ngram_neighbors`]; a pair stays if either product is a neighbour of the other.

    Returns:
        Pairs of row numbers as [`unique_pairs`] returns them, int64, shape `(P, 2)` with `P <= N * num_neighbors`.
    """
    return pairs_of_neighbors(shared_ngram_neighbors(lexical, num_neighbors))


def shared_ngram_neighbors(lexical: torch.Tensor, num_neighbors: int) -> torch.Tensor:
    """Find, for each product, those whose titles share with its title most of what is rare.

    A pair weighs the sum of the inverse document frequencies, `log(N / titles that have it)`, of the n-grams that both
    titles have and at most 32 titles in all. N-grams are hashed, so that beyond some 200,000 titles few of those of
    titles closed up are as rare, and words and their pairs are what is left.

    Args:
        lexical: Hashed n-grams of `N` titles, as [`ProductEmbeds`] holds them, shape `(N, L)`.
        num_neighbors: Neighbours of each product.

    Returns:
        Row numbers, the heaviest pair first, -1 where there are fewer, int64, shape `(N, num_neighbors)`.
    """
    num_rows = len(lexical)
    wanted = torch.zeros(len(LEXICAL_KINDS) + 1, dtype=torch.bool, device=lexical.device)
    wanted[[LEXICAL_KINDS.index(kind) for kind in RARE_KINDS]] = True
    rows, places = wanted[(lexical >> LEXICAL_BITS).long()].nonzero(as_tuple=True)
    ngrams = lexical[rows, places].long()
    counts = ngrams.bincount(minlength=LEXICAL_PADDING)
    is_rare = (counts[ngrams] > 1) & (counts[ngrams] <= _MAX_TITLES)
    rows, ngrams = rows[is_rare], ngrams[is_rare]
    order = ngrams.argsort(stable=True)  # rows stay ascending within an n-gram
    rows, ngrams = rows[order], ngrams[order]
    keys, weights = [rows[:0]], [torch.empty(0, device=lexical.device)]
    for step in range(1, _MAX_TITLES):
        same = ngrams[step:] == ngrams[:-step]
        if not same.any():
            break
        keys.append((rows[:-step] * num_rows + rows[step:])[same])
        weights.append((num_rows / counts[ngrams[step:][same]]).log())
    pairs, group = torch.cat(keys).unique(return_inverse=True)
    weight = torch.zeros(len(pairs), device=lexical.device).index_add(0, group, torch.cat(weights))
    both = torch.stack([pairs // max(num_rows, 1), pairs % max(num_rows, 1)], dim=1)
    # Each pair once for either product; of a product's pairs the heaviest come first.
    products, others = torch.cat([both, both.flip(1)]).T
    order = weight.repeat(2).argsort(descending=True, stable=True)
    order = order[products[order].argsort(stable=True)]
    products, others = products[order].contiguous(), others[order]
    rank = torch.arange(len(order), device=lexical.device) - torch.searchsorted(products, products)
    is_kept = rank < num_neighbors
    neighbors = others.new_full((num_rows, num_neighbors), -1)
    neighbors[products[is_kept], rank[is_kept]] = others[is_kept]
    return neighbors
