"""The supervisor: control socket, sessions and their worker processes, on one asyncio thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
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
from dm.server import log, logfile, worker_line
from dm.server.admission import HANDSHAKE_MS, Admission, secure
from dm.server.daemon import descriptors
from dm.server.daemon.directory import Directory
from dm.server.daemon.door import Door
from dm.server.daemon.endpoint import ControlEndpoint
from dm.server.daemon.ram_files import open_below
from dm.server.daemon.ram_socket import RamSocket
from dm.server.daemon.supervised import Listener, SupervisedSession
from dm.server.limits import DaemonLimits
from dm.version import VERSION

_log = logging.getLogger(__name__)

#: A worker must be ready within this many seconds (a first start may have to compile byte code).
_START: Final = 60.0
#: A worker that has been told to end is killed after this many seconds.
_STOP: Final = 6.0
#: A worker whose line has ended ends itself within this many seconds, or is killed.
_REAP: Final = 2.0
#: Bytes of a session's secret.
_SECRET: Final = 32
_HWM: Final = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """How the daemon was asked to run.

    ``endpoint`` is the control endpoint, ``timeout`` in seconds.  For tcp ``keys`` are the daemon's, ``clients`` the
    public keys of those who may connect.
    """

    endpoint: ControlEndpoint
    engine: str = "auto"
    memory_path: str | None = None
    timeout: float = 10.0
    log_level: str = "warning"
    keys: Keys | None = None
    clients: frozenset[bytes] = frozenset()
    limits: DaemonLimits = field(default_factory=DaemonLimits)
    log_file: str | None = None


class NotAll(Exception):
    """Guest code could not be stopped, or resumed, everywhere; the text names who did not obey."""


class Supervisor:
    """The daemon's centre."""

    def __init__(self, settings: Settings, listener: Listener | None = None) -> None:
        self.settings = settings
        self.listener = listener or Listener()
        self.sessions: dict[int, SupervisedSession] = {}
        self.shares = descriptors.shares(descriptors.raise_limit(), settings.limits.sessions)
        self.paused = False
        self._quit = asyncio.Event()
        self._directory: Directory | None = None
        self._context = zmq.asyncio.Context(io_threads=1)
        self._socket: zmq.asyncio.Socket
        self._ram: RamSocket | None = None
        self._admission: Admission | None = None
        self._door: Door | None = None
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
        self._socket.setsockopt(zmq.MAXMSGSIZE, 16 * schema.MAX_CONTROL)  # above this the peer is disconnected
        try:
            if self._directory is not None:
                self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
                self._door = Door(self._socket, self._directory.claim, self._directory.aside, self.shares)
            else:
                assert self.settings.keys is not None
                self._admission = Admission(self._context, self.settings.clients)
                secure(self._socket, self.settings.keys)
                self._socket.bind(str(endpoint))
        except zmq.ZMQError as error:
            raise OSError(f"cannot bind {endpoint}: {error.strerror}") from None
        if self._directory is not None:
            self._ram = RamSocket(self._directory.ram, self._on_ram, self.shares.ram)

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

    def reopen_log(self) -> None:
        """Reopen the log file, after its renaming, for the workers too."""
        assert self.settings.log_file is not None
        try:
            fd = logfile.open_file(self.settings.log_file)
        except OSError as error:
            _log.error("the log goes on in its old file: %s: %s", error.filename, error.strerror)
            return
        for session in self.sessions.values():
            with contextlib.suppress(OSError):
                worker_line.send(session.line, "log", 0, None, fd)
        logfile.use(fd)
        _log.info("log opened anew")

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
        """Release the endpoint."""
        if self._ram is not None:
            self._ram.close()
        if self._door is not None:
            self._door.close()
        if hasattr(self, "_socket"):
            self._socket.close(linger=2000)
        if self._admission is not None:
            self._admission.close()
        self._context.term()
        if self._directory is not None:
            self._directory.close()

    async def pause(self, paused: bool) -> None:
        """Stop or resume all guest code; return once that is done.

        Raises:
            NotAll: somebody does not obey.  If guest code was to be stopped, it is resumed everywhere.
        """
        self.paused = paused
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._pause(s, paused)) for s in self.sessions.values() if s.live]
        failed = [task.result() for task in tasks if task.result()]
        if not failed:
            return
        text = f"did not {'stop' if paused else 'go on'} within {_STOP:g} s: {'; '.join(failed)}"
        _log.error("%s", text)
        if paused:
            self.paused = False
            for session in self.sessions.values():
                if session.live:
                    with contextlib.suppress(ProtocolError):
                        session.request("pause", False, lambda answer: None)
        raise NotAll(text)

    async def _pause(self, session: SupervisedSession, paused: bool) -> str:
        """Stop or resume one session's runs; return who did not obey, empty if nobody."""
        answer: asyncio.Future[worker_line.FromWorker | ProtocolError] = asyncio.get_running_loop().create_future()

        def settle(came: worker_line.FromWorker | ProtocolError) -> None:
            if not answer.done():
                answer.set_result(came)

        try:
            session.request("pause", paused, settle)
            came = await asyncio.wait_for(answer, _STOP)
        except ProtocolError as error:
            return f"{session}, {error}"
        except TimeoutError:
            return f"{session}, whose worker does not answer" if session.live else ""
        if isinstance(came, worker_line.Paused) and came.but:
            return f"{session}, vCPU {', '.join(map(str, came.but))}"
        return ""  # done, or the session is over

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
                _log.debug("control request refused: %s", error)
                self._send(identity, error.message())
            except Exception as error:  # whatever one peer causes, the others are still served
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
                self._forward(session, message, data)

    def _session(self, number: int, identity: bytes) -> SupervisedSession:
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
                max_vcpus=self.settings.limits.vcpus,
                timeout_ms=int(self.settings.timeout * 1000),
                ram_socket="" if self._ram is None else self._ram.path,
                daemon=f"x86-dm {VERSION}",
                engine=session.engine,
                engine_note=session.note,
                secret=session.secret,
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

    def _resume(self, identity: bytes, user: str, hello: schema.Hello) -> SupervisedSession:
        session = self.sessions.get(hello.resume)
        if session is None or not session.live or session.user != user or not session.knows(hello.secret):
            raise ProtocolError(
                ErrorClass.UNKNOWN_SESSION,
                f"there is no session {hello.resume} with this secret",
                "the secret of its welcome, or 0 for a new one",
                "resume",
            )
        if hello.epoch <= session.epoch:
            raise ProtocolError(ErrorClass.STALE_EPOCH, f"epoch is {hello.epoch}", f"above {session.epoch}", "epoch")
        session.identity, session.epoch, session.heard = identity, hello.epoch, time.monotonic()
        return session

    async def _open(self, identity: bytes, user: str, hello: schema.Hello, version: int) -> SupervisedSession:
        if self.quitting:
            raise ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
        if any(session.identity == identity for session in self.sessions.values()):
            raise ProtocolError(ErrorClass.BUSY, "this socket has a session", "bye, or another socket")
        if len(self.sessions) >= self.shares.sessions:
            _log.warning("session refused: there are %d, the most there can be", len(self.sessions))
            raise ProtocolError(ErrorClass.LIMIT, "too many sessions", f"at most {self.shares.sessions}")
        try:
            session = await self._spawn(identity, user, hello, version)
        except OSError as error:  # a refusal, not a bug: memory, processes or descriptors are the host's
            _log.error("no worker can be started: %s", error)
            text = f"the host has no room for a worker: {error.strerror}"
            raise ProtocolError(ErrorClass.LIMIT, text, "fewer sessions, or later") from None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(session.ready.wait(), _START)
        if not session.engine or self.quitting:
            reason = session.failure or "its worker does not start"
            await self._end(session, "abort", reason)
            if self.quitting:
                raise ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
            raise ProtocolError(ErrorClass.INTERNAL, reason, "see the daemon's log")
        session.heard = time.monotonic()
        if self.paused and (failed := await self._pause(session, True)):
            await self._end(session, "abort", f"it cannot be held: {failed}")
            raise ProtocolError(ErrorClass.INTERNAL, "guest code is stopped here, and the session cannot be held")
        engine = log.printable(session.engine)
        _log.info("%s: opened, version %d, engine %s, worker %d", session, version, engine, session.process.pid)
        self.listener.opened(session)
        return session

    async def _bye(self, session: SupervisedSession, seq: int) -> None:
        identity = session.identity
        await self._end(session, "abort", "its shim said bye")
        self._send(identity, schema.Ok(seq=seq, session=session.number))

    def _on_ram_request(self, session: SupervisedSession, message: schema.Ram, data: bytes) -> None:
        if message.messages:
            if message.path:
                raise ProtocolError(ErrorClass.BAD_MEMORY, "a path for a block by messages", "none", "path")
            self._forward(session, message, data)
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
            self._forward(session, message, data, fd=fd)
        finally:
            os.close(fd)

    def _on_ram(self, message: schema.Ram, data: bytes, fd: int, answer: Callable[[bytes], None]) -> None:
        """A descriptor came on the RAM socket."""
        try:
            session = self.sessions.get(message.session)
            if session is None or not session.live or (session.secret and not session.knows(message.secret)):
                text = f"there is no session {message.session} with this secret"
                raise ProtocolError(ErrorClass.UNKNOWN_SESSION, text, "hello first", "session")
            session.heard = time.monotonic()
            self._forward(session, message, data, answer, fd)
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

    async def _spawn(self, identity: bytes, user: str, hello: schema.Hello, version: int) -> SupervisedSession:
        """Start a worker and enter its session, which is not ready yet."""
        number = secrets.randbelow((1 << 31) - 1) + 1
        while number in self.sessions:
            number = secrets.randbelow((1 << 31) - 1) + 1
        features = [word for word, since in schema.FEATURES.items() if word in hello.features and since <= version]
        if self.settings.memory_path is None and "ram-path" in features:
            features.remove("ram-path")
        if self._ram is None and "ram-fd" in features:
            features.remove("ram-fd")
        ours, theirs = worker_line.pair()
        # -P: whatever directory the daemon was started in, the worker imports the same package as we.
        root = str(Path(__file__).resolve().parents[3])
        search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "dm.server.session.worker", "--fd", str(theirs.fileno())),
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
        secret = secrets.token_bytes(_SECRET) if version >= schema.SECRET_SINCE else b""
        session = SupervisedSession(number, hello.name, identity, hello.epoch, features, ours, process, user, secret)
        self.sessions[number] = session
        task = {"endpoints": self._endpoints(user), "secret": secret, "limits": self.settings.limits.of_session()}
        with contextlib.suppress(OSError):  # it has ended, which is noticed elsewhere
            worker_line.send(ours, "begin", 0, {**task, "name": str(session)}, session.runs.fd)
        asyncio.get_running_loop().add_reader(ours, self._on_line, session)
        self._start(self._reap(session))
        return session

    def _endpoints(self, user: str) -> list[str | bytes]:
        """Return where a worker's vCPU endpoints go: a directory, or an address, the keys and the only client."""
        if self._directory is not None:
            return [self._directory.name]
        assert self.settings.keys is not None
        return [self.settings.endpoint.host, self.settings.keys.public, self.settings.keys.secret, user.encode("ascii")]

    def _forward(
        self,
        session: SupervisedSession,
        request: Message,
        data: bytes,
        answer: Callable[[bytes], None] | None = None,
        fd: int = -1,
    ) -> None:
        """Forward a shim's request to its worker unchanged; its answer goes to ``answer``, or the control socket."""

        def settle(came: worker_line.FromWorker | ProtocolError) -> None:
            if isinstance(came, worker_line.ShimReply):
                encoded = came.answer
            else:
                assert isinstance(came, ProtocolError)
                partial = {"seq": request.seq, "session": session.number}  # type: ignore[attr-defined]
                encoded = codec.encode(came.message(**partial))
            if answer is not None:
                answer(encoded)
            else:
                self._send_bytes(session.identity, encoded)

        session.request("message", data, settle, fd)

    def _on_line(self, session: SupervisedSession) -> None:
        try:
            came = worker_line.from_worker(session.line)
            if came is None:
                loop = asyncio.get_running_loop()
                loop.remove_reader(session.line)
                loop.call_later(_REAP, session.kill)  # unless it has ended by then: _reap() cancels it
                return
            session.take(came, self.listener)
        except BlockingIOError:
            return
        except (worker_line.LineError, ProtocolError) as error:
            # It is broken or compromised: nothing more is accepted from it.
            asyncio.get_running_loop().remove_reader(session.line)
            session.failure = f"its worker sent what no worker sends: {error}"
            session.kill()

    async def _reap(self, session: SupervisedSession) -> None:
        """Wait for the worker's end; if nobody told it to end, its session is lost."""
        status = await session.process.wait()
        if session.line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(session.line)
            with contextlib.suppress(BlockingIOError, worker_line.LineError, ProtocolError):
                while not session.failure and (came := worker_line.from_worker(session.line)) is not None:
                    session.take(came, self.listener)  # its last words
        session.ready.set()
        if session.ending or not session.engine:
            return
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        reason = session.failure or f"its worker process ended unexpectedly ({how})"
        _log.error("%s: lost: %s", session, reason)
        self.listener.lost(session, reason)
        refusal = ProtocolError(ErrorClass.SESSION_LOST, codec.clip(reason, 512), "hello for a new session")
        self._send(session.identity, refusal.message(session=session.number))
        await self._end(session, "abort", reason)

    async def _end(self, session: SupervisedSession, operation: str, reason: str) -> None:
        """Tell the worker to end, make sure that it does, and forget the session."""
        if session.ending:
            return
        session.ending = True
        with contextlib.suppress(OSError):
            worker_line.send(session.line, operation)
        try:
            await asyncio.wait_for(session.process.wait(), _STOP)
        except TimeoutError:
            _log.error("%s: its worker does not end; killed", session)
            session.kill()
            await session.process.wait()
        asyncio.get_running_loop().remove_reader(session.line)
        session.line.close()
        session.runs.close()
        if self._directory is not None:
            self._directory.forget(session.number)
        self.sessions.pop(session.number, None)
        session.ready.set()
        text = codec.clip(f"session {session.number} is over: {reason}", 512)
        refusal = ProtocolError(ErrorClass.SESSION_LOST, text, "hello")
        for _, settle in session.pending.values():
            settle(refusal)
        session.pending.clear()
        if session.engine:
            _log.info("%s: closed: %s", session, reason)
            self.listener.closed(session, reason)

    async def _watch(self) -> None:
        """Free sessions whose shim has fallen silent."""
        while True:
            await asyncio.sleep(min(1.0, self.settings.timeout / 4))
            now = time.monotonic()
            for session in list(self.sessions.values()):
                if session.live and now - session.heard > self.settings.timeout:
                    _log.warning("%s: its shim is silent; freed", session)
                    self._start(self._end(session, "abort", f"its shim was silent for {self.settings.timeout:g} s"))
