"""What a process loads once, however many of its threads ask for it at the same time."""

import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

__all__ = ["loaded_once"]


def loaded_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function has loaded last, and let one thread load at a time.

    An engine runs a function in several threads of a process. `lru_cache` alone would load in each that comes before
    the first has finished; and models cannot be loaded side by side, since `from_pretrained` changes the number format
    that all threads of the process make new tensors in.

    Args:
        load: The function; its arguments can be hashed.

    Returns:
        The function, which returns the same object to all threads that ask with the same arguments.
    """
    lock = threading.Lock()
    cached = lru_cache(maxsize=1)(load)

    @wraps(load)
    def load_once(*arguments: Any) -> Any:
        with lock:
            return cached(*arguments)

    return load_once
