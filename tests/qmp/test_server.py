"""The transport, with nothing but sockets: several clients, order, bounds, ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from dm.qmp.address import UnixAddress
from dm.qmp.commands import SCHEMA
from dm.qmp.control import Resumed, SessionClosed, Stopped, VcpuLost
from dm.qmp.protocol import CommandError, QmpErrorClass
from dm.qmp.schema import Command, Schema
from dm.qmp.server import Limits, _Client

CAPABILITIES = {"execute": "qmp_capabilities"}


def extended(*commands: Command) -> Schema:
    """Return the monitor's schema with commands of a test's own."""
    return Schema([*SCHEMA.commands.values(), *commands], [*(e.make for e in SCHEMA.events.values())])


def wait_for(daemon: Any, condition: Any) -> None:
    end = time.monotonic() + 100
    while not daemon.do(condition):
        assert time.monotonic() < end, "waited 100 s in vain"
        time.sleep(0.01)


# -- framing, on the wire ----------------------------------------------------------------------------------------------


def test_greeting_comes_first(daemon: Any) -> None:
    greeting = daemon.peer().read()
    assert set(greeting) == {"QMP"}
    assert greeting["QMP"]["capabilities"] == ["oob"]


def test_commands_need_no_newline(peer: Any) -> None:
    assert peer.ask(b'{"execute":"query-status"}')["return"]["status"] == "running"
    assert peer.ask(b"{'execute':'query-status','id':'x'}")["id"] == "x"


def test_byte_by_byte(peer: Any) -> None:
    for byte in b'{"execute": "query-status", "id": "\xc3\xa9"}':
        peer.send(bytes([byte]))
    assert peer.read()["id"] == "é"


def test_several_commands_in_one_piece(daemon: Any) -> None:
    peer = daemon.peer()
    peer.read()
    peer.send(
        b'{"execute":"qmp_capabilities","id":0}' + b"".join(b'{"execute":"stop","id":%d}' % i for i in range(1, 6))
    )
    assert [peer.read().get("id", "event") for _ in range(7)] == [0, "event", 1, 2, 3, 4, 5]


def test_resynchronise(peer: Any) -> None:
    for byte in (b"\x01", b"\xff"):
        peer.send(b'{"execute": "stop", "arguments": {"x": [')
        assert "is dropped" in peer.ask(byte)["error"]["desc"]
        assert peer.ask({"execute": "query-status"})["return"]["status"] == "running"


def test_limits_reach_the_framing(make_daemon: Any) -> None:
    peer = make_daemon(limits=Limits(message_bytes=100, message_depth=3)).peer().negotiate()
    assert "limited to 100 bytes" in peer.ask(b'{"execute": "' + b"x" * 100 + b'"}')["error"]["desc"]
    assert "limited to 3 levels" in peer.ask(b'{"id": [[[]]]}')["error"]["desc"]
    assert peer.ask({"execute": "query-status"})["return"]["running"] is True


def test_endless_message_is_not_kept(make_daemon: Any) -> None:
    daemon = make_daemon()
    peer = daemon.peer().negotiate()
    assert "limited to" in peer.ask(b'{"id": "' + b"x" * (1 << 20))["error"]["desc"]
    for _ in range(20):
        peer.send(b"x" * (1 << 20))
    (client,) = daemon.server._clients  # white box: the input so far is gone
    assert daemon.do(lambda: len(client._core._stream._buffer)) <= 1 << 18
    assert peer.ask(b'"}{"execute": "query-status"}')["return"]["running"] is True


# -- negotiation and events --------------------------------------------------------------------------------------------


def test_no_events_before_negotiation(daemon: Any) -> None:
    peer = daemon.peer()
    peer.read()
    assert peer.ask({"execute": "stop"})["error"]["class"] == "CommandNotFound"
    daemon.emit(Stopped())
    assert peer.silent()
    assert peer.ask(CAPABILITIES) == {"return": {}}
    daemon.emit(Resumed())
    assert peer.read()["event"] == "RESUME"


def test_every_client_gets_every_event(daemon: Any) -> None:
    peers = [daemon.peer().negotiate() for _ in range(3)]
    peers[0].send({"execute": "stop"})
    for peer in peers:
        assert peer.read()["event"] == "STOP"
    assert peers[0].read() == {"return": {}}
    assert peers[1].silent()


def test_events_are_rate_limited_and_the_last_wins(daemon: Any, peer: Any) -> None:
    daemon.emit(*(VcpuLost("1", 0, str(i)) for i in range(50)), VcpuLost("1", 1, "other"))
    assert peer.read()["data"]["reason"] == "0"
    assert peer.read()["data"]["reason"] == "other"
    late = peer.read()
    assert late["data"] == {"session": "1", "vcpu": 0, "reason": "49"}
    assert peer.silent()


def test_held_events_are_sent_at_the_end(daemon: Any, peer: Any) -> None:
    daemon.emit(VcpuLost("1", 0, "first"), VcpuLost("1", 0, "last"))
    daemon.run(daemon.server.close())
    assert [peer.read()["data"]["reason"] for _ in range(2)] == ["first", "last"]
    assert peer.line() == b""


def test_an_event_that_does_not_fit_its_type_is_logged(daemon: Any, peer: Any, caplog: Any) -> None:
    daemon.emit(SessionClosed(7, "x"), Stopped())  # type: ignore[arg-type]
    assert peer.read()["event"] == "STOP"
    assert "cannot be sent" in caplog.text


# -- commands ----------------------------------------------------------------------------------------------------------


def test_in_band_commands_answer_in_order(daemon: Any, peer: Any) -> None:
    """A slow command holds back later ones of its client, errors included, and nobody else's."""
    daemon.do(daemon.control.may_stop.clear)
    peer.send(b'{"execute": "stop", "id": 1}{"execute": "nope", "id": 2} junk\n{"execute": "query-status", "id": 3}')
    assert peer.silent()
    assert daemon.peer().negotiate().ask({"execute": "query-status"})["return"]["running"] is True
    daemon.do(daemon.control.may_stop.set)
    answers = [peer.read() for _ in range(5)]
    assert answers[0]["event"] == "STOP"
    assert [answer.get("id") for answer in answers[1:]] == [1, 2, None, 3]


