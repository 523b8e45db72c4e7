"""The daemon as its QMP monitor sees it: :class:`dm.qmp.control.Control` over a :class:`Supervisor`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from dm.qmp import control
from dm.qmp.control import RunState, ShutdownCause
from dm.server.daemon.supervised import Listener, SupervisedSession
from dm.server.daemon.supervisor import NotAll, Supervisor


class DaemonMonitor(Listener):
    """Implements Control, and turns the supervisor's reports into events."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[control.ControlEvent], None]] = []
        self._supervisor: Supervisor
        self._turn = asyncio.Lock()  # stop and cont come one after the other

    def attach(self, supervisor: Supervisor) -> None:
        """Set the supervisor; before anything else."""
        self._supervisor = supervisor

    async def status(self) -> RunState:
        """Return the run state."""
        if self._supervisor.quitting:
            return RunState.SHUTDOWN
        is_stopping = self._turn.locked()  # not stopped before all are
        return RunState.PAUSED if self._supervisor.paused and not is_stopping else RunState.RUNNING

    async def stop(self) -> None:
        """Stop all guest code."""
        async with self._turn:
            if not self._supervisor.paused:
                await self._pause(True)
                self._emit(control.Stopped())

    async def cont(self) -> None:
        """Resume guest code."""
        async with self._turn:
            was_paused = self._supervisor.paused
            try:
                await self._pause(False)  # those that did not obey last time are asked again
            finally:
                if was_paused:
                    self._emit(control.Resumed())

    async def _pause(self, paused: bool) -> None:
        try:
            await self._supervisor.pause(paused)
        except NotAll as error:
            raise control.ControlError(f"Guest code {error}") from None

    async def quit(self) -> None:
        """Begin the orderly end, asked for by a monitor."""
        self.shut_down(ShutdownCause.HOST_QMP_QUIT)

    def shut_down(self, cause: ShutdownCause) -> None:
        """Begin the orderly end."""
        if not self._supervisor.quitting:
            self._emit(control.Shutdown(guest=False, reason=cause))
            self._supervisor.quit()

    async def sessions(self) -> Sequence[control.SessionInfo]:
        """Return all sessions, from what workers last reported (at most a fifth of a second ago)."""
        now = time.monotonic()
        return [
            control.SessionInfo(
                id=str(session.number),
                uptime_ms=int((now - session.since) * 1000),
                vcpus=tuple(
                    control.VcpuInfo(v.number, control.VcpuState(v.doing), v.requests, v.instructions, v.io)
                    for v in session.vcpus
                ),
                name=session.name or None,
                engine=session.engine,
                pid=session.process.pid,
            )
            for session in self._supervisor.sessions.values()
            if session.live
        ]

    def subscribe(self, listener: Callable[[control.ControlEvent], None]) -> Callable[[], None]:
        """Call ``listener`` with every later event; returns what ends that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def opened(self, session: SupervisedSession) -> None:
        """A session has begun."""
        self._emit(control.SessionOpened(str(session.number), session.name or None))

    def closed(self, session: SupervisedSession, reason: str) -> None:
        """A session is over."""
        self._emit(control.SessionClosed(str(session.number), reason))

    def lost(self, session: SupervisedSession, reason: str) -> None:
        """A session's worker is gone: so are the vCPUs it was running."""
        for vcpu in session.runs.running():
            self._emit(control.VcpuLost(str(session.number), vcpu, reason))

    def memory_lost(self, session: SupervisedSession, reason: str) -> None:
        """A session's RAM is gone, for all its vCPUs."""
        for vcpu in session.vcpus:
            self._emit(control.VcpuLost(str(session.number), vcpu.number, f"memory-lost: {reason}"))

    def _emit(self, event: control.ControlEvent) -> None:
        for listener in list(self._listeners):
            listener(event)
