"""A private daemon: ``x86-dm serve`` as a separate process on an endpoint of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

#: How long the daemon may take to listen (a first start may have to compile byte code), and to end, in seconds.
_START: Final = 30.0
_END: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1


class DaemonError(Exception):
    """The daemon did not start; the text says why, in the daemon's own words where it had any."""


class OwnDaemon:
    """Starts the daemon on entry, ends it on exit.

    ``endpoint`` is its control endpoint, in a directory that only this user can enter.  It has a process group of its
    own, so that Ctrl-C reaches it only through the shim.  If the shim dies it ends too, and removes the directory.
    """

    def __init__(self, engine: str = "auto") -> None:
        """``engine`` is passed on to ``x86-dm serve --engine``."""
        self._engine = engine
        self._directory = tempfile.TemporaryDirectory(prefix="x86-dm-")
        self._socket = Path(self._directory.name, "control")
        self.endpoint = f"ipc://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running daemon, 0 when it does not run."""
        return self._process.pid if self._process else 0

    def __enter__(self) -> OwnDaemon:
        """Start the daemon and wait until it listens.

        Raises:
            DaemonError: it ended, or does not listen in time.
        """
        log = Path(self._directory.name, "log")
        try:
            with log.open("wb") as errors:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "dm.shim.private",
                        self._directory.name,
                        str(os.getpid()),
                        "serve",
                        "--listen",
                        self.endpoint,
                        "--engine",
                        self._engine,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    process_group=0,
                    preexec_fn=_end_with(os.getpid()),
                )
            deadline = time.monotonic() + _START
            while not self._socket.exists():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    words = log.read_text(errors="replace").strip()
                    raise DaemonError(words or "the daemon does not listen")
                time.sleep(0.01)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._directory.cleanup()


def _end_with(parent: int) -> Callable[[], None]:
    """Return a function that makes the calling process get SIGTERM when ``parent`` dies (prctl(2))."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare
