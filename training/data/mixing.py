"""Sources mixed by weights: how often each row is visited in an epoch, and in which order."""

from typing import Any

import datasets
import numpy as np

from training.data.sampler import RowOrder
from training.data.sources import column_values

__all__ = ["MixedOrder", "is_mixed", "rows_per_epoch"]


class MixedOrder(RowOrder):
    """Maps positions to the rows of sources that are visited more or less often than once in an epoch.

    The rows of a source are visited in passes over all of them, one after the other, of which each epoch takes as many
    visits as the weight says: with a weight of 0.5 two epochs share a pass, with 2 an epoch has two. Between a row's
    visits lies at least a quarter of a pass, so that it is not twice in a batch that is not as large. Visits of all
    sources are mixed at random. Everything is a function of the seed.

    Args:
        sources: Number of the source of each row, shape `(N,)`.
        weights: Weight of the source of each row, shape `(N,)`, above 0.
        seed: Seed of the permutations.
        catalog_ids: As for [`RowOrder`].
        **together: Shares and similar rows, as for [`RowOrder`]; rows come together in each of their visits.

    Attributes:
        num_rows: Visits of an epoch.
    """

    def __init__(
        self,
        sources: np.ndarray,
        weights: np.ndarray,
        seed: int,
        catalog_ids: np.ndarray | None = None,
        **together: Any,
    ) -> None:
        """Counts the visits; permutations are drawn when they are needed."""
        super().__init__(len(sources), seed, catalog_ids=catalog_ids, **together)
        self._rows = {int(number): np.flatnonzero(sources == number) for number in np.unique(sources)}
        self._visits = _visits(sources, weights)
        self.num_rows = sum(self._visits.values())

    def _draw(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        which = rng.permutation(np.repeat(list(self._visits), list(self._visits.values())))
        visits = np.empty(len(which), dtype=np.int64)
        for number, count in self._visits.items():
            visits[which == number] = self._visited(number, epoch * count, (epoch + 1) * count)
        return visits

    def _visited(self, number: int, start: int, stop: int) -> np.ndarray:
        """Returns the rows of a source at some of its visits."""
        rows = self._rows[number]
        passes = range(start // len(rows), -(-stop // len(rows)))
        joined = np.concatenate([self._pass(number, place) for place in passes])
        first = passes.start * len(rows)
        return rows[joined[start - first : stop - first]]

    def _pass(self, number: int, place: int) -> np.ndarray:
        """Returns one permutation of a source's rows.

        Those of even places are drawn freely; each between two of them keeps rows that come late in the one before out
        of its first quarter, and rows that come early in the one after it out of its last.
        """
        size = len(self._rows[number])
        rng = np.random.default_rng((self.seed, 1, number, place))
        drawn = rng.permutation(size)
        if place % 2 == 0 or size < 4:
            return drawn
        quarter = size // 4
        is_late, is_early = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        is_late[self._pass(number, place - 1)[-quarter:]] = True
        is_early[self._pass(number, place + 1)[:quarter]] = True
        first = drawn[~is_late[drawn]][:quarter]
        is_left = np.ones(size, dtype=bool)
        is_left[first] = False
        last = drawn[is_left[drawn] & ~is_early[drawn]][:quarter]
        is_left[last] = False
        return np.concatenate([first, drawn[is_left[drawn]], last])


def is_mixed(products: Any) -> bool:
    """Tells whether products are of several sources, one of which has a weight other than 1."""
    if not isinstance(products, datasets.Dataset) or "source:weight" not in products.column_names:
        return False
    return bool((column_values(products, "source:weight") != 1).any())


def rows_per_epoch(products: Any) -> int:
    """Returns the visits of an epoch: a row's counts as often as its source's weight says."""
    if not is_mixed(products):
        return len(products)
    return sum(_visits(column_values(products, "source:number"), column_values(products, "source:weight")).values())


def _visits(sources: np.ndarray, weights: np.ndarray) -> dict[int, int]:
    """Returns the visits of each source in an epoch."""
    numbers, first, counts = np.unique(sources, return_index=True, return_counts=True)
    return {
        int(number): max(1, round(float(weights[place]) * int(count)))
        for number, place, count in zip(numbers, first, counts, strict=True)
    }
