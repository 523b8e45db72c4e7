"""The supervisor: control socket, sessions and their worker processes, on one asyncio thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq
import zmq.asyncio

from dm.keys import Keys
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass, Message
from dm.server import link
from dm.server.board import Board
from dm.server.directory import Directory
from dm.server.endpoint import Endpoint
from dm.server.memory import open_below
from dm.server.place import Admission, secure
from dm.server.ramsocket import RamSocket
from dm.version import VERSION

_log = logging.getLogger(__name__)

MAX_SESSIONS: Final = 64
#: Control requests of one session that may wait for its worker.
_MAX_PENDING: Final = 64
#: A worker must be ready within so many seconds (a first start may have to compile byte code).
_START: Final = 60.0
#: A worker that has been told to end is killed after so many seconds.
_STOP: Final = 6.0
_HWM: Final = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """How the daemon was asked to run.

    ``endpoint`` is the control endpoint, ``timeout`` in seconds.  For tcp ``keys`` are the daemon's, ``clients`` the
    public keys of those who may connect.
    """

    endpoint: Endpoint
    engine: str = "auto"
    memory_path: str | None = None
    timeout: float = 10.0
    log_level: str = "warning"
    keys: Keys | None = None
    clients: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class VcpuStatus:
    """What is known of a vCPU without asking its worker; ``doing`` is idle, running, waiting or lost."""

    number: int
    doing: str
    requests: int
    instructions: int
    io: int


@dataclass(slots=True)
class Session:
    """One VM: its shim's control socket, its worker."""

    number: int
    name: str
    identity: bytes
    epoch: int
    features: list[str]
    line: socket.socket
    process: asyncio.subprocess.Process
    user: str = ""  # the client's public key, on tcp
    board: Board = field(default_factory=Board)
    since: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    engine: str = ""
    note: str = ""
    vcpus: list[VcpuStatus] = field(default_factory=list)
    pending: dict[int, Callable[[bytes], None]] = field(default_factory=dict)
    tag: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str = ""
    ending: bool = False

    @property
    def live(self) -> bool:
        """Whether its worker is ready and has not been told to end."""
        return bool(self.engine) and not self.ending


class Listener:
    """Is told what happens; the monitor is one."""

    def opened(self, session: Session) -> None:
        """A session has begun."""

    def closed(self, session: Session, reason: str) -> None:
        """A session is over."""

    def lost(self, session: Session, reason: str) -> None:
        """A session's worker has ended unasked, and whatever it was running with it; :meth:`closed` follows."""

    def memory_lost(self, session: Session, reason: str) -> None:
        """A session's RAM is gone; its runs end with ``memory-lost``."""


