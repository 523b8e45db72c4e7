"""PNG files, as far as a screenshot needs them: 8 bits a sample, RGB, no filters (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG file of ``pixels``: rows from the top, red, green and blue byte of each pixel.

    Raises:
        ValueError: the bytes are not ``width * height * 3``.
    """
    if len(pixels) != width * height * 3 or not pixels:
        raise ValueError(f"{len(pixels)} bytes are not a picture of {width} by {height} pixels")
    stride = width * 3
    rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
