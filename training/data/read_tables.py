"""Reads products from CSV, JSON Lines, parquet or arrow files, folders, the Hub, or the toy data.

Contract: `load_products` gives one table, or one stream, with four canonical columns:

- `title`: string or null;
- `image`: `datasets.Image(decode=False)`, that is `{"bytes": ..., "path": ...}`, not decoded;
- `catalog_id`: int64, the product that the offer is of, `-1` for an offer that is alone;
- `row_id`: string that names the row in reports.

All other columns are kept, since labels are in them. Titles are not cleaned here and no image is opened.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import datasets
import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher

from training.data.columns import CANONICAL_FEATURES, ColumnLayout, ProductColumns
from training.data.fields import field_columns
from training.data.files import secrets_left_out, without_secrets
from training.data.open_sources import open_source
from training.data.parquet_stream import ParquetBlocks, StreamedProducts, TableBlocks
from training.data.row_places import RowFiles, remember_files

__all__ = ["Products", "load_products", "read_titles"]

logger = logging.getLogger(__name__)

Products: TypeAlias = datasets.Dataset | StreamedProducts
"""Products with the canonical columns: a table, or a stream that is read in blocks."""


@secrets_left_out()
def load_products(
    sources: Sequence[str],
    columns: ProductColumns | None = None,
    *,
    split: str = "train",
    streaming: bool = False,
    exclude_rows: Sequence[str] = (),
    max_rows: int | None = None,
    encoding: str = "utf-8",
    toy_offers: int = 4000,
    toy_seed: int = 0,
    may_lack: Collection[str] = (),
) -> Products:
    """Loads products from one or several sources, one after the other.

    A user's column that has a canonical name but is not mapped to it is kept as `<name>_original`.

    Args:
        sources: Each is one of
            `"toy"`, the toy data;
            a csv, jsonl, parquet or arrow file or a glob of such files, read in full, also as an address that `fsspec`
            knows (`"s3://bucket/*.parquet"`, `"hf://datasets/owner/name/*.parquet"`);
            a folder with `metadata.csv`, `metadata.jsonl` or `metadata.parquet` beside its images, read in full;
            a folder with `<split>.parquet` (or csv, jsonl), or any other that `datasets.load_dataset` can open;
            a dataset of the Hub, `"owner/name"` or `"owner/name:config"`.
        columns: The user's column names.
        split: Split of the toy data, of a folder or of a Hub dataset.
        streaming: Returns products that are read in blocks when they are asked for. Only parquet is streamed: a table
            in another format is downloaded first, since its rows cannot be found one by one, and a dataset of the Hub
            in another format is refused.
        exclude_rows: Rules `"column=value"`; rows whose column, where a source has it, equals the value are left out.
            Values are compared as words: `"40"` and `"40.0"` are the same, and so are `"true"` and `"True"`.
        max_rows: Keeps only the first rows of all sources together.
        encoding: Encoding of CSV and JSON files.
        toy_offers: Number of offers of the toy data, all splits together.
        toy_seed: Seed of the toy data.
        may_lack: Of `"title"` and `"image"`, those whose column no source need have. A source that lacks a column
            that another has is told; what it lacks is null.

    Returns:
        The products: map-style, or streamed.

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

    tables: list[datasets.Dataset] = []
    blocks: list[ParquetBlocks | TableBlocks] = []
    seen_columns: dict[str, list[str]] = {}
    absent: list[tuple[str, list[tuple[str, str]]]] = []
    for source in sources:
        name, num_rows = without_secrets(source), 0  # in errors, reports and row ids
        for part in open_source(source, split, streaming, encoding, toy_offers, toy_seed):
            opened, folder = part.table, part.folder
            prefix = columns.tag.prefix if columns.tag is not None else ""
            files = RowFiles(name, part.files, part.kind, encoding, num_rows, prefix=prefix)
            if isinstance(opened, list):
                streamed = ParquetBlocks(files, columns, folder, rules)
                layout, num_part_rows = streamed.layout, streamed.num_source_rows
                blocks.append(streamed)
            else:
                layout, num_part_rows = ColumnLayout(name, opened.features, columns, folder, files), len(opened)
                table = _with_canonical_columns(opened, layout, rules, num_rows)
                if part.files:
                    remember_files(table, replace(files, id_column=layout.row_id))
                if streaming:
                    blocks.append(TableBlocks(table))
                else:
                    tables.append(table)
            absent.append((name, layout.absent))
            seen_columns[name] = sorted({*seen_columns.get(name, ()), *layout.names})
            num_rows += num_part_rows
        logger.info("%s: %s rows", name, num_rows)
    _check_seen_somewhere(columns, rules, seen_columns)
    _check_sides(columns, absent, seen_columns, may_lack)

    # A stream has the columns that all its parts have: others' lists would be lost.
    if len({tuple(field_columns(part.column_names)) for part in blocks}) > 1:
        raise ValueError(
            f"sources {list(sources)} hold lists of texts or images in some files and single ones in others, which a "
            "stream cannot join; make them alike, or do not stream."
        )
    products = StreamedProducts(blocks, max_rows) if streaming else _joined(tables, sources, max_rows)
    if len(products) == 0:
        raise ValueError(
            f"sources {list(sources)} hold no rows after exclude_rows={list(exclude_rows)}. "
            "Check the sources, the split and the rules."
        )
    return products


def read_titles(products: Products) -> Iterator[str | None]:
    """Reads the titles of a table or stream, one at a time, and nothing else of it."""
    return (row["title"] for row in products.select_columns("title"))


