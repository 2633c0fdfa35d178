"""Images to pixel values by a fast path: decoded no larger than needed, resized, cropped and normalised.

The stock image processors of transformers take longer than decoding does. Most of them do the same: resize, perhaps
crop the centre, rescale, subtract a mean and divide by a standard deviation. For those, `PixelReader` has a fast path
with fewer passes over the pixels. It is used if it and the image processor agree on two test images; any other image
processor is called as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from .jpeg import load_product_pixels
from .resizing import RESAMPLE_KERNELS, resize_pixels

__all__ = ["PixelNormalization", "PixelReader"]

_BLANK_SIDE = 32  # pixels of a white image for an image processor without a fixed size


@dataclass(frozen=True)
class PixelNormalization:
    """Makes the values that an image tower takes of 8-bit levels, on the device where they lie.

    Args:
        mean: Subtracted from levels of 0 to 255, one number a channel.
        factor: Multiplies the difference, likewise.
    """

    mean: tuple[float, ...]
    factor: tuple[float, ...]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 values of the same shape.

        Args:
            pixels: uint8, shape `(..., channels, height, width)`.
        """
        mean, factor = self.constants(pixels.device)
        return pixels.to(torch.float32).sub_(mean).mul_(factor)

    def constants(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and factor, float32, shape `(channels, 1, 1)`, which are brought to each device once."""
        return _constants(self, device)


@cache
def _constants(normalization: PixelNormalization, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, factor = (
        torch.tensor(numbers, dtype=torch.float32, device=device)[:, None, None]
        for numbers in (normalization.mean, normalization.factor)
    )
    return mean, factor


class PixelReader:
    """Reads whole images and makes batches of them.

    Args:
        processor: An `EClipProcessor`, or anything with an `image_processor` that is called as one.
    """

    def __init__(self, processor: Any) -> None:
        """Compare the fast path with the image processor."""
        self.processor = processor
        self._recipe = _recipe_of(processor.image_processor)

    @property
    def is_fast(self) -> bool:
        """Whether the fast path takes the place of the image processor."""
        return self._recipe is not None

    @property
    def normalization(self) -> PixelNormalization | None:
        """What is still to be done to the pixels of `stack`; nothing where the image processor has done it."""
        return self._recipe.normalization if self._recipe is not None else None

    def read(self, source: Any) -> torch.Tensor:
        """Read one image.

        Args:
            source: What `load_product_image` takes.

        Returns:
            RGB pixels, uint8, shape `(3, height, width)`: on the fast path of the size of the model's input, else of
            the image's own size.

        Raises:
            ProductImageError: the image cannot be used.
        """
        if self._recipe is None:
            pixels, _ = load_product_pixels(source)
            return torch.from_numpy(pixels).permute(2, 0, 1)
        return self._recipe.resized(*load_product_pixels(source, min_size=self._recipe.size))

    def batch(self, images: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Make the image tower's inputs of images that were read.

        Args:
            images: `N` images from `read`.

        Returns:
            What the image processor returns: mostly `pixel_values`, float32, shape `(N, 3, height, width)`.
        """
        if self._recipe is None:
            return dict(self.processor(images=list(images), return_tensors="pt"))
        return {"pixel_values": self._recipe.normalised(images)}

    def stack(self, images: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Join images that were read, a quarter of the bytes of `batch`; `normalization` makes the same of them.

        Args:
            images: `N` images from `read`.

        Returns:
            `pixel_values`, uint8, shape `(N, 3, height, width)`; on the slow path what `batch` returns.
        """
        return self.batch(images) if self._recipe is None else {"pixel_values": torch.stack(list(images))}

    def blank(self) -> torch.Tensor:
        """Return a white image of the shape that `read` returns, for a product without an image."""
        height, width = self._recipe.output_size if self._recipe is not None else (_BLANK_SIDE, _BLANK_SIDE)
        return torch.full((3, height, width), 255, dtype=torch.uint8)


@dataclass(frozen=True)
class _Recipe:
    """What most image processors do: resize, crop the centre, normalise.

    Args:
        size: Height and width that images are resized to; with `keeps_shape` the length of the shorter side, twice.
        keeps_shape: Whether the image keeps its aspect ratio.
        output_size: Height and width of the centre crop.
        resample: A key of `RESAMPLE_KERNELS`.
        normalization: What is done to the levels last.
    """

    size: tuple[int, int]
    keeps_shape: bool
    output_size: tuple[int, int]
    resample: int
    normalization: PixelNormalization

    def resized(self, pixels: np.ndarray, extent: tuple[float, float]) -> torch.Tensor:
        size = self.size
        if self.keeps_shape:
            # the extent, not the shape: a reduced image keeps the exact aspect ratio of its file
            short = min(extent)
            height, width = (int(self.size[0] * side / short) for side in extent)
            size = (height, width)
        image = resize_pixels(pixels, size, extent, self.resample)
        top, left = ((side - kept) // 2 for side, kept in zip(size, self.output_size, strict=True))
        return image[:, top : top + self.output_size[0], left : left + self.output_size[1]]

    def normalised(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        values = torch.empty(len(images), 3, *self.output_size)
        mean, factor = self.normalization.constants(values.device)
        for row, image in zip(values, images, strict=True):  # one by one, so that an image stays in the CPU's cache
            row.copy_(image).sub_(mean).mul_(factor)
        return values


def _recipe_of(image_processor: Any) -> _Recipe | None:
    """Return the recipe of an image processor, or `None` if it does anything else."""
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
        normalization=PixelNormalization(
            mean=tuple(value / scale for value in mean), factor=tuple(scale / value for value in deviation)
        ),
    )
    return recipe if _agree(recipe, image_processor) else None


def _given(size: Mapping[str, Any]) -> list[str]:
    return [name for name, value in size.items() if value is not None]


def _agree(recipe: _Recipe, image_processor: Any) -> bool:
    """Whether recipe and image processor give the same for two test images, a wide and a tall one.

    They are noise, for which another method of resizing differs by tens of levels. The same method differs by a third
    of a level at most, if it resizes height and width in the other order.
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
        difference = (found - expected["pixel_values"]) / recipe.normalization.constants(found.device)[1]
        return bool(difference.abs().mean() < 0.5)
    except Exception:  # image processors raise different errors for inputs that they do not support
        return False
