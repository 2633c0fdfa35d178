"""Images in any form that shops have them to 8-bit RGB Pillow images, or one clear error.

Contract: `load_product_image` either returns an upright, opaque sRGB image with at most `max_pixels` pixels, or raises
`ProductImageError`, whose `reason` is a short name that rows can be counted by. A file's colour profile is applied,
transparency is laid on white (the background of a product page), deeper bit depths are scaled rather than clipped, the
first frame stands for an animation, and what decoding will cost is bounded by a file's headers before it begins.
Nothing is fetched from the network and no Pillow setting is changed. Pillow is imported on first use.
"""

import contextlib
import functools
import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from transformers.utils import is_vision_available, requires_backends

if TYPE_CHECKING and is_vision_available():
    from PIL.Image import Image as PILImage

    # Decodes an opened JPEG in its own way, given the open file and the EXIF orientation, or returns `None`.
    JpegDecoder: TypeAlias = Callable[[PILImage, Any, int], np.ndarray | None]

__all__ = ["MAX_ASPECT_RATIO", "MAX_IMAGE_PIXELS", "ProductImageError", "load_product_image", "read_product_image"]

MAX_IMAGE_PIXELS = 50_000_000
MAX_ASPECT_RATIO = 50

# An allow-list: Pillow also opens formats that run an interpreter (EPS) or hold no photograph (fonts, cursors).
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
# A file that starts like one of these and cannot be opened is damaged rather than something else.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
# Decoders of these formats need more memory or time a pixel: an image may have `max_pixels` divided by this.
_COSTLY_FORMATS = {"WEBP": 4, "AVIF": 4, "JPEG2000": 8, "PPM": 4}
_MAX_SCANNED_PIXELS = 250_000_000  # of a progressive JPEG over all scans, which usually are ten
MAX_FILE_BYTES = 2**29
_MAX_CHUNKS = 100_000  # of a PNG
_EXIF_ORIENTATION = 0x0112
_CHANNELS = (1, 3, 4)


class ProductImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: Short snake_case name to count by: `"missing"` (no image was given, or no such file), `"empty"`
            (no bytes or no pixels), `"not_an_image"`, `"truncated"` (an image file that ends early or is damaged),
            `"too_many_pixels"`, `"too_thin"`, `"too_costly"` (a file made so that decoding it takes minutes),
            `"not_finite"` (NaN or infinity in an array) or `"unsupported"`.
    """

    def __init__(self, message: str, reason: str = "unsupported"):
        """Keep the message (what was received and how to mend it) and the reason."""
        super().__init__(message)
        self.reason = reason


def load_product_image(image: Any, *, max_pixels: int = MAX_IMAGE_PIXELS) -> "PILImage":
    """Turn one image, in any form shops and data sets have it, into an RGB Pillow image.

    Args:
        image: One image as
            a Pillow image (an image that is usable as it stands is returned itself, not a copy);
            a numpy array or torch tensor of shape `(H, W)`, `(H, W, C)` or `(C, H, W)` with `C` in 1, 3, 4: bool,
            8-bit, 16-bit (`uint16`), wider integers that hold 0..255, or floats that hold 0..1. Where both orders of
            axes fit, an array is read as channels last and a tensor as channels first;
            encoded bytes (JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, JPEG 2000, PPM);
            a path; or a mapping with `"bytes"` and/or `"path"`, as `datasets` gives for `Image(decode=False)`.
        max_pixels: Largest accepted width times height.

    Returns:
        The image in mode "RGB", in sRGB: first frame, EXIF orientation applied, transparency on white.

    Raises:
        ProductImageError: If the image cannot be used. Its `reason` says why in one word.
        ImportError: If Pillow is not installed.
    """
    return read_product_image(image, max_pixels)


def read_product_image(image: Any, max_pixels: int, decode_jpeg: "JpegDecoder | None" = None) -> Any:
    """Load an image as `load_product_image` does, with another decoder for JPEG files if one is given.

    Returns:
        The image in mode "RGB", or the array that `decode_jpeg` returned.
    """
    Image, _ = _pillow()
    if isinstance(image, Mapping):
        if "bytes" not in image and "path" not in image:
            raise ProductImageError(
                f"a mapping with the keys {sorted(map(str, image))} holds no image. Give it 'bytes' or 'path'."
            )
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if image is None:
        raise ProductImageError("no image: received None. Give an image or leave the row out.", "missing")
    if isinstance(image, Image.Image):
        name = f"Pillow image of mode {image.mode} and size {image.width}x{image.height}"
        return _to_rgb(_decoded(image, name, max_pixels), name)
    if isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return _from_array(array, "tensor", max_pixels, channels_first=True)
    if isinstance(image, np.ndarray):
        return _from_array(image, "array", max_pixels, channels_first=False)
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_file(io.BytesIO(image), f"bytes ({len(image):,} of them)", max_pixels, decode_jpeg)
    if isinstance(image, str | os.PathLike):
        return _from_path(os.fspath(image), max_pixels, decode_jpeg)
    raise ProductImageError(
        f"an image cannot be read from a {type(image).__name__}. Give a Pillow image, numpy array, torch tensor, "
        "encoded bytes, a path, or a mapping with 'bytes' or 'path'."
    )


def _pillow() -> tuple[Any, Any]:
    requires_backends(load_product_image, ["vision"])
    if is_vision_available():  # this form marks the import as optional for transformers' check of remote code
        from PIL import Image, ImageOps
    return Image, ImageOps


def _from_path(path: Any, max_pixels: int, decode_jpeg: "JpegDecoder | None") -> Any:
    name = repr(path)
    if isinstance(path, str) and ("://" in path or path.startswith("data:")):
        raise ProductImageError(
            f"{name[:200]} is an address, not a file. Download the image first and give its path or bytes.",
            "unsupported",
        )
    if not os.path.isfile(path):  # a device or a pipe would block for ever
        raise ProductImageError(f"there is no file at {name[:500]}. Check the path and the image folder.", "missing")
    try:
        with open(path, "rb") as file:
            return _from_file(file, f"file {name}", max_pixels, decode_jpeg)
    except OSError as error:
        raise ProductImageError(f"file {name} cannot be read ({error}). Check its permissions.", "missing") from error


def _from_file(file: Any, name: str, max_pixels: int, decode_jpeg: "JpegDecoder | None") -> Any:
    Image, _ = _pillow()
    start, size = file.read(32), file.seek(0, os.SEEK_END)
    if not start:
        raise ProductImageError(f"{name}: empty, there is not one byte in it. Download or export it again.", "empty")
    if size > MAX_FILE_BYTES:
        raise _too_costly(name, f"{size:,} bytes")
    file.seek(0)
    Image.init()
    formats = [format for format in _FORMATS if format in Image.OPEN]
    with _clear_errors(name, max_pixels):
        if start[8:12] == b"WEBP":  # Pillow takes memory for its pixels before it tells how many there are
            _check_size(*_webp_size(start), name, max_pixels // _COSTLY_FORMATS["WEBP"])
        elif start.startswith(_SIGNATURES[1]):
            file = io.BytesIO(_without_text(file.read(), name))
        try:
            pil_image = Image.open(file, formats=formats)
        except Image.UnidentifiedImageError as error:
            if start[8:12] == b"WEBP" or start.startswith(_SIGNATURES):
                raise
            raise ProductImageError(
                f"{name}: not an image in a known format ({', '.join(formats)}). Convert it to JPEG or PNG.",
                "not_an_image",
            ) from error
    if decode_jpeg is not None and pil_image.format in ("JPEG", "MPO"):
        _check_cost(pil_image, name, max_pixels)
        if (pixels := decode_jpeg(pil_image, file, _orientation(pil_image))) is not None:
            transform = _to_srgb("RGB", pil_image.info.get("icc_profile"))
            return np.asarray(transform.apply(Image.fromarray(pixels))) if transform else pixels
    rgb = _to_rgb(_decoded(pil_image, name, max_pixels), name)
    return rgb.copy() if getattr(rgb, "fp", None) else rgb  # which lets go of the file


def _orientation(pil_image: "PILImage") -> int:
    """Return the EXIF orientation, 1 for upright and 5 to 8 for an image that lies on its side."""
    with contextlib.suppress(Exception):  # damaged metadata says nothing about the pixels
        if 1 <= (orientation := int(pil_image.getexif().get(_EXIF_ORIENTATION, 1))) <= 8:
            return orientation
    return 1


def _decoded(pil_image: "PILImage", name: str, max_pixels: int) -> "PILImage":
    """Check what the headers state, then decode."""
    with _clear_errors(name, max_pixels):
        _check_cost(pil_image, name, max_pixels)
        pil_image.load()
    _check_size(pil_image.width, pil_image.height, name, max_pixels)  # which a few formats tell only now
    return pil_image


@contextlib.contextmanager
def _clear_errors(name: str, max_pixels: int) -> Iterator[None]:
    """Name what Pillow's readers raise, which on hostile files is nearly every kind of exception that there is."""
    Image, _ = _pillow()
    try:
        yield
    except (ProductImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(name, str(error), max_pixels) from error
    except Exception as error:
        raise ProductImageError(
            f"{name}: the image file ends early or is damaged ({error}). Download or export it again.", "truncated"
        ) from error


def _webp_size(start: bytes) -> tuple[int, int]:
    """Return the width and height in the header of a WebP file."""
    kind, body = start[12:16], start[20:].ljust(12, b"\1")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    sizes = int.from_bytes(body[1:5] if kind == b"VP8L" else body[6:10], "little")
    if kind == b"VP8L":
        return 1 + (sizes & 0x3FFF), 1 + (sizes >> 14 & 0x3FFF)
    return sizes & 0x3FFF, sizes >> 16 & 0x3FFF


def _without_text(content: bytes, name: str) -> bytes:
    """Cut what Pillow gives up at out of a PNG: texts, and profiles that are larger than any for RGB or grey."""
    kept, start = [content[:8]], 8
    for _ in range(_MAX_CHUNKS):
        kind, stop = content[start + 4 : start + 8], start + 12 + int.from_bytes(content[start : start + 4], "big")
        if kind == b"iCCP":
            packed = content[start + 8 : stop - 4].split(b"\0", 1)[-1][1:]
            with contextlib.suppress(zlib.error):
                kind = b"zTXt" if len(zlib.decompressobj().decompress(packed, 2**20)) == 2**20 else kind
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(content[start:stop])
        start = stop
        if kind == b"IEND" or start >= len(content):
            return b"".join(kept)
    raise _too_costly(name, f"more than {_MAX_CHUNKS:,} chunks")


def _check_cost(pil_image: "PILImage", name: str, max_pixels: int) -> None:
    """Refuse too many pixels, and files whose decoder would go over them many times, or over many more than that."""
    width, height, kind = pil_image.width, pil_image.height, pil_image.format
    file: Any = getattr(pil_image, "fp", None)  # a Pillow image without one is decoded already
    if file and (kind in _COSTLY_FORMATS or "progressive" in pil_image.info or pil_image.mode in ("I", "F")):
        max_pixels //= _COSTLY_FORMATS.get(kind or "", 2)
    _check_size(width, height, name, max_pixels)
    if not file or kind not in ("JPEG", "MPO", "TIFF", "JPEG2000"):
        return
    position = file.tell()
    file.seek(0)
    content, found, num_parts = file.read(MAX_FILE_BYTES), "", 1
    file.seek(position)
    if kind == "TIFF":
        tags: Any = pil_image.tag_v2  # type: ignore[attr-defined]
        tile = [int(tags.get(tag) or 1) for tag in (322, 323)]
        parts = tags.get(325) or tags.get(279) or ()  # bytes of each tile or strip
        num_parts = len(parts) or 1
        if (width + tile[0]) * (height + tile[1]) > 4 * width * height + 2**21:
            found = f"tiles of {tile[0]}x{tile[1]} for {width}x{height}"
        elif sum(min(size, len(content)) for size in parts) > 2 * len(content):
            found = "tiles or strips that share their bytes"
    elif kind == "JPEG2000":
        header = content[content.find(b"\xff\x4f\xff\x51") :].split(b"\xff\x90", 1)[0]
        tile = [int.from_bytes(header[at : at + 4], "big") or 1 for at in (24, 28)]
        coding = header[header.find(b"\xff\x52\0") :].ljust(13, b"\0")  # its style, and the sides of its blocks
        precincts = coding[14 : 15 + coding[9]] if coding[4] & 1 else b""
        if (1 + width // tile[0]) * (1 + height // tile[1]) > 1024:
            found = f"tiles of {tile[0]}x{tile[1]} for {width}x{height}"
        elif min(coding[10:12]) < 2 or any(min(sizes & 15, sizes >> 4) < 4 for sizes in precincts[1:]):
            found = "blocks of fewer than 16 pixels a side"
    if kind in ("JPEG", "MPO") or "jpeg" in str(pil_image.info.get("compression")):
        scans = content.count(b"\xff\xda") // num_parts
        found = f"{scans} scans of {width}x{height}" if scans * width * height > _MAX_SCANNED_PIXELS else found
    if found:
        raise _too_costly(name, found)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ProductImageError(f"{name}: no pixels ({width}x{height}). Leave the image out.", "empty")
    if width * height > max_pixels:
        raise _too_many_pixels(name, f"{width}x{height} is {width * height:,} pixels", max_pixels)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ProductImageError(
            f"{name}: {width}x{height} is more than {MAX_ASPECT_RATIO} times as long as wide, which an image "
            "processor that keeps proportions makes gigabytes of. Crop it, or leave the offer out.",
            "too_thin",
        )


def _too_costly(name: str, found: str) -> ProductImageError:
    return ProductImageError(
        f"{name}: {found}, which takes minutes or gigabytes to decode. Save the image again as a plain JPEG or PNG.",
        "too_costly",
    )


def _too_many_pixels(name: str, found: str, max_pixels: int) -> ProductImageError:
    return ProductImageError(
        f"{name}: {found}, more than max_pixels={max_pixels:,}. Make the image smaller, or raise max_pixels if you "
        "trust its source.",
        "too_many_pixels",
    )


def _from_array(array: np.ndarray, kind: str, max_pixels: int, channels_first: bool) -> "PILImage":
    Image, _ = _pillow()
    name = f"{kind} of shape {tuple(array.shape)} and type {array.dtype}"
    if array.size == 0:
        raise ProductImageError(f"{name}: no pixels. Leave the image out.", "empty")
    first = array.ndim == 3 and array.shape[0] in _CHANNELS
    last = array.ndim == 3 and array.shape[-1] in _CHANNELS
    if first and (channels_first or not last):
        array = np.moveaxis(array, 0, -1)
    elif array.ndim != 2 and not last:
        raise ProductImageError(
            f"{name}: not one image. Give (H, W), (H, W, C) or (C, H, W) with C in {_CHANNELS}, one image at a time.",
            "unsupported",
        )
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = array[..., 0] if array.shape[2:] == (1,) else array
    return _to_rgb(Image.fromarray(np.ascontiguousarray(_to_uint8(array, name))), name)


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Scale values to 0..255 by their type: bool, 8-bit and 16-bit by range, floats from 0..1."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return np.rint(array.astype(np.float32) / 257).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ProductImageError(f"{name}: not numbers for pixels. Give uint8 or floats in 0..1.", "unsupported")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ProductImageError(f"{name}: holds NaN or infinity. Mend or leave the image out.", "not_finite")
    low, high = array.min(), array.max()
    limit, tolerance = (1, 1e-3) if array.dtype.kind == "f" else (255, 0)
    if low < -tolerance or high > limit + tolerance:
        raise ProductImageError(
            f"{name}: values from {low:g} to {high:g}, expected 0..{limit}. Give uint8 (0..255), uint16 (0..65535) or "
            "floats scaled to 0..1; undo mean and deviation first if it was normalised.",
            "unsupported",
        )
    if array.dtype.kind == "f":
        # In float32: half precision cannot tell neighbouring values near 255 apart after the product.
        return np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return array.astype(np.uint8)


def _to_rgb(pil_image: "PILImage", name: str) -> "PILImage":
    """Turn a decoded image upright, scale it to 8 bits, bring its colours to sRGB, and lay it on white."""
    Image, ImageOps = _pillow()
    if _orientation(pil_image) != 1:
        with contextlib.suppress(Exception):
            pil_image = ImageOps.exif_transpose(pil_image)
    plain_modes = ("I", "F") if "transparency" in pil_image.info else ("I", "F", "RGB")
    if pil_image.height > (rows := 1 + 2**20 // pil_image.width) and pil_image.mode not in plain_modes:
        rgb = Image.new("RGB", pil_image.size)  # in strips: of all pixels at once there would be four copies
        for top in range(0, pil_image.height, rows):  # what the last has too much is left out
            rgb.paste(_to_rgb(pil_image.crop((0, top, pil_image.width, top + rows)), name), (0, top))
        return rgb
    profile = pil_image.info.get("icc_profile")
    if pil_image.mode in ("I", "F") or pil_image.mode.startswith("I;16"):
        pil_image = Image.fromarray(_deep_to_uint8(pil_image, name))
    try:
        if pil_image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in pil_image.info:
            layer = (pil_image.convert("LA") if pil_image.mode == "La" else pil_image).convert("RGBA")
            if transform := _to_srgb("RGBA", profile):
                layer = transform.apply(layer)
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        if profile and pil_image.mode not in ("L", "CMYK", "LAB"):  # which have profiles of their own kind
            pil_image = pil_image.convert("RGB")
        if transform := _to_srgb(pil_image.mode, profile):
            return transform.apply(pil_image)
        return pil_image if pil_image.mode == "RGB" else pil_image.convert("RGB")
    except (ValueError, OSError) as error:
        raise ProductImageError(
            f"{name}: mode {pil_image.mode} cannot be turned into RGB ({error}). Convert it to JPEG or PNG.",
            "unsupported",
        ) from error


@functools.lru_cache(16)
def _to_srgb(mode: str, profile: bytes | None) -> Any:
    """Return what brings pixels from a colour profile to sRGB; `None` where nothing is to be done, or nothing can."""
    if not profile or not is_vision_available():
        return None
    try:
        from PIL import Image, ImageCms

        own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(own, srgb, mode, "RGBA" if mode == "RGBA" else "RGB")
        if mode != "RGB":
            return transform
        levels = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 15, dtype=np.uint8)]), -1).reshape(18, -1, 3)
        # Most profiles are sRGB under some name: nothing is to be done.
        changes = np.asarray(transform.apply(Image.fromarray(levels))).astype(int) - levels
        return transform if abs(changes).max() > 2 else None
    except Exception:  # damaged, for other pixels than these, or Pillow is built without colour management
        return None


def _deep_to_uint8(pil_image: "PILImage", name: str) -> np.ndarray:
    """Pixels of Pillow's deep greyscale modes as 8 bits.

    "I;16" is 16-bit by name. "I" and "F" state no range: "I" is read as 16-bit once a value passes 255, and "F" as
    0..1 up to 1 and as 0..255, Pillow's own convention, beyond.
    """
    array = np.asarray(pil_image)
    if isinstance(transparent := pil_image.info.get("transparency"), int):  # the level that a 16-bit PNG leaves out
        array = np.where(array == transparent, 65535, array)
    if pil_image.mode == "I" and array.max() > 255 and array.min() >= 0 and array.max() <= 65535:
        array = array.astype(np.uint16)
    elif pil_image.mode == "F" and 1 < array.max() <= 255:
        array = array / np.float32(255)
    return _to_uint8(array, name)
