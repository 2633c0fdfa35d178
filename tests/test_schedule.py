"""The learning rate's curve at points worked out by hand."""

import pytest

from training.schedule import learning_rate_share


@pytest.mark.parametrize(
    ("seen", "expected"),
    [(0, 1 / 101), (50, 51 / 101), (99, 100 / 101), (100, 1.0), (550, 0.5), (1000, 0.0), (2000, 0.0)],
)
def test_warm_up_then_cosine(seen, expected):
    assert learning_rate_share(seen, 1000, warmup_share=0.1) == pytest.approx(expected)


def test_without_warm_up_and_with_a_floor():
    assert learning_rate_share(0, 100, warmup_share=0.0, final_share=0.2) == 1.0
    assert learning_rate_share(50, 100, warmup_share=0.0, final_share=0.2) == pytest.approx(0.6)
    assert learning_rate_share(100, 100, warmup_share=0.0, final_share=0.2) == pytest.approx(0.2)


def test_warm_up_of_the_whole_run_never_divides_by_zero():
    assert learning_rate_share(10, 10, warmup_share=1.0) == 1.0
