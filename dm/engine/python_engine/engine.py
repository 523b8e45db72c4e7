"""The run loop: instructions, events and boundaries of one vCPU."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from dm.engine.api import FREELY, CpuConfig, Exit, ExitReason, Groups, MemoryMap, RunRequest, check_copied
from dm.engine.python_engine.cells import M32, Saved
from dm.engine.python_engine.fetch import Fetcher, InsnRecord
from dm.engine.python_engine.guest_memory import GuestMemory
from dm.engine.python_engine.machine import Machine
from dm.engine.python_engine.signals import (
    Again,
    Fault,
    FirmwareReached,
    Hypervisor,
    Mismatch,
    NeedExact,
    PagedRealModeFault,
    Question,
    Unsupported,
)
from dm.engine.python_engine.translate import CHECKPOINT, NEXT_SEGMENT, REPEAT, RULES, TRANSFER
from dm.isa.mechanisms.boundary import EVENT, HALTED, SHUTDOWN, WAIT_FOR_SIPI, WINDOW
from dm.machine.architecture import Eflags
from dm.machine.rules import POLICIES, Policy
from dm.machine.state import GROUPS, Activity, EventType, State, checked, get_group, update

#: Steps between two looks at the kick.
CHUNK: Final = 256
#: Posted writes and written pages that one report holds; a run with more ends as if kicked.
MOST_POSTED: Final = 512
MOST_WRITTEN: Final = 12288
#: Attempts at an instruction with a locked operand that another CPU keeps changing.
MOST_ATTEMPTS: Final = 10000
#: Consecutive deliveries that may fault before a step is charged: #AC while #AC is delivered would never end.
MOST_DELIVERIES: Final = 8
_RF: Final = int(Eflags.RF)
_NONE: Final = int(EventType.NONE)

_ENDS: Final = {
    HALTED: ExitReason.HALT,
    WAIT_FOR_SIPI: ExitReason.HALT,
    SHUTDOWN: ExitReason.SHUTDOWN,
    WINDOW: ExitReason.INTERRUPT_WINDOW,
}


@dataclass(slots=True)
class _Open:
    """What a question has interrupted: the delivery of an event, or an instruction (None until it is fetched)."""

    question: Question
    delivery: bool
    insn: InsnRecord | None
    code: bytes
    answered: bool = False


class PythonEngine:
    """See :class:`dm.engine.api.Engine`."""

    name = "python"

    def __init__(self, config: CpuConfig | None = None) -> None:
        RULES.prepare()
        self._cpu = Machine(config or CpuConfig())
        self._fetcher = Fetcher(self._cpu)
        self._cpu.on_flush = self._fetcher.forget
        self._open: _Open | None = None
        self._kicked = False
        self._closed = False
        self._steps = self._instructions = 0
        self._progressed = self._prepaid = False
        # The request's conditions on the first instruction.
        self._code = b""
        self._mmio: int | None = None
        self._stop_at: int | None = None
        self._look = True
        self._insn: InsnRecord | None = None
        self._last_fault = Fault("", 0, 0)
        #: The last thing done was the delivery of an event, in this run or the one before.
        self._after_event = False

    # state

    def get_state(self) -> State:
        """Return the architectural state; after a question, as it was before the interrupted instruction."""
        self._alive()
        return self._cpu.store_state()

    def set_state(self, state: State) -> None:
        """Replace the architectural state; abandons an interrupted instruction.

        Raises:
            ValueError: a value does not fit its width (state unchanged).
        """
        self._alive()
        checked(state)
        self._abandon()
        self._after_event = False
        self._cpu.load_state(state)
        self._cpu.forget_translations()
        self._cpu.derive()

    def get_groups(self) -> Groups:
        """Return the same as :meth:`get_state`, as lists by group."""
        state = self.get_state()
        return {group: get_group(state, group) for group in GROUPS}

    def set_groups(self, delta: Groups) -> None:
        """Replace the groups in ``delta``; abandons an interrupted instruction.

        Raises:
            ValueError: values are missing, or one does not fit its width (state unchanged).
        """
        state = self.get_state()
        update(state, delta)
        self.set_state(state)

    def inject(self, event: EventType, vector: int, *, error: int | None = None, length: int = 0) -> None:
        """Deliver this event before the next instruction.

        Raises:
            ValueError: an event is pending already, or a question is open.
        """
        self._alive()
        cpu = self._cpu
        if self._open is not None:
            raise ValueError("inject: a question is open; answer it and finish the instruction first")
        if event is EventType.NONE:
            raise ValueError("inject: event NONE cannot be injected")
        if cpu.inject_type != _NONE:
            raise ValueError(
                f"inject: an event is pending already (type {cpu.inject_type}, vector {cpu.inject_vector})"
            )
        for name, value, top in (("vector", vector, 0xFF), ("error", error or 0, M32), ("length", length, 0xFF)):
            if not 0 <= value <= top:
                raise ValueError(f"inject: {name} is {value}, 0 to {top} is needed")
        cpu.inject_type, cpu.inject_vector = int(EventType(event)), vector
        cpu.inject_has_error, cpu.inject_error = int(error is not None), error or 0
        cpu.inject_length = length
        cpu.inject_payload = cpu.inject_has_payload = 0
        self._after_event = False

    def set_map(self, memory: MemoryMap) -> None:
        """Replace the memory map, also between a question and its answer; takes effect at once."""
        self._alive()
        old = self._cpu.memory
        self._cpu.memory = GuestMemory(memory)
        self._cpu.forget_translations()
        self._fetcher.forget_decoded()
        old.close()

    def close(self) -> None:
        """Free everything; further calls raise ValueError."""
        if not self._closed:
            self.set_map(MemoryMap(0, ()))
            self._closed = True

    def kick(self) -> None:
        """Make a running or the next :meth:`run` end with ``kicked`` soon; callable from any thread."""
        self._alive()
        self._kicked = True

    def answer(self, data: bytes = b"", *, fault: bool = False, copied: int | None = None) -> None:
        """Answer the open question; see :meth:`dm.engine.api.Engine.answer`.

        Raises:
            ValueError: no question is open, or the length or the count is wrong.
        """
        self._alive()
        if self._open is None or self._open.answered:
            raise ValueError("answer: no question is open")
        question = self._open.question
        if fault:
            if question.reason not in (ExitReason.MSR_READ, ExitReason.MSR_WRITE):
                raise ValueError(f"answer: only an MSR access can be refused, not {question.reason}")
        elif len(data) != question.expected:
            raise ValueError(f"answer: {len(data)} bytes, {question.expected} are needed for {question.reason}")
        if copied is not None:
            check_copied(copied, question.reason, question.count)
        if question.reason is ExitReason.MEMORY_COPY:
            self._cpu.journal.answer_copy(question.count if copied is None else copied)
        else:
            self._cpu.journal.answer(bytes(data), fault)
        self._open.answered = True

    @property
    def last_fault(self) -> tuple[int, int, str, tuple[int, int, int]]:
        """The newest exception of an instruction: vector, error code, cause, its three operands; for tests, traces."""
        fault = self._last_fault
        return fault.vector, fault.error, fault.cause, fault.operands

    def _alive(self) -> None:
        if self._closed:
            raise ValueError("the engine is closed")

    def _abandon(self) -> None:
        self._open = None
        self._prepaid = False
        self._cpu.journal.clear()

    # running

    def run(self, request: RunRequest = FREELY) -> Exit:
        """Run guest code; see :meth:`dm.engine.api.Engine.run`.

        Raises:
            ValueError: a question is open.
        """
        self._alive()
        if self._open is not None and not self._open.answered:
            raise ValueError("run: a question is open; answer it first")
        cpu = self._cpu
        self._steps = self._instructions = 0
        self._progressed, self._prepaid = not request.progress, False
        self._look = True
        cpu.left = request.budget
        try:
            if self._open is not None:
                self._resume(self._open)
            self._code, self._mmio, self._stop_at = request.code, request.mmio, request.stop_at
            return self._boundaries(POLICIES[request.until], request.window)
        except Question as q:
            return self._exit(q.reason, q.address, q.size, q.count, q.data, down=q.down, target=q.target)
        except Unsupported as e:
            return self._exit(ExitReason.UNSUPPORTED, detail=e.what)
        except Hypervisor as e:
            return self._exit(ExitReason.HYPERVISOR, e.address, detail=e.what)
        except FirmwareReached as e:
            return self._exit(ExitReason.FIRMWARE, e.address)
        except Mismatch as e:
            return self._exit(ExitReason.MMIO_MISMATCH, e.address)
        except PagedRealModeFault as e:
            return self._exit(ExitReason.PAGE_FAULT, e.address, error=e.error)

    def _exit(
        self,
        reason: ExitReason,
        address: int = 0,
        size: int = 0,
        count: int = 1,
        data: bytes = b"",
        detail: str = "",
        down: bool = False,
        error: int = 0,
        target: int = 0,
    ) -> Exit:
        cpu = self._cpu
        made = Exit(
            reason,
            address=address,
            size=size,
            count=count,
            data=data,
            down=down,
            detail=detail,
            steps=self._steps,
            instructions=self._instructions,
            posted=tuple(cpu.posted),
            pages=tuple(sorted(cpu.written)),
            tlb_flush=cpu.flushed,
            error=error,
            target=target,
        )
        cpu.posted.clear()
        cpu.written.clear()
        cpu.flushed = False
        cpu.forget_writable()
        return made

    def _boundaries(self, policy: Policy, window: bool) -> Exit:
        """Go from boundary to boundary until the run ends."""
        cpu = self._cpu
        enterable, boundary = RULES.enterable, RULES.boundary
        while True:
            look = self._look = self._look or self._single()
            if look:
                cpu.refresh()
                if policy and self._progressed and enterable(cpu, policy):
                    return self._exit(ExitReason.ENTERABLE)
            if self._kicked:
                self._kicked = False
                return self._exit(ExitReason.KICKED)
            if len(cpu.posted) > MOST_POSTED or len(cpu.written) > MOST_WRITTEN:
                return self._exit(ExitReason.KICKED)  # the report is full
            if cpu.left <= 0:
                return self._exit(ExitReason.BUDGET)
            if look:
                self._look = False
                what = boundary(cpu, int(window))
                if what == EVENT:
                    if self._after_event:
                        self._charge(1, 0)  # two events in a row: an endless sequence must use up the budget
                    self._after_event = True
                    self._deliver()
                    continue
                if what in _ENDS:
                    return self._exit(_ENDS[what])
            if self._stop_at is not None and self._progressed and self._linear() == self._stop_at:
                return self._exit(ExitReason.DEBUG)
            if self._single() or (policy is not None and not self._progressed):
                self._step(None)
                self._look = True
            elif self._code or self._mmio is not None:
                self._step(None)
            else:
                self._stretch()

    def _linear(self) -> int:
        """Return the linear address of the next instruction."""
        return int(RULES.code_linear(self._cpu, self._cpu.eip))

    def _single(self) -> bool:
        """Whether every boundary must be looked at."""
        return bool(RULES.watched(self._cpu)) or self._stop_at is not None

    def _charge(self, steps: int, instructions: int) -> None:
        if not self._prepaid:  # otherwise it belongs to the run that asked
            self._cpu.left -= steps
        self._prepaid = False
        self._steps += steps
        self._instructions += instructions
        self._progressed = True
        self._after_event = False
        self._code, self._mmio = b"", None

    def _stretch(self) -> None:
        """Run plain instructions in line, up to a checkpoint or the end of a chunk."""
        cpu = self._cpu
        insns = self._fetcher.context()
        fetch = self._fetcher.fetch
        find = insns.get
        start = left = min(cpu.left, CHUNK)
        finished = 0
        eip = cpu.eip
        rf = cpu.flags & _RF
        cpu.flags ^= rf  # the first instruction that completes clears it
        i: InsnRecord | None = None
        try:
            while left > 0:
                i = find(eip)
                if i is None or i.memory[i.start : i.end] != i.raw:
                    if cpu.flags & _RF:
                        break  # a repeated instruction has overwritten itself
                    cpu.eip, i = eip, None
                    i = fetch(eip)
                if i.exact:
                    raise NeedExact
                cpu.eip = eip
                result = i.run(cpu, i)
                if result is None:
                    eip = i.next_eip
                elif result >= 0:
                    eip = result
                elif result == REPEAT:
                    left -= cpu.repeated
                    finished -= cpu.repeated
                    continue
                else:
                    left -= 1
                    if result in (CHECKPOINT, TRANSFER):
                        eip = cpu.eip
                        RULES.retire(cpu)
                    else:
                        eip = i.next_eip
                    self._look = True
                    break
                left -= 1
        except NeedExact:
            self._account(start - left, finished, eip, rf)
            self._step(i)
        except Fault as fault:
            self._account(start - left, finished, eip, rf)
            self._fault(fault)
        except (Unsupported, Hypervisor):
            self._account(start - left, finished, eip, rf)
            raise
        else:
            self._account(start - left, finished, eip, rf)

    def _account(self, steps: int, repeated: int, eip: int, rf: int) -> None:
        self._cpu.eip = eip
        if steps:
            self._charge(steps, steps + repeated)
        else:
            self._cpu.flags |= rf

    # exact mode

    def _step(self, insn: InsnRecord | None) -> None:
        """Run one instruction, or REP iteration, in exact mode as a transaction."""
        cpu = self._cpu
        if insn is None and not self._code and not cpu.journal.entries:
            with contextlib.suppress(NeedExact):
                insn = self._fetcher.fetch(cpu.eip)
        self._insn = insn
        try:
            result = self._transact(False)
        except Fault as fault:
            self._fault(fault)
            return
        RULES.retire(cpu)
        if result == REPEAT:
            self._charge(cpu.repeated, 0)
        else:
            self._charge(cpu.moved, 1)
            self._look = self._look or result in (CHECKPOINT, TRANSFER, NEXT_SEGMENT)

    def _fault(self, fault: Fault) -> None:
        """Account for an instruction that has faulted: a step; its exception is delivered before anything else."""
        if self._mmio is not None:
            raise Mismatch
        self._look = True
        self._refuse(fault)
        self._charge(1, 0)
        self._raise(fault)
        self._deliver()

    def _instruction(self) -> int | None:
        cpu = self._cpu
        eip = cpu.eip
        cpu.moved = 1
        by_branch = RULES.begin_instruction(cpu)
        insn = self._insn or self._fetcher.fetch_exact(eip, self._code)
        cpu.insn_end = insn.next_eip
        result = insn.run(cpu, insn)
        if by_branch and result is not None and (result >= 0 or result == TRANSFER):
            RULES.branch_taken(cpu)
        if result is None:
            cpu.eip = insn.next_eip
        elif result >= 0:
            cpu.eip = result
        elif result not in (CHECKPOINT, TRANSFER, REPEAT):
            cpu.eip = insn.next_eip
        return result

    def _delivery(self) -> int | None:
        self._cpu.delivering = 1
        RULES.deliver(self._cpu)
        return CHECKPOINT

    def _transact(self, delivery: bool) -> int | None:
        """Run an instruction or a delivery with the journal; on anything but success all cells are as before."""
        cpu = self._cpu
        before = cpu.save()
        question = False
        try:
            for _ in range(MOST_ATTEMPTS):
                cpu.saved = before
                cpu.journal.mmio = None if delivery else self._mmio
                cpu.begin_exact()
                fault: Fault | None = None
                try:
                    try:
                        result = self._delivery() if delivery else self._instruction()
                    except Fault as raised:
                        if not cpu.keeping:
                            raise
                        fault, result = raised, None
                    cpu.journal.commit(cpu.memory, cpu.written, cpu.posted)
                except Again:
                    self._undo(before)
                    continue
                if fault is None:
                    return result
                cpu.saved = cpu.with_registers(before)
                raise fault
            raise Unsupported("TOO_MANY_ACCESSES")
        except Question as asked:
            question = True
            self._open = _Open(asked, delivery, self._insn, self._code)
            self._undo(before)
            raise
        except Fault:
            self._undo(cpu.saved)
            raise
        except (Unsupported, Hypervisor, FirmwareReached, Mismatch):
            self._undo(before)
            raise
        finally:
            cpu.end_exact()
            if not question:
                cpu.journal.clear()

    def _undo(self, saved: Saved) -> None:
        cpu = self._cpu
        cpu.restore(saved)
        cpu.derive()

    def _deliver(self) -> None:
        """Deliver the event in INJECT_*; a fault during delivery is combined with it, and the result is delivered."""
        cpu = self._cpu
        self._insn = None
        self._look = True
        try:
            for _ in range(MOST_DELIVERIES):
                try:
                    self._transact(True)
                except Fault as fault:
                    self._refuse(fault)
                    self._raise(fault)
                    if cpu.activity != Activity.SHUTDOWN:
                        continue
                self._progressed = True
                return
        finally:
            cpu.delivering = 0
        self._charge(1, 0)

    def _refuse(self, fault: Fault) -> None:
        """End the run at a fault that is the hypervisor's, which is not delivered."""
        if RULES.is_hypervisors(self._cpu, fault.vector):
            raise PagedRealModeFault(fault.operands[0], fault.error)

    def _raise(self, fault: Fault) -> None:
        self._last_fault = fault
        RULES.raise_exception(self._cpu, fault.vector, fault.error, fault.operands[0])

    def _resume(self, opened: _Open) -> None:
        """Finish what a question has interrupted."""
        self._open = None
        self._code, self._mmio = opened.code, None
        self._cpu.refresh()
        if opened.delivery:
            self._deliver()
        else:
            self._prepaid = True
            self._step(opened.insn)
