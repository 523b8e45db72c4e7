"""What signals do to the daemon.

The parent's settings are undone: ignored signals and the mask survive exec (signal(7)).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # it is used before --daemonize forks, too
    import asyncio

#: These end the daemon in order.
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: These mean nothing to it.
_IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)


def reset() -> None:
    """Undo what the parent may have ignored or blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def install(
    loop: asyncio.AbstractEventLoop,
    end: Callable[[], None],
    hang_up: Callable[[], None],
    ignored: Callable[[str], None],
) -> None:
    """Call ``end`` for the signals that end the daemon, ``hang_up`` for SIGHUP, ``ignored`` with others' names."""
    for number in ENDING:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    for number in _IGNORED:
        loop.add_signal_handler(number, ignored, number.name)


def leave_to_supervisor() -> None:
    """Set up a worker: a signal to the whole group, as from a terminal, is the supervisor's business."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (*ENDING, signal.SIGHUP, *_IGNORED):
        signal.signal(number, signal.SIG_IGN)
