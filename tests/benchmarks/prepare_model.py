"""Preparation of very many offers on paper, from a measured run: bytes, shuffles, machines, hours, where it breaks.

python tests/benchmarks/prepare_scale.py --offers 20000 --image_side 500 --output outputs/prepare_500
python tests/benchmarks/prepare_model.py --measured outputs/prepare_500/scale.json --offers 1500000000
"""

import argparse
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa

from training.arguments.prepare import PrepareArguments
from training.corpus.derive_catalogs import Likeness, derive_catalogs
from training.corpus.drops import Drops
from training.corpus.similar_pairs import _LARGEST_BUCKET

TB, GIB = 1e12, 2**30
FACT_BYTES = 330  # an offer's values for later steps: hashes, colours, a title of 60 letters, ids
MEMBER_BYTES = 150  # an offer in one bucket: two hashes, its title and content
PER_PART = ("read, clean and examine", "write")  # work that grows with the images, and has no shuffle


def bytes_per_drop(number: int = 100_000) -> float:
    """Return the bytes that the main process holds for each dropped offer."""
    tracemalloc.start()
    drops = Drops()
    for row in range(number):
        drops.add(2**48 + row, "duplicate", kept=(str(10**9 + row), 2**40 + row))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / number


def bytes_per_pair(number: int = 20_000) -> float:
    """Return the largest number of bytes that it holds for each similar pair while catalogs are derived."""
    table = pa.table(
        {
            "left": pa.array(range(2**40, 2**40 + 2 * number, 2), pa.uint64()),
            "right": pa.array(range(2**40 + 1, 2**40 + 2 * number, 2), pa.uint64()),
            "similarity": pa.array([0.9] * number),
        }
    )
    tracemalloc.start()
    pairs = [Likeness(pair["left"], pair["right"], pair["similarity"]) for pair in table.to_pylist()]
    ids = {row: row for pair in pairs for row in (pair.left, pair.right)}
    derive_catalogs(pairs, ids, dict.fromkeys(ids, -1), 100, join_from=0.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--offers", type=float, default=1.5e9)
    parser.add_argument("--image_bytes", type=float, default=50e3)
    parser.add_argument("--dropped_share", type=float, default=0.2)
    parser.add_argument("--pairs_per_offer", type=float, default=0.2)
    parser.add_argument("--cores", type=int, default=2048)
    parser.add_argument("--core_bytes_per_second", type=float, default=20e6, help="What a store gives each core.")
    parser.add_argument("--driver_gib", type=float, default=256)
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text())
    number = given.offers
    images = number * given.image_bytes
    blocks = max(PrepareArguments.near_image_distance, PrepareArguments.catalog_image_distance) + 1
    bucket = 2 * number / 2 ** (64 // blocks)
    share = measured["processor_seconds"] / sum(measured["steps"].values())  # other work on the machine does not count
    seconds = {name: of * share / measured["offers"] for name, of in measured["steps"].items()}
    in_parts = sum(of for name, of in seconds.items() if name in PER_PART)
    rest = sum(seconds.values()) - in_parts
    store = 4 * images / given.cores / given.core_bytes_per_second
    lines = [
        ("read and written: images, four times", f"{4 * images / TB:,.0f} TB"),
        ("kept in `work` meanwhile", f"{images / TB:,.0f} TB"),
        ("values that offers are compared by", f"{number * FACT_BYTES / TB:,.2f} TB"),
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
    per_drop, per_pair = bytes_per_drop(), bytes_per_pair()
    held = given.dropped_share * per_drop + given.pairs_per_offer * per_pair
    lines += [
        ("held by the main process for an offer that is dropped", f"{per_drop:,.0f} bytes"),
        ("for a pair of similar offers", f"{per_pair:,.0f} bytes"),
        (
            f"for {given.dropped_share:.0%} dropped, {given.pairs_per_offer:g} pairs an offer",
            f"{number * held / GIB:,.0f} GiB",
        ),
        (f"offers at which {given.driver_gib:g} GiB are full", f"{given.driver_gib * GIB / held / 1e6:,.0f} million"),
    ]
    print(f"| {number:,.0f} offers with images of {given.image_bytes:,.0f} bytes | |\n|---|--:|")
    for name, value in lines:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
