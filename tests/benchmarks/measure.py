"""Time and peak memory of one call, and the one line in which a side of a benchmark reports them.

Needs Linux (`/proc`), the standard library and numpy: the peers' environment has no more in common with ours.
"""

import ctypes
import gc
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["keep_vectors", "measure", "report"]


def measure(call: Callable[[], Any], calls: int = 1) -> tuple[Any, float, int]:
    """Return a call's result, its seconds, and by how many bytes it raised the process's resident memory at its peak.

    Memory that was freed before is returned to the system first, so that all memory of the call counts.

    Args:
        call: What is measured.
        calls: How often; the seconds are those of the last call, which finds the memory of those before it.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = _resident_bytes("VmRSS")
    for _ in range(calls):
        started = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - started
    return result, seconds, _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def keep_vectors(vectors: Any) -> str:
    """Write vectors to a file, for the other side's to be compared with, and return its name."""
    with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
        np.save(file, np.asarray(vectors, dtype=np.float32))
    return file.name


def report(works: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Do the work that the command line names, with the arguments given as JSON; print its measurements as JSON."""
    name, arguments = sys.argv[1:]
    print(json.dumps(works[name](**json.loads(arguments))))
