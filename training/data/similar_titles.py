"""Hard negatives: for each offer, those of other catalogs whose titles share most of what is rare."""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_eclip.processing_eclip import LEXICAL_BITS, LEXICAL_KINDS, LEXICAL_PADDING, lexical_ids
from modeling_eclip.retrieval.shared_ngrams import RARE_KINDS, shared_ngram_neighbors
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
        Rows, the most similar first, int64, shape `(N, number)`, -1 where there are fewer. Found by
        [`shared_ngram_neighbors`], so that memory and time grow with `N` alone.
    """
    parts = [_rare_kinds(titles[start : start + _ROWS_AT_ONCE]) for start in range(0, len(titles), _ROWS_AT_ONCE)]
    width = max((part.shape[1] for part in parts), default=0)
    padded = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=LEXICAL_PADDING) for part in parts]
    # More than are wanted, since many are of one catalog.
    found = shared_ngram_neighbors(torch.cat(padded), 2 * number).numpy()
    of_found = catalog_ids[found]
    is_other = (found >= 0) & ((of_found != catalog_ids[:, None]) | (of_found == NO_CATALOG))
    order = np.argsort(~is_other, axis=1, kind="stable")[:, :number]
    return np.take_along_axis(np.where(is_other, found, -1), order, axis=1)


def _rare_kinds(titles: Sequence[str | None]) -> torch.Tensor:
    """Return the n-grams of titles that [`shared_ngram_neighbors`] reads, at the start of each row."""
    lexical = torch.as_tensor(lexical_ids([title or "" for title in titles]))
    kinds = torch.tensor([LEXICAL_KINDS.index(kind) for kind in RARE_KINDS])
    is_read = torch.isin(lexical >> LEXICAL_BITS, kinds)
    rows, columns = is_read.nonzero(as_tuple=True)
    found = lexical.new_full((len(titles), int(is_read.sum(dim=1).amax())), LEXICAL_PADDING)
    found[rows, is_read.cumsum(dim=1)[rows, columns] - 1] = lexical[rows, columns]
    return found
