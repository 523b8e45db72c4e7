"""Where the user sees the small PC and types to it: a terminal, or plain text when output is no terminal."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections import deque
from typing import Protocol, TextIO

from dm.shim import keys
from dm.shim.screen import Screen, Transcript

_LONGEST = 4096


class Console(Protocol):
    """The user's side of the machine."""

    def show(self, screen: Screen, transcript: Transcript) -> None:
        """Take a new look at the screen (called when it has changed, and once a while when it has not)."""
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

    def close(self) -> None:
        """Show what has not been shown and give the terminal back."""
        ...


class PlainConsole:
    """Prints lines once they stand still, serial text as it comes.  There is no keyboard."""

    def __init__(self, out: TextIO, *, quiet: bool = False) -> None:
        self._out, self._quiet = out, quiet
        self._printed: dict[int, str] = {}
        self._looks: deque[dict[int, str]] = deque(maxlen=2)
        self._partial = bytearray()
        self._plain = _Plain()
        self._transcript = Transcript()

    def show(self, screen: Screen, transcript: Transcript) -> None:
        """Print rows that have scrolled off, or are unchanged for two looks and not being written."""
        self._transcript = transcript
        rows = transcript.numbered()
        top = transcript.first + len(transcript.history)
        busy = top + screen.cursor[1] if screen.cursor else -1
        for number, row in rows.items():
            still = len(self._looks) == 2 and all(look.get(number) == row for look in self._looks)
            if number < top or (still and number != busy):
                self._print(number, row)
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
        self._partial += self._plain.filter(data)
        *lines, rest = self._partial.split(b"\n")
        self._partial = bytearray(rest)
        if len(rest) > _LONGEST:
            self._partial.clear()
            lines.append(rest)
        for line in lines:
            self._write_line(line)

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def typed(self) -> list[bytes]:
        """Return nothing: there is no keyboard."""
        return []

    def close(self) -> None:
        """Print what is left, unfinished lines too."""
        for number, row in self._transcript.numbered().items():
            self._print(number, row)
        if self._partial:
            self._write_line(bytes(self._partial))
            self._partial.clear()

    def _write_line(self, line: bytes | bytearray) -> None:
        self._write(line.decode("utf-8", "replace").rstrip("\r") + "\n")


class _Plain:
    """Takes escape sequences and control characters out of a stream: a guest must not command the user's terminal."""

    def __init__(self) -> None:
        self._escape = b""

    def filter(self, data: bytes) -> bytes:
        """Return what is text in ``data``; a sequence may go on in the next piece."""
        out = bytearray()
        for byte in data:
            if self._escape:
                self._escape += bytes((byte,))
                if self._complete():
                    self._escape = b""
            elif byte == 0x1B:
                self._escape = b"\x1b"
            elif (byte >= 0x20 and byte != 0x7F) or byte in b"\n\r\t\b":
                out.append(byte)
        return bytes(out)

    def _complete(self) -> bool:
        """Tell whether the escape sequence has ended (ECMA-48; one that never ends is given up)."""
        last = self._escape[-1]
        if len(self._escape) == 2:
            return last != ord("[")
        return 0x40 <= last <= 0x7E or len(self._escape) > 32


# VGA colours in the terminal's order: red and blue are swapped.
_ANSI = (0, 4, 2, 6, 1, 5, 3, 7)

#: What terminals send for keys, without the leading escape (ECMA-48, xterm).
_SEQUENCES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"OA": "up", b"OB": "down", b"OC": "right",
    b"OD": "left", b"[H": "home", b"[F": "end", b"OH": "home", b"OF": "end", b"[1~": "home", b"[4~": "end",
    b"[2~": "insert", b"[3~": "delete", b"[5~": "pageup", b"[6~": "pagedown", b"OP": "f1", b"OQ": "f2",
    b"OR": "f3", b"OS": "f4", b"[15~": "f5", b"[17~": "f6", b"[18~": "f7", b"[19~": "f8", b"[20~": "f9",
    b"[21~": "f10", b"[23~": "f11", b"[24~": "f12",
}  # fmt: skip


