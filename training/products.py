"""Offers in: any source of products becomes one `datasets` table with four canonical columns.

A source is the drawn catalogue, table files, a folder of pictures with a table, or a `datasets` name; the user's own
column names are mapped to:

- `title`: string or null;
- `image`: `datasets.Image(decode=False)`, that is `{"bytes": ..., "path": ...}`, not decoded here;
- `catalog_id`: int64, the product that the offer is of, `-1` for an offer that is alone;
- `row_id`: string that names the row in reports.

All other columns are kept, since labels live there. Nothing is cleaned here and no picture is opened.
"""

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.product_ids import NO_CATALOG, catalog_numbers, content_ids

__all__ = ["ProductColumns", "Products", "load_products"]

logger = logging.getLogger(__name__)

Products: TypeAlias = datasets.Dataset | datasets.IterableDataset

_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}
_CANONICAL = ("title", "image", "catalog_id", "row_id")
_FEATURES = {
    "title": datasets.Value("string"),
    "image": datasets.Image(decode=False),
    "catalog_id": datasets.Value("int64"),
    "row_id": datasets.Value("string"),
}


@dataclass(frozen=True)
class ProductColumns:
    """Where the canonical columns are found in the user's tables.

    Args:
        title: Column with the title.
        image: Column with the picture: a `datasets.Image`, its bytes, or a path (relative to the table's folder).
            In a table that lacks it, `file_name` is taken, as in the image folders of `datasets`.
        catalog_id: Columns with the id of the product, tried in this order; per row the first that is not null wins.
            A non-negative integer is kept, any other integer or text is hashed; null, NaN, -1 and blank text mean
            "alone". The ids of all sources live in one space: the same id in two sources is the same product.
        row_id: Column with the id of the row. Without it a row is called `<source>:<index>`, and in a stream, where
            no index outlives shuffling, `<source>:<hash of title and picture>`.
    """

    title: str = "title"
    image: str = "image"
    catalog_id: tuple[str, ...] = ("catalog_id",)
    row_id: str | None = None

    def __post_init__(self) -> None:
        """Accepts a single column name for `catalog_id`."""
        names = (self.catalog_id,) if isinstance(self.catalog_id, str) else tuple(self.catalog_id)
        object.__setattr__(self, "catalog_id", names)


def load_products(
    sources: Sequence[str],
    columns: ProductColumns | None = None,
    *,
    split: str = "train",
    streaming: bool = False,
    exclude_rows: Sequence[str] = (),
    max_rows: int | None = None,
    toy_offers: int = 4000,
    toy_seed: int = 0,
) -> Products:
    """Loads products from one or several sources, one after the other.

    A user's column that bears a canonical name but is not the one mapped to it is kept as `<name>_original`.

    Args:
        sources: Each is one of
            `"toy"`, the drawn catalogue;
            a parquet, csv, jsonl or arrow file or a glob of such files, taken whole;
            a folder with `metadata.csv`, `metadata.jsonl` or `metadata.parquet` beside its pictures, taken whole;
            a folder with `<split>.parquet` (or csv, jsonl), or any other that `datasets.load_dataset` can open;
            a dataset of the Hub, `"owner/name"` or `"owner/name:config"`.
        columns: The user's column names.
        split: Split of the drawn catalogue, of a folder or of a Hub dataset.
        streaming: Gives a `datasets.IterableDataset` that reads its rows as they are asked for.
        exclude_rows: Rules `"column=value"`; rows whose column, where a source has it, equals the value are left out.
            Values are compared as text (`"true"` and `"false"` for booleans).
        max_rows: Keeps the first rows of the whole only.
        toy_offers: Number of offers of the drawn catalogue, all splits together.
        toy_seed: Seed of the drawn catalogue.

    Returns:
        Map-style or streamed products.

    Raises:
        FileNotFoundError: If a file, folder or glob names nothing.
        ValueError: If there are no sources, a source cannot be opened, a mapped column is missing, a rule is
            malformed, the sources' columns have different types, or no row is left.
    """
    columns = columns if columns is not None else ProductColumns()
    if isinstance(sources, str) or not sources:
        raise ValueError(
            f"sources must be a non-empty list, received {sources!r}. Name at least one source, such as 'toy'."
        )
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, received {max_rows}. Leave it out to keep all rows.")
    rules = [_parse_rule(rule) for rule in exclude_rows]

    parts: list[Products] = []
    seen_columns: dict[str, list[str]] = {}
    for source in sources:
        num_rows = 0
        for part, folder in _open_source(source, split, streaming, toy_offers, toy_seed):
            if part.column_names is None:  # a streamed csv or jsonl: concatenation is what reads the first rows for it
                part = datasets.concatenate_datasets([part])
            layout = _Layout(source, tuple(part.column_names), part.features, columns, folder, num_rows)
            seen_columns[source] = sorted({*seen_columns.get(source, ()), *layout.names})
            if isinstance(part, datasets.Dataset):
                num_rows += len(part)
                parts.append(_map_style(part, layout, rules))
            else:
                parts.append(_streamed(part, layout, rules))
        logger.info("%s: %s rows", source, "streamed" if streaming else num_rows)
    _check_seen_somewhere(columns, rules, seen_columns)

    try:
        products = datasets.concatenate_datasets(parts)
    except ValueError as error:
        raise ValueError(
            f"sources {list(sources)} cannot be joined, since a column has different types in them. "
            f"Rename or convert that column in one of them. {error}"
        ) from error
    if isinstance(products, datasets.Dataset):
        if len(products) == 0:
            raise ValueError(
                f"sources {list(sources)} hold no rows after exclude_rows={list(exclude_rows)}. "
                "Check the sources, the split and the rules."
            )
        return products if max_rows is None else products.take(min(max_rows, len(products)))
    return products if max_rows is None else products.take(max_rows)


def _open_source(
    source: str, split: str, streaming: bool, toy_offers: int, toy_seed: int
) -> list[tuple[Products, Path | None]]:
    """Opens one source: its parts, each with the folder that relative picture paths start from."""
    if source == "toy":
        from training.toy_catalog import toy_catalog

        catalog = toy_catalog(toy_offers, seed=toy_seed)
        if split not in catalog:
            raise ValueError(f"split={split!r} is not in the drawn catalogue. Use one of {sorted(catalog)}.")
        return [(catalog[split].to_iterable_dataset() if streaming else catalog[split], None)]

    path = Path(source).expanduser()
    if path.is_dir():
        table = _table_in_folder(path, split)
        if table is None:
            return [(_load_dataset(source, str(path), split=split, streaming=streaming), path)]
        return _open_files(source, [table], streaming)
    if any(character in source for character in "*?["):
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True)) if Path(file).is_file()]
        if not files:
            raise FileNotFoundError(f"source {source!r} matches no file. Check the pattern and the working directory.")
        return _open_files(source, files, streaming)
    if path.is_file():
        return _open_files(source, [path], streaming)
    if path.suffix in _BUILDERS or path.is_absolute() or source.startswith((".", "~")):
        raise FileNotFoundError(
            f"source {source!r} does not exist (working directory: {os.getcwd()}). Check the path, or name 'toy', a "
            "glob, or a dataset of the Hub as 'owner/name'."
        )
    name, _, config = source.partition(":")
    return [(_load_dataset(source, name, config or None, split=split, streaming=streaming), None)]


def _table_in_folder(folder: Path, split: str) -> Path | None:
    """The table that describes a folder, if there is one file that is clearly it."""
    for stem in ("metadata", f"{split}/metadata", split):
        for suffix in (".parquet", ".jsonl", ".csv"):
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    return None


def _open_files(source: str, files: Sequence[Path], streaming: bool) -> list[tuple[Products, Path | None]]:
    """Opens table files, those of one kind and folder together, since picture paths are relative to the folder."""
    groups: dict[tuple[str, Path], list[str]] = {}
    for file in files:
        if file.suffix not in _BUILDERS:
            raise ValueError(
                f"source {source!r}: {file.name!r} is not a table that can be read. Use one of {sorted(_BUILDERS)}."
            )
        groups.setdefault((_BUILDERS[file.suffix], file.parent), []).append(str(file))
    return [
        (_load_dataset(source, builder, data_files=group, split="train", streaming=streaming), folder)
        for (builder, folder), group in groups.items()
    ]


