"""The VGA's modes: what INT 10h AH=00h sets (IBM VGA Technical Reference, "BIOS", "Video Modes" and "Registers")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode.

    ``columns`` and ``height`` are those of its characters, ``rows`` their rows.  ``width`` and ``lines`` count dots, 0
    in text modes; ``bits`` are those of each dot.  ``page`` is the size of one page in display memory, bytes.
    """

    number: int
    columns: int
    rows: int
    height: int
    page: int
    misc: int
    sequencer: bytes
    crtc: bytes
    attributes: bytes
    graphics: bytes
    palette: str
    width: int = 0
    lines: int = 0
    bits: int = 0

    @property
    def text(self) -> bool:
        """Whether it shows characters."""
        return not self.width

    @property
    def name(self) -> str:
        """Say what it is."""
        if self.text:
            return f"mode {self.number:02X}h, {self.columns}x{self.rows} characters"
        return f"mode {self.number:02X}h, {self.width}x{self.lines}, {1 << self.bits} colours"


def _crtc(timing: str, height: int, end: str, offset: int, underline: int, control: int) -> bytes:
    """Put a table together: horizontal and vertical totals, maximum scan line, vertical sync, pitch, mode control."""
    start, blank = bytes.fromhex(end)[:3], bytes.fromhex(end)[3:]
    cursor = bytes((0x0D, 0x0E)) if height & 0x1F == 15 else bytes(2)
    return (
        bytes.fromhex(timing) + bytes((0, height)) + cursor + bytes(4) + start + bytes((offset, underline)) + blank
        + bytes((control, 0xFF))
    )  # fmt: skip


_WIDE, _NARROW = "5F 4F 50 82 55 81 BF 1F", "2D 27 28 90 2B A0 BF 1F"
_WIDE_DOTS, _NARROW_DOTS = "5F 4F 50 82 54 80 BF 1F", "2D 27 28 90 2B 80 BF 1F"
_TALL_DOTS = "5F 4F 50 82 54 80 0B 3E"
_400, _350, _480 = "9C 8E 8F 96 B9", "83 85 5D 63 BA", "EA 8C DF E7 04"

_TEXT_COLOURS = "00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F"
_16_OF_200 = "00 01 02 03 04 05 06 07 10 11 12 13 14 15 16 17"
_CGA = "00 13 15 17 02 04 06 07 10 11 12 13 14 15 16 17"
_IN_ORDER = " ".join(f"{i:02X}" for i in range(16))


def _attributes(colours: str, control: int, planes: int = 0x0F, pan: int = 0) -> bytes:
    return bytes.fromhex(colours) + bytes((control, 0, planes, pan, 0))


def _graphics(mode: int, misc: int, unmasked: int) -> bytes:
    return bytes((0, 0, 0, 0, 0, mode, misc, unmasked, 0xFF))