class Supervisor:
    """The daemon's centre."""

    def __init__(self, settings: Settings, listener: Listener | None = None) -> None:
        self.settings = settings
        self.listener = listener or Listener()
        self.sessions: dict[int, Session] = {}
        self.paused = False
        self._quit = asyncio.Event()
        self._directory: Directory | None = None
        self._context = zmq.asyncio.Context(io_threads=1)
        self._socket: zmq.asyncio.Socket
        self._ram: RamSocket | None = None
        self._admission: Admission | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------ life

    def bind(self) -> None:
        """Take the endpoint.

        Raises:
            OSError: another daemon has it, or it cannot be bound; the text says which.
        """
        endpoint = self.settings.endpoint
        if endpoint.path:
            self._directory = Directory(endpoint.path)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in ((zmq.ROUTER_MANDATORY, 1), (zmq.SNDHWM, _HWM), (zmq.RCVHWM, _HWM), (zmq.LINGER, 0)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 16 * schema.MAX_CONTROL)  # above this the peer is cut off unheard
        if not endpoint.path:
            assert self.settings.keys is not None
            self._admission = Admission(self._context, self.settings.clients)
            secure(self._socket, self.settings.keys)
        try:
            self._socket.bind(str(endpoint))
        except zmq.ZMQError as error:
            raise OSError(f"cannot bind {endpoint}: {error.strerror}") from None
        if self._directory is not None:
            os.chmod(endpoint.path, 0o600)
            self._ram = RamSocket(f"{self._directory.name}/ram", self._on_ram)

    async def run(self) -> None:
        """Serve until :meth:`quit`; then every shim gets its state back."""
        chores = [asyncio.create_task(self._serve()), asyncio.create_task(self._watch())]
        try:
            await self._quit.wait()
        finally:
            await self._drain()
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            self.close()

    def quit(self) -> None:
        """Begin the orderly end."""
        self._quit.set()

    @property
    def quitting(self) -> bool:
        """Whether the orderly end has begun."""
        return self._quit.is_set()

    async def _drain(self) -> None:
        refusal = ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
        sessions = list(self.sessions.values())
        for session in sessions:
            self._send(session.identity, refusal.message(session=session.number))
        await asyncio.gather(*[self._end(session, "close", "the daemon is shutting down") for session in sessions])
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Give the endpoint back."""
        if self._ram is not None:
            self._ram.close()
        if hasattr(self, "_socket"):
            self._socket.close(linger=2000)
        if self._admission is not None:
            self._admission.close()
        self._context.term()
        if self._directory is not None:
            self._directory.close()

    async def pause(self, paused: bool) -> None:
        """Hold all guest code, or let it go on; return once that is so."""
        self.paused = paused
        waits = [self._request(session, "pause", paused) for session in self.sessions.values() if session.live]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), _STOP)

    async def _request(self, session: Session, operation: str, body: object) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def settle(data: bytes) -> None:
            if not answer.done():
                answer.set_result(data)

        self._to_worker(session, operation, body, settle)
        return await answer

    # ------------------------------------------------------------------------------------------ shims

    async def _serve(self) -> None:
        while True:
            parts = await self._socket.recv_multipart(copy=False)
            frames = [part.bytes for part in parts]
            identity = frames[0]
            try:
                if len(frames) != 2:
                    raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the message has {len(frames) - 1} parts", "one part")
                message = codec.decode(frames[1], schema.MAX_CONTROL)
                try:
                    user = "" if self._admission is None else str(parts[1].get("User-Id"))
                    self._handle(identity, user, message, frames[1])
                except ProtocolError as error:
                    error.partial.setdefault("seq", getattr(message, "seq", 0))
                    raise
            except ProtocolError as error:
                _log.info("control request refused: %s", error)
                self._send(identity, error.message())
            except Exception as error:  # whatever one peer brings about, the others are served on
                _log.exception("control request failed")
                refusal = ProtocolError(ErrorClass.INTERNAL, f"the request failed: {type(error).__name__}: {error}")
                self._send(identity, refusal.message())

    def _handle(self, identity: bytes, user: str, message: Message, data: bytes) -> None:
        if self.quitting:
            raise ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
        if isinstance(message, schema.Hello):
            self._start(self._hello(identity, user, message))
            return
        if message.SENDER != "shim" or message.ENDPOINT != "control":
            raise ProtocolError(
                ErrorClass.BAD_MESSAGE, f"{message.NAME} came to the control endpoint", "a control request", "type"
            )
        session = self._session(message.session, identity)  # type: ignore[attr-defined]
        session.heard = time.monotonic()
        match message:
            case schema.Ping():
                self._send(identity, schema.Ok(seq=message.seq, session=session.number))
            case schema.Bye():
                self._start(self._bye(session, message.seq))
            case schema.Ram():
                self._on_ram_request(session, message, data)
            case _:
                self._forward(session, data, lambda answer: self._send_bytes(session.identity, answer))

    def _session(self, number: int, identity: bytes) -> Session:
        session = self.sessions.get(number)
        if session is None or not session.live:
            raise ProtocolError(ErrorClass.UNKNOWN_SESSION, f"there is no session {number}", "hello first", "session")
        if session.identity != identity:
            raise ProtocolError(
                ErrorClass.STALE_EPOCH, f"session {number} belongs to another socket", "hello with resume", "session"
            )
        return session

    async def _hello(self, identity: bytes, user: str, hello: schema.Hello) -> None:
        try:
            version = self._version(hello)
            if hello.resume:
                session = self._resume(identity, user, hello)
            else:
                session = await self._open(identity, user, hello, version)
        except ProtocolError as error:
            self._send(identity, error.message(seq=hello.seq))
            return
        except Exception as error:
            _log.exception("hello failed")
            refusal = ProtocolError(ErrorClass.INTERNAL, f"no session can be opened: {type(error).__name__}: {error}")
            self._send(identity, refusal.message(seq=hello.seq))
            return
        self._send(
            session.identity,
            schema.Welcome(
                seq=hello.seq,
                version=version,
                session=session.number,
                features=session.features,
                max_message=schema.MAX_MESSAGE,
                max_control=schema.MAX_CONTROL,
                max_data=schema.MAX_DATA,
                max_regions=schema.MAX_REGIONS,
                max_vcpus=schema.MAX_VCPUS,
                timeout_ms=int(self.settings.timeout * 1000),
                ram_socket="" if self._ram is None else self._ram.path,
                daemon=f"x86-dm {VERSION}",
                engine=session.engine,
                engine_note=session.note,
            ),
        )

    @staticmethod
    def _version(hello: schema.Hello) -> int:
        version = min(hello.max_version, schema.VERSION)
        if version < max(hello.min_version, schema.OLDEST):
            raise ProtocolError(
                ErrorClass.VERSION,
                f"the shim speaks versions {hello.min_version} to {hello.max_version}",
                f"a range that meets {schema.OLDEST} to {schema.VERSION}",
                "max_version",
            )
        return version

    def _resume(self, identity: bytes, user: str, hello: schema.Hello) -> Session:
        session = self.sessions.get(hello.resume)
        if session is None or not session.live or session.user != user:
            raise ProtocolError(
                ErrorClass.UNKNOWN_SESSION, f"there is no session {hello.resume}", "0 for a new one", "resume"
            )
        if hello.epoch <= session.epoch:
            raise ProtocolError(ErrorClass.STALE_EPOCH, f"epoch is {hello.epoch}", f"above {session.epoch}", "epoch")
        session.identity, session.epoch, session.heard = identity, hello.epoch, time.monotonic()
        return session

    async def _open(self, identity: bytes, user: str, hello: schema.Hello, version: int) -> Session:
        if self.quitting:
            raise ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
        if any(session.identity == identity for session in self.sessions.values()):
            raise ProtocolError(ErrorClass.BUSY, "this socket has a session", "bye, or another socket")
        if len(self.sessions) >= MAX_SESSIONS:
            raise ProtocolError(ErrorClass.LIMIT, "too many sessions", f"at most {MAX_SESSIONS}")
        session = await self._spawn(identity, user, hello, version)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(session.ready.wait(), _START)
        if not session.engine or self.quitting:
            reason = session.failure or "its worker does not start"
            await self._end(session, "abort", reason)
            if self.quitting:
                raise ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
            raise ProtocolError(ErrorClass.INTERNAL, reason, "see the daemon's log")
        session.heard = time.monotonic()
        if self.paused:
            await self._request(session, "pause", True)
        self.listener.opened(session)
        return session

    async def _bye(self, session: Session, seq: int) -> None:
        identity = session.identity
        await self._end(session, "abort", "its shim said bye")
        self._send(identity, schema.Ok(seq=seq, session=session.number))

    def _on_ram_request(self, session: Session, message: schema.Ram, data: bytes) -> None:
        if message.messages:
            if message.path:
                raise ProtocolError(ErrorClass.BAD_MEMORY, "a path for a block by messages", "none", "path")
            self._forward(session, data, lambda answer: self._send_bytes(session.identity, answer))
            return
        if not message.path:
            raise ProtocolError(
                ErrorClass.BAD_MEMORY, "path is empty", "a path, or a descriptor on the RAM socket", "path"
            )
        if self.settings.memory_path is None:
            raise ProtocolError(
                ErrorClass.BAD_MEMORY, "this daemon has no memory path", "a descriptor on the RAM socket", "path"
            )
        fd = open_below(self.settings.memory_path, message.path)
        try:
            self._forward(session, data, lambda answer: self._send_bytes(session.identity, answer), fd)
        finally:
            os.close(fd)

    def _on_ram(self, message: schema.Ram, data: bytes, fd: int, answer: Callable[[bytes], None]) -> None:
        """A descriptor came on the RAM socket."""
        try:
            session = self.sessions.get(message.session)
            if session is None or not session.live:
                raise ProtocolError(
                    ErrorClass.UNKNOWN_SESSION, f"there is no session {message.session}", "hello first", "session"
                )
            session.heard = time.monotonic()
            self._forward(session, data, answer, fd)
        except ProtocolError as error:
            answer(codec.encode(error.message(seq=message.seq)))
        finally:
            os.close(fd)

    def _send(self, identity: bytes, message: Message) -> None:
        self._send_bytes(identity, codec.encode(message))

    def _send_bytes(self, identity: bytes, data: bytes) -> None:
        # With NOBLOCK the future is done at once: sent, or EAGAIN (peer does not read), or EHOSTUNREACH (peer gone).
        sent = self._socket.send_multipart([identity, data], zmq.NOBLOCK)
        assert isinstance(sent, asyncio.Future)
        error = sent.exception()
        if error is not None:
            _log.info("an answer on the control socket was dropped: %s", error)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------ workers

    async def _spawn(self, identity: bytes, user: str, hello: schema.Hello, version: int) -> Session:
        """Start a worker and enter its session, which is not ready yet."""
        number = secrets.randbelow((1 << 31) - 1) + 1
        while number in self.sessions:
            number = secrets.randbelow((1 << 31) - 1) + 1
        features = [word for word, since in schema.FEATURES.items() if word in hello.features and since <= version]
        if self.settings.memory_path is None and "ram-path" in features:
            features.remove("ram-path")
        if self._ram is None and "ram-fd" in features:
            features.remove("ram-fd")
        ours, theirs = link.pair()
        # -P: whatever directory the daemon was started in, the worker imports the same package as we.
        root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "dm.server.worker", "--fd", str(theirs.fileno())),
                *("--session", str(number), "--features", ",".join(features)),
                *("--engine", self.settings.engine, "--log-level", self.settings.log_level),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": search},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        session = Session(number, hello.name, identity, hello.epoch, features, ours, process, user)
        self.sessions[number] = session
        link.send(ours, "place", 0, self._place(user), session.board.fd)
        asyncio.get_running_loop().add_reader(ours, self._on_line, session)
        return session

    def _place(self, user: str) -> list[str | bytes]:
        """Return where a worker's vCPUs go: a directory, or an address, the keys and the only client."""
        if self._directory is not None:
            return [self._directory.name]
        assert self.settings.keys is not None
        return [self.settings.endpoint.host, self.settings.keys.public, self.settings.keys.secret, user.encode("ascii")]

    def _to_worker(
        self, session: Session, operation: str, body: object, answer: Callable[[bytes], None], fd: int = -1
    ) -> None:
        if len(session.pending) >= _MAX_PENDING:
            raise ProtocolError(ErrorClass.BUSY, "too many requests wait", f"at most {_MAX_PENDING} at a time")
        session.tag += 1
        try:
            link.send(session.line, operation, session.tag, body, fd)
        except OSError as error:
            raise ProtocolError(ErrorClass.BUSY, f"the worker does not listen: {error.strerror}", "try later") from None
        session.pending[session.tag] = answer

    def _forward(self, session: Session, data: bytes, answer: Callable[[bytes], None], fd: int = -1) -> None:
        """Hand a shim's request to its worker as it came."""
        self._to_worker(session, "message", data, answer, fd)

    def _on_line(self, session: Session) -> None:
        try:
            datagram = link.receive(session.line)
        except BlockingIOError:
            return
        if datagram is None:
            asyncio.get_running_loop().remove_reader(session.line)
            session.ready.set()
            if session.live:
                self._start(self._lost(session))
            return
        match datagram.operation:
            case "ready":
                session.engine, session.note = datagram.body
                session.ready.set()
            case "failed":
                session.failure = datagram.body
                session.ready.set()
            case "memory-lost":
                self.listener.memory_lost(session, datagram.body)
            case "counters":
                session.vcpus = [VcpuStatus(*row) for row in datagram.body]
            case "reply":
                answer = session.pending.pop(datagram.tag, None)
                if answer is not None:
                    answer(datagram.body)

    async def _lost(self, session: Session) -> None:
        """The worker is gone unasked."""
        reason = "its worker process ended unexpectedly"
        _log.error("session %d: %s", session.number, reason)
        self.listener.lost(session, reason)
        refusal = ProtocolError(ErrorClass.SESSION_LOST, reason, "hello for a new session")
        self._send(session.identity, refusal.message(session=session.number))
        await self._end(session, "abort", reason)

    async def _end(self, session: Session, operation: str, reason: str) -> None:
        """Tell the worker to end, see that it does, and forget the session."""
        if session.ending:
            return
        session.ending = True
        with contextlib.suppress(OSError):
            link.send(session.line, operation)
        try:
            await asyncio.wait_for(session.process.wait(), _STOP)
        except TimeoutError:
            _log.error("session %d: the worker does not end; killed", session.number)
            with contextlib.suppress(ProcessLookupError):
                session.process.kill()
            await session.process.wait()
        asyncio.get_running_loop().remove_reader(session.line)
        session.line.close()
        session.board.close()
        if self._directory is not None:
            self._directory.forget(session.number)
        self.sessions.pop(session.number, None)
        session.ready.set()
        refusal = ProtocolError(ErrorClass.SESSION_LOST, f"session {session.number} is over: {reason}", "hello")
        for answer in session.pending.values():
            answer(codec.encode(refusal.message(session=session.number)))
        if session.engine:
            self.listener.closed(session, reason)

    async def _watch(self) -> None:
        """Free sessions whose shim has fallen silent."""
        while True:
            await asyncio.sleep(min(1.0, self.settings.timeout / 4))
            now = time.monotonic()
            for session in list(self.sessions.values()):
                if session.live and now - session.heard > self.settings.timeout:
                    _log.warning("session %d: its shim is silent; freed", session.number)
                    self._start(self._end(session, "abort", f"its shim was silent for {self.settings.timeout:g} s"))
