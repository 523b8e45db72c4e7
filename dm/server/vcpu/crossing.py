"""How a vCPU goes from its state machine in Python to the one in C and back: at any boundary, with a run or without."""

from __future__ import annotations

from typing import cast

from dm.protocol import codec
from dm.protocol.schema import Emulate, Io
from dm.server.vcpu.core import At, Core, Owner
from dm.server.vcpu.exchange import Cause, Exchange
from dm.server.vcpu.fields import RUN, VCPU, from_c, request_to_c, to_c
from dm.server.vcpu.run import Run


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
        to_c(VCPU, core, c.kept)
        c.peer, c.peer_size = core.peer, len(core.peer)
        c.record_size = 0
        x.state_ports(self._owner.state_ports)
        c.state = core.at
        if run is not None:
            if not run.in_c:
                request_to_c(run.request, c.run.request)
                x.set_before(run.before)
            to_c(RUN, run, c.run)
            x.set_pages(run.report.pages)
        cause = x.serve()
        from_c(VCPU, c.kept, core)
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
            run.in_c = True
            from_c(RUN, c.run, run)
            run.report.pages.clear()
            run.report.touch(x.pages())
            if cause is Cause.EXIT and made is not None:
                run.exit = made
                run.report.add(made)
            if state is At.WAITING:
                question = cast(Io, codec.decode(x.read(c.question, c.question_size)))
        core.resume(run, question)
        return cause
