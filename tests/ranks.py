"""Processes that act as ranks."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# What every rank imports: a process from which ranks are forked imports it once for all tests of a worker of pytest.
_PRELOADED = ["torch._dynamo", "modeling_eclip", "training.engine.loop", "training.tasks.registry"]


def run_ranks(function: Callable[..., None], arguments: tuple[Any, ...], num_ranks: int) -> None:
    """Call `function(rank, *arguments)` in a process for each rank, and wait for all; an error of one is raised."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(_PRELOADED)
    mp.start_processes(function, arguments, nprocs=num_ranks, start_method=method)
