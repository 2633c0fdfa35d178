"""JPEG files decoded no larger than they are needed, by simplejpeg where it is installed.

Contract: `jpeg_reduction` says how many times smaller a picture may be decoded, `decode_jpeg` does it. A JPEG decoder
that is asked for a half, a quarter or an eighth of the size transforms fewer coefficients, and is faster for it. The
other scales that the format has (3/8, 5/8, ...) are left aside: most take longer than the whole picture. Pillow's
`Image.draft` has the same scales and gives the same pixels, to the bit, so where simplejpeg is absent only time is
lost.
"""

import functools
from typing import Any

import numpy as np

__all__ = ["decode_jpeg", "jpeg_reduction"]

_REDUCTIONS = (8, 4, 2)


def jpeg_reduction(size: tuple[int, int], min_size: tuple[int, int] | None, orientation: int = 1) -> int:
    """Choose the scale.

    Args:
        size: Height and width of the picture in the file, in pixels.
        min_size: Height and width, in pixels, that the upright picture shall have at least; None for all there are.
        orientation: EXIF orientation: 1 for upright, 5 to 8 for a picture that is to be turned by a quarter.

    Returns:
        How many times smaller the picture may be: 8, 4, 2 or 1. For a picture that is to be turned it divides both
        sides, since the pixels at its ends that are only partly covered would come to lie at its start.
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
        size: Height and width, in pixels, that its header was found to state.
        reduction: How many times smaller it shall become: 8, 4, 2 or 1. Sides are rounded up.

    Returns:
        RGB pixels, uint8, shape `(H, W, 3)`; None where simplejpeg is absent or objects to the file in any way, so
        that a decoder that is more forgiving, or says more clearly what is wrong, may have the last word.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None:
        return None
    height, width = size
    try:
        # A damaged file may state two sizes; the one that was checked must be the one that is decoded.
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
