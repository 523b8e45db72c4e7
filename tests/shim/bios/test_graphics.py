"""INT 10h in graphics modes."""

import pytest

from dm.engine.api import RegionKind
from dm.shim.bios.font import font
from dm.shim.bios.modes import MODES
from dm.shim.picture import picture, size
from dm.shim.screen import Screen

GRAPHICS = [mode for mode in MODES.values() if not mode.text]


def kind_at(bench, address):
    regions = bench.pc.memory_map.regions
    return next((r.kind for r in regions if r.gpa <= address < r.gpa + r.size), None)


@pytest.mark.parametrize("mode", GRAPHICS, ids=lambda mode: f"{mode.number:02X}h")
def test_mode_is_what_its_registers_say(bench, mode):
    bench.interrupt(0x10, ax=mode.number)
    assert bench.interrupt(0x10, ax=0x0F00).ax == mode.columns << 8 | mode.number
    assert size(bench.pc.vga) == (mode.width, mode.lines)
    assert f"{mode.width}x{mode.lines} dots, {1 << mode.bits if mode.bits > 1 else 2} colours" in (
        Screen.of(bench.pc).text()[0].replace("16 colours", "2 colours" if mode.bits == 1 else "16 colours")
    )
    assert bench.memory.read_int(0x484, 1) == mode.rows - 1
    assert bench.memory.read_int(0x485, 2) == mode.height


@pytest.mark.parametrize(
    ("mode", "address", "kind"),
    [(3, 0xB8000, RegionKind.RAM), (3, 0xA0000, None), (0x13, 0xA0000, RegionKind.RAM), (0x13, 0xB8000, None),
     (4, 0xB8000, RegionKind.RAM), (6, 0xB8000, RegionKind.RAM), (7, 0xB0000, RegionKind.RAM),
     (0x12, 0xA0000, RegionKind.COALESCED), (0x0D, 0xA0000, RegionKind.COALESCED)],
)  # fmt: skip
def test_display_memory_is_memory_where_it_can_be(bench, mode, address, kind):
    bench.interrupt(0x10, ax=mode)
    assert kind_at(bench, address) == kind


@pytest.mark.parametrize("mode", GRAPHICS, ids=lambda mode: f"{mode.number:02X}h")
def test_dots_are_written_read_and_shown(bench, mode):
    bench.interrupt(0x10, ax=mode.number)
    colour = (1 << mode.bits) - 1
    for x, y in ((0, 0), (mode.width - 1, mode.lines - 1), (13, 7)):
        bench.interrupt(0x10, ax=0x0C00 | colour, bx=0, cx=x, dx=y)
        assert bench.interrupt(0x10, ax=0x0D00, bx=0, cx=x, dx=y).al == colour
        assert bench.interrupt(0x10, ax=0x0D00, bx=0, cx=x ^ 1, dx=y).al == 0
    if mode.number != 0x13:  # by exclusive or
        bench.interrupt(0x10, ax=0x0C80 | colour, bx=0, cx=13, dx=7)
        assert bench.interrupt(0x10, ax=0x0D00, bx=0, cx=13, dx=7).al == 0
        bench.interrupt(0x10, ax=0x0C80 | colour, bx=0, cx=13, dx=7)
    shown = picture(bench.pc.vga)
    background = shown.pixels[3:6]
    lit = {i for i in range(mode.width * mode.lines) if shown.pixels[3 * i : 3 * i + 3] != background}
    if mode.number != 0x13:  # colour 255 is black there
        assert lit == {0, 7 * mode.width + 13, mode.width * mode.lines - 1}
    bench.interrupt(0x10, ax=0x0C01, bx=0, cx=mode.width, dx=0)
    assert bench.interrupt(0x10, ax=0x0D00, bx=0, cx=0, dx=1).al == 0, "beyond the edge there is nothing"


@pytest.mark.parametrize("mode", GRAPHICS, ids=lambda mode: f"{mode.number:02X}h")
def test_text_is_drawn_scrolled_and_read_back(bench, mode):
    bench.interrupt(0x10, ax=mode.number)
    for char in b"Hi" + b"\r\n" * mode.rows + b"A":
        bench.interrupt(0x10, ax=0x0E00 | char, bx=1)
    assert bench.interrupt(0x10, ax=0x0300, bx=0).dx == (mode.rows - 1) << 8 | 1
    bench.interrupt(0x10, ax=0x0200, bx=0, dx=(mode.rows - 1) << 8)
    assert bench.interrupt(0x10, ax=0x0800, bx=0).al == ord("A")
    bench.interrupt(0x10, ax=0x0200, bx=0, dx=0)
    assert bench.interrupt(0x10, ax=0x0800, bx=0).al in (0, 0x20), "the first row has scrolled off"
    y = (mode.rows - 1) * mode.height
    glyph = font(mode.height)[ord("A") * mode.height :][: mode.height]
    dots = [[bench.interrupt(0x10, ax=0x0D00, bx=0, cx=x, dx=y + i).al for x in range(8)] for i in range(mode.height)]
    assert dots == [[line >> 7 - x & 1 for x in range(8)] for line in glyph]


