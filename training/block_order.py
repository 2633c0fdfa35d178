"""The order of streamed rows: shuffled as a whole, yet read in blocks.

A stream is a list of blocks, such as the row groups of parquet files, of which each is read as one piece. In every
epoch the blocks are dealt out to *windows* of several blocks each, and the rows of a window are shuffled together
(this package's design). Of each stretch of as many blocks as there are windows, every window gets one, drawn at
random: so it has rows from everywhere even of sorted files, and a reader holds no more than the blocks of one window.

Like `training.order.RowOrder` this is a function of the seed alone that can be asked for any position: the number of
ranks and workers changes nothing, and a resumed run reads no block twice.
"""

import numpy as np

from training.order import EpochOrder

__all__ = ["BlockOrder"]

_MIN_BLOCKS = 8
"""Fewest blocks of a window: what a batch may be made of, however long the blocks are."""


class BlockOrder(EpochOrder):
    """Maps positions to the rows of a stream.

    Args:
        block_lengths: Rows of each block, shape `(num_blocks,)`. Rows are numbered through all blocks.
        seed: Seed of the permutations.
        window_rows: About how many rows are shuffled together; more where eight blocks hold more.

    Attributes:
        window_blocks: Largest number of blocks that a window has.

    Raises:
        ValueError: If there are no rows, or `seed` or `window_rows` is out of range.
    """

    def __init__(self, block_lengths: np.ndarray, seed: int, window_rows: int = 4096) -> None:
        """Checks the arguments; no permutation is drawn yet."""
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
        """The blocks of each window, and the position in the epoch after each window's last row."""
        if self._cached_epoch is None or self._cached_epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            num_blocks = len(self.block_lengths)
            stretches = np.full((self.window_blocks, self._num_windows), -1)
            # begun anywhere, so that the stretches are others in every epoch
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
