"""What a picture is checked and compared by: size, contrast, a hash of its pixels, a small copy, and its colours."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_eclip import ProductImageError, load_product_image

__all__ = ["THUMBNAIL_SIDE", "ImageFacts", "ImageLimits", "examine_image"]

THUMBNAIL_SIDE = 32
"""Side in pixels of the copy that perceptual hashes are made of."""

_MORE_THAN_ENOUGH = 64  # pixels of a side, from which a small copy looks the same
_BORDER = 7  # pixels of the small copy on each side, where frames, stamps and backgrounds are
_WHITE = (234, 6)  # of 255: pixels as light as this and as near to grey are background
_BACKGROUND_ONLY = 20  # pixels of the product, fewer than which there is none to be seen
_COLOUR_RANGE = 32  # of 128, in which blue and red against grey are divided
_COLOUR_BINS = 9


@dataclass(frozen=True)
class ImageLimits:
    """What a picture must have to stay.

    Args:
        max_bytes: Largest file.
        min_side: Shortest side in pixels.
        max_aspect_ratio: Longer side divided by the other.
        min_contrast: Standard deviation of the grey levels, 0 to 127.
    """

    max_bytes: int = 20_000_000
    min_side: int = 32
    max_aspect_ratio: float = 5.0
    min_contrast: float = 2.0


@dataclass(frozen=True)
class ImageFacts:
    """One picture.

    Args:
        reason: Why it is dropped; `None` if it stays.
        width: In pixels, where it could be decoded.
        height: Likewise.
        pixel_hash: Hash of its pixels, 16 bytes: the same for the same picture in other files.
        thumbnail: Grey levels of a small copy, uint8, shape `(32, 32)`, of a picture that stays.
        colours: How often each colour is in its middle, without its lightness and a white background: square roots of
            frequencies, of length 255, uint8, shape `(81,)`.
    """

    reason: str | None
    width: int | None = None
    height: int | None = None
    pixel_hash: bytes | None = None
    thumbnail: np.ndarray | None = None
    colours: np.ndarray | None = None


def examine_image(image: bytes | None, limits: ImageLimits) -> ImageFacts:
    """Decode a picture and judge it.

    Args:
        image: The encoded picture; `None` where there is none.
        limits: What it must have.

    Returns:
        Its facts. The reasons are `"image_missing"`, `"image_too_large"` (the file), `"image_unreadable"` (broken, or
        no picture, or a bomb), `"image_too_small"`, `"image_too_thin"` and `"image_blank"`.
    """
    if not image:
        return ImageFacts("image_missing")
    if len(image) > limits.max_bytes:
        return ImageFacts("image_too_large")
    try:
        picture = load_product_image(image)
    except ProductImageError as error:
        return ImageFacts("image_too_thin" if error.reason == "too_thin" else "image_unreadable")
    width, height = picture.size
    if min(width, height) < limits.min_side:
        return ImageFacts("image_too_small", width, height)
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        return ImageFacts("image_too_thin", width, height)
    size = f"{width}x{height}:".encode()
    pixel_hash = hashlib.blake2b(size + picture.tobytes(), digest_size=16).digest()
    small = picture
    if max(width, height) > 2 * _MORE_THAN_ENOUGH:
        small = picture.reduce(max(width, height) // _MORE_THAN_ENOUGH)
    if np.asarray(small.convert("L")).std() < limits.min_contrast:
        return ImageFacts("image_blank", width, height, pixel_hash)
    small = small.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), resample=3)  # bicubic
    return ImageFacts(None, width, height, pixel_hash, np.asarray(small.convert("L")), _colours(small))


def _colours(small: Any) -> np.ndarray:
    """Return how often each colour is there; sellers change a picture's light and frame more than its colours."""
    middle = slice(_BORDER, THUMBNAIL_SIDE - _BORDER)
    pixels = np.asarray(small.convert("YCbCr"))[middle, middle].reshape(-1, 3).astype(np.int64)
    axes = pixels[:, 1:] - 128
    product = (pixels[:, 0] <= _WHITE[0]) | (np.abs(axes).max(axis=1) >= _WHITE[1])
    if product.sum() > _BACKGROUND_ONLY:
        axes = axes[product]
    bins = (np.clip(axes, -_COLOUR_RANGE, _COLOUR_RANGE - 1) + _COLOUR_RANGE) * _COLOUR_BINS // (2 * _COLOUR_RANGE)
    counts = np.bincount(bins[:, 0] * _COLOUR_BINS + bins[:, 1], minlength=_COLOUR_BINS**2)
    return np.rint(255 * np.sqrt(counts / counts.sum())).astype(np.uint8)
