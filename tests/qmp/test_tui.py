"""Stock qmp-tui, a full-screen program, driven through a pseudo-terminal as its user would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 100
ROWS, COLUMNS = 60, 100
# Its keyboard focus starts in the history above; and it draws what has arrived only after some input.
CLICK_IN_EDITOR = b"\x1b[<0;5;50M\x1b[<0;5;50m"
SEND = b"\x1b\r"  # Alt+Enter


class Screen:
    """qmp-tui on a terminal of its own, and all that it has drawn."""

    def __init__(self, target: str) -> None:
        self.fd, terminal = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.program = subprocess.Popen(
            [str(Path(sys.executable).with_name("qmp-tui")), target],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(terminal)
        self.drawn = b""

    def wait_for(self, pattern: str) -> None:
        """Click and read until the text drawn so far matches; what was drawn is shown when it never does."""
        deadline = time.monotonic() + TIMEOUT
        while not re.search(pattern, self.text(), re.DOTALL):
            assert time.monotonic() < deadline, f"{pattern!r} never came: {self.text()[-2000:]}"
            if select.select([self.fd], [], [], 0.2)[0]:
                self.drawn += os.read(self.fd, 65536)
            else:
                self.type(CLICK_IN_EDITOR)

    def text(self) -> str:
        plain = re.sub(rb"\x1b[\[()][0-9;?]*[a-zA-Z]", b"", self.drawn)
        return plain.decode("utf-8", "replace")

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self.fd)


@pytest.fixture
def screen(daemon: Any) -> Iterator[Screen]:
    screen = Screen(str(daemon.address.path))
    try:
        yield screen
    finally:
        screen.close()


def test_commands_and_errors(screen: Screen) -> None:
    screen.wait_for(r'"QMP".*"x86-dm 1\.2\.3".*qmp_capabilities.*"return".*Connected')
    screen.type(b'{"execute": "query-status"}')
    screen.wait_for(r'> \{"execute": "query-status"\}')
    screen.type(SEND)
    screen.wait_for(r'<--.*"query-status".*-->.*"running"\s*:\s*true.*"status"\s*:\s*"running"')
    screen.type(b'{"execute": "frob"}' + SEND)
    screen.wait_for(r"CommandNotFound")


def test_events(screen: Screen) -> None:
    screen.wait_for("Connected")
    screen.type(b'{"execute": "stop"}' + SEND)
    screen.wait_for(r'"event"\s*:\s*"STOP"')
