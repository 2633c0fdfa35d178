"""Every mode of image that shops have, and every file that only looks like one."""

import io
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from image_bombs import WEBP_OF_16383_SQUARED, progressive_bomb, tiff
from PIL import Image, ImageCms

from modeling_eclip.images_eclip import ProductImageError, load_product_image
from modeling_eclip.inference.jpeg import load_product_pixels

WHITE = (255, 255, 255)


def encode(pil_image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    pil_image.save(buffer, format, **options)
    return buffer.getvalue()


def two_pixels(left, right, mode: str) -> Image.Image:
    """An image of 2x1 pixels."""
    pil_image = Image.new(mode, (2, 1), left)
    pil_image.putpixel((1, 0), right)
    return pil_image


def pixels(pil_image: Image.Image) -> list:
    assert pil_image.mode == "RGB"
    return [pil_image.getpixel((x, y)) for y in range(pil_image.height) for x in range(pil_image.width)]


def reason_of(image, **options) -> str:
    with pytest.raises(ProductImageError) as caught:
        load_product_image(image, **options)
    return caught.value.reason


def test_rgb_is_returned_itself():
    pil_image = Image.new("RGB", (2, 2), (1, 2, 3))
    assert load_product_image(pil_image) is pil_image


@pytest.mark.parametrize("through_file", [False, True], ids=["object", "png"])
@pytest.mark.parametrize(
    ("pil_image", "expected"),
    [
        # Black with alpha 0 is white, with alpha 102 (40 %) it is 60 % of white: 153.
        (two_pixels((0, 0, 0, 0), (0, 0, 0, 102), "RGBA"), [WHITE, (153, 153, 153)]),
        (two_pixels((10, 20, 30, 255), (10, 20, 30, 0), "RGBA"), [(10, 20, 30), WHITE]),
        (two_pixels((0, 0), (7, 255), "LA"), [WHITE, (7, 7, 7)]),
        (two_pixels(0, 200, "L"), [(0, 0, 0), (200, 200, 200)]),
        (two_pixels(0, 1, "1"), [(0, 0, 0), WHITE]),
        (two_pixels(0, 257 * 100, "I;16"), [(0, 0, 0), (100, 100, 100)]),
    ],
    ids=["rgba", "rgba-opaque", "la", "grey", "one-bit", "16-bit"],
)
def test_modes(pil_image, expected, through_file):
    assert pixels(load_product_image(encode(pil_image) if through_file else pil_image)) == expected


def test_palette_with_transparency_is_on_white():
    pil_image = Image.new("P", (2, 1), 0)
    pil_image.putpalette([9, 9, 9, 40, 50, 60])
    pil_image.putpixel((1, 0), 1)
    assert pixels(load_product_image(encode(pil_image))) == [(9, 9, 9), (40, 50, 60)]
    assert pixels(load_product_image(encode(pil_image, transparency=0))) == [WHITE, (40, 50, 60)]
    assert pixels(load_product_image(encode(pil_image, "GIF", transparency=0))) == [WHITE, (40, 50, 60)]
    # Alpha per palette entry: 0 and 51 (20 % of (40, 50, 60) on 80 % of white).
    assert pixels(load_product_image(encode(pil_image, transparency=bytes([0, 51])))) == [WHITE, (212, 214, 216)]


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_one_transparent_colour_is_on_white(mode):
    black = (0, 0, 0) if mode == "RGB" else 0
    other = {"RGB": (1, 2, 3), "L": 5, "1": 1}[mode]
    content = encode(two_pixels(black, other, mode), transparency=black)
    assert pixels(load_product_image(content))[0] == WHITE


def test_other_modes_with_alpha_are_on_white():
    palette = two_pixels((0, 0), (1, 255), "PA")
    palette.putpalette([9, 9, 9, 40, 50, 60])
    assert pixels(load_product_image(palette)) == [WHITE, (40, 50, 60)]
    for mode in ("LA", "RGBA"):
        premultiplied = two_pixels(*(((0, 0), (7, 255)) if mode == "LA" else ((0,) * 4, (7, 7, 7, 255))), mode)
        premultiplied = premultiplied.convert({"LA": "La", "RGBA": "RGBa"}[mode])
        assert pixels(load_product_image(premultiplied)) == [WHITE, (7, 7, 7)]


def test_cmyk():
    pil_image = two_pixels((0, 0, 0, 0), (0, 255, 255, 0), "CMYK")
    assert pixels(load_product_image(pil_image)) == [WHITE, (255, 0, 0)]
    # A JPEG with an Adobe marker stores CMYK inverted; so does Pillow when it writes one. Loss allows a little.
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    content = encode(red, "JPEG", quality=100)
    assert b"Adobe" in content
    assert np.abs(np.asarray(load_product_image(content)).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_of_either_byte_order_is_scaled_not_clipped(order, tmp_path):
    # 65535 / 255 = 257, so 32896 is 128 and 300 is 1.2; clipped to 8 bits both would be 255.
    values = np.array([[0, 300, 32896, 65535]], np.dtype("u2").newbyteorder(order))
    file = tmp_path / "deep.tif"
    entries = [(256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 8)]
    directory = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 16)
    file.write_bytes(head + values.tobytes() + struct.pack(f"{order}H", len(entries)) + directory + bytes(4))
    assert [pixel[0] for pixel in pixels(load_product_image(file))] == [0, 1, 128, 255]


def test_modes_without_a_stated_range():
    assert pixels(load_product_image(two_pixels(0, 65535, "I"))) == [(0, 0, 0), WHITE]
    assert pixels(load_product_image(two_pixels(0, 200, "I")))[1] == (200, 200, 200)
    assert pixels(load_product_image(two_pixels(0.0, 1.0, "F"))) == [(0, 0, 0), WHITE]
    assert pixels(load_product_image(two_pixels(0.0, 200.0, "F")))[1] == (200, 200, 200)
    assert reason_of(two_pixels(0, 70_000, "I")) == "unsupported"
    assert reason_of(two_pixels(-1, 5, "I")) == "unsupported"
    assert reason_of(two_pixels(0.0, 1e6, "F")) == "unsupported"
    assert reason_of(two_pixels(0.0, float("nan"), "F")) == "not_finite"


def s15(value):
    return struct.pack(">i", round(value * 65536))


def colour_profile(red, green, blue, gamma=2.2):
    """Return an ICC profile of RGB with these primaries, as cameras and phones put it into their files."""
    curve, name = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0", b"ours\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + name + bytes(78)}
    for tag, values in ((b"wtpt", (0.9642, 1, 0.8249)), (b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue)):
        tags[tag] = b"XYZ \0\0\0\0" + b"".join(map(s15, values))
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack(">I", size) + b"lcms" + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    return head + bytes(28) + s15(0.9642) + s15(1) + s15(0.8249) + bytes(48) + table + body


