"""Times whole programs: the daemon's start, its memory, a boot to GRUB's prompt, the build of the native engine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dm.bench.engines import BenchError, Figure
from dm.bench.kernels import KERNELS
from dm.bench.transport import machine
from dm.shim.daemon import OwnDaemon

_GRUB: Final = Path("/usr/lib/grub/i386-pc")
_GRUB_PACKAGES: Final = "grub-common grub-pc-bin xorriso mtools"
_MIB: Final = 1 << 20
#: mov ah, 1; int 16h; jmp to the start: a guest that polls for a key.
_POLL: Final = bytes.fromhex("b401cd16ebfa")


class Skipped(Exception):
    """This cannot be measured here; the text says what is missing and what brings it."""


def start_up(engine: str, runs: int) -> list[Figure]:
    """Return how long a start takes and what an idle daemon holds, without and with one VM.

    ``start to listening``: from the exec of ``x86-dm serve`` until its control socket is there (looked for every
    10 ms).  ``start to first answer``: on from there through hello, a worker process for the session, shared RAM, a
    memory map and a vCPU, until a request of one instruction is answered.  Memory is the sum over supervisor and
    worker: ``resident`` counts pages they share with each other or with anyone else in each of them, ``proportional``
    divides such pages by their users, of whom this program is one.
    """
    listening, answered = [], []
    names = ("daemon", "daemon and one VM")
    resident: dict[str, list[float]] = {name: [] for name in names}
    share: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        started = time.perf_counter()
        with OwnDaemon(engine) as daemon:
            listening.append(time.perf_counter() - started)
            empty = _family(daemon.pid)
            before = _memory(empty)
            began = time.perf_counter()
            with machine(daemon.endpoint, KERNELS["alu"]) as (vcpu, state):
                vcpu.run(state, steps=1)
                answered.append(listening[-1] + time.perf_counter() - began)
                time.sleep(0.2)  # idle, as the name says
                for name, (rss, pss) in zip(names, (before, _memory(_family(daemon.pid))), strict=True):
                    resident[name].append(rss)
                    share[name].append(pss)
    return [
        Figure.of("start to listening", "s", listening),
        Figure.of("start to first answer", "s", answered),
        *(Figure.of(f"idle memory, {name}: resident", "MiB", resident[name]) for name in names),
        *(Figure.of(f"idle memory, {name}: proportional", "MiB", share[name]) for name in names),
    ]


def time_to_grub(engine: str, runs: int) -> list[Figure]:
    """Return how long ``x86-dm boot`` takes from its exec until ``grub>`` is on the screen and it has ended.

    That is two Python interpreters, a daemon, a worker, the small PC's power-on and all of GRUB from a rescue CD; the
    other two figures are parts of it: from power-on to the prompt, and of that, what requests to the daemon took
    (guest code with its device accesses; the rest is GRUB waiting for the clock and for keys).

    Raises:
        Skipped: GRUB or the tools that make the CD are not installed.
    """
    tools = ("grub-mkrescue", "xorriso", "mformat")
    if not _GRUB.is_dir() or not all(map(shutil.which, tools)):
        raise Skipped(f"no GRUB for PC BIOS here: apt-get install --no-install-recommends {_GRUB_PACKAGES}")
    whole, boot, running = [], [], []
    with tempfile.TemporaryDirectory(prefix="x86-dm-grub-") as name:
        image = Path(name, "rescue.iso")
        empty = Path(name, "empty")
        empty.mkdir()
        _finish(["grub-mkrescue", "-d", str(_GRUB), "-o", str(image), str(empty)])
        command = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", engine, "--json"]
        for _ in range(runs):
            started = time.perf_counter()
            report = json.loads(_finish([*command, "--expect", "grub>", "--timeout", "120", str(image)]))
            whole.append(time.perf_counter() - started)
            boot.append(report["stats"]["wall_seconds"])
            running.append(report["stats"]["running_seconds"])
    return [
        Figure.of("grub>, whole command", "s", whole),
        Figure.of("grub>, from power-on", "s", boot),
        Figure.of("grub>, requests to the daemon", "s", running),
    ]


def idle_guest(engine: str, runs: int, seconds: float) -> list[Figure]:
    """Return what a guest costs that waits for a key, in percent of one processor.

    CPU time (proc_pid_schedstat(5)) of ``x86-dm boot`` with its daemon and worker, while a boot sector polls INT 16h as
    loaders do and the clock ticks.  Measured for ``seconds`` each time, once the guest has come to rest.

    Raises:
        BenchError: the boot has ended.
    """
    with tempfile.TemporaryDirectory(prefix="x86-dm-idle-") as name:
        image = Path(name, "poll.img")
        image.write_bytes((_POLL.ljust(510, b"\0") + b"\x55\xaa").ljust(1440 << 10, b"\0"))
        words = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", engine, "--json", str(image)]
        boot = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(3)
            share = [_share(boot, seconds) for _ in range(runs)]
        finally:
            boot.terminate()
            boot.wait()
    return [Figure.of("idle guest: CPU", "%", share)]


def _share(boot: subprocess.Popen[bytes], seconds: float) -> float:
    began, before = time.perf_counter(), _cpu_time(boot.pid)
    time.sleep(seconds)
    used, passed = _cpu_time(boot.pid) - before, time.perf_counter() - began
    if boot.poll() is not None:
        raise BenchError(f"the boot ended with {boot.returncode} while it should have waited for a key")
    return used / passed * 100


def _cpu_time(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, all of their threads."""
    tasks = [task for member in _family(pid) for task in Path(f"/proc/{member}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def build_time(runs: int) -> list[Figure]:
    """Return how long generating and compiling the native engine takes, from nothing, into a scratch directory.

    Raises:
        Skipped: there is no C compiler.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))[0]
    if shutil.which(compiler) is None:
        raise Skipped(f"no C compiler ({compiler}): apt-get install --no-install-recommends gcc libc6-dev python3-dev")
    seconds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="x86-dm-build-") as name:
            places = ["--out", str(Path(name, "out")), "--target", name]
            started = time.perf_counter()
            _finish([sys.executable, "-P", "-m", "dm.engine.native.build", *places])
            seconds.append(time.perf_counter() - started)
    return [Figure.of("building the native engine", "s", seconds)]


def _finish(command: Sequence[str]) -> str:
    """Run a program to its end and return what it prints.

    Raises:
        BenchError: it failed, with its last line.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        try:
            reason = json.loads(done.stdout)["detail"]  # of a boot
        except (ValueError, KeyError, TypeError):
            reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise BenchError(f"{shlex.join(command[:5])} ... ended with {done.returncode}: {reason}")
    return done.stdout


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _family(int(child))
    return found


def _memory(processes: Sequence[int]) -> tuple[float, float]:
    """Return resident memory and the proportional share of it, in MiB (proc_pid_smaps(5))."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in processes:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sums:
                sums[name] += int(rest.split()[0]) * 1024
    return sums["Rss"] / _MIB, sums["Pss"] / _MIB
