"""One vCPU as a state machine: messages go in as values and come out as values.

A vCPU is IDLE (the shim has it), at a BOUNDARY (the engine is to run on) or WAITING (for an answer):

    ========  ==================================  ==========================================================
    state     step                                leads to
    ========  ==================================  ==========================================================
    IDLE      ``begin`` an ``emulate``            BOUNDARY
    BOUNDARY  ``run_on``: ``step`` the engine     WAITING after ``ask``, IDLE after ``finish``, else BOUNDARY
    WAITING   ``take_answer``                     BOUNDARY, or WAITING for the next answer, or IDLE
    ========  ==================================  ==========================================================

What a run does between two boundaries is a generator (:data:`Course`): it yields each question, is sent the answer, and
returns ``done`` or, at the next boundary, None.

The machine knows no socket, no thread and no clock.  Its driver passes in the messages that have arrived and sends
those it returns, tells it the time, and runs the engine for it.  :mod:`dm.server.vcpu.thread` does so on a ROUTER
socket.  ``native/exchange.c`` is the usual part of this machine in C, with steps of the same names and the same results
to the byte; a run moves from one to the other at any boundary (:mod:`dm.server.vcpu.crossing`).
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, Final, Protocol, TypeAlias

from dm.engine.api import QUESTIONS, Engine, Exit, ExitReason, MemoryMap, RunRequest, Until
from dm.machine.architecture import Cr0
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
from dm.server.memory.pages import PAGE, PageCache, Want
from dm.server.vcpu.paging import Paging
from dm.server.vcpu.run import Run, Slice

_log = logging.getLogger(__name__)

#: What a whole state differs from: groups that a shim leaves out are as after RESET.
RESET: Final[Groups] = {group: get_group(State.reset(), group) for group in GROUPS}

#: A message, and the identity of the shim's socket that it goes to.
Outgoing: TypeAlias = tuple[bytes, Message]
#: What a run does until the next boundary.
Course: TypeAlias = Generator[Io, IoAnswer, Done | None]
#: Runs the engine, and returns how long that took, in nanoseconds.
RunEngine: TypeAlias = Callable[[RunRequest], tuple[Exit, int]]

_UNDERSTOOD: Final = (Emulate, IoAnswer, Kick)
_READS: Final = frozenset({IoKind.PORT_IN, IoKind.MMIO_READ, IoKind.MSR_READ, IoKind.MEMORY_READ})
_MSRS: Final = frozenset({IoKind.MSR_READ, IoKind.MSR_WRITE})
_ACCESSES: Final = _MSRS | {IoKind.PORT_IN, IoKind.PORT_OUT, IoKind.MMIO_READ, IoKind.MMIO_WRITE}

_PORTS: Final = frozenset({ExitReason.PORT_IN, ExitReason.PORT_OUT})
#: Exits that may mean a missing page of RAM carried in messages.
_BROUGHT_IN: Final = frozenset(
    {ExitReason.MMIO_READ, ExitReason.MMIO_WRITE, ExitReason.MMIO_MISMATCH, ExitReason.MEMORY_COPY}
)
_SLICE_OVER: Final = frozenset({ExitReason.BUDGET, ExitReason.KICKED})

_CR0: Final = [name for name, _ in group_layout("control")].index("cr0")


class Owner(Protocol):
    """What a vCPU needs of its session."""

    number: int
    secret: bytes
    current: MemoryMap
    pages: PageCache
    state_ports: tuple[range, ...]

    @property
    def several(self) -> bool:
        """Whether there is more than one vCPU."""
        ...

    @property
    def memory_lost(self) -> str:
        """What guest RAM has been lost, in words; empty if none."""
        ...

    def pages_moved(self, by: int | None) -> None:
        """Rebuild the map, since pages carried in messages have come or gone; tell all vCPUs but number ``by``."""
        ...

    def replace_map(self, wire: schema.Map, by: int | None) -> MemoryMap:
        """Check and install a new map, and tell all vCPUs but number ``by``.

        Raises:
            ProtocolError: it is refused; nothing has changed.
        """
        ...


class At(IntEnum):
    """Where a vCPU is: enum dx_state of exchange.h."""

    IDLE = 0
    BOUNDARY = 1
    WAITING = 2


class Core:
    """One vCPU.  It belongs to one thread; others may read :attr:`at` and :attr:`counters`."""

    def __init__(self, owner: Owner, number: int, engine: Engine, run_engine: RunEngine) -> None:
        """``run_engine`` makes ``engine`` run."""
        self.number, self.engine = number, engine
        self._owner, self._run_engine = owner, run_engine
        self.counters = schema.VcpuCounters(number, 0, 0, 0, 0, 0, 0, 0)
        self.at = At.IDLE
        self.epoch = 0
        self.peer = b""  # identity of the shim's newest socket, that of `epoch`
        self.closing = False
        self.map: MemoryMap | None = None
        self.slice = Slice()
        self.run: Run | None = None
        self.last = 0  # number of the last run, whose answer was:
        self.record: Message | bytes | None = None
        self.known = False  # the engine has the state after run `last`, and as groups:
        self.groups: Groups = {}
        self._course: Course | None = None
        self._now = 0
        self._paging = Paging(owner.pages, engine, self.take_map)

    # ------------------------------------------------------------------------------------------ what comes in

    def receive(self, peer: bytes, message: Message, now: int) -> Outgoing | None:
        """Act on a message from the socket ``peer``; ``now`` is the time in nanoseconds, of any steady clock.

        Returns:
            What is to be sent: a refusal, a repeated question or answer, or what follows from an answer.
        """
        self._now = now
        try:
            return self._dispatch(peer, message)
        except ProtocolError as error:
            error.partial.setdefault("seq", getattr(message, "seq", 0))
            return self.refuse(peer, error)

    def refuse(self, peer: bytes, error: ProtocolError) -> Outgoing:
        """Return the refusal of what came from the socket ``peer``."""
        _log.debug("vCPU %d: refused: %s", self.number, error)
        return peer, error.message(session=self._owner.number, vcpu=self.number, epoch=self.epoch)

    def _dispatch(self, peer: bytes, message: Message) -> Outgoing | None:
        if not isinstance(message, _UNDERSTOOD):
            text = f"{message.NAME} came to a vCPU's endpoint"
            raise ProtocolError(ErrorClass.BAD_MESSAGE, text, "emulate, io-answer or kick", "type")
        if message.session != (session := self._owner.number):
            raise ProtocolError(ErrorClass.UNKNOWN_SESSION, f"session is {message.session}", str(session), "session")
        if message.vcpu != self.number:
            raise ProtocolError(ErrorClass.UNKNOWN_VCPU, f"vcpu is {message.vcpu}", str(self.number), "vcpu")
        self._check_epoch(peer, message)
        match message:
            case Emulate():
                return self._on_emulate(message)
            case IoAnswer():
                return self._on_answer(message)
            case Kick():
                self._on_kick(message)
        return None

    def _check_epoch(self, peer: bytes, message: Emulate | IoAnswer | Kick) -> None:
        """Refuse what comes from an old socket; a run under a newer epoch makes that socket the vCPU's peer.

        It must know the session's secret.  Once is enough: ZeroMQ names each connection at random, and no other can
        have its name while it is there or guess it later.  In a session without a secret the first socket stays the
        peer.
        """
        if message.epoch == self.epoch and peer == self.peer:
            return
        if message.epoch > self.epoch and isinstance(message, Emulate):
            self._check_secret(peer, message.secret)
            self.epoch, self.peer = message.epoch, peer
            return
        if message.epoch == self.epoch and self.epoch:
            text = f"epoch {message.epoch} belongs to another socket"
            raise ProtocolError(ErrorClass.STALE_EPOCH, text, "a greater one", "epoch")
        expected = f"an emulate with an epoch above {self.epoch}"
        if self.epoch and isinstance(message, Emulate):
            expected = f"{self.epoch} from its own socket, or a greater one"
        raise ProtocolError(ErrorClass.STALE_EPOCH, f"epoch is {message.epoch}", expected, "epoch")

    def _check_secret(self, peer: bytes, secret: bytes) -> None:
        wanted = self._owner.secret
        known = hmac.compare_digest(secret, wanted) if wanted else peer == self.peer or not self.peer
        if not known:
            text = "another socket has this vCPU, and this one does not know the session's secret"
            expected = "the secret of welcome" if wanted else "protocol version 3, which has secrets"
            raise ProtocolError(ErrorClass.STALE_EPOCH, text, expected, "secret")

    def _on_emulate(self, request: Emulate) -> Outgoing | None:
        run = self.run
        if run is not None:
            if request.seq != run.request.seq:
                raise ProtocolError(ErrorClass.BUSY, f"run {run.request.seq} is under way", "to wait for its done")
            return None if run.question is None else self._reply(run.question)  # it was lost with the old socket
        if request.seq == self.last and self.record is not None:
            if isinstance(self.record, bytes):
                self.record = codec.decode(self.record)
            return self._reply(self.record)
        if request.seq <= self.last:
            raise ProtocolError(ErrorClass.STALE_SEQUENCE, f"seq is {request.seq}", f"above {self.last}", "seq")
        self.begin(request)
        return None

    def _on_answer(self, answer: IoAnswer) -> Outgoing | None:
        run = self.run
        question = run.question if run is not None else None
        if run is None or question is None or (answer.seq, answer.io) != (question.seq, question.io):
            asked = (self.last, 1 << 32) if run is None else (run.request.seq, run.questions)
            if (answer.seq, answer.io) <= asked:
                return None  # repeated after a reconnect
            raise ProtocolError(ErrorClass.BAD_ANSWER, f"question {answer.seq}.{answer.io} is not open", "no answer")
        return self.take_answer(answer)

    def _on_kick(self, kick: Kick) -> None:
        self._drop_pages(kick.changed)
        run = self.run
        if run is None or kick.seq != run.request.seq:
            return
        if kick.window is not None:
            run.window = kick.window
        if kick.stop is not Stop.NONE and run.stop in (Stop.NONE, Stop.KICK):
            run.stop = kick.stop

    def _drop_pages(self, changed: list[schema.PageRange]) -> None:
        """Pages have changed on the shim's side: they are fetched again."""
        if changed and self._owner.pages.drop(changed):
            self._owner.pages_moved(None)

    def take_map(self) -> bool:
        """Install the session's current memory map; return whether it is a new one."""
        if self.map is self._owner.current:
            return False
        self.map = self._owner.current
        self.engine.set_map(self.map)
        return True

    # ------------------------------------------------------------------------------------------ the steps

    def begin(self, request: Emulate) -> None:
        """IDLE: begin a request.

        Raises:
            ProtocolError: it is refused; nothing has begun.
        """
        if self.closing:
            text = "the vCPU was closed: its daemon ends or is gone"
            raise ProtocolError(ErrorClass.SHUTTING_DOWN, text, "another daemon")
        if request.reason is Reason.MMIO and request.mmio is None:
            raise ProtocolError(ErrorClass.BAD_MESSAGE, "reason is mmio without an address", "the address", "mmio")
        if request.generation > (newest := self._owner.current.generation):
            expected = f"at most {newest}, the newest map received"
            text = f"generation is {request.generation}"
            raise ProtocolError(ErrorClass.BAD_GENERATION, text, expected, "generation")
        self.run = Run(request, self._submit(request), self._now)
        self.at = At.BOUNDARY
        self._owner.pages.applied(request.applied)
        self._drop_pages(request.changed)
        self.counters.requests += 1

    def run_on(self, now: int) -> Outgoing | None:
        """BOUNDARY: run one slice and act on its result; ``now`` as for :meth:`receive`.

        Returns:
            A question, or the end of the run; None at the next boundary.
        """
        assert self.run is not None
        self._now = now
        self._course = self._slice(self.run)
        return self._proceed(None)

    def take_answer(self, answer: IoAnswer) -> Outgoing | None:
        """WAITING: take the answer to the open question; returns as :meth:`run_on` does.

        Raises:
            ProtocolError: it does not answer that question, which stays open.
        """
        run = self.run
        assert run is not None
        assert run.question is not None
        _check_answer(run.question, answer)
        if answer.native and run.answered:
            text = "native answers the second question of an instruction"
            expected = "only for the first: what was answered before would be done twice"
            raise ProtocolError(ErrorClass.BAD_ANSWER, text, expected, "native")
        if answer.map is not None:
            self._owner.replace_map(answer.map, self.number)
        self._owner.pages.applied(answer.applied)
        self._drop_pages(answer.changed)
        run.question, run.exchanged_ns = None, self._now
        if answer.window is not None:
            run.window = answer.window
        if answer.stop is not Stop.NONE:
            run.stop = answer.stop
        return self._proceed(answer)

    def step(self, run: Run) -> Exit:
        """Run the engine for one slice."""
        request, open_steps = run.request, run.open_steps
        first = run.report.steps == 0 and not open_steps
        # then only the open instruction is finished, whatever else could end the run
        last = open_steps > 0 and (run.registers is not None or run.ending(open_steps) is not None)
        made, taken = self._run_engine(
            RunRequest(
                Until.NEVER if last else request.until,
                0 if last else run.budget(self.slice.steps, open_steps),
                progress=first and run.must_progress,  # an open one is progress already
                window=run.window and not last,
                mmio=request.mmio if first and request.reason is Reason.MMIO else None,
                code=request.code if first else b"",
                stop_at=None if last else request.stop_at,
            )
        )
        run.report.add(made)
        run.ran_ns += taken
        self._now += taken
        self.slice.learn(made.steps, taken)
        return made

    def ask(self, run: Run, kind: IoKind, **what: Any) -> Generator[Io, IoAnswer, IoAnswer]:
        """Ask the shim, after telling it what it has to know first."""
        if "patches" not in what:
            what["patches"], what["version"] = yield from self._patches(run, kind)
        posted, pages, flush = run.report.take()
        checkpoint = _difference(run.before, self.engine.get_groups()) if run.request.checkpoint else None
        run.questions += 1
        self.counters.io += 1
        return (
            yield Io(
                session=self._owner.number,
                vcpu=self.number,
                epoch=self.epoch,
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
        )

    def finish(self, run: Run, reason: DoneReason, made: Exit | None = None) -> Generator[Io, IoAnswer, Done]:
        """End a run, after telling the shim what it has to know first; the state is the base of the next run."""
        yield from self._flush(run, True)
        patches, version = yield from self._patches(run, None)
        posted, pages, flush = run.report.take()
        self.known, self.groups = True, self.engine.get_groups()
        detail = made.detail if made is not None else self._owner.memory_lost
        return Done(
            session=self._owner.number,
            vcpu=self.number,
            epoch=self.epoch,
            seq=run.request.seq,
            reason=reason,
            stop=run.stop,
            address=made.address if made is not None else 0,
            detail=codec.clip(detail, 512) if detail else "",
            state=_difference(run.before, self.groups),
            instructions=run.report.instructions,
            steps=run.report.steps,
            posted=posted,
            pages=pages,
            tlb_flush=flush,
            failing=_failing(self.engine.get_state(), run.request.until) if run.request.explain else [],
            closing=self.closing,
            patches=patches,
            version=version,
            fault=made.error if made is not None else 0,
        )

    # ------------------------------------------------------------------------------------------ what its driver says

    @property
    def ends_next(self) -> bool:
        """Whether there is a run, and it ends at this boundary."""
        return self.run is not None and not self.run.open_steps and self.run.ending() is not None

    def hold(self) -> bool:
        """While nothing may run: return whether the vCPU waits.  A run that is to stop ends instead, unchanged."""
        if self.run is None or self.run.stop is Stop.NONE:
            return True
        self.run.must_progress = False  # not even that one instruction
        return False

    def close(self) -> None:
        """Accept no more requests; a run ends after its current instruction."""
        self.closing = True
        if self.run is not None and self.run.stop is Stop.NONE:
            self.run.stop = Stop.KICK

    def abandon(self) -> Outgoing | None:
        """Abandon the current run."""
        run = self.run
        if run is None:
            return None
        return self._end(run, self._failure(run.request.seq, ErrorClass.ABORTED, "the run was given up in mid-flight"))

    def fail(self, error: ProtocolError) -> Outgoing:
        """Return what is sent instead of a question or end, when the engine has reported something impossible."""
        text = f"the engine failed: {error}"
        if (run := self.run) is not None:
            return self._end(run, self._failure(run.request.seq, ErrorClass.INTERNAL, text))
        self.known = False
        self.record = self._failure(self.last, ErrorClass.INTERNAL, text)
        return self._reply(self.record)

    def resume(self, run: Run | None, question: Io | None) -> None:
        """Continue from where the machine in C has left the vCPU: with its run and its open question, if any."""
        self.run, self._course = run, None
        self.at = At.IDLE if run is None else At.BOUNDARY
        if run is not None and question is not None:
            self.at, run.question = At.WAITING, question
            self._course = self._await_device(run, question)
            next(self._course)

    # ------------------------------------------------------------------------------------------ between boundaries

    def _proceed(self, answer: IoAnswer | None) -> Outgoing | None:
        """Continue the course of a run; with None it begins."""
        run, course = self.run, self._course
        assert run is not None
        assert course is not None
        ended: Done | Error | None
        try:
            self.take_map()
            question = course.send(answer)  # type: ignore[arg-type]  # as a generator begins
        except StopIteration as end:
            ended = end.value
        except Exception as error:
            _log.exception("session %d vCPU %d: run %d failed", self._owner.number, self.number, run.request.seq)
            text = f"the engine failed: {type(error).__name__}: {error}"
            ended = self._failure(run.request.seq, ErrorClass.INTERNAL, text)
        else:
            self.at, run.question = At.WAITING, question
            return self._reply(question)
        self.at, self._course = At.BOUNDARY, None
        return self._end(run, ended) if ended is not None else None

    def _slice(self, run: Run) -> Course:
        made, run.exit = run.exit, None
        if made is None:
            if not run.open_steps and (ending := run.ending()) is not None:
                return (yield from self.finish(run, ending))
            yield from self._fetch(run, self._paging.firmware())
            if not self._owner.memory_lost:
                made = self.step(run)
        if made is None or self._owner.memory_lost:  # the run has seen memory that is not the guest's: ask nothing
            return (yield from self.finish(run, DoneReason.MEMORY_LOST))
        reason, asks = made.reason, made.reason in QUESTIONS
        run.answered &= asks and not made.steps
        run.open_steps = made.count if asks else 0
        yield from self._flush(run, asks)
        if run.registers is not None and not asks:
            self._set_registers(run)
        if reason in _BROUGHT_IN and (yield from self._fetch(run, self._paging.access(made))):
            if reason is ExitReason.MMIO_WRITE:
                run.report.touch([made.address // PAGE])
                self._note_places(run)
            return None
        if asks:
            return (yield from self._ask_device(run, made))
        if reason is ExitReason.INTERRUPT_WINDOW and run.request.acknowledge:
            yield from self._acknowledge(run)
        elif reason not in _SLICE_OVER:
            return (yield from self.finish(run, DoneReason(reason), made))
        return None

    def _ask_device(self, run: Run, made: Exit) -> Course:
        registers = self._shown_registers(made)
        answer = yield from self.ask(
            run,
            IoKind(made.reason),
            address=made.address,
            size=made.size,
            count=made.count,
            down=made.down,
            data=bytes(made.data),
            registers=registers,
            target=made.target,
        )
        if answer.registers and not answer.native:
            run.registers = registers, answer.registers, made
        return (yield from self._answer_engine(run, answer, made.address))

    def _await_device(self, run: Run, question: Io) -> Course:
        """As :meth:`_ask_device`, where the question has been asked."""
        answer = yield question
        return (yield from self._answer_engine(run, answer, question.address))

    def _answer_engine(self, run: Run, answer: IoAnswer, address: int) -> Course:
        if answer.native:  # the instruction is the hypervisor's own: nothing of it has been done
            self.engine.set_groups({})
            run.open_steps = 0
            return (yield from self.finish(run, DoneReason.HYPERVISOR, Exit(ExitReason.HYPERVISOR, address)))
        run.answered = True
        if answer.copied is not None:
            self.engine.answer(copied=answer.copied)
        else:
            self.engine.answer(b"" if answer.fault else answer.data, fault=answer.fault)
        return None

    def _acknowledge(self, run: Run) -> Generator[Io, IoAnswer, None]:
        """Ask for the vector of the pending external interrupt and have it delivered."""
        run.window = False
        answer = yield from self.ask(run, IoKind.INTERRUPT_ACK)
        if answer.data:
            self.engine.inject(EventType.EXTERNAL, answer.data[0])

    def _flush(self, run: Run, exchange_follows: bool) -> Generator[Io, IoAnswer, None]:
        """Deliver posted writes and pages now when they no longer fit, or have waited long enough."""
        report = run.report
        if report.empty:
            return
        self._note_places(run)
        if not exchange_follows and run.overdue(self._now):
            yield from self.ask(run, IoKind.REPORT)
        while report.full:
            yield from self.ask(run, IoKind.REPORT)

    def _note_places(self, run: Run) -> None:
        """Look up where the written pages are in RAM carried in messages, while the map they were written in exists."""
        used, pages = self.map, self._owner.pages
        run.report.note((lambda written: pages.places(used, written)) if used and pages.used else None)

    def _fetch(self, run: Run, paging: Generator[Want, None, bool]) -> Generator[Io, IoAnswer, bool]:
        """Ask for the wanted pages of RAM carried in messages, one after the other; return the result."""
        try:
            want = next(paging)
            while True:
                answer = yield from self.ask(
                    run, IoKind.MEMORY_READ, ram=want.block.number, address=want.offset, size=1, count=want.size
                )
                self._owner.pages.fill(want, answer.data)
                self._owner.pages_moved(self.number)
                self.take_map()
                want = next(paging)
        except StopIteration as end:
            return bool(end.value)

    def _patches(self, run: Run, kind: IoKind | None) -> Generator[Io, IoAnswer, tuple[list[schema.Patch], int]]:
        """Return, with its version, what the shim has to know of memory before a question, or ``done`` (None).

        All of it must reach the shim first: what does not fit goes ahead in reports.
        """
        report, pages = run.report, self._owner.pages
        if not pages.used:
            return [], 0
        if self._owner.several and kind not in (IoKind.REPORT, IoKind.MEMORY_READ):
            report.places |= pages.dirty()  # a device has to see what the other vCPUs have written, too
        if not report.places:
            return [], 0
        patches, version, report.places = pages.collect(report.places)
        while report.places and kind is not IoKind.REPORT:
            yield from self.ask(run, IoKind.REPORT, patches=patches, version=version)
            patches, version, report.places = pages.collect(report.places)
        return patches, version

    # ------------------------------------------------------------------------------------------ state

    def _submit(self, request: Emulate) -> Groups:
        """Set the engine to the state that a request submits, and return all its groups.

        Raises:
            ProtocolError: the base is not the last state, or the state cannot be (``unknown-base``, ``bad-state``).
        """
        given = request.state
        if request.base == 0:
            given = {**RESET, **given}
        elif request.base != self.last or not self.known:
            known = self.last if self.known else 0
            expected = f"{known}, or 0 with a whole state" if known else "0, with a whole state"
            raise ProtocolError(ErrorClass.UNKNOWN_BASE, f"base is {request.base}", expected, "base")
        control = given.get("control") or self.groups["control"]
        if control[_CR0 : _CR0 + 1] and request.until is not schema.Until.SVM_RAW and _paged_real(control[_CR0]):
            text = "cr0 has PG without PE, SVM's paged real mode"
            raise ProtocolError(ErrorClass.BAD_STATE, text, "until svm-raw for it, else PE with PG", "state")
        self.known = False  # a state that is refused half-way leaves no base behind
        try:
            if given:  # otherwise the engine still has it
                self.engine.set_groups(given)
            if request.inject is not None:
                event = request.inject
                error = event.error if event.has_error else None
                self.engine.inject(EventType(event.type), event.vector, error=error, length=event.length)
        except ValueError as error:
            raise ProtocolError(ErrorClass.BAD_STATE, str(error), "see the state table", "state") from None
        if not given:
            return self.groups
        old = RESET if request.base == 0 else self.groups
        return {group: given[group][: len(values)] if group in given else values for group, values in old.items()}

    def _shown_registers(self, made: Exit) -> list[int]:
        """Return the general registers for a question about a state port, else nothing.

        Devices at state ports read and change registers, as VMware's backdoor does.
        """
        state_ports = self._owner.state_ports
        if not state_ports or made.reason not in _PORTS:
            return []
        end = made.address + made.size
        if not any(made.address < ports.stop and ports.start < end for ports in state_ports):
            return []
        return self.engine.get_state().gpr

    def _set_registers(self, run: Run) -> None:
        """Set the registers that a state port's device has changed, now that the instruction is complete.

        What the instruction itself has changed (string I/O: RSI, RDI, RCX) counts where the device changed nothing; of
        RAX the part that IN writes is the data's.
        """
        assert run.registers is not None
        (before, after, asked), run.registers = run.registers, None
        state = self.engine.get_state()
        own = (1 << 8 * asked.size) - 1 if asked.reason is ExitReason.PORT_IN and asked.count == 1 else 0
        for at, (old, new) in enumerate(zip(before, after, strict=False)):
            if new != old:
                keep = own if at == Gpr.AX else 0
                state.gpr[at] = new & ~keep | state.gpr[at] & keep
        self.engine.set_state(state)

    # ------------------------------------------------------------------------------------------ what goes out

    def _end(self, run: Run, answer: Done | Error) -> Outgoing:
        if self._course is not None:
            self._course.close()
        self.at, self.run, self._course = At.IDLE, None, None
        self.counters.steps += run.report.steps
        self.counters.instructions += run.report.instructions
        self.last, self.record = run.request.seq, answer
        return self._reply(answer)

    def _failure(self, seq: int, error: ErrorClass, text: str) -> Error:
        refusal = ProtocolError(error, text, "a whole state with the next run")
        return refusal.message(seq=seq, session=self._owner.number, vcpu=self.number)

    def _reply(self, message: Message) -> Outgoing:
        """Return a message for the socket of the newest epoch."""
        message.epoch = self.epoch  # type: ignore[attr-defined]
        return self.peer, message


def _paged_real(cr0: int | bytes) -> bool:
    """Return whether CR0 has PG without PE, as only a hypervisor can make it (APM vol. 2, 15.19)."""
    return isinstance(cr0, int) and cr0 & (Cr0.PG | Cr0.PE) == Cr0.PG


def _difference(old: Groups, new: Groups) -> Groups:
    """Return the groups of ``new`` that differ from ``old``."""
    return {group: values for group, values in new.items() if values is not old[group] and values != old[group]}


def _failing(state: State, until: schema.Until) -> list[schema.Failing]:
    """Return the entry rules of ``until`` that a state breaks."""
    from dm.machine import rules  # compiles its conditions: only for those who ask

    policy = rules.POLICIES[until]
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


def _check_answer(question: Io, answer: IoAnswer) -> None:
    """Refuse an answer that does not fit its question."""
    wanted = question.size * question.count if question.kind in _READS and not answer.native else 0
    if question.kind is IoKind.INTERRUPT_ACK:
        wanted = min(len(answer.data), 1)
    if answer.native and question.kind not in _ACCESSES:
        raise ProtocolError(
            ErrorClass.BAD_ANSWER, f"native answers {question.kind}", "only for ports, MMIO and MSRs", "native"
        )
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
