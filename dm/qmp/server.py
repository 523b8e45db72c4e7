"""The monitor's sockets: any number of clients on each, served by asyncio.

Nothing a client does makes the daemon grow or wait.  Input is read only as fast as its commands are answered, and
commands are taken only while the client reads its answers; events a client does not read are counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from dm.claim import Claim
from dm.qmp.address import Address, TcpAddress, UnixAddress, bind
from dm.qmp.commands import SCHEMA, EventsDropped, Monitor
from dm.qmp.control import Control, ControlError, ControlEvent
from dm.qmp.events import EventLimiter, Stamped
from dm.qmp.framing import MAX_BYTES, MAX_DEPTH
from dm.qmp.protocol import (
    OOB_LOOKAHEAD,
    CommandError,
    Connection,
    QmpErrorClass,
    Reply,
    Request,
    VersionInfo,
    encode,
    encode_event,
)
from dm.qmp.schema import Schema

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds per server (``clients``) and per client; sizes in bytes.

    ``message_bytes`` and ``message_depth`` bound an incoming message.  Above ``output_high`` unsent bytes no command
    is taken, above ``output_events`` no event is queued.
    """

    clients: int = 32
    message_bytes: int = MAX_BYTES
    message_depth: int = MAX_DEPTH
    output_high: int = 64 << 10
    output_events: int = 256 << 10


class QmpServer:
    """A QMP monitor for one :class:`~dm.qmp.control.Control`.  Made and used on one running asyncio loop."""

    def __init__(
        self, control: Control, version: VersionInfo, *, schema: Schema = SCHEMA, limits: Limits | None = None
    ) -> None:
        """``version`` is what clients are told; ``schema`` is the set of commands and events."""
        self._schema = schema
        self._version = version
        self._limits = limits or Limits()
        self._monitor = Monitor(control, version, schema)
        self._limiter = EventLimiter()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._claims: list[Claim] = []
        self._clients: set[_Client] = set()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe = control.subscribe(self._publish)

    async def listen(self, address: Address) -> Address:
        """Listen on ``address`` too; return it, with the port that was chosen if it was 0.

        Raises:
            OSError: naming the address.
        """
        sock, claim = bind(address)
        is_unix = isinstance(address, UnixAddress)
        if claim is not None:
            self._claims.append(claim)
        if isinstance(address, TcpAddress):
            address = TcpAddress(address.host, sock.getsockname()[1])
        self._servers.append(await self._loop.create_server(lambda: _Client(self, trusted=is_unix), sock=sock))
        _LOG.debug("QMP listens on %s", address)
        return address

    async def close(self, timeout: float = 2.0) -> None:
        """Take no more input, let commands received finish and answers reach their clients, then close.

        What is not done ``timeout`` seconds later is abandoned.
        """
        self._closing = True
        self._unsubscribe()
        if self._timer:
            self._timer.cancel()
        self._broadcast(self._limiter.flush())
        for server in self._servers:
            server.close()
        for client in list(self._clients):
            client.finish()
        gone = [client.gone for client in self._clients]
        if gone:
            await asyncio.wait(gone, timeout=timeout)
        for client in list(self._clients):
            client.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*gone, *self._tasks, return_exceptions=True)
        for claim in self._claims:
            claim.close()

    # -- for _Client ---------------------------------------------------------------------------------------------

    def connection(self) -> Connection:
        """Return the protocol core for a new client."""
        limits = self._limits
        return Connection(self._schema, self._version, max_bytes=limits.message_bytes, max_depth=limits.message_depth)

    def admit(self, client: _Client) -> str | None:
        """Count a new client in, or return why not."""
        if self._closing:
            return "The daemon is about to end"
        if len(self._clients) >= self._limits.clients:
            return f"Too many QMP clients, the limit is {self._limits.clients}"
        self._clients.add(client)
        return None

    def dismiss(self, client: _Client) -> None:
        """Forget a client."""
        self._clients.discard(client)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that :meth:`close` waits for or cancels."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def execute(self, request: Request) -> Reply:
        """Carry out a request; whatever goes wrong becomes its error reply."""
        try:
            return request.reply(await request.command.handler(self._monitor, **request.arguments))
        except CommandError as error:
            return request.fail(str(error), error.error_class)
        except ControlError as error:
            return request.fail(str(error))
        except Exception:
            _LOG.exception("QMP command %s failed", request.command.name)
            return request.fail(f"Internal error in '{request.command.name}'; the daemon's log has the details")

    def encode(self, event: ControlEvent, time_ns: int) -> bytes:
        """Return an event's bytes."""
        return encode_event(event.NAME, self._schema.events[event.NAME].encode(event, event.NAME), time_ns)

    @property
    def limits(self) -> Limits:
        """The bounds in force."""
        return self._limits

    # -- events --------------------------------------------------------------------------------------------------

    def _publish(self, event: ControlEvent) -> None:
        stamped = Stamped(event, time.time_ns())
        if self._limiter.offer(stamped, self._loop.time()):
            self._broadcast([stamped])
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._limiter.next_due()
        if self._timer is None and due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._broadcast(self._limiter.release(self._loop.time()))
        self._set_timer()

    def _broadcast(self, events: list[Stamped]) -> None:
        for stamped in events:
            try:
                data = self.encode(stamped.event, stamped.time_ns)
            except Exception:
                _LOG.exception("QMP event %r cannot be sent", stamped.event)
                continue
            for client in self._clients:
                client.send_event(data)


