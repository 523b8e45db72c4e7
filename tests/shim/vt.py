"""A terminal as far as the small PC's screen needs one: it keeps what is drawn as rows of characters."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

_SEQUENCE = re.compile(r"\x1b\[([?]?)([0-9;]*)([A-Za-z])")


class Terminal:
    """A pseudo-terminal: ``slave`` is the program's side, ``rows`` what has been drawn, ``log`` all that was sent."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.log = ""
        self.alternate = False
        self.wraps = True
        self.overflowed = False
        self.cursor: tuple[int, int] | None = None
        self._rest = ""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        """Change its size, as a user does with a window: the kernel tells the foreground program."""
        self.columns, self.lines = columns, lines
        self._clear()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def modes(self) -> list[object]:
        """What tcgetattr says."""
        return termios.tcgetattr(self.slave)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Draw until some row, or what is no longer on the screen, holds ``text``."""
        self.wait_until(lambda: any(text in row for row in self.rows), text, seconds)

    def wait_until(self, holds, what: str, seconds: float = 60) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what!r} never came:\n" + "\n".join(self.rows) + repr(self.log[-500:])
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # the program's side is closed
                    data = b""
                self.draw(data.decode("utf-8", "replace"))

    @property
    def rows(self) -> list[str]:
        """The rows as they stand, without blanks at the end."""
        return ["".join(row).rstrip() for row in self._cells]

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.lines)]
        self._row = self._column = 0

    def draw(self, text: str) -> None:
        self.log += text
        text, at = self._rest + text, 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    break  # it goes on
                self._obey(*found.groups())
                at = found.end()
                continue
            self._put(text[at])
            at += 1
        self._rest = text[at:]

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._row += 1
            if self._row == self.lines:
                self._cells = [*self._cells[1:], [" "] * self.columns]
                self._row -= 1
        elif char >= " ":
            if self._column == self.columns:
                self.overflowed = True
                if self.wraps:
                    self._column = 0
                    self._put("\n")
                else:
                    self._column -= 1
            self._cells[self._row][self._column] = char
            self._column += 1

    def _obey(self, private: str, numbers: str, letter: str) -> None:
        values = [int(n or 0) for n in numbers.split(";")]
        match private + letter:
            case "H":
                self._row = max(values[0], 1) - 1
                self._column = max(values[1] if len(values) > 1 else 0, 1) - 1
                assert self._row < self.lines, f"row {self._row} of {self.lines}"
                assert self._column < self.columns, f"column {self._column} of {self.columns}"
            case "K":
                self._cells[self._row][self._column :] = [" "] * (self.columns - self._column)
            case "J":
                assert values == [2]
                row, column = self._row, self._column
                self._clear()
                self._row, self._column = row, column
            case "?h" | "?l":
                on = letter == "h"
                match values[0]:
                    case 1049:
                        self.alternate = on
                        self._clear()
                    case 7:
                        self.wraps = on
                    case 25:
                        self.cursor = (0, 0) if on else None
            case "m":
                pass
            case other:
                raise AssertionError(f"unknown sequence {other} {values}")
        if self.cursor is not None:
            self.cursor = (self._column, self._row)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)
