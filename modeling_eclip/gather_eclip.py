"""Join the rows of all ranks into one batch, gradients kept.

With every rank's loss computed over the joined batch, the gradients that come back through [`gather_rows`] add up to
the number of ranks times the true one, and the average that distributed training takes over the ranks makes them
exactly those of one process with the joined batch.
"""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join the rows of all ranks, in the order of the ranks.

    Args:
        rows: This rank's rows, shape `(B_rank, ...)`; the ranks may have different numbers of them.

    Returns:
        The rows of all ranks, shape `(sum of B_rank, ...)`. Without distributed training, `rows` itself.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], dtype=torch.int64, device=rows.device))
    longest = max(int(size) for size in sizes)
    padding = rows.new_zeros((longest - len(rows), *rows.shape[1:]))
    padded = torch.cat([rows, padding]) if len(padding) else rows
    if padded.requires_grad:
        gathered = all_gather(padded.contiguous())
    else:
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded.contiguous())
    return torch.cat([part[: int(size)] for part, size in zip(gathered, sizes, strict=True)])


__all__ = ["gather_rows"]
