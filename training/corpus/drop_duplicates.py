"""Offers that are there twice, and images that stand for no product: one offer stays, and which is written down."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import daft
import numpy as np
import pyarrow as pa
import regex
from daft import col

from training.corpus.drops import Drops, in_order
from training.data.columns import NO_CATALOG

__all__ = ["drop_near_duplicates", "drop_placeholders", "drop_repeats"]

_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{M}]{2,}")
_SAME_COLOURS = 0.9  # cosine of colours; pictures resized and compressed again have .94 and more
_RELATED = 0.5  # share of an image's titles that have its most frequent word, from where on they are of one product


def drop_repeats(rows: daft.DataFrame, keys: Sequence[str], reason: str, drops: Drops) -> None:
    """Keep the first of the offers that are equal in some columns.

    Args:
        rows: Offers with `row`, `id`, `content` and the columns of `keys`; without the rows that are dropped.
        keys: The columns.
        reason: Why the others are dropped.
        drops: They are added here.
    """
    groups = defaultdict(list)
    for row in _shared(rows, keys).to_pylist():
        groups[tuple(row[name] for name in keys)].append(row)
    for group in groups.values():
        first, *others = sorted(group, key=in_order)
        for row in others:
            drops.add(row["row"], reason, kept=(first["id"], first["row"]))
            _inherit(first, row, drops)


def drop_placeholders(rows: daft.DataFrame, min_titles: int, drops: Drops) -> None:
    """Drop all offers under an image that many unrelated titles have.

    Titles of one product have words in common. Where no word is in half of an image's titles, they are unrelated. In a
    script without spaces, as Chinese or Thai, pairs of letters are words, too.

    Args:
        rows: Offers with `row`, `title_key`, `catalog_id` and `pixel_hash`.
        min_titles: Different titles from which on an image is looked at.
        drops: The rows are added here.
    """
    titles = rows.select("pixel_hash", "title_key").distinct().groupby("pixel_hash").agg(
        col("title_key").count().alias("titles")
    )  # fmt: skip
    suspects = titles.where(f"titles >= {min_titles}").select("pixel_hash")
    groups = defaultdict(list)
    columns = ("row", "title_key", "catalog_id", "pixel_hash")
    for row in rows.select(*columns).join(suspects, on="pixel_hash").to_arrow().to_pylist():
        groups[row["pixel_hash"]].append(row)
    for group in groups.values():
        distinct = {row["title_key"] for row in group}
        catalogs = {row["catalog_id"] for row in group}
        if len(catalogs) == 1 and NO_CATALOG not in catalogs:
            continue  # of one product, as is given
        words = Counter(word for title in distinct for word in _words(title))
        if not words or words.most_common(1)[0][1] < _RELATED * len(distinct):
            for row in group:
                drops.add(row["row"], "placeholder_image", note=f"one image, {len(distinct)} titles")


def drop_near_duplicates(
    rows: daft.DataFrame, pairs: pa.Table, max_distance: int, min_similarity: float, drops: Drops
) -> None:
    """Keep the first of offers that are nearly the same; each that is dropped is like one that stays.

    Hashes of images look past colours. A picture in other colours is another seller's, and stays.

    Args:
        rows: Offers with `row`, `id`, `content`, `catalog_id` and `colours`.
        pairs: What `similar_pairs` found among them.
        max_distance: Bits in which images differ at most, as they are.
        min_similarity: Share of letter triples that titles have in common at least.
        drops: The rows are added here.
    """
    like: dict[int, list[int]] = defaultdict(list)
    for pair in pairs.to_pylist():
        if pair["distance"] <= max_distance and pair["similarity"] >= min_similarity and not pair["mirrored"]:
            like[pair["left"]].append(pair["right"])
            like[pair["right"]].append(pair["left"])
    if not like:
        return
    wanted = daft.from_pydict({"row": pa.array(like, pa.uint64())})
    columns = ("row", "id", "content", "catalog_id", "colours")
    found = rows.select(*columns).join(wanted, on="row").to_arrow().to_pylist()
    found.sort(key=in_order)
    places = {row["row"]: place for place, row in enumerate(found)}
    staying: set[int] = set()  # places
    for place, row in enumerate(found):
        others = (places[other] for other in like[row["row"]] if places[other] in staying)
        instead = min(
            (other for other in others if _cosine(row["colours"], found[other]["colours"]) >= _SAME_COLOURS),
            default=None,
        )
        if instead is None:
            staying.add(place)
        else:
            drops.add(row["row"], "near_duplicate", kept=(found[instead]["id"], found[instead]["row"]))
            _inherit(found[instead], row, drops)


def _cosine(left: bytes, right: bytes) -> float:
    """Return how alike the colours of two images are, 0 to 1."""
    ones, others = (np.frombuffer(of, np.uint8).astype(np.float64) for of in (left, right))
    return float(ones @ others) / max(float(np.linalg.norm(ones) * np.linalg.norm(others)), 1.0)


def _words(title: str) -> set[str]:
    words = set(title.split())
    for run in _UNSPACED.findall(title):
        words |= {run[place : place + 2] for place in range(len(run) - 1)}
    return words


def _inherit(stays: dict[str, Any], goes: dict[str, Any], drops: Drops) -> None:
    """Leave a given catalog with the offer that stays."""
    if stays["catalog_id"] == NO_CATALOG and goes["catalog_id"] != NO_CATALOG:
        drops.given.setdefault(stays["row"], goes["catalog_id"])


def _shared(rows: daft.DataFrame, keys: Sequence[str]) -> pa.Table:
    """Return the rows that are not alone with their values of some columns."""
    columns = list(dict.fromkeys(["row", "id", "content", "catalog_id", *keys]))
    counted = rows.groupby(*keys).agg(col("row").count().alias("copies")).where("copies > 1")
    return rows.select(*columns).join(counted.select(*keys), on=list(keys)).to_arrow()
