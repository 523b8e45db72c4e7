"""Guest time, in nanoseconds, as every device of the small PC reads it."""

from __future__ import annotations

import time
from typing import Protocol

SECOND = 1_000_000_000


class Clock(Protocol):
    """A monotonic source of guest nanoseconds."""

    def now(self) -> int:
        """Return guest time in nanoseconds since power-on; never goes backwards."""
        ...


class HostClock:
    """Guest time that follows the host's monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()

    def now(self) -> int:
        """Return nanoseconds since this clock was made."""
        return time.monotonic_ns() - self._start


class ManualClock:
    """Guest time that moves only when told to; for tests."""

    def __init__(self, now: int = 0) -> None:
        self._now = now

    def now(self) -> int:
        """Return the time last set."""
        return self._now

    def advance(self, nanoseconds: int) -> None:
        """Let ``nanoseconds`` pass."""
        self._now += nanoseconds
