"""The text screen: read from guest memory, and followed over time as a transcript."""

from __future__ import annotations

from dataclasses import dataclass, field

from dm.shim.memory import TEXT
from dm.shim.pc import Pc

#: Code page 437 as the VGA shows it: the control codes have pictures.
_LOW = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
CP437 = tuple(_LOW) + tuple(bytes(range(32, 127)).decode()) + ("⌂", *bytes(range(128, 255)).decode("cp437"), " ")


@dataclass(frozen=True, slots=True)
class Screen:
    """One look at the screen.

    ``cells`` holds character and attribute bytes, row by row.  ``cursor`` is (column, row), None when it is off or
    elsewhere.
    """

    columns: int
    rows: int
    cells: bytes
    cursor: tuple[int, int] | None

    @classmethod
    def of(cls, pc: Pc) -> Screen:
        """Read the visible page of ``pc``'s display memory."""
        columns = pc.vga.crtc.registers[1] + 1
        rows = min(400 // ((pc.vga.crtc.registers[9] & 0x1F) + 1), 0x8000 // (columns * 2))
        size, start = columns * rows * 2, pc.vga.start * 2 % 0x8000
        text = bytes(pc.memory.ram[TEXT + start : TEXT + min(start + size, 0x8000)])
        cells = text + bytes(pc.memory.ram[TEXT : TEXT + size - len(text)])
        row, column = divmod(pc.vga.cursor - pc.vga.start, columns)
        visible = pc.vga.cursor_visible and 0 <= row < rows
        return cls(columns, rows, cells, (column, row) if visible else None)

    def text(self) -> list[str]:
        """Return the rows as text, each ``columns`` long."""
        chars = [CP437[c] for c in self.cells[::2]]
        return ["".join(chars[i : i + self.columns]) for i in range(0, len(chars), self.columns)]


@dataclass
class Transcript:
    """Everything that has been on the screen, as rows numbered from the first one ever shown.

    Rows that scroll off go to ``history``.  How far the screen scrolled between two looks is found by what still
    matches; a screen with nothing in common is a new one.
    """

    history: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def update(self, rows: list[str]) -> None:
        """Take the next look at the screen."""
        if rows == self.rows:
            return
        scrolled = self._scrolled(rows)
        self.history += self.rows[:scrolled]
        self.rows = rows

    def _scrolled(self, rows: list[str]) -> int:
        old = self.rows
        last = max((i for i, row in enumerate(old) if row.strip()), default=-1)
        best, score = last + 1, 0
        for shift in range(last + 1):
            matches = sum(a == b and not a.isspace() for a, b in zip(old[shift:], rows, strict=False))
            if matches > score:
                best, score = shift, matches
        if not score and last <= 0:
            return 0  # the only line there was has been written on
        return best

    def all(self) -> list[str]:
        """Return every row so far."""
        return self.history + self.rows


class Expectation:
    """Finds a text on the screen or the serial line that came after an earlier point."""

    def __init__(self) -> None:
        self._row = self._column = self._serial = 0
        self._seen: list[str] = []

    def mark(self, transcript: Transcript, serial: str, row: int, column: int) -> None:
        """Only what comes after this place, or changes elsewhere on the screen, counts from now on."""
        self._row, self._column, self._serial = row, column, len(serial)
        self._seen = transcript.all()

    def find(self, text: str, transcript: Transcript, serial: str) -> bool:
        """Look for ``text`` (within one logical line); if it is there, mark the place after it."""
        rows = transcript.all()
        for start, line, origin in self._lines(rows):
            at = line.find(text)
            if at >= 0:
                end = at + len(text) + origin
                width = max(len(rows[start]), 1)
                self.mark(transcript, serial, start + end // width, end % width)
                return True
        if text in serial[self._serial :]:
            row = len(rows)
            self.mark(transcript, serial, row, 0)
            return True
        return False

    def _lines(self, rows: list[str]) -> list[tuple[int, str, int]]:
        """Return (row, text, column it starts at) of logical lines not seen before; full rows go on in the next."""
        out = []
        i = 0
        while i < len(rows):
            fresh = i > self._row or i >= len(self._seen) or rows[i] != self._seen[i]
            origin = 0
            if i == self._row:
                origin, fresh = self._column, True
            if not fresh:
                i += 1
                continue
            start, line = i, rows[i][origin:]
            while rows[i] and not rows[i][-1].isspace() and i + 1 < len(rows):
                i += 1
                line += rows[i]
            out.append((start, line, origin))
            i += 1
        return out
