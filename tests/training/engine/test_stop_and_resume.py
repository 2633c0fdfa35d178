"""Runs that are ended from outside: what is left goes on to the same weights, bit for bit."""

import itertools
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import DATA, MODEL, ROOT, saved_weights, train_arguments
from ranks import run_alone

from training.engine.checkpoint import find_checkpoints
from training.engine.contrastive_training import train


def run_and_die(folder, module, name, call, number=signal.SIGKILL):
    """Train in a process which gets a signal at a call of a function; return its exit code and what it printed."""
    printed = folder.with_suffix(".log")
    code = run_alone(train_and_die, (folder, module, name, call, number), printed)
    return code, printed.read_text()


def train_and_die(folder, module, name, call, number):
    """End the own process, as a machine that is switched off would, in the middle of something."""
    owner = pkgutil.resolve_name(module)
    function, calls = getattr(owner, name), itertools.count(1)

    def dying(*given, **named):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*given, **named)

    setattr(owner, name, dying)
    train(MODEL, DATA, train_arguments(folder))


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(MODEL, DATA, train_arguments(folder))
    return saved_weights(folder)


def assert_goes_on(folder, expected):
    result = train(MODEL, DATA, train_arguments(folder, resume_from_checkpoint="latest"))
    assert result.samples == 64
    found = saved_weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("module", "name", "call", "left"),
    [
        # A batch of 16 at a time, a checkpoint after each.
        # Within the third step.
        ("modeling_eclip.losses.objective", "contrastive_loss", 3, ["checkpoint-16", "checkpoint-32"]),
        # Written, not named yet.
        ("training.engine.checkpoint", "_flush", 2, ["checkpoint-16", "checkpoint-32.partial"]),
        ("training.engine.checkpoint.os", "replace", 7, None),  # wherever that falls within a later save
    ],
)
def test_a_killed_run_goes_on_from_the_last_whole_checkpoint(tmp_path, never_stopped, module, name, call, left):
    code, printed = run_and_die(tmp_path, module, name, call)
    assert code == -signal.SIGKILL, printed[-2000:]
    if left is not None:
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == left
    assert_goes_on(tmp_path, never_stopped)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("step", "number"),
    [(2, signal.SIGTERM), (4, signal.SIGTERM), (2, signal.SIGINT)],
    ids=["in the middle", "in the last step", "Ctrl-C"],
)
def test_a_signal_writes_a_checkpoint_first(tmp_path, never_stopped, step, number):
    code, printed = run_and_die(tmp_path, "modeling_eclip.losses.objective", "contrastive_loss", step, number)
    assert code == 128 + number, printed[-2000:]
    assert f"stopped by {number.name} after {16 * step} samples" in printed
    assert find_checkpoints(tmp_path)[-1].name == f"checkpoint-{16 * step}"
    assert not (tmp_path / "model.safetensors").exists()
    assert_goes_on(tmp_path, never_stopped)


def test_sigterm_in_the_last_evaluation_waits_for_the_model(tmp_path, never_stopped):
    code, printed = run_and_die(
        tmp_path, "training.retrieval.held_out_metrics", "retrieval_metrics", 2, signal.SIGTERM
    )
    assert code == 0, printed[-2000:]
    assert saved_weights(tmp_path).keys() == never_stopped.keys()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_workers_end_with_a_run(tmp_path, number):
    """Killed, the run says nothing to them. Ctrl-C goes to all processes of a terminal, workers among them."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from dataclasses import replace\nfrom pathlib import Path\n"
        "from conftest import DATA, MODEL, train_arguments\nfrom training.engine.contrastive_training import train\n"
        f"train(MODEL, replace(DATA, num_workers=2), train_arguments(Path({str(tmp_path)!r}), max_samples=100_000))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, process_group=0)
    try:
        wait_for(lambda: len(children_of(process.pid)) >= 2 and find_checkpoints(tmp_path))
        workers = children_of(process.pid)
        if number == signal.SIGINT:
            before = find_checkpoints(tmp_path)[-1]
            os.killpg(process.pid, number)
            assert process.wait(timeout=300) == 128 + number
            assert find_checkpoints(tmp_path)[-1] != before
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(is_alive(worker) for worker in workers))


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def children_of(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children in /proc")
    return [int(child) for child in children.read_text().split()]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]
