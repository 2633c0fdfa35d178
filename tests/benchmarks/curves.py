"""Memory of the loss against the batch size, and time of a step against the number of streams, as two plots.

`make bench` draws them after its table; `python tests/benchmarks/curves.py` draws them alone.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from sides import ROOT, missing_module, run_side  # noqa: E402

__all__ = ["draw_curves"]

KIB, GIB = 2**10, 2**30
_DIM = 512
_BATCH_SIZES = tuple(KIB * 2**power for power in range(7))
# A dense loss of 32,768 rows needs 16 GiB.
_DENSE_BATCH_SIZES = _BATCH_SIZES[:5]
_STEP_BATCH = 512
_STREAM_SIZES = (512, 128, 32, 8)
_KEPT = {0.0: "no graph kept (each stream encoded twice)", 1.0: "all graphs kept"}


def draw_curves(folder: Path, peer_python: str | None) -> None:
    """Measure both curves and write `memory.png`, `streams.png` and the measurements, `curves.json`, to a folder.

    Args:
        folder: Where they go.
        peer_python: Interpreter that has open_clip, whose loss is measured beside ours; left out without it.
    """
    memory = {
        f"this package, {form}, in tiles": _measure_memory(
            sys.executable, "eclip_side.py", _BATCH_SIZES, is_sigmoid=form == "sigmoid"
        )
        for form in ("softmax", "sigmoid")
    }
    if peer_python is not None and missing_module("open_clip", peer_python) is None:
        memory["open_clip, dense"] = _measure_memory(peer_python, "open_clip_side.py", _DENSE_BATCH_SIZES)
    steps = {label: _measure_streams(share) for share, label in _KEPT.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.json").write_text(json.dumps({"memory": memory, "streams": steps}, indent=2) + "\n")
    _draw_memory(memory, folder / "memory.png")
    _draw_streams(steps, folder / "streams.png")
    print(f"\ndrawn: {folder / 'memory.png'}, {folder / 'streams.png'}")


def _measure_memory(interpreter: str, script: str, batch_sizes: Sequence[int], **form: bool) -> list[dict[str, float]]:
    points = []
    for batch_size in batch_sizes:
        measured = run_side(interpreter, script, "loss", {"batch_size": batch_size, "dim": _DIM, **form})
        points.append({"batch_size": batch_size, "gib": measured["peak_bytes"] / GIB, "seconds": measured["seconds"]})
        print(f"  loss, {script}, B = {batch_size:,}: {points[-1]['gib']:.3f} GiB", flush=True)
    return points


def _measure_streams(keep_graphs: float) -> list[dict[str, float]]:
    points = []
    for stream_size in _STREAM_SIZES:
        arguments = {
            "batch_size": _STEP_BATCH,
            "text_stream_size": stream_size,
            "image_stream_size": stream_size,
            "keep_graphs": keep_graphs,
        }
        # The faster of two: other processes can only add to a time.
        rounds = [run_side(sys.executable, "eclip_side.py", "step", arguments) for _ in range(2)]
        best = min(rounds, key=lambda measured: measured["seconds"])
        points.append(
            {
                "streams": _STEP_BATCH // stream_size,
                "seconds": best["seconds"],
                "gib": max(measured["peak_bytes"] for measured in rounds) / GIB,
            }
        )
        print(f"  step, {points[-1]['streams']} streams, {keep_graphs:.0%} kept: {best['seconds']:.2f} s", flush=True)
    return points


def _draw_memory(memory: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for label, points in memory.items():
        axes.loglog(
            [point["batch_size"] for point in points], [point["gib"] for point in points], marker="o", label=label
        )
    axes.axhline(1, color="grey", linestyle=":", linewidth=1)
    axes.set_xticks(_BATCH_SIZES, [f"{size // KIB}k" for size in _BATCH_SIZES], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel="batch size B",
        ylabel="peak memory above the embeddings, GiB",
        title=f"Contrastive loss, forward and backward, d = {_DIM}, fp32",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_streams(steps: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained")
    for label, points in steps.items():
        streams = [point["streams"] for point in points]
        time_axes.plot(streams, [point["seconds"] for point in points], marker="o", label=label)
        memory_axes.plot(streams, [point["gib"] for point in points], marker="o", label=label)
    for axes, name in ((time_axes, "seconds of a step"), (memory_axes, "peak memory of a step, GiB")):
        axes.set_xscale("log", base=2)
        axes.set_xticks([_STEP_BATCH // size for size in _STREAM_SIZES])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
        axes.set(xlabel="number of streams", ylabel=name)
    time_axes.legend()
    figure.suptitle(f"Training step of {_STEP_BATCH} offers, 6-layer towers of width 128")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="interpreter that has open_clip")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs", help="folder of the plots")
    parsed = parser.parse_args()
    draw_curves(parsed.output, parsed.peer_python)
