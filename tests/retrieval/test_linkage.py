"""Average linkage over nearest neighbours, against graphs worked out by hand and scipy's dense one."""

import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import normalize

from modeling_eclip import average_linkage
from modeling_eclip.retrieval.linkage import number_groups


def on_circle(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def degrees(value):
    return torch.tensor(float(value)).deg2rad().cos().item()


def offers(num_rows=300, dim=12, spread=0.25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_rows // 4, dim, generator=generator).repeat(4, 1)
    return normalize(centers + spread * torch.randn(centers.shape, generator=generator), dim=1)


def test_joins_worked_out_by_hand():
    # 0 and 4 degrees join first, then 30 and 35; the two pairs are 26 to 35 degrees apart.
    joins = average_linkage(on_circle(0, 30, 4, 35, 120), degrees(40))
    assert joins.kept.tolist() == [0, 1, 0]
    assert joins.absorbed.tolist() == [2, 3, 1]
    apart = sum(degrees(angle) for angle in (30, 35, 26, 31)) / 4
    torch.testing.assert_close(joins.similarities, torch.tensor([degrees(4), degrees(5), apart]))
    assert joins.groups().tolist() == [0, 0, 0, 0, 1]
    assert joins.groups(degrees(20)).tolist() == [0, 1, 0, 1, 2]
    assert joins.groups(degrees(4.5)).tolist() == [0, 1, 0, 2, 3]


def test_a_chain_is_not_one_group():
    # Every product is 10 degrees from the next one: connected components would be one group of 180 degrees.
    chain = on_circle(*range(0, 181, 10))
    groups = average_linkage(chain, degrees(15)).groups()
    assert groups.tolist() == sorted(groups.tolist())
    assert 1 < groups.bincount().max() <= 3


def test_the_threshold_is_reached_or_not():
    pair = on_circle(0, 20)
    assert average_linkage(pair, degrees(20)).groups().tolist() == [0, 0]
    assert average_linkage(pair, degrees(19.9)).groups().tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0.9, 0.8, 0.6, 0.3])
def test_groups_are_those_of_dense_average_linkage(threshold):
    vectors = offers()
    dense = fcluster(linkage(vectors.double().numpy(), "average", metric="cosine"), 1 - threshold, "distance")
    groups = average_linkage(vectors, threshold, num_neighbors=len(vectors)).groups()
    assert adjusted_rand_score(dense, groups) == 1
    assert len(set(dense)) < len(vectors)


def test_few_neighbors_find_the_same_groups():
    vectors = offers()
    expected = average_linkage(vectors, 0.8, num_neighbors=len(vectors)).groups()
    for num_neighbors in (1, 2, 10):
        assert torch.equal(average_linkage(vectors, 0.8, num_neighbors=num_neighbors).groups(), expected)


@pytest.mark.parametrize("num_neighbors", [1, 3, 10])
def test_more_copies_than_neighbors(num_neighbors):
    # 40 copies of one product, 30 of a similar one: no list of neighbours reaches from one to the other.
    vectors = torch.cat([on_circle(0).repeat(40, 1), on_circle(12).repeat(30, 1), on_circle(90)])
    joins = average_linkage(vectors, degrees(15), num_neighbors=num_neighbors)
    assert joins.groups().tolist() == [0] * 70 + [1]
    assert joins.groups(1.0).tolist() == [0] * 40 + [1] * 30 + [2]
    assert joins.similarities.sort().values[0].item() == pytest.approx(degrees(12))


def test_no_two_groups_are_left_that_reach_the_threshold():
    vectors = offers(spread=0.8, seed=3)
    groups = average_linkage(vectors, 0.4, num_neighbors=2).groups()
    sums = torch.zeros(int(groups.max()) + 1, vectors.shape[1]).index_add_(0, groups, vectors)
    means = sums / groups.bincount().unsqueeze(1)
    averages = (means @ means.T).fill_diagonal_(-1)
    assert averages.max() < 0.4
    assert groups.bincount().max() > 1


