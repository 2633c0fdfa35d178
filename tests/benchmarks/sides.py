"""One side of a benchmark, run in a process of its own."""

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["HERE", "ROOT", "missing_module", "run_side"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_MODULES = {
    "PyTorch": "torch",
    "faiss, exact": "faiss",
    "open_clip": "open_clip_train",
    "sentence-transformers": "sentence_transformers",
    "transformers": "transformers",
}


def missing_module(peer: str, interpreter: str | None) -> str | None:
    """Return why a peer cannot be run, or `None`."""
    if interpreter is None:
        return "set PEER_PYTHON to an interpreter that has it"
    found = subprocess.run(
        [interpreter, "-c", f"import {_MODULES[peer]}"], capture_output=True, text=True, check=False
    )
    return f"{interpreter} can't import {_MODULES[peer]}" if found.returncode else None


def run_side(
    interpreter: str, script: str, function: str, arguments: dict[str, Any], threads: int = 2
) -> dict[str, Any]:
    """Run one side once.

    Args:
        interpreter: Its Python.
        script: The side's script in this folder.
        function: Name of the work.
        arguments: The work's arguments.
        threads: Threads of torch.

    Returns:
        What the side reported, and `busy`: the share of the cores that other processes used meanwhile.

    Raises:
        RuntimeError: the side failed; its output is in the message.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "TOKENIZERS_PARALLELISM": "false",
    }
    before = _busy_seconds()
    run = subprocess.run(
        [interpreter, str(HERE / script), function, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"{script} {function} {arguments} failed:\n{run.stderr}")
    passed = [after - start for after, start in zip(_busy_seconds(), before, strict=True)]
    busy_of_all, busy_of_ours, elapsed = passed
    measured = json.loads(run.stdout.splitlines()[-1])
    return measured | {"busy": max(0.0, busy_of_all - busy_of_ours) / elapsed}


def _busy_seconds() -> tuple[float, float, float]:
    """Return seconds that all cores were busy, that they were busy for our children, and that passed on all cores."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    tick = 1 / os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(fields) - idle) * tick, children.ru_utime + children.ru_stime, sum(fields) * tick
