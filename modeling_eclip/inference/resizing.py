"""Resizing images that are arrays: the result of Pillow's `resize`, several times faster.

torch's antialiased kernels for 8-bit pixels follow Pillow's and differ from them by one level in one value of
hundreds, or in one of five if Pillow resizes height and width in the other order. `torch.nn.functional.interpolate`
calls the same kernels but has no argument for an image that covers its last row or column only in part.
"""

import numpy as np
import torch

__all__ = ["RESAMPLE_KERNELS", "resize_pixels"]

RESAMPLE_KERNELS = {
    2: torch.ops.aten._upsample_bilinear2d_aa,
    3: torch.ops.aten._upsample_bicubic2d_aa,
}
"""Kernels by the number that Pillow's `Resampling` and image processors give them: bilinear and bicubic."""


def resize_pixels(
    pixels: np.ndarray,
    size: tuple[int, int],
    extent: tuple[float, float] | None = None,
    resample: int = 3,
) -> torch.Tensor:
    """Resize one image.

    Args:
        pixels: RGB pixels, uint8, shape `(H, W, 3)`.
        size: Height and width of the result in pixels.
        extent: Height and width of the part, from the upper left corner, that is resized; the whole image if not
            given. It may end within a pixel.
        resample: A key of `RESAMPLE_KERNELS`.

    Returns:
        RGB pixels, uint8, shape `(3, height, width)`.
    """
    extent = extent if extent is not None else (pixels.shape[0], pixels.shape[1])
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if tuple(size) == tuple(extent) == pixels.shape[:2]:
        return batch[0].contiguous()
    return RESAMPLE_KERNELS[resample](batch, list(size), False, size[0] / extent[0], size[1] / extent[1])[0]
