"""Catalog ids: the numbers by which offers of one product are known, made of a user's numbers or texts."""

import hashlib

import numpy as np
import pyarrow as pa

from training.data.ids import NoIdError, id_texts

__all__ = ["NO_CATALOG", "catalog_numbers", "own_ids", "stable_id"]

NO_CATALOG = -1
"""Catalog id of an offer that is alone."""


def stable_id(text: str) -> int:
    """Hashes text to a non-negative 63-bit id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def catalog_numbers(column: pa.Array, place: str) -> np.ndarray:
    """Turns a user's ids into catalog ids.

    Args:
        column: Ids `(N,)`, as `training.data.ids` takes them.
        place: Name of the column and its source, for the error.

    Returns:
        Catalog ids `(N,)`, int64: non-negative integers are kept, also where they are written as text; null, NaN, -1
        and blank text become `NO_CATALOG`; every other value is hashed.

    Raises:
        NoIdError: If a value is no id.
    """
    if pa.types.is_signed_integer(column.type):
        numbers = column.cast(pa.int64()).fill_null(NO_CATALOG).to_numpy(zero_copy_only=False)
        if numbers.size == 0 or numbers.min() >= NO_CATALOG:
            return numbers
    distinct = column.dictionary_encode() if not pa.types.is_nested(column.type) else None
    if distinct is None or pa.types.is_null(column.type):
        return np.array([_catalog_number(text) for text in id_texts(column, place).to_pylist()], dtype=np.int64)
    try:
        numbers = [_catalog_number(text) for text in id_texts(distinct.dictionary, place).to_pylist()]
    except NoIdError as error:
        error.row = distinct.indices.to_pylist().index(error.row)
        raise
    indices = distinct.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
    return np.array([*numbers, NO_CATALOG], dtype=np.int64)[indices]


def own_ids(catalog_ids: np.ndarray, number: int) -> np.ndarray:
    """Returns ids that no other source has: another product may have the same there."""
    ids, places = np.unique(catalog_ids, return_inverse=True)
    own = [NO_CATALOG if one == NO_CATALOG else stable_id(f"source {number}: {one}") for one in ids.tolist()]
    return np.array(own, dtype=np.int64)[places]


def _catalog_number(text: str | None) -> int:
    """Returns one catalog id: non-negative integers are kept; other texts are hashed."""
    text = (text or "").strip()
    if text in ("", str(NO_CATALOG)):
        return NO_CATALOG
    if text.isascii() and text.isdecimal() and len(text) < 20 and str(int(text)) == text and int(text) < 2**63:
        return int(text)
    return stable_id(text)
