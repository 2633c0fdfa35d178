"""A limit on the processor time that reading one image may take."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from modeling_eclip.images_eclip import ProductImageError

__all__ = ["IMAGE_SECONDS", "time_limit"]

IMAGE_SECONDS = 10.0
"""Of processor time, so that a slow disk or a busy machine costs no image; 50 million pixels take about 5."""


class _TimeOver(BaseException):
    """Nobody who reads an image catches this one."""


@contextlib.contextmanager
def time_limit(seconds: float = IMAGE_SECONDS) -> Iterator[None]:
    """Refuses an image whose reading, the block, takes too long.

    In the main thread of a process, which is where the workers of loaders read, a timer breaks it off as soon as the
    decoder returns to Python; where there is no such timer (in other threads, on Windows) it is refused once it is
    read.

    Args:
        seconds: Seconds of this thread's processor time.

    Raises:
        ProductImageError: If the block took longer; the reason is `"too_costly"`.
    """
    began = time.thread_time()
    try:
        with _timer(began + seconds):
            yield
    except _TimeOver:
        pass
    except ProductImageError:
        if time.thread_time() - began <= seconds:
            raise
    if time.thread_time() - began > seconds:
        raise ProductImageError(
            f"reading the image took more than {seconds:g} seconds; save it again as a plain JPEG or PNG.",
            "too_costly",
        )


@contextlib.contextmanager
def _timer(stop: float) -> Iterator[None]:
    """Raises `_TimeOver` in the block when the thread's processor time is at `stop`."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        left = stop - time.thread_time()
        if left < 0:
            raise _TimeOver
        signal.setitimer(signal.ITIMER_PROF, left + 1e-3)  # other threads used some of the process's time

    before = signal.signal(signal.SIGPROF, ring)
    try:
        signal.setitimer(signal.ITIMER_PROF, stop - time.thread_time() + 1e-3)
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
