"""The bookkeeping of a run: what it has done, when it must end, how far the engine may run at once."""

from __future__ import annotations

from typing import Final

from dm.engine.api import Exit
from dm.protocol.schema import DoneReason, Emulate, Groups, Io, Reason, Stop
from dm.server.vcpu.report import RunReport

#: How long the engine runs between two checks of the socket, in nanoseconds.
SLICE_NS: Final = 400_000
#: Most steps of a slice: the next stretch may be much slower than the last.
MOST_STEPS: Final = 1 << 18
#: Posted writes wait no longer than this for an exchange, in nanoseconds.
POSTED_NS: Final = 20_000_000

_MUST_PROGRESS: Final = frozenset({Reason.FAILURE, Reason.INVALID_STATE, Reason.MMIO})


class Slice:
    """How many steps make a slice: adapts to the speed of the current guest code."""

    def __init__(self) -> None:
        self.steps = 1000

    def learn(self, steps: int, ns: int) -> None:
        """Adjust to a run of ``steps`` steps that took ``ns`` nanoseconds."""
        if steps < self.steps // 2 and ns < SLICE_NS:
            return  # it ended for another reason and tells little
        wanted = steps * SLICE_NS // max(ns, 1)
        self.steps = max(32, min(wanted, 4 * self.steps, MOST_STEPS))


class Run:
    """One ``emulate`` in progress."""

    def __init__(self, request: Emulate, before: Groups, now: int) -> None:
        """``before`` is the whole state that was submitted, ``now`` the time in nanoseconds."""
        self.request = request
        self.before = before
        self.report = RunReport()
        self.window = request.window
        self.stop = Stop.NONE
        self.question: Io | None = None
        self.questions = 0
        self.open_steps = 0  # that the open instruction will have taken once it is finished
        self.answered = False  # a device has answered the open instruction
        self.exit: Exit | None = None  # of the engine, which the same machine in C has left
        self.in_c = False  # the machine in C has the request and `before`
        self.must_progress = request.reason in _MUST_PROGRESS
        self.ran_ns = 0
        self.exchanged_ns = now  # when a message was last sent or received
        self.registers: tuple[list[int], list[int], Exit] | None = None  # asked, answered: of a state port

    def ending(self, open_steps: int = 0) -> DoneReason | None:
        """Return why the run must end at the next boundary, None while it may continue.

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

    def overdue(self, now: int) -> bool:
        """Return whether posted writes or changed memory have waited long enough for an exchange."""
        return self.report.waiting and now - self.exchanged_ns > POSTED_NS
