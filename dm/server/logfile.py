"""The log's file.  Imports nothing that starts threads: it is used before ``--daemonize`` forks."""

from __future__ import annotations

import os
import time
from typing import Final

#: How the log writes times (strftime(3)).
TIME: Final = "%Y-%m-%dT%H:%M:%S"


def open_file(path: str) -> int:
    """Return a log file, open for appending, to which a first line has been written.

    Raises:
        OSError: it cannot be opened or written to, as on a full disk.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
    try:
        os.write(fd, time.strftime(f"{TIME} x86-dm: log opened\n").encode("ascii"))
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, error.strerror, path) from None
    return fd


def use(fd: int) -> None:
    """Make a descriptor the log, and close it."""
    os.dup2(fd, 2)
    os.close(fd)
