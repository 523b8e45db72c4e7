"""``x86-dm boot`` on a terminal, as its user sees it: keys, Ctrl-Z, other sizes, and every way out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shim"))

import shell
from vt import Terminal

BOOT = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", "native"]
#: Prints "ready>", then each key: its character with 40h added, so that Ctrl-C is a C.
ECHO = (
    bytes.fromhex("31c0 8ed8 be207c ac 84c0 7409 b40e bb0700 cd10 ebf2 31c0 cd16 0440 b40e bb0700 cd10 ebf1")
    + b"ready>\0"
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A diskette whose boot sector is ECHO."""
    code = ECHO.replace(b"\x20\x7c", (0x7C00 + len(ECHO) - 7).to_bytes(2, "little"), 1)
    path = tmp_path / "echo.img"
    path.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(1474560, b"\0"))
    return path


class Job:
    """A program in the foreground of a shell on a terminal."""

    def __init__(self, terminal: Terminal, words: list[str], **environment: str) -> None:
        self.terminal = terminal
        self.saved = terminal.modes
        told, tell = os.pipe()
        hear, self._say = os.pipe()
        self._told = told

        def descriptors() -> None:
            for fd, target in ((tell, 10), (hear, 11), (10, 3), (11, 4)):
                os.dup2(fd, target)

        names = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, shell.__file__, *words],
            stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, start_new_session=True,
            close_fds=False, preexec_fn=descriptors, env=names | {"TERM": "xterm"} | environment,
        )  # fmt: skip
        os.close(tell)
        os.close(hear)
        os.set_blocking(told, False)
        self._line = ""

    @property
    def program(self) -> int:
        """Process id of the program."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def wait_for(self, line: str) -> None:
        """Wait until the shell tells ``line``, drawing meanwhile."""

        def told() -> bool:
            with contextlib.suppress(BlockingIOError):
                self._line += os.read(self._told, 100).decode()
            return "\n" in self._line

        self.terminal.wait_until(told, f"shell: {line}")
        first, _, self._line = self._line.partition("\n")
        assert first == line, "\n".join(self.terminal.rows)

    def resume(self) -> None:
        os.write(self._say, b"\n")

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ValueError, ProcessLookupError):  # it has ended by itself
                os.kill(self.program, signal.SIGKILL)
            self.process.kill()
        self.process.wait()
        os.close(self._told)
        os.close(self._say)


Start = Callable[..., tuple[Terminal, Job]]


@pytest.fixture
def start(image: Path) -> Iterator[Start]:
    """Return a function that boots ECHO, or another image, on a terminal and waits until it is ready."""
    made: list[Terminal | Job] = []

    def boot(
        *words: str, size: tuple[int, int] = (80, 25), what: Path = image, ready: str = "ready>", **environment: str
    ) -> tuple[Terminal, Job]:
        terminal = Terminal(*size)
        made.append(terminal)
        job = Job(terminal, [*BOOT, *words, str(what)], **environment)
        made.append(job)
        terminal.wait_for(ready)
        return terminal, job

    yield boot
    for one in reversed(made):
        one.close()


def test_every_key_reaches_the_guest_and_the_escape_key_leaves(start: Start) -> None:
    terminal, job = start()
    assert terminal.alternate
    terminal.type(b"\x03\x1c\x1d\x1d\x13\x11\x1d\x1a")
    terminal.wait_for("ready>C\\]SQZ")
    terminal.type(b"\x1dq")
    job.wait_for("ended 0")
    assert terminal.modes == job.saved
    assert (terminal.alternate, terminal.wraps) == (False, True)
    assert terminal.rows[0] == "ready>C\\]SQZ", "the last screen stays"
    assert "x86-dm boot: left by the user" in terminal.rows


def test_grub(start: Start, rescue: Path) -> None:
    """The shell puts the word together, so its echo of the command line cannot be taken for the output."""
    terminal, job = start(what=rescue, ready="grub>")
    terminal.type(b"set end=lo\recho hel${end}\r")
    terminal.wait_for("hello")
    terminal.type(b"\x1b[A\r")
    terminal.wait_until(lambda: terminal.rows.count("hello") == 2, "hello once more, from the history")
    terminal.type(b"\x1dq")
    job.wait_for("ended 0")


def test_another_escape_key(start: Start) -> None:
    terminal, job = start("--escape", "ctrl-a", "--expect", "never")
    terminal.type(b"\x1d\x01\x01")
    terminal.wait_for("ready>]A")
    terminal.type(b"\x01x")
    job.wait_for("ended 1")
    assert any("expected text 'never' has not appeared" in row for row in terminal.rows)


def test_suspended_and_resumed(start: Start) -> None:
    terminal, job = start()
    for _ in range(2):
        terminal.type(b"\x1a")
        job.wait_for("stopped")
        assert not terminal.alternate
        assert terminal.modes == job.saved
        job.resume()
        terminal.wait_for("ready>")
        assert terminal.alternate
        assert not terminal.modes[3] & termios.ICANON  # type: ignore[operator]
    terminal.type(b"\x01")
    terminal.wait_for("ready>A")
    terminal.type(b"\x1dq")
    job.wait_for("ended 0")


def test_stopped_without_being_asked_it_takes_the_terminal_again(start: Start) -> None:
    terminal, job = start()
    os.kill(job.program, signal.SIGSTOP)
    job.wait_for("stopped")
    termios.tcsetattr(terminal.slave, termios.TCSANOW, job.saved)  # as shells do
    terminal.draw("\x1b[2J$ noise")
    job.resume()
    terminal.wait_for("ready>")
    terminal.type(b"\x03")
    terminal.wait_for("ready>C")


@pytest.mark.long
def test_a_long_rest_loses_nothing(start: Start) -> None:
    """The daemon frees a session that is silent for ten seconds; it is given a new one."""
    terminal, job = start()
    terminal.type(b"\x1a")
    job.wait_for("stopped")
    time.sleep(15)
    job.resume()
    terminal.type(b"\x01")
    terminal.wait_for("ready>A")


def test_another_size(start: Start) -> None:
    terminal, job = start(size=(20, 5))
    terminal.type(b"\x01" * 30)
    terminal.wait_for("ready>" + "A" * 14)
    terminal.resize(100, 40)
    os.kill(job.program, signal.SIGWINCH)
    terminal.wait_for("ready>" + "A" * 30)
    terminal.resize(30, 10)
    terminal.wait_for("ready>" + "A" * 24)
    assert not terminal.overflowed


def test_a_terminal_without_commands(start: Start) -> None:
    terminal, job = start(TERM="dumb")
    terminal.type(b"\x01\x02")
    terminal.wait_for("ready>AB")
    terminal.type(b"\x1a")
    job.wait_for("stopped")
    assert terminal.modes == job.saved
    job.resume()
    terminal.type(b"\x1dq")
    job.wait_for("ended 0")
    assert "\x1b" not in terminal.log
    assert terminal.modes == job.saved


def test_no_colours(start: Start) -> None:
    terminal, _ = start(NO_COLOR="1")
    assert "\x1b[?1049h" in terminal.log
    assert set(re.findall(r"\x1b\[([0-9;]*)m", terminal.log)) <= {"", "1", "7"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_give_the_terminal_back(start: Start, number: signal.Signals) -> None:
    terminal, job = start()
    os.kill(job.program, number)
    job.wait_for(f"ended {128 + number}")
    assert terminal.modes == job.saved
    assert (terminal.alternate, terminal.wraps) == (False, True)
    assert f"x86-dm boot: interrupted by {number.name}" in terminal.rows


def test_the_user_may_leave_while_the_daemon_hangs(start: Start) -> None:
    terminal, job = start()
    boot = job.program
    (daemon,) = map(int, Path(f"/proc/{boot}/task/{boot}/children").read_text().split())
    workers = [int(word) for word in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()]
    for pid in (daemon, *workers):
        os.kill(pid, signal.SIGSTOP)
    try:
        terminal.type(b"\x01\x1dq\x1dq")
        terminal.wait_until(lambda: not terminal.alternate, "the terminal back")
    finally:
        for pid in (daemon, *workers):
            os.kill(pid, signal.SIGCONT)
    job.wait_for("ended 0")
    assert terminal.modes == job.saved


def test_a_terminal_that_goes_away_ends_it(image: Path) -> None:
    terminal = Terminal()
    process = subprocess.Popen(
        [*BOOT, str(image)], stdin=terminal.slave, stdout=terminal.slave, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    terminal.wait_for("ready>")
    terminal.close()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGHUP, errors
    assert "Traceback" not in errors


def test_json_leaves_the_terminal_alone(image: Path) -> None:
    terminal = Terminal()
    done = subprocess.run(
        [*BOOT, "--json", "--expect", "ready>", str(image)], stdin=terminal.slave, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["outcome"] == "expected"
    terminal.close()
