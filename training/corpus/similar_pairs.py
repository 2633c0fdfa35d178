"""Find pairs of offers with similar titles and similar images, without comparing all offers with each other.

Two 64-bit hashes that differ in at most `d` bits are equal in at least one of `d + 1` blocks of bits. Offers that
share a block are put into one bucket, and only offers of one bucket are compared: by the bits of their image hashes,
also with one of them mirrored, and by the letter triples that their titles have in common (Jaccard). Titles with
different numbers or codes name different products. A very large bucket is sorted by title, and each offer is compared
with its neighbours in that order only.
"""

from typing import Any

import daft
import numpy as np
import pyarrow as pa
from daft import DataType, Series, col

__all__ = ["similar_pairs", "title_similarity", "title_triples"]

_LARGEST_BUCKET = 1000
_NEIGHBORS = 20  # in the order of titles, compared in larger buckets
_ROWS_AT_ONCE = 4096
_PAIR = DataType.struct(
    {
        "left": DataType.uint64(),
        "right": DataType.uint64(),
        "distance": DataType.int32(),
        "mirrored": DataType.bool(),
        "similarity": DataType.float64(),
    }
)


def similar_pairs(rows: daft.DataFrame, max_distance: int, min_similarity: float) -> pa.Table:
    """Find pairs of similar offers.

    Args:
        rows: Offers with `row`, `content`, `title_key`, `image_hash` and `mirrored_hash`.
        max_distance: Largest number of bits in which the image hashes differ, with or without mirroring one of them.
        min_similarity: Smallest share of letter triples that the titles have in common.

    Returns:
        A row per pair, sorted: `left` and `right`, the lower row number first; `distance`; `mirrored`, whether the
        distance is to a mirrored image; and `similarity`.
    """
    keys = _block_keys(max_distance + 1)
    columns = ("row", "content", "title_key", "image_hash", "mirrored_hash")
    members = rows.select(*columns).with_column("block", keys(col("image_hash"), col("mirrored_hash")))
    members = members.explode("block").where(col("block").not_null())
    buckets = members.groupby("block").agg(*[col(name).list_agg().alias(name) for name in columns])
    buckets = buckets.with_column("size", col("row").list_count()).where("size > 1")
    compare = _comparer(max_distance, min_similarity)
    pairs = buckets.select(compare(*[col(name) for name in columns]).alias("pair")).explode("pair")
    pairs = pairs.where(col("pair").not_null())
    found = pairs.select(*[col("pair")[name].alias(name) for name in _PAIR.fields]).distinct()
    return found.sort(["left", "right"]).to_arrow()


def title_triples(key: str) -> frozenset[str]:
    """Return the letter triples of a title, with a space at each end."""
    padded = f" {key} "
    return frozenset(padded[place : place + 3] for place in range(len(padded) - 2))


def _numbers(key: str) -> frozenset[str]:
    """Return the sizes, models and codes of a title: its words with a digit."""
    return frozenset(word for word in key.split() if any(sign.isdigit() for sign in word))


def title_similarity(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the Jaccard similarity of two titles' triples."""
    return len(left & right) / max(len(left | right), 1)


def _block_keys(num_blocks: int) -> Any:
    """Return the function that computes the buckets of an offer, from its image hash and the mirrored one."""
    edges = [64 * place // num_blocks for place in range(num_blocks + 1)]

    def of(image_hash: bytes | None) -> list[str]:
        if image_hash is None:
            return []
        number = int.from_bytes(image_hash)
        return [
            f"{low}:{number >> low & (1 << high - low) - 1:x}" for low, high in zip(edges, edges[1:], strict=False)
        ]

    @daft.func.batch(return_dtype=DataType.list(DataType.string()), batch_size=_ROWS_AT_ONCE)
    def keys(upright: Series, mirrored: Series) -> list[list[str]]:
        pairs = zip(upright.to_pylist(), mirrored.to_pylist(), strict=True)
        return [sorted({*of(one), *of(other)}) for one, other in pairs]

    return keys


def _comparer(max_distance: int, min_similarity: float) -> Any:
    @daft.func.batch(return_dtype=DataType.list(_PAIR), batch_size=256)
    def compare(
        rows: Series, contents: Series, titles: Series, upright: Series, mirrored: Series
    ) -> list[list[dict[str, Any]]]:
        buckets = zip(*(of.to_pylist() for of in (rows, contents, titles, upright, mirrored)), strict=True)
        return [_compare(*bucket, max_distance=max_distance, min_similarity=min_similarity) for bucket in buckets]

    return compare


def _compare(
    rows: list[int],
    contents: list[str],
    titles: list[str],
    upright: list[bytes],
    mirrored: list[bytes],
    *,
    max_distance: int,
    min_similarity: float,
) -> list[dict[str, Any]]:
    """Compare the offers of a bucket."""
    order = sorted(range(len(rows)), key=lambda place: (titles[place], contents[place], rows[place]))
    hashes = np.array([[int.from_bytes(of[place]) for place in order] for of in (upright, mirrored)], dtype=np.uint64)
    triples = [title_triples(titles[place]) for place in order]
    numbers = [_numbers(titles[place]) for place in order]
    reach = len(order) if len(order) <= _LARGEST_BUCKET else _NEIGHBORS
    found = []
    for first in range(len(order) - 1):
        others = slice(first + 1, first + 1 + reach)
        upright_others, mirrored_others = hashes[:, others]
        upright_bits = np.bitwise_count(upright_others ^ hashes[0, first])
        mirrored_bits = np.minimum(  # either image is mirrored: the two hashes round differently
            np.bitwise_count(mirrored_others ^ hashes[0, first]), np.bitwise_count(upright_others ^ hashes[1, first])
        )
        for offset in np.flatnonzero(np.minimum(upright_bits, mirrored_bits) <= max_distance).tolist():
            second = first + 1 + offset
            if numbers[first] != numbers[second]:
                continue
            similarity = title_similarity(triples[first], triples[second])
            if similarity >= min_similarity:
                as_it_is, mirrored_distance = int(upright_bits[offset]), int(mirrored_bits[offset])
                left, right = sorted((rows[order[first]], rows[order[second]]))
                found.append(
                    {
                        "left": left,
                        "right": right,
                        "distance": min(as_it_is, mirrored_distance),
                        "mirrored": mirrored_distance < as_it_is,
                        "similarity": similarity,
                    }
                )
    return found
