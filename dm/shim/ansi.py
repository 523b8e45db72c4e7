"""The small PC's screen drawn on a terminal (ECMA-48), clipped to its size; serial text is shown below it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from typing import Final, TextIO

from dm.shim.ends import Interrupted, held
from dm.shim.screen import Screen, Transcript
from dm.shim.text import Lines, Plain
from dm.shim.tty import Tty

#: VGA colours in the terminal's order: red and blue are swapped.
_ANSI: Final = (0, 4, 2, 6, 1, 5, 3, 7)
#: Serial lines that are kept, and characters of one.
_LINES, _LONGEST = 1000, 1000
#: Serial text gets at least this fraction of the terminal, and at most so many lines of a small one.
_PART, _FEW = 3, 4
#: How long a message is shown, in seconds.
_MESSAGE: Final = 5.0
# Enter the alternate screen, without wrapping at its right edge; and leave it, undoing all settings.
_ENTER: Final = "\x1b[?1049h\x1b[?7l\x1b[2J"
_LEAVE: Final = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l"


class AnsiConsole:
    """Draws the screen on a terminal and takes its keys; see :class:`dm.shim.terminal.Console`."""

    def __init__(self, out: TextIO, tty: Tty | None, *, colour: bool = True) -> None:
        """``tty`` is the keyboard, None where there is none."""
        self._out, self._tty, self._colour = out, tty, colour
        self._drawn: Screen | None = None
        self._rows: list[str] = []  # as shown on the terminal, from its first
        self._size = (0, 0)
        self._plain, self._serial = Plain(), Lines(_LINES, _LONGEST)
        self._message, self._message_ends = "", 0.0
        self._news = True  # there is more to draw than the screen
        self._view = 0  # rows of the screen that are shown
        self._closed = False
        self._out.write(_ENTER)

    @property
    def left(self) -> bool:
        """Whether the user wants to quit."""
        return self._tty is not None and self._tty.left

    def show(self, screen: Screen, transcript: Transcript) -> None:
        """Draw the rows that have changed; all of them if the terminal was resized or has shown something else."""
        del transcript
        tty = self._tty
        if tty is not None:
            if tty.suspend_asked:
                self._write(_LEAVE)
                tty.suspend()
            if tty.stale:
                tty.stale, self._size = False, (0, 0)
                self._out.write(_ENTER)
            self._take_message(tty)
        size = _size(self._out)
        out = []
        if size != self._size:
            self._size, self._rows, self._drawn = size, [], None
            out.append("\x1b[2J")
        if screen == self._drawn and not self._news:
            return
        self._news = False
        out += self._changes(screen, *size)
        self._write("".join(out))
        self._drawn = screen

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise Interrupted(signal.SIGHUP) from None  # the terminal is gone; the kernel does not tell every process

    def _changes(self, screen: Screen, columns: int, lines: int) -> list[str]:
        """Return what brings the terminal up to date."""
        rows, top = self._layout(screen, columns, lines)
        old = self._rows or [""] * lines
        out = [f"\x1b[{at + 1}H{row}\x1b[m\x1b[K" for at, row in enumerate(rows) if row != old[at]]
        self._rows = rows
        column, row = screen.cursor or (0, 0)
        shown = screen.cursor and screen.cursor_on and column < columns and 0 <= row - top < self._view
        out.append(f"\x1b[?25h\x1b[{row - top + 1};{column + 1}H" if shown else "\x1b[?25l")
        return out

    def _layout(self, screen: Screen, columns: int, lines: int) -> tuple[list[str], int]:
        """Return the terminal's rows, and which row of the screen is the first of them.

        If the screen has more rows than fit, the rows up to the cursor's are shown.
        """
        pane = max(lines - screen.rows, min(_FEW, lines // _PART) if self._serial else 0)
        self._view = view = min(screen.rows, lines - pane)
        cursor = screen.cursor[1] if screen.cursor else 0
        top = max(0, min(cursor - view + 1, screen.rows - view))
        width, text = screen.columns * 2, screen.text()
        rows = [
            self._row(text[row][:columns], screen.cells[row * width + 1 : (row + 1) * width : 2][:columns])
            for row in range(top, top + view)
        ]
        below = lines - view
        serial = self._serial.last(below, columns)
        rows += serial + [""] * (below - len(serial))
        if self._message:
            rows[-1] = f"\x1b[7m{self._message[:columns]}"
        return rows, top

    def _row(self, text: str, attributes: bytes) -> str:
        out, last = [], -1
        for char, attribute in zip(text, attributes, strict=True):
            if attribute != last:
                out.append(self._rendition(attribute))
                last = attribute
            out.append(char)
        return "".join(out)

    def _rendition(self, attribute: int) -> str:
        """Return the sequence for a VGA attribute; without colours, highlights are bold or reversed."""
        colour, back = attribute & 15, attribute >> 4 & 7
        if not self._colour:
            return "\x1b[m" + ("\x1b[1m" if colour & 8 else "") + ("\x1b[7m" if back else "")
        return f"\x1b[{(90 if colour & 8 else 30) + _ANSI[colour & 7]};{40 + _ANSI[back]}m"

    def _take_message(self, tty: Tty) -> None:
        now = time.monotonic()
        wanted = tty.message
        if wanted != self._message:
            self._message, self._message_ends, self._news = wanted, now + _MESSAGE, True
        elif wanted and now >= self._message_ends:
            tty.message = ""

    def output(self, data: bytes) -> None:
        """Take serial text; it is drawn with the next update."""
        self._serial.feed(self._plain.filter(data))
        self._news = True

    def wait(self, seconds: float) -> None:
        """Sleep until a key comes or the time is over."""
        if self._tty is None:
            time.sleep(seconds)
        else:
            self._tty.wait(seconds)

    def typed(self) -> list[bytes]:
        """Return the keys typed."""
        return [] if self._tty is None else self._tty.typed()

    def close(self) -> None:
        """Restore the terminal, and print the serial text and the last screen."""
        if self._closed:
            return
        self._closed = True
        with held(), contextlib.suppress(OSError):  # the terminal may be gone
            if self._tty is not None:
                self._tty.close()
            self._out.write(_LEAVE)
            self._out.flush()
        rows = [row.rstrip() for row in self._drawn.text()] if self._drawn else []
        while rows and not rows[-1]:
            rows.pop()
        with contextlib.suppress(OSError):
            self._out.write("".join(row + "\n" for row in self._serial.last(_LINES, _LONGEST) + rows))
            self._out.flush()


def _size(out: TextIO) -> tuple[int, int]:
    """Return columns and lines of a terminal."""
    with contextlib.suppress(OSError, ValueError):
        size = os.get_terminal_size(out.fileno())
        if size.columns and size.lines:
            return size.columns, size.lines
    return shutil.get_terminal_size((80, 24))
