"""How a request is carried out: the engine runs in slices, its questions are asked, and ``done`` is sent at the end."""

from __future__ import annotations

import logging
import time
from typing import Final

from dm.engine.api import QUESTIONS, Exit, ExitReason, RunRequest, Until
from dm.machine.state import EventType
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Done, DoneReason, Error, ErrorClass, IoAnswer, IoKind, Message, Reason, Stop
from dm.server.memory import guard
from dm.server.vcpu.border import Border
from dm.server.vcpu.calls import Calls
from dm.server.vcpu.conversation import Conversation, Gone
from dm.server.vcpu.inbox import Inbox
from dm.server.vcpu.paging import Paging
from dm.server.vcpu.processor import Processor
from dm.server.vcpu.router import Router
from dm.server.vcpu.run import Run
from dm.server.vcpu.state_ports import set_registers, shown_registers

_log = logging.getLogger(__name__)

#: Exits that may mean a page of memory by messages that is not here.
_BROUGHT_IN: Final = frozenset(
    {ExitReason.MMIO_READ, ExitReason.MMIO_WRITE, ExitReason.MMIO_MISMATCH, ExitReason.MEMORY_COPY}
)
_SLICE_OVER: Final = frozenset({ExitReason.BUDGET, ExitReason.KICKED})
_UNTIL: Final = {word: Until(str(word)) for word in schema.UntilWord}
_KINDS: Final = {reason: IoKind(str(reason)) for reason in QUESTIONS}
_ENDS: Final = {reason: DoneReason(str(reason)) for reason in ExitReason if reason not in QUESTIONS}


