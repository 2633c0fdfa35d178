"""Metrics of retrieval, on embeddings whose neighbours are known."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_eclip.retrieval.ranking import judge_queries, ranking_metrics

# Four candidates on the unit circle, at 0, 90, 180 and 270 degrees.
CIRCLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def test_perfect_and_opposite():
    assert ranking_metrics(CIRCLE, CIRCLE, ranks=(1,))["recall@1"] == 1.0
    # The partner of each query is the farthest of all four.
    metrics = ranking_metrics(-CIRCLE, CIRCLE, ranks=(1, 3, 4))
    assert [metrics[f"recall@{k}"] for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


def test_mates_are_relevant():
    # Query 0 points at candidate 1, of the same catalog; query 1 at candidate 0; 2 and 3 at each other, strangers.
    queries = CIRCLE[[1, 0, 3, 2]]
    ids = torch.tensor([5, 5, -1, -1])
    assert ranking_metrics(queries, CIRCLE, ranks=(1,))["recall@1"] == 0.0
    assert ranking_metrics(queries, CIRCLE, [ids], ranks=(1,))["recall@1"] == 0.5
    also = torch.tensor([0, 1, 2, 2])
    assert ranking_metrics(queries, CIRCLE, [ids, also], ranks=(1,))["recall@1"] == 1.0


def test_ties_are_not_won():
    same = torch.ones(4, 2)
    metrics = ranking_metrics(same, same, ranks=(1, 3, 4))
    assert [metrics[f"recall@{k}"] for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


def test_chance_is_what_random_drawing_reaches():
    metrics = ranking_metrics(CIRCLE, CIRCLE, ranks=(1, 2, 4, 9))
    # A ranking names no candidate twice: the partner is one of four, and two ranks hold it with a chance of 2 in 4.
    assert [metrics[f"chance@{k}"] for k in (1, 2, 4, 9)] == pytest.approx([1 / 4, 2 / 4, 1, 1])
    mates = torch.tensor([5, 5, -1, -1])
    # Of two relevant ones among four, two ranks hold neither in 1 of 6 draws.
    found = ranking_metrics(CIRCLE, CIRCLE, [mates], ranks=(2,))["chance@2"]
    assert found == pytest.approx((2 * (1 - 1 / 6) + 2 * 2 / 4) / 4)


def test_blocks_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    queries, candidates = torch.randn(50, 8, generator=generator), torch.randn(50, 8, generator=generator)
    ids = torch.randint(-1, 10, (50,), generator=generator)
    whole = ranking_metrics(queries, candidates, [ids])
    assert ranking_metrics(queries, candidates, [ids], block_size=7) == pytest.approx(whole)
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
    metrics = ranking_metrics(queries, candidates, [ids], ranks=(1, 3), block_size=9, device="cpu")
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
        ranking_metrics(vectors, vectors, [torch.zeros(200, dtype=torch.int64)], block_size=8)
    assert largest.numbers <= 200 * 4  # the vectors themselves; a block of queries with all candidates is 200 x 8


def test_embeddings_that_are_no_numbers_find_nothing():
    broken = torch.full((4, 2), float("nan"))
    assert ranking_metrics(broken, CIRCLE, ranks=(1,))["recall@1"] == 0.0


def test_errors():
    with pytest.raises(ValueError, match="at least one row"):
        ranking_metrics(torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 2\)"):
        ranking_metrics(CIRCLE, CIRCLE[:3])


# Query 0 points at 0 degrees; the cosines of these seven candidates fall from the first to the last.
FAN = torch.tensor([[math.cos(angle / 2), math.sin(angle / 2)] for angle in range(7)])


def judge_first(group_of, query=FAN[0], candidates=FAN):
    """Judge the query at 0 degrees, whose relevant candidates are those of group 0; return three numbers."""
    queries = torch.cat([query[None], torch.zeros(len(candidates) - 1, 2)])
    _, rank, average_precision, ndcg = judge_queries(queries, candidates, [torch.tensor(group_of)])
    return rank[0].item(), average_precision[0].item(), ndcg[0].item()


def test_several_relevant_candidates_by_hand():
    # Relevant at ranks 1, 3 and 6. Its own image is one of them, whatever the groups say.
    rank, average_precision, ndcg = judge_first([0, -1, 0, 1, 1, 0, 2])
    assert rank == 1
    assert average_precision == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg == pytest.approx((1 + 1 / 2 + 1 / math.log2(7)) / ideal)
    # The query points the other way: ranks 2, 5 and 7.
    rank, average_precision, ndcg = judge_first([0, -1, 0, 1, 1, 0, 2], query=-FAN[0])
    assert rank == 2
    assert average_precision == pytest.approx((1 / 2 + 2 / 5 + 3 / 7) / 3)
    assert ndcg == pytest.approx((1 / math.log2(3) + 1 / math.log2(6) + 1 / math.log2(8)) / ideal)


def test_ndcg_looks_at_ten():
    angles = torch.arange(30) / 10
    fan = torch.stack([angles.cos(), angles.sin()], dim=1)
    # All 12 relevant candidates come first: ten of them fill the ten places, which is as good as it gets.
    assert judge_first([0] * 12 + [1] * 18, candidates=fan) == (1, pytest.approx(1), pytest.approx(1))
    # Relevant at ranks 1 and 11: the second is not seen by nDCG, but its ideal has two.
    assert judge_first([0] + [1] * 9 + [0] + [2] * 19, candidates=fan) == (
        1, pytest.approx((1 + 2 / 11) / 2), pytest.approx(1 / (1 + 1 / math.log2(3))),
    )  # fmt: skip


def test_in_a_tie_all_relevant_candidates_come_last():
    same = torch.ones(5, 2)
    # Three strangers first, then the two relevant ones, at ranks 4 and 5.
    rank, average_precision, ndcg = judge_first([0, 1, 1, 0, 2], query=same[0], candidates=same)
    assert (rank, average_precision) == (4, pytest.approx((1 / 4 + 2 / 5) / 2))
    assert ndcg == pytest.approx((1 / math.log2(5) + 1 / math.log2(6)) / (1 + 1 / math.log2(3)))


def data(num_rows=60, num_groups=9):
    generator = torch.Generator().manual_seed(3)
    queries, candidates = torch.nn.functional.normalize(torch.randn(2, num_rows, 8, generator=generator), dim=-1)
    groups = [torch.randint(-1, num_groups, (num_rows,), generator=generator) for _ in range(2)]
    are_relevant = torch.eye(num_rows, dtype=torch.bool)
    for ids in groups:
        are_relevant |= (ids[:, None] == ids) & (ids >= 0)
    return queries, candidates, groups, are_relevant


def naive_outcomes(similarity, are_relevant):
    """Return rank of the first, average precision and nDCG@10 of each query, in Python and float64."""
    outcomes = []
    for scores, relevant in zip(similarity.tolist(), are_relevant.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], relevant[place]))
        ranks = [rank for rank, place in enumerate(order, start=1) if relevant[place]]
        precisions = [number / rank for number, rank in enumerate(ranks, start=1)]
        gained = sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 10)
        ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(10, len(ranks)) + 1))
        outcomes.append((ranks[0], sum(precisions) / len(ranks), gained / ideal))
    return torch.tensor(outcomes, dtype=torch.float64)


@pytest.mark.parametrize("block_size", (1, 7, 1024))
@pytest.mark.parametrize("num_values", (3, None))
def test_outcomes_are_those_of_sorting(block_size, num_values):
    queries, candidates, groups, are_relevant = data()
    if num_values:  # many ties, all of them exact: products of small integers
        queries, candidates = (values.mul(num_values).round() for values in (queries, candidates))
    found = judge_queries(queries, candidates, groups, block_size=block_size)
    assert found.num_relevant.tolist() == are_relevant.sum(dim=1).tolist()
    expected = naive_outcomes(queries.double() @ candidates.double().T, are_relevant)
    # Ranks are counted exactly; float64 sums of up to 60 terms of at most 1 differ in their last digits.
    torch.testing.assert_close(torch.stack(found[1:], dim=1).double(), expected, rtol=0, atol=1e-12)
    metrics = ranking_metrics(queries, candidates, groups, block_size=block_size)
    means = {
        "mean_reciprocal_rank": (1 / expected[:, 0]).mean().item(),
        "mean_average_precision": expected[:, 1].mean().item(),
        "ndcg@10": expected[:, 2].mean().item(),
    } | {f"recall@{k}": (expected[:, 0] <= k).double().mean().item() for k in (1, 5, 10)}
    assert {name: metrics[name] for name in means} == pytest.approx(means, abs=1e-12)


def test_outcomes_are_those_of_scikit_learn():
    queries, candidates, groups, are_relevant = data()
    found = judge_queries(queries, candidates, groups)
    similarity, relevant = (queries @ candidates.T).numpy(), are_relevant.numpy()
    assert all(len(np.unique(row)) == len(row) for row in similarity)  # in ties it has rules of its own
    for row in range(len(queries)):
        expected = average_precision_score(relevant[row], similarity[row])
        assert found.average_precision[row].item() == pytest.approx(expected, abs=1e-12)
        expected = ndcg_score(relevant[row : row + 1], similarity[row : row + 1], k=10)
        assert found.ndcg[row].item() == pytest.approx(expected, abs=1e-12)


def test_what_is_no_number_comes_last():
    candidates = FAN.clone()
    candidates[2] = float("nan")
    # Of the relevant candidates 0, 2 and 5, the broken one comes after all others.
    rank, average_precision, _ = judge_first([0, -1, 0, 1, 1, 0, 2], candidates=candidates)
    assert (rank, average_precision) == (1, pytest.approx((1 + 2 / 5 + 3 / 7) / 3))
    candidates = FAN.clone()
    candidates[1] = float("nan")  # a stranger's: it counts as ahead of everything
    assert judge_first([0, -1, 0, 1, 1, 0, 2], candidates=candidates)[0] == 2