def _load_dataset(source: str, *args: Any, **kwargs: Any) -> Products:
    try:
        return datasets.load_dataset(*args, **kwargs)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(
            f"source {source!r} could not be opened (split={kwargs['split']!r}). Name 'toy', a table file, a glob, a "
            f"folder, or a dataset of the Hub as 'owner/name' or 'owner/name:config'. {type(error).__name__}: {error}"
        ) from error


class _Layout:
    """How the columns of one part of a source become canonical columns.

    Raises:
        ValueError: If the part lacks a title or a picture.
    """

    def __init__(
        self,
        source: str,
        names: tuple[str, ...],
        features: datasets.Features,
        columns: ProductColumns,
        folder: Path | None,
        first_index: int,
    ) -> None:
        self.source, self.names, self.columns, self.folder, self.first_index = (
            source,
            names,
            columns,
            folder,
            first_index,
        )
        self.title = self._require("title", columns.title)
        has_file_names = columns.image not in names and "file_name" in names
        self.image = "file_name" if has_file_names else self._require("image", columns.image)
        self.image_is_path = features[self.image] in (datasets.Value("string"), datasets.Value("large_string"))
        self.catalog_ids = [name for name in columns.catalog_id if name in names]
        self.row_id = columns.row_id if columns.row_id in names else None
        replaced = {self.title, self.image, *(name for name in (*self.catalog_ids, self.row_id) if name in _CANONICAL)}
        self.kept = {
            name: f"{name}_original" if name in _CANONICAL else name for name in names if name not in replaced
        }
        self.features = datasets.Features({self.kept[name]: features[name] for name in self.kept} | _FEATURES)

    def _require(self, field: str, name: str) -> str:
        if name not in self.names:
            raise ValueError(
                f"{field}_column={name!r}: source {self.source!r} has no such column. It has: "
                f"{', '.join(sorted(self.names))}. Set {field}_column to one of these."
            )
        return name

    def cheap_columns(self) -> list[str]:
        """Columns that the canonical ones are computed from, the pictures' bytes left aside."""
        cheap = [self.title, *self.catalog_ids, *([self.row_id] if self.row_id else [])]
        return list(dict.fromkeys([*cheap, self.image] if self.image_is_path else cheap))

    def canonical(self, table: pa.Table, row_ids: pa.Array) -> dict[str, pa.Array]:
        """The canonical columns of some rows; `image` only where it has to be made from paths."""
        titles = _column(table, self.title)
        if pa.types.is_nested(titles.type) or pa.types.is_binary(titles.type):
            raise ValueError(
                f"title_column={self.title!r}: source {self.source!r} holds {titles.type} there. Name a text column."
            )
        made = {"title": titles.cast(pa.string()), "row_id": row_ids}
        if self.row_id is not None:
            made["row_id"] = pc.coalesce(_column(table, self.row_id).cast(pa.string()), row_ids)
        catalog_ids = np.full(len(table), NO_CATALOG, dtype=np.int64)
        for name in self.catalog_ids:
            found = catalog_numbers(_column(table, name), f"catalog_id_column={name!r}: source {self.source!r}")
            catalog_ids = np.where(catalog_ids == NO_CATALOG, found, catalog_ids)
        made["catalog_id"] = pa.array(catalog_ids)
        if self.image_is_path:
            paths = [self._resolve(path) for path in _column(table, self.image).to_pylist()]
            made["image"] = _FEATURES["image"].cast_storage(pa.array(paths, type=pa.string()))
        return made

    def _resolve(self, path: str | None) -> str | None:
        if self.folder is None or not path or "://" in path:
            return path or None
        return str(self.folder / path)


