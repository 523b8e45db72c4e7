r"""Bytes to JSON objects, as QMP clients send them.

A client need not end a message with a newline (``qemu.qmp`` does not), so messages are found by their brackets and
quotes.  Extensions over RFC 8259, as in QEMU: strings may be quoted with apostrophes, and ``\'`` is an escape in any
string.  A control character (other than tab, carriage return and line feed between tokens) or a byte 0xFE or 0xFF is
an error wherever it stands and ends the message it stands in: a client that lost its place sends one, gets one error,
and starts afresh (QMP specification, "Forcing the JSON parser into known-good state").
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Final, NoReturn

MAX_BYTES: Final = 1 << 18
MAX_DEPTH: Final = 128

_WHITE = re.compile(rb"[ \t\r\n]*")
_OUTSIDE = re.compile(rb"""[{}\[\]"'\x00-\x08\x0b\x0c\x0e-\x1f\xfe\xff]""")
_INSIDE = {q: re.compile(rb"[\\\x00-\x1f\xfe\xff" + bytes([q]) + rb"]") for q in b"\"'"}
_JUNK = re.compile(rb"""[^{}\[\]"'\x00-\x1f\xfe\xff]*""")
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"' + r"|'(?:[^'\\]++|\\.)*+'", re.DOTALL)
_QUOTING = re.compile(r"\\.|\"", re.DOTALL)


class JsonError(ValueError):
    """What was wrong with the input, in words; the stream goes on after it."""


class JsonStream:
    """Incremental reader of JSON objects.  Time is linear in the input, however it is cut into pieces.

    ``max_bytes`` and ``max_depth`` bound one message (bytes, open brackets); of a message beyond them only the
    bracket depth is kept until it ends.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> None:
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._quote = 0
        self._junk = False
        self._discard = False

    def feed(self, data: bytes) -> None:
        """Add input; the caller stops feeding while :meth:`next_object` still has something to give."""
        self._buffer += data

    def next_object(self) -> dict[str, object] | None:
        """Return the next complete JSON object, or None if more input is needed.

        Raises:
            JsonError: the input up to here is not a JSON object or goes beyond a limit; call again for what follows.
        """
        while self._depth or self._quote or self._start():
            end = self._scan()
            if end is None:
                return None
            frame = bytes(self._buffer[:end])
            discard = self._discard
            self._drop(end)
            if not discard:
                return _parse(frame)
        return None

    def _start(self) -> bool:
        """Go to the beginning of a message; False if there is none yet."""
        if self._junk:
            self._drop(_end(_JUNK, self._buffer), junk=True)
            if not self._buffer:
                return False
        self._drop(_end(_WHITE, self._buffer))
        if not self._buffer:
            return False
        first = self._buffer[0]
        if first in b"{[\"'":
            return True
        if first < 0x20 or first >= 0xFE or first in b"}]":
            self._drop(1)
            raise JsonError(f"stray {_byte(first)} between messages")
        self._drop(0, junk=True)
        raise JsonError(f"stray {_byte(first)} where a message should begin with '{{'")

    def _scan(self) -> int | None:
        """Return where the message at the head of the buffer ends, or None if it goes on."""
        buffer = self._buffer
        at = self._scanned
        while True:
            found = (_INSIDE[self._quote] if self._quote else _OUTSIDE).search(buffer, at)
            if found is None:
                self._keep(len(buffer))
                return None
            at = found.end()
            byte = buffer[found.start()]
            if byte < 0x20 or byte >= 0xFE:
                where = "in a string" if self._quote else "in a message"
                self._drop(at)
                raise JsonError(f"stray {_byte(byte)} {where}, which is dropped")
            if byte == 0x5C:  # backslash: the next byte is no delimiter
                if at == len(buffer):
                    self._keep(found.start())
                    return None
                if 0x20 <= buffer[at] < 0xFE:
                    at += 1
            elif self._quote:
                self._quote = 0
            elif byte in b"\"'":
                self._quote = byte
            elif byte in b"{[":
                self._depth += 1
                if self._depth > self._max_depth and not self._discard:
                    self._give_up(at, f"nesting is limited to {self._max_depth} levels")
            else:
                self._depth -= 1
            if not self._depth and not self._quote:
                if at > self._max_bytes and not self._discard:
                    self._drop(at)
                    raise JsonError(self._too_long())
                return at

    def _keep(self, scanned: int) -> None:
        """Remember how far the scan got; of a message to be discarded, keep no bytes."""
        if scanned > self._max_bytes and not self._discard:
            self._give_up(scanned, self._too_long())
        if self._discard:
            del self._buffer[:scanned]
            scanned = 0
        self._scanned = scanned

    def _give_up(self, scanned: int, why: str) -> NoReturn:
        """Report a message beyond a limit at once; its rest is skipped."""
        self._discard = True
        self._keep(scanned)
        raise JsonError(why)

    def _too_long(self) -> str:
        return f"a message is limited to {self._max_bytes} bytes"

    def _drop(self, count: int, *, junk: bool = False) -> None:
        """Remove ``count`` bytes and stand between messages."""
        del self._buffer[:count]
        self._scanned = self._depth = self._quote = 0
        self._discard = False
        self._junk = junk


def _end(pattern: re.Pattern[bytes], buffer: bytearray) -> int:
    match = pattern.match(buffer)
    assert match is not None  # both patterns match the empty string
    return match.end()


def _byte(value: int) -> str:
    return repr(chr(value)) if 0x20 < value < 0x7F else f"byte {value:#04x}"


def _parse(frame: bytes) -> dict[str, object]:
    """Return the object ``frame`` holds; JsonError if it is none."""
    try:
        text = frame.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {frame[error.start]:#04x} is not valid UTF-8") from None
    if "'" in text:
        text = _STRING.sub(_requote, text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # a surrogate without its partner fails here
    except UnicodeEncodeError as error:
        raise JsonError(f"\\u{ord(error.object[error.start]):04x} is half a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at {text[error.pos : error.pos + 20]!r}") from None
    except ValueError as error:
        raise JsonError(str(error)) from None
    if not isinstance(value, dict):
        raise JsonError("a message must be a JSON object")
    return value


def _requote(literal: re.Match[str]) -> str:
    """Turn one string literal of QEMU's dialect into one of JSON."""
    return '"' + _QUOTING.sub(_requote_one, literal[0][1:-1]) + '"'


def _requote_one(found: re.Match[str]) -> str:
    return {"\\'": "'", '"': '\\"'}.get(found[0], found[0])


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"duplicate key {counts.most_common(1)[0][0]!r}")
    return result


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:20]} is out of range")
    return value
