"""Memory of a training run's host and device against the batch size: `python tests/benchmarks/batch_memory.py`.

Every point is a process of its own that trains on two batches, so that the second is read while the first is trained
on, in streams that are all encoded twice. The towers are tiny and the loss is not the contrastive one, whose memory
`curves.py` draws: what is left is what a batch's inputs take. On the CPU, copies stand for those to a device.
"""

import argparse
import contextlib
import json
import re
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
from measure import report
from sides import ROOT, run_side
from transformers import ViTImageProcessorPil

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor, MultiStreamAccumulation
from modeling_eclip.accumulation import transfer
from modeling_eclip.fitting.tokenizer import train_title_tokenizer
from training.data.augmentation import ProductAugmentation
from training.data.inputs import finish_pixels, raw_inputs
from training.data.loaders import train_loader
from training.plots.canvas import plt

MIB = 2**20
_BATCH_SIZES = (1024, 4096, 16384, 65536)
# In memory whatever the size, and beyond 16 MiB in a file: at 224 px these are 0.8 GiB, by the number of pixels.
_LIMITS = {"memory": 1024.0, "file": 16 / 1024}
_SIDE, _STREAM, _PART, _WORKERS = 32, 512, 64, 1


def step(batch_size: int, limit: str) -> dict[str, int]:
    """Train on two batches; return peaks in bytes, above what the process held before."""
    model, processor, products = _small_run()
    device = _DeviceBytes()
    accumulate = MultiStreamAccumulation(
        model, stream_size=_STREAM, keep_graphs=0.0, prepare=device.counted(finish_pixels), loss_function=_cheap_loss
    )

    def train(size: int) -> None:
        loader = train_loader(
            products,
            processor,
            batch_size=size,
            total_samples=2 * size,
            seed=0,
            augmentation=ProductAugmentation((_SIDE, _SIDE)),
            num_workers=_WORKERS,
            part_size=_PART,
            memory_gib=_LIMITS[limit],
        )
        for batch in loader:
            accumulate(raw_inputs(batch), batch["catalog_ids"])

    train(2 * _STREAM)  # libraries take memory when they are first used
    device.most = 0
    with HostMemory() as host:
        train(batch_size)
    return {**host.peaks, "device": device.most}


class HostMemory(contextlib.AbstractContextManager["HostMemory"]):
    """Samples the memory of this process and of its workers; `peaks` are bytes above what there was at the start.

    `main` and `workers` are memory that only they can give back; `mapped` is what the system may write out to a file.
    """

    def __enter__(self) -> "HostMemory":
        self.peaks: Counter[str] = Counter()
        self._is_over = threading.Event()
        self._before = _resident(psutil.Process().pid)
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        this = psutil.Process()
        while not self._is_over.wait(0.02):
            main, mapped = (now - then for now, then in zip(_resident(this.pid), self._before, strict=True))
            workers = 0
            for worker in this.children():
                with contextlib.suppress(OSError):  # it has just ended
                    workers += _resident(worker.pid)[0] - self._before[0]  # pages that it shares with this process
            for name, value in (("main", main), ("mapped", mapped), ("workers", workers)):
                self.peaks[name] = max(self.peaks[name], value)


def _resident(pid: int) -> tuple[int, int]:
    """Return the bytes of a process that are its own or shared with its workers, and those that are of files."""
    status = Path(f"/proc/{pid}/status").read_text()
    anonymous, file, shared = (
        int(found[1]) * 1024 if (found := re.search(rf"{name}:\s+(\d+) kB", status)) else 0
        for name in ("RssAnon", "RssFile", "RssShmem")
    )
    return anonymous + shared, file


class _DeviceBytes:
    """Counts the bytes of inputs that lie on the device: copies of them, and what is made of the copies."""

    def __init__(self) -> None:
        self.now = self.most = 0
        transfer._move = lambda value, device: self._count(value.clone())

    def counted(self, prepare: Any) -> Any:
        def prepared(inputs: dict[str, Any]) -> dict[str, Any]:
            made = prepare(inputs)
            if "pixel_values" in made:
                self._count(made["pixel_values"])
            return made

        return prepared

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._forget, tensor.nbytes)
        return tensor

    def _forget(self, num_bytes: int) -> None:
        self.now -= num_bytes


