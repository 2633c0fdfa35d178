"""Which row comes when."""

import numpy as np
import pytest

from training.data.sampler import RowOrder, batch_spans, rank_slice


def test_an_epoch_holds_every_row_once_and_the_next_one_differs():
    order = RowOrder(50, seed=3)
    first, second = order.rows(0, 50), order.rows(50, 100)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))


def test_any_span_is_the_same_slice_of_one_endless_sequence():
    whole = RowOrder(7, seed=1).rows(0, 70)
    for start, stop in [(0, 1), (5, 9), (6, 36), (13, 14), (69, 70), (20, 20)]:
        assert RowOrder(7, seed=1).rows(start, stop).tolist() == whole[start:stop].tolist()
    order = RowOrder(7, seed=1)  # asked backwards, one object gives the same as fresh ones
    assert order.rows(60, 65).tolist() == whole[60:65].tolist()
    assert order.rows(3, 5).tolist() == whole[3:5].tolist()


def test_the_seed_decides():
    assert RowOrder(100, seed=1).rows(0, 100).tolist() == RowOrder(100, seed=1).rows(0, 100).tolist()
    assert RowOrder(100, seed=1).rows(0, 100).tolist() != RowOrder(100, seed=2).rows(0, 100).tolist()


def test_without_shuffling_rows_come_in_their_own_order():
    assert RowOrder(3, seed=0, shuffle=False).rows(1, 8).tolist() == [1, 2, 0, 1, 2, 0, 1]


def test_a_far_start_is_direct():
    # a million epochs in: only the epoch asked for may be drawn
    rows = RowOrder(10, seed=0).rows(10_000_000, 10_000_010)
    assert sorted(rows) == list(range(10))
    assert rows.dtype == np.int64


def test_spans_follow_the_batch_size_and_end_short():
    assert list(batch_spans(4, 10)) == [(0, 4), (4, 8), (8, 10)]
    assert list(batch_spans(4, 10, start=8)) == [(8, 10)]
    assert list(batch_spans(4, 10, start=10)) == []
    growing = lambda seen: 2 if seen < 4 else 5  # noqa: E731
    assert list(batch_spans(growing, 12)) == [(0, 2), (2, 4), (4, 9), (9, 12)]


def test_rank_shares_are_contiguous_and_differ_by_at_most_one():
    assert [rank_slice(10, 21, rank, 4) for rank in range(4)] == [(10, 12), (12, 15), (15, 18), (18, 21)]
    for length in range(20):
        shares = [rank_slice(5, 5 + length, rank, 3) for rank in range(3)]
        sizes = [stop - start for start, stop in shares]
        assert [position for share in shares for position in range(*share)] == list(range(5, 5 + length))
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RowOrder(0, seed=0), "num_rows must be at least 1, received 0"),
        (lambda: RowOrder(1, seed=-1), "seed must not be negative, received -1"),
        (lambda: RowOrder(3, seed=0).rows(2, 1), "received start=2, stop=1"),
        (lambda: list(batch_spans(0, 5)), "batch_size must be at least 1, received 0"),
        (lambda: list(batch_spans(1, 5, start=-1)), "received start=-1"),
        (lambda: rank_slice(0, 4, 2, 2), "received rank=2, num_ranks=2"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mates_come_one_after_the_other():
    catalog_ids = np.array([7, -1, 3, 7, -1, 3, 7, -1, 0])
    plain = RowOrder(9, seed=1)
    order = RowOrder(9, seed=1, catalog_ids=catalog_ids, mates_share=1.0)
    for epoch in range(3):
        rows = order.rows(9 * epoch, 9 * epoch + 9)
        assert sorted(rows) == list(range(9))
        for catalog in (7, 3):
            places = np.flatnonzero(catalog_ids[rows] == catalog)
            assert places.tolist() == list(range(places[0], places[0] + len(places)))
        # Rows that are alone keep the order of the plain permutation.
        alone = [row for row in plain.rows(9 * epoch, 9 * epoch + 9) if catalog_ids[row] == -1]
        assert [row for row in rows if catalog_ids[row] == -1] == alone
    assert order.rows(0, 9).tolist() != order.rows(9, 18).tolist()


def test_catalog_ids_must_fit_the_rows():
    with pytest.raises(ValueError, match="2 entries for 3 rows"):
        RowOrder(3, seed=0, catalog_ids=np.array([1, 1]))


def test_a_share_of_the_catalogs_comes_together():
    catalog_ids = np.arange(2000) // 2  # a thousand catalogs of two
    order = RowOrder(2000, seed=0, catalog_ids=catalog_ids, mates_share=0.3)
    rows = order.rows(0, 2000)
    together = (catalog_ids[rows][:-1] == catalog_ids[rows][1:]).sum()
    assert 250 < together < 350
    assert sorted(rows) == list(range(2000))
    with pytest.raises(ValueError, match="mates_share must lie in"):
        RowOrder(2000, seed=0, mates_share=1.5)
