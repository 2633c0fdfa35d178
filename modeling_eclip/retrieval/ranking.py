"""Recall, nDCG, MRR and mAP, as pure functions of embeddings: in tiles, on any device, and shared among ranks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from ..losses.exact_products import exact_products
from ..losses.gather import is_distributed

__all__ = ["QueryOutcomes", "judge_queries", "ranking_metrics"]

_NDCG_AT = 10


class QueryOutcomes(NamedTuple):
    """How well each of `N` queries was answered.

    Args:
        num_relevant: How many candidates are relevant, int64, shape `(N,)`.
        first_rank: Rank of the first relevant candidate, 1 being the best, int64, shape `(N,)`.
        average_precision: Mean of the precisions at the ranks of all relevant candidates, float64, shape `(N,)`.
        ndcg: Normalised discounted cumulative gain of the first 10, each relevant one with a gain of 1 and a discount
            of `1 / log2(1 + rank)`, float64, shape `(N,)`.
    """

    num_relevant: torch.Tensor
    first_rank: torch.Tensor
    average_precision: torch.Tensor
    ndcg: torch.Tensor


def ranking_metrics(
    query_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    group_ids: Sequence[torch.Tensor] = (),
    *,
    ranks: Sequence[int] = (1, 5, 10),
    block_size: int = 1024,
    device: torch.device | str | None = None,
    distributed: bool = False,
) -> dict[str, float]:
    """Return how well the relevant candidates are found.

    Candidate `i` is relevant for query `i`, and so is every candidate that shares a group with it, such as another
    seller's offer of the same product. Recall asks for one of them among the nearest; nDCG and mAP ask for all. In a
    tie the relevant candidates come last, so that equal embeddings do not count as found.

    Args:
        query_embeds: Embeddings of the queries, of unit length, shape `(N, D)`.
        candidate_embeds: Embeddings of the candidates, of unit length, shape `(N, D)`; row `i` is the partner of query
            `i`.
        group_ids: Groupings of the rows, each int64 of shape `(N,)`, negative for a row that is alone in it.
        ranks: The `k` of each recall@k.
        block_size: Queries, and candidates, compared at a time: memory beside the embeddings is that of one tile, or
            of the relevant candidates of one query where they are more.
        device: Where they are compared; where the queries lie if not given.
        distributed: Whether all ranks have the same rows and call this together, each for its share of the queries.

    Returns:
        `{"recall@k": share}`; `ndcg@10`, `mean_reciprocal_rank` and `mean_average_precision`, means over the queries
        (see [`QueryOutcomes`]); and `{"chance@k": share}`, the expected recall of random embeddings.

    Raises:
        ValueError: shapes that do not fit, or no rows.
    """
    num_rows = len(query_embeds)
    totals = torch.zeros(2 * len(ranks) + 3, dtype=torch.float64)
    blocks = _judge_blocks(
        query_embeds, candidate_embeds, group_ids, block_size=block_size, device=device, distributed=distributed
    )
    for num_relevant, first_rank, average_precision, ndcg in blocks:
        values = [(first_rank <= k).double() for k in ranks]
        values += [ndcg, 1 / first_rank.double(), average_precision]
        num_others = num_rows - num_relevant.double()
        for k in ranks:
            missed = torch.ones_like(num_others)
            for drawn in range(min(k, num_rows)):  # without replacement: each candidate has one rank
                missed *= (num_others - drawn).clamp_min(0) / (num_rows - drawn)
            values.append(1 - missed)
        totals += torch.stack(values).sum(dim=1)
    if distributed and is_distributed():
        on_device = totals.to(query_embeds.device if device is None else device)
        dist.all_reduce(on_device)
        totals = on_device.cpu()
    names = [f"recall@{k}" for k in ranks]
    names += [f"ndcg@{_NDCG_AT}", "mean_reciprocal_rank", "mean_average_precision"]
    names += [f"chance@{k}" for k in ranks]
    return dict(zip(names, (totals / num_rows).tolist(), strict=True))


def judge_queries(
    query_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    group_ids: Sequence[torch.Tensor] = (),
    *,
    block_size: int = 1024,
) -> QueryOutcomes:
    """Return how well each query was answered; arguments and errors as for [`ranking_metrics`]."""
    blocks = list(_judge_blocks(query_embeds, candidate_embeds, group_ids, block_size=block_size))
    return QueryOutcomes(*map(torch.cat, zip(*blocks, strict=True)))


def _judge_blocks(
    query_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    group_ids: Sequence[torch.Tensor],
    *,
    block_size: int,
    device: torch.device | str | None = None,
    distributed: bool = False,
) -> Iterator[QueryOutcomes]:
    """Yield the outcomes of block after block of queries, on the CPU; of this rank's share where it is shared."""
    num_rows = len(query_embeds)
    if num_rows == 0 or query_embeds.shape != candidate_embeds.shape:
        raise ValueError(
            f"`query_embeds` and `candidate_embeds` have shapes {tuple(query_embeds.shape)} and "
            f"{tuple(candidate_embeds.shape)}; give two of the same shape (N, D) with at least one row."
        )
    device = query_embeds.device if device is None else torch.device(device)
    candidates = candidate_embeds.to(device, torch.float32)
    groups = [ids.to(device) for ids in group_ids]
    blocks = list(torch.arange(num_rows, device=device).split(block_size))
    shared = distributed and is_distributed()
    for block in blocks[dist.get_rank() :: dist.get_world_size()] if shared else blocks:
        num_relevant = torch.zeros_like(block)
        for columns in blocks:
            num_relevant += _are_relevant(block, columns, groups).sum(dim=1)
        most = int(num_relevant.max())
        size = max(1, block_size**2 // most)  # of each query all relevant candidates are held
        for rows, count in zip(block.split(size), num_relevant.split(size), strict=True):
            queries = query_embeds[rows.to(query_embeds.device)].to(device, torch.float32)
            yield _judge(_relevant_ranks(queries, rows, candidates, groups, blocks, most).cpu(), count.cpu())


def _judge(ranks: torch.Tensor, num_relevant: torch.Tensor) -> QueryOutcomes:
    """Judge queries by the ranks of their relevant candidates, best first, shape `(rows, most)`; what pads is last."""
    place = torch.arange(1, ranks.shape[1] + 1)
    is_one = place <= num_relevant[:, None]
    precision = (place / ranks.double()).masked_fill(~is_one, 0)
    gain = (1 / torch.log2(1 + ranks.double())).masked_fill(~is_one | (ranks > _NDCG_AT), 0)
    best = (1 / torch.log2(torch.arange(2.0, _NDCG_AT + 2, dtype=torch.float64))).cumsum(0)
    ideal = best[num_relevant.clamp_max(_NDCG_AT) - 1]
    return QueryOutcomes(num_relevant, ranks[:, 0], precision.sum(dim=1) / num_relevant, gain.sum(dim=1) / ideal)


def _are_relevant(rows: torch.Tensor, columns: torch.Tensor, groups: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tell which of a block of candidates are relevant for a block of queries, shape `(rows, columns)`."""
    are_relevant = rows[:, None] == columns
    for ids in groups:
        are_relevant |= (ids[rows, None] == ids[columns]) & (ids[rows, None] >= 0)
    return are_relevant


def _relevant_ranks(
    queries: torch.Tensor,
    rows: torch.Tensor,
    candidates: torch.Tensor,
    groups: Sequence[torch.Tensor],
    blocks: Sequence[torch.Tensor],
    most: int,
) -> torch.Tensor:
    """Return the ranks of each query's relevant candidates, best first, shape `(rows, most)`, then some that pad.

    Two sweeps over the candidates: the second counts what comes before each of those that the first found.
    """

    def tiles() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for columns in blocks:
            with exact_products(queries.device.type):
                distance = -queries @ candidates[columns].T
            yield distance, _are_relevant(rows, columns, groups)

    relevant = queries.new_full((len(rows), most), float("inf"))
    num_found = torch.zeros_like(rows)
    for distance, are_relevant in tiles():
        row, column = are_relevant.nonzero(as_tuple=True)
        count = are_relevant.sum(dim=1)
        place = torch.arange(len(row), device=row.device) + (num_found - count.cumsum(dim=0) + count)[row]
        relevant[row, place] = distance[row, column]
        num_found += count
    relevant = relevant.nan_to_num_(nan=float("inf"), posinf=float("inf")).sort(dim=1).values
    num_ahead = torch.zeros(len(rows), most + 1, dtype=torch.int64, device=queries.device)
    for distance, are_relevant in tiles():
        # What is no number counts as ahead of all. In a tie the relevant candidate comes last: the first place with at
        # least this distance is the first that it is ahead of. Relevant ones are counted where nobody looks.
        before = torch.searchsorted(relevant, distance.nan_to_num_(nan=float("-inf"), posinf=float("inf")))
        before.masked_fill_(are_relevant, most)
        num_ahead.scatter_add_(1, before, torch.ones_like(before))
    return num_ahead[:, :most].cumsum(dim=1) + torch.arange(1, most + 1, device=queries.device)
