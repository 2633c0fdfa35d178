"""Resizing is Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_eclip.inference.resizing import RESAMPLE_KERNELS, resize_pixels


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth, so that rounding is all that can differ; noise overshoots and is clipped along the way."""
    noise = np.random.default_rng(0).integers(40, 216, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("resample", sorted(RESAMPLE_KERNELS))
@pytest.mark.parametrize("size", [(56, 40), (224, 224), (7, 300), (1, 1)])
@pytest.mark.parametrize("extent", [None, (99.5, 120.25), (40, 31.75)])
def test_pixels_are_those_of_pillow(resample, size, extent):
    pixels = photograph(100, 121)
    found = resize_pixels(pixels, size, extent, resample)
    height, width = extent or (100, 121)
    box = (0, 0, width, height)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling(resample), box=box))
    assert found.shape == (3, *size)
    assert found.dtype == torch.uint8
    difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.25


def test_an_image_of_the_right_size_stays_as_it_is():
    pixels = photograph(20, 30)
    assert (resize_pixels(pixels, (20, 30)).permute(1, 2, 0).numpy() == pixels).all()
