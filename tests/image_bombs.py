"""Small files that would cost whoever decodes them minutes or gigabytes."""

import struct


def progressive_bomb(side: int, num_scans: int) -> bytes:
    """A grey progressive JPEG whose scans, of a few bytes each, go over all pixels and change none."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    one_code = bytes([1] + [0] * 15)
    content = b"\xff\xd8" + segment(0xDB, b"\0" + b"\x01" * 64)
    content += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    content += segment(0xC4, b"\x00" + one_code + b"\0") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    content += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes((((side + 7) // 8) ** 2 + 7) // 8)
    for number in range(num_scans):
        content += segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10 if number else 1])) + bytes(4)
    return content + b"\xff\xd9"


def tiff(entries: dict[int, int | bytes], data: bytes, width: int = 16, height: int = 16) -> bytes:
    """A deflated TIFF of 8 bits with these tags; offsets are those in `data`."""
    entries = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, **entries}
    start = 14 + 12 * len(entries)
    content = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, value in sorted(entries.items()):
        if isinstance(value, bytes):  # an array, at the end of `data`
            content += struct.pack("<HHII", tag, 4, len(value) // 4, start + len(data))
            data += value
        else:
            content += struct.pack("<HHII", tag, 4, 1, value + (start if tag == 324 else 0))
    return content + bytes(4) + data


WEBP_OF_16383_SQUARED = b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0" + struct.pack("<BI", 0x2F, 16382 | 16382 << 14) + bytes(9)
