"""Sampler: which row comes when, as a function of the seed alone.

Training walks through an endless sequence of epochs, each a seeded permutation of the rows: `RowOrder` for a table,
`BlockOrder` for a stream, `training.data.mixing.MixedOrder` for sources of different weights. A place in this sequence
is a *position*: 0 is the first sample of the run. Batches are spans of positions, and each rank takes a contiguous
share of a span, so neither the number of ranks or workers nor a resumption changes which rows form a batch.
"""

from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["BlockOrder", "EpochOrder", "RowOrder", "batch_spans", "rank_slice"]

_MIN_BLOCKS = 8  # of a window: a batch mixes rows of so many blocks, however long these are


class EpochOrder:
    """Maps positions to rows; subclasses define the order within an epoch.

    Attributes:
        num_rows: Rows of an epoch.
    """

    num_rows: int

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows at the positions `start` to `stop` (exclusive), which may span several epochs.

        Args:
            start: First position.
            stop: Position after the last.

        Returns:
            Row indices of shape `(stop - start,)`, int64.

        Raises:
            ValueError: If not `0 <= start <= stop`.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"start and stop must satisfy 0 <= start <= stop, received start={start}, stop={stop}.")
        pieces = [np.empty(0, dtype=np.int64)]
        while start < stop:
            taken = self._piece(*divmod(start, self.num_rows))[: stop - start]
            pieces.append(taken)
            start += len(taken)
        return np.concatenate(pieces)

    def _piece(self, epoch: int, offset: int) -> np.ndarray:
        """Returns rows of an epoch from an offset on: at least one, and as many as are drawn already."""
        raise NotImplementedError


