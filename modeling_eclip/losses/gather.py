"""Rows of all ranks as one batch, and sums over ranks handed back to where their rows came from.

The ranks may hold different numbers of rows, or none. Nothing here keeps gradients: the loss computes them for the
joined batch itself.
"""

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Tell whether other ranks take part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join the rows of all ranks, in the order of the ranks.

    Args:
        rows: This rank's rows, shape `(B_rank, ...)`.

    Returns:
        The rows of all ranks, shape `(sum of B_rank, ...)`. Without distributed training, `rows` itself.
    """
    if not is_distributed():
        return rows
    rows = rows.detach()
    counts = count_rows(len(rows), rows.device)
    longest = max(counts)
    padded = (
        rows if len(rows) == longest else torch.cat([rows, rows.new_zeros((longest - len(rows), *rows.shape[1:]))])
    )
    gathered = rows.new_empty((len(counts) * longest, *rows.shape[1:]))
    dist.all_gather_into_tensor(gathered, padded.contiguous())
    if min(counts) == longest:
        return gathered
    return torch.cat([part[:count] for part, count in zip(gathered.split(longest), counts, strict=True)])


def add_up_rows(rows: torch.Tensor, num_own: int) -> torch.Tensor:
    """Add up, over the ranks, what each has for the rows of all, and return the sums of this rank's rows.

    Args:
        rows: One row for each row of all ranks, in the order of the ranks, shape `(sum of B_rank, ...)`.
        num_own: `B_rank` of this rank.

    Returns:
        The sums, shape `(B_rank, ...)`. Without distributed training, `rows` itself.
    """
    if not is_distributed():
        return rows
    counts = count_rows(num_own, rows.device)
    longest = max(counts)
    if min(counts) != longest:
        padded = rows.new_zeros((len(counts), longest, *rows.shape[1:]))
        for place, part in zip(padded, rows.split(counts), strict=True):
            place[: len(part)] = part
        rows = padded.flatten(0, 1)
    summed = rows.new_empty((longest, *rows.shape[1:]))
    dist.reduce_scatter_tensor(summed, rows.contiguous())
    return summed[:num_own]


def count_rows(num_own: int, device: torch.device) -> list[int]:
    """Return how many rows each rank has; `[num_own]` without distributed training."""
    if not is_distributed():
        return [num_own]
    counts = torch.empty(dist.get_world_size(), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(counts, torch.full((1,), num_own, dtype=torch.int64, device=device))
    return counts.tolist()


__all__ = ["add_up_rows", "count_rows", "gather_rows", "is_distributed"]
