"""Preparation against `datasets.map` with two processes: the same work on the same offers, in turns.

    python tests/benchmarks/prepare_speed.py --input ../shared/data/offers/train.parquet

Each step is done by Daft on two cores and by `datasets.map(num_proc=2)`, both from a parquet file to another; printed
are the medians of the turns, and their ratio.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import daft
import datasets
import pyarrow as pa
from daft import DataType, Series, col

from training.arguments.prepare import ImageLimits, PrepareArguments
from training.corpus.image_facts import examine_image
from training.corpus.plan_parts import plan_parts
from training.corpus.read_offers import prepare_part
from training.corpus.sandbox import in_process
from training.corpus.title_rules import clean_title, load_title_rules, title_key
from training.data.parallel import use_engine

RULES = "training/configs/title_rules.yaml"


def clean(title: str) -> dict[str, Any]:
    """Clean a title."""
    cleaned = clean_title(title, rules())
    return {"title": cleaned.title, "key": title_key(cleaned.title)}


def examine(image: bytes) -> dict[str, Any]:
    """Examine an image."""
    facts = examine_image(image, ImageLimits())
    return {
        "reason": facts.reason,
        "width": facts.width,
        "height": facts.height,
        "pixel_hash": facts.pixel_hash,
        "thumbnail": None if facts.thumbnail is None else facts.thumbnail.tobytes(),
        "colours": None if facts.colours is None else facts.colours.tobytes(),
    }


_loaded: list[Any] = []


def rules() -> Any:
    """Load the rules once a process."""
    if not _loaded:
        _loaded.append(load_title_rules(RULES))
    return _loaded[0]


_TEXT, _BYTES = pa.large_string(), pa.large_binary()
CLEANED = pa.struct([("title", _TEXT), ("key", _TEXT)])
EXAMINED = pa.struct(
    [("reason", _TEXT), ("width", pa.int32()), ("height", pa.int32())]
    + [("pixel_hash", _BYTES), ("thumbnail", _BYTES), ("colours", _BYTES)]
)


def clean_all(titles: list[str]) -> pa.Array:
    """Clean titles."""
    return pa.array([clean(title) for title in titles], CLEANED)


def examine_all(images: list[bytes]) -> pa.Array:
    """Examine images."""
    return pa.array([examine(image) for image in images], EXAMINED)


@daft.func.batch(return_dtype=DataType.from_arrow_type(CLEANED), batch_size=128)
def clean_batch(titles: Series) -> Series:
    """Clean titles as the first step does: in processes."""
    return Series.from_arrow(in_process(clean_all, titles.to_pylist(), without=lambda title: ""))


@daft.func.batch(return_dtype=DataType.from_arrow_type(EXAMINED), batch_size=32)
def examine_batch(images: Series) -> Series:
    """Examine images likewise."""
    return Series.from_arrow(in_process(examine_all, images.to_pylist(), without=lambda image: b""))


def by_daft(step: str, path: str, folder: Path) -> None:
    """Do a step by Daft."""
    frame = daft.read_parquet(path)
    if step == "titles":
        frame.select(clean_batch(col("title"))).write_parquet(str(folder))
    elif step == "images":
        frame.select(examine_batch(col("image")["bytes"])).write_parquet(str(folder))
    else:
        arguments = PrepareArguments(input=[path], id_column="offer_id")
        prepare_part(0, plan_parts([path], 2**40)[0], folder, arguments, rules())


def by_map(step: str, path: str, folder: Path) -> None:
    """Do a step by `datasets`."""
    cache = str(folder / "cache")
    table = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
    table = table.cast_column("image", datasets.Image(decode=False))
    own = table.column_names

    def work(row: dict[str, Any]) -> dict[str, Any]:
        found = {} if step == "images" else clean(row["title"])
        return found | ({} if step == "titles" else examine(row["image"]["bytes"]))

    # The whole first step keeps the offers; the two others what is found out.
    table = table.map(work, num_proc=2, remove_columns=None if step == "both" else own)
    table.to_parquet(str(folder / "out.parquet"))


def timed(work: Callable[[str, str, Path], None], step: str, path: str) -> float:
    """Return the seconds of a step, into a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    work(step, path, folder)
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def main() -> None:
    """Time both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/prepare_speed.json"))
    given = parser.parse_args()
    datasets.disable_progress_bars()
    use_engine("native")
    offers = daft.read_parquet(given.input).count_rows()
    metrics = {}
    for step in ("titles", "images", "both"):
        timed(by_daft, step, given.input)  # what a process does once
        turns = [(timed(by_daft, step, given.input), timed(by_map, step, given.input)) for _ in range(given.turns)]
        ours, theirs = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
        metrics[step] = {
            "offers_per_second_and_core": round(offers / ours / 2),
            "datasets_map": round(offers / theirs / 2),
            "ratio": round(theirs / ours, 2),
        }
        print(f"{step}: {metrics[step]}", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
