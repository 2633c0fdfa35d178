"""Ids and words: how a value of any type is written as text, by one rule for all scripts and formats.

An id is text, kept as it is written. A whole number that a table holds as a float, since some of its column are
missing, is written as the number that it is. A word (of a label, of a rule) is such text, too; there `40` and `40.0`
are one.
"""

import datetime
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pyarrow as pa

__all__ = ["NoIdError", "id_text", "id_texts", "word_of"]

_EXACT = 2**53
_EXACT_IN_BITS = {16: 2**11, 32: 2**24}
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_PLACE = "{place} holds {value!r}, {why}. An id is text or a whole number: name another column, or store it as text."


class NoIdError(ValueError):
    """A value is no id.

    Attributes:
        row: Its place in the column, from 0.
    """

    row = 0


def id_text(value: Any, place: str, *, exact: int = _EXACT) -> str | None:
    """Writes an id as text.

    Args:
        value: Text, a whole number (also as a float or a decimal), bytes, a date, or nothing.
        place: Name of the column and its source, for the error.
        exact: From here on a float does not hold every whole number.

    Returns:
        The text: of bytes what they spell in UTF-8, or else their hexadecimal digits; `None` for null, NaN and blank
        text.

    Raises:
        ValueError: If the value is no id: a list, a truth value, a number with a fraction, or a float so large that
            it has lost digits.
    """
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, bool):
        raise ValueError(_PLACE.format(place=place, value=value, why="which is true or false"))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        if value != value:
            return None
        if value in (float("inf"), float("-inf")) or value != int(value):
            raise ValueError(_PLACE.format(place=place, value=value, why="which is no whole number"))
        if isinstance(value, float) and abs(value) >= exact:
            why = "a float that large, of which the last digits are lost"
            raise ValueError(_PLACE.format(place=place, value=value, why=why))
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, datetime.date | datetime.time):
        return str(value)
    raise ValueError(_PLACE.format(place=place, value=value, why=f"a {type(value).__name__}"))


def id_texts(column: pa.Array, place: str) -> pa.Array:
    """Writes ids as text; see [`id_text`].

    Args:
        column: Ids, shape `(N,)`.
        place: Name of the column and its source, for the error.

    Returns:
        The ids as strings, shape `(N,)`.

    Raises:
        NoIdError: If a value is no id.
    """
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    exact = _EXACT_IN_BITS.get(column.type.bit_width, _EXACT) if pa.types.is_floating(column.type) else _EXACT
    texts: list[str | None] = []
    for value in _values(column):
        try:
            texts.append(id_text(value, place, exact=exact))
        except ValueError as error:
            told = NoIdError(str(error))
            told.row = len(texts)
            raise told from None
    return pa.array(texts, pa.string())


def _values(column: pa.Array) -> Iterable[Any]:
    if pa.types.is_timestamp(column.type):  # nanoseconds are more than a `datetime` holds
        return column.cast(pa.string()).to_pylist()
    return column.to_pylist()


def word_of(value: Any, column: str) -> str | None:
    """Writes a value as a word: of a label, or what a rule compares.

    Args:
        value: Text, a number, a truth value, bytes, a date, a list of one of these, or nothing.
        column: Name of the column, for the error.

    Returns:
        The word: text without blanks around it; a whole number without a fraction, as text too; `None` for null, NaN,
        blank text and an empty list.

    Raises:
        ValueError: If the value is an object, or a list of several values.
    """
    if isinstance(value, list | tuple):
        words = list(dict.fromkeys(word for one in value if (word := word_of(one, column)) is not None))
        if len(words) > 1:
            raise ValueError(
                f"column {column!r} holds {words} for one product, where one value is wanted; give the column one "
                "value a row, or make a column of each kind of value."
            )
        return words[0] if words else None
    if value is None or value != value:
        return None
    if isinstance(value, dict):
        raise ValueError(f"column {column!r} holds {value!r}; give text, a number, or a list of one of them.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    whole = _WHOLE.fullmatch(text)
    return (whole[1] if whole else text) or None
