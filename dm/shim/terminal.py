"""The user's console: a terminal, or plain text if output is not a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from typing import Protocol, TextIO

from dm.shim.ansi import AnsiConsole
from dm.shim.ends import held
from dm.shim.escape import DEFAULT
from dm.shim.screen import Screen, Transcript
from dm.shim.text import Plain
from dm.shim.tty import Tty

_LONGEST = 4096
#: Updates without a change after which the row at the cursor is printed for a user at a keyboard.
_RESTED = 6


class Console(Protocol):
    """The user's side of the machine."""

    def show(self, screen: Screen, transcript: Transcript) -> None:
        """Update the screen (called when it has changed, and now and then when it has not)."""
        ...

    def output(self, data: bytes) -> None:
        """Take bytes from the serial port or the debug console."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleep that long, or until the user types."""
        ...

    def typed(self) -> list[bytes]:
        """Return the keys typed since the last call, each as set 1 bytes; never blocks."""
        ...

    @property
    def left(self) -> bool:
        """Whether the user wants to quit."""
        ...

    def close(self) -> None:
        """Show what has not been shown, and restore the terminal; may be called again."""
        ...


class PlainConsole:
    """Prints lines once they no longer change, and serial text at once; for output that is not a capable terminal."""

    def __init__(self, out: TextIO, tty: Tty | None = None, *, quiet: bool = False) -> None:
        """``tty`` is the keyboard, None where there is none; it does not echo."""
        self._out, self._tty, self._quiet = out, tty, quiet
        self._printed: dict[int, str] = {}
        self._looks: deque[dict[int, str]] = deque(maxlen=2)
        self._rested = 0
        self._screen: Screen | None = None
        self._unchanged = 0
        self._partial = ""
        self._plain = Plain()
        self._transcript = Transcript()

    @property
    def left(self) -> bool:
        """Whether the user wants to quit."""
        return self._tty is not None and self._tty.left

    def show(self, screen: Screen, transcript: Transcript) -> None:
        """Print rows that have scrolled off, or are unchanged for two looks and not being written."""
        self._attend()
        self._transcript = transcript
        self._unchanged = self._unchanged + 1 if screen is self._screen else 0
        self._screen = screen
        if self._unchanged > _RESTED + 2:  # all of it has been printed; an idle guest's screen costs nothing
            return
        rows = transcript.numbered()
        top = transcript.first + len(transcript.history)
        busy = top + screen.cursor[1] if screen.cursor else -1
        for number, row in rows.items():
            still = len(self._looks) == 2 and all(look.get(number) == row for look in self._looks)
            if number < top or (still and (number != busy or self._rested >= _RESTED)):
                self._print(number, row)
        # A user who types has to see a prompt, although more may follow on its line.
        self._rested = self._rested + 1 if self._tty is not None and self._looks and rows == self._looks[-1] else 0
        self._looks.append(rows)
        for number in [n for n in self._printed if n < transcript.first]:
            del self._printed[number]

    def _print(self, number: int, row: str) -> None:
        text = row.rstrip()
        if text and self._printed.get(number) != text:
            self._write(text + "\n")
        self._printed[number] = text

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._out.write(text)
            self._out.flush()

    def output(self, data: bytes) -> None:
        """Print whole lines."""
        *lines, rest = (self._partial + self._plain.filter(data)).split("\n")
        self._partial = rest
        if len(rest) > _LONGEST:
            self._partial = ""
            lines.append(rest)
        for line in lines:
            self._write_line(line)

    def wait(self, seconds: float) -> None:
        """Sleep, or until a key comes where there is a keyboard."""
        if self._tty is None:
            time.sleep(seconds)
        else:
            self._tty.wait(seconds)

    def typed(self) -> list[bytes]:
        """Return the keys typed, none where there is no keyboard."""
        return [] if self._tty is None else self._tty.typed()

    def close(self) -> None:
        """Restore the keyboard; print what is left, unfinished lines included."""
        if self._tty is not None:
            with held():
                self._tty.close()
        for number, row in self._transcript.numbered().items():
            self._print(number, row)
        if self._partial:
            self._write_line(self._partial)
            self._partial = ""

    def _write_line(self, line: str) -> None:
        self._write(line.rstrip("\r") + "\n")

    def _attend(self) -> None:
        """Carry out the user's commands to x86-dm."""
        if self._tty is None:
            return
        if self._tty.suspend_asked:
            self._tty.suspend()
        if self._tty.message:
            self._write(f"x86-dm boot: {self._tty.message}\n")
            self._tty.message = ""


def open_console(*, quiet: bool, escape: int = DEFAULT) -> Console:
    """Return the console that fits standard output; ``quiet`` shows nothing (for ``--json``).

    Args:
        quiet: show nothing, take no keys.
        escape: the control character that begins a command to x86-dm.
    """
    out = sys.stdout
    if quiet or not out.isatty():
        return PlainConsole(out, quiet=quiet)
    keyboard = Tty(sys.stdin.fileno(), escape) if sys.stdin.isatty() else None
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return PlainConsole(out, keyboard)
    return AnsiConsole(out, keyboard, colour=not os.environ.get("NO_COLOR"))  # https://no-color.org
