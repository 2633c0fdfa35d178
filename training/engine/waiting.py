"""How long training waits for its data: the cost of a slow disk, or of too few workers."""

import time
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

__all__ = ["WaitingTime"]

Batch = TypeVar("Batch")


class WaitingTime(Generic[Batch]):
    """Iterates over a loader and counts the time spent waiting for it.

    Args:
        loader: Anything to iterate over.

    Attributes:
        seconds: Time spent waiting so far, the start of the loader's workers included.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        """Keeps the loader; nothing has been waited for yet."""
        self.loader = loader
        self.seconds = 0.0

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yields the loader's batches."""
        started = time.perf_counter()
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()
