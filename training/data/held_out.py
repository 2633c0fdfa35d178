"""A share of the training products is held out for validation, whole catalogs at a time."""

import datasets
import numpy as np

from training.data.catalog_ids import NO_CATALOG, stable_id

__all__ = ["hold_out"]


def hold_out(products: datasets.Dataset, share: float) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split products in two; a product's part depends on its catalog, or its id where it has none, and nothing else.

    Args:
        products: Products with the canonical columns.
        share: Share of the catalogs that is held out, 0 to 1.

    Returns:
        The products that stay, and those that are held out.

    Raises:
        ValueError: one of the two would be empty.
    """
    keys = products.select_columns(["catalog_id", "row_id"]).to_dict()
    is_held_out = np.array([
        stable_id(f"held out: {row_id if catalog_id == NO_CATALOG else catalog_id}") < share * 2**63
        for catalog_id, row_id in zip(keys["catalog_id"], keys["row_id"], strict=True)
    ])  # fmt: skip
    if is_held_out.all() or not is_held_out.any():
        raise ValueError(
            f"`validation_share` is {share}, of which {is_held_out.sum()} of {len(products)} products are held out; "
            "give another share, or `validation_data`."
        )
    return products.select(np.flatnonzero(~is_held_out)), products.select(np.flatnonzero(is_held_out))