class Execution:
    """Carries out the runs of one vCPU; ``border`` is None where there is no exchange in C."""

    def __init__(self, processor: Processor, calls: Calls, router: Router, inbox: Inbox, border: Border | None) -> None:
        self._processor, self._owner, self._engine = processor, processor.owner, processor.engine
        self._calls, self._router, self._inbox, self._border = calls, router, inbox, border
        self._conversation = Conversation(processor, inbox, router)
        self._paging = Paging(processor, self._conversation)

    def serve(self, run: Run) -> None:
        """Carry out one request and send its answer."""
        processor = self._processor
        answer: Message | None
        try:
            processor.take_map()
            answer = self._execute(run)
            if answer is None:
                return
        except Gone:
            answer = self._failed(run, ErrorClass.ABORTED, "the run was given up in mid-flight")
        except Exception as error:
            _log.exception("session %d vCPU %d: run %d failed", self._owner.number, processor.number, run.request.seq)
            answer = self._failed(run, ErrorClass.INTERNAL, f"the engine failed: {type(error).__name__}: {error}")
        processor.counters.steps += run.report.steps
        processor.counters.instructions += run.report.instructions
        processor.run, processor.last, processor.record = None, run.request.seq, answer
        try:
            self._router.reply(answer)
        except ProtocolError as error:  # it does not fit the schema: the engine said something odd
            processor.known = False
            processor.record = answer = self._failed(run, ErrorClass.INTERNAL, f"the engine failed: {error}")
            self._router.reply(answer)

    def _failed(self, run: Run, error: ErrorClass, text: str) -> Error:
        refusal = ProtocolError(error, text, "a whole state with the next run")
        return refusal.message(seq=run.request.seq, session=self._owner.number, vcpu=self._processor.number)

    def _execute(self, run: Run) -> Done | None:
        """Carry out a request; returns None when its answer has been sent."""
        conversation, border = self._conversation, self._border
        self._hold(run)
        while True:
            result, run.exit = run.exit, None
            if result is None:
                if (question := run.question) is not None:  # of a device, sent already
                    answer = conversation.wait(run)
                    if answer.native:
                        return self._leave_native(run, question.address)
                    self._answer(answer)
                    self._hold(run)
                if not run.open_steps and (ending := run.ending()) is not None:
                    return conversation.done(run, ending)
                if self._owner.pages.used:
                    self._paging.bring_in_firmware(run)
                if not guard.lost():
                    if border is not None and border.is_usual(run):
                        border.leave_to_c(run)
                        if self._processor.run is not run:
                            return None
                        self._hold(run)
                        continue
                    result = self._step(run)
            if result is None or guard.lost():  # what ran since has seen memory that is not the guest's: ask nothing
                return conversation.done(run, DoneReason.MEMORY_LOST)
            reason = result.reason
            run.open_steps = result.count if reason in QUESTIONS else 0
            conversation.flush(run, run.open_steps > 0)
            if run.registers is not None and not run.open_steps:
                set_registers(self._engine, run)
            if reason in _BROUGHT_IN and self._paging.bring_in(run, result):
                pass
            elif run.open_steps:
                if (done := self._question(run, result)) is not None:
                    return done
            elif reason is ExitReason.INTERRUPT_WINDOW and run.request.acknowledge:
                self._acknowledge(run)
            elif reason not in _SLICE_OVER:
                return conversation.done(run, _ENDS[reason], result)
            elif run.ending() is None:
                self._inbox.look()
            self._hold(run)

    def _hold(self, run: Run) -> None:
        """Carry out queued calls; hold here while paused."""
        processor = self._processor
        self._calls.carry_out()
        while processor.paused and not processor.gone:
            if run.stop is not Stop.NONE:
                run.must_progress = False  # nothing runs while paused, not even that one instruction
                break
            self._inbox.attend(None)
        if processor.gone:
            raise Gone

    def _step(self, run: Run) -> Exit:
        """Run the engine for one slice."""
        request, open_steps, slice_ = run.request, run.open_steps, self._processor.slice
        first = run.report.steps == 0 and not open_steps
        # then only the open instruction is finished, whatever else could end the run
        last = open_steps > 0 and (run.registers is not None or run.ending(open_steps) is not None)
        slice_request = RunRequest(
            Until.NEVER if last else _UNTIL[request.until],
            0 if last else run.budget(slice_.steps, open_steps),
            progress=first and run.must_progress,  # an open one is progress already
            window=run.window and not last,
            mmio=request.mmio if first and request.reason is Reason.MMIO else None,
            code=request.code if first else b"",
            stop_at=None if last else request.stop_at,
        )
        started = time.perf_counter_ns()
        result = self._engine.run(slice_request)
        run.report.add(result)
        taken = time.perf_counter_ns() - started
        run.ran_ns += taken
        slice_.learn(result.steps, taken)
        return result

    def _question(self, run: Run, result: Exit) -> Done | None:
        """Ask the shim; returns the end of the run when the instruction is the hypervisor's own."""
        registers = shown_registers(self._engine, result, self._owner.state_ports)
        answer = self._conversation.ask(
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
        if answer.native:
            return self._leave_native(run, result.address)
        if answer.registers:
            run.registers = registers, answer.registers, result
        if result.reason is ExitReason.MEMORY_COPY:
            self._engine.answer(copied=answer.copied)
        else:
            self._answer(answer)
        return None

    def _leave_native(self, run: Run, address: int) -> Done:
        """Leave the open instruction to the hypervisor: as before it, nothing of it has been done."""
        self._engine.set_groups({})
        run.open_steps = 0
        return self._conversation.done(run, DoneReason.HYPERVISOR, Exit(ExitReason.HYPERVISOR, address))

    def _answer(self, answer: IoAnswer) -> None:
        self._engine.answer(b"" if answer.fault else answer.data, fault=answer.fault)

    def _acknowledge(self, run: Run) -> None:
        """Ask for the vector of the waiting external interrupt and have it delivered."""
        run.window = False
        answer = self._conversation.ask(run, IoKind.INTERRUPT_ACK)
        if answer.data:
            self._engine.inject(EventType.EXTERNAL, answer.data[0])
