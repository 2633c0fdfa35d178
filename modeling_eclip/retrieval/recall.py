"""Recall at k, as a pure function of embeddings: in tiles, on any device, and shared among ranks."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from ..losses.exact_products import exact_products
from ..losses.gather import is_distributed

__all__ = ["retrieval_ranks", "retrieval_recall"]


def retrieval_recall(
    query_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    group_ids: Sequence[torch.Tensor] = (),
    *,
    ranks: Sequence[int] = (1, 5, 10),
    block_size: int = 1024,
    device: torch.device | str | None = None,
    distributed: bool = False,
) -> dict[str, float]:
    """Return how often a relevant candidate is among the nearest.

    Candidate `i` is relevant for query `i`, and so is every candidate that shares a group with it, such as another
    seller's offer of the same product.

    Args:
        query_embeds: Embeddings of the queries, of unit length, shape `(N, D)`.
        candidate_embeds: Embeddings of the candidates, of unit length, shape `(N, D)`; row `i` is the partner of query
            `i`.
        group_ids: Groupings of the rows, each int64 of shape `(N,)`, negative for a row that is alone in it.
        ranks: The `k` of each recall@k.
        block_size: Queries, and candidates, compared at a time: memory beside the embeddings is that of one tile.
        device: Where they are compared; where the queries lie if not given.
        distributed: Whether all ranks have the same rows and call this together, each for its share of the queries.

    Returns:
        `{"recall@k": share}`, and `{"chance@k": share}`, the expected recall of random embeddings.

    Raises:
        ValueError: shapes that do not fit, or no rows.
    """
    num_rows = len(query_embeds)
    if num_rows == 0 or query_embeds.shape != candidate_embeds.shape:
        raise ValueError(
            f"`query_embeds` and `candidate_embeds` have shapes {tuple(query_embeds.shape)} and "
            f"{tuple(candidate_embeds.shape)}; give two of the same shape (N, D) with at least one row."
        )
    device = query_embeds.device if device is None else torch.device(device)
    candidates = candidate_embeds.to(device, torch.float32)
    groups = [ids.to(device) for ids in group_ids]
    totals = torch.zeros(2, len(ranks), dtype=torch.float64)  # of hits and of chances
    blocks = list(torch.arange(num_rows, device=device).split(block_size))
    shared = distributed and is_distributed()
    for rows in blocks[dist.get_rank() :: dist.get_world_size()] if shared else blocks:
        queries = query_embeds[rows.to(query_embeds.device)].to(device, torch.float32)
        num_relevant, num_ahead = (count.cpu() for count in _count(queries, rows, candidates, groups, blocks))
        num_others = num_rows - num_relevant.double()
        for place, k in enumerate(ranks):
            totals[0, place] += (num_ahead < k).sum()
            missed = torch.ones_like(num_others)
            for drawn in range(min(k, num_rows)):  # without replacement: each candidate has one rank
                missed *= (num_others - drawn).clamp_min(0) / (num_rows - drawn)
            totals[1, place] += (1 - missed).sum()
    if shared:
        on_device = totals.to(device)
        dist.all_reduce(on_device)
        totals = on_device.cpu()
    recalls, chances = (totals / num_rows).tolist()
    return {
        **{f"recall@{k}": share for k, share in zip(ranks, recalls, strict=True)},
        **{f"chance@{k}": share for k, share in zip(ranks, chances, strict=True)},
    }


def retrieval_ranks(
    query_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    group_ids: Sequence[torch.Tensor] = (),
    *,
    block_size: int = 1024,
) -> torch.Tensor:
    """Return the rank of the first relevant candidate of each query; arguments as for [`retrieval_recall`].

    Returns:
        Ranks, 1 being the first, int64, shape `(N,)`.
    """
    blocks = list(torch.arange(len(query_embeds), device=query_embeds.device).split(block_size))
    counts = [_count(query_embeds[rows], rows, candidate_embeds, group_ids, blocks) for rows in blocks]
    return torch.cat([1 + num_ahead for _, num_ahead in counts])


def _count(
    queries: torch.Tensor,
    rows: torch.Tensor,
    candidates: torch.Tensor,
    groups: Sequence[torch.Tensor],
    blocks: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many candidates are relevant for each query of a block, and how many others come before all of those.

    Two sweeps over the candidates: the second counts what comes before the best that the first found.
    """

    def tiles() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for columns in blocks:
            is_relevant = rows[:, None] == columns
            for ids in groups:
                is_relevant |= (ids[rows, None] == ids[columns]) & (ids[rows, None] >= 0)
            with exact_products(queries.device.type):
                similarity = queries @ candidates[columns].T
            yield similarity, is_relevant

    best = queries.new_full((len(rows), 1), float("-inf"))
    num_relevant, num_ahead = torch.zeros_like(rows), torch.zeros_like(rows)
    for similarity, is_relevant in tiles():
        best = torch.maximum(best, similarity.masked_fill(~is_relevant, float("-inf")).amax(dim=1, keepdim=True))
        num_relevant += is_relevant.sum(dim=1)
    for similarity, is_relevant in tiles():
        # In a tie the relevant candidate comes last, so that equal embeddings do not count as found.
        # Negated, so that NaN counts as ahead, too.
        num_ahead += (~(similarity < best) & ~is_relevant).sum(dim=1)
    return num_relevant, num_ahead
