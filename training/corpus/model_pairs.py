"""Find pairs of offers of one product by a model's embeddings, by titles and by colours.

Hashes find the same photograph; a model also finds the product on another photograph. Each offer is compared with its
nearest neighbours. Shops sell many nearly identical products, so a pair's score is measured against the scores of the
two offers' other neighbours. Most of those products differ in colour alone, which embeddings hardly show, so colours
are compared separately.
"""

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from modeling_eclip.retrieval.neighbors import candidate_pairs, pair_similarities, unique_pairs

__all__ = ["model_pairs"]

_NEIGHBORS = 20  # of each offer, that it is compared with
_RANK = 10  # rank of the neighbour whose score is the background
_IMAGE_WEIGHT = 2.0  # of the images' cosine; the cosine of the titles' letters has weight 1
_COLOUR_WEIGHT = 0.75  # of the colours' cosine
_PAIRS_AT_ONCE = 65_536


def model_pairs(
    image_embeds: np.ndarray, text_embeds: np.ndarray, title_keys: list[str], colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of similar offers, and score them.

    Args:
        image_embeds: Unit vectors of the images, shape `(N, D)`.
        text_embeds: Unit vectors of the titles, shape `(N, D)`.
        title_keys: `N` titles, from `title_key`.
        colours: Frequencies of colours, as `ImageFacts` has them, shape `(N, 81)`.

    Returns:
        Positions of the offers of each pair, int64, shape `(P, 2)`, the lower first; and the pairs' scores above the
        background, float64, shape `(P,)`.
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
    """Return the score of each offer with its neighbour of rank `_RANK`, shape `(N,)`."""
    offers, doubled = pairs.T.ravel(), np.tile(scores, 2)
    order = np.lexsort((-doubled, offers))
    offers, doubled = offers[order], doubled[order]
    starts = np.searchsorted(offers, np.arange(num_offers))
    ends = np.searchsorted(offers, np.arange(num_offers), side="right")
    background = np.zeros(num_offers)
    there = ends > starts
    background[there] = doubled[np.minimum(starts + _RANK, ends - 1)[there]]
    return background
