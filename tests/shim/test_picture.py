"""Pictures of text, from the VGA's own font, and PNG files."""

import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dm.shim.bios.font import font
from dm.shim.picture import picture
from dm.shim.png import png
from dm.shim.screen import Screen


def decoded(data):
    """Return width, height and pixels of a PNG without filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + body)
        chunks[name] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, kind) == (8, 2)
    rows = zlib.decompress(chunks[b"IDAT"])
    stride = width * 3 + 1
    assert all(rows[y * stride] == 0 for y in range(height))
    return width, height, b"".join(rows[y * stride + 1 : (y + 1) * stride] for y in range(height))


def test_png_holds_the_pixels():
    pixels = bytes(range(2 * 3 * 3))
    assert decoded(png(2, 3, pixels)) == (2, 3, pixels)
    with pytest.raises(ValueError, match="not a picture of 2 by 2"):
        png(2, 2, pixels)


def test_text_is_shown_in_its_font_and_colours(bench):
    bench.interrupt(0x10, ax=0x0941, bx=0x001E, cx=1)
    bench.interrupt(0x10, ax=0x0103 << 0, cx=0x2000)
    shown = picture(bench.pc.vga)
    assert (shown.width, shown.height) == (720, 400)
    yellow, blue = b"\xff\xff\x55", b"\x00\x00\xaa"
    for y, line in enumerate(font(16)[0x41 * 16 :][:16]):
        row = shown.pixels[y * 720 * 3 :][: 9 * 3]
        assert row == b"".join(yellow if line << n & 0x80 else blue for n in range(8)) + blue


def test_the_cursor_is_shown(bench):
    with_cursor = picture(bench.pc.vga).pixels
    bench.interrupt(0x10, ax=0x0100, cx=0x2000)
    without = picture(bench.pc.vga).pixels
    lines = {i // 3 // 720 for i in range(0, len(without), 3) if with_cursor[i : i + 3] != without[i : i + 3]}
    assert lines == {12, 13, 14, 15}


_REGISTERS = st.binary(min_size=25 + 5 + 9 + 21, max_size=25 + 5 + 9 + 21)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(registers=_REGISTERS, misc=st.integers(0, 255))
def test_whatever_a_guest_programs_there_is_a_picture_and_a_screen(bench, registers, misc):
    vga = bench.pc.vga
    vga.load(misc, registers[25:30], registers[:25], registers[39:60], registers[30:39])
    shown = picture(vga)
    assert len(shown.pixels) == shown.width * shown.height * 3 > 0
    assert Screen.of(bench.pc).rows >= 1
