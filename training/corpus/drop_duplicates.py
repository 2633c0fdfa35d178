"""Drop repeated offers and placeholder images. Of equal offers one stays, and the others are noted with its id."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import daft
import numpy as np
import pyarrow as pa
import regex
from daft import col

from training.corpus.drops import Drops, in_order
from training.data.catalog_ids import NO_CATALOG

__all__ = ["drop_near_duplicates", "drop_placeholders", "drop_repeats"]

_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{M}]{2,}")
_SAME_COLOURS = 0.9  # cosine of colours; an image that is resized and compressed again has .94 and more
_RELATED = 0.5  # titles are related if at least this share of them has their most frequent word


def drop_repeats(rows: daft.DataFrame, keys: Sequence[str], reason: str, drops: Drops) -> None:
    """Keep the first of the offers that have equal values in some columns.

    Args:
        rows: Offers with `row`, `id`, `content` and the columns of `keys`, without dropped rows.
        keys: The columns.
        reason: Reason for which the others are dropped.
        drops: The dropped rows are added here.
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
    """Drop all offers of an image that has many unrelated titles.

    Titles of one product have words in common. An image's titles are unrelated if no word is in half of them. In a
    script without spaces, such as Chinese or Thai, pairs of letters count as words.

    Args:
        rows: Offers with `row`, `title_key`, `catalog_id` and `pixel_hash`.
        min_titles: Smallest number of different titles of a placeholder.
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
            continue  # one product, by its given catalog id
        words = Counter(word for title in distinct for word in _words(title))
        if not words or words.most_common(1)[0][1] < _RELATED * len(distinct):
            for row in group:
                drops.add(row["row"], "placeholder_image", note=f"one image, {len(distinct)} titles")


def drop_near_duplicates(
    rows: daft.DataFrame, pairs: pa.Table, max_distance: int, min_similarity: float, drops: Drops
) -> None:
    """Keep the first of offers that are nearly the same. Each dropped offer is similar to an offer that stays.

    Image hashes ignore colours. An image in other colours may show another product, and its offer stays.

    Args:
        rows: Offers with `row`, `id`, `content`, `catalog_id` and `colours`.
        pairs: Pairs among them, from `similar_pairs`.
        max_distance: Largest number of bits in which the image hashes differ, without mirroring.
        min_similarity: Smallest share of letter triples that the titles have in common.
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
    """Return the cosine of two images' colours, 0 to 1."""
    ones, others = (np.frombuffer(of, np.uint8).astype(np.float64) for of in (left, right))
    return float(ones @ others) / max(float(np.linalg.norm(ones) * np.linalg.norm(others)), 1.0)


def _words(title: str) -> set[str]:
    words = set(title.split())
    for run in _UNSPACED.findall(title):
        words |= {run[place : place + 2] for place in range(len(run) - 1)}
    return words


def _inherit(stays: dict[str, Any], goes: dict[str, Any], drops: Drops) -> None:
    """Give the catalog id of a dropped offer to the offer that stays, if that has none."""
    if stays["catalog_id"] == NO_CATALOG and goes["catalog_id"] != NO_CATALOG:
        drops.given.setdefault(stays["row"], goes["catalog_id"])


def _shared(rows: daft.DataFrame, keys: Sequence[str]) -> pa.Table:
    """Return the rows that share their values of some columns with another row."""
    columns = list(dict.fromkeys(["row", "id", "content", "catalog_id", *keys]))
    counted = rows.groupby(*keys).agg(col("row").count().alias("copies")).where("copies > 1")
    return rows.select(*columns).join(counted.select(*keys), on=list(keys)).to_arrow()
