"""Text from a guest, made harmless: it must not control the user's terminal."""

from __future__ import annotations

import codecs
from collections import deque
from typing import Final

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
#: Columns between tab stops.
_TAB: Final = 8


class Plain:
    """Removes escape sequences and control characters from a stream of bytes, UTF-8 where it is valid."""

    def __init__(self) -> None:
        self._escape = b""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def filter(self, data: bytes) -> str:
        """Return the text in ``data``; a sequence or a character may continue in the next piece."""
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
        # Beyond ASCII there are more control characters (C1), and ones that change the direction of writing.
        text = self._decode(bytes(out))
        return text if text.isascii() else "".join(c if c.isprintable() or c < " " else _REPLACED for c in text)

    def _complete(self) -> bool:
        """Tell whether the escape sequence has ended (ECMA-48; one that never ends is abandoned)."""
        last = self._escape[-1]
        if len(self._escape) == 2:
            return last != ord("[")
        return 0x40 <= last <= 0x7E or len(self._escape) > 32


class Lines:
    """The last lines of harmless text; after CR or BS following text overwrites it, as on a terminal."""

    def __init__(self, most: int, longest: int) -> None:
        """Keep ``most`` lines of up to ``longest`` characters."""
        self.done: deque[str] = deque(maxlen=most)
        self._longest = longest
        self._row: list[str] = []
        self._column = 0

    def feed(self, text: str) -> None:
        """Take more text."""
        for char in text:
            match char:
                case "\n":
                    self._end()
                case "\r":
                    self._column = 0
                case "\b":
                    self._column = max(0, self._column - 1)
                case _:
                    for one in " " * (_TAB - self._column % _TAB) if char == "\t" else char:
                        self._put(one)

    def _put(self, char: str) -> None:
        if self._column >= self._longest:
            self._end()
        if self._column < len(self._row):
            self._row[self._column] = char
        else:
            self._row += " " * (self._column - len(self._row)) + char
        self._column += 1

    def _end(self) -> None:
        self.done.append("".join(self._row))
        self._row.clear()
        self._column = 0

    def __bool__(self) -> bool:
        return bool(self.done or self._row)

    def last(self, count: int, width: int) -> list[str]:
        """Return the last ``count`` lines, the unfinished one too, broken into pieces of ``width`` characters."""
        rows = [*list(self.done)[-count:], "".join(self._row)] if count else []
        pieces = [row[at : at + width] for row in rows for at in range(0, max(1, len(row)), width)]
        if pieces and not pieces[-1]:
            pieces.pop()  # a line that has not begun
        return pieces[-count:] if count else []
