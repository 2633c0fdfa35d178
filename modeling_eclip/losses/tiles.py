"""Cross entropy between all titles and all images of a batch, in tiles: no `B x B` matrix is ever held.

Two sweeps over tiles of the similarities `s_ij` (this package's design). The first, forward, gives the log-sum-exp of
every row and column; the second, backward, gives `dL/ds_ij` tile by tile, folded at once into the gradients:
`8 B^2 D` operations in all, and memory for the embeddings' gradients and one tile. Soft targets need no tiles: a row
has one mass for all of its catalog, so their sums are sums over catalogs. A row's own pair is kept out of the tiles:
its part, `softmax_ii - P_ii`, is a small difference of large numbers once the model has learned, and is a sigmoid
instead. A title or an image that an offer lacks is in no softmax and in no sum.

Under distributed training a rank holds its own rows `u` and gathers all `w`: it sweeps its rows against all columns,
the columns' log-sum-exp is joined over the ranks, and the gradients of `w` are added up and handed back to where their
rows came from. One process is the case of one rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from .exact_products import exact_products
from .gather import gather_rows
from .sweep import Pairs, Sweep, hand_back

# A row whose largest similarity lies this far below its tile's largest would lose digits in a shared exponential.
_SHARED_RANGE = 60.0
# Exponentials of similarities that can't be larger are sums and products of float32 as they are.
_PLAIN_RANGE = 30.0
_CPU_TILE, _ACCELERATOR_TILE = 1024, 8192
# A row with this share of the batch for mates has a gradient that is a small difference of large sums.
_LARGE_CATALOG = 1 / 16


@dataclass(kw_only=True)
class Targets(Pairs):
    """Soft labels of pairs; all for `B` rows.

    Args:
        own: Mass on the row's own partner, of titles and of images, shape `(2, B)`; 0 without a pair.
        mate: Mass on each mate, likewise. Where no row lacks a side, both are the same for all rows of a catalog.
        weights: Weight of each row in the loss, likewise; 0 for a row without a target.
        largest_catalog: Rows of the largest catalog whose rows share mass, 0 where none do.
    """

    own: torch.Tensor
    mate: torch.Tensor
    weights: torch.Tensor
    largest_catalog: int


def tiled_cross_entropy(
    u: torch.Tensor,
    w: torch.Tensor,
    logit_scale: torch.Tensor,
    targets: Targets,
    *,
    tile_size: int | None = None,
    row_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Return the sum of both directions' weighted cross entropies, halved.

    With `P_ij` the targets of titles, `Q_ji` those of images, and `r_i`, `q_j` their weights:

        L = 1/2 sum_i r_i CE(P_i, softmax_j s_ij) + 1/2 sum_j q_j CE(Q_j, softmax_i s_ij)

    Args:
        u: Embeddings of this rank, shape `(B_rank, D)`.
        w: Embeddings of the same offers, shape `(B_rank, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        targets: Soft labels of the rows of all ranks.
        tile_size: Rows and columns of a tile; by the device if not given.
        row_counts: `B_rank` of every rank, where other ranks hold further rows. Gradients are then those of the loss
            times the number of ranks, whose average over the ranks, as distributed training takes it, is exact.

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings), the same on every rank.
    """
    if tile_size is None:
        tile_size = _CPU_TILE if u.device.type == "cpu" else _ACCELERATOR_TILE
    return _TiledCrossEntropy.apply(u, w, logit_scale, targets, tile_size, row_counts)


