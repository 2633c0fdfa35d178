"""Hard negatives: for each offer, those of other catalogs whose titles share most of what is rare."""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_eclip.processing_eclip import LEXICAL_BITS, LEXICAL_KINDS, LEXICAL_PADDING, lexical_ids
from modeling_eclip.retrieval.shared_ngrams import RARE_KINDS, shared_ngram_pairs
from training.data.catalog_ids import NO_CATALOG

__all__ = ["SIMILAR_ROWS", "similar_rows"]

SIMILAR_ROWS = 8
"""Offers that are brought beside one: with all their mates, some 20 offers, of which a batch holds a dozen groups."""

_ROWS_AT_ONCE = 4096


def similar_rows(titles: Sequence[str | None], catalog_ids: np.ndarray, number: int) -> np.ndarray:
    """Find, for each offer, offers of other catalogs with the most similar titles.

    Args:
        titles: Titles of `N` offers; one that is empty is similar to none.
        catalog_ids: Their catalogs, shape `(N,)`, negative for an offer that is alone.
        number: Offers that are looked for, for each.

    Returns:
        Rows, int64, shape `(N, number)`, -1 where there are fewer. Found by [`shared_ngram_pairs`], so that memory and
        time grow with `N` alone.
    """
    parts = [_rare_kinds(titles[start : start + _ROWS_AT_ONCE]) for start in range(0, len(titles), _ROWS_AT_ONCE)]
    width = max((part.shape[1] for part in parts), default=0)
    padded = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=LEXICAL_PADDING) for part in parts]
    # More pairs than are wanted, since many are of one catalog.
    left, right = shared_ngram_pairs(torch.cat(padded), 2 * number).numpy().T
    is_other = (catalog_ids[left] != catalog_ids[right]) | (catalog_ids[left] == NO_CATALOG)
    left, right = left[is_other], right[is_other]
    rows, others = np.concatenate([left, right]), np.concatenate([right, left])
    order = np.argsort(rows, kind="stable")
    rows, others = rows[order], others[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    found = np.full((len(titles), number), -1, dtype=np.int64)
    is_kept = places < number
    found[rows[is_kept], places[is_kept]] = others[is_kept]
    return found


def _rare_kinds(titles: Sequence[str | None]) -> torch.Tensor:
    """Return the n-grams of titles that [`shared_ngram_pairs`] reads, at the start of each row."""
    lexical = torch.as_tensor(lexical_ids([title or "" for title in titles]))
    kinds = torch.tensor([LEXICAL_KINDS.index(kind) for kind in RARE_KINDS])
    is_read = torch.isin(lexical >> LEXICAL_BITS, kinds)
    rows, columns = is_read.nonzero(as_tuple=True)
    found = lexical.new_full((len(titles), int(is_read.sum(dim=1).amax())), LEXICAL_PADDING)
    found[rows, is_read.cumsum(dim=1)[rows, columns] - 1] = lexical[rows, columns]
    return found
