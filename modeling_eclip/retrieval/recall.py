"""Recall at k, as a pure function of embeddings."""

from collections.abc import Sequence

import torch

__all__ = ["retrieval_recall"]


def retrieval_recall(
    query_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    group_ids: Sequence[torch.Tensor] = (),
    *,
    ranks: Sequence[int] = (1, 5, 10),
    block_size: int = 1024,
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
        block_size: Queries compared at a time; no `N x N` matrix is held.

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
    hits = torch.zeros(len(ranks), dtype=torch.float64)
    chances = torch.zeros(len(ranks), dtype=torch.float64)
    for start in range(0, num_rows, block_size):
        rows = torch.arange(start, min(start + block_size, num_rows))
        similarity = query_embeds[rows].float() @ candidate_embeds.float().T  # (block, N)
        is_relevant = rows[:, None] == torch.arange(num_rows)[None, :]
        for ids in group_ids:
            is_relevant |= (ids[rows, None] == ids[None, :]) & (ids[rows, None] >= 0)
        # In a tie the relevant candidate comes last, so that equal embeddings do not count as found.
        best_relevant = similarity.masked_fill(~is_relevant, float("-inf")).amax(dim=1, keepdim=True)
        # Negated, so that NaN counts as ahead, too.
        num_ahead = (~(similarity < best_relevant) & ~is_relevant).sum(dim=1)
        num_others = num_rows - is_relevant.sum(dim=1).double()
        for place, k in enumerate(ranks):
            hits[place] += (num_ahead < k).sum()
            missed = torch.ones_like(num_others)
            for drawn in range(min(k, num_rows)):  # without replacement: each candidate has one rank
                missed *= (num_others - drawn).clamp_min(0) / (num_rows - drawn)
            chances[place] += (1 - missed).sum()
    recalls = {f"recall@{k}": (hits[place] / num_rows).item() for place, k in enumerate(ranks)}
    return recalls | {f"chance@{k}": (chances[place] / num_rows).item() for place, k in enumerate(ranks)}
