"""The pairs of products worth comparing, instead of all N^2 pairs: by vectors, and by what titles share."""

import torch

from ..fusion_eclip import ProductEmbeds
from ..modeling_eclip import normalize
from .neighbors import candidate_pairs, unique_pairs
from .shared_ngrams import shared_ngram_pairs

__all__ = ["product_pairs"]


def product_pairs(embeds: ProductEmbeds, num_neighbors: int) -> torch.Tensor:
    """List the pairs of products that are near by title, by image or by both, or whose titles share what is rare.

    With 10 neighbours and both modalities, all but a few in a thousand pairs of offers of one product are listed (real
    photographs, simulated sellers).

    Args:
        embeds: `N` products, as a head represents them.
        num_neighbors: Nearest neighbours per product and modality, and pairs per product by rare n-grams.

    Returns:
        Pairs of row numbers as [`unique_pairs`] returns them, shape `(P, 2)` with `P` at most `4 N num_neighbors`.

    Raises:
        ImportError: there are more than 20,000 products on a CPU, and faiss is absent.
    """
    views = list(embeds.modalities.values())
    if len(views) == 2:
        has_both = torch.stack([has_modality for _, has_modality in views]).all(dim=0)
        views.append((embeds.joined(), has_both))
    found, num_rows = [], len(views[0][0])
    for vectors, has_view in views:
        rows = has_view.nonzero().flatten()
        found.append(rows[candidate_pairs(normalize(vectors[rows].float()), num_neighbors)])
    if embeds.lexical is not None:
        found.append(shared_ngram_pairs(embeds.lexical, num_neighbors).to(found[0].device))
    return unique_pairs(torch.cat(found), num_rows)
