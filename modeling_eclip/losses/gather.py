"""Rows of all ranks as one batch, and sums over ranks handed back to where their rows came from.

The ranks may hold different numbers of rows, or none. Nothing here keeps gradients: the loss computes them for the
joined batch itself. Who calls several of these for the same rows counts them once and hands the counts on: a count is
a message to all ranks that the host waits for.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Tell whether other ranks take part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: torch.Tensor, counts: Sequence[int] | None = None) -> torch.Tensor:
    """Join the rows of all ranks, in the order of the ranks.

    Args:
        rows: This rank's rows, shape `(B_rank, ...)`.
        counts: `B_rank` of every rank; [`count_rows`] asks for them if not given.

    Returns:
        The rows of all ranks, shape `(sum of B_rank, ...)`. Without distributed training, `rows` itself.
    """
    if not is_distributed():
        return rows
    rows = rows.detach()
    counts = count_rows(len(rows), rows.device) if counts is None else counts
    longest = max(counts)
    padded = (
        rows if len(rows) == longest else torch.cat([rows, rows.new_zeros((longest - len(rows), *rows.shape[1:]))])
    )
    gathered = rows.new_empty((len(counts) * longest, *rows.shape[1:]))
    dist.all_gather_into_tensor(gathered, padded.contiguous())
    if min(counts) == longest:
        return gathered
    return torch.cat([part[:count] for part, count in zip(gathered.split(longest), counts, strict=True)])


def add_up_rows(rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Add up, over the ranks, what each has for the rows of all, and return the sums of this rank's rows.

    Args:
        rows: One row for each row of all ranks, in the order of the ranks, shape `(sum of B_rank, ...)`.
        counts: `B_rank` of every rank.

    Returns:
        The sums, shape `(B_rank, ...)`. Without distributed training, `rows` itself.
    """
    if not is_distributed():
        return rows
    longest = max(counts)
    if min(counts) != longest:
        padded = rows.new_zeros((len(counts), longest, *rows.shape[1:]))
        for place, part in zip(padded, rows.split(list(counts)), strict=True):
            place[: len(part)] = part
        rows = padded.flatten(0, 1)
    summed = rows.new_empty((longest, *rows.shape[1:]))
    dist.reduce_scatter_tensor(summed, rows.contiguous())
    return summed[: counts[dist.get_rank()]]


def count_rows(num_own: int, device: torch.device) -> list[int]:
    """Return how many rows each rank has; `[num_own]` without distributed training."""
    return [count for (count,) in gather_numbers([num_own], device)]


def gather_numbers(numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """Return the numbers of each rank, in one message.

    Args:
        numbers: This rank's, as many as every rank has.
        device: Device over which ranks exchange tensors.

    Returns:
        One list per rank; `[numbers]` without distributed training.
    """
    if not is_distributed():
        return [list(numbers)]
    # Filled, not copied: a copy of numbers from the host to a GPU would be waited for.
    own = torch.stack([torch.full((), number, dtype=torch.int64, device=device) for number in numbers])
    gathered = own.new_empty(dist.get_world_size() * len(numbers))
    dist.all_gather_into_tensor(gathered, own)
    return gathered.view(-1, len(numbers)).tolist()


__all__ = ["add_up_rows", "count_rows", "gather_numbers", "gather_rows", "is_distributed"]
