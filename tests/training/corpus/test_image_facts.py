"""Images of raw offers: every kind of file is judged and hashed, and none does harm."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from training.corpus.image_facts import ImageFacts, ImageLimits, examine_image

LIMITS = ImageLimits()


def scene(width=64, height=48, seed=0):
    """Sixteen blocks of random colours: nothing that is the same turned round or mirrored."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), resample=0)


def encode(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that states a size and has no pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def two_greys(difference):
    """Half of one grey, half of another: their standard deviation is half of the difference."""
    image = Image.new("RGB", (64, 64), (100, 100, 100))
    image.paste((100 + difference,) * 3, (0, 0, 32, 64))
    return encode(image)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "image_missing"),
        (b"", "image_missing"),
        (bytes(1_000_001), "image_too_large"),
        (b"just some text, not an image", "image_unreadable"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"></svg>', "image_unreadable"),
        (encode(scene(), "JPEG")[:700], "image_unreadable"),
        (encode(scene(), "PNG")[:60], "image_unreadable"),
        (png_header(30_000, 30_000), "image_unreadable"),  # a bomb, in 60 bytes
        (png_header(64, 64), "image_unreadable"),
        (encode(scene(1, 1)), "image_too_small"),
        (encode(scene(64, 31)), "image_too_small"),
        (encode(scene(64, 32)), None),
        (encode(scene(200, 40)), None),  # just 5
        (encode(scene(201, 40)), "image_too_thin"),
        (encode(scene(40, 201)), "image_too_thin"),
        (encode(scene(2200, 40)), "image_too_thin"),  # so thin that it is not even decoded
        (encode(Image.new("RGB", (64, 64), (9, 80, 200))), "image_blank"),
        (two_greys(3), "image_blank"),  # a deviation of 1.5
        (two_greys(5), None),  # of 2.5
    ],
)
def test_every_reason(image, reason):
    assert examine_image(image, ImageLimits(max_bytes=1_000_000)).reason == reason


def test_limits_are_the_users():
    small = encode(scene(20, 10))
    assert examine_image(small, LIMITS).reason == "image_too_small"
    assert examine_image(small, ImageLimits(min_side=10)).reason is None
    assert examine_image(small, ImageLimits(min_side=10, max_aspect_ratio=1.9)).reason == "image_too_thin"
    assert examine_image(small, ImageLimits(min_side=10, min_contrast=120.0)).reason == "image_blank"
    assert examine_image(small, ImageLimits(max_bytes=len(small) - 1)).reason == "image_too_large"


def test_facts_of_an_image_that_stays():
    facts = examine_image(encode(scene(100, 60)), LIMITS)
    assert (facts.reason, facts.width, facts.height, len(facts.pixel_hash)) == (None, 100, 60, 16)
    assert facts.thumbnail.shape == (32, 32) and facts.thumbnail.dtype == np.uint8
    assert facts.colours.shape == (81,) and facts.colours.dtype == np.uint8
    for image in (None, b"text", encode(scene(8, 8))):
        without = examine_image(image, LIMITS)
        assert without.pixel_hash is without.thumbnail is without.colours is None


def test_the_hash_is_that_of_the_pixels():
    image = scene()
    as_png = examine_image(encode(image, "PNG"), LIMITS).pixel_hash
    for kind, settings in (("BMP", {}), ("TIFF", {}), ("PNG", {"compress_level": 0}), ("WEBP", {"lossless": True})):
        assert examine_image(encode(image, kind, **settings), LIMITS).pixel_hash == as_png
    changed = image.copy()
    changed.putpixel((63, 47), tuple(255 - value for value in image.getpixel((63, 47))))
    assert examine_image(encode(changed), LIMITS).pixel_hash != as_png
    # The same bytes of pixels in another shape are another image.
    grey = [Image.new("RGB", size, (7, 7, 7)) for size in ((64, 48), (48, 64))]
    assert len({examine_image(encode(one), LIMITS).pixel_hash for one in grey}) == 2


def test_an_image_is_turned_upright():
    image = scene()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    facts = examine_image(encode(image, "PNG", exif=exif), LIMITS)
    assert (facts.width, facts.height) == (48, 64)
    upright = examine_image(encode(image.transpose(Image.Transpose.ROTATE_270)), LIMITS)
    assert facts.pixel_hash == upright.pixel_hash


def test_transparency_lies_on_white():
    image = scene().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    assert examine_image(encode(image), LIMITS).pixel_hash == examine_image(encode(scene()), LIMITS).pixel_hash
    image.putalpha(Image.new("L", image.size, 0))
    assert examine_image(encode(image), LIMITS).reason == "image_blank"


def test_modes_and_animations_are_decoded():
    image = scene()
    grey = image.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert examine_image(encode(deep), LIMITS).pixel_hash == examine_image(encode(grey), LIMITS).pixel_hash
    for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG")):
        facts = examine_image(encode(image.convert(mode), kind), LIMITS)
        assert (facts.reason, facts.width, facts.height) == (None, 64, 48), (mode, kind)
    frames = [scene(seed=number).convert("P") for number in range(3)]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    first = examine_image(encode(frames[0].convert("RGB")), LIMITS)
    assert examine_image(animation, LIMITS).pixel_hash == first.pixel_hash


def cosine(left, right):
    left, right = left.astype(np.float64) / 255, right.astype(np.float64) / 255
    return float(left @ right)


def product(colour, light=1.0, background=255):
    """A disc with some shading, on a background."""
    rows, columns = np.mgrid[:96, :96] - 48.0
    shade = light * (0.9 + rows / 480)
    pixels = np.full((96, 96, 3), background, dtype=np.float64)
    inside = rows**2 + columns**2 < 40**2
    pixels[inside] = (np.array(colour) * shade[..., None])[inside]
    return encode(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def test_colours_are_those_of_the_product_whatever_its_light():
    red, brighter, blue = (
        examine_image(product(*of), LIMITS).colours
        for of in (((150, 50, 60),), ((150, 50, 60), 1.15), ((50, 60, 150),))
    )
    for colours in (red, brighter, blue):
        assert cosine(colours, colours) == pytest.approx(1, abs=0.02)  # of unit norm, but for rounding
    assert cosine(red, brighter) > 0.8
    assert cosine(red, blue) < 0.1


def test_colours_of_all_sorts_of_images_have_unit_norm():
    for seed in range(20):
        colours = examine_image(encode(scene(seed=seed)), LIMITS).colours
        assert cosine(colours, colours) == pytest.approx(1, abs=0.02)
    white = Image.new("RGB", (96, 96), "white")
    white.paste("black", (0, 0, 96, 8))  # nothing in its middle but white: the background is all there is
    assert cosine(*[examine_image(encode(white), LIMITS).colours] * 2) == pytest.approx(1, abs=0.02)


def test_no_bytes_make_it_raise():
    dice = random.Random(0)
    starts = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0")
    reasons = [
        examine_image(dice.choice(starts) + dice.randbytes(dice.randrange(1, 300)), LIMITS).reason for _ in range(200)
    ]
    assert all(reasons)
    jpeg = encode(scene(), "JPEG", quality=80)
    for _ in range(200):
        mutated = bytearray(jpeg)
        for _ in range(dice.randrange(1, 12)):
            mutated[dice.randrange(len(mutated))] = dice.randrange(256)
        facts = examine_image(bytes(mutated[: dice.randrange(1, 2 * len(mutated))]), LIMITS)
        assert isinstance(facts, ImageFacts)
        assert (facts.thumbnail is None) == (facts.reason is not None)
