"""What losses in tiles have in common: which pairs of rows are compared, and the walk over tiles of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .gather import add_up_rows

# Up to this many multiplications (B = 2,896 at D = 512) a CPU computes the similarities in float64: it takes a second
# at most, little beside the towers of such a batch.
_CPU_FLOAT64_LIMIT = 2**32


@dataclass(kw_only=True)
class Pairs:
    """What the `B` rows of all ranks are to each other.

    Args:
        groups: Number of each row's catalog from 0, int64, shape `(B,)`; rows that are alone have `num_groups`.
        num_groups: Number of catalogs with several rows.
        is_pair: Rows whose own title and image are compared, bool, shape `(B,)`.
        are_mates_excluded: Whether no row is compared with its mates.
        exists: Which titles and images there are, bool, shape `(2, B)`; `None` for all. The others' embeddings are
            zero.
    """

    groups: torch.Tensor
    num_groups: int
    is_pair: torch.Tensor
    are_mates_excluded: bool = False
    exists: torch.Tensor | None = None


def find_catalogs(catalog_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Number the catalogs that have several rows, in `O(B)` memory.

    Args:
        catalog_ids: Catalog of each row, int64, shape `(B,)`, negative for a row that is alone.

    Returns:
        The number of each row's catalog from 0, int64, shape `(B,)`, with `num_groups` for rows that are alone; the
        rows of each catalog, int64, shape `(num_groups,)`; and the rows of the largest one, 0 without any.
    """
    ids, members, counts = torch.unique(catalog_ids, return_inverse=True, return_counts=True)
    has_mates = (ids >= 0) & (counts > 1)
    numbers = torch.where(has_mates, has_mates.cumsum(0) - 1, has_mates.sum())
    sizes = counts[has_mates]
    return numbers[members], sizes, int(sizes.max()) if len(sizes) else 0


class Sweep:
    """Walks over the tiles of the similarities of own rows with all columns.

    Args:
        u: Embeddings of own rows, shape `(B_rank, D)`.
        w: Embeddings of all columns, shape `(B, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        pairs: What rows are to each other.
        tile_size: Rows and columns of a tile.
        offset: Place of the first own row among all.
        in_float64: Whether a CPU computes in float64 at any size.
    """

    def __init__(
        self,
        u: torch.Tensor,
        w: torch.Tensor,
        logit_scale: torch.Tensor,
        pairs: Pairs,
        tile_size: int,
        offset: int,
        in_float64: bool = False,
    ) -> None:
        """Choose the dtype that is computed in, and cut rows and columns."""
        self.u, self.w, self.pairs, self.offset = u, w, pairs, offset
        self.dtype = torch.promote_types(torch.promote_types(u.dtype, w.dtype), torch.float32)
        is_small = len(u) * len(w) * w.shape[1] <= _CPU_FLOAT64_LIMIT
        if u.device.type == "cpu" and (is_small or in_float64):
            self.dtype = torch.float64
        self.scale = logit_scale.double().reshape(()).exp()
        self.row_tiles = [slice(start, min(start + tile_size, len(u))) for start in range(0, len(u), tile_size)]
        self.column_tiles = [slice(start, min(start + tile_size, len(w))) for start in range(0, len(w), tile_size)]

    def own(self, values: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
        """Return the part of a per-row tensor that belongs to own rows, or to some of them."""
        start, stop = (0, len(self.u)) if rows is None else (rows.start, rows.stop)
        return values[self.offset + start : self.offset + stop]

    def hide(self, logits: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Write `-inf` into a tile, shape `(T, T)`, for own, excluded and missing pairs; return it."""
        if self.pairs.exists is not None:
            titles, images = self.pairs.exists
            logits.masked_fill_(~(self.own(titles, rows)[:, None] & images[columns]), -math.inf)
        if self.pairs.are_mates_excluded:
            own_groups, groups = self.own(self.pairs.groups, rows), self.pairs.groups[columns]
            are_mates = (own_groups[:, None] == groups) & (own_groups < self.pairs.num_groups)[:, None]
            logits.masked_fill_(are_mates, -math.inf)
        self.own_pairs_of(logits, rows, columns).fill_(-math.inf)
        return logits

    def own_pairs_of(self, tile: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Return the part of a tile, shape `(T, T)`, that is of own pairs, as a view; it may be empty."""
        diagonal = self.offset + rows.start - columns.start
        return tile.diagonal(diagonal) if -tile.shape[0] < diagonal < tile.shape[1] else tile[:0, 0]


def hand_back(
    grad: torch.Tensor,
    u_grad: torch.Tensor | None,
    w_grad: torch.Tensor | None,
    scalar_grads: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    row_counts: Sequence[int] | None,
) -> tuple[torch.Tensor | None, ...]:
    """Return what a loss in tiles hands back of a sweep over own rows and all columns.

    Args:
        grad: Gradient of the loss.
        u_grad: That of own rows, shape `(B_rank, D)`; `None` if it is not wanted.
        w_grad: Those of all columns as far as they come from own rows, shape `(B, D)`; likewise.
        scalar_grads: Those of the scalars.
        inputs: Own rows, all columns and the scalars, whose dtypes and shapes gradients have.
        row_counts: Rows of every rank; `None` where no other takes part.

    Returns:
        The gradients of own rows, of own columns and of the scalars, multiplied by the number of ranks.
    """
    if row_counts is not None:
        grad = grad * len(row_counts)
        if w_grad is not None:
            w_grad = add_up_rows(w_grad, row_counts)
    u, w, *scalars = inputs
    of_scalars = [(one * grad).to(of.dtype).reshape(of.shape) for one, of in zip(scalar_grads, scalars, strict=True)]
    of_rows = [
        None if gradient is None else gradient.mul_(grad).to(of.dtype) for gradient, of in ((u_grad, u), (w_grad, w))
    ]
    return (*of_rows, *of_scalars)


__all__ = ["Pairs", "Sweep", "find_catalogs", "hand_back"]
