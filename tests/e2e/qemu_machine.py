"""Patched QEMU and the daemon as processes, for the tests that need both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import need

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "qemu-patches" / "build.sh"
GUESTS = Path(__file__).resolve().parent / "qemu_guests"
FIRMWARE = ("-L", "/usr/share/seabios", "-L", "/usr/share/qemu")


def ram(megabytes: int = 128) -> list[str]:
    """Return the options for a PC whose RAM can be shared."""
    backend = f"memory-backend-memfd,id=ram,size={megabytes}M,share=on"
    return ["-object", backend, "-machine", "pc,memory-backend=ram", "-m", f"{megabytes}M"]


def need_kvm() -> None:
    """Skip where there is no usable KVM."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm cannot be used")


def assemble(name: str, folder: Path) -> Path:
    """Make a 64 KiB ROM of the guest ``name``."""
    need("as", "ld")
    parts, binary = folder / f"{name}.o", folder / f"{name}.bin"
    for words in (
        ["as", "--32", "-I", GUESTS, GUESTS / f"{name}.s", "-o", parts],
        ["ld", "-m", "elf_i386", "-Ttext", "0x10000", "--oformat", "binary", parts, "-o", binary],
    ):
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    code = binary.read_bytes()
    assert len(code) < 0xFC00, f"{name} has {len(code)} bytes"
    reset = bytes.fromhex("ea000000f0")  # jmp f000:0
    rom = folder / f"{name}.rom"
    rom.write_bytes(code.ljust(0xFFF0, b"\xf4") + reset.ljust(16, b"\0"))
    return rom


def expected(name: str) -> str:
    """Return what hardware makes the guest ``name`` print."""
    return (GUESTS / f"{name}.txt").read_text()


def poll(what: Callable[[], Any], seconds: float, explain: Callable[[], object] = str) -> Any:
    """Return the first true value of ``what()``; fail after ``seconds``, or 100 where a busy machine may need them."""
    seconds = max(seconds, 100)
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain\n{explain()}"
        time.sleep(0.05)
    return value


class Daemon:
    """``x86-dm serve``, which can be started again on the same endpoint."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder / 'control'}"
        self._process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "-P", "-m", "dm.cli", "serve", "--listen", self.endpoint, "--engine", "native"]
        command += options
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self._process.stderr is not None
        ready = self._process.stderr.readline()
        assert f"serves {self.endpoint}" in ready, ready + self._process.stderr.read()

    @property
    def pid(self) -> int:
        """The daemon's own process."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Return the processes that run guests."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        children = [int(pid) for task in tasks for pid in task.read_text().split()]
        return [pid for pid in children if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill() if kill else process.terminate()
        status = process.wait(100)
        assert process.stderr is not None
        process.stderr.close()
        assert kill or status == 0


class Qemu:
    """A virtual machine with an x86-dm object, seen through QMP and its text screen."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        endpoint: str,
        when: str | None,
        *words: object,
        accel: str = "tcg",
        memory: int = 128,
    ) -> None:
        """Start one; ``folder`` is its own.  Without ``when`` it has no x86-dm object."""
        self._folder = folder
        self.events: list[str] = []
        self.data: dict[str, Any] = {}  # of the last event of each name
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "qmp"))
        listener.listen(1)
        listener.settimeout(100)
        command = [binary, *FIRMWARE, "-accel", accel, "-nodefaults", "-display", "none", "-vga", "std", *ram(memory)]
        command += ["-qmp", f"unix:{folder / 'qmp'}", "-debugcon", f"file:{folder / 'console'}"]
        if when is not None:
            command += ["-object", f"x86-dm,id=dm0,endpoint={endpoint},when={when}"]
        command += [str(word) for word in words]
        with listener, open(folder / "stderr", "w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr)
            try:
                self._socket = listener.accept()[0]
            except TimeoutError:
                self.process.kill()
                self.process.wait()
                raise AssertionError(self.stderr()) from None
        self._socket.settimeout(60)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.command("qmp_capabilities")

    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    def _execute(self, name: str, arguments: dict[str, object]) -> dict[str, Any]:
        json.dump({"execute": name, "arguments": arguments}, self._file)
        self._file.write("\n")
        self._file.flush()
        while True:
            line = self._file.readline()
            assert line, f"QEMU is gone while it does {name}: {self.stderr()}"
            answer: dict[str, Any] = json.loads(line)
            if "event" not in answer:
                return answer
            self.events.append(answer["event"])
            self.data[answer["event"]] = answer.get("data")

    def command(self, name: str, **arguments: object) -> Any:
        """Execute a QMP command and return its value; events met on the way are kept by name."""
        answer = self._execute(name, arguments)
        assert "return" in answer, answer
        return answer["return"]

    def refused(self, name: str, **arguments: object) -> str:
        """Execute a QMP command that must fail, and return what it says."""
        answer = self._execute(name, arguments)
        assert "error" in answer, answer
        return str(answer["error"]["desc"])

    def job(self, name: str, **arguments: object) -> None:
        """Execute a QMP command that starts a job, and wait for its end."""
        self.command(name, **{"job-id": "test", **arguments})

        def concluded() -> dict[str, Any] | None:
            return next((job for job in self.command("query-jobs") if job["status"] == "concluded"), None)

        job = poll(concluded, 60)
        self.command("job-dismiss", id="test")
        assert "error" not in job, job

    def hmp(self, line: str) -> str:
        return str(self.command("human-monitor-command", **{"command-line": line}))

    def info(self) -> dict[str, Any]:
        """Return what query-x86-dm says of the machine's one object."""
        value: dict[str, Any]
        (value,) = self.command("query-x86-dm")
        return value

    def total(self, counter: str) -> int:
        """Return a counter of query-x86-dm, summed over the vCPUs."""
        return sum(vcpu[counter] for vcpu in self.info()["vcpus"])

    def status(self) -> str:
        return str(self.command("query-status")["status"])

    def screen(self) -> str:
        """Return the text screen, trailing blanks removed."""
        text = self.memory(0xB8000, 4000)[::2].decode("cp437")
        return "\n".join(text[at : at + 80].rstrip(" \0") for at in range(0, 2000, 80)).strip()

    def console(self) -> str:
        """Return what the guest has written to its debug console."""
        return (self._folder / "console").read_text(errors="replace")

    def finish(self, seconds: float = 60) -> str:
        """Wait until the guest has said that it is done; return its output."""
        explain = lambda: f"{self.console()}\n{self.status()} {self.hmp('info registers')}\n{self.stderr()}"  # noqa: E731
        poll(lambda: self.console().endswith("end\n"), seconds, explain)
        return self.console()

    def memory(self, address: int, size: int) -> bytes:
        """Return guest-physical memory."""
        image = self._folder / "memory"
        self.command("pmemsave", val=address, size=size, filename=str(image))
        return image.read_bytes()

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until ``text`` is on the screen."""
        poll(lambda: text in self.screen(), seconds, lambda: f"{self.screen()}\n{self.info()}\n{self.stderr()}")

    def type(self, text: str) -> None:
        names = {"\n": "ret", " ": "spc", "-": "minus", "=": "equal", ".": "dot"}
        for letter in text:
            key = {"type": "qcode", "data": names.get(letter, letter)}
            self.command("send-key", keys=[key], **{"hold-time": 30})
            time.sleep(0.1)

    def quit(self) -> None:
        """Quit, and be gone within 20 s: less than an absent daemon is waited for."""
        self.command("quit")
        assert self.process.wait(100) == 0, self.stderr()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._file.close()
        self._socket.close()
