"""The fast path from images to pixel values gives what the image processor gives, to a level or less."""

import contextlib
import functools
import io
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil

from modeling_eclip.images_eclip import ProductImageError
from training.data.augmentation import ProductAugmentation
from training.data.images import ImageReader, read_view
from training.data.time_limit import time_limit


class Processor:
    """What a reader needs of an `EClipProcessor`."""

    def __init__(self, image_processor):
        self.image_processor = image_processor

    def __call__(self, images, return_tensors):
        return self.image_processor(images=images, return_tensors=return_tensors)


def photograph(width: int, height: int, seed: int = 0, detail: int = 6) -> Image.Image:
    """Smooth shapes of so many pixels."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(30, 226, (height // detail + 2, width // detail + 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


RNG = np.random.default_rng(0)
SHAPES = [(100, 100), (157, 80), (70, 130), (64, 64), (20, 33)]


@pytest.mark.parametrize(
    "image_processor",
    [
        ViTImageProcessorPil(size={"height": 48, "width": 56}),
        ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3, do_normalize=False),
        CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
        CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 40}),
        SiglipImageProcessorPil(size={"height": 48, "width": 48}),
        SiglipImageProcessorPil(size={"height": 48, "width": 48}, do_rescale=False, do_normalize=False),
    ],
    ids=["vit", "not-normalised", "clip", "clip-crop", "siglip", "levels"],
)
def test_whole_images_come_out_as_from_the_image_processor(image_processor):
    reader = ImageReader(Processor(image_processor))
    assert reader.is_fast
    images = [photograph(*shape, seed) for seed, shape in enumerate(SHAPES)]
    found = reader.batch([reader.read(encode(image), RNG) for image in images])["pixel_values"]
    expected = image_processor(images=images, return_tensors="pt")["pixel_values"].float()
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    level = (expected.max() - expected.min()) / 255
    difference = (found - expected).abs() / level
    assert difference.max() <= 4
    assert difference.mean() < 0.1
    assert reader.blank().shape == found.shape[1:]
    # the same operations in the same order, on whichever device
    pixels = reader.stack([reader.read(encode(image), RNG) for image in images])["pixel_values"]
    assert pixels.dtype == torch.uint8
    assert torch.equal(reader.normalization(pixels), found)


@pytest.mark.parametrize(
    "image_processor",
    [
        ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=1),  # Lanczos
        ViTImageProcessorPil(do_resize=False),
        CLIPImageProcessorPil(size={"shortest_edge": 40}, do_center_crop=False),
        CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 48, "width": 48}),
        transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64}),
        transformers.EfficientNetImageProcessorPil(size={"height": 64, "width": 64}),
    ],
    ids=["lanczos", "unresized", "any-shape", "padded", "convnext", "efficientnet"],
)
def test_other_image_processors_are_called_as_they_are(image_processor):
    reader = ImageReader(Processor(image_processor))
    assert not reader.is_fast and reader.normalization is None
    images = [photograph(100, 100, seed) for seed in range(2)]
    found = reader.batch([reader.read(encode(image), RNG) for image in images])["pixel_values"]
    assert torch.equal(found, image_processor(images=images, return_tensors="pt")["pixel_values"])


def test_a_view_is_what_the_model_sees():
    # An image processor that enlarges and cuts would take away the ends of a view that has the right size already.
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 48, "width": 48},
        image_mean=[0.0] * 3,
        image_std=[1 / 255] * 3,
    )
    reader = ImageReader(Processor(image_processor), ProductAugmentation((48, 48)))
    view = reader.read(encode(photograph(90, 70)), np.random.default_rng(5))
    assert view.dtype == torch.uint8
    assert torch.allclose(reader.batch([view])["pixel_values"][0], view.float(), atol=1e-3)


@pytest.mark.parametrize("min_crop_scale", [0.4, 0.9])
def test_a_view_does_not_depend_on_the_scale_that_an_image_is_decoded_at(min_crop_scale):
    image = photograph(501, 397, detail=40)
    small, large = encode(image, "JPEG", quality=90), encode(image, "PNG")
    augmentation = ProductAugmentation((100, 100), min_crop_scale=min_crop_scale)
    differences = []
    for seed in range(20):
        reduced, whole = (read_view(s, augmentation, np.random.default_rng(seed)) for s in (small, large))
        differences.append((reduced.int() - whole.int()).abs().float().mean())
    assert 0 < max(differences) < 3  # the whole pixels that crops begin with, and what JPEG loses, included


@pytest.mark.parametrize("in_thread", [False, True], ids=["main thread", "another thread"])
def test_an_image_that_takes_too_long_is_refused(in_thread):
    handler = signal.getsignal(signal.SIGPROF)

    def read():
        with pytest.raises(ProductImageError) as caught, time_limit(0.05), contextlib.suppress(Exception):
            stop = time.thread_time() + (0.2 if in_thread else 60)  # only the main thread is stopped on the way
            while time.thread_time() < stop:
                pass
        return caught.value.reason

    if in_thread:
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(read).result() == "too_costly"
    else:
        began = time.thread_time()
        assert read() == "too_costly"
        assert time.thread_time() - began < 30
    assert signal.getsignal(signal.SIGPROF) is handler and signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_readers_of_rows_limit_the_time_of_an_image(monkeypatch):
    def slow(image, **options):
        while True:
            pass

    monkeypatch.setattr("modeling_eclip.inference.pixels.load_product_pixels", slow)
    monkeypatch.setattr("training.data.images.time_limit", functools.partial(time_limit, 0.05))
    reader = ImageReader(Processor(ViTImageProcessorPil(size={"height": 8, "width": 8})))
    with pytest.raises(ProductImageError) as caught:
        reader.read(b"")
    assert caught.value.reason == "too_costly"


def test_what_cannot_be_read_is_an_error_with_its_reason():
    reader = ImageReader(Processor(ViTImageProcessorPil(size={"height": 8, "width": 8})))
    for source, reason in [
        (b"<html>", "not_an_image"),
        (None, "missing"),
        ({"bytes": None, "path": "s3:"}, "missing"),
    ]:
        with pytest.raises(ProductImageError) as caught:
            reader.read(source, RNG)
        assert caught.value.reason == reason