def _map_style(part: datasets.Dataset, layout: _Layout, rules: list[tuple[str, str]]) -> datasets.Dataset:
    """Makes the canonical columns of a map-style part without touching the pictures' bytes."""
    table = part.select_columns(layout.cheap_columns()).with_format("arrow")[:]
    index = range(layout.first_index, layout.first_index + len(part))
    made = layout.canonical(table, pa.array([f"{layout.source}:{i}" for i in index], type=pa.string()))
    keep = np.ones(len(part), dtype=bool)
    for name, value in rules:
        if name in layout.names:
            excluded = _equals(part.select_columns([name]).with_format("arrow")[:], name, value)
            logger.info("%s: %d rows excluded by %s=%s", layout.source, int((keep & excluded).sum()), name, value)
            keep &= ~excluded

    kept = part.select_columns([*layout.kept, *([] if layout.image_is_path else [layout.image])])
    renames = {old: new for old, new in layout.kept.items() if old != new}
    if not layout.image_is_path and layout.image != "image":
        renames[layout.image] = "image"
    kept = kept.rename_columns(renames)
    if "image" in kept.column_names:
        kept = kept.cast_column("image", _FEATURES["image"])
    features = datasets.Features({name: _FEATURES[name] for name in made})
    new = datasets.Dataset(
        datasets.table.InMemoryTable(pa.table(made, schema=features.arrow_schema)),
        info=datasets.DatasetInfo(features=features),
    )
    joined = datasets.concatenate_datasets([kept, new], axis=1) if kept.column_names else new
    return joined if keep.all() else joined.select(np.flatnonzero(keep))


def _streamed(part: datasets.IterableDataset, layout: _Layout, rules: list[tuple[str, str]]) -> Products:
    """Makes the canonical columns of a stream, table by table as they are read."""

    def canonical_table(table: pa.Table) -> pa.Table:
        for name, value in rules:
            if name in layout.names:
                table = table.filter(pa.array(~_equals(table, name, value)))
        made = {}
        if not layout.image_is_path:
            made["image"] = _FEATURES["image"].cast_storage(_column(table, layout.image))
        made |= layout.canonical(table, pa.nulls(len(table), pa.string()))
        if made["row_id"].null_count:
            made["row_id"] = pc.coalesce(made["row_id"], content_ids(layout.source, made["title"], made["image"]))
        kept = {new: table[old] for old, new in layout.kept.items()}
        return pa.table({name: (kept | made)[name] for name in layout.features})

    for name, value in rules:
        if name in layout.names:
            logger.info("%s: rows with %s=%s are excluded as the stream is read", layout.source, name, value)
    mapped = part.with_format("arrow").map(canonical_table, batched=True, batch_size=256, features=layout.features)
    return mapped.with_format(None)


def _equals(table: pa.Table, name: str, value: str) -> np.ndarray:
    """Which rows `(N,)` hold the value, compared as text."""
    column = _column(table, name)
    if pa.types.is_nested(column.type):
        raise ValueError(
            f"exclude_rows={name}={value!r}: column {name!r} holds {column.type}. Name a column of single values."
        )
    return pc.equal(column.cast(pa.string()), value).fill_null(False).to_numpy(zero_copy_only=False)


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # what older versions of pyarrow return for a table of no rows
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _parse_rule(rule: str) -> tuple[str, str]:
    name, equals, value = rule.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"exclude_rows holds {rule!r}, which is not a rule. Write it as 'column=value'.")
    return name.strip(), value.strip()


def _check_seen_somewhere(
    columns: ProductColumns, rules: list[tuple[str, str]], seen_columns: dict[str, list[str]]
) -> None:
    """A column that may be absent from a source must be in one of them, or its name is a slip."""
    optional = [("catalog_id_column", name) for name in columns.catalog_id if columns.catalog_id != ("catalog_id",)]
    optional += [("id_column", columns.row_id)] if columns.row_id is not None else []
    optional += [("exclude_rows", name) for name, _ in rules]
    for field, name in optional:
        if not any(name in names for names in seen_columns.values()):
            there = "; ".join(f"{source}: {', '.join(names)}" for source, names in seen_columns.items())
            raise ValueError(f"{field} names column {name!r}, which no source has. Columns there are: {there}.")
