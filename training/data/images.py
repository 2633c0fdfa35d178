"""Pictures of rows to pixel values: random views for training, whole pictures otherwise.

What a row holds may also lie inside an archive or a Hub repository, as `datasets` addresses it.
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

__all__ = ["PictureReader", "read_view"]


def read_view(
    source: Any, augmentation: ProductAugmentation, rng: np.random.Generator, resample: int = 3
) -> torch.Tensor:
    """Reads a random view of one picture; what is drawn does not depend on the picture.

    Args:
        source: What `load_product_image` takes.
        augmentation: Draws and makes the view.
        rng: Source of all randomness.
        resample: A key of `resizing_eclip.RESAMPLE_KERNELS`.

    Returns:
        RGB pixels, uint8, shape `(3, height, width)` with the augmentation's `image_size`.

    Raises:
        ProductImageError: If the picture cannot be used.
    """
    view = augmentation.draw(rng)
    pixels, extent = load_product_pixels(source, min_size=augmentation.min_size(view))
    return augmentation.render(pixels, view, extent, resample)


class PictureReader(PixelReader):
    """Reads pictures of rows and makes batches of them; see `PixelReader`.

    Args:
        processor: An `EClipProcessor`, or anything with an `image_processor` that is called as one.
        augmentation: Makes a random view of every picture; whole pictures are read if not given.
    """

    def __init__(self, processor: Any, augmentation: ProductAugmentation | None = None) -> None:
        """Finds out whether the short way fits the image processor."""
        super().__init__(processor)
        self.augmentation = augmentation

    def read(self, source: Any, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Reads one picture.

        Args:
            source: What the row's `image` column holds, or anything else that `load_product_image` takes.
            rng: Source of the augmentation's randomness.

        Returns:
            As from `PixelReader`; with augmentation a view of the augmentation's `image_size`.

        Raises:
            ProductImageError: If the picture cannot be used.
        """
        source = _within_reach(source)
        if self.augmentation is None or rng is None:
            return super().read(source)
        return read_view(source, self.augmentation, rng, self._recipe.resample if self._recipe is not None else 3)

    def blank(self) -> torch.Tensor:
        """Returns a white picture, as `read` would, to stand in for one that there is not."""
        if self.augmentation is None:
            return super().blank()
        return torch.full((3, *self.augmentation.image_size), 255, dtype=torch.uint8)


def _within_reach(image: Any) -> Any:
    """Reads the bytes of a picture that lies inside an archive or a Hub repository, as `datasets` addresses it."""
    path = image.get("path") if isinstance(image, Mapping) else None
    if not isinstance(image, Mapping) or image.get("bytes") is not None or not path or "://" not in path:
        return image
    if path.startswith(("http://", "https://")):  # a table of links, which is refused with the remedy
        return path
    try:
        with datasets.utils.file_utils.xopen(path, "rb") as file:
            return file.read()
    except (OSError, KeyError) as error:
        raise ProductImageError(f"{path!r} cannot be read ({error}). Check that it is there.", "missing") from error
