"""What the data of a run are, in a few digests that are cheap to compute: whether a resumed run has the same."""

import hashlib
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from training.data.columns import SOURCE_FEATURES
from training.data.fields import TEXTS, field_columns, row_images
from training.data.files import files_digest
from training.data.open_sources import source_files
from training.data.pairs import ProductPairs
from training.data.parquet_stream import StreamedProducts
from training.data.read_tables import Products
from training.data.sources import has_images

__all__ = ["data_fingerprint"]

_ROWS_AT_ONCE = 10_000
_IMAGES_LOOKED_AT = 20_000  # spread over all: a file's state takes a millisecond on a disk far away


def data_fingerprint(
    products: Products | ProductPairs, sources: Sequence[str], split: str, columns: Sequence[str] = ()
) -> dict[str, Any]:
    """Digests products without reading images.

    Args:
        products: Products with the canonical columns, map-style or streamed, or pairs of them.
        sources: What they were loaded from.
        split: Their split there.
        columns: Further columns that a run reads, such as those of labels.

    Returns:
        `rows`: their number; `content`: a digest of ids, titles, catalogs, the further columns and pairs, in order (of
        a stream, of the lengths of its blocks alone); `files`: a digest of names, sizes and times of change of the
        files that they are read from.
    """
    content = hashlib.sha256()
    table: Any = products
    if isinstance(products, ProductPairs):
        table = products.products
        for array in (products.left, products.right, products.labels):
            content.update(np.ascontiguousarray(array).astype(np.int64).tobytes())
    files = [file for source in sources for file in source_files(source, split)]
    if isinstance(table, StreamedProducts):
        content.update(repr(table.block_lengths.tolist()).encode())
    else:
        names = [
            name
            for name in ("row_id", "title", TEXTS, "catalog_id", *SOURCE_FEATURES, *columns)
            if name in table.column_names
        ]
        for rows in table.select_columns(names).with_format("arrow").iter(_ROWS_AT_ONCE):
            content.update(repr(rows.to_pydict()).encode())
        files += _image_files(table)
    return {"rows": len(products), "content": content.hexdigest()[:20], "files": files_digest(files)}


def _image_files(table: datasets.Dataset) -> list[str]:
    """Lists files that images are read from; none for images that are in the table."""
    if "image" not in table.column_names:
        return []
    rows = np.flatnonzero(has_images(table, in_files=True))
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _IMAGES_LOOKED_AT)).astype(np.int64))
    read = table.select_columns(["image", *field_columns(table.column_names, "image")]).select(rows[places])
    images = [image for row in read for image, _ in row_images(row)]
    return [image["path"] for image in images if image["bytes"] is None]
