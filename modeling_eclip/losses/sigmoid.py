"""A sigmoid of every pair of a batch, in tiles: the loss of SigLIP (Zhai et al. 2023), with labels over catalogs.

No pair knows of the others, so that a sweep over tiles of `z_ij` adds the loss up, and another, backward, gives
`dL/dz_ij` tile by tile, folded at once into the gradients: `8 B^2 D` operations and the memory of one tile, as for the
softmax in `tiles.py`. What is known to be a pair is computed as `sigmoid(-z)`, never as `1 - sigmoid(z)`, which has no
digits left once the model has learned. Under distributed training a rank holds its own rows and gathers all columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid, softplus

from .exact_products import exact_products
from .gather import gather_rows
from .sweep import Pairs, Sweep, hand_back

# A tile is held three or four times over. On accelerators this is 0.3 GiB.
_CPU_TILE, _ACCELERATOR_TILE = 1024, 4096
# From here on float64 has no digits left that would tell `log(1 + exp(z))` from `z`.
_LINEAR_FROM = 40.0


@dataclass(kw_only=True)
class Labels(Pairs):
    """Labels of pairs: 1 for own ones, 0 for those of different catalogs.

    Args:
        mate: Label of a pair of mates, from 0 to 1.
        weights: Weight of the pairs of each row of `u`, float64, shape `(B,)`; 0 for a row that is not there.
    """

    mate: float
    weights: torch.Tensor


def tiled_sigmoid_loss(
    u: torch.Tensor,
    w: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    labels: Labels,
    *,
    tile_size: int | None = None,
    row_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Return the weighted sum of the binary cross entropies of all pairs.

    With `z_ij = exp(logit_scale) <u_i, w_j> + logit_bias`, `y_ij` the labels and `r_i` the weights of rows:

        L = -sum_i r_i sum_j [y_ij log sigmoid(z_ij) + (1 - y_ij) log sigmoid(-z_ij)]

    Args:
        u: Embeddings of this rank, shape `(B_rank, D)`.
        w: Embeddings of the same offers, shape `(B_rank, D)`.
        logit_scale: Log of the inverse temperature, a single element.
        logit_bias: What is added to similarities, a single element.
        labels: Labels of the rows of all ranks.
        tile_size: Rows and columns of a tile; by the device if not given.
        row_counts: As for [`tiled_cross_entropy`].

    Returns:
        The loss, a scalar in float32 (float64 for float64 embeddings), the same on every rank.
    """
    if tile_size is None:
        tile_size = _CPU_TILE if u.device.type == "cpu" else _ACCELERATOR_TILE
    return _TiledSigmoidLoss.apply(u, w, logit_scale, logit_bias, labels, tile_size, row_counts)


