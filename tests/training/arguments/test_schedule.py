"""The curves of learning rate and batch size at points worked out by hand."""

import pytest

from training.arguments.parser import parse_arguments
from training.arguments.schedule import BatchSizeSchedule, learning_rate_share, parse_batch_size_steps
from training.arguments.train import TrainArguments
from training.data.sampler import batch_spans


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


def test_batch_size_changes_at_shares_of_the_run():
    batch_size = BatchSizeSchedule(8, [(0.1, 32), (0.5, 128)], total_samples=1000)
    assert [batch_size(seen) for seen in (0, 99, 100, 499, 500, 999, 5000)] == [8, 8, 32, 32, 128, 128, 128]


@pytest.mark.parametrize(("rule", "expected"), [("none", [1, 1, 1]), ("sqrt", [1, 2, 4]), ("linear", [1, 4, 16])])
def test_learning_rate_follows_the_batch_size_from_the_first_on(rule, expected):
    batch_size = BatchSizeSchedule(8, [(0.1, 32), (0.5, 128)], 1000, rule)
    assert [batch_size.learning_rate_factor(seen) for seen in (0, 100, 500)] == pytest.approx(expected)


def test_a_batch_may_shrink():
    batch_size = BatchSizeSchedule(16, [(0.5, 4)], 100, "sqrt")
    assert (batch_size(50), batch_size.learning_rate_factor(50)) == (4, 0.5)


def test_no_steps_is_a_constant():
    batch_size = BatchSizeSchedule(8, [], 1000, "linear")
    assert (batch_size(0), batch_size(999), batch_size.learning_rate_factor(999)) == (8, 8, 1)


def test_spans_cover_the_run_once_and_a_resumption_continues_them():
    batch_size = BatchSizeSchedule(3, [(0.25, 5), (0.6, 11)], total_samples=40)
    spans = list(batch_spans(batch_size, 40))
    # The size is that of a batch's first sample: 9..12 crosses the change at 10, 22..27 the one at 24.
    assert spans == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 17), (17, 22), (22, 27), (27, 38), (38, 40)]
    for place, (start, _) in enumerate(spans):
        assert list(batch_spans(batch_size, 40, start)) == spans[place:]


@pytest.mark.parametrize("steps", [[(0.0, 8)], [(1.0, 8)], [(0.3, 8), (0.2, 16)], [(0.2, 8), (0.2, 16)], [(0.1, 1)]])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(ValueError, match="batch_size_schedule"):
        BatchSizeSchedule(4, steps, 100)


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="batch_size_rule.*'cubic'.*linear"):
        BatchSizeSchedule(4, [], 100, "cubic")


def test_steps_are_read_from_text():
    assert parse_batch_size_steps(["0.1:4096", ".3:16384"]) == [(0.1, 4096), (0.3, 16384)]
    for text in ("0.1", "0.1:", "4096:0.1", "0.1:4:5"):
        with pytest.raises(ValueError, match=f"'{text}'.*share:size"):
            parse_batch_size_steps([text])


def test_arguments_take_a_schedule(capsys):
    words = ["--batch_size", "8", "--batch_size_schedule", "0.1:16", "0.5:32", "--batch_size_rule", "sqrt"]
    (arguments,) = parse_arguments((TrainArguments,), words)
    assert (arguments.batch_size_schedule, arguments.batch_size_rule) == (["0.1:16", "0.5:32"], "sqrt")
    with pytest.raises(SystemExit):
        parse_arguments((TrainArguments,), ["--batch_size_schedule", "0.5:16", "0.1:32"])
    assert "rising" in capsys.readouterr().err
