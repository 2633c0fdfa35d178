"""The facts of an image, by which it is checked and compared: size, contrast, pixel hash, small copy and colours."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_eclip import ProductImageError, load_product_image
from training.arguments.prepare import ImageLimits

__all__ = ["THUMBNAIL_SIDE", "ImageFacts", "examine_image"]

THUMBNAIL_SIDE = 32
"""Side in pixels of the small copy that perceptual hashes are computed from."""

_REDUCED_SIDE = 64  # pixels; enough for a small copy that looks the same
_BORDER = 7  # pixels of the small copy at each edge, where frames, stamps and backgrounds are
_WHITE = (234, 6)  # of 255: pixels that are lighter, and nearer to grey, are background
_BACKGROUND_ONLY = 20  # with at most this many other pixels, background is counted, too
_COLOUR_RANGE = 32  # of 128: largest difference from grey, in blue and in red, that is told apart
_COLOUR_BINS = 9


@dataclass(frozen=True)
class ImageFacts:
    """The facts of one image.

    Args:
        reason: Reason why it is dropped; `None` if it stays.
        width: Width in pixels, if it was decoded.
        height: Height in pixels, if it was decoded.
        pixel_hash: Hash of the pixels, 16 bytes: the same for the same pixels in different files.
        thumbnail: Grey levels of a small copy, uint8, shape `(32, 32)`, if the image stays.
        colours: Frequencies of the colours in the middle of the image, without lightness and white background: their
            square roots as a vector of norm 255, uint8, shape `(81,)`.
    """

    reason: str | None
    width: int | None = None
    height: int | None = None
    pixel_hash: bytes | None = None
    thumbnail: np.ndarray | None = None
    colours: np.ndarray | None = None


def examine_image(image: bytes | None, limits: ImageLimits) -> ImageFacts:
    """Decode an image and check it.

    Args:
        image: The encoded image; `None` where it is missing.
        limits: Limits of an image that stays.

    Returns:
        Its facts. The reasons are `"image_missing"`, `"image_too_large"` (the file), `"image_unreadable"` (broken,
        not an image, or a decompression bomb), `"image_too_small"`, `"image_too_thin"` and `"image_blank"`.
    """
    if not image:
        return ImageFacts("image_missing")
    if len(image) > limits.max_bytes:
        return ImageFacts("image_too_large")
    try:
        decoded = load_product_image(image)
    except ProductImageError as error:
        return ImageFacts("image_too_thin" if error.reason == "too_thin" else "image_unreadable")
    width, height = decoded.size
    if min(width, height) < limits.min_side:
        return ImageFacts("image_too_small", width, height)
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        return ImageFacts("image_too_thin", width, height)
    size = f"{width}x{height}:".encode()
    pixel_hash = hashlib.blake2b(size + decoded.tobytes(), digest_size=16).digest()
    small = decoded
    if max(width, height) > 2 * _REDUCED_SIDE:
        small = decoded.reduce(max(width, height) // _REDUCED_SIDE)
    if np.asarray(small.convert("L")).std() < limits.min_contrast:
        return ImageFacts("image_blank", width, height, pixel_hash)
    small = small.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), resample=3)  # bicubic
    return ImageFacts(None, width, height, pixel_hash, np.asarray(small.convert("L")), _colours(small))


def _colours(small: Any) -> np.ndarray:
    """Return the frequencies of colours. Sellers change the light and the frame of an image more than its colours."""
    middle = slice(_BORDER, THUMBNAIL_SIDE - _BORDER)
    pixels = np.asarray(small.convert("YCbCr"))[middle, middle].reshape(-1, 3).astype(np.int64)
    axes = pixels[:, 1:] - 128
    product = (pixels[:, 0] <= _WHITE[0]) | (np.abs(axes).max(axis=1) >= _WHITE[1])
    if product.sum() > _BACKGROUND_ONLY:
        axes = axes[product]
    bins = (np.clip(axes, -_COLOUR_RANGE, _COLOUR_RANGE - 1) + _COLOUR_RANGE) * _COLOUR_BINS // (2 * _COLOUR_RANGE)
    counts = np.bincount(bins[:, 0] * _COLOUR_BINS + bins[:, 1], minlength=_COLOUR_BINS**2)
    return np.rint(255 * np.sqrt(counts / counts.sum())).astype(np.uint8)
