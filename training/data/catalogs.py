"""How many catalogs products have, and how large they are; data where one holds most products is refused.

Offers of one catalog are positives of each other. Where all are, the least loss is that of vectors that are all the
same: a run would end well and have learned nothing. So it is with a shop's number in a column named `catalog_id`.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.data.catalog_ids import NO_CATALOG
from training.data.parquet_stream import StreamedProducts

__all__ = ["CatalogSizes", "check_catalogs", "tell_repeated_ids"]

logger = logging.getLogger(__name__)

_BLOCKS_LOOKED_AT = 64  # of a stream: all of it may be far away
# Fewer rows may be of one product by chance: all of them, and most of them.
_FEWEST_IN_ALL, _FEWEST_IN_MOST = 8, 32


@dataclass(frozen=True)
class CatalogSizes:
    """The catalogs of `N` rows.

    Args:
        num_rows: `N`.
        num_catalogs: Number of catalogs.
        largest: Rows of the largest one.
        num_alone: Rows without a catalog.
    """

    num_rows: int
    num_catalogs: int
    largest: int
    num_alone: int

    @classmethod
    def of(cls, ids: np.ndarray) -> "CatalogSizes":
        """Counts catalog ids, int64, shape `(N,)`, negative for a row that is alone."""
        sizes = np.unique(ids[ids != NO_CATALOG], return_counts=True)[1]
        return cls(len(ids), len(sizes), int(sizes.max(initial=0)), int((ids == NO_CATALOG).sum()))

    def __str__(self) -> str:
        """Returns them in words."""
        return (
            f"{self.num_rows:,} offers in {self.num_catalogs:,} catalogs, {self.largest:,} of them in the largest "
            f"({self.largest / max(self.num_rows, 1):.1%}); {self.num_alone:,} without a catalog"
        )

    def check(self, name: str, max_share: float) -> None:
        """Refuses rows most of which are of one catalog.

        Args:
            name: What the rows are called.
            max_share: Largest share of the rows that one catalog may hold.

        Raises:
            ValueError: If one holds more; a few rows are not judged.
        """
        fewest = _FEWEST_IN_ALL if self.largest == self.num_rows else _FEWEST_IN_MOST
        if self.num_rows >= fewest and self.largest > max_share * self.num_rows:
            raise ValueError(
                f"{name}: {self}. Offers of one catalog count as one product, and one catalog may hold "
                f"{max_share:.0%} of them (`max_catalog_share`). Name the column of the product's id as "
                "`catalog_id_column`, or `none` if there is none; if it is as it should be, raise `max_catalog_share`."
            )


def check_catalogs(products: Any, name: str, max_share: float) -> None:
    """Tells the number and size of catalogs, and refuses products most of which are of one.

    Args:
        products: Products with the canonical columns. Of a stream, blocks here and there are looked at.
        name: What they are called.
        max_share: Largest share of them that one catalog may hold.

    Raises:
        ValueError: If one holds more.
    """
    if isinstance(products, StreamedProducts):
        ids, part = _sampled_ids(products), " (of a part of the stream)"
    else:
        ids = products.select_columns("catalog_id").with_format("arrow")[:]["catalog_id"].to_numpy()
        part = ""
    sizes = CatalogSizes.of(ids)
    logger.info("%s: %s%s", name, sizes, part)
    sizes.check(name, max_share)


def tell_repeated_ids(products: Any, name: str) -> None:
    """Warns of ids that several products without a catalog have: in training they are one that comes twice.

    Args:
        products: Products with the canonical columns. A stream is not looked at.
        name: What they are called.
    """
    if isinstance(products, StreamedProducts):
        return
    table = products.select_columns(["catalog_id", "row_id"]).with_format("arrow")[:]
    counts = pc.value_counts(table.filter(pc.equal(table["catalog_id"], NO_CATALOG))["row_id"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        logger.warning(
            "%s: %s ids, such as %r, are those of several offers without a catalog, which count as one product; give "
            "an `id_column` whose values differ",
            name,
            f"{len(repeated):,}",
            repeated[0].as_py(),
        )


def _sampled_ids(products: StreamedProducts) -> np.ndarray:
    stream = products.select_columns("catalog_id")
    number = len(stream.block_lengths)
    blocks = np.unique(np.linspace(0, number - 1, min(number, _BLOCKS_LOOKED_AT)).astype(int))
    return pa.concat_tables([stream.read_block(block) for block in blocks.tolist()])["catalog_id"].to_numpy()
