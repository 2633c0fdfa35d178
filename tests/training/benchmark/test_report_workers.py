"""Workers of a report: processes that serve one call after another, and what is left when a call fails."""

import math
import multiprocessing
import os

import pytest

from training.benchmark.workers import Workers


def test_the_same_processes_serve_one_call_after_another(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    over = []
    with Workers(1, tmp_path / "logs", lambda: over.append(None)) as workers:
        assert workers.call(math.sqrt, [(16.0,), (9.0,), (4.0,)], "roots") == [4.0, 3.0, 2.0]
        first, second = (workers.call(os.getpid, [()], "ids") for _ in range(2))
        threads = workers.call(os.getenv, [("OMP_NUM_THREADS",), ("TOKENIZERS_PARALLELISM",)], "settings")
    assert first == second != [os.getpid()]
    assert len(over) == 7
    assert threads == [str(os.cpu_count()), "false"]  # one process has all cores
    assert os.environ["OMP_NUM_THREADS"] == "7" and "TOKENIZERS_PARALLELISM" not in os.environ


def test_a_call_that_fails_ends_the_processes(tmp_path):
    before = multiprocessing.active_children()
    with pytest.raises(ValueError, match="math domain error"), Workers(2, tmp_path / "logs", lambda: None) as workers:
        workers.call(math.sqrt, [(-1.0,), *[(4.0,)] * 5], "roots")
    assert multiprocessing.active_children() == before
