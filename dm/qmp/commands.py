"""The monitor's commands.  A new one is one function here: its signature is its schema."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from dm.qmp.control import CONTROL_EVENTS, Control, ControlEvent, RunState, SessionInfo
from dm.qmp.protocol import CAPABILITIES, VersionInfo
from dm.qmp.schema import U64, Command, Schema

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

_COMMANDS: Final[list[Command]] = [CAPABILITIES]


@dataclass(frozen=True, slots=True)
class Monitor:
    """What a command's handler works with.  ``started`` is when the daemon started (time.monotonic)."""

    control: Control
    version: VersionInfo
    schema: Schema
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class EventsDropped(ControlEvent):
    """This client did not read its events; ``count`` of them were not kept for it."""

    NAME: ClassVar[str] = "X86_DM_EVENTS_DROPPED"

    count: U64


@dataclass(frozen=True, slots=True)
class CommandInfo:
    """A command's name."""

    name: str


@dataclass(frozen=True, slots=True)
class StatusInfo:
    """Whether guest code may run, and the state by name."""

    running: bool
    status: RunState


@dataclass(frozen=True, slots=True)
class X86DmInfo:
    """The daemon as a whole; ``uptime_ms`` is its age."""

    uptime_ms: U64
    sessions: tuple[SessionInfo, ...]


def command(name: str, *, oob: bool = False) -> Callable[[F], F]:
    """Declare the function below as the command ``name``."""

    def declare(handler: F) -> F:
        _COMMANDS.append(Command.of(name, handler, oob=oob))
        return handler

    return declare


@command("query-version")
async def qmp_query_version(monitor: Monitor) -> VersionInfo:
    """Return the version the greeting shows."""
    return monitor.version


@command("query-commands")
async def qmp_query_commands(monitor: Monitor) -> list[CommandInfo]:
    """Return the names of all commands."""
    return [CommandInfo(name) for name in monitor.schema.commands]


@command("query-qmp-schema")
async def qmp_query_qmp_schema(monitor: Monitor) -> list[Any]:
    """Return all commands, events and types in QEMU's introspection format."""
    return monitor.schema.introspect()


@command("query-status")
async def qmp_query_status(monitor: Monitor) -> StatusInfo:
    """Return the daemon's run state."""
    state = await monitor.control.status()
    return StatusInfo(state is RunState.RUNNING, state)


@command("stop")
async def qmp_stop(monitor: Monitor) -> None:
    """Stop all guest code; answered once none runs."""
    await monitor.control.stop()


@command("cont")
async def qmp_cont(monitor: Monitor) -> None:
    """Let guest code run again."""
    await monitor.control.cont()


@command("quit")
async def qmp_quit(monitor: Monitor) -> None:
    """End the daemon in order: each hypervisor gets its vCPUs back."""
    await monitor.control.quit()


@command("query-x86-dm", oob=True)
async def qmp_query_x86_dm(monitor: Monitor) -> X86DmInfo:
    """Return the sessions, their vCPUs and counters; also out-of-band, for when ``stop`` does not come back."""
    sessions = tuple(await monitor.control.sessions())
    return X86DmInfo(int((time.monotonic() - monitor.started) * 1000), sessions)


SCHEMA: Final = Schema(_COMMANDS, (*CONTROL_EVENTS, EventsDropped))
