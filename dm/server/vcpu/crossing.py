"""How a vCPU goes from its state machine in Python to the one in C and back: at any boundary, with a run or without."""

from __future__ import annotations

from typing import Final, cast

from dm.protocol import codec, schema
from dm.protocol.schema import Emulate, Io, Reason, Stop
from dm.server.vcpu.core import At, Core, Owner
from dm.server.vcpu.exchange import Cause, Exchange
from dm.server.vcpu.run import Run

_REASONS: Final = list(Reason)
_STOPS: Final = list(Stop)
_UNTIL_WORDS: Final = list(schema.Until)


class Crossing:
    """Moves one vCPU between Python and C."""

    def __init__(self, core: Core, owner: Owner, exchange: Exchange) -> None:
        self.exchange = exchange
        self._core, self._owner = core, owner

    def is_usual(self) -> bool:
        """Return whether C can continue the run from where it is."""
        core, run = self._core, self._core.run
        return (
            run is not None
            and run.exit is None
            and not core.closing
            and not self._owner.pages.used
            and run.registers is None
            and not run.report.waiting
            and len(run.report.pages) <= self.exchange.c.most_pages
        )

    def cross(self) -> Cause:
        """Run the vCPU in C until there is something unusual; return what that is, not yet handled.

        A run may have ended there, and another may have begun.
        """
        core, x, run = self._core, self.exchange, self._core.run
        c = x.c
        core.take_map()
        c.generation = core.map.generation if core.map is not None else 0
        c.epoch, c.last, c.known = core.epoch, core.last, core.known
        c.slice = core.slice.steps
        c.peer, c.peer_size = core.peer, len(core.peer)
        c.record_size = 0
        x.state_ports(self._owner.state_ports)
        c.state = core.at
        if run is not None:
            _run_to_c(run, x)
        cause = x.serve()
        core.last, core.known, core.slice.steps = c.last, bool(c.known), c.slice
        state = At(c.state)
        made = x.engine.follow(x.exit_address() if cause is Cause.EXIT or state is At.WAITING else None)
        if c.record_size:
            core.record = x.read(c.record, c.record_size)
            if core.known:
                core.groups = x.engine.get_groups()
        question = None
        if state is At.IDLE:
            run = None
        else:
            if run is None or c.record_size:
                run = Run(cast(Emulate, codec.decode(x.read(c.request, c.request_size))), x.before(), 0)
            _run_from_c(run, x)
            if cause is Cause.EXIT and made is not None:
                run.exit = made
                run.report.add(made)
            if state is At.WAITING:
                question = cast(Io, codec.decode(x.read(c.question, c.question_size)))
        core.resume(run, question)
        return cause


def _run_to_c(run: Run, x: Exchange) -> None:
    """Give a run to C."""
    c, request, report = x.c.run, run.request, run.report
    if not run.in_c:
        run.in_c = True
        x.set_before(run.before)
        c.seq, c.reason, c.until = request.seq, _REASONS.index(request.reason), _UNTIL_WORDS.index(request.until)
        c.has_most_steps, c.most_steps = request.steps is not None, request.steps or 0
        c.has_microseconds, c.microseconds = request.microseconds is not None, request.microseconds or 0
        c.has_mmio, c.mmio = request.mmio is not None, request.mmio or 0
        c.has_stop_at, c.stop_at = request.stop_at is not None, request.stop_at or 0
        c.acknowledge, c.explain, c.checkpoint = request.acknowledge, request.explain, request.checkpoint
        c.code_size, c.code = len(request.code), request.code
    c.steps, c.instructions, c.tlb_flush = report.steps, report.instructions, report.tlb_flush
    x.set_pages(report.pages)
    c.ran_ns, c.exchanged_ns, c.open_steps = run.ran_ns, run.exchanged_ns, run.open_steps
    c.window, c.stop, c.questions = run.window, _STOPS.index(run.stop), run.questions
    c.must_progress, c.answered = run.must_progress, run.answered


def _run_from_c(run: Run, x: Exchange) -> None:
    """Take a run back from C."""
    c, report = x.c.run, run.report
    run.in_c = True
    report.steps, report.instructions, report.tlb_flush = c.steps, c.instructions, bool(c.tlb_flush)
    report.pages.clear()
    report.touch(x.pages())
    run.ran_ns, run.exchanged_ns, run.open_steps = c.ran_ns, c.exchanged_ns, c.open_steps
    run.window, run.stop, run.questions = bool(c.window), _STOPS[c.stop], c.questions
    run.answered = bool(c.answered)
