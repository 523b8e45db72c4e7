"""One vCPU of a session: its thread, its endpoint and its engine.

The thread binds the endpoint and is the only one to touch it (a ZeroMQ socket never changes thread).  It runs the
engine in slices of under half a millisecond and looks at its socket between slices, so a ``kick`` of the shim needs no
second socket and no second thread.  Other threads of the worker reach it through :meth:`Vcpu.close` and the like:
they queue a call, stop a running engine with ``Engine.kick`` and wake an idle thread through an eventfd.

This is the one full description of what a vCPU does.  The usual part of it is made in C where that is built
(:mod:`dm.server.exchange`): the thread leaves the vCPU to it, and comes back here with whatever is unusual.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol, cast

import zmq

from dm.engine.api import QUESTIONS, Engine, Exit, ExitReason, MemoryMap, Until
from dm.machine.state import GROUPS, EventType, Gpr, State, get_group, group_layout
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import (
    Done,
    DoneReason,
    Emulate,
    Error,
    ErrorClass,
    Groups,
    Io,
    IoAnswer,
    IoKind,
    Kick,
    Message,
    Reason,
    Stop,
)
from dm.protocol.waiter import Waiter
from dm.server import exchange, guard
from dm.server.board import Board
from dm.server.pages import PAGE, PageCache, Want
from dm.server.place import Place
from dm.server.report import Report

_log = logging.getLogger(__name__)

#: How long the engine runs between two looks at the socket, in nanoseconds.
SLICE_NS: Final = 400_000
#: Posted writes wait no longer than this for an exchange, in nanoseconds.
_POSTED_NS: Final = 20_000_000
#: Most steps of a slice: the next stretch may be much slower than the last.
_MOST_STEPS: Final = 1 << 18
#: An orderly quit waits so long for the answer of an open question, in seconds.
_GRACE: Final = 2.0
#: After an orderly end requests are refused for so long, in seconds: a shim that has sent one before it heard of that
#: must be able to tell that nothing of it has run.
_GOODBYE: Final = 0.25
#: Messages a vCPU takes in at one look; a flood never starves the guest.
_BURST: Final = 16
#: High-water mark: there is one exchange at a time, the rest is for repeats and errors.
_HWM: Final = 16

_READS: Final = frozenset({IoKind.PORT_IN, IoKind.MMIO_READ, IoKind.MSR_READ, IoKind.MEMORY_READ})
_MMIO: Final = frozenset({ExitReason.MMIO_READ, ExitReason.MMIO_WRITE})
#: Exits that may mean a page of memory by messages that is not here.
_BROUGHT_IN: Final = frozenset({*_MMIO, ExitReason.MMIO_MISMATCH, ExitReason.MEMORY_COPY})
_PORTS: Final = frozenset({ExitReason.PORT_IN, ExitReason.PORT_OUT})
_MSRS: Final = frozenset({IoKind.MSR_READ, IoKind.MSR_WRITE})
_MUST_PROGRESS: Final = frozenset({Reason.FAILURE, Reason.INVALID_STATE, Reason.MMIO})
_REASONS: Final = list(Reason)
_STOPS: Final = list(Stop)
_UNTIL_WORDS: Final = list(schema.UntilWord)
_UNTIL: Final = {word: Until(str(word)) for word in schema.UntilWord}
_KINDS: Final = {reason: IoKind(str(reason)) for reason in QUESTIONS}
_ENDS: Final = {reason: DoneReason(str(reason)) for reason in ExitReason if reason not in QUESTIONS}
_SLICE_OVER: Final = frozenset({ExitReason.BUDGET, ExitReason.KICKED})
_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_UNDERSTOOD: Final = (Emulate, IoAnswer, Kick)
_CR0: Final = [name for name, _ in group_layout("control")].index("cr0")
#: What a whole state differs from: groups that a shim leaves out are as after RESET.
_RESET: Final[Groups] = {group: get_group(State.reset(), group) for group in GROUPS}


class Owner(Protocol):
    """What a vCPU needs of its session."""

    number: int
    current: MemoryMap
    pages: PageCache
    state_ports: tuple[range, ...]

    @property
    def several(self) -> bool:
        """Whether there is more than one vCPU."""
        ...

    def pages_moved(self, by: Vcpu | None) -> None:
        """Pages of blocks by messages have come or gone: make the map anew; all vCPUs but ``by`` are told."""
        ...

    def replace_map(self, wire: schema.Map, by: Vcpu | None) -> MemoryMap:
        """Check and take up a new map; all vCPUs but ``by`` are told."""
        ...


class _Gone(Exception):
    """The vCPU is being destroyed and leaves its run."""


class _Slice:
    """How many steps make a slice: follows the speed the guest code at hand runs at."""

    def __init__(self) -> None:
        self.steps = 1000

    def learn(self, steps: int, ns: int) -> None:
        """Adjust to a run of ``steps`` steps that took ``ns`` nanoseconds."""
        if steps < self.steps // 2 and ns < SLICE_NS:
            return  # it ended for another reason and says little
        wanted = steps * SLICE_NS // max(ns, 1)
        self.steps = max(32, min(wanted, 4 * self.steps, _MOST_STEPS))


class _Run:
    """One ``emulate`` under way."""

    def __init__(self, request: Emulate, before: Groups) -> None:
        self.request = request
        self.before = before
        self.report = Report()
        self.window = request.window
        self.stop = Stop.NONE
        self.question: Io | None = None
        self.answer: IoAnswer | None = None
        self.questions = 0
        self.open_steps = 0  # that the open instruction will have taken once it is finished
        self.exit: Exit | None = None  # of the engine, to be seen to: the exchange in C has left it
        self.in_c = False  # the exchange in C has the request and `before`
        self.must_progress = request.reason in _MUST_PROGRESS
        self.ran_ns = 0
        self.exchanged = time.monotonic_ns()
        self.registers: tuple[list[int], list[int], Exit] | None = None  # asked, answered: of a state port

    def ending(self, open_steps: int = 0) -> DoneReason | None:
        """Return why the run must end at the next boundary, None while it may go on.

        ``open_steps``: not 0 while an instruction is open; it will be finished, and that is progress.
        """
        request, report = self.request, self.report
        if request.steps == 0:
            return DoneReason.BUDGET
        if self.must_progress and report.steps == 0 and not open_steps:
            return None
        if self.stop is not Stop.NONE:
            return DoneReason.KICKED if self.stop is Stop.KICK else DoneReason.STOPPED
        if request.steps is not None and report.steps >= request.steps:
            return DoneReason.BUDGET
        if request.microseconds is not None and self.ran_ns >= request.microseconds * 1000:
            return DoneReason.BUDGET
        if request.reason is Reason.MMIO and (report.instructions > 0 or self.ran_ns > SLICE_NS):
            return DoneReason.BUDGET  # one instruction, or one slice of a repeated one
        return None

    def budget(self, steps: int, open_steps: int) -> int:
        """Return the steps the engine may make now, at most ``steps``.

        The open instruction is not charged again when it is finished (its budget was that of the run that asked), but
        its ``open_steps`` will be reported then: one, or as many as string I/O asked for elements.
        """
        left = steps if self.request.steps is None else self.request.steps - self.report.steps
        if self.request.reason is Reason.MMIO:
            left = 1
        return max(0, min(left - open_steps, steps))


class Vcpu:
    """One vCPU.  Public methods may be called from any thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        owner: Owner,
        number: int,
        place: Place,
        engine: Engine,
        board: Board | None = None,
        in_c: bool = True,
    ):
        """``place`` is where the endpoint goes, ``board`` where runs are noted.

        ``in_c`` False: all exchanges are made here, as with an engine that is not native.
        """
        self.number = number
        self._counters = schema.VcpuCounters(number, 0, 0, 0, 0, 0, 0, 0)
        self._context, self._owner, self._place, self._engine = context, owner, place, engine
        self._board = board
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()  # guards _wake and _engine against use after the thread's end
        self._ended = False
        self._bound = threading.Event()
        self._bind_error: Exception | None = None
        self._socket: zmq.Socket[bytes]
        self._waiter = Waiter()
        # of the thread alone from here on
        self._gone = self._closing = self._paused = False
        self._give_up_at: float | None = None
        self._peer = b""
        self._epoch = 0
        self._map: MemoryMap | None = None
        self._known = False  # the engine has the state after run `_last`, and as groups:
        self._groups: Groups = {}
        self._record: Message | bytes | None = None
        self._last = 0
        self._run: _Run | None = None
        self._slice = _Slice()
        self._exchange: exchange.Exchange | None = None
        if in_c and engine.name == "native" and exchange.status()[0]:
            self._exchange = exchange.Exchange(engine, owner.number, number, board, _RESET)
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
        return self._place.endpoint

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end after :meth:`close` or :meth:`abort`; return whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End in order: a run ends with ``done`` (``kicked``, ``closing``) after its current instruction."""
        self._call(self._do_close)

    def abort(self) -> None:
        """End at once: a run ends with error ``aborted``."""
        self._call(self._do_abort)

    def pause(self, paused: bool) -> threading.Event:
        """Hold runs at their next slice, or let them go on; the event is set once that is so."""
        done = threading.Event()
        if not self._call(lambda: self._do_pause(paused, done)):
            done.set()
        return done

    def new_map(self) -> None:
        """Take up the session's current memory map."""
        self._call(self._take_map)

    @property
    def counters(self) -> schema.VcpuCounters:
        """What it has done since it was created."""
        counted, c = replace(self._counters), self._exchange and self._exchange.c.counters
        if c:
            for name in ("requests", "io", "instructions", "steps", "bytes_in", "bytes_out"):
                setattr(counted, name, getattr(counted, name) + getattr(c, name))
        return counted

    @property
    def doing(self) -> str:
        """What it is doing: ``idle`` (the shim has it), ``running``, ``waiting`` (for an answer) or ``lost``."""
        run = self._run
        if self._ended:
            return "lost"
        if self._exchange is not None and self._exchange.inside:
            return ("idle", "running", "waiting")[self._exchange.c.state]
        return "idle" if run is None else "running" if run.question is None else "waiting"

    def _call(self, call: Callable[[], None]) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._calls.append(call)
            if self._exchange is not None:
                self._exchange.c.called = 1
            os.eventfd_write(self._wake, 1)
            self._engine.kick()
            return True

    # ------------------------------------------------------------------------------------------ the thread

    def _main(self) -> None:
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            try:
                self._bind()
            except Exception as error:
                self._bind_error = error
                return
            finally:
                self._bound.set()
            while self._run is not None or not (self._gone or self._closing):
                if self._run is None:
                    self._idle()
                if self._run is not None:
                    self._note(True)
                    self._serve(self._run)
                    self._note(self._run is not None)
            self._refuse_late()
        finally:
            with self._lock:
                self._ended = True
                os.close(self._wake)
            self._socket.close(linger=200 if self._gone else 2000)
            self._place.clear()
            self._engine.close()

    def _note(self, running: bool) -> None:
        if self._board is not None:
            self._board.set(self.number, running)

    def _refuse_late(self) -> None:
        end = time.monotonic() + _GOODBYE
        while not self._gone and (left := end - time.monotonic()) > 0:
            self._attend(int(left * 1000) + 1)

    def _bind(self) -> None:
        options = ((zmq.ROUTER_MANDATORY, 1), (zmq.SNDHWM, _HWM), (zmq.RCVHWM, _HWM))
        for option, value in options:
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 4 * schema.MAX_MESSAGE)  # above this the peer is cut off unheard
        self._place.bind(self._socket)
        descriptor = self._socket.getsockopt(zmq.FD)
        assert isinstance(descriptor, int)
        self._waiter.add(descriptor)
        self._waiter.add(self._wake)
        if self._exchange is not None:
            self._exchange.attach(self._socket, self._wake, SLICE_NS, _MOST_STEPS, _POSTED_NS)

    def _do_close(self) -> None:
        self._closing = True
        self._give_up_at = time.monotonic() + _GRACE
        if self._run is not None and self._run.stop is Stop.NONE:
            self._run.stop = Stop.KICK

    def _do_abort(self) -> None:
        self._gone = True

    def _do_pause(self, paused: bool, done: threading.Event) -> None:
        self._paused = paused
        done.set()

    def _take_map(self) -> None:
        if self._map is not self._owner.current:
            self._map = self._owner.current
            self._engine.set_map(self._map)

    # ------------------------------------------------------------------------------------------ messages

    def _attend(self, timeout: int | None) -> None:
        """Carry out queued calls, or take in a message; wait up to ``timeout`` ms (None: for ever) for the first."""
        if self._carry_out() or (self._news() and self._take_message()):
            return
        ready = self._waiter.wait(timeout)
        if any(descriptor == self._wake for descriptor, _ in ready):
            self._quiet()
        if ready and not self._carry_out():
            self._take_message()

    def _carry_out(self) -> bool:
        """Carry out queued calls; return whether there were any."""
        if not self._calls:
            return False
        self._quiet()
        while self._calls:
            self._calls.popleft()()
        return True

    def _quiet(self) -> None:
        """Take note of what tells of calls; whatever that told of is queued already."""
        if self._exchange is not None:
            self._exchange.c.called = 0
        with contextlib.suppress(BlockingIOError):  # the call is queued before the eventfd is written
            os.eventfd_read(self._wake)

    def _news(self) -> bool:
        """Return whether a message is there.  Only after a "no" does ZeroMQ's descriptor tell of the next (ZMQ_FD)."""
        return bool(self._socket.getsockopt(_EVENTS) & _POLLIN)  # type: ignore[operator]

    def _take_message(self) -> bool:
        """Take in the next message; return whether there was one."""
        receive = self._socket.recv
        try:
            identity = receive(_NOBLOCK)
        except zmq.Again:
            return False
        frame = receive(_NOBLOCK, copy=False)
        parts = 1
        while frame.more:
            frame = receive(_NOBLOCK, copy=False)
            parts += 1
        self._handle(identity, frame.bytes, parts)
        return True

    def _handle(self, identity: bytes, data: bytes, parts: int) -> None:
        """Act on a message; of one with several parts ``data`` is the last."""
        self._counters.bytes_in += len(data)
        try:
            if parts != 1:
                raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the message has {parts} parts", "one part")
            message = codec.decode(data)
            try:
                self._dispatch(identity, message)
            except ProtocolError as error:
                error.partial.setdefault("seq", getattr(message, "seq", 0))
                raise
        except ProtocolError as error:
            _log.info("session %d vCPU %d: refused: %s", self._owner.number, self.number, error)
            known = {"session": self._owner.number, "vcpu": self.number, "epoch": self._epoch}
            self._send(identity, error.message(**known))

    def _dispatch(self, identity: bytes, message: Message) -> None:
        if not isinstance(message, _UNDERSTOOD):
            raise ProtocolError(
                ErrorClass.BAD_MESSAGE,
                f"{message.NAME} came to a vCPU's endpoint",
                "emulate, io-answer or kick",
                "type",
            )
        if message.session != self._owner.number:
            raise ProtocolError(
                ErrorClass.UNKNOWN_SESSION, f"session is {message.session}", str(self._owner.number), "session"
            )
        if message.vcpu != self.number:
            raise ProtocolError(ErrorClass.UNKNOWN_VCPU, f"vcpu is {message.vcpu}", str(self.number), "vcpu")
        self._check_epoch(identity, message)
        match message:
            case Emulate():
                self._on_emulate(message)
            case IoAnswer():
                self._on_answer(message)
            case Kick():
                self._on_kick(message)

    def _check_epoch(self, identity: bytes, message: Emulate | IoAnswer | Kick) -> None:
        """Refuse what comes from an old socket; a run under a newer epoch makes that socket the vCPU's peer."""
        if message.epoch == self._epoch and identity == self._peer:
            return
        if message.epoch > self._epoch and isinstance(message, Emulate):
            self._epoch, self._peer = message.epoch, identity
            return
        if message.epoch == self._epoch and self._epoch:
            raise ProtocolError(
                ErrorClass.STALE_EPOCH, f"epoch {message.epoch} belongs to another socket", "a greater one", "epoch"
            )
        expected = f"an emulate with an epoch above {self._epoch}"
        if self._epoch and isinstance(message, Emulate):
            expected = f"{self._epoch} from its own socket, or a greater one"
        raise ProtocolError(ErrorClass.STALE_EPOCH, f"epoch is {message.epoch}", expected, "epoch")

    def _on_emulate(self, request: Emulate) -> None:
        run = self._run
        if run is not None:
            if request.seq != run.request.seq:
                raise ProtocolError(ErrorClass.BUSY, f"run {run.request.seq} is under way", "to wait for its done")
            if run.question is not None and run.answer is None:
                self._reply(run.question)  # the question was lost with the old socket
            return
        if request.seq == self._last and self._record is not None:
            if isinstance(self._record, bytes):
                self._record = codec.decode(self._record)
            self._reply(self._record)
            return
        if request.seq <= self._last:
            raise ProtocolError(ErrorClass.STALE_SEQUENCE, f"seq is {request.seq}", f"above {self._last}", "seq")
        if self._closing:
            raise ProtocolError(ErrorClass.SHUTTING_DOWN, "the daemon is shutting down", "another daemon")
        if request.reason is Reason.MMIO and request.mmio is None:
            raise ProtocolError(ErrorClass.BAD_MESSAGE, "reason is mmio without an address", "the address", "mmio")
        if request.generation > self._owner.current.generation:
            raise ProtocolError(
                ErrorClass.BAD_GENERATION,
                f"generation is {request.generation}",
                f"at most {self._owner.current.generation}, the newest map received",
                "generation",
            )
        self._run = _Run(request, self._submit(request))
        self._owner.pages.applied(request.applied)
        self._drop_pages(request.changed)
        self._counters.requests += 1

    def _submit(self, request: Emulate) -> Groups:
        """Give the engine the state a request submits, and return all its groups."""
        given = request.state
        if request.base == 0:
            given = {**_RESET, **given}
        elif request.base != self._last or not self._known:
            known = self._last if self._known else 0
            raise ProtocolError(
                ErrorClass.UNKNOWN_BASE,
                f"base is {request.base}",
                f"{known}, or 0 with a whole state" if known else "0, with a whole state",
                "base",
            )
        control = given.get("control") or self._groups["control"]
        if control[_CR0 : _CR0 + 1] and request.until is not schema.UntilWord.SVM_RAW and _paged_real(control[_CR0]):
            raise ProtocolError(
                ErrorClass.BAD_STATE,
                "cr0 has PG without PE, SVM's paged real mode",
                "until svm-raw for it, else PE with PG",
                "state",
            )
        self._known = False  # a state that is refused half-way leaves no base behind
        try:
            if given:  # otherwise the engine still has it
                self._engine.set_groups(given)
            if request.inject is not None:
                event = request.inject
                error = event.error if event.has_error else None
                self._engine.inject(EventType(event.type), event.vector, error=error, length=event.length)
        except ValueError as error:
            raise ProtocolError(ErrorClass.BAD_STATE, str(error), "see the state table", "state") from None
        if not given:
            return self._groups
        old = _RESET if request.base == 0 else self._groups
        return {group: given[group][: len(values)] if group in given else values for group, values in old.items()}

    def _on_answer(self, answer: IoAnswer) -> None:
        run = self._run
        question = run.question if run is not None else None
        if run is None or question is None or (answer.seq, answer.io) != (question.seq, question.io):
            asked = (self._last, 1 << 32) if run is None else (run.request.seq, run.questions)
            if (answer.seq, answer.io) <= asked:
                return  # repeated after a reconnect
            raise ProtocolError(ErrorClass.BAD_ANSWER, f"question {answer.seq}.{answer.io} is not open", "no answer")
        if run.answer is not None:
            return
        wanted = question.size * question.count if question.kind in _READS else 0
        if question.kind is IoKind.INTERRUPT_ACK:
            wanted = min(len(answer.data), 1)
        if answer.fault:
            if question.kind not in _MSRS:
                raise ProtocolError(ErrorClass.BAD_ANSWER, f"fault answers {question.kind}", "only for MSRs", "fault")
        elif len(answer.data) != wanted:
            raise ProtocolError(
                ErrorClass.BAD_ANSWER,
                f"data has {len(answer.data)} bytes",
                f"{wanted} for {question.kind} of {question.count} x {question.size}",
                "data",
            )
        if answer.copied is not None and (
            question.kind is not IoKind.MEMORY_COPY or not 1 <= answer.copied <= question.count
        ):
            expected = f"1 to {question.count}" if question.kind is IoKind.MEMORY_COPY else "only for copies"
            raise ProtocolError(ErrorClass.BAD_ANSWER, f"copied is {answer.copied}", expected, "copied")
        if answer.registers and (not question.registers or len(answer.registers) < len(question.registers)):
            expected = f"{len(question.registers)} values" if question.registers else "none: it is no state port"
            raise ProtocolError(
                ErrorClass.BAD_ANSWER, f"registers has {len(answer.registers)} values", expected, "registers"
            )
        if answer.map is not None:
            self._owner.replace_map(answer.map, self)
        self._owner.pages.applied(answer.applied)
        self._drop_pages(answer.changed)
        run.answer = answer

    def _drop_pages(self, changed: list[schema.PageRange]) -> None:
        """Pages have changed on the shim's side: they are brought in anew."""
        if changed and self._owner.pages.drop(changed):
            self._owner.pages_moved(None)

    def _on_kick(self, kick: Kick) -> None:
        self._drop_pages(kick.changed)
        run = self._run
        if run is None or kick.seq != run.request.seq:
            return
        if kick.window is not None:
            run.window = kick.window
        if kick.stop is not Stop.NONE and run.stop in (Stop.NONE, Stop.KICK):
            run.stop = kick.stop

    def _reply(self, message: Io | Done | Error | Message) -> None:
        """Send to the peer of the newest epoch."""
        message.epoch = self._epoch  # type: ignore[union-attr]
        self._send(self._peer, message)

    def _send(self, identity: bytes, message: Message) -> None:
        data = codec.encode(message)
        if isinstance(message, Error):
            self._counters.errors += 1
        self._send_bytes(identity, data, message.NAME)

    def _send_bytes(self, identity: bytes, data: bytes, name: str) -> None:
        self._counters.bytes_out += len(data)  # before it goes: who has it may compare counters at once
        try:
            try:
                self._socket.send(identity, _MORE)
            except zmq.Again:
                # The peer may have read since: ZeroMQ looks for word of that when asked for its events, not here.
                self._socket.getsockopt(zmq.EVENTS)
                self._socket.send(identity, _MORE)
            self._socket.send(data, _NOBLOCK)
            return
        except zmq.Again:
            _log.warning("vCPU %d: peer does not read; %s dropped, it may ask again", self.number, name)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            _log.info("vCPU %d: peer is gone; %s waits for its return", self.number, name)
        self._counters.bytes_out -= len(data)

    # ------------------------------------------------------------------------------------------ runs

    def _serve(self, run: _Run) -> None:
        """Carry out one request and send its answer."""
        answer: Message | None
        try:
            self._take_map()
            answer = self._execute(run)
            if answer is None:
                return
        except _Gone:
            answer = self._failed(run, ErrorClass.ABORTED, "the run was given up in mid-flight")
        except Exception as error:
            _log.exception("session %d vCPU %d: run %d failed", self._owner.number, self.number, run.request.seq)
            answer = self._failed(run, ErrorClass.INTERNAL, f"the engine failed: {type(error).__name__}: {error}")
        self._counters.steps += run.report.steps
        self._counters.instructions += run.report.instructions
        self._run, self._last, self._record = None, run.request.seq, answer
        try:
            self._reply(answer)
        except ProtocolError as error:  # it does not fit the schema: the engine said something odd
            self._known = False
            self._record = answer = self._failed(run, ErrorClass.INTERNAL, f"the engine failed: {error}")
            self._reply(answer)

    def _failed(self, run: _Run, error: ErrorClass, text: str) -> Error:
        refusal = ProtocolError(error, text, "a whole state with the next run")
        return refusal.message(seq=run.request.seq, session=self._owner.number, vcpu=self.number)

    def _execute(self, run: _Run) -> Done | None:
        """Carry out a request; returns None when its answer has been sent."""
        self._hold(run)
        while True:
            result, run.exit = run.exit, None
            if result is None:
                if run.question is not None:
                    self._settle(run)
                    self._hold(run)
                if not run.open_steps and (ending := run.ending()) is not None:
                    return self._done(run, ending)
                if self._owner.pages.used:
                    self._bring_in_firmware(run)
                if not guard.lost():
                    if self._is_usual(run):
                        self._leave_to_c(run)
                        if self._run is not run:
                            return None
                        self._hold(run)
                        continue
                    result = self._step(run)
            if result is None or guard.lost():  # what ran since has seen memory that is not the guest's: ask nothing
                return self._done(run, DoneReason.MEMORY_LOST)
            reason = result.reason
            run.open_steps = result.count if reason in QUESTIONS else 0
            self._flush(run, run.open_steps > 0)
            if run.registers is not None and not run.open_steps:
                self._set_registers(run)
            if reason in _BROUGHT_IN and self._bring_in(run, result):
                pass
            elif run.open_steps:
                self._question(run, result)
            elif reason is ExitReason.INTERRUPT_WINDOW and run.request.acknowledge:
                self._acknowledge(run)
            elif reason not in _SLICE_OVER:
                return self._done(run, _ENDS[reason], result)
            elif run.ending() is None:
                self._look()
            self._hold(run)

    def _look(self) -> None:
        """Take in messages that have come while the engine ran; a flood never starves the guest."""
        for _ in range(_BURST):
            if not (self._news() and self._take_message()):
                return

    def _hold(self, run: _Run) -> None:
        """Carry out queued calls; hold here while paused."""
        self._carry_out()
        while self._paused and not self._gone:
            if run.stop is not Stop.NONE:
                run.must_progress = False  # nothing runs while paused, not even that one instruction
                break
            self._attend(None)
        if self._gone:
            raise _Gone

    def _step(self, run: _Run) -> Exit:
        """Run the engine for one slice."""
        request, open_steps = run.request, run.open_steps
        first = run.report.steps == 0 and not open_steps
        # then only the open instruction is finished, whatever else could end the run
        last = open_steps > 0 and (run.registers is not None or run.ending(open_steps) is not None)
        started = time.perf_counter_ns()
        result = self._engine.run(
            Until.NEVER if last else _UNTIL[request.until],
            0 if last else run.budget(self._slice.steps, open_steps),
            progress=first and run.must_progress,  # an open one is progress already
            window=run.window and not last,
            mmio=request.mmio if first and request.reason is Reason.MMIO else None,
            code=request.code if first else b"",
        )
        run.report.add(result)
        taken = time.perf_counter_ns() - started
        run.ran_ns += taken
        self._slice.learn(result.steps, taken)
        return result

    def _question(self, run: _Run, result: Exit) -> None:
        registers = self._registers(result)
        answer = self._ask(
            run,
            _KINDS[result.reason],
            address=result.address,
            size=result.size,
            count=result.count,
            down=result.down,
            data=bytes(result.data),
            registers=registers,
            target=result.target,
        )
        if answer.registers:
            run.registers = registers, answer.registers, result
        if result.reason is ExitReason.MEMORY_COPY:
            self._engine.answer(copied=answer.copied)
        else:
            self._answer(answer)

    def _settle(self, run: _Run) -> None:
        """Take in the answer to a question of a device that has been sent."""
        self._answer(self._await(run))

    def _answer(self, answer: IoAnswer) -> None:
        self._engine.answer(b"" if answer.fault else answer.data, fault=answer.fault)

    def _registers(self, result: Exit) -> list[int]:
        """Return the general registers for a question about a state port, else nothing."""
        if not self._owner.state_ports or result.reason not in _PORTS:
            return []
        end = result.address + result.size
        if not any(result.address < ports.stop and ports.start < end for ports in self._owner.state_ports):
            return []
        return self._engine.get_state().gpr

    def _set_registers(self, run: _Run) -> None:
        """Give the guest what a state port's device has changed, now that its instruction is complete.

        What the instruction itself has changed (string I/O: RSI, RDI, RCX) counts where the device changed nothing;
        of RAX the part that IN writes is the data's.
        """
        assert run.registers is not None
        (before, after, asked), run.registers = run.registers, None
        state = self._engine.get_state()
        own = (1 << 8 * asked.size) - 1 if asked.reason is ExitReason.PORT_IN and asked.count == 1 else 0
        for at, (old, new) in enumerate(zip(before, after, strict=False)):
            if new != old:
                keep = own if at == Gpr.AX else 0
                state.gpr[at] = new & ~keep | state.gpr[at] & keep
        self._engine.set_state(state)

    def _bring_in(self, run: _Run, result: Exit) -> bool:
        """Answer an access to memory by messages, whose page comes first where it is not here.

        Returns:
            False: it is something else, a device's or a mismatch that is one.
        """
        if result.reason is ExitReason.MEMORY_COPY:
            return self._bring_in_sides(run, result)
        pages, write, came = self._owner.pages, result.reason is ExitReason.MMIO_WRITE, False
        while pages.used and (want := pages.want(result.address, write)) is not None:
            if want.size:
                self._fetch(run, want)
                came = True
                continue  # its answer may have changed the map
            came |= self._map is not self._owner.current
            self._take_map()
            if result.reason is ExitReason.MMIO_MISMATCH:  # it met a page that was not here: once more
                return came
            step = -result.size if result.down else result.size
            places = [want.offset + k * step for k in range(result.count)]
            memory = want.block.memory
            if write:
                for k, at in enumerate(places):
                    memory[at : at + result.size] = result.data[k * result.size : (k + 1) * result.size]
                run.report.touch([result.address // PAGE])
                self._note_places(run)
                self._engine.answer()
            else:
                self._engine.answer(b"".join(memory[at : at + result.size] for at in places))
            return True
        return False

    def _bring_in_sides(self, run: _Run, result: Exit) -> bool:
        """Bring in what a copy has taken for devices; then it is no copy, and the engine asks something else."""
        pages, came = self._owner.pages, False
        for address, write in ((result.address, False), (result.target, True)):
            while pages.used and (want := pages.want(address, write)) is not None:
                came = True
                if not want.size:
                    self._take_map()
                    break
                self._fetch(run, want)
        if came:
            self._engine.answer(copied=0)
        return came

    def _bring_in_firmware(self, run: _Run) -> None:
        """Bring in all firmware, since fetching an instruction there has to end the run."""
        while (want := self._owner.pages.firmware()) is not None:
            self._fetch(run, want)

    def _fetch(self, run: _Run, want: Want) -> None:
        answer = self._ask(run, IoKind.MEMORY_READ, ram=want.block.number, address=want.offset, size=1, count=want.size)
        self._owner.pages.fill(want, answer.data)
        self._owner.pages_moved(self)
        self._take_map()

    def _acknowledge(self, run: _Run) -> None:
        """Ask for the vector of the waiting external interrupt and have it delivered."""
        run.window = False
        answer = self._ask(run, IoKind.INTERRUPT_ACK)
        if answer.data:
            self._engine.inject(EventType.EXTERNAL, answer.data[0])

    def _flush(self, run: _Run, exchange_follows: bool) -> None:
        """Deliver posted writes and pages now when they no longer fit, or have waited long enough."""
        report = run.report
        if report.empty:
            return
        self._note_places(run)
        late = report.waiting and time.monotonic_ns() - run.exchanged > _POSTED_NS
        if late and not exchange_follows:
            self._ask(run, IoKind.REPORT)
        while report.full:
            self._ask(run, IoKind.REPORT)

    def _note_places(self, run: _Run) -> None:
        used, pages = self._map, self._owner.pages
        run.report.note((lambda written: pages.places(used, written)) if used and pages.used else None)

    def _patches(self, run: _Run, kind: IoKind | None) -> tuple[list[schema.Patch], int]:
        """Return, with its version, what the shim has to know of memory before a question, or ``done`` (None).

        All of it must have reached the shim first: what does not fit goes with reports before.
        """
        report, pages = run.report, self._owner.pages
        if not pages.used:
            return [], 0
        if self._owner.several and kind not in (IoKind.REPORT, IoKind.MEMORY_READ):
            report.places |= pages.dirty()  # what the others have written is a device's to see, too
        if not report.places:
            return [], 0
        patches, version, report.places = pages.collect(report.places)
        while report.places and kind is not IoKind.REPORT:
            self._ask(run, IoKind.REPORT, patches=patches, version=version)
            patches, version, report.places = pages.collect(report.places)
        return patches, version

    def _ask(self, run: _Run, kind: IoKind, **what: Any) -> IoAnswer:
        """Send a question and wait for its answer."""
        if "patches" not in what:
            what["patches"], what["version"] = self._patches(run, kind)
        posted, pages, flush = run.report.take()
        checkpoint = _difference(run.before, self._engine.get_groups()) if run.request.checkpoint else None
        run.questions += 1
        self._counters.io += 1
        run.question = Io(
            session=self._owner.number,
            vcpu=self.number,
            epoch=self._epoch,
            seq=run.request.seq,
            io=run.questions,
            kind=kind,
            posted=posted,
            pages=pages,
            tlb_flush=flush,
            instructions=run.report.instructions,
            steps=run.report.steps,
            checkpoint=checkpoint,
            **what,
        )
        run.answer = None
        self._reply(run.question)
        return self._await(run)

    def _await(self, run: _Run) -> IoAnswer:
        """Wait for the answer to the open question."""
        while run.answer is None:
            left = None if self._give_up_at is None else int((self._give_up_at - time.monotonic()) * 1000)
            if self._gone or (left is not None and left <= 0):
                raise _Gone
            self._attend(left)
        answer, run.question, run.exchanged = run.answer, None, time.monotonic_ns()
        self._take_map()
        if answer.window is not None:
            run.window = answer.window
        if answer.stop is not Stop.NONE:
            run.stop = answer.stop
        return answer

    def _done(self, run: _Run, reason: DoneReason, result: Exit | None = None) -> Done:
        self._flush(run, True)
        patches, version = self._patches(run, None)
        posted, pages, flush = run.report.take()
        self._known, self._groups = True, self._engine.get_groups()
        detail = result.detail if result is not None else guard.lost()
        return Done(
            session=self._owner.number,
            vcpu=self.number,
            epoch=self._epoch,
            seq=run.request.seq,
            reason=reason,
            stop=run.stop,
            address=result.address if result is not None else 0,
            detail=codec.clip(detail, 512) if detail else "",
            state=_difference(run.before, self._groups),
            instructions=run.report.instructions,
            steps=run.report.steps,
            posted=posted,
            pages=pages,
            tlb_flush=flush,
            failing=_failing(self._engine.get_state(), run.request.until) if run.request.explain else [],
            closing=self._closing,
            patches=patches,
            version=version,
            fault=result.error if result is not None else 0,
        )

    # ------------------------------------------------------------------------------------------ exchanges in C

    def _idle(self) -> None:
        """Wait for a request, or something else to do."""
        if self._exchange is None or self._paused or self._owner.pages.used:
            self._attend(None)
        else:
            self._leave_to_c(None)

    def _is_usual(self, run: _Run) -> bool:
        """Return whether the exchange in C can take this run up where it is."""
        return (
            self._exchange is not None
            and not self._closing
            and not self._owner.pages.used
            and run.registers is None
            and not run.report.waiting
            and len(run.report.pages) <= self._exchange.c.most_pages
        )

    def _leave_to_c(self, run: _Run | None) -> None:
        """Leave the vCPU to C, with a run or without, until there is something unusual, and see to that.

        A run may have ended there, and another may have begun.
        """
        x = cast(exchange.Exchange, self._exchange)
        c = x.c
        self._take_map()
        c.generation = self._map.generation if self._map is not None else 0
        c.epoch, c.last, c.known, c.slice = self._epoch, self._last, self._known, self._slice.steps
        c.peer, c.peer_size = self._peer, len(self._peer)
        c.record_size = 0
        x.state_ports(self._owner.state_ports)
        c.state = exchange.At.IDLE
        if run is not None:
            c.state = exchange.At.BOUNDARY
            _run_to_c(run, x)
        news = x.serve()
        self._last, self._known, self._slice.steps = c.last, bool(c.known), c.slice
        state = exchange.At(c.state)
        is_open = news is exchange.News.EXIT or state is exchange.At.WAITING
        made = x.engine.follow(x.exit_address() if is_open else None)
        if c.record_size:
            self._record = x.read(c.record, c.record_size)
            if self._known:
                self._groups = x.engine.get_groups()
        if state is exchange.At.IDLE:
            self._run = None
        else:
            if run is None or c.record_size:
                run = self._run = _Run(cast(Emulate, codec.decode(x.read(c.request, c.request_size))), x.before())
            _run_from_c(run, x)
            if news is exchange.News.EXIT and made is not None:
                run.exit = made
                run.report.add(made)
            if state is exchange.At.WAITING:
                run.question = cast(Io, codec.decode(x.read(c.question, c.question_size)))
                run.answer = None
        self._see_to(x, news)

    def _see_to(self, x: exchange.Exchange, news: exchange.News) -> None:
        """See to what C has left; an exit and an end are the run's own business (:meth:`_execute`)."""
        match news:
            case exchange.News.CALLS:
                self._quiet()
                self._carry_out()
            case exchange.News.MESSAGE:
                identity, data = x.read(x.c.identity, x.c.identity_size), x.read(x.c.message, x.c.message_size)
                self._handle(identity, data, x.c.parts)
                if self._run is not None and self._run.question is None:
                    self._look()
            case exchange.News.UNSENT:
                name = "done" if self._run is None else "io"
                self._send_bytes(self._peer, x.read(x.c.unsent, x.c.unsent_size), name)
            case exchange.News.ERROR:
                self._news()  # it is told of here
                self._take_message()
            case _:
                pass


def _run_to_c(run: _Run, x: exchange.Exchange) -> None:
    """Give a run to C."""
    c, request, report = x.c.run, run.request, run.report
    if not run.in_c:
        run.in_c = True
        x.set_before(run.before)
        c.seq, c.reason, c.until = request.seq, _REASONS.index(request.reason), _UNTIL_WORDS.index(request.until)
        c.has_most_steps, c.most_steps = request.steps is not None, request.steps or 0
        c.has_microseconds, c.microseconds = request.microseconds is not None, request.microseconds or 0
        c.has_mmio, c.mmio = request.mmio is not None, request.mmio or 0
        c.acknowledge, c.explain, c.checkpoint = request.acknowledge, request.explain, request.checkpoint
        c.code_size, c.code = len(request.code), request.code
    c.steps, c.instructions, c.tlb_flush = report.steps, report.instructions, report.tlb_flush
    x.set_pages(report.pages)
    c.ran_ns, c.exchanged_ns, c.open_steps = run.ran_ns, run.exchanged, run.open_steps
    c.window, c.stop, c.questions = run.window, _STOPS.index(run.stop), run.questions
    c.must_progress = run.must_progress


def _run_from_c(run: _Run, x: exchange.Exchange) -> None:
    """Take a run back from C."""
    c, report = x.c.run, run.report
    run.in_c = True
    report.steps, report.instructions, report.tlb_flush = c.steps, c.instructions, bool(c.tlb_flush)
    report.pages.clear()
    report.touch(x.pages())
    run.ran_ns, run.exchanged, run.open_steps = c.ran_ns, c.exchanged_ns, c.open_steps
    run.window, run.stop, run.questions = bool(c.window), _STOPS[c.stop], c.questions


def _paged_real(cr0: int | bytes) -> bool:
    """Return whether CR0 has PG without PE, as only a hypervisor can make it (APM vol. 2, 15.19)."""
    return isinstance(cr0, int) and cr0 & (1 << 31 | 1) == 1 << 31


def _difference(old: Groups, new: Groups) -> Groups:
    """Return the groups of ``new`` that differ from ``old``."""
    return {group: values for group, values in new.items() if values is not old[group] and values != old[group]}


def _failing(state: State, until: schema.UntilWord) -> list[schema.Failing]:
    """Return the entry rules of ``until`` that a state breaks."""
    from dm.machine import rules  # compiles its conditions: only for those who ask

    policy = rules.Policy.__members__.get(until.name, rules.Policy.NEVER)
    return [
        schema.Failing(
            failure.rule.name,
            codec.clip(failure.rule.field, 64),
            codec.clip(failure.actual, 128),
            codec.clip(failure.rule.required, 128),
            codec.clip(failure.rule.section, 64),
        )
        for failure in rules.failing(state, policy)
    ]
