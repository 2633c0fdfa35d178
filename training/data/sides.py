"""What training offers have, a title, an image or both, and whether they can learn from it."""

import logging
from typing import Any

import datasets
import numpy as np

from modeling_eclip import EClipConfig
from training.data.catalog_ids import NO_CATALOG
from training.data.sources import column_values, has_images, has_titles

__all__ = ["check_sides"]

logger = logging.getLogger(__name__)


def check_sides(products: Any, config: EClipConfig, mate_contrast_weight: float) -> str | None:
    """Tell what offers have, and refuse those of which none has anything to be compared with.

    Args:
        products: Products with the canonical columns. A stream, whose rows are far away, is not looked at.
        config: The model's, which says how catalog mates are treated.
        mate_contrast_weight: Weight of the contrast within a modality.

    Returns:
        `"text"` or `"image"` where no offer has one, else `None`.

    Raises:
        ValueError: no offer would carry a loss.
    """
    if not isinstance(products, datasets.Dataset):
        return None
    has = {"text": has_titles(products), "image": has_images(products)}
    both = has["text"] & has["image"]
    told = (
        f"{both.sum():,} with title and image, {(has['text'] & ~both).sum():,} with a title alone, "
        f"{(has['image'] & ~both).sum():,} with an image alone"
    )
    logger.info("training offers: %s", told)
    learns = both.copy()
    counts = {name: _catalog_counts(column_values(products, "catalog_id"), rows) for name, rows in has.items()}
    for name, rows in has.items():
        partner = "image" if name == "text" else "text"
        if mate_contrast_weight:
            learns |= rows & (counts[name] > 1)
        if config.catalog_mates == "positive" and config.catalog_weight:
            learns |= rows & (counts[partner] > 0)
    if not learns.any():
        raise ValueError(
            f"training offers: {told}. None has anything to learn from: titles without images learn from titles of "
            "their catalog alone, images without titles from its images. Give a `mate_contrast_weight` above 0 and a "
            "column of ids that offers share, or data with titles and images."
        )
    idle = (has["text"] | has["image"]) & ~learns
    if idle.any():
        logger.warning(
            "%s training offers lack a side and have no catalog mate to learn from%s: they are others' negatives only",
            f"{idle.sum():,}",
            ""
            if mate_contrast_weight
            else " (`mate_contrast_weight` is 0: titles are not compared with titles, nor images with images)",
        )
    return next((name for name, rows in has.items() if not rows.any()), None)


def _catalog_counts(catalog_ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return how many of some rows are of each row's catalog, shape `(N,)`; 0 for a row without a catalog."""
    _, places = np.unique(catalog_ids, return_inverse=True)
    counts = np.bincount(places, weights=rows, minlength=places.max() + 1)[places]
    return np.where(catalog_ids == NO_CATALOG, 0, counts)
