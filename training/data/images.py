"""Images of rows to pixel values: random views for training, whole images otherwise.

An image is bytes, a file of this machine, or inside a zip archive of this machine, under the address that `datasets`
gives it (`zip://0.png::/data/shop.zip`). No other address is opened, and nothing is fetched.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from modeling_eclip.images_eclip import MAX_FILE_BYTES, ProductImageError
from modeling_eclip.inference.jpeg import load_product_pixels
from modeling_eclip.inference.pixels import PixelReader
from training.data.augmentation import ProductAugmentation
from training.data.fields import row_images
from training.data.files import file_state
from training.data.time_limit import time_limit

__all__ = ["ImageReader", "image_state", "images_digest", "images_state", "read_view"]

_ZIP = "zip://"


def image_state(image: Any) -> str | None:
    """Tells a row's image file from what it is after a change: vectors of it are old then.

    Args:
        image: What the row's `image` column holds.

    Returns:
        Size and time of the last change of the image's file, or of the archive that it is in, `"absent"` if there is
        none; `None` for an image that is in the row itself, for a row without one, and for an address.
    """
    path = image.get("path") if isinstance(image, Mapping) and image.get("bytes") is None else None
    if not path:
        return None
    if (place := _in_archive(path)) is not None:
        path = place[0]
    elif "://" in path:
        return None
    try:
        state = file_state(path)
    except OSError:  # such as one in a folder that may not be looked into
        state = None
    return "absent" if state is None else " ".join(map(str, state))


def images_state(row: Mapping[str, Any]) -> str | None:
    """Tells the image files of a row, as `image_state` does one; of a row with one image that is what it tells."""
    states = [image_state(image) for image, _ in row_images(row)]
    return " ".join(map(str, states)) if any(states) else None


def images_digest(states: Iterable[str | None]) -> str:
    """Returns a digest of what `image_state` tells of images; an empty one if none is in a file of its own."""
    digest, has_files = hashlib.sha256(), False
    for state in states:
        digest.update(f"{state}\0".encode())
        has_files |= state is not None
    return digest.hexdigest() if has_files else ""


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


def _in_archive(path: str) -> tuple[str, str] | None:
    """Returns the archive of this machine that a path leads into, and the name in it; nothing for another path."""
    name, _, archive = path.removeprefix(_ZIP).partition("::")
    if not path.startswith(_ZIP) or not archive or "::" in archive or "://" in archive:
        return None
    return archive, name


def _fetched(image: Any) -> Any:
    """Reads the bytes of an image inside an archive; returns any other image as it is."""
    path = image.get("path") if isinstance(image, Mapping) and image.get("bytes") is None else None
    place = _in_archive(path) if path else None
    if place is None:  # addresses are refused by who reads the image
        return image
    try:
        if not os.path.isfile(place[0]):  # a pipe would block for ever
            raise FileNotFoundError(f"there is no file at {place[0]}")
        with zipfile.ZipFile(place[0]) as archive, archive.open(place[1]) as file:
            return file.read(MAX_FILE_BYTES)
    except (OSError, KeyError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ProductImageError(f"{path!r} cannot be read ({error}). Check that it is there.", "missing") from error