DISPLAY_P3 = colour_profile((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = colour_profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


@pytest.mark.parametrize("profile", [DISPLAY_P3, ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_colour_profiles_are_applied(profile, format):
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    for meant in ((200, 30, 30), (30, 160, 60), (240, 200, 20)):
        stored = ImageCms.profileToProfile(Image.new("RGB", (16, 16), meant), ImageCms.createProfile("sRGB"), own)
        content = encode(stored, format, icc_profile=profile, quality=100)
        for pixel in (load_product_image(content).getpixel((8, 8)), load_product_pixels(content)[0][8, 8]):
            # 6 levels: what 8 bits in the profile's space and the format's compression leave of the colour
            np.testing.assert_allclose(np.asarray(pixel, int), meant, atol=6)


def test_colour_profiles_are_applied_beside_transparency():
    image = Image.new("RGBA", (4, 4), (78, 156, 74, 255))
    image.putpixel((0, 0), (78, 156, 74, 0))
    loaded = load_product_image(encode(image, icc_profile=DISPLAY_P3))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    np.testing.assert_allclose(loaded.getpixel((1, 1)), (30, 160, 60), atol=4)  # as in the test above


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"damaged"])
def test_profiles_that_change_nothing_leave_every_level_as_it_is(profile):
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert np.array_equal(load_product_image(encode(levels, icc_profile=profile)), levels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_transparent_level_of_a_grey_png_is_on_white(dtype):
    array = np.full((4, 4), np.iinfo(dtype).max // 2, dtype)
    array[0, 0] = 0
    loaded = load_product_image(encode(Image.fromarray(array), transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 1)) == (127, 127, 127)


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: the left pixel comes to the top
    pil_image = two_pixels((255, 0, 0), (0, 0, 255), "RGB")
    upright = load_product_image(encode(pil_image, exif=exif))
    assert upright.size == (1, 2) and pixels(upright) == [(255, 0, 0), (0, 0, 255)]
    assert load_product_image(upright) is upright, "turned once, not twice"
    opened = Image.open(io.BytesIO(encode(pil_image, exif=exif)))
    assert load_product_image(opened).size == (1, 2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image():
    content = encode(Image.new("RGB", (8, 8), WHITE), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert load_product_image(content).size == (8, 8)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=100, **{"lossless": True})
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert set(pixels(load_product_image(content))) == {(255, 0, 0)}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_formats(format):
    assert load_product_image(encode(Image.new("RGB", (9, 7), WHITE), format)).size == (9, 7)


# (2, 2, 3): a side of 1, 3 or 4 could be an axis of channels.
COLOURS = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (255, 0, 128)]
SQUARE = np.array(COLOURS, np.uint8).reshape(2, 2, 3)


@pytest.mark.parametrize(
    "array",
    [
        SQUARE,
        np.moveaxis(SQUARE, -1, 0),
        SQUARE.astype(np.int64),
        (SQUARE / 255).astype(np.float64),
        (SQUARE / 255).astype(np.float32),
        (SQUARE / 255).astype(np.float16),
        SQUARE.astype(np.uint16) * 257,
        np.concatenate([SQUARE, np.full((2, 2, 1), 255, np.uint8)], axis=-1),
        SQUARE[:, ::-1][:, ::-1],
    ],
    ids=["uint8", "chw", "int64", "float64", "float32", "float16", "uint16", "rgba", "strided"],
)
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_arrays(array, kind):
    image = array if kind == "array" else torch.from_numpy(np.ascontiguousarray(array))
    assert pixels(load_product_image(image)) == COLOURS


def test_more_arrays():
    grey = np.array([[0, 128]], np.uint8)
    for image in (grey, grey[..., None], grey[None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert pixels(load_product_image(image)) == [(0, 0, 0), (128, 128, 128)]
    assert pixels(load_product_image(np.array([[False, True]]))) == [(0, 0, 0), WHITE]
    assert pixels(load_product_image(np.zeros((1, 1, 4), np.uint8))) == [WHITE]
    brain = torch.tensor([[[0.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True)
    assert pixels(load_product_image(brain)) == [(0, 0, 0), WHITE]


def test_order_of_axes_where_both_fit():
    image = np.zeros((3, 2, 3), np.uint8)
    assert load_product_image(image).size == (2, 3)
    assert load_product_image(torch.from_numpy(image)).size == (3, 2)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 4, 3)), "empty"),
        (np.full((2, 2), np.nan), "not_finite"),
        (np.full((2, 2), np.inf, np.float16), "not_finite"),
        (np.full((2, 2), 200.0), "unsupported"),
        (np.full((2, 2), -0.5), "unsupported"),
        (np.full((2, 2), 256), "unsupported"),
        (np.zeros((2, 2), complex), "unsupported"),
        (np.zeros((2, 2), object), "unsupported"),
        (np.zeros((2, 2, 2), np.uint8), "unsupported"),
        (np.zeros((1, 2, 2, 3), np.uint8), "unsupported"),
        (np.zeros(3, np.uint8), "unsupported"),
        (np.zeros((4, 5), np.uint8), "too_many_pixels"),
    ],
)
def test_arrays_that_are_no_image(array, reason):
    assert reason_of(array, max_pixels=19) == reason
    if array.dtype != object:
        assert reason_of(torch.from_numpy(array), max_pixels=19) == reason


def test_places_an_image_can_come_from(tmp_path, monkeypatch):
    content = encode(Image.new("RGB", (3, 2), (1, 2, 3)))
    path = tmp_path / "상품 사진.png"
    path.write_bytes(content)
    sources = [content, bytearray(content), memoryview(content), path, str(path)]
    sources += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, {"path": path}]
    for source in sources:
        pil_image = load_product_image(source)
        assert pixels(pil_image) == [(1, 2, 3)] * 6
        assert pickle.loads(pickle.dumps(pil_image)).size == (3, 2)
    monkeypatch.chdir(tmp_path)
    assert load_product_image(path.name).size == (3, 2)


@pytest.mark.parametrize(
    ("image", "reason", "remedy"),
    [
        (None, "missing", "leave the row out"),
        ({"bytes": None, "path": None}, "missing", "leave the row out"),
        ({"url": "x"}, "unsupported", "'bytes' or 'path'"),
        ("no/such/file.jpg", "missing", "Check the path"),
        ("nul\0.jpg", "missing", "Check the path"),
        (Path(__file__).parent, "missing", "Check the path"),
        ("https://example.com/shoe.jpg", "unsupported", "Download the image first"),
        ("data:image/png;base64,AAAA", "unsupported", "Download the image first"),
        (b"", "empty", "Download or export"),
        (b"<html>404 not found</html>", "not_an_image", "JPEG or PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not_an_image", "JPEG or PNG"),
        (Path(__file__), "not_an_image", "JPEG or PNG"),
        (3.5, "unsupported", "Give a Pillow image"),
        ([[0, 1]], "unsupported", "Give a Pillow image"),
    ],
)
def test_what_is_no_image(image, reason, remedy):
    with pytest.raises(ProductImageError, match=remedy) as caught:
        load_product_image(image)
    assert caught.value.reason == reason


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files(format, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise), format)
    file = tmp_path / "half"
    file.write_bytes(content[: len(content) // 2])
    assert reason_of(file.read_bytes()) == "truncated"
    with pytest.raises(ProductImageError, match="half.*Download or export it again"):
        load_product_image(file)
    if format != "WEBP":  # which Pillow reads to the end before it opens it
        assert reason_of(Image.open(file)) == "truncated"
    # Nothing but the first bytes: the header itself is cut.
    if format != "BMP":
        assert reason_of(content[:12]) == "truncated"


def png_with_stated_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_before_decoding(monkeypatch):
    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
    settings = Image.MAX_IMAGE_PIXELS
    assert reason_of(png_with_stated_size(7_072, 7_072)) == "too_many_pixels"  # 50,013,184: just above the limit
    assert reason_of(png_with_stated_size(60_000, 60_000)) == "too_many_pixels"  # Pillow's own error
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert reason_of(png_with_stated_size(10_000, 10_000), max_pixels=10**9) == "too_many_pixels"
    assert settings == Image.MAX_IMAGE_PIXELS


def test_max_pixels_is_inclusive_and_holds_for_every_source():
    pil_image = Image.new("RGB", (4, 5))
    for image in (pil_image, encode(pil_image), np.asarray(pil_image), torch.zeros(3, 5, 4)):
        assert load_product_image(image, max_pixels=20).size == (4, 5)
        assert reason_of(image, max_pixels=19) == "too_many_pixels"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "CMYK", "I;16", "I"])
def test_a_large_image_is_what_its_parts_are(mode):
    rng = np.random.default_rng(0)
    size = (1024, 2 * 1024 + 9)  # of three strips, one of which is short
    levels = rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    if mode in ("I;16", "I"):  # its beginning is dark, and still of 16 bits
        deep = rng.integers(0, 65536, size[::-1], dtype=np.uint16)
        deep[:1100] %= 200
        image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(deep.astype(np.int32))
    else:
        image = Image.fromarray(levels).convert(mode)
    if mode in ("P", "RGB"):
        image.info["transparency"] = image.getpixel((3, 1200))
    found = np.asarray(load_product_image(image))
    for top in (0, 1000, 2000):
        height = min(700, size[1] - top)
        part = image.crop((0, top, size[0], top + height))
        if mode == "I":
            part = Image.fromarray(np.asarray(part).astype(np.uint16))
        assert np.array_equal(found[top : top + height], np.asarray(load_product_image(part))), (mode, top)


def test_zero_size():
    assert reason_of(Image.new("RGB", (0, 5))) == "empty"


@pytest.mark.parametrize(
    "kind, head", [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"), (b"iCCP", b"print\0\0")]
)
def test_large_texts_and_profiles_beside_the_pixels_of_a_png_are_left_unread(kind, head):
    # 100 MB of zeros in 100 kB, at which Pillow gives up; Photoshop writes texts above its limit of 1 MB.
    text = kind + head + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    image = two_pixels((1, 2, 3), (40, 50, 60), "RGB")
    content = encode(image)
    # What follows the end of the file is no part of it.
    assert pixels(load_product_image(content[:33] + chunk + content[33:] + bytes(10**7))) == pixels(image)
    assert reason_of(content[:33] + 10**5 * struct.pack(">I4sI", 0, b"tEXt", 0) + content[33:]) == "too_costly"


@pytest.mark.parametrize(
    "content, reason",
    [
        (progressive_bomb(3000, 100), "too_costly"),
        (progressive_bomb(7000, 2), "too_many_pixels"),  # all coefficients are kept beside the pixels
        (tiff({322: 8192, 323: 8192, 324: 0, 325: 9}, zlib.compress(bytes(9))), "too_costly"),
        (tiff({322: 16, 323: 16, 324: 0, 325: 256 * struct.pack("<I", 900)}, bytes(900), 256, 256), "too_costly"),
        (WEBP_OF_16383_SQUARED, "too_many_pixels"),
        (encode(Image.new("L", (512, 512)), "JPEG2000", tile_size=(8, 8)), "too_costly"),
        (encode(Image.new("L", (64, 64)), "JPEG2000", codeblock_size=(4, 4)), "too_costly"),
        (encode(Image.new("L", (64, 64)), "JPEG2000", precinct_size=(4, 4)), "too_costly"),
    ],
    ids=["scans", "coefficients", "tiles", "shared", "webp", "j2k-tiles", "j2k-blocks", "j2k-precincts"],
)
def test_files_that_cost_far_more_than_their_pixels_are_refused_before_decoding(content, reason, monkeypatch):
    opened = Image.open(io.BytesIO(content)) if content != WEBP_OF_16383_SQUARED else None

    def decode(*arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", decode)
    monkeypatch.setattr("PIL.Jpeg2KImagePlugin.Jpeg2KImageFile.load", decode)
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile._open", decode)
    monkeypatch.setattr("modeling_eclip.inference.jpeg.decode_jpeg", decode)
    assert reason_of(content) == reason
    with pytest.raises(ProductImageError) as caught:
        load_product_pixels(content)
    assert caught.value.reason == reason
    if opened:  # as a demo, or the pipelines of transformers, hand images over
        assert reason_of(opened) == reason


@pytest.mark.parametrize(
    "format, options",
    [
        ("JPEG", {"progressive": True}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("JPEG2000", {"tile_size": (256, 256), "codeblock_size": (32, 32)}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 80}),
        ("AVIF", {}),
    ],
)
def test_what_encoders_write_is_not_taken_for_such_a_file(format, options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).resize((1200, 900))
    assert load_product_image(encode(image, format, **options)).size == (1200, 900)


@pytest.mark.filterwarnings("ignore:::PIL")
def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(0)
    pil_image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    refused = 0
    for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        content = np.frombuffer(encode(pil_image, format), np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 8)] = rng.integers(0, 256, 8)
            try:
                assert load_product_image(damaged.tobytes(), max_pixels=10_000).mode == "RGB"
            except ProductImageError:
                refused += 1
    assert refused > 20


def test_error_survives_pickling():
    # A loader's worker hands its error to the main process this way.
    error = pickle.loads(pickle.dumps(ProductImageError("images[3]: gone", "missing")))
    assert (str(error), error.reason) == ("images[3]: gone", "missing")
    assert isinstance(error, ValueError)


def test_without_pillow_importing_works_and_calling_names_it():
    program = (
        "import sys\n"
        "sys.modules['PIL'] = None\n"
        "from modeling_eclip.images_eclip import load_product_image\n"
        "try:\n    load_product_image(b'x')\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "PIL" in done.stdout


@pytest.mark.parametrize("size", [(1, 60), (4000, 40)])
def test_images_that_are_almost_lines_are_refused(size):
    with pytest.raises(ProductImageError, match="50 times as long") as caught:
        load_product_image(Image.new("RGB", size))
    assert caught.value.reason == "too_thin"
    assert load_product_image(Image.new("RGB", (50, 1))).size == (50, 1)
