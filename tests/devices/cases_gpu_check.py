"""The check of a GPU (`tests/benchmarks/gpu_check.py`) as it runs on one, at tiny sizes: what need not be compiled."""

import sys
from pathlib import Path

from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gpu_check


def test_sections(capsys):
    AcceleratorState._reset_state(True)
    status = gpu_check.main(["--dry_run", "--only", "gradients", "card", "loss", "profile"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "a CPU's stand-in for a GPU" in printed  # it is the device that all of this ran on
