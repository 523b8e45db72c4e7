"""The border between a vCPU's exchanges in Python and those in C: runs cross it, to and fro, at any boundary."""

from __future__ import annotations

from typing import Final, cast

from dm.protocol import codec, schema
from dm.protocol.schema import Emulate, Io, Reason, Stop
from dm.server.vcpu.calls import Calls
from dm.server.vcpu.exchange import At, Exchange, News
from dm.server.vcpu.inbox import Inbox
from dm.server.vcpu.processor import Processor
from dm.server.vcpu.router import Router
from dm.server.vcpu.run import Run

_REASONS: Final = list(Reason)
_STOPS: Final = list(Stop)
_UNTIL_WORDS: Final = list(schema.UntilWord)


class Border:
    """Leaves one vCPU to its exchange in C."""

    def __init__(self, exchange: Exchange, processor: Processor, calls: Calls, router: Router, inbox: Inbox) -> None:
        self._exchange, self._processor = exchange, processor
        self._calls, self._router, self._inbox = calls, router, inbox

    def is_usual(self, run: Run) -> bool:
        """Return whether the exchange in C can take this run up where it is."""
        return (
            not self._processor.closing
            and not self._processor.owner.pages.used
            and run.registers is None
            and not run.report.waiting
            and len(run.report.pages) <= self._exchange.c.most_pages
        )

    def leave_to_c(self, run: Run | None) -> None:
        """Leave the vCPU to C, with a run or without, until there is something unusual, and see to that.

        A run may have ended there, and another may have begun.
        """
        processor, x = self._processor, self._exchange
        c = x.c
        processor.take_map()
        c.generation = processor.map.generation if processor.map is not None else 0
        c.epoch, c.last, c.known = self._router.epoch, processor.last, processor.known
        c.slice = processor.slice.steps
        c.peer, c.peer_size = self._router.peer, len(self._router.peer)
        c.record_size = 0
        x.state_ports(processor.owner.state_ports)
        c.state = At.IDLE
        if run is not None:
            c.state = At.BOUNDARY
            _run_to_c(run, x)
        news = x.serve()
        processor.last, processor.known, processor.slice.steps = c.last, bool(c.known), c.slice
        state = At(c.state)
        is_open = news is News.EXIT or state is At.WAITING
        made = x.engine.follow(x.exit_address() if is_open else None)
        if c.record_size:
            processor.record = x.read(c.record, c.record_size)
            if processor.known:
                processor.groups = x.engine.get_groups()
        if state is At.IDLE:
            processor.run = None
        else:
            if run is None or c.record_size:
                request = cast(Emulate, codec.decode(x.read(c.request, c.request_size)))
                run = processor.run = Run(request, x.before())
            _run_from_c(run, x)
            if news is News.EXIT and made is not None:
                run.exit = made
                run.report.add(made)
            if state is At.WAITING:
                run.question = cast(Io, codec.decode(x.read(c.question, c.question_size)))
                run.answer = None
        self._see_to(news)

    def _see_to(self, news: News) -> None:
        """See to what C has left; an exit and an end are the run's own business (:mod:`dm.server.vcpu.execution`)."""
        x, processor = self._exchange, self._processor
        router, inbox = self._router, self._inbox
        match news:
            case News.CALLS:
                self._calls.quiet()
                self._calls.carry_out()
            case News.MESSAGE:
                identity, data = x.read(x.c.identity, x.c.identity_size), x.read(x.c.message, x.c.message_size)
                inbox.handle(identity, data, x.c.parts)
                if processor.run is not None and processor.run.question is None:
                    inbox.look()
            case News.UNSENT:
                name = "done" if processor.run is None else "io"
                router.send_bytes(router.peer, x.read(x.c.unsent, x.c.unsent_size), name)
            case News.ERROR:
                router.news()  # it is told of here
                inbox.take_message()
            case _:
                pass


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
    c.ran_ns, c.exchanged_ns, c.open_steps = run.ran_ns, run.exchanged, run.open_steps
    c.window, c.stop, c.questions = run.window, _STOPS.index(run.stop), run.questions
    c.must_progress = run.must_progress


def _run_from_c(run: Run, x: Exchange) -> None:
    """Take a run back from C."""
    c, report = x.c.run, run.report
    run.in_c = True
    report.steps, report.instructions, report.tlb_flush = c.steps, c.instructions, bool(c.tlb_flush)
    report.pages.clear()
    report.touch(x.pages())
    run.ran_ns, run.exchanged, run.open_steps = c.ran_ns, c.exchanged_ns, c.open_steps
    run.window, run.stop, run.questions = bool(c.window), _STOPS[c.stop], c.questions