def test_out_of_band_overtakes(daemon: Any) -> None:
    peer = daemon.peer().negotiate(enable=["oob"])
    daemon.do(daemon.control.may_stop.clear)
    peer.send(b'{"execute": "stop", "id": 1}{"execute": "query-status", "id": 2}{"exec-oob": "query-x86-dm", "id": 3}')
    assert peer.read()["id"] == 3
    assert peer.ask({"exec-oob": "stop", "id": 4}) == {
        "error": {"class": "GenericError", "desc": "The command stop does not support OOB"},
        "id": 4,
    }
    assert peer.silent()
    daemon.do(daemon.control.may_stop.set)
    assert [peer.read().get("id", "event") for _ in range(3)] == ["event", 1, 2]


def test_out_of_band_cannot_overtake_negotiation(daemon: Any) -> None:
    peer = daemon.peer()
    peer.read()
    peer.send(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":0}{"exec-oob":"query-x86-dm","id":1}')
    assert [peer.read()["id"] for _ in range(2)] == [0, 1]


def test_requests_under_way_are_bounded(make_daemon: Any) -> None:
    """A client with out-of-band execution may have 8 + 8 requests under way; the others wait unread."""
    gate = asyncio.Event()
    begun: list[int] = []

    async def wait(monitor: object, number: int) -> None:
        begun.append(number)
        await gate.wait()

    daemon = make_daemon(schema=extended(Command.of("x-wait", wait, oob=True)))
    peer = daemon.peer().negotiate(enable=["oob"])
    for i in range(40):
        peer.send({"exec-oob": "x-wait", "arguments": {"number": i}, "id": i})
    wait_for(daemon, lambda: len(begun) == 8)
    assert peer.silent()
    assert begun == list(range(8))
    daemon.do(gate.set)
    assert sorted(peer.read()["id"] for _ in range(40)) == list(range(40))


def test_a_failing_command_is_told_and_logged(make_daemon: Any, caplog: Any) -> None:
    async def fail(monitor: object) -> None:
        raise RuntimeError("secret detail")

    async def lie(monitor: object) -> int:
        return "four"  # type: ignore[return-value]

    async def refuse(monitor: object) -> None:
        raise CommandError("not today", QmpErrorClass.COMMAND_NOT_FOUND)

    schema = extended(Command.of("x-fail", fail), Command.of("x-lie", lie), Command.of("x-refuse", refuse))
    peer = make_daemon(schema=schema).peer().negotiate()
    for name in ("x-fail", "x-lie"):
        error = peer.ask({"execute": name, "id": name})
        assert error["id"] == name
        assert error["error"]["desc"] == f"Internal error in '{name}'; the daemon's log has the details"
    assert peer.ask({"execute": "x-refuse"})["error"] == {"class": "CommandNotFound", "desc": "not today"}
    assert "secret detail" in caplog.text


# -- bounds ------------------------------------------------------------------------------------------------------------


def unsent(daemon: Any) -> int:
    size = daemon.do(lambda: max(client._transport.get_write_buffer_size() for client in daemon.server._clients))
    assert isinstance(size, int)
    return size


def test_a_client_that_does_not_read_is_not_read(make_daemon: Any) -> None:
    """It stops itself, with a bounded backlog, and goes on when it reads; others do not notice."""
    daemon = make_daemon(limits=Limits(output_high=4096))
    peer = daemon.peer().negotiate()
    answer = peer.ask({"execute": "query-qmp-schema"})
    request = b'{"execute": "query-qmp-schema"}'
    sent = 0
    peer.sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:  # until the server reads no more
            sent += peer.sock.send((request * 100)[sent % len(request) :])
    peer.sock.settimeout(100)
    assert 0 < sent < 4 << 20
    assert unsent(daemon) < 4096 + 20_000
    assert daemon.peer().negotiate().ask({"execute": "query-status"})["return"]["running"] is True
    for _ in range(sent // len(request)):
        assert peer.read() == answer


def account(peer: Any, total: int) -> int:
    """Read until ``total`` STOP events have come or been reported dropped; return how many were dropped."""
    come = dropped = 0
    while come + dropped < total:
        event = peer.read()
        if event["event"] == "STOP":
            come += 1
        else:
            assert event["event"] == "X86_DM_EVENTS_DROPPED"
            dropped += event["data"]["count"]
    assert come + dropped == total
    return dropped


def test_events_for_a_client_that_does_not_read_are_counted(make_daemon: Any) -> None:
    daemon = make_daemon(limits=Limits(output_high=4096, output_events=16384))
    peer = daemon.peer().negotiate()
    reader = daemon.peer().negotiate()
    for _ in range(100):
        daemon.do(lambda: [daemon.control.emit(Stopped()) for _ in range(100)])
        assert unsent(daemon) < 16384 + 1000
        assert account(reader, 100) == 0, "who reads misses nothing"
    assert account(peer, 100 * 100) > 0
    daemon.emit(Resumed())
    assert peer.read()["event"] == "RESUME"


class StuckTransport(asyncio.Transport):
    """A transport whose peer reads only what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.sent.append(json.loads(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == Limits().output_high

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def test_dropped_events_are_reported_where_they_are_missing(daemon: Any) -> None:
    """Once an event was dropped none is sent, room or not, until the client is told."""

    async def work() -> list[str]:
        transport = StuckTransport()
        client = _Client(daemon.server, trusted=True)
        client.connection_made(transport)
        client.data_received(b'{"execute": "qmp_capabilities"}')
        while len(transport.sent) < 2:
            await asyncio.sleep(0)
        daemon.control.emit(Stopped())
        client.pause_writing()
        daemon.control.emit(Resumed())
        transport.unsent = Limits().output_events + 1
        daemon.control.emit(Stopped())
        transport.unsent = Limits().output_events // 2
        daemon.control.emit(Stopped())
        client.resume_writing()
        daemon.control.emit(Resumed())
        client.connection_lost(None)
        assert transport.sent[4]["data"] == {"count": 2}
        return [message["event"] for message in transport.sent[2:]]

    assert daemon.run(work()) == ["STOP", "RESUME", "X86_DM_EVENTS_DROPPED", "RESUME"]


def test_too_many_clients_are_refused(make_daemon: Any) -> None:
    daemon = make_daemon(limits=Limits(clients=2))
    peers = [daemon.peer().negotiate() for _ in range(2)]
    third = daemon.peer()
    assert third.read() == {"error": {"class": "GenericError", "desc": "Too many QMP clients, the limit is 2"}}
    assert third.line() == b""
    peers[0].sock.close()
    wait_for(daemon, lambda: len(daemon.server._clients) == 1)
    assert "QMP" in daemon.peer().read()


def test_clients_take_turns(make_daemon: Any) -> None:
    """However much a client has sent, another's command waits for one of them only."""
    gate = asyncio.Event()
    begun: list[str] = []

    async def note(monitor: object, who: str) -> None:
        begun.append(who)
        await gate.wait()

    daemon = make_daemon(schema=extended(Command.of("x-note", note)))
    for who in ("a", "b"):
        peer = daemon.peer().negotiate()
        peer.send(b'{"execute": "x-note", "arguments": {"who": "%s"}}' % who.encode() * 100)
    wait_for(daemon, lambda: len(begun) == 2)
    daemon.do(gate.set)
    wait_for(daemon, lambda: len(begun) == 200)
    assert begun[:20].count("a") == begun[:20].count("b") == 10


# -- ends --------------------------------------------------------------------------------------------------------------


def test_half_closed_client_gets_its_answers(daemon: Any, peer: Any) -> None:
    """As with `printf ... | nc -N`: all that was sent is answered, then the stream ends."""
    peer.send(b'{"execute": "stop"}{"execute": "query-status"}{"exec')
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.read()["event"] == "STOP"
    assert peer.read() == {"return": {}}
    assert peer.read()["return"]["status"] == "paused"
    assert peer.line() == b""


def test_a_client_that_vanishes_is_forgotten(daemon: Any, peer: Any) -> None:
    """Its command is finished, what waited behind it is not begun."""
    daemon.do(daemon.control.may_stop.clear)
    peer.send(b'{"execute": "stop"}{"execute": "cont"}')
    wait_for(daemon, lambda: daemon.control.calls == ["stop"])
    (client,) = daemon.server._clients
    daemon.do(client.abort)
    wait_for(daemon, lambda: not daemon.server._clients)
    daemon.do(daemon.control.may_stop.set)
    wait_for(daemon, lambda: not daemon.server._tasks)
    assert daemon.control.calls == ["stop"]
    assert daemon.control.state == "paused"


def test_close_gives_up_on_a_stuck_command(daemon: Any, peer: Any) -> None:
    daemon.do(daemon.control.may_stop.clear)
    peer.send({"execute": "stop"})
    wait_for(daemon, lambda: daemon.control.calls == ["stop"])
    daemon.run(daemon.server.close(timeout=0.3))
    assert peer.line() == b""
    assert daemon.do(lambda: daemon.server._tasks) == set()


def test_close_takes_no_more_commands(daemon: Any) -> None:
    """The one under way is answered, the one that came after is not carried out."""
    peer = daemon.peer().negotiate(enable=["oob"])  # else input is not read while a command is under way
    daemon.do(daemon.control.may_stop.clear)
    peer.send({"execute": "stop", "id": 1})
    wait_for(daemon, lambda: daemon.control.calls == ["stop"])
    closing = daemon.start(daemon.server.close(timeout=100))
    wait_for(daemon, lambda: not daemon.control.listeners)
    peer.send({"execute": "cont", "id": 2})
    daemon.do(daemon.control.may_stop.set)
    assert peer.read() == {"return": {}, "id": 1}
    with contextlib.suppress(ConnectionResetError):  # as good an end: the kernel's answer to unread input
        assert peer.line() == b""
    closing.result(60)
    assert daemon.control.calls == ["stop"]


def test_close_waits_for_nobody_when_nothing_is_under_way(daemon: Any) -> None:
    peers = [daemon.peer().negotiate(), daemon.peer()]
    peers[1].read()
    daemon.run(daemon.server.close(timeout=3600))
    assert [peer.line() for peer in peers] == [b"", b""]
    with pytest.raises(OSError):
        daemon.peer()


def test_close_ends_the_subscription(daemon: Any) -> None:
    assert len(daemon.control.listeners) == 1
    daemon.run(daemon.server.close())
    assert daemon.control.listeners == []


def test_close_leaves_a_successors_socket(daemon: Any) -> None:
    path = Path(daemon.address.path)
    path.unlink()
    other = socket.socket(socket.AF_UNIX)
    with other:
        other.bind(str(path))
        daemon.run(daemon.server.close())
        assert path.exists()
    path.unlink()


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_socket_mode(daemon: Any) -> None:
    assert stat.S_IMODE(Path(daemon.address.path).stat().st_mode) == 0o600


def test_listen_reports_an_address_in_use(daemon: Any) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        daemon.run(daemon.server.listen(UnixAddress(daemon.address.path)))
    assert "QMP" in daemon.peer().read()


def test_tcp(daemon: Any) -> None:
    peer = daemon.peer(daemon.tcp()).negotiate()
    assert peer.ask({"execute": "query-status"})["return"]["running"] is True
    assert "stray" in peer.ask(b"\xff")["error"]["desc"]
    assert peer.ask({"execute": "query-status"})["return"]["running"] is True


def test_tcp_refuses_commands_inside_http(daemon: Any, caplog: Any) -> None:
    """A web page can make a browser post to a local port; its headers give it away before its body acts."""
    peer = daemon.peer(daemon.tcp())
    peer.read()
    body = b'{"execute": "qmp_capabilities"}{"execute": "quit"}'
    with caplog.at_level(logging.WARNING):
        peer.send(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert "stray 'P'" in peer.read()["error"]["desc"]
        with contextlib.suppress(ConnectionResetError):  # as good an end: the kernel's answer to unread input
            assert peer.line() == b""
    assert daemon.control.calls == []
    assert "not JSON" in caplog.text
