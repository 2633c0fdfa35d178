"""The package on one GPU: is it right, how fast is it, what holds it up: `python tests/benchmarks/gpu_check.py`.

One H100 or H200, under six minutes, no network. `--dry_run` goes through all of it at tiny sizes, on a GPU or a CPU,
and holds results, not rates, to what they have to be. The sections, in the order of what matters:

- gradients: the loss and its gradients against the dense loss in float64, with and without TF32, in bfloat16.
- streams: gradients of graphs kept, encoded again and by memory, with dropout, in bfloat16, compiled.
- card: rates that are reached in products and copies.
- loss: time, memory and waits of the loss alone at B = 16k, 32k, 64k, beside the dense loss and plain CLIP's.
- steps: samples/s, MFU and memory of training steps at B = 4k, 16k, 64k, ViT-B/32 and B/16, compiled or not.
- profile: where the time of a step goes.

MFU is the operations of three forward passes over the seconds and the card's rate; a second encoding and the loss do
not count, as they do in HFU (the second encoding alone). Exits with 1 where a result is wrong.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from gpu_correctness import check_gradients, check_streams  # noqa: E402
from gpu_speed import measure_card, measure_loss, measure_steps, profile_step  # noqa: E402
from gpu_subject import DRY, FULL, Bench  # noqa: E402

SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "gradients": check_gradients,
    "streams": check_streams,
    "card": measure_card,
    "loss": measure_loss,
    "steps": measure_steps,
    "profile": profile_step,
}
# What H100 SXM and H200 are said to reach in bfloat16 without sparsity, in operations a second.
_PEAK = 989e12


def main(words: Sequence[str] | None = None) -> int:
    """Run the sections, print and write what they find, and return 1 where something is wrong.

    Args:
        words: The command line; that of the process if not given.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="tiny sizes, also on a CPU")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="some sections")
    parser.add_argument("--budget", type=float, default=320.0, help="seconds; what would take longer is not begun")
    parser.add_argument("--peak", type=float, default=_PEAK, help="the card's rate in bfloat16, operations a second")
    parser.add_argument("--output", type=Path, help="file for all that was found, as JSON")
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available() and not arguments.dry_run:
        parser.error("torch sees no GPU; --dry_run goes through all checks at tiny sizes on the CPU")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes, budget = (DRY, math.inf) if arguments.dry_run else (FULL, arguments.budget)
        bench = Bench(sizes, arguments.peak, budget, Path(folder))
        for name in arguments.only:
            if bench.left() < 10:
                print(f"{name}: no time left")
                continue
            started = time.perf_counter()
            try:
                found[name] = SECTIONS[name](bench)
            except Exception as error:  # the other sections can still tell something
                traceback.print_exc()
                bench.faults.append(f"{name} ended with {error!r}")
            bench.clean()
            print(f"-- {name}: {time.perf_counter() - started:.1f} s", flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found | {"faults": bench.faults}, indent=1) + "\n")
    for fault in bench.faults:
        print(f"WRONG: {fault}")
    print(f"{len(found)} of {len(arguments.only)} sections ran, {len(bench.faults)} faults")
    return int(bool(bench.faults) or len(found) < len(arguments.only))


if __name__ == "__main__":
    sys.exit(main())
