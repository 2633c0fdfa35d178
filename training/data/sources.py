"""Several sources, each with its own columns, as one table; and what the rows of each have.

Rows of different sources are never catalog mates: an id is that of a product in one source. Those that the arguments
name as plain text are one source, and so are the files of one mapping.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.arguments.sources import parse_sources
from training.data.catalogs import CatalogSizes
from training.data.columns import ProductColumns, SourceTag
from training.data.read_tables import Products, load_products

__all__ = ["column_values", "has_images", "has_titles", "load_sources"]

logger = logging.getLogger(__name__)


def load_sources(
    field: str,
    entries: Sequence[str],
    columns: ProductColumns,
    *,
    exclude_rows: Sequence[str] = (),
    max_rows: int | None = None,
    max_catalog_share: float = 1.0,
    streaming: bool = False,
    keeps_row_ids: bool = False,
    **settings: Any,
) -> Products:
    """Load the products of all entries of an argument.

    Args:
        field: Name of the argument, for errors.
        entries: As [`training.arguments.sources.parse_sources`] takes them.
        columns: Columns of plain entries, and of mappings that name no others.
        exclude_rows: As for [`load_products`]; likewise.
        max_rows: As for [`load_products`].
        max_catalog_share: Largest share of the offers of a source, where there are several, that one catalog may hold.
        streaming: As for [`load_products`]; for plain entries only.
        keeps_row_ids: Whether ids of rows stay as they are written, for others to find them by; ids of two sources may
            then be the same.
        **settings: Further arguments of [`load_products`].

    Returns:
        The products. Of several sources they have a number each, `source`, and a `source_weight`. A column that a
        source lacks is null for its rows, and one that has several types in them is left out.

    Raises:
        ValueError: as for [`load_products`]; several sources, or one with columns of its own, are to be streamed.
    """
    sources = parse_sources(field, entries)
    if len(sources) == 1 and sources[0].is_plain:
        return load_products(
            entries, columns, exclude_rows=exclude_rows, max_rows=max_rows, streaming=streaming, **settings
        )
    if streaming:
        raise ValueError(
            f"`{field}` has sources with columns of their own, and `streaming` is true: rows of a stream come in the "
            "order of its files, which leaves no room for weights; leave one of the two out."
        )
    if not sources:
        raise ValueError(f"`{field}` is empty; name at least one source, such as 'toy'.")
    tables = []
    for number, source in enumerate(sources):
        own = replace(
            columns,
            title=source.title_column or columns.title,
            image=source.image_column or columns.image,
            catalog_id=columns.catalog_id if source.catalog_id_column is None else source.catalog_id_column,
            row_id=source.id_column or columns.row_id,
            tag=SourceTag(
                number,
                source.weight,
                has_own_catalogs=not source.is_plain,
                prefix="" if source.is_plain or keeps_row_ids else f"{source.name}: ",
            ),
        )
        named = {"title": source.title_column, "image": source.image_column}
        table = load_products(
            source.files,
            own,
            exclude_rows=exclude_rows if source.exclude_rows is None else source.exclude_rows,
            may_lack=() if source.is_plain and len(sources) == 1 else [name for name in named if named[name] is None],
            **settings,
        )
        assert isinstance(table, datasets.Dataset)  # none is streamed
        sizes = CatalogSizes.of(column_values(table, "catalog_id"))
        logger.info(
            "source %s, %s: %s with a title, %s with an image; %s; weight %g",
            number,
            source.name,
            f"{has_titles(table).sum():,}",
            f"{has_images(table).sum():,}",
            sizes,
            source.weight,
        )
        sizes.check(f"source {source.name}", max_catalog_share)
        tables.append(table)
    joined = datasets.concatenate_datasets(_with_common_types(tables))
    return joined if max_rows is None else joined.take(min(max_rows, len(joined)))


def _with_common_types(tables: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """Leave out columns that have different types in the tables."""
    types: dict[str, list[Any]] = {}
    for table in tables:
        for name, kind in table.features.items():
            if kind not in types.setdefault(name, []) and kind != datasets.Value("null"):
                types[name].append(kind)
    left_out = sorted(name for name, kinds in types.items() if len(kinds) > 1)
    if left_out:
        logger.info("left out, since sources have other types there: %s", ", ".join(left_out))
    return [table.remove_columns([name for name in left_out if name in table.column_names]) for table in tables]


def column_values(products: datasets.Dataset, name: str) -> np.ndarray:
    """Return a column of numbers as an array, shape `(N,)`."""
    return products.select_columns(name).with_format("arrow")[:][name].to_numpy()


def has_titles(products: datasets.Dataset) -> np.ndarray:
    """Tell which rows have a title, bool, shape `(N,)`."""
    titles = products.select_columns("title").with_format("arrow")[:]["title"]
    return pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(titles)), 0), False).to_numpy()


def has_images(products: datasets.Dataset) -> np.ndarray:
    """Tell which rows have an image, bool, shape `(N,)`, without reading it."""
    found = [_are_images(chunk) for chunk in products.data.column("image").chunks]
    there = np.concatenate([np.zeros(0, dtype=bool), *found])
    return there if products._indices is None else there[products._indices.column(0).to_numpy()]


def _are_images(images: pa.StructArray) -> np.ndarray:
    given = [pc.is_valid(images.field(name)) for name in ("bytes", "path")]
    return pc.and_(pc.is_valid(images), pc.or_(*given)).to_numpy(zero_copy_only=False)
