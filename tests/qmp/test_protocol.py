"""One connection without I/O: negotiation, message form, ids, errors, out-of-band."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dm.qmp.protocol import (
    CAPABILITIES,
    OOB_LOOKAHEAD,
    Connection,
    Reply,
    Request,
    VersionInfo,
    VersionTriple,
    encode_event,
)
from dm.qmp.schema import Command, Schema


async def _add(context: object, left: int, right: int | None = None) -> int:
    raise AssertionError("these tests carry nothing out")


async def _abort(context: object) -> None:
    raise AssertionError("these tests carry nothing out")


SCHEMA = Schema([CAPABILITIES, Command.of("add", _add), Command.of("x-abort", _abort, oob=True)], [])


def connection(*, negotiated: bool = True, oob: bool = False) -> Connection:
    made = Connection(SCHEMA, VersionInfo.parse("1.2.3"))
    if negotiated:
        enable = ["oob"] if oob else []
        assert ask(made, {"execute": "qmp_capabilities", "arguments": {"enable": enable}}) == {"return": {}}
    return made


def item(conn: Connection, message: Any) -> Request | Reply:
    conn.receive_data(message if isinstance(message, bytes) else json.dumps(message).encode())
    found = conn.next_item()
    assert found is not None
    return found


def ask(conn: Connection, message: Any) -> Any:
    """Return the answer to a message that needs no carrying out."""
    reply = item(conn, message)
    assert isinstance(reply, Reply), f"{reply} was taken for a good request"
    data = conn.send(reply)
    assert data.endswith(b"\r\n")
    return json.loads(data)


def error(conn: Connection, message: Any) -> tuple[str, str]:
    answer = ask(conn, message)
    return answer["error"]["class"], answer["error"]["desc"]


def test_greeting() -> None:
    greeting = connection(negotiated=False).greeting()
    assert greeting.endswith(b"\r\n")
    version = {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "x86-dm 1.2.3"}
    assert json.loads(greeting) == {"QMP": {"version": version, "capabilities": ["oob"]}}


@pytest.mark.parametrize(
    ("text", "triple"),
    [("1.2.3", (1, 2, 3)), ("0.10", (0, 10, 0)), ("2.0.dev3+g12", (2, 0, 0)), ("unknown", (0, 0, 0)), ("3", (3, 0, 0))],
)
def test_version(text: str, triple: tuple[int, int, int]) -> None:
    assert VersionInfo.parse(text) == VersionInfo(VersionTriple(*triple), f"x86-dm {text}")


@pytest.mark.parametrize("name", ["add", "x-abort", "no-such-command"])
def test_only_negotiation_before_negotiation(name: str) -> None:
    conn = connection(negotiated=False)
    expected = ("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
    assert error(conn, {"execute": name}) == expected
    assert not conn.listening


def test_negotiation_starts_events_when_its_reply_is_sent() -> None:
    conn = connection(negotiated=False)
    reply = item(conn, {"execute": "qmp_capabilities", "id": 1})
    assert isinstance(reply, Reply)
    assert not conn.listening
    assert json.loads(conn.send(reply)) == {"return": {}, "id": 1}
    assert conn.listening


def test_failed_negotiation_may_be_repeated() -> None:
    conn = connection(negotiated=False)
    bad = {"execute": "qmp_capabilities", "arguments": {"enable": ["teleport"]}}
    expected = ("GenericError", "Parameter 'enable[0]' does not accept value 'teleport', only 'oob'")
    assert error(conn, bad) == expected
    assert not conn.listening
    assert error(conn, {"execute": "add"})[0] == "CommandNotFound"
    assert ask(conn, {"execute": "qmp_capabilities"}) == {"return": {}}


def test_negotiation_happens_once() -> None:
    expected = ("CommandNotFound", "Capabilities negotiation is already complete, command ignored")
    assert error(connection(), {"execute": "qmp_capabilities"}) == expected


def test_request() -> None:
    request = item(connection(), {"execute": "add", "arguments": {"left": 2}, "id": 5})
    assert isinstance(request, Request)
    assert request.command is SCHEMA.commands["add"]
    assert request.arguments == {"left": 2}
    assert request.reply(4).data == b'{"return": 4, "id": 5}\r\n'


def test_result_of_the_wrong_type_is_refused() -> None:
    request = item(connection(), {"execute": "add", "arguments": {"left": 2}})
    assert isinstance(request, Request)
    with pytest.raises(ValueError, match="'add'"):
        request.reply("four")


@pytest.mark.parametrize(
    "given", ["1", "0", "-1", "1.5", "1e300", '"x"', '""', "null", "true", "[]", '{"a": [1, {"b": null}]}', "9" * 60]
)
def test_id_is_echoed(given: str) -> None:
    conn = connection()
    request = item(conn, b'{"execute": "x-abort", "id": ' + given.encode() + b"}")
    assert isinstance(request, Request)
    assert json.loads(request.reply(None).data) == {"return": {}, "id": json.loads(given)}
    assert json.loads(request.fail("no").data)["id"] == json.loads(given)
    assert ask(conn, b'{"execute": "nope", "id": ' + given.encode() + b"}")["id"] == json.loads(given)


def test_no_id_no_echo() -> None:
    conn = connection()
    request = item(conn, {"execute": "x-abort"})
    assert isinstance(request, Request)
    assert request.reply(None).data == b'{"return": {}}\r\n'
    assert request.fail("no").data == b'{"error": {"class": "GenericError", "desc": "no"}}\r\n'


def test_output_is_ascii() -> None:
    request = item(connection(), '{"execute": "x-abort", "id": "\u00e9\U0001f600\\n"}'.encode())
    assert isinstance(request, Request)
    assert request.reply(None).data == b'{"return": {}, "id": "\\u00e9\\ud83d\\ude00\\n"}\r\n'


@pytest.mark.parametrize(
    ("message", "desc"),
    [
        ({}, "QMP input lacks member 'execute'"),
        ({"arguments": {}}, "QMP input lacks member 'execute'"),
        ({"execute": 1}, "QMP input member 'execute' must be a string"),
        ({"execute": None}, "QMP input member 'execute' must be a string"),
        ({"execute": "add", "arguments": [1]}, "QMP input member 'arguments' must be an object"),
        ({"execute": "add", "arguments": None}, "QMP input member 'arguments' must be an object"),
        ({"execute": "add", "extra": 1}, "QMP input member 'extra' is unexpected"),
        ({"exec-oob": "x-abort"}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "add"}, "Parameter 'left' is missing"),
        ({"execute": "add", "arguments": {"left": "1"}}, "Invalid parameter type for 'left', expected: int"),
        ({"execute": "add", "arguments": {"left": 1, "up": 1}}, "Parameter 'up' is unexpected"),
        ({"execute": "x-abort", "arguments": {"a": 1}}, "Parameter 'a' is unexpected"),
        (b"[]", "JSON parse error: a message must be a JSON object"),
        (b"\xff", "JSON parse error: stray byte 0xff between messages"),
    ],
)
def test_bad_message(message: Any, desc: str) -> None:
    assert error(connection(), message) == ("GenericError", desc)


def test_error_in_a_message_keeps_its_id() -> None:
    assert ask(connection(), {"execute": "add", "id": [7]})["id"] == [7]


def test_unknown_command() -> None:
    expected = ("CommandNotFound", "The command frob has not been found")
    assert error(connection(), {"execute": "frob"}) == expected


def test_items_come_in_order() -> None:
    conn = connection()
    conn.receive_data(b'{"execute": "x-abort", "id": 1} junk\n{"execute": "x-abort", "id": 2} {"exec')
    first, second, third, none = (conn.next_item() for _ in range(4))
    assert isinstance(first, Request)
    assert first.tag == {"id": 1}
    assert isinstance(second, Reply)
    assert isinstance(third, Request)
    assert third.tag == {"id": 2}
    assert none is None


def test_out_of_band() -> None:
    conn = connection(oob=True)
    assert conn.lookahead == OOB_LOOKAHEAD
    request = item(conn, {"exec-oob": "x-abort", "id": 1})
    assert isinstance(request, Request)
    assert request.oob
    assert request.reply(None).oob
    assert request.fail("no").oob
    in_band = item(conn, {"execute": "x-abort"})
    assert isinstance(in_band, Request)
    assert not in_band.oob


def test_nothing_overtakes_the_end_of_negotiation() -> None:
    conn = connection(negotiated=False)
    reply = item(conn, {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})
    assert isinstance(reply, Reply)
    assert conn.lookahead == 1
    conn.send(reply)
    assert conn.lookahead == OOB_LOOKAHEAD


@pytest.mark.parametrize(
    ("message", "desc", "oob"),
    [
        ({"exec-oob": "add", "arguments": {"left": 1}}, "The command add does not support OOB", True),
        ({"exec-oob": "x-abort", "execute": "x-abort"}, "QMP input member 'exec-oob' clashes with 'execute'", True),
        ({"exec-oob": 1}, "QMP input member 'exec-oob' must be a string", True),
        ({"execute": 1}, "QMP input member 'execute' must be a string", False),
    ],
)
def test_bad_out_of_band_message(message: Any, desc: str, oob: bool) -> None:
    conn = connection(oob=True)
    reply = item(conn, message)
    assert isinstance(reply, Reply)
    assert reply.oob is oob
    assert json.loads(reply.data) == {"error": {"class": "GenericError", "desc": desc}}


def test_suspect() -> None:
    conn = connection(negotiated=False)
    assert not conn.suspect
    item(conn, b"POST / HTTP/1.1\r\n")
    assert conn.suspect
    after = connection()
    item(after, b"\xff")
    assert not after.suspect


def test_event() -> None:
    time_ns = 1_700_000_000_123_456_789
    stamp = '"timestamp": {"seconds": 1700000000, "microseconds": 123456}'
    assert encode_event("STOP", {}, time_ns).decode() == '{"event": "STOP", ' + stamp + "}\r\n"
    assert encode_event("X", {"a": "é"}, time_ns).decode() == (
        '{"event": "X", ' + stamp + ', "data": {"a": "\\u00e9"}}\r\n'
    )
