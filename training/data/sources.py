"""Several sources, each with its own columns, as one table; and what the rows of each have.

Rows of different sources are never catalog mates: an id is that of a product in one source. Those that the arguments
name as plain text are one source, and so are the files of one mapping.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.data.catalogs import CatalogSizes
from training.data.columns import ProductColumns, SourceTag
from training.data.fields import IMAGE_WEIGHTS, field_columns
from training.data.files import without_secrets
from training.data.open_sources import source_files
from training.data.pairs import titles_of_pairs
from training.data.read_tables import Products, load_products

__all__ = ["ProductSource", "column_values", "has_images", "has_titles", "load_sources"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProductSource:
    """Files whose rows have the same columns and one space of catalog ids.

    Args:
        files: Files, folders or datasets, as [`load_products`] takes them.
        columns: Their columns.
        exclude_rows: Rules for rows to leave out, as [`load_products`] takes them.
        weight: How often each row is visited in an epoch; see [`training.data.mixing`].
        is_plain: Whether catalog ids and row ids stay as they are beside other sources.
        may_lack: Of `"title"` and `"image"`, those whose column the files need not have.
        has_pairs: Whether the files are labelled pairs of titles, in place of products.
    """

    files: Sequence[str]
    columns: ProductColumns
    exclude_rows: Sequence[str] = ()
    weight: float = 1.0
    is_plain: bool = True
    may_lack: Sequence[str] = ()
    has_pairs: bool = False

    @property
    def name(self) -> str:
        """Its files, in words."""
        return ", ".join(map(without_secrets, self.files))


def load_sources(
    sources: Sequence[ProductSource],
    *,
    max_rows: int | None = None,
    max_catalog_share: float = 1.0,
    streaming: bool = False,
    keeps_row_ids: bool = False,
    **settings: Any,
) -> Products:
    """Load the products of all sources.

    Args:
        sources: The sources.
        max_rows: As for [`load_products`]; of sources with columns of their own, each has its share of the rows.
        max_catalog_share: Largest share of the offers of a source, where there are several, that one catalog may hold.
        streaming: As for [`load_products`]; for one plain source only.
        keeps_row_ids: Whether ids of rows stay as they are written, for others to find them by; ids of two sources may
            then be the same.
        **settings: Further arguments of [`load_products`].

    Returns:
        The products. Unless they are of one plain source, they have its `source:number` and `source:weight`. A
        column that a source lacks is null for its rows, and one that has several types in them is left out.

    Raises:
        ValueError: as for [`load_products`]; several sources, or one with columns of its own, are to be streamed.
    """
    if len(sources) == 1 and sources[0].is_plain:
        (only,) = sources
        rules: dict[str, Any] = {
            "exclude_rows": only.exclude_rows,
            "max_rows": max_rows,
            "streaming": streaming,
        }
        return load_products(only.files, only.columns, **rules, **settings)
    if streaming:
        raise ValueError(
            f"`streaming` is true, and the sources {[source.name for source in sources]} have columns of their own: "
            "rows of a stream come in the order of its files, which leaves no room for weights; leave out one of the "
            "two."
        )
    tables = []
    for number, source in enumerate(sources):
        prefix = "" if source.is_plain or keeps_row_ids else f"{source.name}: "
        tag = SourceTag(number, source.weight, has_own_catalogs=not source.is_plain, prefix=prefix)
        if source.has_pairs:
            encoding = settings.get("encoding", "utf-8")
            table: Products = titles_of_pairs(_files_of_pairs(source), tag, encoding=encoding)
        else:
            table = load_products(
                source.files,
                replace(source.columns, tag=tag),
                exclude_rows=source.exclude_rows,
                may_lack=source.may_lack,
                **settings,
            )
        assert isinstance(table, datasets.Dataset)  # none is streamed
        sizes = CatalogSizes.of(column_values(table, "catalog_id"))
        with_title, with_image = has_titles(table).sum(), has_images(table).sum()
        logger.info(
            "source %s, %s: %s with a title, %s with an image; %s; weight %g",
            number,
            source.name,
            f"{with_title:,}",
            f"{with_image:,}",
            sizes,
            source.weight,
        )
        if not with_title and not with_image:
            raise ValueError(
                f"source {source.name}: none of its {len(table):,} rows has a title or an image; name its "
                "`title_column` or its `image_column`, or leave it out."
            )
        sizes.check(f"source {source.name}", max_catalog_share)
        tables.append(table)
    tables = _with_common_types(tables)
    if max_rows is not None:
        # Of each source its share, so that a small trial of a mixture is a mixture.
        ends = np.cumsum([0, *map(len, tables)])
        shares = np.diff(np.round(ends * min(1.0, max_rows / max(ends[-1], 1))).astype(np.int64))
        tables = [table.take(share) for table, share in zip(tables, shares.tolist(), strict=True)]
    return datasets.concatenate_datasets(tables)


def _files_of_pairs(source: ProductSource) -> list[str]:
    files = {name: source_files(name, "train") for name in source.files}
    if unknown := [name for name, found in files.items() if not found]:
        raise FileNotFoundError(
            f"source {without_secrets(unknown[0])!r} is not a file; pairs are in tables with left, right and label."
        )
    return [file for found in files.values() for file in found]


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


def has_images(products: datasets.Dataset, *, in_files: bool = False) -> np.ndarray:
    """Tell which rows have an image, bool, shape `(N,)`, without reading it.

    Args:
        products: Products with the canonical columns.
        in_files: Whether only images count that are in files, and not in the table.
    """
    columns = [
        products.data.column(name) for name in field_columns(products.column_names, "image") if name != IMAGE_WEIGHTS
    ]
    there = np.zeros(products.data.num_rows, dtype=bool)
    for column in [products.data.column("image"), *columns]:
        start = 0
        for chunk in column.chunks:
            if pa.types.is_list(chunk.type):
                owners = pc.list_parent_indices(chunk).to_numpy()
                there[start + owners[_are_images(chunk.flatten(), in_files)]] = True
            else:
                there[start : start + len(chunk)] |= _are_images(chunk, in_files)
            start += len(chunk)
    return there if products._indices is None else there[products._indices.column(0).to_numpy()]


def _are_images(images: pa.StructArray, in_files: bool) -> np.ndarray:
    has_bytes = pc.is_valid(images.field("bytes"))
    has_path = pc.fill_null(pc.greater(pc.utf8_length(images.field("path")), 0), False)
    given = pc.and_(has_path, pc.invert(has_bytes)) if in_files else pc.or_(has_path, has_bytes)
    return pc.and_(pc.is_valid(images), given).to_numpy(zero_copy_only=False)
