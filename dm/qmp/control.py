"""What the monitor sees of the daemon: a few calls, a few values, and events.

The supervisor implements :class:`Control`; nothing else in this package knows it.  The dataclasses here are also the
wire types: :mod:`dm.qmp.schema` derives QMP's objects from their fields (``io_exits`` becomes ``io-exits``; a field
that is None is left out), so a type stands in one place only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Protocol

from dm.qmp.schema import U64, Range

VcpuIndex = Annotated[int, Range(0, 2**32 - 1)]


class RunState(StrEnum):
    """The part of QEMU's RunState that a daemon can be in.

    ``shutdown`` is what it is in while its sessions get their state back after ``quit`` or a signal.
    """

    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"


class ShutdownCause(StrEnum):
    """The part of QEMU's ShutdownCause that applies to a daemon."""

    HOST_ERROR = "host-error"
    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_SIGNAL = "host-signal"


class VcpuState(StrEnum):
    """What a vCPU is doing for its hypervisor.

    ``idle``: the hypervisor has it; ``running``: guest code runs here; ``waiting``: for the hypervisor's answer to a
    device access; ``lost``: it cannot go on.
    """

    IDLE = "idle"
    RUNNING = "running"
    WAITING = "waiting"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class VcpuInfo:
    """One vCPU and its counters since it was created (all 64 bits, monotonic).

    ``requests`` are EMULATE requests answered, ``instructions`` guest instructions retired, ``io_exits`` exchanges
    with the hypervisor in mid-run (port, MMIO, MSR).
    """

    index: VcpuIndex
    state: VcpuState
    requests: U64 = 0
    instructions: U64 = 0
    io_exits: U64 = 0


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One connected VM.  ``engine`` names the engine its worker runs, ``pid`` that worker, ``uptime_ms`` is its age."""

    id: str
    uptime_ms: U64
    vcpus: tuple[VcpuInfo, ...] = ()
    name: str | None = None
    engine: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class ControlEvent:
    """Something that happened; the fields of a subclass are the QMP event's data.

    ``NAME`` is the QMP name.  Events of one name that agree in the ``KEY`` fields are sent at most once per
    ``INTERVAL`` seconds; of those held back only the last is sent.  0 sends all.
    """

    NAME: ClassVar[str]
    INTERVAL: ClassVar[float] = 0.0
    KEY: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Stopped(ControlEvent):
    """Guest code no longer runs in this daemon."""

    NAME: ClassVar[str] = "STOP"


@dataclass(frozen=True, slots=True)
class Resumed(ControlEvent):
    """Guest code runs again."""

    NAME: ClassVar[str] = "RESUME"


@dataclass(frozen=True, slots=True)
class Shutdown(ControlEvent):
    """The daemon ends.  ``guest`` says whether the guest asked for it (a daemon's guests cannot, so False)."""

    NAME: ClassVar[str] = "SHUTDOWN"

    guest: bool
    reason: ShutdownCause


@dataclass(frozen=True, slots=True)
class SessionOpened(ControlEvent):
    """A hypervisor said hello and was accepted."""

    NAME: ClassVar[str] = "X86_DM_SESSION_OPENED"
    INTERVAL: ClassVar[float] = 1.0
    KEY: ClassVar[tuple[str, ...]] = ("session",)

    session: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class SessionClosed(ControlEvent):
    """A session is over; ``reason`` says why in words."""

    NAME: ClassVar[str] = "X86_DM_SESSION_CLOSED"
    INTERVAL: ClassVar[float] = 1.0
    KEY: ClassVar[tuple[str, ...]] = ("session",)

    session: str
    reason: str


@dataclass(frozen=True, slots=True)
class VcpuLost(ControlEvent):
    """A vCPU cannot go on and its VM has to stop; ``reason`` says why in words."""

    NAME: ClassVar[str] = "X86_DM_VCPU_LOST"
    INTERVAL: ClassVar[float] = 1.0
    KEY: ClassVar[tuple[str, ...]] = ("session", "vcpu")

    session: str
    vcpu: VcpuIndex
    reason: str


#: Every event a Control may hand to its listeners.
CONTROL_EVENTS: tuple[type[ControlEvent], ...] = (Stopped, Resumed, Shutdown, SessionOpened, SessionClosed, VcpuLost)


class ControlError(Exception):
    """A call could not be carried out; the text is what the QMP client is told."""


class Control(Protocol):
    """The daemon, as its monitor drives it.  All calls are made on the daemon's asyncio thread.

    Each method may raise :class:`ControlError`.
    """

    async def status(self) -> RunState:
        """Return the current run state."""
        ...

    async def stop(self) -> None:
        """Stop all guest code; return once none runs (within a slice).  Emits :class:`Stopped` if it was running."""
        ...

    async def cont(self) -> None:
        """Let guest code run.  Emits :class:`Resumed` if it was stopped."""
        ...

    async def quit(self) -> None:
        """Start an orderly end and return at once, so that the client still gets its answer.

        Emits :class:`Shutdown`; the daemon then closes the monitor with :meth:`dm.qmp.server.QmpServer.close`.
        """
        ...

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return all sessions from what the supervisor knows, without waiting for a worker.

        It is also called out-of-band, when a worker may be stuck.
        """
        ...

    def subscribe(self, listener: Callable[[ControlEvent], None]) -> Callable[[], None]:
        """Call ``listener`` with every later event, in order, on the asyncio thread; it neither blocks nor raises.

        Returns:
            A function that ends the subscription; calling it twice does no harm.
        """
        ...
