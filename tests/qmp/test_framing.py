"""Every framing rule, without a socket."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm.qmp.framing import JsonError, JsonStream

#: As Python's parser says it.
TRAILING_COMMA = (
    "Illegal trailing comma before end of object at ',}'"
    if sys.version_info >= (3, 13)
    else "Expecting property name enclosed in double quotes at '}'"
)
Item = dict[str, Any] | str


def drain(stream: JsonStream) -> list[Item]:
    """Return all that is there: objects, and the texts of errors."""
    items: list[Item] = []
    while True:
        try:
            found = stream.next_object()
        except JsonError as error:
            items.append(str(error))
            continue
        if found is None:
            return items
        items.append(found)


def read(*pieces: bytes, **limits: int) -> list[Item]:
    stream = JsonStream(**limits)
    items = []
    for piece in pieces:
        stream.feed(piece)
        items += drain(stream)
    return items


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"a": 1}\n',
        b'\r\n\t {"a"\n:\r\n1\t}',
        b"{'a': 1}",
    ],
)
def test_one_message_needs_no_newline(data: bytes) -> None:
    assert read(data) == [{"a": 1}]


def test_messages_may_touch() -> None:
    assert read(b'{"a":1}{"a":2}\n{"a":3}') == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces(size: int) -> None:
    data = b'{"a": "}\\"]{", \'b\': \'"\\\'\', "c": [{"d": "\xc3\xa9\\u00e9"}, []]} bad {"x": 1}\x01{"y": {}}'
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    whole = read(data)
    assert read(*pieces) == whole
    assert whole[0] == {"a": '}"]{', "b": "\"'", "c": [{"d": "éé"}, []]}
    assert [w for w in whole if isinstance(w, dict)][1:] == [{"x": 1}, {"y": {}}]
    assert len(whole) == 5


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{'a': 'x\"y'}", 'x"y'),
        (b"{'a': 'x\\'y'}", "x'y"),
        (b'{"a": "x\\\'y"}', "x'y"),
        (b'{"a": "x\'y"}', "x'y"),
        (b"{'a': 'x\\\\'}", "x\\"),
        (b"{'a': '\\\"'}", '"'),
        (b"{'a': '\\u0041\\n'}", "A\n"),
        (b'{"a": "\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"a": "\xf0\x9f\x98\x80"}', "\U0001f600"),
    ],
)
def test_strings(data: bytes, value: str) -> None:
    assert read(data) == [{"a": value}]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"a" 1}', "Expecting ':' delimiter at '1}'"),
        (b'{"a": 1,}', TRAILING_COMMA),
        (b'{"a": bogus}', "Expecting value at 'bogus}'"),
        (b'{"a": 01}', "Expecting ',' delimiter at '1}'"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"a": 1e999}', "number 1e999 is out of range"),
        (b'{"a": 1, "b": 2, "a": 3}', "duplicate key 'a'"),
        (b'{"a": "\\x"}', "Invalid \\escape at '\\\\x\"}'"),
        (b'{"a": "\\ud800"}', "\\ud800 is half a surrogate pair"),
        (b'{"a": "\xc3("}', "byte 0xc3 is not valid UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "byte 0xed is not valid UTF-8"),
        (b'{"a": "\xc0\x80"}', "byte 0xc0 is not valid UTF-8"),
        (b"[1, 2]", "a message must be a JSON object"),
        (b'"text"', "a message must be a JSON object"),
        (b"{]", "Expecting property name enclosed in double quotes at ']'"),
        (b"}", "stray '}' between messages"),
        (b"]", "stray ']' between messages"),
    ],
)
def test_bad_message(data: bytes, error: str) -> None:
    assert read(data + b' {"ok": 1}') == [error, {"ok": 1}]


def test_too_many_digits() -> None:
    error, good = read(b'{"a": ' + b"9" * 5000 + b'} {"ok": 1}')
    assert "4300 digits" in str(error)
    assert good == {"ok": 1}


@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\x08", b"\x0b", b"\x1f", b"\xfe", b"\xff"])
@pytest.mark.parametrize("before", [b"", b'{"a": ', b'{"a": "xy', b"{'a': 'xy\\", b"[[[", b'{"a": {"b": [', b'"open'])
def test_resynchronise(byte: bytes, before: bytes) -> None:
    """The byte gets exactly one error, whatever was open; what follows is read afresh."""
    (error, good) = read(before, byte, b'{"ok": 1}')
    assert f"byte {byte[0]:#04x}" in str(error)
    assert good == {"ok": 1}


@pytest.mark.parametrize("byte", [b"\n", b"\t", b"\r"])
def test_white_space_is_an_error_in_a_string(byte: bytes) -> None:
    error, *_ = read(b'{"a": "x', byte)
    assert f"byte {byte[0]:#04x} in a string" in str(error)


def test_junk_gets_one_error_per_line() -> None:
    items = read(b"he", b"llo, wor", b"ld\n", b'GET / HTTP/1.1\n{"ok": 1} # tail', b' {"ok": 2}')
    assert items == [
        "stray 'h' where a message should begin with '{'",
        "stray 'G' where a message should begin with '{'",
        {"ok": 1},
        "stray '#' where a message should begin with '{'",
        {"ok": 2},
    ]


def test_size_limit() -> None:
    fits = b'{"a": "' + b"x" * 91 + b'"}'
    assert len(fits) == 100
    assert read(fits, max_bytes=100) == [{"a": "x" * 91}]
    over = fits[:-2] + b'y"}'
    assert read(over, b'{"b": 1}', max_bytes=100) == ["a message is limited to 100 bytes", {"b": 1}]


def test_oversized_message_is_reported_at_once_and_not_kept() -> None:
    stream = JsonStream(max_bytes=100)
    stream.feed(b'{"a": ["' + b"x" * 200)
    assert drain(stream) == ["a message is limited to 100 bytes"]
    for _ in range(1000):
        stream.feed(b'\\"}]x' * 100)
        assert drain(stream) == []
        assert len(stream._buffer) <= 1  # white box: nothing piles up
    stream.feed(b'"]}{"b": 1}')
    assert drain(stream) == [{"b": 1}]


def test_nesting_limit() -> None:
    assert read(b'{"a": ' + b"[" * 3 + b"]" * 3 + b"}", max_depth=4) == [{"a": [[[]]]}]
    deep = b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}"
    assert read(deep + b'{"b": 1}', max_depth=4) == ["nesting is limited to 4 levels", {"b": 1}]
    assert read(*(bytes([b]) for b in deep), b'{"b": 1}', max_depth=4)[1:] == [{"b": 1}]


def test_default_nesting_limit_is_parsed_without_overflow() -> None:
    (item,) = read(b'{"a":' * 127 + b"{}" + b"}" * 127)
    assert isinstance(item, dict)
    assert read(b'{"a":' * 100_000) == ["nesting is limited to 128 levels"]


def test_resynchronise_after_a_limit() -> None:
    assert read(b"{" * 10, b"\xff", b'{"b": 1}', max_depth=4)[-1] == {"b": 1}


@pytest.mark.timeout(100)
@pytest.mark.parametrize("unit", [b"x", b"\\n", b"[],", b"'',", b"\x01", b"x ", b"{}"])
def test_time_is_linear(unit: bytes) -> None:
    """200 kB byte by byte: a scan that started over each time would take minutes, and not come to its end."""
    stream = JsonStream()
    head = b'{"a": "' if unit in (b"x", b"\\n") else b'{"a": [' if unit.endswith(b",") else b""
    whole = head + unit * (200_000 // len(unit))
    found = []
    for byte in whole:
        stream.feed(bytes([byte]))
        found += drain(stream)
    assert found == read(whole)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.booleans(), st.data())
def test_any_json_object_is_read(value: dict[str, Any], ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    cut = data.draw(st.integers(0, len(text)))
    assert read(text[:cut], text[cut:]) == [value]


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"{", b"}", b'"', b"'", b"\\", b"[", b"]", b'{"a":1}'])))
def test_any_bytes_are_survived(pieces: list[bytes]) -> None:
    """Whatever was sent, a control character leads back."""
    stream = JsonStream(max_bytes=64, max_depth=5)
    for piece in pieces:
        stream.feed(piece)
        drain(stream)
    stream.feed(b"\x01")
    last = drain(stream)[-1]
    assert isinstance(last, str)
    stream.feed(b'{"ok": 1}')
    assert drain(stream) == [{"ok": 1}]
