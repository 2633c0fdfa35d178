"""Processes that act as ranks, or as a run of their own, without imports of their own."""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp
from conftest import ROOT

# What every rank imports: a process from which ranks are forked imports it once for all tests of a worker of pytest.
_PRELOADED = ["torch._dynamo", "modeling_eclip", "training.engine.contrastive_training", "training.tasks.registry"]


def run_ranks(function: Callable[..., None], arguments: tuple[Any, ...], num_ranks: int) -> None:
    """Call `function(rank, *arguments)` in a process for each rank, and wait for all; an error of one is raised."""
    mp.start_processes(function, arguments, nprocs=num_ranks, start_method=_start_method())


def run_alone(function: Callable[..., None], arguments: tuple[Any, ...], output: Path) -> int:
    """Call `function(*arguments)` in a process that writes what it prints to a file; return its exit code."""
    context = multiprocessing.get_context(_start_method())
    process = context.Process(target=_with_output, args=(output, function, arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _start_method() -> str:
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(_PRELOADED)
    return method


def _with_output(output: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    function(*arguments)


def run_script(script: str, words: Sequence[str], num_ranks: int) -> None:
    """Run a script on several ranks as `torchrun` does, by the same variables, but without imports of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ranks(_as_launched, (script, list(words), num_ranks, port), num_ranks)


def _as_launched(rank: int, script: str, words: list[str], num_ranks: int, port: int) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in told.items()})
    os.chdir(ROOT)
    sys.argv = [script, *words]
    runpy.run_path(str(ROOT / script), run_name="__main__")