def test_equally_similar_groups_are_joined_in_the_same_order_every_time():
    # Four products at right angles of each other in pairs: every product has two equally near ones.
    square = on_circle(0, 90, 180, 270)
    runs = [average_linkage(square, -0.1) for _ in range(3)]
    assert all(torch.equal(run.kept, runs[0].kept) for run in runs)
    assert runs[0].groups().tolist() == [0, 0, 1, 1]


def test_the_order_of_products_does_not_matter():
    vectors = offers()
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(5))
    groups = average_linkage(vectors, 0.7).groups()
    assert torch.equal(average_linkage(vectors[order], 0.7).groups(), number_groups(groups[order]))


def test_none_and_one():
    assert average_linkage(torch.zeros(0, 3), 0.5).groups().tolist() == []
    assert average_linkage(on_circle(0), 0.5).groups().tolist() == [0]
    assert average_linkage(on_circle(0, 90), 0.5).groups().tolist() == [0, 1]


def test_groups_are_numbered_by_their_first_product():
    assert number_groups(torch.tensor([7, 3, 7, -1, 3])).tolist() == [0, 1, 0, 2, 1]
    assert number_groups(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_half_precision_is_compared_in_full():
    vectors = offers()
    half = vectors.to(torch.bfloat16)
    assert torch.equal(average_linkage(half, 0.8).groups(), average_linkage(half.float(), 0.8).groups())


def test_the_best_threshold_by_hand():
    # Two catalogs, at 0 and 4 and at 30 and 35 degrees: right from the second join on, wrong after the third.
    vectors = on_circle(0, 30, 4, 35, 120)
    joins = average_linkage(vectors, -1.0)
    threshold, score = joins.best_threshold(torch.tensor([8, 2, 8, 2, -1]))
    heights = joins.similarities.sort(descending=True).values
    assert threshold == pytest.approx(((heights[1] + heights[2]) / 2).item())
    assert score == 1
    assert joins.groups(threshold).tolist() == [0, 1, 0, 1, 2]


def test_the_best_threshold_is_the_highest_that_is_as_good_as_any():
    vectors = offers(num_rows=120, spread=0.9)
    catalogs = torch.arange(30).repeat(4)
    joins = average_linkage(vectors, -1.0, num_neighbors=len(vectors))
    threshold, score = joins.best_threshold(catalogs)
    assert score == pytest.approx(adjusted_rand_score(catalogs, joins.groups(threshold)))
    heights = joins.similarities.sort(descending=True).values.tolist()
    scores = [adjusted_rand_score(catalogs, joins.groups(height)) for height in heights]
    assert 0.1 < score < 1 and max(scores) - 0.005 <= score
    first = next(place for place, one in enumerate(scores) if one >= max(scores) - 0.005)
    assert heights[first + 1] < threshold <= heights[first] and score == pytest.approx(scores[first])


def test_the_best_threshold_of_a_precision():
    # Ten offers of one product at one place, and one of another product near: 45 pairs are right, then 45 of 55.
    vectors = on_circle(*[0] * 10, 20)
    joins = average_linkage(vectors, -1.0)
    catalogs = torch.tensor([1] * 10 + [2])
    for precision, number in ((0.97, 2), (0.8, 2)):
        threshold, _ = joins.best_threshold(catalogs, precision)
        assert joins.groups(threshold).max() + 1 == number
    # One more pair is counted as wrong: 45 of 46.
    assert joins.best_threshold(catalogs, 0.98) == (1.0, 0.0)


def test_copies_are_not_parted_by_a_threshold():
    # Copies of two products: the joins at 1 can only be had together.
    joins = average_linkage(on_circle(0, 0, 90, 90), -1.0)
    threshold, score = joins.best_threshold(torch.tensor([1, 1, 2, 3]))
    assert threshold <= 1
    assert score == pytest.approx(adjusted_rand_score([1, 1, 2, 3], joins.groups(threshold)))


def test_errors():
    joins = average_linkage(on_circle(0, 10), -1.0)
    with pytest.raises(ValueError, match="no two products"):
        joins.best_threshold(torch.tensor([-1, -1]))
    with pytest.raises(ValueError, match=r"shape \(3,\); give \(2,\)"):
        joins.best_threshold(torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match=r"`embeds` has shape \(4,\)"):
        average_linkage(torch.zeros(4), 0.5)
