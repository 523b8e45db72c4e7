"""Daemons that end in mid-boot: in order, and killed.  What can go on goes on; what was lost is named, never rerun."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import runs

from dm.shim.ends import Status

BOOT = [sys.executable, "-P", "-m", "dm.cli", "boot"]
SERVE = [sys.executable, "-P", "-m", "dm.cli", "serve"]
EXIT_PORT = 0xF4

#: Characters the counting guest prints, each after 131072 turns of a delay loop: seconds on any machine, so that it is
#: still counting when the last daemon of a test is ended.
COUNT = 4096
#: xor cx,cx | L: mov al,cl; and al,3Fh; add al,'0'; out E9h,al; mov edx,20000h | D: dec edx; jnz D | inc cx;
#: cmp cx,1000h; jne L; mov al,0; out F4h,al
COUNTER = bytes.fromhex("31C9 88C8 243F 0430 E6E9 66BA00000200 664A 75FC 41 81F90010 75E7 B000 E6F4 EBFE")


class Endpoint:
    """A control endpoint and the daemon that serves it at the moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"ipc://{folder / 'control'}"
        self.daemon: subprocess.Popen[bytes]

    def serve(self) -> None:
        """Start a daemon."""
        words = ["--listen", self.address, "--engine", "native", "--qmp", f"unix:{self.folder}/qmp"]
        self.daemon = subprocess.Popen([*SERVE, *words], stderr=subprocess.DEVNULL)

    def workers(self) -> list[int]:
        """Return the process ids of the daemon's workers."""
        with contextlib.suppress(FileNotFoundError):
            path = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children")
            return [int(pid) for pid in path.read_text().split()]
        return []

    def wait_for_vcpu(self) -> int:
        """Wait until a vCPU is there; return its worker."""
        deadline = time.monotonic() + 60
        while not list(self.folder.glob("control.d/vcpu-*")):
            assert time.monotonic() < deadline, "no vCPU in time"
            time.sleep(0.005)
        (worker,) = self.workers()
        return worker

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon and return its exit status."""
        self.daemon.send_signal(number)
        return self.daemon.wait(60)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An endpoint with a daemon, which leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as folder:
        served = Endpoint(Path(folder))
        served.serve()
        deadline = time.monotonic() + 60
        while not (served.folder / "control").exists():  # boots do not wait long for the first one
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.005)
        yield served
        if served.daemon.poll() is None:
            assert served.end() == 0
            assert list(served.folder.iterdir()) == []


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A diskette whose boot sector prints characters one after the other, and then ends through the exit port."""
    image = tmp_path / "counter.img"
    image.write_bytes(COUNTER.ljust(510, b"\0") + b"\x55\xaa" + bytes(1474560 - 512))
    return image


class Boots:
    """Starts boots at an endpoint; what a test leaves running is killed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start one that reports in JSON."""
        command = [*BOOT, "--connect", self._endpoint.address, "--json", *map(str, words)]
        boot = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._running.append(boot)
        return boot

    def end(self) -> None:
        """Kill what is left."""
        for boot in self._running:
            if boot.poll() is None:
                boot.kill()
            boot.communicate()


@pytest.fixture
def boots(endpoint: Endpoint) -> Iterator[Boots]:
    """Boots at the endpoint."""
    all_of_them = Boots(endpoint)
    yield all_of_them
    all_of_them.end()


def result(boot: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = boot.communicate(timeout=200)
    assert out, errors
    value: dict[str, Any] = json.loads(out)
    return value


def printed(count: int) -> str:
    return "".join(chr(0x30 + n % 64) for n in range(count))


def test_grub_boots_through_ten_restarts(rescue: Path, endpoint: Endpoint, boots: Boots) -> None:
    # The loop keeps GRUB at work until the tenth daemon is there, however fast the machine is.
    digits = " ".join("0123456789")
    loop = "".join(f"for {name} in {digits}; do " for name in "abcd") + "set end=lo; " + "done; " * 4
    steps = ("--expect", "grub>", "--keys", loop + r"echo hel${end}\n", "--expect", "hello", "--expect", "grub>")
    boot = boots.start(rescue, *steps, "--timeout", 200)
    for seed in range(10):
        endpoint.wait_for_vcpu()
        time.sleep(random.Random(seed).uniform(0.01, 0.06))
        assert boot.poll() is None, "it was over too soon"
        assert endpoint.end() == 0
        endpoint.serve()
    found = result(boot)
    assert boot.returncode == 0, found["detail"]
    assert found["outcome"] == "expected"
    assert "hello" in found["screen"]
    assert found["successions"] == 10
    assert found["resets"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_repeated_or_left_out_when_a_supervisor_ends(
    endpoint: Endpoint, boots: Boots, counter: Path, number: signal.Signals
) -> None:
    """Its workers give every state back, also when it is killed; the next daemon goes on with the next character."""
    boot = boots.start(counter, "--exit-port", EXIT_PORT, "--timeout", 200)
    for _ in range(3):
        worker = endpoint.wait_for_vcpu()
        time.sleep(0.2)
        assert boot.poll() is None, "it was over too soon"
        endpoint.end(number)
        deadline = time.monotonic() + 100
        while runs(worker):
            assert time.monotonic() < deadline, "the worker lives on"
            time.sleep(0.01)
        endpoint.serve()
    found = result(boot)
    assert (found["outcome"], boot.returncode) == ("exited", 1)
    assert found["serial"] == printed(COUNT)
    assert found["successions"] == 3


def test_a_worker_killed_in_mid_run_stops_the_vm_with_the_named_event(
    endpoint: Endpoint, boots: Boots, counter: Path
) -> None:
    boot = boots.start(counter, "--exit-port", EXIT_PORT, "--timeout", 200)
    deadline = time.monotonic() + 60
    while boot.poll() is None:  # one that is hit between two runs loses nothing, and the next one goes on
        assert time.monotonic() < deadline
        worker = endpoint.wait_for_vcpu()
        time.sleep(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            boot.wait(3)
    found = result(boot)
    assert (found["outcome"], boot.returncode) == ("run-lost", Status.RUN_LOST)
    assert "lost in the middle" in found["detail"]
    text = found["serial"]
    assert 0 < len(text) < COUNT
    assert text == printed(len(text)), "nothing has run twice"
    assert endpoint.daemon.poll() is None, "the daemon serves on"
    assert endpoint.workers() == []


def test_without_a_successor_it_ends(endpoint: Endpoint, boots: Boots, counter: Path) -> None:
    boot = boots.start(counter, "--exit-port", EXIT_PORT, "--timeout", 200, "--patience", 0.5)
    endpoint.wait_for_vcpu()
    assert endpoint.end() == 0
    found = result(boot)
    assert (found["outcome"], boot.returncode) == ("lost", Status.DAEMON)
    assert "no daemon answers" in found["detail"] or "shutting down" in found["detail"]
    endpoint.serve()
    deadline = time.monotonic() + 100
    while not (endpoint.folder / "control").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
