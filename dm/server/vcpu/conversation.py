"""What a run says to the shim and hears from it: questions, answers, reports, and ``done``."""

from __future__ import annotations

import logging
import time
from typing import Any

from dm.engine.api import Exit
from dm.machine.state import State
from dm.protocol import codec, schema
from dm.protocol.schema import Done, DoneReason, Groups, Io, IoAnswer, IoKind, Stop
from dm.server.log import Sparse
from dm.server.memory import guard
from dm.server.vcpu.inbox import Inbox
from dm.server.vcpu.processor import Processor
from dm.server.vcpu.router import Router
from dm.server.vcpu.run import Run

_log = logging.getLogger(__name__)


class Gone(Exception):
    """The vCPU is being destroyed and leaves its run."""


class Conversation:
    """Asks the shim on behalf of one vCPU's runs."""

    def __init__(self, processor: Processor, inbox: Inbox, router: Router) -> None:
        self._processor, self._owner, self._inbox, self._router = processor, processor.owner, inbox, router
        self._sparse = Sparse()

    def ask(self, run: Run, kind: IoKind, **what: Any) -> IoAnswer:
        """Send a question and wait for its answer; raises as :meth:`wait` does."""
        processor = self._processor
        if "patches" not in what:
            what["patches"], what["version"] = self._patches(run, kind)
        posted, pages, flush = run.report.take()
        checkpoint = _difference(run.before, processor.engine.get_groups()) if run.request.checkpoint else None
        run.questions += 1
        processor.counters.io += 1
        run.question = Io(
            session=self._owner.number,
            vcpu=processor.number,
            epoch=self._router.epoch,
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
        self._router.reply(run.question)
        return self.wait(run)

    def wait(self, run: Run) -> IoAnswer:
        """Wait for the answer to the open question.

        Raises:
            Gone: the vCPU is destroyed, or an orderly end has waited long enough.
        """
        processor = self._processor
        while run.answer is None:
            left = None if processor.give_up_at is None else int((processor.give_up_at - time.monotonic()) * 1000)
            if processor.gone or (left is not None and left <= 0):
                raise Gone
            self._inbox.attend(left)
        answer, run.question, run.exchanged = run.answer, None, time.monotonic_ns()
        processor.take_map()
        if answer.window is not None:
            run.window = answer.window
        if answer.stop is not Stop.NONE:
            run.stop = answer.stop
        return answer

    def flush(self, run: Run, exchange_follows: bool) -> None:
        """Deliver posted writes and pages now when they no longer fit, or have waited long enough."""
        report = run.report
        if report.empty:
            return
        self.note_places(run)
        if run.overdue() and not exchange_follows:
            self.ask(run, IoKind.REPORT)
        while report.full:
            self.ask(run, IoKind.REPORT)

    def note_places(self, run: Run) -> None:
        """Look up where the pages written lie in memory by messages, while the map they were written in is there."""
        used, pages = self._processor.map, self._owner.pages
        run.report.note((lambda written: pages.places(used, written)) if used and pages.used else None)

    def _patches(self, run: Run, kind: IoKind | None) -> tuple[list[schema.Patch], int]:
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
            self.ask(run, IoKind.REPORT, patches=patches, version=version)
            patches, version, report.places = pages.collect(report.places)
        return patches, version

    def done(self, run: Run, reason: DoneReason, result: Exit | None = None) -> Done:
        """Return the end of a run; its state is the base of the next from now on."""
        self.flush(run, True)
        patches, version = self._patches(run, None)
        posted, pages, flush = run.report.take()
        processor = self._processor
        processor.known, processor.groups = True, processor.engine.get_groups()
        detail = result.detail if result is not None else guard.lost()
        if reason is DoneReason.UNSUPPORTED and (held := self._sparse()) is not None:
            state = processor.engine.get_state()
            place = f"{state.cs.selector:04x}:{state.rip:x}"
            _log.info("vCPU %d: unsupported at %s: %s%s", processor.number, place, detail, held)
        return Done(
            session=self._owner.number,
            vcpu=processor.number,
            epoch=self._router.epoch,
            seq=run.request.seq,
            reason=reason,
            stop=run.stop,
            address=result.address if result is not None else 0,
            detail=codec.clip(detail, 512) if detail else "",
            state=_difference(run.before, processor.groups),
            instructions=run.report.instructions,
            steps=run.report.steps,
            posted=posted,
            pages=pages,
            tlb_flush=flush,
            failing=_failing(processor.engine.get_state(), run.request.until) if run.request.explain else [],
            closing=processor.closing,
            patches=patches,
            version=version,
            fault=result.error if result is not None else 0,
        )


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
