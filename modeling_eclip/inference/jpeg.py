"""JPEG files decoded no larger than needed, by simplejpeg if it is installed.

Contract: `load_product_pixels` reads what `load_product_image` reads and raises the same errors, but returns an array,
and of a JPEG no more pixels than asked for. A JPEG decoder that is asked for a half, a quarter or an eighth of the
size transforms fewer coefficients and is faster. The format's other scales (3/8, 5/8, ...) are not used: most take
longer than the whole image. Pillow's `Image.draft` has the same scales and gives bit-identical pixels, so without
simplejpeg decoding is only slower.
"""

import functools
from typing import Any

import numpy as np

from ..images_eclip import MAX_IMAGE_PIXELS, read_product_image

__all__ = ["decode_jpeg", "jpeg_reduction", "load_product_pixels"]

_REDUCTIONS = (8, 4, 2)
_ROWS_AT_ONCE = 1024


def load_product_pixels(
    image: Any, *, max_pixels: int = MAX_IMAGE_PIXELS, min_size: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Turn one image into an array, of a JPEG with no more pixels than needed.

    Args:
        image: As for `load_product_image`.
        max_pixels: Largest accepted width times height, of a file as its header states them.
        min_size: Smallest height and width in pixels that the upright image must keep. A JPEG file is then decoded at
            the smallest of 1/8, 1/4, 1/2 and 1 of its size at which both sides have at least these (only at
            scales that divide its sides if its EXIF orientation turns it); other images keep their size. Resized to
            `min_size` afterwards, an image differs from one that was decoded in full by a mean of 0.4 to 0.6 of 255
            levels from 500 to 224 pixels, and of 0.3 to 2.3 levels at other sizes; by 5 levels in the worst of 1,200
            real and generated images, which had only just the pixels asked for.

    Returns:
        RGB pixels of the upright, opaque image, uint8, shape `(H, W, 3)`; and its extent, the height and width that
        it covers in these pixels: `(H, W)`, or up to a pixel less if a side is no multiple of the reduction and the
        last row or column is only partly covered (Pillow's `draft` returns such a box, too).

    Raises:
        ProductImageError: the image cannot be used; its `reason` says why in one word.
        ValueError: `min_size` is not a height and a width.
        ImportError: Pillow is not installed.
    """
    if min_size is not None and (len(min_size) != 2 or min(min_size) < 1):
        raise ValueError(f"min_size must be (height, width) in pixels, both at least 1, received {min_size}.")
    decoder = _JpegDecoder(min_size)
    loaded = read_product_image(image, max_pixels, decoder)
    pixels = loaded if isinstance(loaded, np.ndarray) else _as_array(loaded)
    return pixels, decoder.extent or (pixels.shape[0], pixels.shape[1])


def _as_array(image: Any) -> np.ndarray:
    """Copy the pixels of a large image in strips, since Pillow holds two more copies of what it hands over."""
    if image.height <= _ROWS_AT_ONCE:
        return np.array(image)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _ROWS_AT_ONCE):
        stop = min(top + _ROWS_AT_ONCE, image.height)
        pixels[top:stop] = np.asarray(image.crop((0, top, image.width, stop)))
    return pixels


class _JpegDecoder:
    """Decodes one JPEG no larger than needed, as `read_product_image` asks for it.

    Args:
        min_size: As for `load_product_pixels`.

    Attributes:
        extent: Height and width that the image covers in the decoded pixels; `None` if these are all of the image's.
    """

    def __init__(self, min_size: tuple[int, int] | None) -> None:
        self.min_size = min_size
        self.extent: tuple[float, float] | None = None

    def __call__(self, image: Any, file: Any, orientation: int) -> np.ndarray | None:
        """Decode by simplejpeg; or set Pillow to the same scale and return `None`, so that Pillow decodes."""
        height, width = image.height, image.width
        reduction = jpeg_reduction((height, width), self.min_size, orientation)
        if orientation == 1:
            self.extent = (height / reduction, width / reduction)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                file.seek(0)
                pixels = decode_jpeg(file.read(), (height, width), reduction)
                if pixels is not None:
                    return pixels
        if reduction > 1:
            image.draft(None, (width // reduction, height // reduction))
        return None


def jpeg_reduction(size: tuple[int, int], min_size: tuple[int, int] | None, orientation: int = 1) -> int:
    """Choose how many times smaller a JPEG is decoded.

    Args:
        size: Height and width of the image in the file, in pixels.
        min_size: Smallest height and width, in pixels, of the upright image; `None` for its full size.
        orientation: EXIF orientation: 1 for upright, 5 to 8 for an image that is turned by a quarter.

    Returns:
        8, 4, 2 or 1. For an image that is turned or mirrored it divides both sides, since turning would move the
        partly covered pixels from the image's end to its start.
    """
    if min_size is None:
        return 1
    needed = min_size if orientation < 5 else min_size[::-1]
    for reduction in _REDUCTIONS:
        is_enough = all(side >= reduction * least for side, least in zip(size, needed, strict=True))
        if is_enough and (orientation == 1 or all(side % reduction == 0 for side in size)):
            return reduction
    return 1


def decode_jpeg(content: bytes, size: tuple[int, int], reduction: int) -> np.ndarray | None:
    """Decode a JPEG file of three channels or one.

    Args:
        content: The file.
        size: Height and width, in pixels, that were read from its header and checked.
        reduction: How many times smaller the result is: 8, 4, 2 or 1. Sides are rounded up.

    Returns:
        RGB pixels, uint8, shape `(H, W, 3)`; `None` if simplejpeg is absent or rejects the file, which Pillow may
        still read, or reject with a clearer error.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None:
        return None
    height, width = size
    try:
        # A damaged file may state two sizes: decode only the one that was checked.
        if simplejpeg.decode_jpeg_header(content)[:2] != (height, width):
            return None
        return simplejpeg.decode_jpeg(content, min_height=-(-height // reduction), min_width=-(-width // reduction))
    except ValueError:
        return None


@functools.cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
