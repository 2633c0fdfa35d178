"""The order of streamed rows: a function of the seed, thorough, and read in blocks."""

import numpy as np
import pytest

from training.data.sampler import BlockOrder

# Four files, sorted by what they are about, of 5,000 rows each, in row groups of 100.
SORTED = np.full(200, 100)
UNEVEN = np.array([1, 7, 3, 12, 5, 5, 9, 2, 30, 4, 1, 1, 6, 8, 2, 11, 3])


@pytest.mark.parametrize("window_rows", [1, 20, 10**6])
def test_an_epoch_holds_every_row_once_and_the_next_one_differs(window_rows):
    order = BlockOrder(UNEVEN, seed=3, window_rows=window_rows)
    num_rows = UNEVEN.sum()
    first, second = order.rows(0, num_rows), order.rows(num_rows, 2 * num_rows)
    assert sorted(first) == sorted(second) == list(range(num_rows))
    assert first.tolist() != second.tolist()
    assert first.dtype == np.int64
    assert first.tolist() == BlockOrder(UNEVEN, seed=3, window_rows=window_rows).rows(0, num_rows).tolist()
    assert first.tolist() != BlockOrder(UNEVEN, seed=4, window_rows=window_rows).rows(0, num_rows).tolist()


def test_any_span_is_the_same_slice_of_one_endless_sequence():
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
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
