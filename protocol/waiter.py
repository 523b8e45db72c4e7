"""How both sides wait for a message: polling for a moment if that pays, else asleep.

Most of an exchange is spent waking threads and idle processors.  In a lively exchange a side therefore polls for a
short while before it sleeps, as KVM does for a halted virtual CPU (Linux, halt-polling.rst).  It yields to other
threads between two polls, and stops polling for a while when one of them takes the processor.
"""

from __future__ import annotations

import os
import select
from time import perf_counter_ns
from typing import Final

#: Longest time of polling, in nanoseconds.  A wait longer than this ends the habit, a shorter one starts it.
AWAKE_NS: Final = 200_000
#: A yield that took this long, in nanoseconds, means that another thread wants this processor; those of ZeroMQ take up
#: to 80 us.
_TAKEN_NS: Final = 100_000
#: Back-off before polling again, in nanoseconds: at first, and at most after repeated yields.
_REST_NS: Final = 10_000_000
_LONGEST_REST_NS: Final = 160_000_000
#: All of them, for code that waits in the same way without this module.
TIMES: Final = (AWAKE_NS, _TAKEN_NS, _REST_NS, _LONGEST_REST_NS)


class Waiter:
    """Waits until descriptors can be read.  Of one thread."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._lively = False
        self._resting_until = 0
        self._rest = _REST_NS

    def add(self, descriptor: int) -> None:
        """Wait for this descriptor too."""
        self._poll.register(descriptor, select.POLLIN)

    def remove(self, descriptor: int) -> None:
        """Stop waiting for it."""
        self._poll.unregister(descriptor)

    def wait(self, timeout: int | None = None) -> list[tuple[int, int]]:
        """Return the descriptors with events, as select.poll does; after ``timeout`` ms (None: never) none."""
        began = now = perf_counter_ns()
        if self._lively and now > self._resting_until:
            look, give_way = self._poll.poll, os.sched_yield
            while now - began < AWAKE_NS:
                if ready := look(0):
                    return ready
                give_way()
                before, now = now, perf_counter_ns()
                if now - before > _TAKEN_NS:
                    went_well = before - self._resting_until > 2 * _REST_NS
                    self._rest = _REST_NS if went_well else min(2 * self._rest, _LONGEST_REST_NS)
                    self._resting_until = now + self._rest
                    break
        ready = self._poll.poll(timeout)
        self._lively = perf_counter_ns() - began < AWAKE_NS
        return ready
