"""One entry of `train_data` and its like: text, or a mapping with columns of its own, written as JSON."""

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["JOINED", "Source", "parse_fields", "parse_sources", "plain_sources"]

JOINED = "joined"
"""Among text fields, all of them as one text."""
_FIELDS = ("text_columns", "image_columns")
_MOST_VISITS = 1000  # of a row in an epoch, whose order is held in memory
_LISTS = ("files", "catalog_id_column", "exclude_rows")


@dataclass(frozen=True)
class Source:
    """Files whose rows have the same columns and one space of catalog ids.

    Args:
        files: Files, folders or datasets of the Hub, as `--train_data` takes them.
        title_column: Column of the title; `"none"` where there are no titles. As all columns, that of the argument of
            the same name if not given; it is then no error that the source lacks it.
        image_column: Column of the image, likewise.
        text_columns: Columns of texts and their weights, in place of `title_column`; see [`parse_fields`].
        image_columns: Columns of images and their weights, in place of `image_column`, likewise.
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
    text_columns: dict[str, float] | None = None
    image_columns: dict[str, float] | None = None
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


def parse_fields(field: str, given: Any) -> dict[str, float] | None:
    """Read the columns of texts or images, and how often each is drawn in training.

    Args:
        field: `"text_columns"` or `"image_columns"`, with its place for errors.
        given: A name; a list of names, of `name=weight` or of JSON objects; or a mapping of names to weights. A
            weight is 1 if not given. Among texts, `joined` stands for all of them as one text: drawn as often as all
            others together if it is not named.

    Returns:
        The weights, in the order of the columns; `None` if none is given.

    Raises:
        ValueError: a name is given twice, a weight is no number of at least 0 (of images, above 0), or none is more.
    """
    found: dict[str, float] = {}
    for entry in [given] if isinstance(given, str | dict) else given or []:
        content: Any = entry
        if isinstance(entry, str) and entry.lstrip().startswith("{"):
            try:
                content = json.loads(entry)
            except ValueError as error:
                raise ValueError(f"`{field}` has {entry!r}, which is no JSON object ({error}).") from error
        elif isinstance(entry, str):
            name, _, weight = entry.partition("=")
            content = {name: weight or 1.0}
        if not isinstance(content, dict):
            raise ValueError(f"`{field}` has {entry!r}; give names of columns, or a mapping of names to weights.")
        for name, weight in content.items():
            try:
                number = float("nan") if isinstance(weight, bool) else float(weight)
            except (TypeError, ValueError):
                number = math.nan
            lowest = "at least 0" if "text" in field else "above 0"
            if not 0 <= number < math.inf or (number == 0 and "text" not in field):
                raise ValueError(f"`{field}` gives {name!r} the weight {weight!r}; give a number {lowest}.")
            if name in found or not name:
                raise ValueError(f"`{field}` names the column {name!r} twice; name each once." if name else
                                 f"`{field}` has {entry!r}, which names no column.")  # fmt: skip
            found[name] = number
    if not found:
        return None
    columns = [name for name in found if name != JOINED]
    if "text" in field:
        if not columns:
            raise ValueError(f"`{field}` is {given!r}, which names no column; name those that are joined.")
        found.setdefault(JOINED, sum(found.values()) if len(columns) > 1 else 0.0)
    if not sum(found.values()):
        raise ValueError(f"`{field}` is {given!r}, of which nothing is ever drawn; give a weight above 0.")
    return found


def plain_sources(entries: Sequence[str]) -> list[str]:
    """Return the files, folders and datasets that entries name."""
    return [file for source in parse_sources("sources", entries) for file in source.files]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that comes twice, of which JSON would keep the last without a word."""
    keys = [key for key, _ in pairs]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"the key {repeated[0]!r} comes twice")
    return dict(pairs)


def _parse(field: str, entry: str) -> Source:
    place = f"`{field}` has {entry!r}"
    try:
        content = json.loads(entry, object_pairs_hook=_without_repeats)
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
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_VISITS:
                raise ValueError(f"{place}, whose weight is {value!r}; give a number above 0, up to {_MOST_VISITS:,}.")
            values[key] = float(value)
        elif key in _FIELDS:
            values[key] = parse_fields(f"{key}` of `{field}", value)
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
    for several, single in zip(_FIELDS, ("title_column", "image_column"), strict=True):
        if several in values and single in values:
            raise ValueError(f"{place}, with {several} and {single}; give one of them.")
    if not values.get("files"):
        raise ValueError(f"{place}, which names no `files`; give a file, or a list of them.")
    if values.get("pairs") and (others := sorted(set(values) - {"files", "weight", "pairs"})):
        raise ValueError(f"{place}, which names {others[0]!r} beside pairs, whose columns are fixed; leave it out.")
    return Source(**values)