class _TiledCrossEntropy(torch.autograd.Function):
    """The two sweeps."""

    @staticmethod
    def forward(
        ctx: Any,
        u: torch.Tensor,
        w: torch.Tensor,
        logit_scale: torch.Tensor,
        targets: Targets,
        tile_size: int,
        row_counts: Sequence[int] | None,
    ) -> torch.Tensor:
        all_w = w if row_counts is None else gather_rows(w, row_counts)
        offset = 0 if row_counts is None else sum(row_counts[: dist.get_rank()])
        sweep = _Sweep(u, all_w, logit_scale, targets, tile_size, offset)
        row_sums, column_sums, own_logits, mates_agreement = sweep.log_sums()
        if row_counts is not None:
            column_sums = _join_log_sums(column_sums)
        own_column_sums = sweep.own(column_sums)
        is_pair = sweep.own(targets.is_pair)
        near = own_logits.masked_fill(~is_pair, 0.0)
        total = -mates_agreement.sum()
        for sums, own, weights in zip((row_sums, own_column_sums), targets.own, targets.weights, strict=True):
            # CE(P_i, softmax_j s_ij) = (log-sum-exp - s_ii) + (1 - P_ii) s_ii - sum over mates of P_ij s_ij
            losses = torch.where(is_pair, softplus(sums - near) + (1 - sweep.own(own)) * near, sums)
            total += (sweep.own(weights) * losses.masked_fill(sweep.own(weights) == 0, 0.0)).sum() / 2
        column_sums = torch.logaddexp(
            column_sums, own_logits if row_counts is None else gather_rows(own_logits, row_counts)
        )
        if row_counts is not None:
            dist.all_reduce(total)
        ctx.save_for_backward(u, all_w, logit_scale, row_sums, column_sums, own_column_sums, own_logits)
        ctx.targets, ctx.tile_size, ctx.offset, ctx.row_counts = targets, tile_size, offset, row_counts
        ctx.is_plain = sweep.is_plain
        return total.to(torch.promote_types(torch.promote_types(u.dtype, w.dtype), torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u, all_w, logit_scale, *sums = ctx.saved_tensors
        sweep = _Sweep(u, all_w, logit_scale, ctx.targets, ctx.tile_size, ctx.offset, ctx.is_plain)
        u_grad, w_grad, scale_grad = sweep.gradients(*sums, *ctx.needs_input_grad[:2])
        inputs = (u, all_w, logit_scale)
        return (*hand_back(grad, u_grad, w_grad, [scale_grad], inputs, ctx.row_counts), None, None, None)


class _Sweep(Sweep):
    """The two sweeps over tiles."""

    def __init__(
        self,
        u: torch.Tensor,
        w: torch.Tensor,
        logit_scale: torch.Tensor,
        targets: Targets,
        tile_size: int,
        offset: int,
        is_plain: bool | None = None,
    ) -> None:
        is_large = targets.largest_catalog > _LARGE_CATALOG * len(w)
        super().__init__(u, w, logit_scale, targets, tile_size, offset, in_float64=is_large)
        self.targets = targets
        self.weights = targets.weights.to(self.dtype)
        self.mate_masses = (targets.mate * targets.weights).to(self.dtype)
        if is_plain is None:  # the host waits for a GPU's answer, so the backward pass is told
            is_plain = bool(self.scale * _largest_norm(u) * _largest_norm(w) < _PLAIN_RANGE)
        self.is_plain = is_plain

    def log_sums(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """First sweep.

        Returns:
            Log-sum-exp of each own row but for its own pair, shape `(B_rank,)`, and of each column, over own rows and
            but for its own pair, shape `(B,)`; similarity of the own pairs, `-inf` for a row without, shape
            `(B_rank,)`; and the sum of similarities to mates by half the weight of the targets in both directions,
            shape `(B_rank,)`. All float64: a rounding of a log-sum-exp of 100 is a relative error of its softmax.
        """
        row_sums = torch.full((len(self.u),), -math.inf, dtype=torch.float64, device=self.u.device)
        column_sums = torch.full((len(self.w),), -math.inf, dtype=torch.float64, device=self.u.device)
        own_logits, mates_agreement = torch.empty_like(row_sums), torch.zeros_like(row_sums)
        with exact_products(self.u.device.type):
            w_sums = self._catalog_sums(self.w, self.targets.groups, self.mate_masses[1])
            for rows in self.row_tiles:
                u = self.u[rows].to(self.dtype)
                scaled_u = u * self.scale
                own_logits[rows] = (u.double() * self.own(self.w, rows)).sum(1) * self.scale
                if self.targets.num_groups:
                    mates_agreement[rows] = (u.double() * self._mates_of(w_sums, rows)).sum(1) * (self.scale / 2)
                for columns in self.column_tiles:
                    in_rows, in_columns = _log_sum_exp_both(self._logits(scaled_u, rows, columns), self.is_plain)
                    row_sums[rows] = torch.logaddexp(row_sums[rows], in_rows)
                    column_sums[columns] = torch.logaddexp(column_sums[columns], in_columns)
        own_logits.masked_fill_(~self.own(self.targets.is_pair), -math.inf)
        return row_sums, column_sums, own_logits, mates_agreement

    def gradients(
        self,
        row_sums: torch.Tensor,
        column_sums: torch.Tensor,
        own_column_sums: torch.Tensor,
        own_logits: torch.Tensor,
        for_u: bool,
        for_w: bool,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        """Second sweep.

        Args:
            row_sums: Log-sum-exp of each own row but for its own pair, shape `(B_rank,)`.
            column_sums: Log-sum-exp of each column over the rows of all ranks, own pairs included, shape `(B,)`.
            own_column_sums: The same of own columns, but for their own pairs, shape `(B_rank,)`.
            own_logits: Similarity of the own pairs, `-inf` for a row without, shape `(B_rank,)`.
            for_u: Whether the gradient of `u` is wanted.
            for_w: Whether that of `w` is.

        Returns:
            Gradients of own `u`, shape `(B_rank, D)`, of all `w` as far as they come from own rows, shape `(B, D)`,
            and of the log of the scale, likewise.
        """
        u_grad = torch.empty_like(self.u, dtype=self.dtype) if for_u else None
        w_grad = torch.empty_like(self.w, dtype=self.dtype) if for_w else None
        scale_grad = torch.zeros((), dtype=torch.float64, device=self.u.device)
        own_pairs = self._own_pair_gradients(row_sums, own_column_sums, own_logits)
        row_sums, column_sums = (
            _without_infinity(torch.logaddexp(row_sums, own_logits)),
            _without_infinity(column_sums),
        )
        with exact_products(self.u.device.type):
            if w_grad is not None:
                self._start_gradient_of_w(w_grad, own_pairs)
            w_sums = self._catalog_sums(self.w, self.targets.groups, self.mate_masses[1])
            for rows in self.row_tiles:
                u, row_weights = self.u[rows].to(self.dtype), self.own(self.weights[0], rows)
                scaled_u = u * self.scale
                gradient = self.own(self.w, rows).to(self.dtype) * own_pairs[rows, None]  # (T, D)
                if self.targets.num_groups:
                    gradient -= self._mates_of(w_sums, rows)
                for columns in self.column_tiles:
                    shares = _softmax_both(
                        self._logits(scaled_u, rows, columns),
                        row_sums[rows],
                        column_sums[columns],
                        row_weights,
                        self.weights[1, columns],
                        self.is_plain,
                    )
                    gradient.addmm_(shares, self.w[columns].to(self.dtype))
                    if w_grad is not None:
                        w_grad[columns].addmm_(shares.T, u)
                gradient.mul_(self.scale / 2)
                scale_grad += (u * gradient).sum(dtype=torch.float64)
                if u_grad is not None:
                    u_grad[rows] = gradient
            if w_grad is not None:
                w_grad.mul_(self.scale / 2)
        return u_grad, w_grad, scale_grad

    def _logits(self, scaled_u: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Return one tile of similarities, `-inf` for own, excluded and missing pairs, shape `(T, T)`."""
        return self.hide(scaled_u @ self.w[columns].to(self.dtype).T, rows, columns)

    def _own_pair_gradients(
        self, row_sums: torch.Tensor, own_column_sums: torch.Tensor, own_logits: torch.Tensor
    ) -> torch.Tensor:
        """Return `2 dL/ds_ii` of the own pairs, shape `(B_rank,)`; 0 for a row without."""
        gradients = torch.zeros_like(own_logits)
        for sums, own, weights in zip(
            (row_sums, own_column_sums), self.targets.own, self.targets.weights, strict=True
        ):
            gradients += (1 - self.own(own) - torch.sigmoid(sums - own_logits)) * self.own(weights)
        return gradients.masked_fill_(~self.own(self.targets.is_pair), 0.0).to(self.dtype)

    def _catalog_sums(
        self, embeds: torch.Tensor, groups: torch.Tensor, masses: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of each catalog's embeddings, and that of mass times embedding; `None` for one mass each.

        The last row, of those that are alone, is zero.
        """
        sums = []
        for weighted in (embeds, None if self.targets.exists is None else embeds * masses[:, None]):
            if weighted is not None:
                total = embeds.new_zeros((self.targets.num_groups + 1, embeds.shape[1]), dtype=self.dtype)
                if self.targets.num_groups:
                    total.index_add_(0, groups, weighted.to(self.dtype))
                    total[-1] = 0
                sums.append(total)
        return sums[0], sums[1] if len(sums) > 1 else None

    def _mates_of(self, sums: tuple[torch.Tensor, torch.Tensor | None], rows: slice) -> torch.Tensor:
        """Return the sum of the images of each own title's mates, by both directions' targets, shape `(T, D)`."""
        groups, images = self.own(self.targets.groups, rows), self.own(self.w, rows).to(self.dtype)
        own_mass, mass_of_image = (self.own(masses, rows)[:, None] for masses in self.mate_masses)
        plain, weighted = sums
        others = plain[groups] - images
        if weighted is None:
            return others * (2 * own_mass)
        return others * own_mass + (weighted[groups] - images * mass_of_image)

    def _start_gradient_of_w(self, w_grad: torch.Tensor, own_pairs: torch.Tensor) -> None:
        """Write into a gradient of all columns, `(B, D)`, what comes from own pairs and targets of own rows."""
        title_masses, image_masses = self.mate_masses
        if self.targets.num_groups:
            plain, weighted = self._catalog_sums(self.u, self.own(self.targets.groups), self.own(title_masses))
            for columns in self.column_tiles:
                groups, mass = self.targets.groups[columns], image_masses[columns, None]
                torch.mul(plain[groups], -2 * mass if weighted is None else -mass, out=w_grad[columns])
                if weighted is not None:
                    w_grad[columns] -= weighted[groups]
        else:
            w_grad.zero_()
        for rows in self.row_tiles:
            factor = own_pairs[rows] + self.own(title_masses, rows) + self.own(image_masses, rows)
            self.own(w_grad, rows).add_(self.u[rows].to(self.dtype) * factor[:, None])


def _largest_norm(embeds: torch.Tensor) -> torch.Tensor:
    """Return the length of the longest row; 0 without any."""
    norms = torch.linalg.vector_norm(embeds, dim=1).double()
    return norms.amax() if len(norms) else norms.sum()


def _without_infinity(log_sums: torch.Tensor) -> torch.Tensor:
    """Replace the `-inf` of rows that are compared with nothing, whose softmax is then 0 and not a NaN."""
    return torch.where(log_sums == -math.inf, log_sums.amax().clamp(min=0.0) if len(log_sums) else 0.0, log_sums)


def _log_sum_exp_both(logits: torch.Tensor, is_plain: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-sum-exp of a tile's rows and columns, float64; the tile is used up."""
    largest = logits.new_zeros(())
    if not is_plain:
        row_largest = logits.amax(1)
        largest = row_largest.amax()
        largest = torch.where(largest == -math.inf, 0.0, largest)
        # What is compared with nothing, `-inf`, has no digits to lose.
        least = [torch.where(line == -math.inf, math.inf, line).amin() for line in (row_largest, logits.amax(0))]
        if not largest - torch.minimum(*least) < _SHARED_RANGE:
            logits = logits.double()
            return logits.logsumexp(1), logits.logsumexp(0)
        logits.sub_(largest)
    # One exponential serves both directions.
    exponentials = logits.exp_()
    return exponentials.sum(1).double().log() + largest, exponentials.sum(0).double().log() + largest


def _softmax_both(
    logits: torch.Tensor,
    row_sums: torch.Tensor,
    column_sums: torch.Tensor,
    row_weights: torch.Tensor,
    column_weights: torch.Tensor,
    is_plain: bool,
) -> torch.Tensor:
    """Return the weighted sum of a tile's softmaxes over rows and columns, shape `(T, T)`; the tile is used up."""
    dtype = logits.dtype
    middle = row_sums.new_zeros(()) if is_plain else ((row_sums.amax() + column_sums.amax()) / 2).to(dtype)
    rows, columns = middle - row_sums, middle - column_sums
    if is_plain or torch.maximum(rows.abs().amax(), columns.abs().amax()) < _SHARED_RANGE:
        # exp(s - a) = exp(s - m) exp(m - a): one exponential serves both directions
        factors = (rows.exp() * row_weights).to(dtype)[:, None] + (columns.exp() * column_weights).to(dtype)
        if not is_plain:
            logits.sub_(middle)
        return logits.exp_().mul_(factors)
    logits = logits.double()
    over_rows = (logits - row_sums[:, None]).exp_().mul_(row_weights[:, None])
    over_columns = (logits - column_sums).exp_().mul_(column_weights)
    return over_rows.add_(over_columns).to(dtype)


def _join_log_sums(log_sums: torch.Tensor) -> torch.Tensor:
    """Return the log-sum-exp over all ranks of what each has of it; `-inf` where none has a row but the own pair's."""
    largest = log_sums.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    largest.clamp_(min=torch.finfo(largest.dtype).min)  # -inf less -inf would be no number
    total = (log_sums - largest).exp()
    dist.all_reduce(total)
    return total.log() + largest


__all__ = ["Targets", "tiled_cross_entropy"]
