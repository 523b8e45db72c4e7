"""The daemon's log: one line for each event, with its time, level, and the session and VM it is about.

It goes to standard error, the workers' too.  Failing to write it is no reason to end.
"""

from __future__ import annotations

import logging
import os
import select
import time
from typing import Final

from dm.server.logfile import TIME

#: A guest or a peer can cause a line as often as it likes: then one in this many seconds is written.
_REST: Final = 1.0

_FORMAT: Final = "%(asctime)s.%(msecs)03d x86-dm[%(process)d]: %(levelname)s: %(message)s"


class _Descriptor(logging.Handler):
    """Writes each record at once to standard error's descriptor.

    What cannot be written at once is dropped: perhaps nobody reads the pipe or terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ready = select.poll()
        self._ready.register(2, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        try:
            data = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            while data and self._ready.poll(0):  # a pipe that is ready takes PIPE_BUF bytes (pipe(7))
                data = data[os.write(2, data[: select.PIPE_BUF]) :]
        except OSError:
            pass
        except Exception:
            self.handleError(record)


def set_up(level: str, prefix: str = "") -> None:
    """Log from ``level`` on; ``prefix`` comes before each message."""
    logging.raiseExceptions = False  # it would write to the same place
    handler = _Descriptor()
    handler.setFormatter(
        logging.Formatter(_FORMAT.replace("%(message)s", prefix.replace("%", "%%") + "%(message)s"), TIME)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def printable(text: str) -> str:
    """Return text chosen by a peer so that it stays within its line."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def session(number: int, name: str) -> str:
    """Return a session's name in the log."""
    return f"session {number} ({printable(name)})" if name else f"session {number}"


class Sparse:
    """Decides whether to write a line that may come at any rate."""

    def __init__(self) -> None:
        self._next = 0.0
        self._held = 0

    def __call__(self) -> str | None:
        """Return what to add to the line, None to leave it out."""
        now = time.monotonic()
        if now < self._next:
            self._held += 1
            return None
        self._next, held, self._held = now + _REST, self._held, 0
        return f" ({held} like it were left out)" if held else ""
