"""The text screen: read from display memory, and followed over time as a transcript."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field

from dm.shim.bios.font import CP437
from dm.shim.devices.planes import View
from dm.shim.devices.vga import Vga
from dm.shim.pc import Pc
from dm.shim.picture import describe

_HISTORY = 1000


@dataclass(frozen=True, slots=True)
class Screen:
    """The screen at one moment.

    ``cells`` holds character and attribute bytes, row by row.  ``cursor`` is (column, row), None when it is not on the
    visible page; ``cursor_on`` whether it shows.
    """

    columns: int
    rows: int
    cells: bytes
    cursor: tuple[int, int] | None
    cursor_on: bool = True

    @classmethod
    def of(cls, pc: Pc) -> Screen:
        """Read the visible page of ``pc``'s display memory; a picture is described in one line."""
        vga = pc.vga
        if vga.graphics_mode:
            line = f"[{describe(vga)}]"[:80].ljust(80)
            return cls(80, 1, b"".join(bytes((byte, 7)) for byte in line.encode("cp437", "replace")), None, False)
        columns = vga.crtc.registers[1] + 1
        rows = max(1, min(400 // ((vga.crtc.registers[9] & 0x1F) + 1), 0x8000 // (columns * 2)))
        size, start = columns * rows * 2, vga.start * 2 % 0x8000
        memory = _characters(vga, pc.memory.ram)
        cells = bytes(memory[start : start + size])
        cells += bytes(memory[: size - len(cells)])
        row, column = divmod(vga.cursor - vga.start, columns)
        return cls(columns, rows, cells, (column, row) if 0 <= row < rows else None, vga.cursor_visible)

    def text(self) -> list[str]:
        """Return the rows as text, each ``columns`` long."""
        chars = [CP437[c] for c in self.cells[::2]]
        return ["".join(chars[i : i + self.columns]) for i in range(0, len(chars), self.columns)]


def _characters(vga: Vga, ram: mmap.mmap | bytearray) -> memoryview | bytes:
    """Return characters and attributes in turn, 32 KiB of them."""
    w = vga.window
    if w.view is View.ODD_EVEN:
        return memoryview(ram)[w.start : w.start + 0x8000]
    out = bytearray(0x8000)  # a program is busy with its font, say
    for i in range(2):
        out[i::2] = vga.memory.planes[i][0:0x8000:2]
    return bytes(out)


@dataclass
class Transcript:
    """What has been on the screen, as rows numbered from the first one ever shown.

    Rows that scroll off go to ``history``, which keeps the newest; ``first`` is the number of its oldest row.
    How far the screen scrolled between two updates is found by what still matches; a screen with nothing in common is
    a new one.
    """

    first: int = 0
    history: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def update(self, rows: list[str]) -> None:
        """Take the screen as it is now."""
        if rows == self.rows:
            return
        self.history += self.rows[: self._scrolled(rows)]
        self.rows = rows
        if len(self.history) > 2 * _HISTORY:
            self.first += len(self.history) - _HISTORY
            del self.history[:-_HISTORY]

    def _scrolled(self, rows: list[str]) -> int:
        """Return by how many rows the screen moved up: where most old rows are found again, perhaps with more text."""
        old = [row.rstrip() for row in self.rows]
        last = max((i for i, row in enumerate(old) if row), default=-1)
        best, score = last + 1, 0
        for shift in range(last + 1):
            matches = sum(a != "" and b.startswith(a) for a, b in zip(old[shift:], rows, strict=False))
            if matches > score:
                best, score = shift, matches
        return best

    def numbered(self) -> dict[int, str]:
        """Return the known rows by number, in order."""
        return dict(enumerate(self.history + self.rows, self.first))


class Expectation:
    """Finds a text on the screen or the serial line that came after an earlier point."""

    def __init__(self) -> None:
        self._row = self._column = self._serial = 0
        self._seen: dict[int, str] = {}

    def _mark(self, rows: dict[int, str], row: int, column: int, serial: int) -> None:
        """Only what comes after this place, or changes elsewhere on the screen, counts from now on."""
        self._row, self._column, self._serial, self._seen = row, column, serial, rows

    def forget(self, count: int) -> None:
        """Take into account that ``count`` bytes were dropped from the start of the serial text."""
        self._serial = max(0, self._serial - count)

    def find(self, text: str, transcript: Transcript, serial: bytes | bytearray) -> bool:
        """Look for ``text`` (within one logical line); if it is there, mark the place after it."""
        rows = transcript.numbered()
        for start, line, origin in self._lines(rows):
            at = line.find(text)
            if at >= 0:
                row, column = divmod(origin + at + len(text), max(len(rows[start]), 1))
                self._mark(rows, start + row, column, len(serial))
                return True
        wanted = text.encode()
        at = serial.find(wanted, self._serial)
        if at >= 0:
            self._mark(rows, max(rows, default=0) + 1, 0, at + len(wanted))
        return at >= 0

    def _lines(self, rows: dict[int, str]) -> Iterator[tuple[int, str, int]]:
        """Yield (row, text, column it starts at) of logical lines not seen before; full rows continue in the next."""
        after = -1
        for number, row in rows.items():
            known = number < self._row and self._seen.get(number) == row
            if number <= after or known:
                continue
            # The marked row counts from its start if what stood before the mark was overwritten.
            kept = self._seen.get(number, "")[: self._column] == row[: self._column]
            origin = self._column if number == self._row and kept else 0
            line, after = row[origin:], number
            while rows[after] and not rows[after][-1].isspace() and after + 1 in rows:
                after += 1
                line += rows[after]
            yield number, line, origin
