"""Ids that are the same in every process and on every machine.

The ids of all sources live in one space of non-negative 63-bit integers; `NO_CATALOG` stands for "alone".
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["NO_CATALOG", "catalog_numbers", "stable_id"]

NO_CATALOG = -1
"""Catalog id of an offer that is alone."""


def stable_id(text: str) -> int:
    """Hashes text to a non-negative 63-bit id."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def catalog_numbers(column: pa.Array, place: str) -> np.ndarray:
    """Turns a user's ids into catalog ids.

    Args:
        column: Ids `(N,)`: integers, floats with integral values (how tables hold integers with gaps), or text.
        place: Where the column is from, for the error.

    Returns:
        Catalog ids `(N,)`, int64: non-negative integers are kept, also where they are written as text; null, NaN, -1
        and blank text become `NO_CATALOG`; all else is hashed.

    Raises:
        ValueError: If the column holds anything else.
    """
    if pa.types.is_signed_integer(column.type):
        numbers = column.cast(pa.int64()).fill_null(NO_CATALOG).to_numpy(zero_copy_only=False)
        if numbers.size == 0 or numbers.min() >= NO_CATALOG:
            return numbers
    if pa.types.is_nested(column.type):
        raise ValueError(
            f"{place} holds {column.type} there. A catalog id is an integer or text: name another column."
        )
    distinct = column.dictionary_encode()
    numbers = np.array([_catalog_number(value, place) for value in distinct.dictionary.to_pylist()], dtype=np.int64)
    indices = distinct.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
    return np.append(numbers, NO_CATALOG)[indices]


def _catalog_number(value: Any, place: str) -> int:
    """One catalog id: non-negative integers, also as text or float, stay what they are; the rest is hashed."""
    if isinstance(value, float) and (value != value or value.is_integer()):
        value = None if value != value else int(value)
    if isinstance(value, str):
        value = value.strip() or None
        if value is not None and value.isdecimal() and str(int(value)) == value:
            value = int(value)
    if value is None or value == NO_CATALOG:
        return NO_CATALOG
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{place} holds {value!r} there. A catalog id is an integer or text: name another column.")
    return value if isinstance(value, int) and 0 <= value < 2**63 else stable_id(str(value))