def test_scrolling_moves_a_window_only(bench):
    bench.interrupt(0x10, ax=0x0013)
    for x, y in ((0, 8), (8, 8), (16, 8)):
        bench.interrupt(0x10, ax=0x0C09, bx=0, cx=x, dx=y)
    bench.interrupt(0x10, ax=0x0601, bx=0x0500, cx=0x0001, dx=0x0101)

    def dot(x, y):
        return bench.interrupt(0x10, ax=0x0D00, bx=0, cx=x, dx=y).al

    assert [dot(8, 0), dot(8, 8), dot(0, 8), dot(16, 8)] == [9, 5, 9, 9]


def test_mode_13_memory_is_the_bytes_of_the_dots(bench):
    bench.interrupt(0x10, ax=0x0013)
    bench.memory.write(0xA0000 + 320 * 10, bytes(range(1, 9)))
    shown = picture(bench.pc.vga)
    palette = bench.pc.vga.palette
    expected = b"".join(bytes(v << 2 | v >> 4 for v in palette[3 * i : 3 * i + 3]) for i in range(1, 9))
    assert shown.pixels[3200 * 3 : 3200 * 3 + 24] == expected
    assert expected[0:3] == b"\x00\x00\xaa"


def test_cga_memory_has_odd_rows_8_kib_on(bench):
    bench.interrupt(0x10, ax=0x0004)
    bench.memory.write(0xBA000, b"\x1b")
    assert [bench.interrupt(0x10, ax=0x0D00, bx=0, cx=x, dx=1).al for x in range(4)] == [0, 1, 2, 3]
    bench.interrupt(0x10, ax=0x0B00, bx=0x0001)
    assert picture(bench.pc.vga).pixels[0:3] == b"\x00\x00\xaa", "the background"
    bench.interrupt(0x10, ax=0x0B00, bx=0x0100)
    assert picture(bench.pc.vga).pixels[(320 + 1) * 3 : (320 + 1) * 3 + 3] == b"\x00\xaa\x00", "green, red, brown"


def test_text_memory_survives_a_look_at_the_font(bench):
    bench.memory.write(0xB8000, b"T\x1f")
    shapes = bench.pc.vga.memory.planes[2][ord("T") * 32 :][:16]
    assert shapes == font(16)[ord("T") * 16 :][:16]
    # What a program does that loads a font by itself: plane 2 at A0000h.
    bench.pc.bus.write(0x3C4, 2, b"\x02\x04")
    bench.pc.bus.write(0x3C4, 2, b"\x04\x06")
    bench.pc.bus.write(0x3CE, 2, b"\x05\x00")
    bench.pc.bus.write(0x3CE, 2, b"\x06\x04")
    bench.pc.bus.write(0x3CE, 2, b"\x04\x02")
    assert kind_at(bench, 0xA0000) == RegionKind.COALESCED
    assert bench.memory.read(0xA0000 + ord("T") * 32, 16) == bytes(shapes)
    bench.memory.write(0xA0000 + ord("T") * 32, b"\xff" * 16)
    assert Screen.of(bench.pc).text()[0][0] == "T"
    bench.pc.bus.write(0x3C4, 2, b"\x02\x03")
    bench.pc.bus.write(0x3C4, 2, b"\x04\x02")
    bench.pc.bus.write(0x3CE, 2, b"\x05\x10")
    bench.pc.bus.write(0x3CE, 2, b"\x06\x0e")
    bench.pc.bus.write(0x3CE, 2, b"\x04\x00")
    assert bench.memory.read(0xB8000, 2) == b"T\x1f"
    assert picture(bench.pc.vga).pixels[: 8 * 3] == b"\xff\xff\xff" * 8, "the new shape"


def test_a_font_of_the_callers(bench):
    bench.memory.write(0x5000, bytes(range(14)))
    bench.interrupt(0x10, ax=0x1110, bx=0x0E00, cx=1, dx=0x41, es=0x500, bp=0)
    assert bench.pc.vga.memory.planes[2][0x41 * 32 :][:14] == bytes(range(14))
    assert bench.memory.read_int(0x484, 1) == 400 // 14 - 1
    bench.interrupt(0x10, ax=0x0012)
    bench.interrupt(0x10, ax=0x1121, bx=0, cx=14, dx=34, es=0x500, bp=0)
    assert bench.memory.read_int(0x43 * 4, 4) == 0x500_0000
    assert bench.memory.read_int(0x485, 2) == 14


@pytest.mark.parametrize("height", [8, 14, 16])
def test_fonts_are_complete_and_reachable(bench, height):
    glyphs = font(height)
    assert len(glyphs) == 256 * height
    shapes = [glyphs[c * height : (c + 1) * height] for c in range(0x21, 0x7F)]
    assert len(set(shapes)) == len(shapes)
    assert glyphs[0xDB * height : 0xDC * height] == b"\xff" * height
    result = bench.interrupt(0x10, ax=0x1130, bx={8: 0x0300, 14: 0x0200, 16: 0x0600}[height])
    assert bench.memory.read((result.es << 4) + result.bp, len(glyphs)) == glyphs
