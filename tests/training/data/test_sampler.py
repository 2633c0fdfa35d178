"""Which row comes when, in a table and in a stream: a function of the seed."""

import numpy as np
import pytest

from training.data.sampler import BlockOrder, RowOrder, batch_spans, rank_slice

# A stream of four files, sorted by what they are about, of 5,000 rows each, in row groups of 100.
SORTED = np.full(200, 100)
UNEVEN = np.array([1, 7, 3, 12, 5, 5, 9, 2, 30, 4, 1, 1, 6, 8, 2, 11, 3])


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


@pytest.mark.parametrize("window_rows", [1, 20, 10**6])
def test_an_epoch_of_a_stream_holds_every_row_once_and_the_next_one_differs(window_rows):
    order = BlockOrder(UNEVEN, seed=3, window_rows=window_rows)
    num_rows = UNEVEN.sum()
    first, second = order.rows(0, num_rows), order.rows(num_rows, 2 * num_rows)
    assert sorted(first) == sorted(second) == list(range(num_rows))
    assert first.tolist() != second.tolist()
    assert first.dtype == np.int64
    assert first.tolist() == BlockOrder(UNEVEN, seed=3, window_rows=window_rows).rows(0, num_rows).tolist()
    assert first.tolist() != BlockOrder(UNEVEN, seed=4, window_rows=window_rows).rows(0, num_rows).tolist()


def test_any_span_of_a_stream_is_the_same_slice_of_one_endless_sequence():
    whole = BlockOrder(UNEVEN, seed=1, window_rows=20).rows(0, 400)
    for start, stop in [(0, 1), (5, 90), (106, 300), (109, 112), (399, 400), (20, 20)]:
        assert BlockOrder(UNEVEN, seed=1, window_rows=20).rows(start, stop).tolist() == whole[start:stop].tolist()
    order = BlockOrder(UNEVEN, seed=1, window_rows=20)  # asked backwards, one object gives the same as fresh ones
    assert order.rows(300, 305).tolist() == whole[300:305].tolist()
    assert order.rows(3, 5).tolist() == whole[3:5].tolist()
    assert len(order.rows(10**12, 10**12 + 5)) == 5  # only the epoch asked for is drawn


def test_windows_have_the_rows_asked_for_and_eight_blocks_at_least():
    # 20,000 rows in windows of about 4,096 are four windows of 50 blocks; in windows of 100, 25 windows of eight.
    assert BlockOrder(SORTED, seed=0, window_rows=4096).window_blocks == 50
    order = BlockOrder(SORTED, seed=0, window_rows=100)
    assert order.window_blocks == 8
    for window in np.split(order.rows(0, 20_000), 25):
        assert len(np.unique(window // 100)) == 8
    assert BlockOrder(SORTED[:7], seed=0, window_rows=1).window_blocks == 7


def test_sorted_files_are_shuffled_thoroughly():
    num_rows = 20_000
    for seed in range(3):
        rows = BlockOrder(SORTED, seed=seed).rows(0, num_rows)
        places = np.argsort(rows)  # where each row of the files comes
        # Drawn at random, rows move by a third of the whole, and correlate with their place by 1 / sqrt(200 blocks).
        displacement = np.abs(places - np.arange(num_rows)).mean()
        assert displacement == pytest.approx(num_rows / 3, rel=0.15)
        assert abs(np.corrcoef(places, np.arange(num_rows))[0, 1]) < 3 / np.sqrt(200)
        # Of the 50 blocks of a window, each row's successor is as likely from any.
        assert np.mean(rows[1:] // 100 == rows[:-1] // 100) == pytest.approx(1 / 50, abs=0.01)
        # Ten kinds, 2,000 rows each, one after the other: every batch of 250 has every kind, 25 times on average.
        counts = np.stack([np.bincount(batch // 2000, minlength=10) for batch in np.split(rows, 80)])
        assert counts.min() >= 1
        # Drawn from all rows they would stray by sqrt(250 * 0.1 * 0.9), which is 4.7.
        assert 4 < counts.std() < 6.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlockOrder(np.array([0]), seed=0), "the blocks hold no rows"),
        (lambda: BlockOrder(UNEVEN, seed=-1), "seed must not be negative, received -1"),
        (lambda: BlockOrder(UNEVEN, seed=0, window_rows=0), "window_rows must be at least 1, received 0"),
        (lambda: BlockOrder(UNEVEN, seed=0).rows(2, 1), "received start=2, stop=1"),
    ],
)
def test_wrong_arguments_of_a_stream_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


SIMILAR = np.array([[1, -1], [0, 2], [-1, -1], [4, 0], [-1, -1], [-1, -1]])


def test_similar_rows_come_one_after_the_other_with_their_catalogs():
    catalog_ids = np.array([7, -1, 5, 9, 5, 7])  # 0 is similar to 1, 1 to 0 and 2, 3 to 4 and 0
    for seed in range(20):
        order = RowOrder(6, seed, catalog_ids=catalog_ids, similar_rows=SIMILAR, similar_share=1.0)
        rows = order.rows(0, 6).tolist()
        assert sorted(rows) == list(range(6))
        # Whoever comes first has what is similar to it, and all of the catalogs, beside it.
        first = {0: {0, 5, 1}, 1: {1, 0, 5, 2, 4}, 2: {2, 4}, 3: {3, 4, 2, 0, 5}, 4: {2, 4}, 5: {0, 5}}
        wanted = first[rows[0]]
        assert set(rows[: len(wanted)]) == wanted
        assert order.rows(2, 5).tolist() == rows[2:5]


def test_a_row_that_is_alone_is_in_no_catalog_with_its_number():
    catalog_ids = np.array([1, -1, 1, -1])
    similar = np.array([[-1], [3], [-1], [1]])
    for seed in range(10):
        rows = RowOrder(4, seed, catalog_ids=catalog_ids, similar_rows=similar, similar_share=1.0).rows(0, 4).tolist()
        assert set(rows[:2]) in ({0, 2}, {1, 3})


def test_a_share_of_the_rows_brings_similar_ones():
    number = 4000
    similar = (np.arange(number) ^ 1)[:, None]  # pairs
    together = []
    for share in (0.0, 0.3, 1.0):
        rows = RowOrder(number, 0, similar_rows=similar, similar_share=share).rows(0, number)
        pairs = rows // 2
        together.append((pairs[1:] == pairs[:-1]).sum() / (number / 2))
    assert together[0] < 0.01
    # A pair comes together unless neither is drawn: 1 - 0.7 * 0.7.
    assert together[1] == pytest.approx(0.51, abs=0.04)  # four standard deviations
    assert together[2] == 1
    with pytest.raises(ValueError, match=r"similar_share must lie in \[0, 1\], received 2"):
        RowOrder(number, 0, similar_share=2)
