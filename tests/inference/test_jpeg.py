"""JPEG files are decoded no larger than needed, to the same pixels with and without simplejpeg."""

import io

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_eclip.images_eclip import ProductImageError, load_product_image
from modeling_eclip.inference.jpeg import decode_jpeg, load_product_pixels
from modeling_eclip.toy.catalog import toy_catalog


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photograph(width: int, height: int) -> Image.Image:
    """Smooth shapes of some 25 pixels, as photographs have."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 25 + 2, width // 25 + 2, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def with_and_without_simplejpeg(monkeypatch, source, **options):
    """The pixels, and their extent, of both decoders, which must be the same."""
    pytest.importorskip("simplejpeg")
    found = load_product_pixels(source, **options)
    with monkeypatch.context() as without:
        without.setattr("modeling_eclip.inference.jpeg._simplejpeg", lambda: None)
        other = load_product_pixels(source, **options)
    assert np.array_equal(found[0], other[0])
    assert found[1] == other[1]
    assert found[0].dtype == np.uint8
    return found


@pytest.mark.parametrize(
    ("min_size", "shape", "extent"),
    [
        (None, (397, 501), (397, 501)),
        ((397, 501), (397, 501), (397, 501)),
        ((199, 250), (397, 501), (397, 501)),  # 398 of 397 rows would be needed for a half
        ((198, 250), (199, 251), (198.5, 250.5)),
        ((10, 200), (199, 251), (198.5, 250.5)),  # the width decides
        ((99, 100), (100, 126), (99.25, 125.25)),
        ((49, 62), (50, 63), (49.625, 62.625)),
        ((1, 1), (50, 63), (49.625, 62.625)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_decoded_no_larger_than_needed(monkeypatch, min_size, shape, extent, mode):
    content = encode(photograph(501, 397).convert(mode), "JPEG", quality=90)
    pixels, found_extent = with_and_without_simplejpeg(monkeypatch, content, min_size=min_size)
    assert pixels.shape == (*shape, 3)
    assert found_extent == extent


@pytest.mark.parametrize("options", [{"subsampling": "4:4:4"}, {"subsampling": "4:1:1"}, {"progressive": True}])
def test_every_kind_of_jpeg_is_the_same_for_both_decoders(monkeypatch, options):
    content = encode(photograph(200, 160), "JPEG", **options)
    for min_size in (None, (80, 100), (40, 50), (20, 25)):
        with_and_without_simplejpeg(monkeypatch, content, min_size=min_size)


def shrunk(pixels: np.ndarray, extent: tuple[float, float], side: int) -> np.ndarray:
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, box=(0, 0, extent[1], extent[0]))
    return np.asarray(image).astype(int)


def test_a_reduced_jpeg_is_nearly_a_whole_one_resized():
    content = encode(photograph(501, 397), "JPEG", quality=90)
    whole = load_product_pixels(content)
    for side in (48, 90, 190):
        reduced = load_product_pixels(content, min_size=(side, side))
        difference = np.abs(shrunk(*reduced, side) - shrunk(*whole, side)).mean()
        assert 0 < difference < 1.6
        # 501 and 397 are odd: taken for whole, the pixels at the ends would shift everything
        stretched = shrunk(reduced[0], reduced[0].shape[:2], side)
        assert np.abs(stretched - shrunk(*whole, side)).mean() > 1.5 * difference


def test_real_and_generated_images_differ_by_what_the_docstring_says(real_data):
    generated = toy_catalog(60)["train"].cast_column("image", datasets.Image(decode=False))["image"]
    contents = {"generated": [image["bytes"] for image in generated][:40]}
    for name in ("fashion", "grocery"):
        table = pq.read_table(real_data / f"data/{name}/validation.parquet", columns=["image"])
        contents[name] = [image["bytes"] for image in table["image"].to_pylist()[::8]]
    for name in ("fashion", "grocery"):
        images = [Image.open(io.BytesIO(content)).convert("RGB").resize((500, 500)) for content in contents[name]]
        contents[f"{name} 500"] = [encode(image, "JPEG", quality=90) for image in images]
    for name, files in contents.items():
        for side in (28, 48, 96, 224):
            differences = []
            for content in files:
                whole, reduced = load_product_pixels(content), load_product_pixels(content, min_size=(side, side))
                if whole[0].shape != reduced[0].shape:
                    differences.append(np.abs(shrunk(*reduced, side) - shrunk(*whole, side)).mean())
            if differences:
                low, high = (0.3, 0.7) if side == 224 else (0.3, 2.4)
                assert low < np.mean(differences) < high, (name, side)
                assert max(differences) < 5.5, (name, side)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_reduced_by_its_upright_size(monkeypatch, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(photograph(320, 160), "JPEG", quality=95, exif=exif)
    whole, _ = with_and_without_simplejpeg(monkeypatch, content)
    assert whole.shape == ((160, 320, 3) if orientation < 5 else (320, 160, 3))
    # upright, a half is enough for one of these and a quarter for the other
    min_size = (60, 100) if orientation < 5 else (100, 60)
    reduced, extent = with_and_without_simplejpeg(monkeypatch, content, min_size=min_size)
    assert reduced.shape == ((80, 160, 3) if orientation < 5 else (160, 80, 3))
    assert extent == reduced.shape[:2]
    assert np.abs(shrunk(reduced, extent, 60) - shrunk(whole, whole.shape[:2], 60)).mean() < 1.0
    # an odd side cannot be turned without its partly covered end coming to lie at the start
    odd, _ = load_product_pixels(encode(photograph(321, 160), "JPEG", exif=exif), min_size=(10, 10))
    assert max(odd.shape) == (41 if orientation == 1 else 321)


def test_tall_images_are_copied_whole():
    image = photograph(200, 2500)
    pixels, extent = load_product_pixels(encode(image, "PNG"))
    assert np.array_equal(pixels, np.asarray(image)) and extent == (2500, 200)


def test_guards_hold_for_reduced_images():
    content = encode(photograph(400, 400), "JPEG")
    for source, options, reason in [
        (content, {"max_pixels": 159_999}, "too_many_pixels"),  # of the file, not of the 50x50 that are decoded
        (content[: len(content) // 2], {}, "truncated"),
        (encode(Image.new("RGB", (1020, 20)), "JPEG"), {}, "too_thin"),
    ]:
        with pytest.raises(ProductImageError) as caught:
            load_product_pixels(source, min_size=(2, 2), **options)
        assert caught.value.reason == reason
    with pytest.raises(ValueError, match=r"min_size must be \(height, width\).*received \(0, 5\)"):
        load_product_pixels(content, min_size=(0, 5))


def test_cmyk_is_reduced_and_other_formats_are_not():
    red = encode(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=100)
    pixels, extent = load_product_pixels(red, min_size=(30, 30))
    assert pixels.shape == (32, 32, 3) and extent == (32, 32)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3
    pixels, extent = load_product_pixels(encode(photograph(64, 48)), min_size=(6, 6))
    assert pixels.shape == (48, 64, 3) and extent == (48, 64)


def test_a_file_that_simplejpeg_rejects_is_read_by_pillow():
    pytest.importorskip("simplejpeg")
    # bytes after a segment that do not belong there: a warning of the decoder, which Pillow takes no notice of
    content = encode(photograph(64, 64), "JPEG")
    odd = content.replace(b"\xff\xdb", b"\0\0\0\xff\xdb", 1)
    assert decode_jpeg(odd, (64, 64), 1) is None
    assert load_product_image(odd).size == (64, 64)
    assert decode_jpeg(content, (64, 65), 1) is None  # not the size that was checked