def _cheap_loss(text: torch.Tensor, image: torch.Tensor, scale: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return (text * image).sum() * scale


def _small_run() -> tuple[EClipModel, EClipProcessor, datasets.Dataset]:
    titles = [f"title {number} of a product" for number in range(256)]
    tokenizer = train_title_tokenizer(titles, vocab_size=300)
    processor = EClipProcessor(ViTImageProcessorPil(size={"height": _SIDE, "width": _SIDE}), tokenizer)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = EClipConfig(
        vision_config={"model_type": "vit", "image_size": _SIDE, "patch_size": 16, **shape},
        text_config={"model_type": "bert", "vocab_size": len(tokenizer), **shape},
        projection_dim=16,
    )
    rng = np.random.default_rng(0)
    rows = [
        {"title": title, "image": _png(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)), "catalog_id": -1,
         "row_id": f"r{number}"}
        for number, title in enumerate(titles)
    ]  # fmt: skip
    features = datasets.Features(
        {
            "title": datasets.Value("string"),
            "image": datasets.Image(decode=False),
            "catalog_id": datasets.Value("int64"),
            "row_id": datasets.Value("string"),
        }
    )
    return EClipModel(config).train(), processor, datasets.Dataset.from_list(rows, features=features)


def _png(pixels: np.ndarray) -> dict[str, Any]:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return {"bytes": buffer.getvalue(), "path": None}


def draw(points: dict[str, list[dict[str, int]]], path: Path) -> None:
    """Draw the peaks against the batch size."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    series = {
        "pixels of two batches, 8 bits": ("memory", "pixels", ":"),
        "this process, batch in memory": ("memory", "main", "-"),
        "this process, batch in a file": ("file", "main", "-"),
        "workers and their queue": ("file", "workers", "-"),
        "inputs on the device": ("file", "device", "-"),
    }
    for label, (limit, name, line) in series.items():
        axes.loglog(
            [point["batch_size"] for point in points[limit]],
            [max(point[name], 1) / MIB for point in points[limit]],
            marker="" if line == ":" else "o",
            linestyle=line,
            label=label,
        )
    axes.set_xticks(_BATCH_SIZES, [f"{size // 1024}k" for size in _BATCH_SIZES], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=1)
    axes.set(
        xlabel="batch size B",
        ylabel="peak memory above that of the start, MiB",
        title=f"Images of {_SIDE} px, parts of {_PART}, streams of {_STREAM}, {_WORKERS} worker",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure all points, print them as a table and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=_BATCH_SIZES[-1], help="largest batch size")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs", help="folder of the plot")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    points: dict[str, list[dict[str, int]]] = {limit: [] for limit in _LIMITS}
    print("| B | batch in | pixels of two batches | this process | mapped file | workers | inputs on the device |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for batch_size in (size for size in _BATCH_SIZES if size <= arguments.largest):
        for limit, measured in points.items():
            peaks = run_side(sys.executable, Path(__file__).name, "step", {"batch_size": batch_size, "limit": limit})
            point = {"batch_size": batch_size, "pixels": 2 * batch_size * 3 * _SIDE**2, **peaks}
            measured.append(point)
            told = (f"{point[name] / MIB:.0f} MiB" for name in ("pixels", "main", "mapped", "workers", "device"))
            print(f"| {batch_size:,} | {limit} | {' | '.join(told)} |", flush=True)
    (arguments.output / "batch_memory.json").write_text(json.dumps(points, indent=2) + "\n")
    draw(points, arguments.output / "batch_memory.png")
    print(f"\ndrawn: {arguments.output / 'batch_memory.png'}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        report({"step": step})
    else:
        main()
