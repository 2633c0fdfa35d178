"""Images of rows to pixel values: random views for training, whole images otherwise.

An image may also be inside an archive or a Hub repository, under the address that `datasets` gives it.
"""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch

from modeling_eclip.images_eclip import ProductImageError
from modeling_eclip.inference.jpeg import load_product_pixels
from modeling_eclip.inference.pixels import PixelReader
from training.data.augmentation import ProductAugmentation
from training.data.time_limit import time_limit

__all__ = ["ImageReader", "read_view"]


def read_view(
    source: Any, augmentation: ProductAugmentation, rng: np.random.Generator, resample: int = 3
) -> torch.Tensor:
    """Reads a random view of one image; the random draw does not depend on the image.

    Args:
        source: What `load_product_image` takes.
        augmentation: Draws and makes the view.
        rng: Source of all randomness.
        resample: A key of `modeling_eclip.inference.resizing.RESAMPLE_KERNELS`.

    Returns:
        RGB pixels, uint8, shape `(3, height, width)` with the augmentation's `image_size`.

    Raises:
        ProductImageError: If the image cannot be used.
    """
    view = augmentation.draw(rng)
    pixels, extent = load_product_pixels(source, min_size=augmentation.min_size(view))
    return augmentation.render(pixels, view, extent, resample)


class ImageReader(PixelReader):
    """Reads images of rows and makes batches of them; see `PixelReader`.

    Args:
        processor: An `EClipProcessor`, or anything with an `image_processor` that is called as one.
        augmentation: Makes a random view of every image; whole images are read if not given.
    """

    def __init__(self, processor: Any, augmentation: ProductAugmentation | None = None) -> None:
        """Compares the fast path with the image processor."""
        super().__init__(processor)
        self.augmentation = augmentation

    def read(self, source: Any, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Reads one image.

        Args:
            source: What the row's `image` column holds, or anything else that `load_product_image` takes.
            rng: Source of the augmentation's randomness.

        Returns:
            RGB pixels, uint8, shape `(3, height, width)`, as `PixelReader` returns them; with augmentation a view with
            the augmentation's `image_size`.

        Raises:
            ProductImageError: If the image cannot be used, or takes too long; see `time_limit`.
        """
        source = _fetched(source)
        with time_limit():
            if self.augmentation is None or rng is None:
                return super().read(source)
            return read_view(source, self.augmentation, rng, self._recipe.resample if self._recipe is not None else 3)

    def blank(self) -> torch.Tensor:
        """Returns a white image of the shape that `read` returns, for a row without an image."""
        if self.augmentation is None:
            return super().blank()
        return torch.full((3, *self.augmentation.image_size), 255, dtype=torch.uint8)


def _fetched(image: Any) -> Any:
    """Reads the bytes of an image inside an archive or a Hub repository; returns any other image as it is."""
    path = image.get("path") if isinstance(image, Mapping) else None
    if not isinstance(image, Mapping) or image.get("bytes") is not None or not path or "://" not in path:
        return image
    if path.startswith(("http://", "https://")):  # refused later, with advice: links are not downloaded here
        return path
    try:
        with datasets.utils.file_utils.xopen(path, "rb") as file:
            return file.read()
    except (OSError, KeyError) as error:
        raise ProductImageError(f"{path!r} cannot be read ({error}). Check that it is there.", "missing") from error
