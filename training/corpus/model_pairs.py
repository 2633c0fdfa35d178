"""Pairs of offers that are of one product, as far as a model and their titles say.

Where hashes only know the same photograph, a model knows the product on another one. Offers are compared with their
nearest neighbours. Many products have near twins in a shop, so a likeness counts by how far it stands out from the two
offers' other neighbours; and most of those twins differ in colour alone, which models look past.
"""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from modeling_eclip.retrieval.neighbors import candidate_pairs, pair_similarities, unique_pairs

__all__ = ["model_pairs"]

_NEIGHBORS = 20  # of each offer that are looked at
_RANK = 10  # the neighbour that the others have to stand out from
_IMAGE_WEIGHT = 2.0  # of the image's cosine against that of the title's letters
_COLOUR_WEIGHT = 0.75  # of the cosine of the colours
_PAIRS_AT_ONCE = 65_536


def model_pairs(
    image_embeds: np.ndarray, text_embeds: np.ndarray, title_keys: list[str], colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find offers that stand out as alike.

    Args:
        image_embeds: Vectors of length 1, shape `(N, D)`.
        text_embeds: Likewise, of the titles.
        title_keys: The titles, as `title_key` gives them.
        colours: Frequencies of colours, as `ImageFacts` has them, shape `(N, 81)`.

    Returns:
        Places of the offers of each pair, int64, shape `(P, 2)`, the lower first; and how alike they are beyond their
        neighbours, float64, shape `(P,)`.
    """
    if len(title_keys) < 2:
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    images, texts = torch.from_numpy(image_embeds).float(), torch.from_numpy(text_embeds).float()
    both = torch.cat([images, texts], dim=1) / 2**0.5
    neighbors = min(_NEIGHBORS, len(title_keys) - 1)
    found = torch.cat([candidate_pairs(vectors, neighbors) for vectors in (both, images)])
    unique = unique_pairs(found, len(title_keys))
    pairs = unique.numpy()
    scores = _IMAGE_WEIGHT * pair_similarities(images, unique).double().numpy()
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), dtype=np.float32).fit_transform(title_keys)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        left, right = pairs[block].T
        scores[block] += np.asarray(letters[left].multiply(letters[right]).sum(axis=1)).ravel()
    scores -= _background(pairs, scores, len(title_keys))[pairs].mean(axis=1)
    same_colours = pair_similarities(torch.from_numpy(colours).float() / 255, unique)
    return pairs, scores + _COLOUR_WEIGHT * same_colours.double().numpy()


def _background(pairs: np.ndarray, scores: np.ndarray, num_offers: int) -> np.ndarray:
    """Return how alike each offer is with the neighbour of a certain rank, shape `(N,)`."""
    offers, doubled = pairs.T.ravel(), np.tile(scores, 2)
    order = np.lexsort((-doubled, offers))
    offers, doubled = offers[order], doubled[order]
    starts = np.searchsorted(offers, np.arange(num_offers))
    ends = np.searchsorted(offers, np.arange(num_offers), side="right")
    background = np.zeros(num_offers)
    there = ends > starts
    background[there] = doubled[np.minimum(starts + _RANK, ends - 1)[there]]
    return background
