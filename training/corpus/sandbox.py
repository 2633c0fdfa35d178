"""Processes that examine offers, one per core. Threads of Python would not run at the same time.

A hostile image may crash the process that decodes it, or take so long that the process is ended. That ends one of
these processes and not the run: the rows of that process are examined again, each in a process of its own.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

import joblib
import pyarrow as pa

__all__ = ["at_most", "in_process", "run_script", "stop_processes"]

_lock = threading.Lock()
_pools: list[ProcessPoolExecutor] = []  # one pool, from the first rows until `stop_processes`
_may_end = threading.Event()  # set in the processes


def in_process(
    function: Callable[..., pa.Array], rows: Sequence[Any], *settings: Any, without: Callable[[Any], Any]
) -> pa.Array:
    """Call a function in one of the processes, and wait for it. Threads that call this get a process each.

    A script that calls this needs `if __name__ == "__main__":`, like every script that starts processes.

    Args:
        function: Takes rows and settings, and returns a value per row. It is defined in a module, which the processes
            import.
        rows: The rows, of any type that can be pickled.
        *settings: Further arguments of the function.
        without: Takes a row that crashed a process, and returns it without the value that did so.

    Returns:
        The function's result.

    Raises:
        Exception: any exception that the function raises.
    """
    pool = _pool(function)
    try:
        return pool.submit(function, rows, *settings).result()
    except BrokenProcessPool:  # one of these rows, or of another thread's rows, crashed a process
        with _lock:
            if pool in _pools:
                _pools.remove(pool)
    return pa.concat_arrays([_alone(function, row, *settings, without=without) for row in rows])


def stop_processes() -> None:
    """End the processes, which hold memory until then. Later rows get new processes."""
    with _lock:
        while _pools:
            _pools.pop().shutdown()


def run_script(main: Callable[[], None]) -> None:
    """Run a script, and end at once at an error or Ctrl-C, with all processes.

    Python would wait for the engine's threads, which go on with all that they have begun, and for processes that
    examine offers for them. All files are written whole, so that the next run goes on.

    Args:
        main: The script.
    """
    signal.signal(signal.SIGINT, lambda number, frame: _end(128 + number))
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        _end(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:
        traceback.print_exc()
        _end(1)


def _end(status: int) -> NoReturn:
    for process in multiprocessing.active_children():
        process.kill()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End the process, one of those that `in_process` calls functions in, if the block takes too long.

    The system does that, so that code which does not return to Python is ended, too. Without effect in any other
    process, and on Windows, which has no such timer.

    Args:
        seconds: Seconds of the process's processor time.
    """
    has_timer = _may_end.is_set() and hasattr(signal, "setitimer")
    if has_timer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
    yield
    if has_timer:
        signal.setitimer(signal.ITIMER_PROF, 0)


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
    # Forked from a server that has imported the function's module and has no threads, which a fork would break; on
    # Windows started anew.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([function.__module__])
    return ProcessPoolExecutor(num_processes, context, initializer=_begin)


def _begin() -> None:
    """Ignore Ctrl-C, which the program handles, and end when the program ends, also if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _may_end.set()
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a child process

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
