"""What the VGA shows, as dots: text and every graphics mode, from registers and display memory.

IBM VGA Technical Reference, "CRT Controller", "Attribute Controller", "Graphics Controller".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dm.shim.devices.vga import Vga

#: CRTC 17h bits 0 and 6, 14h bit 6.
_MAP13, _BYTE, _DOUBLEWORD = 0x01, 0x40, 0x40
#: Lookup: the eight dots of a byte, from the left.
_BITS: Final = [bytes(value >> 7 - i & 1 for i in range(8)) for value in range(256)]


@dataclass(frozen=True, slots=True)
class Picture:
    """``pixels``: rows from the top, red, green and blue byte of each pixel."""

    width: int
    height: int
    pixels: bytes


def lines(vga: Vga) -> int:
    """Return the scan lines of the picture; in graphics modes lines shown twice count once."""
    crtc = vga.crtc.registers
    end = (crtc[0x12] | crtc[7] << 7 & 0x100 | crtc[7] << 3 & 0x200) + 1
    if not vga.graphics_mode:
        return end
    height = (crtc[9] & 0x1F) + 1
    if crtc[9] & 0x80:
        end //= 2
    return end if not crtc[0x17] & _MAP13 else max(1, end // height)


def size(vga: Vga) -> tuple[int, int]:
    """Return the width and height of the picture in dots."""
    characters = vga.crtc.registers[1] + 1
    if not vga.graphics_mode:
        return characters * (8 if vga.sequencer.registers[1] & 1 else 9), lines(vga)
    return characters * (4 if vga.graphics.registers[5] & 0x40 else 8), lines(vga)


def describe(vga: Vga) -> str:
    """Say in words which graphics mode is on."""
    width, height = size(vga)
    shift = vga.graphics.registers[5]
    colours = 256 if shift & 0x40 else 4 if shift & 0x20 else 1 << (vga.attributes[0x12] & 15).bit_count()
    return f"graphics, {width}x{height} dots, {colours} colours; --screenshot FILE.png saves a picture"


def picture(vga: Vga) -> Picture:
    """Return what the VGA shows now."""
    vga.memory.save()
    width, height = size(vga)
    rows = _text(vga, width, height) if not vga.graphics_mode else _dots(vga, width, height)
    colours = _colours(vga)
    pixels = b"".join(b"".join(map(colours.__getitem__, row)) for row in rows)
    return Picture(width, height, pixels)


def _colours(vga: Vga) -> list[bytes]:
    """Return red, green and blue of each of the 256 values of the attribute controller's input."""
    palette, attributes = vga.palette, vga.attributes

    def dac(index: int) -> bytes:
        index &= vga.palette_mask
        return bytes(value << 2 | value >> 4 for value in palette[index * 3 : index * 3 + 3])

    if vga.graphics_mode and vga.graphics.registers[5] & 0x40:
        return [dac(i) for i in range(256)]
    select, out = attributes[20], []
    for i in range(16):
        index = attributes[i & attributes[18]] & 0x3F
        if attributes[16] & 0x80:
            index = index & 0x0F | select << 4 & 0x30
        out.append(dac(index | select << 4 & 0xC0))
    return out * 16


def _text(vga: Vga, width: int, height: int) -> Iterator[bytes]:
    """Characters from planes 0 and 1, their shapes from plane 2."""
    columns, tall = vga.crtc.registers[1] + 1, (vga.crtc.registers[9] & 0x1F) + 1
    nine, blink = width // columns == 9, bool(vga.attributes[16] & 8)
    chars, attributes, shapes = vga.memory.planes[:3]
    select = vga.sequencer.registers[3]
    fonts = [_font_base(select >> 2 & 3 | select >> 3 & 4), _font_base(select & 3 | select >> 2 & 4)]
    first, last = vga.crtc.registers[0xA] & 0x1F, vga.crtc.registers[0xB] & 0x1F
    for y in range(height):
        row, line = divmod(y, tall)
        out = bytearray()
        for column in range(columns):
            place = vga.start + row * columns + column
            at = place * 2 & 0xFFFF
            char, attribute = chars[at], attributes[at]
            font = fonts[0 if attribute & 8 else 1]
            bits = shapes[font + char * 32 + line] if line < 32 else 0
            if place == vga.cursor and vga.cursor_visible and first <= line <= last:
                bits = 0xFF
            ink, paper = attribute & 15, attribute >> 4 & (7 if blink else 15)
            cell = _BITS[bits]
            out += bytes(ink if dot else paper for dot in cell)
            if nine:
                joined = vga.attributes[16] & 4 and 0xC0 <= char <= 0xDF and bits & 1
                out.append(ink if joined else paper)
        yield bytes(out)


def _font_base(block: int) -> int:
    return (block & 3) * 0x4000 + (block >> 2 & 1) * 0x2000


def _dots(vga: Vga, width: int, height: int) -> Iterator[bytes]:
    crtc, planes = vga.crtc.registers, vga.memory.planes
    # The address counter advances by a byte, a word or a doubleword; its row is twice the offset register.
    scale = 4 if crtc[0x14] & _DOUBLEWORD else 1 if crtc[0x17] & _BYTE else 2
    counts, pitch = crtc[1] + 1, crtc[0x13] * 2
    interleaved = not crtc[0x17] & _MAP13
    repeated = (2 if crtc[9] & 0x80 else 1) * (1 if interleaved else (crtc[9] & 0x1F) + 1)
    compare = crtc[0x18] | crtc[7] << 4 & 0x100 | crtc[9] << 3 & 0x200
    for y in range(height):
        base, row = vga.start, y
        if y * repeated > compare:  # the part below the split begins at the start of memory
            base, row = 0, y - (compare // repeated + 1)
        odd = 0
        if interleaved:  # the CGA's way: bit 13 of the address is bit 0 of the row
            row, odd = row >> 1, (row & 1) * 0x2000
        places = [(base + row * pitch + i) * scale & 0xFFFF for i in range(counts)]
        if interleaved:
            places = [place & ~0x2000 | odd for place in places]
        yield _row(planes, places, vga.graphics.registers[5])[:width]


def _row(planes: list[bytearray], at: list[int], shift: int) -> bytes:
    """Return the dots of a row whose bytes are at these places of the planes."""
    if shift & 0x40:
        return bytes(plane[i] for i in at for plane in planes)
    out = bytearray()
    for i in at:
        if shift & 0x20:
            for plane in (0, 1):
                low, high = planes[plane][i], planes[plane + 2][i]
                out += bytes((low >> n & 3) | (high >> n & 3) << 2 for n in (6, 4, 2, 0))
        else:
            a, b, c, d = (_BITS[plane[i]] for plane in planes)
            out += bytes(a[n] | b[n] << 1 | c[n] << 2 | d[n] << 3 for n in range(8))
    return bytes(out)
