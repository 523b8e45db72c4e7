"""One vCPU of a session: its thread, and what the worker's other threads may want of it.

The thread binds the endpoint and is the only one to touch it (a ZeroMQ socket never changes thread).  It runs the
engine in slices of under half a millisecond and looks at its socket between slices, so a ``kick`` of the shim needs no
second socket and no second thread.  Other threads of the worker reach it through :meth:`Vcpu.close` and the like:
they queue a call, stop a running engine with ``Engine.kick`` and wake an idle thread through an eventfd
(:mod:`dm.server.vcpu.calls`).

This module and those it is made of are the one full description of what a vCPU does:

* :mod:`dm.server.vcpu.router`: the socket;
* :mod:`dm.server.vcpu.inbox`: what comes in, the shim's messages above all, checked and acted upon;
* :mod:`dm.server.vcpu.processor`: engine, state and memory map, as one run leaves them to the next;
* :mod:`dm.server.vcpu.run`: the bookkeeping of a run;
* :mod:`dm.server.vcpu.execution`: how a run is carried out, with :mod:`dm.server.vcpu.conversation` (questions
  and ``done``), :mod:`dm.server.vcpu.paging` (memory by messages) and :mod:`dm.server.vcpu.state_ports`.

The usual part of it is made in C where that is built (:mod:`dm.server.vcpu.exchange`): the thread leaves the vCPU to
it, and comes back here with whatever is unusual (:mod:`dm.server.vcpu.border`).
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Final

import zmq

from dm.engine.api import Engine
from dm.protocol import schema
from dm.protocol.schema import Stop
from dm.server.run_table import RunTable
from dm.server.vcpu import exchange
from dm.server.vcpu.border import Border
from dm.server.vcpu.calls import Calls
from dm.server.vcpu.endpoint import Endpoint
from dm.server.vcpu.execution import Execution
from dm.server.vcpu.inbox import Inbox
from dm.server.vcpu.processor import RESET, Owner, Processor
from dm.server.vcpu.router import Router
from dm.server.vcpu.run import MOST_STEPS, POSTED_NS, SLICE_NS

#: An orderly quit waits so long for the answer of an open question, in seconds.
_GRACE: Final = 2.0
#: After an orderly end requests are refused for so long, in seconds: a shim that has sent one before it heard of that
#: must be able to tell that nothing of it has run.
_GOODBYE: Final = 0.25


class Vcpu:
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
        """``endpoint`` is where the endpoint goes, ``runs`` where they are noted.

        ``in_c`` False: all exchanges are made in Python, as with an engine that is not native.
        """
        self.number = number
        self._endpoint, self._engine, self._runs = endpoint, engine, runs
        self._bound = threading.Event()
        self._bind_error: Exception | None = None
        self._exchange: exchange.Exchange | None = None
        if in_c and engine.name == "native" and exchange.status()[0]:
            self._exchange = exchange.Exchange(engine, owner.number, number, runs, RESET)
        self._calls = Calls(engine, self._exchange)
        # of the thread alone from here on
        self._processor = processor = Processor(owner, number, engine)
        self._router = router = Router(context, endpoint, self._calls.wake, processor.counters, owner.secret)
        self._inbox = inbox = Inbox(processor, self._calls, router)
        self._border: Border | None = None
        if self._exchange is not None:
            self._border = Border(self._exchange, processor, self._calls, router, inbox)
        self._execution = Execution(processor, self._calls, router, inbox, self._border)
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
        self._calls.put(self._do_close)

    def abort(self) -> None:
        """End at once: a run ends with error ``aborted``."""
        self._calls.put(self._do_abort)

    def pause(self, paused: bool) -> threading.Event:
        """Hold runs at their next slice, or let them go on; the event is set once that is so."""
        done = threading.Event()
        if not self._calls.put(lambda: self._do_pause(paused, done)):
            done.set()
        return done

    def new_map(self) -> None:
        """Take up the session's current memory map."""
        self._calls.put(self._processor.take_map)

    @property
    def counters(self) -> schema.VcpuCounters:
        """What it has done since it was created."""
        counted, c = replace(self._processor.counters), self._exchange and self._exchange.c.counters
        if c:
            for name in ("requests", "io", "instructions", "steps", "bytes_in", "bytes_out"):
                setattr(counted, name, getattr(counted, name) + getattr(c, name))
        return counted

    @property
    def doing(self) -> str:
        """What it is doing: ``idle`` (the shim has it), ``running``, ``waiting`` (for an answer) or ``lost``."""
        run = self._processor.run
        if self._calls.ended:
            return "lost"
        if self._exchange is not None and self._exchange.inside:
            return ("idle", "running", "waiting")[self._exchange.c.state]
        return "idle" if run is None else "running" if run.question is None else "waiting"

    # ------------------------------------------------------------------------------------------ the thread

    def _main(self) -> None:
        processor = self._processor
        try:
            try:
                self._bind()
            except Exception as error:
                self._bind_error = error
                return
            finally:
                self._bound.set()
            while processor.run is not None or not (processor.gone or processor.closing):
                if processor.run is None:
                    self._idle()
                if processor.run is not None:
                    self._note(True)
                    self._execution.serve(processor.run)
                    self._note(processor.run is not None)
            self._refuse_late()
        finally:
            self._calls.end()
            self._router.close(linger=200 if processor.gone else 2000)
            self._engine.close()

    def _bind(self) -> None:
        self._router.bind()
        if self._exchange is not None:
            self._exchange.attach(self._router.socket, self._calls.wake, SLICE_NS, MOST_STEPS, POSTED_NS)

    def _idle(self) -> None:
        """Wait for a request, or something else to do."""
        if self._border is None or self._processor.paused or self._processor.owner.pages.used:
            self._inbox.attend(None)
        else:
            self._border.leave_to_c(None)

    def _note(self, running: bool) -> None:
        if self._runs is not None:
            self._runs.set(self.number, running)

    def _refuse_late(self) -> None:
        end = time.monotonic() + _GOODBYE
        while not self._processor.gone and (left := end - time.monotonic()) > 0:
            self._inbox.attend(int(left * 1000) + 1)

    def _do_close(self) -> None:
        processor = self._processor
        processor.closing = True
        processor.give_up_at = time.monotonic() + _GRACE
        if processor.run is not None and processor.run.stop is Stop.NONE:
            processor.run.stop = Stop.KICK

    def _do_abort(self) -> None:
        self._processor.gone = True

    def _do_pause(self, paused: bool, done: threading.Event) -> None:
        self._processor.paused = paused
        done.set()