class RowOrder(EpochOrder):
    """Maps positions to the rows of a table.

    Args:
        num_rows: Number of rows of the table.
        seed: Seed of the permutations.
        shuffle: If false, every epoch goes through the rows in their own order.
        catalog_ids: Catalog of each row, shape `(num_rows,)`, negative for a row that is alone.
        mates_share: Share of the catalogs, drawn anew each epoch, whose rows come one after the other, so that they
            are in one batch. With few of them among many rows this would happen rarely, and catalog labels would have
            little effect (this package's design).
        similar_rows: Rows of other catalogs that are the most similar to each row, the nearest first, shape
            `(num_rows, K)`, -1 for none.
        similar_share: Share of the rows, drawn anew each epoch, that bring their similar rows up to them, so that a
            batch holds hard negatives (this package's design); catalogs stay together.

    Raises:
        ValueError: If there are no rows, the seed is negative, there is not one catalog id per row, or a share does
            not lie in [0, 1].
    """

    def __init__(
        self,
        num_rows: int,
        seed: int,
        shuffle: bool = True,
        catalog_ids: np.ndarray | None = None,
        mates_share: float = 0.0,
        similar_rows: np.ndarray | None = None,
        similar_share: float = 0.0,
    ) -> None:
        """Checks the arguments; permutations are drawn when they are needed."""
        if num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, received {num_rows}. Load some products first.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, received {seed}.")
        if catalog_ids is not None and len(catalog_ids) != num_rows:
            raise ValueError(f"catalog_ids has {len(catalog_ids)} entries for {num_rows} rows; give one per row.")
        if not 0 <= mates_share <= 1:
            raise ValueError(f"mates_share must lie in [0, 1], received {mates_share}; 0 leaves the order random.")
        if not 0 <= similar_share <= 1:
            raise ValueError(f"similar_share must lie in [0, 1], received {similar_share}; 0 leaves the order random.")
        self.num_rows = num_rows
        self.mates_share = mates_share
        self.similar_rows, self.similar_share = similar_rows, similar_share
        self.catalog_ids = catalog_ids
        self.seed = seed
        self.shuffle = shuffle
        self._cached_epoch: tuple[int, np.ndarray] | None = None

    def _piece(self, epoch: int, offset: int) -> np.ndarray:
        return self._epoch(epoch)[offset:]

    def _epoch(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            epoch = 0
        if self._cached_epoch is None or self._cached_epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            rows = self._draw(epoch, rng)
            if self.catalog_ids is not None and self.mates_share > 0:
                rows = _bring_mates_together(rows, self.catalog_ids, self.mates_share, rng)
            if self.similar_rows is not None and self.similar_share > 0:
                groups = _similar_groups(rows, self.similar_rows, self.catalog_ids, self.similar_share, rng)
                rows = _bring_mates_together(rows, groups, 1.0, rng)
            self._cached_epoch = (epoch, rows)
        return self._cached_epoch[1]

    def _draw(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """Returns the rows of an epoch in a random order."""
        rows = np.arange(self.num_rows, dtype=np.int64)
        if self.shuffle:
            rng.shuffle(rows)
        return rows


class BlockOrder(EpochOrder):
    """Maps positions to the rows of a stream: shuffled as a whole, yet read in blocks, such as parquet's row groups.

    In every epoch the blocks are dealt out to *windows* of several blocks each, and the rows of a window are shuffled
    together (this package's design). Of each stretch of as many blocks as there are windows, every window gets one at
    random. So a window has rows from everywhere, even of sorted files, and a reader holds only one window's blocks.

    Args:
        block_lengths: Rows of each block, shape `(num_blocks,)`. Rows are numbered across all blocks.
        seed: Seed of the permutations.
        window_rows: About how many rows are shuffled together; more where eight blocks hold more.

    Attributes:
        window_blocks: Largest number of blocks that a window has.

    Raises:
        ValueError: If there are no rows, or `seed` or `window_rows` is out of range.
    """

    def __init__(self, block_lengths: np.ndarray, seed: int, window_rows: int = 4096) -> None:
        """Checks the arguments; permutations are drawn when they are needed."""
        self.block_lengths = np.asarray(block_lengths, dtype=np.int64)
        self.num_rows = int(self.block_lengths.sum())
        if self.num_rows < 1:
            raise ValueError("the blocks hold no rows. Load some products first.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, received {seed}.")
        if window_rows < 1:
            raise ValueError(f"window_rows must be at least 1, received {window_rows}.")
        self.seed = seed
        self._block_starts = np.cumsum(self.block_lengths) - self.block_lengths
        num_blocks = len(self.block_lengths)
        self._num_windows = max(1, min(self.num_rows // window_rows, num_blocks // _MIN_BLOCKS))
        self.window_blocks = -(-num_blocks // self._num_windows)
        self._cached_epoch: tuple[int, list[np.ndarray], np.ndarray] | None = None
        self._cached_window: tuple[tuple[int, int], np.ndarray] | None = None

    def _piece(self, epoch: int, offset: int) -> np.ndarray:
        windows, window_stops = self._epoch(epoch)
        number = int(np.searchsorted(window_stops, offset, side="right"))
        rows = self._window(epoch, number, windows[number])
        return rows[offset - (int(window_stops[number]) - len(rows)) :]

    def _epoch(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns the blocks of each window, and the position in the epoch after each window's last row."""
        if self._cached_epoch is None or self._cached_epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            num_blocks = len(self.block_lengths)
            stretches = np.full((self.window_blocks, self._num_windows), -1)
            # starts at a random block, so that the stretches differ between epochs
            stretches.flat[:num_blocks] = np.roll(np.arange(num_blocks), rng.integers(num_blocks))
            windows = [window[window >= 0] for window in rng.permuted(stretches, axis=1).T]
            stops = np.cumsum([self.block_lengths[window].sum() for window in windows])
            self._cached_epoch = (epoch, windows, stops)
        return self._cached_epoch[1:]

    def _window(self, epoch: int, number: int, blocks: np.ndarray) -> np.ndarray:
        if self._cached_window is None or self._cached_window[0] != (epoch, number):
            starts = self._block_starts
            rows = np.concatenate([np.arange(starts[b], starts[b] + self.block_lengths[b]) for b in blocks])
            np.random.default_rng((self.seed, epoch, number + 1)).shuffle(rows)
            self._cached_window = ((epoch, number), rows)
        return self._cached_window[1]


def batch_spans(
    batch_size: int | Callable[[int], int], total_samples: int, start: int = 0
) -> Iterator[tuple[int, int]]:
    """Splits a run into global batches; the last one may be shorter.

    Args:
        batch_size: Samples in a global batch, all ranks together: a number, or a function of the samples seen.
        total_samples: Samples of the whole run.
        start: Samples already seen.

    Yields:
        `(start, stop)` positions of each batch.

    Raises:
        ValueError: If a batch would hold less than one sample, or `start` or `total_samples` is negative.
    """
    if start < 0 or total_samples < 0:
        raise ValueError(
            f"start and total_samples must not be negative, received start={start}, total_samples={total_samples}."
        )
    while start < total_samples:
        size = batch_size(start) if callable(batch_size) else batch_size
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, received {size} at {start} samples seen.")
        stop = min(start + size, total_samples)
        yield start, stop
        start = stop


def rank_slice(start: int, stop: int, rank: int, num_ranks: int) -> tuple[int, int]:
    """Returns one rank's share of a span: shares are contiguous, in rank order, and differ by at most one sample.

    Args:
        start: First position of the span.
        stop: Position after its last.
        rank: This rank.
        num_ranks: Number of ranks.

    Returns:
        `(start, stop)` of the share, which may be empty if the span has fewer samples than there are ranks.

    Raises:
        ValueError: If the rank is not one of the ranks.
    """
    if not 0 <= rank < num_ranks:
        raise ValueError(f"rank must lie in [0, num_ranks), received rank={rank}, num_ranks={num_ranks}.")
    length = stop - start
    return start + length * rank // num_ranks, start + length * (rank + 1) // num_ranks


def _bring_mates_together(
    rows: np.ndarray, catalog_ids: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Moves every row of the drawn catalogs up to the first row of its catalog; other rows keep their order.

    Where rows are visited several times, their first visits are brought together, their second ones, and so on.
    """
    catalogs, members = np.unique(catalog_ids[rows], return_inverse=True)
    catalogs, first_places, groups = _first_visits(rows, catalogs, members)
    is_drawn = (rng.random(len(catalogs)) < share) & (catalogs >= 0)
    places = np.where(is_drawn[groups], first_places[groups], np.arange(len(rows)))
    return rows[np.argsort(places, kind="stable")]


def _similar_groups(
    rows: np.ndarray, similar: np.ndarray, catalog_ids: np.ndarray | None, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns a group for each row of a table, -1 for a row in none: a drawn row's catalog, and those similar to it.

    In the order of the rows, each catalog joins the first group that wants it.
    """
    units = -1 - np.arange(len(similar))  # a row that is alone has a number that no catalog has
    if catalog_ids is not None:
        units = np.where(catalog_ids < 0, units, catalog_ids)
    units = np.unique(units, return_inverse=True)[1]
    group_of_unit = np.full(units.max() + 1, -1, dtype=np.int64)
    unit_of = units.tolist()
    for row, is_drawn in zip(rows.tolist(), (rng.random(len(rows)) < share).tolist(), strict=True):
        if is_drawn and group_of_unit[unit_of[row]] < 0:
            others = [unit_of[other] for other in similar[row].tolist() if other >= 0]
            free = [unit for unit in others if group_of_unit[unit] < 0]
            group_of_unit[[unit_of[row], *free]] = row
    return group_of_unit[units]


def _first_visits(
    rows: np.ndarray, catalogs: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the catalog of each group of visits, the place of its first, and the group of each visit.

    A group is the `n`-th visits of a catalog's rows.
    """
    by_row = np.argsort(rows, kind="stable")
    is_first = np.r_[True, np.diff(rows[by_row]) != 0]
    places = np.arange(len(rows))
    visit = np.empty(len(rows), dtype=np.int64)
    visit[by_row] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    keys, first_places, groups = np.unique(visit * len(catalogs) + members, return_index=True, return_inverse=True)
    return catalogs[keys % len(catalogs)], first_places, groups
