"""Titles and images as features that nobody has trained: TF-IDF, and histograms of colours and of gradients."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import Normalizer, StandardScaler

from modeling_eclip import ProductImageError, load_product_image
from training.data.collator import modalities_of
from training.data.fields import field_columns, first_image

__all__ = ["ClassicalFeatures", "image_histograms"]

_SIZE = 64  # pixels that an image is brought to, each way
_CELL = 8  # pixels of a cell of the gradients' histograms
_NUM_DIRECTIONS = 9
_COLOUR_BINS = (8, 4, 4)  # of hue, saturation and brightness
_NUM_COLOURS = int(np.prod(_COLOUR_BINS))
_NUM_FEATURES = _NUM_COLOURS + (_SIZE // _CELL) ** 2 * _NUM_DIRECTIONS


def image_histograms(image: Any) -> np.ndarray:
    """Describe an image by its colours, and by the directions of its edges (Dalal and Triggs 2005, without blocks).

    Args:
        image: A Pillow image in RGB.

    Returns:
        A joint histogram of hue, saturation and brightness, then one of unsigned directions per cell of 8 by 8 pixels,
        the image being brought to 64 by 64; each of the two of unit length after its square root is taken, float32,
        shape `(704,)`.
    """
    small = image.resize((_SIZE, _SIZE))
    bins = np.asarray(small.convert("HSV"), dtype=np.int64) * _COLOUR_BINS // 256
    colours = np.bincount(
        np.ravel_multi_index(tuple(np.moveaxis(bins, -1, 0)), _COLOUR_BINS).ravel(), None, _NUM_COLOURS
    )
    down, across = np.gradient(np.asarray(small.convert("L"), dtype=np.float64))
    direction = (np.arctan2(down, across) % np.pi) / np.pi * _NUM_DIRECTIONS
    row, column = np.indices(direction.shape) // _CELL
    cell = row * (_SIZE // _CELL) + column
    place = cell * _NUM_DIRECTIONS + np.minimum(direction.astype(np.int64), _NUM_DIRECTIONS - 1)
    edges = np.bincount(place.ravel(), np.hypot(down, across).ravel(), _NUM_FEATURES - _NUM_COLOURS)
    parts = [np.sqrt(part) for part in (colours, edges)]
    return np.concatenate([part / max(np.linalg.norm(part), 1e-12) for part in parts]).astype(np.float32)


class ClassicalFeatures:
    """Features of products, of the modalities that are looked at.

    Args:
        products: Training products, by whose titles and images words are weighed and features scaled.
        modality: `"text"`, `"image"` or `"both"`.
    """

    def __init__(self, products: datasets.Dataset, modality: str) -> None:
        """Learn the words and the scales."""
        self.modalities = modalities_of(modality)
        self._vectorizers: dict[str, TfidfVectorizer] = {}
        if "text" in self.modalities:
            titles = _titles(products)
            self._vectorizers["words"] = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(titles)
            self._vectorizers["characters"] = TfidfVectorizer(
                analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True
            ).fit(titles)
        if "image" in self.modalities:
            self._scaler = StandardScaler().fit(_histograms(products))

    def views(self, products: datasets.Dataset) -> dict[str, Any]:
        """Describe products by all that is told apart of them.

        Args:
            products: `N` products.

        Returns:
            Features of unit length, shape `(N, D)`: of titles `"words"`, single ones and pairs, and `"characters"`,
            two to four within words, both sparse; and `"image"`. Zero where a product lacks the modality.
        """
        titles = _titles(products) if self._vectorizers else []
        found: dict[str, Any] = {name: of.transform(titles) for name, of in self._vectorizers.items()}
        if "image" in self.modalities:
            histograms = _histograms(products)
            scaled = Normalizer().transform(self._scaler.transform(histograms))
            found["image"] = scaled * histograms.any(axis=1, keepdims=True)
        return found

    def __call__(self, products: datasets.Dataset) -> dict[str, Any]:
        """Describe products by modality.

        Args:
            products: `N` products.

        Returns:
            As `views`, with words and characters side by side as `"text"`.
        """
        views = self.views(products)
        titles = [views.pop(name) for name in self._vectorizers]
        return ({"text": Normalizer().transform(hstack(titles).tocsr())} if titles else {}) | views


def _titles(products: datasets.Dataset) -> list[str]:
    return [title or "" for title in products["title"]]


def _histograms(products: datasets.Dataset) -> np.ndarray:
    """Return the histograms of each product, zero for one without an image; kept on disk."""
    columns = ["image", *field_columns(products.column_names, "image")]
    described = products.select_columns(columns).map(_describe, remove_columns=columns, desc="histograms")
    return np.asarray(described.with_format("numpy")["histogram"], dtype=np.float32)


def _describe(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        return {"histogram": image_histograms(load_product_image(first_image(row)))}
    except ProductImageError:
        return {"histogram": np.zeros(_NUM_FEATURES, dtype=np.float32)}
