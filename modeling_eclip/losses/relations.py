"""What a student learns from a teacher's similarities: relational distillation, as a pure function of named tensors.

The two models need not have a space, or a number of dimensions, in common: only how similar a row is to all others is
compared, block by block of rows. A block is computed again in the backward pass: no `B x B` matrix is held.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from .exact_products import exact_products
from .gather import add_up_rows, count_rows, gather_rows, is_distributed

# Similarities of a block: 64 MiB in float32, of which a handful is held at a time.
_BLOCK_NUMBERS = 2**24


def relational_distillation_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    teacher_queries: torch.Tensor,
    teacher_keys: torch.Tensor,
    *,
    scale: torch.Tensor | float,
    teacher_scale: torch.Tensor | float,
    leave_out_own: bool = False,
    distributed: bool = False,
    query_counts: Sequence[int] | None = None,
    key_counts: Sequence[int] | None = None,
) -> torch.Tensor:
    r"""Mean over queries of `KL(teacher's || student's)` softmax over all keys.

    With titles as queries and images as keys, and the other way round, this is contrastive relational distillation
    (CLIP-KD, Yang et al. 2024, equations 7 to 9). With the rows of one modality as both, it keeps which titles, or
    which images, are similar, and needs no teacher that compares titles with images:

        L = mean_i sum_j p_ij (log p_ij - log q_ij)
        p_i = softmax_j(teacher_scale <t_i, t_j>)
        q_i = softmax_j(scale <s_i, s_j>)

    Args:
        queries: The student's vectors, of unit length, shape `(Q, D)`.
        keys: Those that they are compared with, shape `(K, D)`.
        teacher_queries: The teacher's vectors of the same rows, of unit length, shape `(Q, D_teacher)`; no gradient.
        teacher_keys: Likewise, shape `(K, D_teacher)`.
        scale: Inverse temperature of the student; a tensor may have a gradient.
        teacher_scale: That of the teacher.
        leave_out_own: Whether query `i` and key `i` are the same row, which is not compared with itself.
        distributed: Whether the rows are this rank's share of a batch over all ranks. The loss is the same on every
            rank; gradients are multiplied by the number of ranks, so that their average over ranks is exact.
        query_counts: Queries of every rank; they are asked for if not given.
        key_counts: Keys of every rank, likewise.

    Returns:
        The loss, a scalar in float32 (float64 for float64 vectors); zero where no query has a key.

    Raises:
        ValueError: shapes that do not fit.
    """
    for name, own, of_teacher in (("queries", queries, teacher_queries), ("keys", keys, teacher_keys)):
        if own.ndim != 2 or of_teacher.ndim != 2 or len(own) != len(of_teacher):
            raise ValueError(
                f"`{name}` has shape {tuple(own.shape)} and `teacher_{name}` {tuple(of_teacher.shape)}; give the "
                "vectors of the same rows, shapes (rows, dimensions)."
            )
    if leave_out_own and len(queries) != len(keys):
        raise ValueError(f"`leave_out_own` is true, but there are {len(queries)} queries and {len(keys)} keys.")
    dtype = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), torch.float32)
    offset, num_queries, num_ranks = 0, len(queries), 1
    if distributed and is_distributed():
        query_counts = count_rows(len(queries), queries.device) if query_counts is None else query_counts
        key_counts = count_rows(len(keys), keys.device) if key_counts is None else key_counts
        offset, num_queries = sum(key_counts[: dist.get_rank()]), sum(query_counts)
        num_ranks = len(query_counts)
        keys, teacher_keys = _GatherRows.apply(keys, key_counts), gather_rows(teacher_keys, key_counts)
    num_keys = len(keys) - leave_out_own
    # In the graph of all, also of a rank without a query: the others' gradients come by its keys.
    total = (queries.sum(dtype=dtype) + keys.sum(dtype=dtype)) * 0
    if num_keys >= 1:
        rows_of_block = max(1, _BLOCK_NUMBERS // len(keys))
        for start in range(0, len(queries), rows_of_block):
            rows = slice(start, start + rows_of_block)
            total = total + checkpoint(
                _divergence,
                queries[rows],
                keys,
                teacher_queries[rows],
                teacher_keys,
                scale,
                teacher_scale,
                offset + start if leave_out_own else None,
                dtype,
                use_reentrant=False,
                preserve_rng_state=False,
            )
    loss = total / max(num_queries, 1)
    if num_ranks == 1:
        return loss
    everywhere = loss.detach().clone()
    dist.all_reduce(everywhere)
    return loss * num_ranks + (everywhere - loss.detach() * num_ranks)


def _divergence(
    queries: torch.Tensor,
    keys: torch.Tensor,
    teacher_queries: torch.Tensor,
    teacher_keys: torch.Tensor,
    scale: torch.Tensor | float,
    teacher_scale: torch.Tensor | float,
    first_own: int | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the sum over a block's queries of the divergence; `first_own` is the key that is the first query."""
    with exact_products(queries.device.type):
        logits = [
            scale * (queries.to(dtype) @ keys.to(dtype).T),
            teacher_scale * (teacher_queries.detach().to(dtype) @ teacher_keys.detach().to(dtype).T),
        ]
    if first_own is not None:
        own = torch.zeros(logits[0].shape, dtype=torch.bool, device=queries.device)
        own.diagonal(first_own).fill_(True)
        # Finite, since 0 times an infinite logarithm would be no number; exp(-1e4) is 0.
        logits = [values.masked_fill(own, -1e4) for values in logits]
    student, teacher = (values.log_softmax(dim=1) for values in logits)
    return (teacher.exp() * (teacher - student)).sum()


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks; each rank's gradients of them are added up and handed back."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        ctx.counts = counts
        return gather_rows(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return add_up_rows(gradient, ctx.counts), None


__all__ = ["relational_distillation_loss"]
