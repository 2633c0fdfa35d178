"""Pictures to pixel values in few passes: decoded no larger than needed, resized, cut and normalised.

The stock image processors of transformers spend more time on a picture after decoding than decoding takes. Most of
them do one and the same thing: resize, perhaps cut out the middle, scale, subtract a mean and divide by a deviation.
For those, `PixelReader` does it in fewer passes over the pixels. Whether an image processor is one of them is found
out by trying: it and the short way must agree on probes. Any other image processor is called as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .jpeg import load_product_pixels
from .resizing import RESAMPLE_KERNELS, resize_pixels

__all__ = ["PixelReader"]

_STAND_IN_SIDE = 32  # of a white picture for an image processor that has no one size of its own


class PixelReader:
    """Reads whole pictures and makes batches of them.

    Args:
        processor: An `EClipProcessor`, or anything with an `image_processor` that is called as one.
    """

    def __init__(self, processor: Any) -> None:
        """Find out whether the short way fits the image processor."""
        self.processor = processor
        self._recipe = _recipe_of(processor.image_processor)

    @property
    def is_short(self) -> bool:
        """Whether the image processor's work is done the short way."""
        return self._recipe is not None

    def read(self, source: Any) -> torch.Tensor:
        """Read one picture.

        Args:
            source: What `load_product_image` takes.

        Returns:
            RGB pixels, uint8, shape `(3, height, width)`: where the short way is taken, of the size that the model
            gets; else of the picture's own.

        Raises:
            ProductImageError: If the picture cannot be used.
        """
        if self._recipe is None:
            pixels, _ = load_product_pixels(source)
            return torch.from_numpy(pixels).permute(2, 0, 1)
        return self._recipe.resized(*load_product_pixels(source, min_size=self._recipe.size))

    def batch(self, pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Make the image tower's inputs of pictures that were read.

        Args:
            pictures: `N` pictures from `read`.

        Returns:
            What the image processor returns: for most `pixel_values`, float32, shape `(N, 3, height, width)`.
        """
        if self._recipe is None:
            return dict(self.processor(images=list(pictures), return_tensors="pt"))
        return {"pixel_values": self._recipe.normalised(pictures)}

    def blank(self) -> torch.Tensor:
        """Return a white picture, as `read` would, to stand in for one that there is not."""
        height, width = self._recipe.output_size if self._recipe is not None else (_STAND_IN_SIDE, _STAND_IN_SIDE)
        return torch.full((3, height, width), 255, dtype=torch.uint8)


@dataclass(frozen=True)
class _Recipe:
    """Resize, cut out the middle, normalise.

    Args:
        size: Height and width that pictures are resized to; the least of them where `keeps_shape`.
        keeps_shape: Whether the shorter side becomes as long as `size` says and the picture keeps its shape.
        output_size: Height and width of the middle that is kept.
        resample: A key of `RESAMPLE_KERNELS`.
        mean: Subtracted from levels of 0 to 255, shape `(3, 1, 1)`.
        factor: What is left is multiplied by this, shape `(3, 1, 1)`.
    """

    size: tuple[int, int]
    keeps_shape: bool
    output_size: tuple[int, int]
    resample: int
    mean: torch.Tensor
    factor: torch.Tensor

    def resized(self, pixels: np.ndarray, extent: tuple[float, float]) -> torch.Tensor:
        size = self.size
        if self.keeps_shape:
            # the shape is that of the file, which a reduced picture's extent tells to the last digit
            short = min(extent)
            height, width = (int(self.size[0] * side / short) for side in extent)
            size = (height, width)
        picture = resize_pixels(pixels, size, extent, self.resample)
        top, left = ((side - kept) // 2 for side, kept in zip(size, self.output_size, strict=True))
        return picture[:, top : top + self.output_size[0], left : left + self.output_size[1]]

    def normalised(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        values = torch.empty(len(pictures), 3, *self.output_size)
        for row, picture in zip(values, pictures, strict=True):  # one by one, so that it stays in the cache
            row.copy_(picture).sub_(self.mean).mul_(self.factor)
        return values


def _recipe_of(image_processor: Any) -> _Recipe | None:
    """Returns what an image processor does, or none where it does anything else."""
    settings = image_processor.to_dict()
    size, crop_size = settings.get("size") or {}, settings.get("crop_size") or {}
    if not settings.get("do_resize") or settings.get("resample") not in RESAMPLE_KERNELS:
        return None
    keeps_shape = set(_given(size)) == {"shortest_edge"}
    if not keeps_shape and set(_given(size)) != {"height", "width"}:
        return None
    resized = (size["shortest_edge"],) * 2 if keeps_shape else (size["height"], size["width"])
    output_size = resized
    if settings.get("do_center_crop"):
        if set(_given(crop_size)) != {"height", "width"}:
            return None
        output_size = (crop_size["height"], crop_size["width"])
    if any(kept > side for kept, side in zip(output_size, resized, strict=True)):
        return None
    scale = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, deviation = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize"):
        mean, deviation = settings["image_mean"], settings["image_std"]
    if len(mean) != 3 or len(deviation) != 3 or scale == 0 or min(deviation) <= 0:
        return None
    recipe = _Recipe(
        size=resized,
        keeps_shape=keeps_shape,
        output_size=output_size,
        resample=int(settings["resample"]),
        mean=torch.tensor([value / scale for value in mean])[:, None, None],
        factor=torch.tensor([scale / value for value in deviation])[:, None, None],
    )
    return recipe if _agree(recipe, image_processor) else None


def _given(size: Mapping[str, Any]) -> list[str]:
    return [name for name, value in size.items() if value is not None]


def _agree(recipe: _Recipe, image_processor: Any) -> bool:
    """Whether the image processor makes of two probes, a wide and a tall one, what the recipe does.

    The probes are noise, of which every other way of resizing makes something else by tens of levels. The same way
    differs by a third of a level at most, where the two kernels take height and width in another order.
    """
    height, width = recipe.size
    shapes = (height + 5, 2 * width, 3), (2 * height, width + 3, 3)
    rng = np.random.default_rng(0)
    probes = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    try:
        expected = image_processor(images=probes, input_data_format="channels_last", return_tensors="pt")
        if set(expected) != {"pixel_values"}:
            return False
        found = recipe.normalised([recipe.resized(probe, probe.shape[:2]) for probe in probes])
        difference = (found - expected["pixel_values"]) / recipe.factor
        return bool(difference.abs().mean() < 0.5)
    except Exception:  # each image processor refuses in its own way what it was not made for
        return False
