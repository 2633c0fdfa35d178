"""Training, fine-tuning, embedding and preparation that are killed at random moments and go on: are results the same?

    python tests/benchmarks/killed_runs.py --number 50

A run of each kind ends by itself; then others are killed (SIGKILL) and started again in the same folder until they
end, as often as it takes for so many kills. Weights, vectors and kept and dropped rows must be equal to the bit, since
a resumed run does the same operations on the same numbers; the script ends with status 1 where they are not. Runs are
forked from this process, which has imported everything, so that most of their time is theirs. Not on Windows.
"""

import argparse
import contextlib
import hashlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

# Not here, but when they are needed: processes that prepare offers import this script.
IMPORTED_FIRST = (
    "conftest",
    "training.corpus.pipeline",
    "training.embedding.embed_corpus",
    "training.engine.contrastive_training",
    "training.tasks.finetuning",
)
NUM_OFFERS = 120
SHORTEST = 0.05  # seconds before a kill


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Args:
        run: Runs in a folder, or goes on there.
        results: Patterns of the files that it makes, whose content must not depend on kills.
    """

    run: Callable[[Path, Path], Any]
    results: tuple[str, ...]


def _resume(folder: Path) -> str | None:
    from training.engine.checkpoint import find_checkpoints

    return "latest" if find_checkpoints(folder) else None


def _train(folder: Path, given: Path) -> None:
    from conftest import DATA, MODEL, train_arguments

    from training.engine.contrastive_training import train

    arguments = train_arguments(folder, max_samples=96, ema_decay=0.9, resume_from_checkpoint=_resume(folder))
    train(MODEL, replace(DATA, num_workers=1), arguments)


def _finetune(folder: Path, given: Path) -> None:
    from conftest import DATA, MODEL

    from training.arguments.finetune import FinetuneArguments
    from training.tasks.finetuning import finetune

    arguments = FinetuneArguments(
        task="category", output_dir=str(folder), batch_size=16, max_samples=96, save_every_samples=16,
        eval_every_samples=32, resume_from_checkpoint=_resume(folder),
    )  # fmt: skip
    finetune(MODEL, replace(DATA, toy_offers=NUM_OFFERS, num_workers=1), arguments)


def _embed(folder: Path, given: Path) -> None:
    from training.arguments.embed import EmbedArguments
    from training.embedding.embed_corpus import embed_corpus

    sizes = {"rows_per_shard": 10, "image_batch_size": 10, "num_workers": 1}
    offers, model = str(given / "offers.parquet"), str(given / "model")
    embed_corpus(EmbedArguments(checkpoint=model, input=[offers], output_dir=str(folder), **sizes))


def _prepare(folder: Path, given: Path) -> None:
    from training.arguments.prepare import PrepareArguments
    from training.corpus.pipeline import prepare

    prepare(
        PrepareArguments(input=[str(given / "offers.parquet")], output_dir=str(folder), bytes_at_once=100_000,
                         rows_per_shard=20)
    )  # fmt: skip


KINDS = {
    "train": Kind(_train, ("*.safetensors",)),
    "finetune": Kind(_finetune, ("*.safetensors",)),
    "embed": Kind(_embed, ("*.parquet",)),
    "prepare": Kind(_prepare, ("kept/*.parquet", "dropped/*.parquet")),
}


def write_given(folder: Path) -> None:
    """Write the model and the offers that runs start from."""
    import pandas as pd
    from conftest import noise_image, save_checkpoint

    save_checkpoint(folder / "model")
    images = []
    for number in range(NUM_OFFERS):
        path = folder / "image.png"
        noise_image(number // 2, 48, 48).save(path)
        images.append(path.read_bytes())
    titles = [f"red mug number {number // 3} of {['ada', 'bob'][number % 2]}" for number in range(NUM_OFFERS)]
    pd.DataFrame({"title": titles, "image": images}).to_parquet(folder / "offers.parquet", row_group_size=10)


def content(path: Path) -> str:
    """Return a digest of a file: of a table's rows, which do not tell when they were written, or of all bytes."""
    import pyarrow.parquet as pq

    data = repr(pq.read_table(path).to_pydict()).encode() if path.suffix == ".parquet" else path.read_bytes()
    return hashlib.sha256(data).hexdigest()


def results(kind: Kind, folder: Path) -> dict[str, str]:
    """Return digests of a run's results by their names."""
    paths = sorted(path for pattern in kind.results for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): content(path) for path in paths}


def start(kind: Kind, folder: Path, given: Path, log: Path) -> int:
    """Start a run in a process, and a group, of its own; return its id."""
    if pid := os.fork():
        return pid
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 0
    try:
        kind.run(folder, given)
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    """Return the status of a process that ends within some seconds; nothing for another."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    return None


def end_group(pid: int) -> None:
    """Kill a process and those that it started, which end by themselves later."""
    with contextlib.suppress(ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def examine(name: str, number: int, dice: random.Random, folder: Path) -> bool:
    """Kill runs of a kind so many times; print what came of it, and return whether all results were the same."""
    kind, log, began = KINDS[name], folder / f"{name}.log", time.monotonic()
    status = wait(start(kind, folder / "whole", folder, log), 600)
    took, expected = time.monotonic() - began, results(kind, folder / "whole")
    if status != 0 or not expected:
        sys.exit(f"{name} does not even run by itself: see {log}")
    kills = runs = same = 0
    while kills < number:
        shutil.rmtree(folder / "killed", ignore_errors=True)
        runs, status = runs + 1, None
        while status is None:
            pid = start(kind, folder / "killed", folder, log)
            status = wait(pid, dice.uniform(SHORTEST, took) if kills < number else 600)
            if status is None:
                end_group(pid)
                kills += 1
        if status != 0:
            sys.exit(f"{name} did not go on after {kills} kills: see {log}")
        same += results(kind, folder / "killed") == expected
        print(f"{name}: {kills} kills in {runs} runs, {same} of them with the same result", flush=True)
    shutil.rmtree(folder / "whole"), shutil.rmtree(folder / "killed")
    return same == runs


def main() -> None:
    """Kill runs of every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS))
    arguments = parser.parse_args()
    for module in IMPORTED_FIRST:
        importlib.import_module(module)
    folder = Path(tempfile.mkdtemp(prefix="killed-runs-"))
    write_given(folder)
    print(f"logs are in {folder}", flush=True)
    good = [examine(name, arguments.number, random.Random(arguments.seed), folder) for name in arguments.only]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
