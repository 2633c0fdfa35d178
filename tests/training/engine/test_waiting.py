"""Waiting is told from working."""

import time

import pytest

from training.engine.waiting import WaitingTime


def slow(seconds: float, number: int):
    for i in range(number):
        time.sleep(seconds)
        yield i


def test_only_the_time_in_the_loader_counts():
    waiting = WaitingTime(slow(0.05, 4))
    assert waiting.seconds == 0
    batches = []
    for batch in waiting:
        time.sleep(0.1)  # the work, twice as long
        batches.append(batch)
    assert batches == [0, 1, 2, 3]
    assert 0.2 <= waiting.seconds < 0.35


def test_a_fast_loader_costs_nothing_and_time_adds_up():
    waiting = WaitingTime([1, 2, 3])
    assert list(waiting) == list(waiting) == [1, 2, 3]
    assert waiting.seconds < 0.01
    waiting.loader = slow(0.05, 1)
    next(iter(waiting))
    assert waiting.seconds >= 0.05


def test_an_error_of_the_loader_comes_through():
    def broken():
        yield 1
        raise OSError("disk")

    waiting = WaitingTime(broken())
    with pytest.raises(OSError, match="disk"):
        list(waiting)
