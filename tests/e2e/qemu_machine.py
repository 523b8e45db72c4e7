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

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "qemu-patches" / "build.sh"
FIRMWARE = ("-L", "/usr/share/seabios", "-L", "/usr/share/qemu")
RAM = ("-object", "memory-backend-memfd,id=ram,size=128M,share=on", "-machine", "pc,memory-backend=ram", "-m", "128M")


def poll(what: Callable[[], Any], seconds: float, explain: Callable[[], object] = str) -> Any:
    """Return the first true value of ``what()``; fail after ``seconds``."""
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

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "dm.cli", "serve", "--listen", self.endpoint, "--engine", "native"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self._process.stderr is not None
        ready = self._process.stderr.readline()
        assert f"serves {self.endpoint}" in ready, ready + self._process.stderr.read()

    def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill() if kill else process.terminate()
        status = process.wait(20)
        assert process.stderr is not None
        process.stderr.close()
        assert kill or status == 0


class Qemu:
    """A virtual machine with an x86-dm object, seen through QMP and its text screen."""

    def __init__(self, binary: str, folder: Path, endpoint: str, when: str, *words: object, accel: str = "tcg") -> None:
        self._folder = folder
        self.events: list[str] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "qmp"))
        listener.listen(1)
        listener.settimeout(20)
        command = [binary, *FIRMWARE, "-accel", accel, "-nodefaults", "-display", "none", "-vga", "std", *RAM]
        command += ["-qmp", f"unix:{folder / 'qmp'}"]
        command += ["-object", f"x86-dm,id=dm0,endpoint={endpoint},when={when}", *map(str, words)]
        with listener, open(folder / "stderr", "w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr)
            try:
                self._socket = listener.accept()[0]
            except TimeoutError:
                self.process.kill()
                self.process.wait()
                raise AssertionError(self.stderr()) from None
        self._socket.settimeout(20)
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self.command("qmp_capabilities")

    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    def command(self, name: str, **arguments: object) -> Any:
        """Execute a QMP command and return its value; events met on the way are kept by name."""
        json.dump({"execute": name, "arguments": arguments}, self._file)
        self._file.write("\n")
        self._file.flush()
        while True:
            line = self._file.readline()
            assert line, f"QEMU is gone while it does {name}: {self.stderr()}"
            answer = json.loads(line)
            if "event" in answer:
                self.events.append(answer["event"])
            else:
                assert "return" in answer, answer
                return answer["return"]

    def hmp(self, line: str) -> str:
        return str(self.command("human-monitor-command", **{"command-line": line}))

    def info(self) -> dict[str, Any]:
        value: dict[str, Any] = self.command("query-x86-dm")
        return value

    def total(self, counter: str) -> int:
        """Return a counter of query-x86-dm, summed over the vCPUs."""
        return sum(vcpu[counter] for vcpu in self.info()["vcpus"])

    def status(self) -> str:
        return str(self.command("query-status")["status"])

    def screen(self) -> str:
        """Return the text screen, trailing blanks removed."""
        image = self._folder / "screen"
        self.command("pmemsave", val=0xB8000, size=4000, filename=str(image))
        text = image.read_bytes()[::2].decode("cp437")
        return "\n".join(text[at : at + 80].rstrip(" \0") for at in range(0, 2000, 80)).strip()

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until ``text`` is on the screen."""
        poll(lambda: text in self.screen(), seconds, lambda: f"{self.screen()}\n{self.info()}\n{self.stderr()}")

    def type(self, text: str) -> None:
        names = {"\n": "ret", " ": "spc", "-": "minus", "=": "equal"}
        for letter in text:
            key = {"type": "qcode", "data": names.get(letter, letter)}
            self.command("send-key", keys=[key], **{"hold-time": 30})
            time.sleep(0.1)

    def quit(self) -> float:
        """Quit; returns how long that took, in seconds."""
        started = time.monotonic()
        self.command("quit")
        assert self.process.wait(20) == 0, self.stderr()
        return time.monotonic() - started

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._file.close()
        self._socket.close()
