"""Sources mixed by weights: each row is visited as often as its source's weight says, as the seed decides."""

import datasets
import numpy as np
import pytest

from training.data.mixing import MixedOrder, is_mixed, rows_per_epoch

# Three sources of 40, 60 and 7 rows, not one after the other.
SOURCES = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 60, 7]))
WEIGHTS = np.array([2.0, 0.5, 1.0])[SOURCES]


def epochs_of(order, number):
    return [order.rows(place * order.num_rows, (place + 1) * order.num_rows) for place in range(number)]


def test_rows_are_visited_as_often_as_their_source_weighs():
    order = MixedOrder(SOURCES, WEIGHTS, seed=3)
    assert order.num_rows == 80 + 30 + 7
    first, second, third, fourth = (np.bincount(rows, minlength=107) for rows in epochs_of(order, 4))
    for counts in (first, second, third, fourth):
        assert (counts[SOURCES == 0] == 2).all()
        assert (counts[SOURCES == 2] == 1).all()
        assert counts[SOURCES == 1].sum() == 30 and counts[SOURCES == 1].max() == 1
    # Another half in the next epoch; and halves that are drawn anew.
    assert ((first + second)[SOURCES == 1] == 1).all() and ((third + fourth)[SOURCES == 1] == 1).all()
    assert (first != third)[SOURCES == 1].any()


def test_a_weight_may_be_any_number():
    order = MixedOrder(np.zeros(10, dtype=int), np.full(10, 1.5), seed=0)
    assert order.num_rows == 15
    counts = [np.bincount(rows, minlength=10) for rows in epochs_of(order, 2)]
    assert all(set(each) == {1, 2} for each in counts) and (sum(counts) == 3).all()
    assert MixedOrder(np.zeros(3, dtype=int), np.full(3, 0.01), seed=0).num_rows == 1  # no source is left out


@pytest.mark.parametrize("weight", [2.0, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_row_comes_back_after_a_quarter_of_its_source(weight, seed):
    order = MixedOrder(np.zeros(200, dtype=int), np.full(200, weight), seed)
    last_seen = {}
    for place, row in enumerate(order.rows(0, 4 * order.num_rows).tolist()):
        # Within an epoch; from one to the next, too, since passes go on.
        assert place - last_seen.get(row, -1000) > 50
        last_seen[row] = place


def test_sources_are_mixed_and_any_span_is_the_same():
    order = MixedOrder(SOURCES, WEIGHTS, seed=1)
    whole = order.rows(0, 400)
    for start, stop in ((0, 1), (100, 130), (116, 240), (399, 400)):
        assert MixedOrder(SOURCES, WEIGHTS, seed=1).rows(start, stop).tolist() == whole[start:stop].tolist()
    assert MixedOrder(SOURCES, WEIGHTS, seed=2).rows(0, 400).tolist() != whole.tolist()
    for start in range(0, 100, 25):  # a quarter of an epoch has rows of all: 17 and 6 of 25 are expected
        found = np.bincount(SOURCES[whole[start : start + 25]], minlength=3)
        assert found[0] > 8 and found[1] > 0


def test_a_far_start_is_direct():
    order = MixedOrder(SOURCES, WEIGHTS, seed=0)
    start = 1_000_000 * order.num_rows
    assert sorted(np.bincount(order.rows(start, start + order.num_rows), minlength=107)[SOURCES == 0]) == [2] * 40


def test_mates_come_together_in_each_visit():
    catalog_ids = np.where(np.arange(107) < 20, np.arange(107) // 2, -1)
    order = MixedOrder(np.zeros(107, dtype=int), np.full(107, 2.0), 0, catalog_ids=catalog_ids, mates_share=1.0)
    rows = order.rows(0, order.num_rows).tolist()
    assert sorted(rows) == sorted([*range(107)] * 2)
    places = {row: [place for place, found in enumerate(rows) if found == row] for row in range(20)}
    for row in range(0, 20, 2):
        for visit in range(2):  # next to its mate, and not to itself
            assert abs(places[row][visit] - places[row + 1][visit]) == 1
        assert places[row][1] - places[row][0] > 2


def test_products_without_weights_have_an_epoch_of_their_rows():
    table = datasets.Dataset.from_dict({"title": ["a", "b", "c"]})
    assert not is_mixed(table) and rows_per_epoch(table) == 3
    tagged = table.add_column("source:number", [0, 0, 1]).add_column("source:weight", [1.0, 1.0, 1.0])
    assert not is_mixed(tagged) and rows_per_epoch(tagged) == 3
    weighted = table.add_column("source:number", [0, 0, 1]).add_column("source:weight", [1.5, 1.5, 4.0])
    assert is_mixed(weighted) and rows_per_epoch(weighted) == 7
