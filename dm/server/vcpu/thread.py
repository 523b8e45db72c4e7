"""One vCPU of a session: the thread that drives its state machine, and the calls that other threads may make.

The thread binds the endpoint and is the only one to touch it (a ZeroMQ socket never changes thread).  It runs the
engine in slices of under half a millisecond and looks at its socket between slices, so a ``kick`` of the shim needs no
second socket and no second thread.  Other threads of the worker reach it through :meth:`VcpuThread.close` and the like:
they queue a call, stop a running engine with ``Engine.kick`` and wake an idle thread through an eventfd
(:mod:`dm.server.vcpu.mailbox`).

What a vCPU does is described in :mod:`dm.server.vcpu.core`, without threads and sockets;
:mod:`dm.server.vcpu.transport` is the socket.  The usual part runs in C if that is built
(:mod:`dm.server.vcpu.exchange`), which returns for whatever is unusual (:mod:`dm.server.vcpu.crossing`).
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Final

import zmq

from dm.engine.api import Engine, Exit, RunRequest
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Done, DoneReason
from dm.server.log import Sparse
from dm.server.run_table import RunTable
from dm.server.vcpu import exchange
from dm.server.vcpu.core import RESET, At, Core, Outgoing, Owner
from dm.server.vcpu.crossing import Crossing
from dm.server.vcpu.endpoint import Endpoint
from dm.server.vcpu.exchange import Cause
from dm.server.vcpu.mailbox import Mailbox
from dm.server.vcpu.run import MOST_STEPS, POSTED_NS, SLICE_NS
from dm.server.vcpu.transport import Transport

_log = logging.getLogger(__name__)

#: How long an orderly quit waits for the answer to an open question, in seconds.
_GRACE: Final = 2.0
#: How long requests are refused after an orderly end, in seconds: a shim that had already sent one must be able to tell
#: that nothing of it has run.
_GOODBYE: Final = 0.25
#: Messages that a vCPU accepts at a time; a flood never starves the guest.
_BURST: Final = 16


class VcpuThread:
    """One vCPU.  Public methods may be called from any thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        owner: Owner,
        number: int,
        endpoint: Endpoint,
        engine: Engine,
        runs: RunTable | None = None,
        in_c: bool = True,
    ):
        """``endpoint`` is to be bound; runs are recorded in ``runs``.

        ``in_c`` False: all exchanges are made in Python, as with an engine that is not native.
        """
        self.number = number
        self._endpoint, self._engine, self._runs, self._owner = endpoint, engine, runs, owner
        self._bound = threading.Event()
        self._bind_error: Exception | None = None
        self._exchange: exchange.Exchange | None = None
        if in_c and engine.name == "native" and exchange.status()[0]:
            self._exchange = exchange.Exchange(engine, owner.number, number, runs, RESET)
        self._mailbox = Mailbox(engine, self._exchange)
        # used by the thread alone from here on
        self._core = core = Core(owner, number, engine, self._run_engine)
        self._transport = Transport(context, endpoint, self._mailbox.wake, core.counters)
        self._crossing = Crossing(core, owner, self._exchange) if self._exchange is not None else None
        self._unusual = False  # C has said that the next message is not for it
        self._sparse = Sparse()
        self._gone = self._paused = False
        self._give_up_at: float | None = None  # when to stop waiting for an open question
        self._thread = threading.Thread(target=self._main, name=f"vcpu-{owner.number}-{number}", daemon=True)

    # ------------------------------------------------------------------------------------------ any thread

    def start(self) -> None:
        """Bind the endpoint and begin to serve.

        Raises:
            OSError: the endpoint cannot be bound.
        """
        self._thread.start()
        self._bound.wait()
        if self._bind_error is not None:
            self.join()
            raise OSError(f"cannot bind {self.endpoint}: {self._bind_error}")

    @property
    def endpoint(self) -> str:
        """Where the shim connects, once :meth:`start` has returned."""
        return self._endpoint.address

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end after :meth:`close` or :meth:`abort`; return whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End in order: a run ends with ``done`` (``kicked``, ``closing``) after its current instruction."""
        self._mailbox.put(self._do_close)

    def abort(self) -> None:
        """End at once: a run ends with error ``aborted``."""
        self._mailbox.put(self._do_abort)

    def pause(self, paused: bool) -> threading.Event:
        """Stop runs at their next slice, or resume them; the event is set once that is done."""
        done = threading.Event()
        if not self._mailbox.put(lambda: self._do_pause(paused, done)):
            done.set()
        return done

    def new_map(self) -> None:
        """Install the session's current memory map."""
        self._mailbox.put(self._core.take_map)

    @property
    def counters(self) -> schema.VcpuCounters:
        """What it has done since it was created."""
        counted, c = replace(self._core.counters), self._exchange and self._exchange.c.counters
        if c:
            for name in ("requests", "io", "instructions", "steps", "bytes_in", "bytes_out"):
                setattr(counted, name, getattr(counted, name) + getattr(c, name))
        return counted

    @property
    def doing(self) -> str:
        """What it is doing: ``idle`` (the shim has it), ``running``, ``waiting`` (for an answer) or ``lost``."""
        if self._mailbox.ended:
            return "lost"
        in_c = self._exchange is not None and self._exchange.inside
        return ("idle", "running", "waiting")[self._exchange.c.state if self._exchange and in_c else self._core.at]

    # ------------------------------------------------------------------------------------------ the thread

    def _main(self) -> None:
        try:
            try:
                self._bind()
            except Exception as error:
                self._bind_error = error
                return
            finally:
                self._bound.set()
            self._serve()
            self._refuse_late()
        finally:
            self._mailbox.end()
            self._transport.close(linger=200 if self._gone else 2000)
            self._engine.close()

    def _bind(self) -> None:
        self._transport.bind()
        if self._exchange is not None:
            self._exchange.attach(self._transport.socket, self._mailbox.wake, SLICE_NS, MOST_STEPS, POSTED_NS)

    def _serve(self) -> None:
        """Drive the state machine until the vCPU is to end; a run that cannot be finished is abandoned."""
        core = self._core
        while True:
            self._mailbox.carry_out()
            if self._gone or (core.closing and core.at is At.IDLE):
                break
            match core.at:
                case At.IDLE:
                    self._idle()
                case At.BOUNDARY:
                    self._run_on()
                case At.WAITING:
                    left = None if self._give_up_at is None else int((self._give_up_at - time.monotonic()) * 1000)
                    if left is not None and left <= 0:
                        break
                    self._attend(left)
        self._send(core.abandon())

    def _idle(self) -> None:
        """Wait for a request, or something else to do."""
        if self._crossing is None or self._paused or self._owner.pages.used:
            self._attend(None)
        else:
            self._leave_to_c(self._crossing)

    def _run_on(self) -> None:
        """Run a slice; while paused, wait."""
        core = self._core
        if self._paused and core.hold():
            self._attend(None)
            return
        if not self._unusual and self._crossing is not None and self._crossing.is_usual():
            self._leave_to_c(self._crossing)
            return
        self._unusual = False
        self._send(core.run_on(time.monotonic_ns()))
        if core.at is At.BOUNDARY and not core.ends_next:
            self._look()

    def _leave_to_c(self, crossing: Crossing) -> None:
        """Run the vCPU in C until there is something unusual, and handle that."""
        transport, x = self._transport, crossing.exchange
        match crossing.cross():
            case Cause.CALLS:
                self._mailbox.clear()
            case Cause.MESSAGE:
                self._handle(x.read(x.c.identity, x.c.identity_size), x.read(x.c.message, x.c.message_size), x.c.parts)
                if self._core.at is At.BOUNDARY:
                    self._look()
            case Cause.UNSENT:
                name = "done" if self._core.run is None else "io"
                transport.send_bytes(self._core.peer, x.read(x.c.unsent, x.c.unsent_size), name)
            case Cause.ERROR:
                transport.readable()  # it is logged here
                self._take_message()
            case _:
                self._unusual = True  # an exit, or an end, of the run

    def _run_engine(self, request: RunRequest) -> tuple[Exit, int]:
        started = time.perf_counter_ns()
        made = self._engine.run(request)
        return made, time.perf_counter_ns() - started

    def _refuse_late(self) -> None:
        end = time.monotonic() + _GOODBYE
        while not self._gone and (left := end - time.monotonic()) > 0:
            if not self._mailbox.carry_out():
                self._attend(int(left * 1000) + 1)

    # ------------------------------------------------------------------------------------------ messages

    def _attend(self, timeout: int | None) -> None:
        """Receive a message, waiting up to ``timeout`` ms (None: for ever) for it or for calls."""
        transport, mailbox = self._transport, self._mailbox
        if transport.readable() and self._take_message():
            return
        ready = transport.waiter.wait(timeout)
        if any(descriptor == mailbox.wake for descriptor, _ in ready):
            mailbox.clear()
        elif ready:
            self._take_message()

    def _look(self) -> None:
        """Receive messages that have arrived while the engine ran."""
        for _ in range(_BURST):
            if not (self._transport.readable() and self._take_message()):
                return

    def _take_message(self) -> bool:
        """Receive the next message; return whether there was one."""
        came = self._transport.receive()
        if came is None:
            return False
        self._handle(*came)
        return True

    def _handle(self, peer: bytes, data: bytes, parts: int) -> None:
        """Act on a message; of one with several parts ``data`` is the last."""
        try:
            message = self._transport.decode(data, parts)
        except ProtocolError as error:
            self._send(self._core.refuse(peer, error))
        else:
            self._send(self._core.receive(peer, message, time.monotonic_ns()))

    def _send(self, outgoing: Outgoing | None) -> None:
        """Send the machine's messages, and record whether there is a run."""
        if outgoing is not None:
            try:
                self._transport.send(*outgoing)
            except ProtocolError as error:  # it does not fit the schema: the engine has reported something impossible
                self._transport.send(*self._core.fail(error))
            if isinstance(outgoing[1], Done) and outgoing[1].reason is DoneReason.UNSUPPORTED:
                self._log_unsupported(outgoing[1].detail)
        if self._runs is not None:
            self._runs.set(self.number, self._core.run is not None)

    def _log_unsupported(self, what: str) -> None:
        if (held := self._sparse()) is not None:
            state = self._engine.get_state()
            where = f"{state.cs.selector:04x}:{state.rip:x}"
            _log.info("vCPU %d: unsupported at %s: %s%s", self.number, where, what, held)

    # ------------------------------------------------------------------------------------------ calls

    def _do_close(self) -> None:
        self._core.close()
        self._give_up_at = time.monotonic() + _GRACE

    def _do_abort(self) -> None:
        self._gone = True

    def _do_pause(self, paused: bool, done: threading.Event) -> None:
        self._paused = paused
        done.set()
