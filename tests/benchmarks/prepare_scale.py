"""Preparation at scale: generated offers through all steps but the model's, with time and peak memory of each run.

    python tests/benchmarks/prepare_scale.py --offers 1000000 --output outputs/prepare_scale
    python tests/benchmarks/prepare_scale.py --offers 60000 --image_side 700 --memory_limit_mb 1000 ...

Titles are put together from words, images are smooth patterns; one offer in ten relists another one, and one in ten is
the same product by another seller, with another title and the image recompressed.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

ROOT = Path(__file__).parents[2]
ROWS_PER_FILE = 50_000
ROWS_PER_GROUP = 100  # as `datasets` writes tables of images


def offers(number: int, side: int, noise: int, seed: int) -> Iterator[dict]:
    """Generate the offers."""
    dice, numbers = random.Random(seed), np.random.default_rng(seed)
    words = ["".join(dice.choices("abcdefghijklmnoprstuvy", k=dice.randint(3, 8))) for _ in range(20_000)]
    recent: list[dict] = []
    for place in range(number):
        kind = dice.random()
        if recent and kind < 0.1:
            row = dict(dice.choice(recent))
        elif recent and kind < 0.2:
            row = dict(dice.choice(recent))
            pixels = simplejpeg.decode_jpeg(row["image"])
            row["image"] = simplejpeg.encode_jpeg(pixels, quality=dice.randint(60, 85))
            row["title"] = f"[HOT] {row['title']} {dice.choice(words)}"
        else:
            coarse = numbers.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            pixels = np.kron(coarse, np.ones((-(-side // 6), -(-side // 6), 1), np.uint8))[:side, :side]
            pixels = pixels ^ numbers.integers(0, noise, pixels.shape, dtype=np.uint8)
            row = {"title": " ".join(dice.choices(words, k=dice.randint(4, 10)))}
            row["image"] = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=80)
        row |= {"offer_id": place, "category": f"kind {place % 500}"}
        if len(recent) < 500:
            recent.append(row)
        else:
            recent[dice.randrange(500)] = row
        yield row


def write(folder: Path, number: int, side: int, noise: int) -> int:
    """Write the offers and return their size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    writer, rows, files = None, [], 0
    for place, row in enumerate(offers(number, side, noise, 0), start=1):
        rows.append(row)
        if place % ROWS_PER_GROUP == 0 or place == number:
            table = pa.Table.from_pylist(rows)
            rows = []
            if writer is None:
                writer = pq.ParquetWriter(folder / f"{files:05d}.parquet", table.schema)
            writer.write_table(table)
        if writer is not None and (place % ROWS_PER_FILE == 0 or place == number):
            writer.close()
            writer, files = None, files + 1
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


def watch(run: subprocess.Popen) -> tuple[int, float]:
    """Wait for a run; return the most memory that its processes held together, and their processor seconds.

    What they share counts once. Nobody waits for processes that are forked from a server: they are asked as they run.
    """
    peak, seconds = 0, {}
    while run.poll() is None:
        held = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [main := psutil.Process(run.pid), *main.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    held += process.memory_full_info().pss
                    seconds[process.pid] = sum(process.cpu_times()[:2])
        peak = max(peak, held)
        time.sleep(0.5)
    return peak, sum(seconds.values())


def main() -> None:
    """Generate, prepare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offers", type=int, default=20_000)
    parser.add_argument("--image_side", type=int, default=48)
    parser.add_argument("--image_noise", type=int, default=16, help="grey levels; what is noisy has large files")
    parser.add_argument("--memory_limit_mb", type=int, help="of each process")
    parser.add_argument("--output", type=Path, default=Path("outputs/prepare_scale"))
    given, others = parser.parse_known_args()
    raw = given.output / "raw"
    started = time.perf_counter()
    size = write(raw, given.offers, given.image_side, given.image_noise)
    print(f"{given.offers:,} offers, {size / 2**20:,.0f} MiB, generated in {time.perf_counter() - started:.0f} s")

    def limit() -> None:
        if given.memory_limit_mb:
            resource.setrlimit(resource.RLIMIT_DATA, (given.memory_limit_mb * 2**20,) * 2)

    command = [sys.executable, "training/prepare.py", "--input", str(raw.resolve()), "--id_column", "offer_id"]
    command += ["--output_dir", str((given.output / "corpus").resolve()), *others]
    started = time.perf_counter()
    run = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, preexec_fn=limit)
    peak, processor_seconds = watch(run)
    seconds = time.perf_counter() - started
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command)
    report = json.loads((given.output / "corpus" / "report.json").read_text())
    metrics = {
        "offers": given.offers,
        "image_side": given.image_side,
        "cores": os.cpu_count(),
        "input_mib": round(size / 2**20),
        "memory_limit_mib": given.memory_limit_mb,
        "peak_mib": round(peak / 2**20),
        "seconds": round(seconds),
        "processor_seconds": round(processor_seconds),
        "offers_per_second": round(given.offers / seconds),
        "steps": {name: round(of_step, 1) for name, of_step in report["seconds"].items()},
        "dropped": report["dropped"],
        "catalogs": report["catalogs"]["derived"],
    }
    (given.output / "scale.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
