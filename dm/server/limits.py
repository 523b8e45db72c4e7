"""Limits on what sessions may use, as set by the operator."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field

from dm.protocol import schema


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Of one session: ``vcpus``, ``regions`` of the memory map times vCPUs, and bytes of ``ram`` in all its blocks.

    Each vCPU installs a new map itself, so a map costs regions times vCPUs.
    """

    vcpus: int = schema.MAX_VCPUS
    regions: int = 1 << 16
    ram: int = field(default_factory=_host_memory)


@dataclass(frozen=True, slots=True)
class DaemonLimits(SessionLimits):
    """Of the daemon: the number of ``sessions`` too."""

    sessions: int = 64

    def of_session(self) -> dict[str, int]:
        """Return those of one session by name, for its worker."""
        return {name: value for name, value in asdict(self).items() if name != "sessions"}
