"""Dots of the graphics modes, as INT 10h draws them: spans of eight dots to a character, row by row."""

from __future__ import annotations

from dm.shim.bios.modes import Mode
from dm.shim.devices.planes import Planes


class Raster:
    """One page of a graphics mode in display memory.

    A *span* is what a row has of some character cells, as bytes: plane after plane in planar modes.  Use it within
    ``with``, which brings the planes up to date before and the window after it.
    """

    def __init__(self, memory: Planes, mode: Mode, page: int = 0) -> None:
        self._memory, self._mode = memory, mode
        self._start = page * mode.page
        #: Planes that hold it, and bytes of a cell's row in each.
        self._planes = 4 if mode.graphics[6] == 0x05 and mode.bits < 8 else 1
        self._cell = mode.bits if self._planes == 1 else 1
        self._linear: bytearray

    def __enter__(self) -> Raster:
        self._memory.save()
        if self._planes == 1:
            self._linear = self._gather()
        return self

    def __exit__(self, *error: object) -> None:
        if self._planes == 1:
            self._scatter()
        self._memory.load()

    def _gather(self) -> bytearray:
        """Return the bytes as the CPU addresses them: chain 4, odd/even, or one plane."""
        planes, bits = self._memory.planes, self._mode.bits
        ways = {8: 4, 2: 2, 1: 1}[bits]
        size = 0x10000 if bits == 8 else 0x8000
        out = bytearray(size)
        for i in range(ways):
            out[i::ways] = planes[i][0:size:ways]
        return out

    def _scatter(self) -> None:
        ways, size = {8: 4, 2: 2, 1: 1}[self._mode.bits], len(self._linear)
        for i in range(ways):
            self._memory.planes[i][0:size:ways] = self._linear[i::ways]

    def _at(self, column: int, y: int) -> int:
        stride = self._mode.width // 8 * self._cell
        if self._mode.bits < 8 and self._planes == 1:  # CGA: odd rows are 8 KiB further on
            return self._start + (y & 1) * 0x2000 + (y >> 1) * stride + column * self._cell
        return self._start + y * stride + column * self._cell

    def span(self, column: int, y: int, cells: int = 1) -> bytes:
        """Return a row of ``cells`` cells from ``column`` on."""
        at, size = self._at(column, y), cells * self._cell
        if self._planes == 1:
            return bytes(self._linear[at : at + size])
        return b"".join(bytes(plane[at : at + size]) for plane in self._memory.planes)

    def put(self, column: int, y: int, span: bytes) -> None:
        """Write a row of cells."""
        at, size = self._at(column, y), len(span) // self._planes
        if self._planes == 1:
            end = min(at + size, len(self._linear))
            self._linear[at:end] = span[: end - at]
            return
        for i, plane in enumerate(self._memory.planes):
            end = min(at + size, len(plane))
            plane[at:end] = span[i * size : i * size + end - at]

    def dots(self, span: bytes) -> list[int]:
        """Return the eight colours of one cell's row."""
        bits = self._mode.bits
        if self._planes == 4:
            return [sum((plane >> 7 - i & 1) << n for n, plane in enumerate(span)) for i in range(8)]
        whole = int.from_bytes(span, "big")
        return [whole >> bits * (7 - i) & (1 << bits) - 1 for i in range(8)]

    def paint(self, dots: list[int]) -> bytes:
        """Return a cell's row with these eight colours."""
        bits = self._mode.bits
        if self._planes == 4:
            return bytes(sum((dot >> n & 1) << 7 - i for i, dot in enumerate(dots)) for n in range(4))
        whole = sum((dot & (1 << bits) - 1) << bits * (7 - i) for i, dot in enumerate(dots))
        return whole.to_bytes(bits, "big")

    def fill(self, colour: int, cells: int) -> bytes:
        """Return a row of ``cells`` cells of one colour."""
        one = self.paint([colour] * 8)
        if self._planes == 1:
            return one * cells
        return b"".join(bytes((byte,)) * cells for byte in one)

    def scroll(self, top: int, left: int, bottom: int, right: int, lines: int, colour: int) -> None:
        """Move a window, in character cells, up by ``lines`` rows (down where negative); 0 clears it."""
        height = self._mode.height
        cells, total = right - left + 1, (bottom - top + 1) * height
        rows = [self.span(left, top * height + y, cells) for y in range(total)]
        blank = [self.fill(colour, cells)] * total
        shift = lines * height
        if not shift or abs(shift) >= total:
            rows = blank
        elif shift > 0:
            rows = rows[shift:] + blank[:shift]
        else:
            rows = blank[:-shift] + rows[:shift]
        for y, row in enumerate(rows):
            self.put(left, top * height + y, row)

    def draw(self, column: int, row: int, glyph: bytes, colour: int, background: int = 0) -> None:
        """Draw a character; with bit 7 of ``colour`` (except in 256 colours) it is drawn by exclusive or."""
        mode = self._mode
        invert = mode.bits < 8 and bool(colour & 0x80)
        for i, line in enumerate(glyph):
            y = row * mode.height + i
            if invert:
                old = self.dots(self.span(column, y))
                dots = [dot ^ (colour & 0x7F if line << n & 0x80 else 0) for n, dot in enumerate(old)]
            else:
                dots = [colour if line << n & 0x80 else background for n in range(8)]
            self.put(column, y, self.paint(dots))

    def shape(self, column: int, row: int) -> bytes:
        """Return which dots of a cell are not background, as a glyph is stored."""
        mode = self._mode
        cells = [self.dots(self.span(column, row * mode.height + i)) for i in range(mode.height)]
        return bytes(sum(0x80 >> n for n, dot in enumerate(line) if dot) for line in cells)

    def dot(self, x: int, y: int) -> int:
        """Return the colour of a dot."""
        return self.dots(self.span(x // 8, y))[x % 8]

    def set_dot(self, x: int, y: int, colour: int) -> None:
        """Set a dot; bit 7 as for :meth:`draw`."""
        dots = self.dots(self.span(x // 8, y))
        if self._mode.bits < 8 and colour & 0x80:
            colour = dots[x % 8] ^ colour & 0x7F
        dots[x % 8] = colour
        self.put(x // 8, y, self.paint(dots))