class _TiledSigmoidLoss(torch.autograd.Function):
    """The two sweeps."""

    @staticmethod
    def forward(
        ctx: Any,
        u: torch.Tensor,
        w: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor,
        labels: Labels,
        tile_size: int,
        row_counts: Sequence[int] | None,
    ) -> torch.Tensor:
        all_w = w if row_counts is None else gather_rows(w, row_counts)
        offset = 0 if row_counts is None else sum(row_counts[: dist.get_rank()])
        total = _Sweep(u, all_w, logit_scale, logit_bias, labels, tile_size, offset).loss()
        if row_counts is not None:
            dist.all_reduce(total)
        ctx.save_for_backward(u, all_w, logit_scale, logit_bias)
        ctx.labels, ctx.tile_size, ctx.offset, ctx.row_counts = labels, tile_size, offset, row_counts
        return total.to(torch.promote_types(torch.promote_types(u.dtype, w.dtype), torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u, all_w, logit_scale, logit_bias = ctx.saved_tensors
        sweep = _Sweep(u, all_w, logit_scale, logit_bias, ctx.labels, ctx.tile_size, ctx.offset)
        u_grad, w_grad, *scalar_grads = sweep.gradients(*ctx.needs_input_grad[:2])
        return (*hand_back(grad, u_grad, w_grad, scalar_grads, ctx.saved_tensors, ctx.row_counts), None, None, None)


class _Sweep(Sweep):
    """Both sweeps over tiles."""

    def __init__(
        self,
        u: torch.Tensor,
        w: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor,
        labels: Labels,
        tile_size: int,
        offset: int,
    ) -> None:
        super().__init__(u, w, logit_scale, labels, tile_size, offset)
        self.bias = logit_bias.double().reshape(())
        self.weights = self.own(labels.weights)
        self.mate = labels.mate if labels.num_groups else 0.0
        # What is alone or not there has a number of its own, and is nobody's mate.
        alone = (labels.groups == labels.num_groups).expand(2, -1)
        nobody = alone if labels.exists is None else alone | ~labels.exists
        self.title_groups = self.own(labels.groups.masked_fill(nobody[0], -1))
        self.image_groups = labels.groups.masked_fill(nobody[1], -2)

    def loss(self) -> torch.Tensor:
        """Return the loss of own rows with all columns, float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.u.device)
        with exact_products(self.u.device.type):
            for rows in self.row_tiles:
                losses = -logsigmoid(self._own_logits(rows)) * self.own(self.pairs.is_pair, rows)  # (T,)
                scaled_u = self.u[rows].to(self.dtype) * self.scale
                for columns in self.column_tiles:
                    logits, are_mates = self._tile(scaled_u, rows, columns)
                    losses += softplus(logits, threshold=_LINEAR_FROM).sum(1)
                    if are_mates is not None and self.mate < 1:
                        losses -= (1 - self.mate) * logits.masked_fill_(~are_mates, 0.0).sum(1)
                total += (losses * self.weights[rows]).sum()
        return total

    def gradients(
        self, for_u: bool, for_w: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Return the gradients of own rows' loss.

        Args:
            for_u: Whether the gradient of `u` is wanted.
            for_w: Whether that of `w` is.

        Returns:
            Gradients of own `u`, shape `(B_rank, D)`, of all `w`, shape `(B, D)`, of the log of the scale and of the
            bias, the last two in float64.
        """
        u_grad = torch.empty_like(self.u, dtype=self.dtype) if for_u else None
        w_grad = torch.zeros_like(self.w, dtype=self.dtype) if for_w else None
        scale_grad, bias_grad = torch.zeros(2, dtype=torch.float64, device=self.u.device).unbind()
        with exact_products(self.u.device.type):
            for rows in self.row_tiles:
                u, weights = self.u[rows].to(self.dtype), self.weights[rows]
                scaled_u, weighted_u = u * self.scale, (u * weights[:, None]).to(self.dtype)
                shares = -torch.sigmoid(-self._own_logits(rows)) * self.own(self.pairs.is_pair, rows)  # (T,)
                own_shares = shares[:, None].to(self.dtype)
                gradient = self.own(self.w, rows).to(self.dtype) * own_shares  # (T, D)
                if w_grad is not None:
                    self.own(w_grad, rows).add_(weighted_u * own_shares)
                for columns in self.column_tiles:
                    logits, are_mates = self._tile(scaled_u, rows, columns)
                    tile = logits.sigmoid_()
                    if are_mates is not None:
                        tile = torch.where(are_mates, (1 - self.mate) - tile, tile)
                    shares += tile.sum(1)
                    gradient.addmm_(tile, self.w[columns].to(self.dtype))
                    if w_grad is not None:
                        w_grad[columns].addmm_(tile.T, weighted_u)
                gradient *= (weights * self.scale)[:, None]
                scale_grad += (u * gradient).sum(dtype=torch.float64)
                bias_grad += (shares * weights).sum()
                if u_grad is not None:
                    u_grad[rows] = gradient
            if w_grad is not None:
                w_grad.mul_(self.scale)
        return u_grad, w_grad, scale_grad, bias_grad

    def _own_logits(self, rows: slice) -> torch.Tensor:
        """Return the logits of titles with their own images, float64, shape `(T,)`."""
        return (self.u[rows].double() * self.own(self.w, rows)).sum(1) * self.scale + self.bias

    def _tile(self, scaled_u: torch.Tensor, rows: slice, columns: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return one tile of logits, shape `(T, T)`, and which are of mates that are positive; `None` if none may be.

        Those of mates have the other sign; those of own, excluded and missing pairs are `-inf`, whose loss is zero.
        """
        logits = torch.addmm(self.bias.to(self.dtype), scaled_u, self.w[columns].to(self.dtype).T)
        are_mates = None
        if self.mate:
            are_mates = self.title_groups[rows, None] == self.image_groups[columns]
            self.own_pairs_of(are_mates, rows, columns).fill_(False)
            logits = torch.where(are_mates, -logits, logits)
        return self.hide(logits, rows, columns), are_mates


__all__ = ["Labels", "tiled_sigmoid_loss"]
