"""Recall at k, on embeddings whose neighbours are known."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_eclip.retrieval.recall import retrieval_ranks, retrieval_recall

# Four candidates on the unit circle, at 0, 90, 180 and 270 degrees.
CIRCLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def test_perfect_and_opposite():
    assert retrieval_recall(CIRCLE, CIRCLE, ranks=(1,))["recall@1"] == 1.0
    # The partner of each query is the farthest of all four.
    metrics = retrieval_recall(-CIRCLE, CIRCLE, ranks=(1, 3, 4))
    assert [metrics[f"recall@{k}"] for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


def test_mates_are_relevant():
    # Query 0 points at candidate 1, of the same catalog; query 1 at candidate 0; 2 and 3 at each other, strangers.
    queries = CIRCLE[[1, 0, 3, 2]]
    ids = torch.tensor([5, 5, -1, -1])
    assert retrieval_recall(queries, CIRCLE, ranks=(1,))["recall@1"] == 0.0
    assert retrieval_recall(queries, CIRCLE, [ids], ranks=(1,))["recall@1"] == 0.5
    also = torch.tensor([0, 1, 2, 2])
    assert retrieval_recall(queries, CIRCLE, [ids, also], ranks=(1,))["recall@1"] == 1.0


def test_ties_are_not_won():
    same = torch.ones(4, 2)
    metrics = retrieval_recall(same, same, ranks=(1, 3, 4))
    assert [metrics[f"recall@{k}"] for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


def test_chance_is_what_random_drawing_reaches():
    metrics = retrieval_recall(CIRCLE, CIRCLE, ranks=(1, 2, 4, 9))
    # A ranking names no candidate twice: the partner is one of four, and two ranks hold it with a chance of 2 in 4.
    assert [metrics[f"chance@{k}"] for k in (1, 2, 4, 9)] == pytest.approx([1 / 4, 2 / 4, 1, 1])
    mates = torch.tensor([5, 5, -1, -1])
    # Of two relevant ones among four, two ranks hold neither in 1 of 6 draws.
    found = retrieval_recall(CIRCLE, CIRCLE, [mates], ranks=(2,))["chance@2"]
    assert found == pytest.approx((2 * (1 - 1 / 6) + 2 * 2 / 4) / 4)


def test_blocks_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(50, 8, generator=generator), torch.randn(50, 8, generator=generator)
    ids = torch.randint(-1, 10, (50,), generator=generator)
    whole = retrieval_recall(queries, candidates, [ids])
    assert retrieval_recall(queries, candidates, [ids], block_size=7) == pytest.approx(whole)
    assert 0 < whole["recall@1"] < whole["recall@10"] < 1


def one_by_one(queries, candidates, ids, rank):
    """Return recall at a rank by sorting all candidates of each query."""
    hits = 0
    for row, query in enumerate(queries):
        order = (candidates @ query).argsort(descending=True)[:rank].tolist()
        hits += any(found == row or (ids[row] >= 0 and ids[row] == ids[found]) for found in order)
    return hits / len(queries)


def test_tiles_find_what_sorting_finds():
    generator = torch.Generator().manual_seed(1)
    queries, candidates = torch.randn(40, 6, generator=generator), torch.randn(40, 6, generator=generator)
    ids = torch.randint(-1, 12, (40,), generator=generator)
    metrics = retrieval_recall(queries, candidates, [ids], ranks=(1, 3), block_size=9, device="cpu")
    for rank in (1, 3):
        assert metrics[f"recall@{rank}"] == one_by_one(queries, candidates, ids, rank)


def test_memory_is_that_of_a_tile():
    class LargestTensor(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, arguments=(), settings=None):
            output = function(*arguments, **(settings or {}))
            if isinstance(output, torch.Tensor):
                self.numbers = max(self.numbers, output.numel())
            return output

    vectors = torch.randn(200, 4)
    with LargestTensor() as largest:
        retrieval_recall(vectors, vectors, [torch.zeros(200, dtype=torch.int64)], block_size=8)
    assert largest.numbers <= 200 * 4  # the vectors themselves; a block of queries with all candidates is 200 x 8


def test_embeddings_that_are_no_numbers_find_nothing():
    broken = torch.full((4, 2), float("nan"))
    assert retrieval_recall(broken, CIRCLE, ranks=(1,))["recall@1"] == 0.0


def test_errors():
    with pytest.raises(ValueError, match="at least one row"):
        retrieval_recall(torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 2\)"):
        retrieval_recall(CIRCLE, CIRCLE[:3])


def test_ranks_are_what_recall_counts():
    generator = torch.Generator().manual_seed(0)
    queries, candidates = torch.nn.functional.normalize(torch.randn(2, 60, 8, generator=generator), dim=-1)
    groups = [torch.arange(60) // 3, torch.full((60,), -1)]
    ranks = retrieval_ranks(queries, candidates, groups, block_size=7)
    similarity = queries @ candidates.T
    for query, rank in enumerate(ranks.tolist()):
        order = similarity[query].argsort(descending=True).tolist()
        assert rank == 1 + min(order.index(mate) for mate in range(query // 3 * 3, query // 3 * 3 + 3))
    recall = retrieval_recall(queries, candidates, groups)
    assert [(ranks <= k).double().mean().item() for k in (1, 5, 10)] == pytest.approx(
        [recall[f"recall@{k}"] for k in (1, 5, 10)]
    )
