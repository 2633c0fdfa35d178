"""Fresh processes that compute parts of a report at the same time, sharing the cores."""

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Workers"]


class Workers:
    """Fresh processes that share the cores, from one call to the next: a context manager.

    Args:
        jobs: How many.
        log_dir: Where each writes its progress bars and warnings.
        after_each: Called after each call that is over.
    """

    def __init__(self, jobs: int, log_dir: Path, after_each: Callable[[], None]) -> None:
        """Keep the settings."""
        self.jobs, self.log_dir, self.after_each = jobs, log_dir, after_each
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> "Workers":
        """Make the pool; its processes start when they are needed."""
        self.log_dir.mkdir(exist_ok=True)
        # Read when a process starts: libraries of linear algebra have threads of their own.
        settings = {
            "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // self.jobs, 1)),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self.jobs, context, _start_worker, (self.log_dir,))
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes; those that are in the middle of a call, after an error, too."""
        if any(error):
            for process in multiprocessing.active_children():
                process.kill()  # a call takes minutes; the next report computes it again
        self._pool.shutdown(cancel_futures=True)
        for name, value in self._before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

    def call(self, function: Callable[..., Any], given: Sequence[tuple[Any, ...]], description: str) -> list[Any]:
        """Call a function for each of several arguments.

        Args:
            function: What is called.
            given: Its arguments.
            description: What the progress bar says.

        Returns:
            What it returned, in the order of `given`.
        """
        futures = {self._pool.submit(function, *one): place for place, one in enumerate(given)}
        found: dict[int, Any] = {}
        for future in tqdm(as_completed(futures), total=len(futures), desc=description):
            found[futures[future]] = future.result()
            self.after_each()
        return [found[place] for place in range(len(given))]


def _start_worker(log_dir: Path) -> None:
    """Have a process write to a file of its own, since bars would write over each other, and end with its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with (log_dir / f"{os.getpid()}.log").open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
