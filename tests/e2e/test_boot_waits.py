"""``x86-dm boot`` and a daemon that does not answer: limits hold whatever it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dm.shim.ends import Status

X86_DM = [sys.executable, "-P", "-m", "dm.cli"]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A diskette whose boot sector says so on the serial line, and then runs for ever."""
    code = bytes.fromhex("baf803 b052 ee b00a ee fb ebfe")
    path = tmp_path / "loop.img"
    path.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(1474560, b"\0"))
    return path


class Served:
    """A daemon, and boots on it."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.address = f"ipc://{folder}/control"
        self.daemon = subprocess.Popen([*X86_DM, "serve", "--listen", self.address], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (folder / "control").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self._image, self._stopped = image, list[int]()

    def stop(self) -> None:
        """Stop the daemon and its workers as a debugger or a host out of memory does."""
        for pid in (self.daemon.pid, *children(self.daemon.pid)):
            os.kill(pid, signal.SIGSTOP)
            self._stopped.append(pid)

    def boot(self, *words: str) -> subprocess.Popen[str]:
        """Start a boot."""
        command = [*X86_DM, "boot", "--connect", self.address, *words, str(self._image)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        """Let it go on, and end it."""
        for pid in self._stopped:
            os.kill(pid, signal.SIGCONT)
        self.daemon.terminate()
        self.daemon.wait(60)


@pytest.fixture
def served(image: Path) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as folder:
        one = Served(Path(folder), image)
        yield one
        one.close()


def wait_until_it_runs(boot: subprocess.Popen[str]) -> None:
    assert boot.stdout is not None
    assert boot.stdout.readline() == "R\n"


def test_the_time_limit_holds_while_a_run_is_not_answered(served: Served) -> None:
    boot = served.boot("--timeout", "4")
    wait_until_it_runs(boot)
    served.stop()
    errors = boot.communicate(timeout=60)[1]
    assert (boot.returncode, errors) == (
        Status.TIMEOUT,
        "x86-dm boot: time is over after 4 s: the daemon does not answer\n",
    )


def test_the_time_limit_holds_while_a_session_is_opened(served: Served) -> None:
    served.stop()
    boot = served.boot("--timeout", "2")
    errors = boot.communicate(timeout=60)[1]
    assert (boot.returncode, errors) == (
        Status.TIMEOUT,
        f"x86-dm boot: time is over after 2 s, in which {served.address} was not ready\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_while_a_run_is_not_answered(served: Served, number: signal.Signals) -> None:
    boot = served.boot()
    wait_until_it_runs(boot)
    served.stop()
    boot.send_signal(number)
    errors = boot.communicate(timeout=60)[1]
    assert (boot.returncode, errors) == (128 + number, f"x86-dm boot: interrupted by {number.name}\n")


def test_patience_is_for_whoever_comes_next(served: Served) -> None:
    boot = served.boot("--patience", "0.5")
    wait_until_it_runs(boot)
    served.daemon.terminate()
    errors = boot.communicate(timeout=60)[1]
    assert boot.returncode == Status.DAEMON, errors
    assert "no daemon answers at" in errors
