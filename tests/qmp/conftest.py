"""A fake daemon behind a real QmpServer, in a thread of its own, and a client that is nothing but a socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from dm.qmp.address import Address, TcpAddress, UnixAddress
from dm.qmp.commands import SCHEMA
from dm.qmp.control import (
    ControlError,
    ControlEvent,
    Resumed,
    RunState,
    SessionInfo,
    Shutdown,
    ShutdownCause,
    Stopped,
    VcpuInfo,
    VcpuState,
)
from dm.qmp.protocol import VersionInfo
from dm.qmp.schema import Schema
from dm.qmp.server import Limits, QmpServer


class FakeControl:
    """Control with a run state, two sessions and a stop() that can be made to hang."""

    def __init__(self) -> None:
        self.state = RunState.RUNNING
        self.listeners: list[Callable[[ControlEvent], None]] = []
        self.calls: list[str] = []
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.ended = asyncio.Event()

    async def status(self) -> RunState:
        self.calls.append("status")
        return self.state

    async def stop(self) -> None:
        self.calls.append("stop")
        await self.may_stop.wait()
        if self.state is RunState.RUNNING:
            self.state = RunState.PAUSED
            self.emit(Stopped())

    async def cont(self) -> None:
        self.calls.append("cont")
        if self.state is RunState.SHUTDOWN:
            raise ControlError("The daemon is shutting down")
        if self.state is RunState.PAUSED:
            self.state = RunState.RUNNING
            self.emit(Resumed())

    async def quit(self) -> None:
        self.calls.append("quit")
        self.state = RunState.SHUTDOWN
        self.emit(Shutdown(guest=False, reason=ShutdownCause.HOST_QMP_QUIT))
        self.ended.set()

    async def sessions(self) -> list[SessionInfo]:
        vcpus = (VcpuInfo(0, VcpuState.RUNNING, 7, 2**63 + 1, 3), VcpuInfo(1, VcpuState.IDLE))
        return [SessionInfo("1", 1500, vcpus, name="vm", engine="python", pid=4711), SessionInfo("2", 5)]

    def subscribe(self, listener: Callable[[ControlEvent], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener) if listener in self.listeners else None

    def emit(self, event: ControlEvent) -> None:
        for listener in list(self.listeners):
            listener(event)


class Peer:
    """A client that sends bytes and reads lines; every wait ends after 100 s."""

    def __init__(self, address: Address) -> None:
        if isinstance(address, UnixAddress):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(100)
            try:
                self.sock.connect(address.path)
            except OSError:
                self.sock.close()
                raise
        else:
            self.sock = socket.create_connection((address.host, address.port), timeout=100)
        self._buffer = b""

    def send(self, data: bytes | dict[str, Any]) -> None:
        self.sock.sendall(data if isinstance(data, bytes) else json.dumps(data).encode())

    def line(self) -> bytes:
        """Return one line with its ending, b"" at the end of the stream."""
        while b"\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                assert not self._buffer, f"the stream ends in the middle of {self._buffer!r}"
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def read(self) -> dict[str, Any]:
        """Return one message."""
        line = self.line()
        assert line.endswith(b"\r\n"), f"not a whole line: {line!r}"
        assert line.isascii()
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def ask(self, data: bytes | dict[str, Any]) -> dict[str, Any]:
        self.send(data)
        return self.read()

    def negotiate(self, **arguments: Any) -> Peer:
        assert "QMP" in self.read()
        assert self.ask({"execute": "qmp_capabilities", "arguments": arguments}) == {"return": {}}
        return self

    def silent(self, seconds: float = 0.2) -> bool:
        """Return whether nothing arrives for a while."""
        self.sock.settimeout(seconds)
        try:
            self._buffer += self.sock.recv(65536)
            return False
        except TimeoutError:
            return not self._buffer
        finally:
            self.sock.settimeout(100)


class Daemon:
    """A QmpServer over a FakeControl; its loop runs in a thread."""

    def __init__(self, path: Path, schema: Schema, limits: Limits | None) -> None:
        self.address = UnixAddress(str(path))
        self._peers: list[Peer] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.run(self._start(schema, limits))

    async def _start(self, schema: Schema, limits: Limits | None) -> None:
        self.control = FakeControl()
        self.server = QmpServer(self.control, VersionInfo.parse("1.2.3"), schema=schema, limits=limits)
        await self.server.listen(self.address)

    def run(self, work: Any) -> Any:
        """Run a coroutine in the daemon's thread and return its result."""
        return self.start(work).result(100)

    def start(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the daemon's thread and return its result."""

        async def call() -> Any:
            return function(*args)

        return self.run(call())

    def emit(self, *events: ControlEvent) -> None:
        for event in events:
            self.do(self.control.emit, event)

    def peer(self, address: Address | None = None) -> Peer:
        peer = Peer(address or self.address)
        self._peers.append(peer)
        return peer

    def tcp(self) -> TcpAddress:
        """Listen on a TCP port too and return it."""
        address = self.run(self.server.listen(TcpAddress("127.0.0.1", 0)))
        assert isinstance(address, TcpAddress)
        return address

    def close(self) -> None:
        for peer in self._peers:
            peer.sock.close()
        self.run(self.server.close(timeout=1.0))
        tasks = self.do(lambda: [t for t in asyncio.all_tasks() if t is not asyncio.current_task()])
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not tasks, "tasks are left after close()"
        assert not Path(self.address.path).exists(), "the socket file is left after close()"


MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Return a function that starts a daemon; all are closed after the test."""
    daemons: list[Daemon] = []

    def make(*, schema: Schema = SCHEMA, limits: Limits | None = None) -> Daemon:
        daemons.append(Daemon(tmp_path / f"qmp{len(daemons)}", schema, limits))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon()


@pytest.fixture
def peer(daemon: Daemon) -> Peer:
    """A client after capability negotiation, without out-of-band execution."""
    return daemon.peer().negotiate()
