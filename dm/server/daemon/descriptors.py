"""The process's file descriptors, divided into shares: what would exceed its share is refused before it begins.

libzmq aborts the process when accept(2) on an ipc endpoint finds no free descriptor, and starting a worker needs some.
So there are fixed shares, far enough below RLIMIT_NOFILE (getrlimit(2)).
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Final

#: The fewest that a daemon can work with.
LEAST: Final = 256
#: What the daemon itself has open at most: standard descriptors, log, event loop, ZeroMQ, listeners, starting workers.
_OWN: Final = 64
#: For each session: line, run table, the worker's pidfd, its connection and the listener through which that came.
_SESSION: Final = 5
#: More than these are never needed.
_MOST_QMP: Final = 32
_MOST_RAM: Final = 64
_MOST_OPEN: Final = 8192
_BACKLOG: Final = 100


@dataclass(frozen=True, slots=True)
class Shares:
    """Most sessions, QMP clients and connections to the RAM socket.

    No more connections to the control endpoint are accepted once there would be ``open`` descriptors in all; up to
    ``backlog`` may wait.
    """

    sessions: int
    qmp: int
    ram: int
    open: int
    backlog: int


def raise_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one, for this process and its workers; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def shares(limit: int, sessions: int) -> Shares:
    """Divide ``limit`` descriptors; at most ``sessions`` sessions are wanted.

    Raises:
        ValueError: they are too few.
    """
    if limit < LEAST:
        raise ValueError(f"only {limit} descriptors may be open (ulimit -Hn): at least {LEAST} are needed")
    rest = limit - _OWN
    sixteenth = rest // 16
    sessions, qmp, ram = min(sessions, sixteenth), min(_MOST_QMP, sixteenth), min(_MOST_RAM, sixteenth)
    open_ = min(_MOST_OPEN, limit - sessions * _SESSION - qmp - ram)  # the shares of the others are kept free
    return Shares(sessions, qmp, ram, open_, min(_BACKLOG, (open_ - _OWN) // 8))


def count() -> int:
    """Return how many descriptors are open."""
    return len(os.listdir("/proc/self/fd")) - 1  # that of the listing itself
