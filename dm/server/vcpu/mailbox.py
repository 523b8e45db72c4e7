"""Calls from other threads of the worker, which a vCPU's thread carries out between two slices."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable

from dm.engine.api import Engine
from dm.server.vcpu.exchange import Exchange


class Mailbox:
    """Calls for one vCPU's thread; ``wake`` is an eventfd that can be read while there are some."""

    def __init__(self, engine: Engine, exchange: Exchange | None) -> None:
        """A call stops a running ``engine`` and makes ``exchange`` return."""
        self._engine, self._exchange = engine, exchange
        self._queue: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()  # guards wake and the engine against use after the thread's end
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ended = False

    def put(self, call: Callable[[], object]) -> bool:
        """Queue a call, from any thread; return False when the vCPU's has ended."""
        with self._lock:
            if self.ended:
                return False
            self._queue.append(call)
            if self._exchange is not None:
                self._exchange.c.called = 1
            os.eventfd_write(self.wake, 1)
            self._engine.kick()
            return True

    # ------------------------------------------------------------------------------------------ the vCPU's thread

    def carry_out(self) -> bool:
        """Carry out what is queued; return whether there was anything."""
        if not self._queue:
            return False
        self.clear()
        while self._queue:
            self._queue.popleft()()
        return True

    def clear(self) -> None:
        """Clear the wake-up; the calls it announced are queued already."""
        if self._exchange is not None:
            self._exchange.c.called = 0
        with contextlib.suppress(BlockingIOError):  # the call is queued before the eventfd is written
            os.eventfd_read(self.wake)

    def end(self) -> None:
        """Accept no more calls."""
        with self._lock:
            self.ended = True
            os.close(self.wake)
