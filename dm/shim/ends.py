"""How ``x86-dm boot`` ends: its exit statuses, and the signals and the time limit that end it from outside."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any, Final

#: Added to the number of a signal that ends a boot, as shells do for programs that died of one.
_SIGNAL: Final = 128
#: The loop checks the time itself; this long after the limit it is assumed to be stuck, in seconds.
_GRACE: Final = 1.0
#: Signals that end a boot in order, unless they were ignored when it began (nohup).
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Status(IntEnum):
    """Exit statuses of a boot; ``text`` says when."""

    text: str

    def __new__(cls, number: int, text: str) -> Status:
        """Make a status of its number and its line in ``--help``."""
        made = int.__new__(cls, number)
        made._value_, made.text = number, text
        return made

    ENDED = 0, "every expected text has appeared; or none was given, and the guest halted for good or the user left"
    MISSING = 1, "an expected text has not appeared: the time is over, or the guest halted, exited, or the user left"
    USAGE = 2, "an option is wrong, or a file cannot be used"
    RUN_LOST = 3, "the daemon was lost in the middle of a run: nobody knows the guest's registers"
    TIMEOUT = 4, "the time is over (--timeout), and no expected text is missing"
    NO_BOOT = 5, "the firmware found no bootable device"
    FAILED = 6, "the guest cannot go on: it needs what is not supported, or its memory is gone"
    DAEMON = 7, "no daemon could be started or reached; or it refused, or is gone"


def of_signal(number: int) -> int:
    """Return the exit status of a boot that a signal ended."""
    return _SIGNAL + number


def epilog() -> str:
    """Return the exit statuses as ``--help`` lists them."""
    rows = [f"  {status.value:<4}{status.text}" for status in Status]
    rows.append("  128+N  signal N ended it: 130 after Ctrl-C without a terminal, 143 after SIGTERM")
    rows.append(
        "  other  what the guest said through --exit-port, if no expected text is missing: twice its byte plus 1"
    )
    return "exit status:\n" + "\n".join(rows)


class Interrupted(KeyboardInterrupt):
    """A signal asks for the end; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class TimeOver(BaseException):
    """The time limit has passed, and whatever is being waited for did not notice."""


class Signals:
    """Turns the signals that end programs into :class:`Interrupted`, from entry to exit.  For the main thread."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in _ENDING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, _interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


class TimeLimit:
    """Raises :class:`TimeOver` on the main thread, from entry to exit, some time after the limit; None: never.

    It is raised again every second, since the interrupted code may try to end in order first.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._before: Any = None

    def __enter__(self) -> TimeLimit:
        if self._seconds is not None:
            self._before = signal.signal(signal.SIGALRM, _over)
            signal.setitimer(signal.ITIMER_REAL, self._seconds + _GRACE, 1.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.lift()

    def lift(self) -> None:
        """Cancel the limit."""
        if self._seconds is not None and self._before is not None:
            lift_limit()
            signal.signal(signal.SIGALRM, self._before)
            self._before = None


def lift_limit() -> None:
    """Raise no more :class:`TimeOver`."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _over(number: int, frame: FrameType | None) -> None:
    raise TimeOver


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Do not interrupt what is done within: a signal that would end the boot takes effect afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    for number in (*_ENDING, signal.SIGALRM):
        handler = signal.getsignal(number)
        if callable(handler):
            before[number] = handler
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
