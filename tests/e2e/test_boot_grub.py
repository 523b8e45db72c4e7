"""GRUB boots from a rescue CD through the built-in PC and a daemon, all as processes, and obeys its keyboard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import runs

from dm.shim.ends import Status

BOOT = [sys.executable, "-P", "-m", "dm.cli", "boot"]
NATIVE = [*BOOT, "--engine", "native"]
#: The shell puts the word together, so its echo of the command line cannot be taken for the output.
SAY_HELLO = r"set end=lo\necho hel${end}\n"


def boot(*words: object, timeout: float = 290) -> subprocess.CompletedProcess[str]:
    start = BOOT if "--connect" in words or "--engine" in words else NATIVE
    return subprocess.run([*start, *map(str, words)], capture_output=True, text=True, timeout=timeout)


def report(*words: object) -> dict[str, Any]:
    """Boot with ``--json`` and return the report; the exit status must be 0."""
    done = boot(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def children(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def running(rescue: Path) -> Iterator[subprocess.Popen[str]]:
    """A boot that has reached the prompt and waits there, with its daemon."""
    process = subprocess.Popen([*NATIVE, str(rescue)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "Minimal BASH" in line:
            break
    yield process
    process.terminate()
    process.wait(timeout=100)
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.parametrize("kind", ["cd", "disk"])
def test_command_line_answers(rescue: Path, kind: str) -> None:
    steps = ("--expect", "grub>", "--keys", SAY_HELLO, "--expect", "hello", "--expect", "grub>")
    result = report(rescue, "--as", kind, *steps, "--timeout", 200)
    assert result["outcome"] == "expected"
    assert "hello" in result["screen"]
    assert result["resets"] == 0
    calls = result["stats"]["firmware"]
    assert calls["0x13"] > 10
    assert calls.keys() <= {"0x10", "0x13", "0x15", "0x16"}, "what the ROM does itself is not asked"
    assert calls["0x10"] < 20, "the console goes through INT 10h, which the guest executes"
    assert result["stats"]["interrupts"] > 0, "the timer ticks"


def test_it_boots_with_its_memory_in_messages(rescue: Path) -> None:
    """No byte of RAM is shared: pages are fetched when touched, and what the guest writes is sent back."""
    steps = ("--expect", "grub>", "--keys", SAY_HELLO, "--expect", "hello", "--expect", "grub>")
    result = report(rescue, "--ram", "messages", *steps, "--timeout", 200)
    assert result["outcome"] == "expected"
    assert "hello" in result["screen"]
    stats = result["stats"]
    assert stats["shim"] == stats["daemon"]
    assert stats["shim"]["io"] > sum(stats["questions"].values()) - stats["shim"]["io"], "pages are questions, too"


def test_both_sides_counted_the_same(rescue: Path) -> None:
    stats = report(rescue, "--expect", "grub>", "--stats", "--timeout", 200)["stats"]
    assert stats["shim"] == stats["daemon"]
    assert stats["shim"]["requests"] == stats["runs"] == sum(stats["ends"].values())
    assert stats["shim"]["instructions"] == stats["instructions"] > 1_000_000
    # An exchange may carry a whole string of elements.
    assert 0 < stats["shim"]["io"] <= sum(stats["questions"].values())
    assert stats["ends"]["firmware"] >= sum(stats["firmware"].values())


def test_memory_the_guest_sees_is_what_was_asked_for(rescue: Path) -> None:
    steps = ("--expect", "grub>", "--keys", r"lsmmap\n", "--expect", "grub>")
    screen = report(rescue, "--memory", 16, *steps, "--timeout", 200)["screen"]
    assert "base_addr = 0x100000, length = 0xf00000, available RAM" in screen


@pytest.mark.long
@pytest.mark.timeout(330)
def test_the_python_engine_boots_it_too(rescue: Path) -> None:
    steps = ("--expect", "grub>", "--keys", SAY_HELLO, "--expect", "hello")
    result = report(rescue, "--engine", "python", *steps, "--timeout", 280)
    assert "hello" in result["screen"]
    assert result["stats"]["shim"] == result["stats"]["daemon"]


def test_reboot_goes_through_post(rescue: Path) -> None:
    steps = ("--expect", "grub>", "--keys", r"reboot\n", "--expect", "Welcome to GRUB", "--expect", "grub>")
    assert report(rescue, *steps, "--timeout", 200)["outcome"] == "expected"


def test_text_goes_to_standard_output_and_figures_to_standard_error(rescue: Path) -> None:
    done = boot(rescue, "--expect", "grub>", "--stats", "--timeout", 200)
    assert done.returncode == 0, done.stderr
    assert "Minimal BASH-like line editing is supported" in done.stdout
    assert "grub>" in done.stdout
    assert "MIPS" in done.stderr
    rows = {words[0]: words[1:] for line in done.stderr.splitlines() if (words := line.split()) and len(words) == 3}
    assert rows["instructions"][0] == rows["instructions"][1]


def test_missing_text_ends_with_1_and_is_named(rescue: Path) -> None:
    done = boot(rescue, "--expect", "no such text", "--timeout", 3)
    assert done.returncode == 1
    assert "'no such text' has not appeared" in done.stderr


def test_a_running_daemon_can_be_used(rescue: Path, endpoint: str) -> None:
    for _ in range(2):
        result = report(rescue, "--connect", endpoint, "--expect", "grub>", "--timeout", 200)
        assert result["stats"]["shim"] == result["stats"]["daemon"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_its_daemon(running: subprocess.Popen[str], number: signal.Signals) -> None:
    (daemon,) = children(running.pid)
    running.send_signal(number)
    assert running.wait(timeout=60) == 128 + number
    assert not Path(f"/proc/{daemon}").exists()


def test_a_killed_shim_takes_its_daemon_along(running: subprocess.Popen[str]) -> None:
    (daemon,) = children(running.pid)
    words = Path(f"/proc/{daemon}/cmdline").read_text().split("\0")
    folder = Path(words[words.index("--listen") + 1].removeprefix("ipc://")).parent
    running.kill()
    running.wait()
    deadline = time.monotonic() + 100
    while runs(daemon):
        assert time.monotonic() < deadline, "the daemon lives on"
        time.sleep(0.05)
    assert not folder.exists(), "the daemon left its shim's directory behind"


def test_a_dead_daemon_ends_the_boot(running: subprocess.Popen[str]) -> None:
    (daemon,) = children(running.pid)
    os.kill(daemon, signal.SIGKILL)
    assert running.wait(timeout=100) in (Status.DAEMON, Status.RUN_LOST)
    assert running.stderr is not None
    assert "x86-dm boot:" in running.stderr.read()


def test_idle_prompt_costs_little(running: subprocess.Popen[str]) -> None:
    def ticks() -> int:
        fields = Path(f"/proc/{running.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    assert running.poll() is None
    time.sleep(0.5)
    before = ticks()
    time.sleep(2)
    assert ticks() - before < os.sysconf("SC_CLK_TCK"), "less than half a processor"
