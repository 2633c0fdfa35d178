"""Decide for each offer: kept in which split and catalog, or dropped and why. A table of decisions for each part."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.corpus.drops import Drops, in_order
from training.corpus.read_offers import part_name, read_rows
from training.data.catalog_ids import NO_CATALOG
from training.data.files import whole_file

__all__ = ["SPLITS", "decide_part", "read_decisions", "split_of"]

SPLITS = ("train", "validation", "test")
"""Names of the splits."""

_READ = ("row", "id", "content", "reason", "catalog_id", "title", "title_original", "title_rules")


def split_of(key: str, validation_share: float, test_share: float) -> str:
    """Return the split of a catalog, which depends on nothing else in the data.

    Args:
        key: The catalog, or the offer where it has no catalog.
        validation_share: Share of the catalogs in the validation split.
        test_share: Share of the catalogs in the test split.

    Returns:
        `"train"`, `"validation"` or `"test"`.
    """
    place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"eclip-split").digest()) / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def decide_part(
    number: int,
    rows_folder: Path,
    folder: Path,
    drops: Drops,
    catalogs: Mapping[int, int],
    split_keys: Mapping[int, str],
    shares: tuple[float, float],
) -> None:
    """Write `folder/part-NUMBER.parquet`, the decisions on the offers of a part in the order of their ids.

    Args:
        number: The part.
        rows_folder: Folder of the parts, which `prepare_part` wrote.
        folder: Folder of the decisions.
        drops: Rows that are dropped after they were read.
        catalogs: By row number, the derived catalog.
        split_keys: By derived catalog, the key that its split is computed from.
        shares: Shares of the validation split and of the test split.
    """
    rows = sorted(read_rows(rows_folder, number).select(*_READ).to_pylist(), key=in_order)
    decided = []
    for row in rows:
        reason = row["reason"] or drops.reasons.get(row["row"])
        given = row["catalog_id"] if row["catalog_id"] != NO_CATALOG else drops.given.get(row["row"], NO_CATALOG)
        catalog = given if given != NO_CATALOG else catalogs.get(row["row"], NO_CATALOG)
        alone = row["content"] if row["id"] is None else row["id"]
        key = split_keys.get(catalog) or (f"catalog:{catalog}" if catalog != NO_CATALOG else f"offer:{alone}")
        kept_instead = drops.kept.get(row["row"])
        decided.append(
            {
                "row": row["row"],
                "reason": reason,
                "split": None if reason else split_of(key, *shares),
                "catalog_id": None if catalog == NO_CATALOG else catalog,
                "kept_instead": None if kept_instead is None else str(kept_instead),
                "note": drops.notes.get(row["row"]),
            }
        )
    schema = pa.schema(
        [("row", pa.uint64()), ("reason", pa.string()), ("split", pa.string()), ("catalog_id", pa.int64())]
        + [("kept_instead", pa.string()), ("note", pa.string())]
    )
    with whole_file(_file(folder, number)) as partial:
        pq.write_table(pa.Table.from_pylist(decided, schema), partial)


def read_decisions(folder: Path, number: int) -> pa.Table:
    """Return the decisions on a part's offers."""
    return pq.read_table(_file(folder, number))


def _file(folder: Path, number: int) -> Path:
    return folder / f"{part_name(number)}.parquet"
