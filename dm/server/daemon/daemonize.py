"""Becoming a daemon: before ZeroMQ, asyncio or any thread exists, since none of them survives a fork."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

_READY: Final = b"\0ready"


def daemonize() -> Callable[[str | None], None]:
    """Fork into the background; returns in the daemon only.

    The calling process waits: it exits with 0 once the daemon reports that it is ready, and with 1 and the daemon's
    error otherwise.

    Returns:
        A function that the daemon calls once: with None when it is ready, or with an error.  It then releases the
        terminal.
    """
    reader, writer = os.pipe()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        _wait(reader)
    os.close(reader)
    os.setsid()
    if os.fork():  # not a session leader any more: it can never get a terminal again
        os._exit(0)
    os.chdir("/")
    os.set_inheritable(writer, False)

    def report(error: str | None) -> None:
        with contextlib.suppress(OSError):  # the process that started us may be gone
            os.write(writer, _READY if error is None else error.encode("utf-8", "replace"))
        os.close(writer)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        if os.isatty(2):
            os.dup2(null, 2)
        os.close(null)

    return report


def _wait(reader: int) -> None:
    """Wait for the daemon's report and exit."""
    data = b""
    while chunk := os.read(reader, 4096):
        data += chunk
    if data == _READY:
        os._exit(0)
    print(data.decode("utf-8", "replace") or "x86-dm serve: the daemon died before it was ready", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