def _text(number: int, columns: int) -> Mode:
    narrow = columns == 40
    return Mode(
        number, columns, 25, 16, 0x800 if narrow else 0x1000, 0x67, bytes((3, 8 * narrow, 3, 0, 2)),
        _crtc(_NARROW if narrow else _WIDE, 0x4F, _400, columns // 2, 0x1F, 0xA3),
        _attributes(_TEXT_COLOURS, 0x0C, pan=8), _graphics(0x10, 0x0E, 0), "ega",
    )  # fmt: skip


def _planar(number: int, width: int, lines: int, palette: str, colours: str, *, bits: int = 4) -> Mode:
    columns, short = width // 8, lines == 200
    timing = _NARROW_DOTS if columns == 40 else _TALL_DOTS if lines == 480 else _WIDE_DOTS
    vertical, misc = {200: (_400, 0x63), 350: (_350, 0xA3), 480: (_480, 0xE3)}[lines]
    height = {200: 8, 350: 14, 480: 16}[lines]
    page = {200: 0x2000 if columns == 40 else 0x4000, 350: 0x8000, 480: 0xA000}[lines]
    return Mode(
        number, columns, lines // height, height, page, misc, bytes((3, 1 | 8 * (columns == 40), 15, 0, 6)),
        _crtc(timing, 0xC0 if short else 0x40, vertical, columns // 2, 0x0F if lines == 350 else 0, 0xE3),
        _attributes(colours, 1), _graphics(0, 0x05, 0x0F), palette, width, lines, bits,
    )  # fmt: skip


def _cga(number: int) -> Mode:
    fine = number == 6
    return Mode(
        number, 80 if fine else 40, 25, 8, 0x4000, 0x63, bytes((3, 1, 1, 0, 6) if fine else (3, 9, 3, 0, 2)),
        _crtc(_WIDE_DOTS if fine else _NARROW_DOTS, 0xC1, _400, 40 if fine else 20, 0, 0xC2 if fine else 0xA2),
        _attributes("00" + " 17" * 15 if fine else _CGA, 1, planes=1 if fine else 3),
        _graphics(0, 0x0D, 0) if fine else _graphics(0x30, 0x0F, 0), "cga", 640 if fine else 320, 200, 1 if fine else 2,
    )  # fmt: skip


_MODES: Final = (
    _text(0, 40), _text(1, 40), _text(2, 80), _text(3, 80),
    _cga(4), _cga(5), _cga(6),
    Mode(
        7, 80, 25, 16, 0x1000, 0x66, bytes((3, 0, 3, 0, 2)), _crtc(_WIDE, 0x4F, _400, 40, 0x0F, 0xA3),
        _attributes("00" + " 08" * 7 + " 10" + " 18" * 7, 0x0E, pan=8), _graphics(0x10, 0x0A, 0), "mono",
    ),
    _planar(0x0D, 320, 200, "cga", _16_OF_200),
    _planar(0x0E, 640, 200, "cga", _16_OF_200),
    _planar(0x0F, 640, 350, "mono", "00 08 00 00 18 18 00 00 00 08 00 00 00 18 00 00", bits=1),
    _planar(0x10, 640, 350, "ega", _TEXT_COLOURS),
    _planar(0x11, 640, 480, "ega", "00" + " 3F" * 15, bits=1),
    _planar(0x12, 640, 480, "ega", _TEXT_COLOURS),
    Mode(
        0x13, 40, 25, 8, 0x2000, 0x63, bytes((3, 1, 15, 0, 0x0E)), _crtc(_WIDE_DOTS, 0x41, _400, 40, 0x40, 0xA3),
        _attributes(_IN_ORDER, 0x41), _graphics(0x40, 0x05, 0x0F), "vga", 320, 200, 8,
    ),
)  # fmt: skip

#: Modes by number.
MODES: Final = {mode.number: mode for mode in _MODES}


def palette(name: str) -> bytes:
    """Return the 256 entries of the DAC (6 bits each of red, green, blue) that a mode begins with."""
    entries = {"ega": _ega, "cga": _cga_palette, "mono": _mono, "vga": _vga}[name]()
    return b"".join(bytes(entry) for entry in entries).ljust(768, b"\0")


Entry = tuple[int, int, int]


def _ega() -> list[Entry]:
    """Bits 0-2 are blue, green, red at two thirds, bits 3-5 the same at one third."""
    return [
        (42 * (i >> 2 & 1) + 21 * (i >> 5 & 1), 42 * (i >> 1 & 1) + 21 * (i >> 4 & 1), 42 * (i & 1) + 21 * (i >> 3 & 1))
        for i in range(64)
    ]


def _sixteen(i: int) -> Entry:
    bright = 21 * (i >> 3 & 1)
    red, green, blue = 42 * (i >> 2 & 1), 42 * (i >> 1 & 1), 42 * (i & 1)
    return (red + bright, (21 if i == 6 else green + bright), blue + bright)


def _cga_palette() -> list[Entry]:
    """Bit 4 is the intensity."""
    return [_sixteen(i & 7 | i >> 1 & 8) for i in range(64)]


def _mono() -> list[Entry]:
    return [(level, level, level) for i in range(64) for level in ((0, 42, 21, 63)[i >> 3 & 1 | i >> 3 & 2],)]


def _vga() -> list[Entry]:
    """Sixteen colours, sixteen greys, then 24 hues at three saturations and three intensities."""
    greys = (0, 5, 8, 11, 14, 17, 20, 24, 28, 32, 36, 40, 45, 50, 56, 63)
    levels = (
        (0, 16, 31, 47, 63), (31, 39, 47, 55, 63), (45, 49, 54, 58, 63),
        (0, 7, 14, 21, 28), (14, 17, 21, 24, 28), (20, 22, 24, 26, 28),
        (0, 4, 8, 12, 16), (8, 10, 12, 14, 16), (11, 12, 13, 15, 16),
    )  # fmt: skip
    out = [_sixteen(i) for i in range(16)] + [(grey, grey, grey) for grey in greys]
    # From blue through red and green back to blue: one of the three rises or falls at a time.
    hues = [(up, 0, 4) for up in range(4)] + [(4, 0, down) for down in (4, 3, 2, 1)] + [(4, up, 0) for up in range(4)]
    hues += [(down, 4, 0) for down in (4, 3, 2, 1)] + [(0, 4, up) for up in range(4)]
    hues += [(0, down, 4) for down in (4, 3, 2, 1)]
    return out + [(level[r], level[g], level[b]) for level in levels for r, g, b in hues]
