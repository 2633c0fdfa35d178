"""One entry of `train_data` and its like: text, or a mapping with columns of its own, written as JSON."""

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Source", "parse_sources", "plain_sources"]

_LISTS = ("files", "catalog_id_column", "exclude_rows")


@dataclass(frozen=True)
class Source:
    """Files whose rows have the same columns and one space of catalog ids.

    Args:
        files: Files, folders or datasets of the Hub, as `--train_data` takes them.
        title_column: Column of the title; `"none"` where there are no titles. As all columns, that of the argument of
            the same name if not given; it is then no error that the source lacks it.
        image_column: Column of the image, likewise.
        catalog_id_column: Columns of the catalog id, likewise.
        id_column: Column of the offer's id, likewise.
        exclude_rows: Rows to leave out, as `column=value`, likewise.
        weight: How often each of its rows is visited in an epoch: 0.5 visits another half in each, 2 all of them
            twice.
        pairs: Whether the files hold labelled pairs of titles, `left`, `right` and `label`: offers are the titles, and
            those of pairs with label 1 are of one catalog.
        is_plain: Whether the entries were text, whose catalog ids are as they stand.
    """

    files: tuple[str, ...]
    title_column: str | None = None
    image_column: str | None = None
    catalog_id_column: tuple[str, ...] | None = None
    id_column: str | None = None
    exclude_rows: tuple[str, ...] | None = None
    weight: float = 1.0
    pairs: bool = False
    is_plain: bool = False

    @property
    def name(self) -> str:
        """Its files, in words."""
        return ", ".join(self.files)


def parse_sources(field: str, entries: Sequence[str]) -> list[Source]:
    """Read the entries of an argument; those that are text are one source together.

    Args:
        field: Name of the argument, for errors.
        entries: Each is a file, folder or dataset, or a JSON object with the fields of [`Source`].

    Returns:
        The sources, in the order of their first entries.

    Raises:
        ValueError: an entry is no such object.
    """
    sources: list[Source] = []
    plain = tuple(entry for entry in entries if not entry.lstrip().startswith("{"))
    for entry in entries:
        if not entry.lstrip().startswith("{"):
            if entry is plain[0] and not any(source.is_plain for source in sources):
                sources.append(Source(plain, is_plain=True))
            continue
        sources.append(_parse(field, entry))
    return sources


def plain_sources(entries: Sequence[str]) -> list[str]:
    """Return the files, folders and datasets that entries name."""
    return [file for source in parse_sources("sources", entries) for file in source.files]


def _parse(field: str, entry: str) -> Source:
    place = f"`{field}` has {entry!r}"
    try:
        content = json.loads(entry)
    except ValueError as error:
        raise ValueError(f'{place}, which is no JSON object ({error}); write {{"files": ..., ...}}.') from error
    known = [one.name for one in fields(Source) if one.name != "is_plain"]
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{place}, with the unknown key {key!r}; did you mean {nearest!r}?")
        if value is None:
            continue
        if key == "weight":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{place}, whose weight is {value!r}; give a number above 0.")
            values[key] = float(value)
        elif key == "pairs":
            if not isinstance(value, bool):
                raise ValueError(f"{place}, whose pairs is {value!r}; give true or false.")
            values[key] = value
        elif key in _LISTS:
            values[key] = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
            if not isinstance(values[key], tuple) or not all(isinstance(word, str) for word in values[key]):
                raise ValueError(f"{place}, whose {key} is {value!r}; give text, or a list of it.")
        elif not isinstance(value, str):
            raise ValueError(f"{place}, whose {key} is {value!r}; give the name of a column.")
        else:
            values[key] = value
    if not values.get("files"):
        raise ValueError(f"{place}, which names no `files`; give a file, or a list of them.")
    if values.get("pairs") and (others := sorted(set(values) - {"files", "weight", "pairs"})):
        raise ValueError(f"{place}, which names {others[0]!r} beside pairs, whose columns are fixed; leave it out.")
    return Source(**values)
