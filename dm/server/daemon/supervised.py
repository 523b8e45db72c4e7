"""A session as the supervisor has it: the shim's control socket, the worker's process, and the line to that."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass
from dm.server import log, worker_line
from dm.server.run_table import RunTable
from dm.server.worker_line import VcpuStatus

_log = logging.getLogger(__name__)

#: Control requests of one session that may wait for its worker.
_MAX_PENDING: Final = 64

#: Called with a worker's answer, or with the reason why there is none.
Settle: TypeAlias = Callable[[worker_line.FromWorker | ProtocolError], None]


@dataclass(slots=True)
class SupervisedSession:
    """One VM: its shim's control socket, its worker.

    Another socket must show the ``secret``; without one (versions 1 and 2) none can.
    """

    number: int
    name: str
    identity: bytes
    epoch: int
    features: list[str]
    line: socket.socket
    process: asyncio.subprocess.Process
    user: str = ""  # the client's public key, on tcp
    secret: bytes = field(default=b"", repr=False)
    runs: RunTable = field(default_factory=RunTable)
    since: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    engine: str = ""
    note: str = ""
    vcpus: list[VcpuStatus] = field(default_factory=list)
    memory_lost: bool = False
    pending: dict[int, tuple[type[worker_line.FromWorker], Settle]] = field(default_factory=dict)
    tag: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str = ""
    ending: bool = False

    @property
    def live(self) -> bool:
        """Whether its worker is ready and has not been told to end."""
        return bool(self.engine) and not self.ending

    def __str__(self) -> str:
        return log.session(self.number, self.name)

    def knows(self, secret: bytes) -> bool:
        """Return whether this is the session's secret."""
        return bool(self.secret) and hmac.compare_digest(self.secret, secret)

    def request(self, operation: str, body: object, settle: Settle, fd: int = -1) -> None:
        """Ask the worker for something; ``settle`` is called with its answer, or with why there is none.

        Raises:
            ProtocolError: ``busy``: too many requests wait, or it does not listen.
        """
        if len(self.pending) >= _MAX_PENDING:
            raise ProtocolError(ErrorClass.BUSY, "too many requests wait", f"at most {_MAX_PENDING} at a time")
        self.tag += 1
        try:
            worker_line.send(self.line, operation, self.tag, body, fd)
        except OSError as error:
            raise ProtocolError(ErrorClass.BUSY, f"the worker does not listen: {error.strerror}", "try later") from None
        self.pending[self.tag] = (worker_line.Paused if operation == "pause" else worker_line.ShimReply, settle)

    def kill(self) -> None:
        """End the worker at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def take(self, came: worker_line.FromWorker, listener: Listener) -> None:
        """Act on what the worker has sent; it may be anything of the right form at any time.

        Raises:
            LineError: no worker says that now.
            ProtocolError: its answer is no message.
        """
        match came:
            case worker_line.Ready():
                if self.ready.is_set():
                    raise worker_line.LineError("ready once more")
                self.engine, self.note = came.engine or "unnamed", came.why
                self.ready.set()
            case worker_line.Failed():
                if self.ready.is_set():
                    raise worker_line.LineError("failed when it was ready")
                self.failure = log.printable(came.why)
                self.ready.set()
            case worker_line.MemoryLost():
                if self.memory_lost:
                    raise worker_line.LineError("memory-lost once more")
                self.memory_lost = True
                _log.error("%s: memory lost: %s", self, log.printable(came.what))
                listener.memory_lost(self, came.what)
            case worker_line.StatusUpdate():
                self.vcpus = list(came.rows)
            case worker_line.ShimReply() | worker_line.Paused():
                kind, settle = self.pending.get(came.tag, (None, None))
                if settle is None or type(came) is not kind:
                    raise worker_line.LineError("an answer without a request")
                if isinstance(came, worker_line.ShimReply):
                    message = codec.decode(came.answer, schema.MAX_CONTROL)
                    if message.SENDER != "daemon" or getattr(message, "session", 0) not in (0, self.number):
                        raise worker_line.LineError(f"a reply is {message.NAME}")
                del self.pending[came.tag]
                settle(came)


class Listener:
    """Is informed of events; the monitor is one."""

    def opened(self, session: SupervisedSession) -> None:
        """A session has begun."""

    def closed(self, session: SupervisedSession, reason: str) -> None:
        """A session is over."""

    def lost(self, session: SupervisedSession, reason: str) -> None:
        """A session's worker has ended by itself, and with it all it was running; :meth:`closed` follows."""

    def memory_lost(self, session: SupervisedSession, reason: str) -> None:
        """A session's RAM is gone; its runs end with ``memory-lost``."""