def decode_keys(data: bytes) -> list[bytes]:
    """Return the keys (set 1 bytes of each) that a terminal's input stands for; what no key types is dropped."""
    out: list[bytes] = []
    while data:
        if data[0] == 0x1B and len(data) > 1:
            name = next((s for s in _SEQUENCES if data[1:].startswith(s)), None)
            if name is not None:
                out.append(keys.press(keys.NAMED[_SEQUENCES[name]]))
                data = data[1 + len(name) :]
                continue
            if 0x20 < data[1] < 0x7F:  # Alt with a character
                out += keys.parse(f"<alt-{chr(data[1])}>") if chr(data[1]) not in "<>-\\" else []
                data = data[2:]
                continue
        with contextlib.suppress(ValueError):  # no key types it
            out.append(keys.type_character(chr(data[0])))
        data = data[1:]
    return out


class AnsiConsole:
    """Draws the screen on a terminal and takes its keys.  Serial text scrolls in the lines below the screen."""

    def __init__(self, source: TextIO, out: TextIO) -> None:
        self._in, self._out = source.fileno(), out
        self._saved = termios.tcgetattr(self._in) if source.isatty() else None
        if self._saved is not None:
            tty.setcbreak(self._in)  # signals stay on: Ctrl-C ends
        self._drawn: Screen | None = None
        self._plain = _Plain()
        self._out.write("\x1b[?1049h\x1b[2J")

    def show(self, screen: Screen, transcript: Transcript) -> None:
        """Redraw the rows that have changed."""
        del transcript
        old = self._drawn
        if old == screen:
            return
        out = []
        if old is None or (old.columns, old.rows) != (screen.columns, screen.rows):
            lines = shutil.get_terminal_size().lines
            out.append(f"\x1b[2J\x1b[{min(screen.rows + 1, lines)};{lines}r\x1b[{min(screen.rows + 1, lines)}H\x1b7")
            old = None
        width, text = screen.columns * 2, screen.text()
        for row in range(screen.rows):
            cells = screen.cells[row * width : (row + 1) * width]
            if old is None or old.cells[row * width : (row + 1) * width] != cells:
                out.append(f"\x1b[{row + 1}H" + self._row(text[row], cells[1::2]) + "\x1b[m")
        if screen.cursor and screen.cursor_on:
            out.append(f"\x1b[?25h\x1b[{screen.cursor[1] + 1};{screen.cursor[0] + 1}H")
        else:
            out.append("\x1b[?25l")
        self._out.write("".join(out))
        self._out.flush()
        self._drawn = screen

    @staticmethod
    def _row(text: str, attributes: bytes) -> str:
        out, last = [], -1
        for char, attribute in zip(text, attributes, strict=True):
            if attribute != last:
                colour, back = attribute & 15, attribute >> 4 & 7
                bright = 90 if colour & 8 else 30
                out.append(f"\x1b[{bright + _ANSI[colour & 7]};{40 + _ANSI[back]}m")
                last = attribute
            out.append(char)
        return "".join(out)

    def output(self, data: bytes) -> None:
        """Write below the screen."""
        text = self._plain.filter(data).decode("latin-1").replace("\n", "\r\n")
        self._out.write("\x1b8" + text + "\x1b7")
        self._out.flush()

    def wait(self, seconds: float) -> None:
        """Sleep until a key comes or the time is over."""
        if self._saved is None:
            time.sleep(seconds)
        else:
            select.select([self._in], [], [], seconds)

    def typed(self) -> list[bytes]:
        """Return the keys typed."""
        if self._saved is None or not select.select([self._in], [], [], 0)[0]:
            return []
        return decode_keys(os.read(self._in, 256))

    def close(self) -> None:
        """Leave the alternate screen, print the last screen, restore the terminal's modes."""
        self._out.write("\x1b[r\x1b[?25h\x1b[?1049l")
        if self._drawn:
            rows = [row.rstrip() for row in self._drawn.text()]
            while rows and not rows[-1]:
                rows.pop()
            self._out.write("".join(row + "\n" for row in rows))
        self._out.flush()
        if self._saved is not None:
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._saved)
            self._saved = None


def open_console(*, quiet: bool) -> Console:
    """Return the console that fits standard output; ``quiet`` shows nothing (for ``--json``)."""
    if sys.stdout.isatty() and not quiet:
        return AnsiConsole(sys.stdin, sys.stdout)
    return PlainConsole(sys.stdout, quiet=quiet)
