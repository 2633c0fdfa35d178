"""Processes that examine offers, one per core: Python's threads would take turns at it.

A picture made by somebody hostile may end the process that decodes it, however careful the decoder. Here that is one
of these processes, and not the run: the rows that it had are examined again, each in a process of its own.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import joblib
import pyarrow as pa

__all__ = ["in_process", "stop_processes"]

_lock = threading.Lock()
_pools: list[ProcessPoolExecutor] = []  # one, from the first rows until it is stopped


def in_process(
    function: Callable[..., pa.Array], rows: Sequence[Any], *settings: Any, without: Callable[[Any], Any]
) -> pa.Array:
    """Call a function in one of the processes, and wait; threads that do so have a process each.

    A script whose program calls this needs `if __name__ == "__main__":`, as all do that start processes.

    Args:
        function: Takes rows and settings, and returns a value per row; a module has it, which the processes import.
        rows: The rows, of any type that can be pickled.
        *settings: Further arguments of the function.
        without: Takes a row and returns it without what may end a process; called for a row that did.

    Returns:
        What the function does.

    Raises:
        Exception: whatever the function does.
    """
    pool = _pool(function)
    try:
        return pool.submit(function, rows, *settings).result()
    except BrokenProcessPool:  # by one of these rows, or by one that another thread sent
        with _lock:
            if pool in _pools:
                _pools.remove(pool)
    return pa.concat_arrays([_alone(function, row, *settings, without=without) for row in rows])


def stop_processes() -> None:
    """Let the processes end, which else hold memory until the program does; later rows have new ones."""
    with _lock:
        while _pools:
            _pools.pop().shutdown()


def _alone(function: Callable[..., pa.Array], row: Any, *settings: Any, without: Callable[[Any], Any]) -> pa.Array:
    with _executor(1, function) as pool:
        try:
            return pool.submit(function, [row], *settings).result()
        except BrokenProcessPool:
            return function([without(row)], *settings)


def _pool(function: Callable[..., Any]) -> ProcessPoolExecutor:
    with _lock:
        if not _pools:
            _pools.append(_executor(joblib.cpu_count(), function))
        return _pools[0]


def _executor(num_processes: int, function: Callable[..., Any]) -> ProcessPoolExecutor:
    # Forked from a server that has imported the function's module, and has no threads that a fork would cut off.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    return ProcessPoolExecutor(num_processes, context, initializer=_begin)


def _begin() -> None:
    """Leave Ctrl-C to the program, and end with it, even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is never the program itself

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
