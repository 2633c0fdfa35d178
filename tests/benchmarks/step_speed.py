"""Training steps per second before and after, side by side: `step_speed.py [--against CHECKOUT]`.

Every side is a process of its own, on the same threads, that takes one step when it is its turn: what else the machine
does meets all sides alike. A ratio is the median over the rounds, with the lowest and the highest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from sides import HERE, ROOT

BATCH_SIZE, IMAGES = 64, 8
AFTER = {"text_stream_size": 4 * IMAGES, "image_stream_size": IMAGES, "keep_graphs": 1.0, "fused": True}
BEFORE: dict[str, dict[str, Any]] = {
    "streams of as many titles as images": AFTER | {"text_stream_size": IMAGES},
    "AdamW not fused": AFTER | {"fused": False},
    "all encoded twice": AFTER | {"keep_graphs": 0.0},
}


class Side:
    """A process that takes steps.

    Args:
        tree: Checkout whose code takes them.
        settings: Of the step.
        threads: Threads of torch.
    """

    def __init__(self, tree: Path, settings: dict[str, Any], threads: int) -> None:
        """Start it, and have it take its first step."""
        path = os.pathsep.join([str(tree), str(HERE)])
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--side", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.loss, _ = self.step()

    def step(self) -> tuple[float, float]:
        """Have it take a step; return the loss and the seconds."""
        to, back = _pipes(self.process)
        to.write("step\n")
        to.flush()
        answer = back.readline()
        if not answer:
            raise RuntimeError(f"the side {self.process.args} ended before its step; its error is above.")
        loss, seconds = json.loads(answer)
        return loss, seconds

    def close(self) -> None:
        """End it."""
        _pipes(self.process)[0].close()
        self.process.wait()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def take_steps(text_stream_size: int, image_stream_size: int, keep_graphs: float, fused: bool) -> None:
    """Be a side: take a step for each line of the standard input, and print its loss and seconds."""
    import torch
    from towers import build_model
    from workloads import draw_offers

    from modeling_eclip import MultiStreamAccumulation
    from training.engine.optimization import build_optimizer

    input_ids, lengths, pixel_values = draw_offers(BATCH_SIZE)
    longest = int(lengths.max())
    inputs = {
        "input_ids": input_ids[:, :longest],
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "pixel_values": pixel_values,
    }
    model = build_model()
    optimizer = build_optimizer(model, learning_rate=0.0)
    for group in optimizer.param_groups:
        group["fused"] = fused
    accumulate = MultiStreamAccumulation(
        model, text_stream_size=text_stream_size, image_stream_size=image_stream_size, keep_graphs=keep_graphs
    )
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = accumulate(inputs).item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps([loss, time.perf_counter() - started]), flush=True)


def compare(sides: dict[str, tuple[Path, dict[str, Any]]], rounds: int, threads: int) -> dict[str, list[float]]:
    """Return each side's seconds per step, over rounds in which each takes one.

    Raises:
        RuntimeError: a side ended, or came to another loss.
    """
    running = {name: Side(*side, threads) for name, side in sides.items()}
    first = next(iter(running.values())).loss
    if odd := {name: side.loss for name, side in running.items() if abs(side.loss - first) > 1e-4 * first}:
        raise RuntimeError(f"the first side's loss is {first}, but {odd}: these are not the same steps.")
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(rounds):
        order = list(running)
        for name in order if turn % 2 == 0 else reversed(order):
            seconds[name].append(running[name].step()[1])
    for side in running.values():
        side.close()
    return seconds


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout of this project, whose step is the one before")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each side")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side")
    parser.add_argument("--side", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        take_steps(**arguments.side)
        return
    before = {name: (ROOT, settings) for name, settings in BEFORE.items()}
    if arguments.against is not None:
        before["the other checkout"] = (arguments.against.resolve(), AFTER)
    seconds = compare({"this": (ROOT, AFTER), **before}, arguments.rounds, arguments.threads)
    ours = seconds["this"]
    print(f"A step of {BATCH_SIZE} offers, 6-layer towers of width 128, {arguments.threads} threads.\n")
    print("| before | before | after | times faster (lowest to highest) |\n|---|--:|--:|--:|")
    for name in before:
        ratios = sorted(theirs / own for theirs, own in zip(seconds[name], ours, strict=True))
        rates = [f"{1 / statistics.median(values):.3g} steps/s" for values in (seconds[name], ours)]
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {rates[0]} | {rates[1]} | {ratio} |")


if __name__ == "__main__":
    main()
