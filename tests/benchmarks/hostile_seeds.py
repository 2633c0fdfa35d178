"""Images and titles of every kind, bombs among them, and changes to them at random; for `hostile_inputs.py`."""

import io
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from image_bombs import WEBP_OF_16383_SQUARED, progressive_bomb, tiff

Content = tuple[str, bytes | str]
"""A name, and an image or a title."""


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int = 8, before: bytes = b"") -> bytes:
    """Return a grey PNG, row by row, with chunks before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deflate, row = zlib.compressobj(9), bytes((width * depth + 7) // 8 + 1)
    data = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def images() -> list[Content]:
    """Return an image of each kind that shops have, the largest that are taken, and bombs."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((400, 300))
    grey, palette = photo.convert("L"), photo.convert("P")
    kinds = {
        "JPEG": [(photo, {}), (photo, {"progressive": True}), (photo.convert("CMYK"), {}), (grey, {})],
        "PNG": [(photo, {}), (palette, {}), (photo.convert("RGBA"), {}), (grey.convert("I;16"), {})],
        "GIF": [(palette, {"save_all": True, "append_images": [palette] * 2})],
        "WEBP": [(photo, {}), (photo, {"lossless": True}), (photo, {"save_all": True, "append_images": [photo]})],
        "BMP": [(photo, {}), (palette, {})],
        "TIFF": [(photo, {"compression": name}) for name in ("raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate")]
        + [(photo.convert("1"), {"compression": "group4"}), (Image.new("1", (7000, 7000)), {"compression": "group4"})],
        "AVIF": [(photo, {}), (Image.new("RGB", (3400, 3400)), {})],
        "JPEG2000": [(photo, {}), (photo, {"tile_size": (64, 64)}), (Image.new("RGB", (2400, 2400)), {})]
        + [(Image.new("L", (512, 512)), {name: (8, 8)}) for name in ("tile_size", "codeblock_size", "precinct_size")],
        "PPM": [(photo, {})],
        "MPO": [(photo, {"save_all": True, "append_images": [photo]})],
    }
    found = [
        (f"{form} {place}", encoded(image, form, **options))
        for form, several in kinds.items()
        for place, (image, options) in enumerate(several)
    ]
    found += [(f"JPEG of {n} scans, {side} px", progressive_bomb(side, n)) for side, n in ((7000, 250), (7000, 9),
              (4900, 9), (5000, 4), (3000, 100), (500, 900))]  # fmt: skip
    for side in (4096, 5500):
        zeros = zlib.compress(bytes(side * side), 9)
        found.append((f"TIFF tile, {side} px", tiff({322: side, 323: side, 324: 0, 325: len(zeros)}, zeros)))
    shared = tiff({322: 16, 323: 16, 324: 0, 325: 256 * struct.pack("<I", 900)}, bytes(900), 256, 256)
    text = b"zTXt" + b"C\0\0" + zlib.compress(bytes(10**8))
    text = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    found += [("TIFF, shared tiles", shared), ("WebP of 34 bytes", WEBP_OF_16383_SQUARED)]
    found += [(f"PNG of 50 megapixels, {depth} bits", png(7000, 7000, depth)) for depth in (1, 8, 16)]
    found += [("PNG, long text", png(64, 64, before=text))]
    found += [("PNG, many texts", png(64, 64, before=struct.pack(">I4sI", 0, b"tEXt", 0) * 2_000_000))]
    found += [("GIF of 49 megapixels", encoded(Image.new("P", (7000, 7000)), "GIF"))]
    return [*found, ("ascii PBM", b"P1 5000 2400 " + b"0" * 12_000_000)]


def titles() -> list[Content]:
    """Return titles as shops have them, and some that rules and tokenizers are slow with."""
    letters = "".join(chr(code) for code in range(0x20, 0x3000) if unicodedata.category(chr(code)) != "Cs")
    return [
        ("plain", "ADA Women's Trail-Running Shoe, size 38½ (2 pack) – 50% OFF!!! *** Free Shipping ***"),
        ("html", "&lt;b&gt;mug&amp;amp;</b>&#x1F525;" * 9), ("letters", letters), ("one word", "a" * 10**6),
        ("scripts", "ＮＩＫＥ 跑步鞋 男士 Кроссовки أحذية รองเท้า नाइके 👟🔥 新款"),
        ("words", "mug " * 250_000), ("marks", "e" + "\u0301" * 10**5),
        ("brackets", "[(" * 50_000 + "sale" + ")]" * 50_000), ("tags", "<" * 10**5), ("entities", "&" * 10**5),
        ("digits", "9" * 10**5), ("joined", "👩\u200d" * 30_000), ("repeats", "red mug " * 20_000 + "!" * 20_000),
        ("spaces", "mug" + "\u3000\xa0\t" * 10**5 + "cup"), ("controls", "mug\0\x1b\u202e\ufeff" * 5_000),
        ("halves", "mug \ud800\udfff" * 3), ("blank", " \n "), ("nothing", ""),
    ]  # fmt: skip


def mutated(content: bytes | str, dice: np.random.Generator) -> bytes | str:
    """Change some characters at the beginning or anywhere, or cut, double or take out a piece."""
    if isinstance(content, str):
        changed = mutated(content.encode("utf-32-le", "surrogatepass"), dice)
        codes = np.frombuffer(changed[: len(changed) // 4 * 4], np.uint32) % 0x110000
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    data = bytearray(content or b"?")
    kind, head = dice.integers(6), min(len(data), 600)
    place, length = int(dice.integers(len(data))), int(dice.integers(1, 200))
    if kind == 0:
        for _ in range(dice.integers(1, 8)):
            data[dice.integers(head)] = dice.integers(256)
    elif kind == 1:
        for _ in range(dice.integers(1, 30)):
            data[dice.integers(len(data))] = dice.integers(256)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        data[place:place] = data[place : place + length] * int(dice.integers(1, 20))
    elif kind == 4:
        place = int(dice.integers(head))
        data[place : place + 4] = b"\xff" * len(data[place : place + 4])
    else:
        del data[place : place + length]
    return bytes(data)
