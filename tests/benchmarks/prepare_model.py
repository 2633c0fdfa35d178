"""Preparation of very many offers on paper, from a measured run: bytes, shuffles, machines, hours, where it breaks.

python tests/benchmarks/prepare_scale.py --offers 20000 --image_side 500 --output outputs/prepare_500
python tests/benchmarks/prepare_model.py --measured outputs/prepare_500/scale.json --offers 1500000000
"""

import argparse
import json
import tracemalloc
from pathlib import Path

from training.corpus.arguments import PrepareArguments
from training.corpus.duplicates import Drops
from training.corpus.similar import _LARGEST_BUCKET

TB, GIB = 1e12, 2**30
FACT_BYTES = 330  # what later steps compare an offer by: hashes, colours, a title of 60 letters, ids
MEMBER_BYTES = 150  # an offer in one bucket: two hashes, its title and content
PER_PART = ("read, clean and examine", "write")  # work that grows with the images, and has no shuffle


def bytes_per_drop(number: int = 100_000) -> float:
    """Return what the main process holds for an offer that is dropped for another one."""
    tracemalloc.start()
    drops = Drops()
    for row in range(number):
        drops.add(2**48 + row, "duplicate", kept=(str(10**9 + row), 2**40 + row))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--offers", type=float, default=1.5e9)
    parser.add_argument("--image_bytes", type=float, default=50e3)
    parser.add_argument("--dropped_share", type=float, default=0.2)
    parser.add_argument("--cores", type=int, default=2048)
    parser.add_argument("--core_bytes_per_second", type=float, default=20e6, help="What a store gives each core.")
    parser.add_argument("--driver_gib", type=float, default=256)
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text())
    number = given.offers
    images = number * given.image_bytes
    blocks = max(PrepareArguments.near_image_distance, PrepareArguments.catalog_image_distance) + 1
    bucket = 2 * number / 2 ** (64 // blocks)
    seconds = {name: of * measured["cores"] / measured["offers"] for name, of in measured["steps"].items()}
    in_parts = sum(of for name, of in seconds.items() if name in PER_PART)
    rest = sum(seconds.values()) - in_parts
    store = 4 * images / given.cores / given.core_bytes_per_second
    lines = [
        ("read and written: images, four times", f"{4 * images / TB:,.0f} TB"),
        ("kept in `work` meanwhile", f"{images / TB:,.0f} TB"),
        ("what offers are compared by", f"{number * FACT_BYTES / TB:,.2f} TB"),
        ("shuffle by id, and by title and pixels", f"{2 * number * 60 / TB:,.2f} TB"),
        ("shuffle into buckets of similar hashes", f"{number * 2 * blocks * MEMBER_BYTES / TB:,.1f} TB"),
        ("offers in a bucket, if hashes were random", f"{bucket:,.0f}; {_LARGEST_BUCKET:,} are compared in full"),
        ("images and files, measured", f"{1000 * in_parts:,.2f} ms of a core per offer"),
        ("all other steps, measured", f"{1000 * rest:,.3f} ms of a core per offer"),
        (f"images and files, {given.cores:,} cores", f"{number * in_parts / given.cores / 3600:,.1f} h"),
        (
            "the same, as far as the store goes",
            f"{store / 3600:,.1f} h",
        ),
        ("all other steps, if one machine of 64 did them", f"{number * rest / 64 / 3600:,.1f} h"),
    ]
    each = bytes_per_drop()
    held = number * given.dropped_share * each
    most = given.driver_gib * GIB / each / given.dropped_share
    lines += [
        ("held by the main process for an offer that is dropped", f"{each:,.0f} bytes"),
        (f"for {given.dropped_share:.0%} of them", f"{held / GIB:,.0f} GiB"),
        (f"offers at which {given.driver_gib:g} GiB are full", f"{most / 1e6:,.0f} million"),
    ]
    print(f"| {number:,.0f} offers with images of {given.image_bytes:,.0f} bytes | |\n|---|--:|")
    for name, value in lines:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