class _Client(asyncio.Protocol):
    """One client: moves bytes between its transport and its :class:`Connection`, runs its requests.

    In-band requests run one after the other, out-of-band ones beside them.  ``trusted``: only this user can connect.
    """

    def __init__(self, server: QmpServer, *, trusted: bool) -> None:
        self._server = server
        self._trusted = trusted
        self._core = server.connection()
        self._waiting: deque[Request | Reply] = deque()  # in-band, the first may be under way
        self._worker: asyncio.Task[None] | None = None
        self._oob = 0  # out-of-band requests under way
        self._blocked = False  # the client does not read what it was sent
        self._ended = False  # no more input
        self._dropped = 0  # events not sent
        #: Done when the connection is closed.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- called by asyncio ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or refuse."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=self._server.limits.output_high)
        refusal = self._server.admit(self)
        if refusal is None:
            self._write(self._core.greeting())
        else:
            transport.write(encode({"error": {"class": str(QmpErrorClass.GENERIC), "desc": refusal}}))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what has not begun; a command under way is finished, its answer goes nowhere."""
        self._waiting.clear()
        self._server.dismiss(self)
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take input."""
        self._core.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """Answer what was sent, then close."""
        self.finish()
        return True

    def pause_writing(self) -> None:
        """Take no more commands."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Go on, and say what was dropped meanwhile."""
        self._blocked = False
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self._write(self._server.encode(EventsDropped(count), time.time_ns()))
        self._advance()

    # -- called by the server ------------------------------------------------------------------------------------

    def send_event(self, data: bytes) -> None:
        """Send an event, unless the client is still negotiating or too far behind."""
        if not self._core.listening:
            return
        unsent = self._transport.get_write_buffer_size()
        if self._dropped or (self._blocked and unsent > self._server.limits.output_events):
            self._dropped += 1
        else:
            self._write(data)

    def finish(self) -> None:
        """Take no more input; close once all requests are answered."""
        self._ended = True
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._advance()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # -- requests ------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Take as many requests as may be under way, and read on only if there were fewer."""
        if self._transport.is_closing():
            return
        exhausted = False
        while not self._blocked and len(self._waiting) < self._core.lookahead and self._oob < OOB_LOOKAHEAD:
            item = self._core.next_item()
            if item is None:
                exhausted = True
                break
            self._take(item)
        if self._waiting and self._worker is None and not self._blocked:
            self._worker = self._server.spawn(self._work())
        if self._ended:
            if exhausted and not self._waiting and not self._oob:
                self._transport.close()
        elif exhausted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _take(self, item: Request | Reply) -> None:
        if item.oob:
            self._oob += 1
            self._server.spawn(self._answer_oob(item))
        else:
            self._waiting.append(item)

    async def _work(self) -> None:
        """Answer in-band requests in order."""
        try:
            while self._waiting and not self._blocked:
                await self._answer(self._waiting[0])
                if self._waiting:  # not closed meanwhile
                    self._waiting.popleft()
                self._advance()
                await asyncio.sleep(0)  # other clients' turn
        finally:
            self._worker = None

    async def _answer_oob(self, item: Request | Reply) -> None:
        try:
            await self._answer(item)
        finally:
            self._oob -= 1
            self._advance()

    async def _answer(self, item: Request | Reply) -> None:
        reply = item if isinstance(item, Reply) else await self._server.execute(item)
        self._write(self._core.send(reply))
        if self._core.suspect and not self._trusted:
            # A browser can be made to send commands to a local port inside an HTTP request: its headers show it.
            _LOG.warning("QMP client closed: what it sent first is not JSON")
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)
