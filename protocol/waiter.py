"""How both sides wait for a message: polling for a moment if that pays, else asleep.

Most of an exchange is spent waking threads and idle processors.  In a lively exchange a side therefore polls for a
short while before it sleeps, as KVM does for a halted virtual CPU (Linux, halt-polling.rst).  As there, that while
adapts: it grows when a wait proves to have been only a little longer, and is nothing after a long wait or a pause.  So
a guest that is woken now and then costs its exchanges and no more.  A side yields to other threads between two polls,
and stops polling for a while when one of them takes the processor.

dm/fast/waiting.h is the same in C; :mod:`dm.fast.times` has the times of both.
"""

from __future__ import annotations

import os
import select
from time import perf_counter_ns

from dm.fast.times import AWAKE_NS, FIRST_AWAKE_NS, LONGEST_REST_NS, PAUSE_NS, REST_NS, TAKEN_NS


class Waiter:
    """Waits until descriptors can be read.  Of one thread."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._stretch = 0
        self._ended = 0
        self._resting_until = 0
        self._rest = 0

    def add(self, descriptor: int) -> None:
        """Wait for this descriptor too."""
        self._poll.register(descriptor, select.POLLIN)

    def remove(self, descriptor: int) -> None:
        """Stop waiting for it."""
        self._poll.unregister(descriptor)

    def wait(self, timeout: int | None = None) -> list[tuple[int, int]]:
        """Return the descriptors with events, as select.poll does; after ``timeout`` ms (None: never) none."""
        if timeout == 0:
            return self._poll.poll(0)
        began = now = perf_counter_ns()
        if began - self._ended > PAUSE_NS:
            self._stretch = 0
        look, give_way = self._poll.poll, os.sched_yield
        while now - began < self._stretch and now > self._resting_until:
            if ready := look(0):
                self._ended = now
                return ready
            give_way()
            before, now = now, perf_counter_ns()
            if now - before > TAKEN_NS:
                longer = min(2 * self._rest, LONGEST_REST_NS)
                self._rest = REST_NS if before - self._resting_until > 2 * REST_NS else longer
                self._resting_until = now + self._rest
        ready = look(timeout)
        self._ended = perf_counter_ns()
        took = self._ended - began
        if took >= AWAKE_NS:
            self._stretch = 0
        elif ready and took > self._stretch:
            self._stretch = min(2 * self._stretch or FIRST_AWAKE_NS, AWAKE_NS)
        return ready