def _joined(tables: Sequence[datasets.Dataset], sources: Sequence[str], max_rows: int | None) -> datasets.Dataset:
    try:
        products = datasets.concatenate_datasets(tables)
    except ValueError as error:
        raise ValueError(
            f"sources {list(sources)} cannot be joined, since a column has different types in them. "
            f"Rename or convert that column in one of them. {error}"
        ) from error
    return products if max_rows is None else products.take(min(max_rows, len(products)))


def _with_canonical_columns(
    part: datasets.Dataset, layout: ColumnLayout, rules: list[tuple[str, str]], first_index: int
) -> datasets.Dataset:
    """Makes the canonical columns without copying the images' bytes."""
    made_features = layout.made | layout.class_names
    in_place = layout.images_in_place()
    names = [name for name in made_features if name not in in_place]
    read_from = list(dict.fromkeys(column for name in names for column in layout.read_from(name)))
    table = part.select_columns(read_from).with_format("arrow")[:]
    index = np.arange(first_index, first_index + len(part))
    features = datasets.Features({name: made_features[name] for name in names})
    made = pa.table({name: layout.make(name, table, index) for name in names}, schema=features.arrow_schema)

    keep = np.ones(len(part), dtype=bool)
    rule_columns = list(dict.fromkeys(name for name, _ in rules if name in layout.names))
    if rule_columns:
        excluded = layout.excluded_rows(part.select_columns(rule_columns).with_format("arrow")[:], rules)
        for (name, value), is_excluded in excluded.items():
            logger.info("%s: %d rows excluded by %s=%s", layout.source, int((keep & is_excluded).sum()), name, value)
            keep &= ~is_excluded

    as_is = {old: new for old, new in layout.kept.items() if new not in layout.class_names}
    image = in_place.pop("image", None)
    kept = part.select_columns([*as_is, *([] if image is None else [image])])
    renames = {old: new for old, new in as_is.items() if old != new}
    if image not in (None, "image"):
        renames[image] = "image"
    kept = kept.rename_columns(renames)
    if "image" in kept.column_names:
        kept = kept.cast_column("image", CANONICAL_FEATURES["image"])
    new = datasets.Dataset(datasets.table.InMemoryTable(made), info=datasets.DatasetInfo(features=features))
    parts = [
        *([kept] if kept.column_names else []),
        new,
        *([_image_lists(part, layout, in_place)] if in_place else []),
    ]
    joined = datasets.concatenate_datasets(parts, axis=1)
    return joined if keep.all() else joined.select(np.flatnonzero(keep))


def _image_lists(part: datasets.Dataset, layout: ColumnLayout, columns: dict[str, str]) -> datasets.Dataset:
    """Makes the columns of lists of images that are in the table itself, of the same bytes."""
    part = part if part._indices is None else part.flatten_indices()
    features = datasets.Features({name: layout.made[name] for name in columns})
    made = {
        name: pa.chunked_array(
            [layout.make_images(name, chunk, len(chunk)) for chunk in part.data.column(column).chunks],
            features.arrow_schema.field(name).type,
        )
        for name, column in columns.items()
    }
    table = pa.table(made, schema=features.arrow_schema)
    # Told, since `datasets` would find it out by reading all bytes.
    told = Hasher.hash([part._fingerprint, columns])
    return datasets.Dataset(
        datasets.table.InMemoryTable(table), datasets.DatasetInfo(features=features), fingerprint=told
    )


def _parse_rule(rule: str) -> tuple[str, str]:
    name, equals, value = rule.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"exclude_rows holds {rule!r}, which is not a rule. Write it as 'column=value'.")
    return name.strip(), value.strip()


def _check_seen_somewhere(
    columns: ProductColumns, rules: list[tuple[str, str]], seen_columns: dict[str, list[str]]
) -> None:
    """Raises an error for a column that no source has: its name is a typing error."""
    optional = [("catalog_id_column", name) for name in columns.catalog_id if columns.catalog_id != ("catalog_id",)]
    optional += [("id_column", columns.row_id)] if columns.row_id is not None else []
    optional += [("exclude_rows", name) for name, _ in rules]
    for field, name in optional:
        if not any(name in names for names in seen_columns.values()):
            there = "; ".join(f"{source}: {', '.join(names)}" for source, names in seen_columns.items())
            raise ValueError(f"{field} names column {name!r}, which no source has. Columns there are: {there}.")


def _check_sides(
    columns: ProductColumns,
    absent: list[tuple[str, list[tuple[str, str]]]],
    seen_columns: dict[str, list[str]],
    may_lack: Collection[str],
) -> None:
    """Raises an error for a column of titles or images that no part has, and tells which part lacks one."""
    named = [("title", name) for name in columns.fields("title")] + [
        ("image", name) for name in columns.fields("image")
    ]
    for field, name in named:
        lacking = list(dict.fromkeys(source for source, missing in absent if (field, name) in missing))
        if not lacking:
            continue
        if all((field, name) in missing for _, missing in absent) and field not in may_lack:
            single = isinstance(getattr(columns, field), str)
            raise ValueError(
                f"{columns.told(field, name)}: source {lacking[0]!r} has no such column. It has: "
                f"{', '.join(seen_columns[lacking[0]])}. Set {columns.argument(field)} to "
                f"{'one' if single else 'some'} of these, or to none where there is none."
            )
        logger.warning("%s: no column %r: the offers there have no %s", ", ".join(lacking), name, field)
