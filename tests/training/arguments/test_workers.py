"""Workers are as many as a rank's part of the machine allows."""

import pytest

from training.arguments import workers
from training.arguments.groups import DataArguments
from training.arguments.workers import workers_per_rank


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"), [(2, 1, 1), (1, 1, 0), (64, 8, 7), (8, 8, 0), (4, 8, 0), (256, 1, 16)]
)
def test_workers_are_a_ranks_part_of_the_cores_but_one(monkeypatch, cores, ranks, expected):
    monkeypatch.setattr(workers, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert workers_per_rank() == DataArguments().num_workers == expected
    assert DataArguments(num_workers=3).num_workers == 3


@pytest.mark.parametrize(
    "given", [{"num_workers": -1}, {"prefetch_factor": 0}, {"part_size": 0}, {"batch_memory_gib": float("nan")}]
)
def test_what_cannot_be_is_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"`{name}` is"):
        DataArguments(**given)
