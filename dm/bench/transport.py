"""Times requests and I/O exits through a daemon process, beside a bare ZeroMQ echo of the same bytes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from dm.bench.engines import Figure
from dm.bench.kernels import KERNELS, MEMORY, ORIGIN, Kernel
from dm.machine.state import State
from dm.protocol.schema import DoneReason, Kind, Region
from dm.shim.client import Shim, Vcpu
from dm.shim.daemon import OwnDaemon
from dm.shim.ram import Ram

#: in al, dx; jmp back: nothing but device accesses.
_PORT_LOOP = b"\xec\xeb\xfd"


@contextmanager
def machine(endpoint: str, kernel: Kernel, code: bytes = b"") -> Iterator[tuple[Vcpu, State]]:
    """A session with one vCPU and the kernel (or other code) in its memory."""
    with Shim.connect(endpoint, name=f"bench-{kernel.name}") as shim, Ram(MEMORY) as ram:
        program = code or kernel.code
        ram.view[ORIGIN : ORIGIN + len(program)] = program
        for address, data in kernel.memory:
            ram.view[address : address + len(data)] = data
        shim.set_map([Region(0, MEMORY, Kind.RAM, shim.add_ram(ram))])
        yield shim.create_vcpu(0), kernel.start()


class Echo:
    """The echo process, and this side of its conversation."""

    def __init__(self, folder: str, sent: int, answered: int) -> None:
        """Echo ``sent`` bytes with ``answered`` bytes."""
        endpoint = f"ipc://{Path(folder) / f'echo-{sent}-{answered}'}"
        self._process = subprocess.Popen([sys.executable, "-m", "dm.bench.echo", endpoint, str(answered)])
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._message = bytes(sent)
        self.once()

    def once(self) -> None:
        """Make one round trip."""
        self._socket.send(self._message)
        self._socket.recv()

    def close(self) -> None:
        """End the process."""
        self._socket.send(b"")
        self._process.wait()
        self._socket.close(0)


def _time(call: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count * 1e6


def round_trips(engine: str, runs: int, count: int) -> list[Figure]:
    """Return microseconds for a request of one instruction and for an I/O exit, each with the echo's and the ratio.

    Daemon and echo are measured in turn, run by run, so that the ratio holds on a noisy machine.
    """
    figures = []
    with OwnDaemon(engine) as daemon, tempfile.TemporaryDirectory() as folder:
        with machine(daemon.endpoint, KERNELS["alu"]) as (vcpu, state):
            state.ecx = 0x7FFFFFFF
            vcpu.run(state, steps=1)
            before = vcpu.stats.bytes_sent, vcpu.stats.bytes_received
            vcpu.run(state, steps=1)
            sent, received = vcpu.stats.bytes_sent - before[0], vcpu.stats.bytes_received - before[1]
            echo = Echo(folder, sent, received)
            figures += _pairs("request", lambda: vcpu.run(state, steps=1), echo, runs, count)
            echo.close()
        with machine(daemon.endpoint, KERNELS["alu"], _PORT_LOOP) as (vcpu, state):
            vcpu.run(state, steps=2)
            before = vcpu.stats.bytes_sent, vcpu.stats.bytes_received
            vcpu.run(state, steps=2000)
            exits = 1000
            echo = Echo(
                folder, (vcpu.stats.bytes_sent - before[0]) // exits, (vcpu.stats.bytes_received - before[1]) // exits
            )
            theirs, ours = [], []
            for _ in range(runs):
                ours.append(_time(lambda: vcpu.run(state, steps=2 * count), 1) / count)
                theirs.append(_time(echo.once, count))
            figures += _compare("I/O exit", ours, theirs)
            echo.close()
    return figures


def _pairs(name: str, call: Callable[[], object], echo: Echo, runs: int, count: int) -> list[Figure]:
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(_time(call, count))
        theirs.append(_time(echo.once, count))
    return _compare(name, ours, theirs)


def _compare(name: str, ours: list[float], theirs: list[float]) -> list[Figure]:
    return [
        Figure.of(name, "us", ours),
        Figure.of(f"{name}: bare echo", "us", theirs),
        Figure.of(f"{name} / bare echo", "x", [a / b for a, b in zip(ours, theirs, strict=True)]),
    ]


def scaling(engine: str, runs: int, seconds: float) -> list[Figure]:
    """Return MIPS of kernel alu on one vCPU, on two at once, and a request beside a busy VM against an idle daemon."""
    figures = []
    microseconds = int(seconds * 1e6)
    with (
        OwnDaemon(engine) as daemon,
        machine(daemon.endpoint, KERNELS["alu"]) as (first, first_state),
        machine(daemon.endpoint, KERNELS["alu"]) as (second, second_state),
    ):
        alone, together = [], []
        for _ in range(runs):
            alone.append(_busy(first, first_state, microseconds))
            results: list[float] = []
            thread = threading.Thread(target=_busy_into, args=(results, second, second_state, microseconds))
            thread.start()
            mine = _busy(first, first_state, microseconds)
            thread.join()
            together.append(mine + results[0])
        figures += [
            Figure.of("one vCPU", "MIPS", alone),
            Figure.of("two vCPUs", "MIPS", together),
            Figure.of("two vCPUs / one", "x", [b / a for a, b in zip(alone, together, strict=True)]),
        ]
        quiet, beside = [], []
        for _ in range(runs):
            quiet.append(_time(lambda: first.run(first_state, steps=1), 200))
            thread = threading.Thread(target=lambda: _busy(second, second_state, 400_000))
            thread.start()
            time.sleep(0.05)
            beside.append(_time(lambda: first.run(first_state, steps=1), 200))
            thread.join()
        figures += [
            Figure.of("request, another VM busy", "us", beside),
            Figure.of("request, another VM busy / idle", "x", [b / a for a, b in zip(quiet, beside, strict=True)]),
        ]
    return figures


def _busy_into(results: list[float], vcpu: Vcpu, state: State, microseconds: int) -> None:
    results.append(_busy(vcpu, state, microseconds))


def _busy(vcpu: Vcpu, state: State, microseconds: int) -> float:
    state.ecx = 0x7FFFFFFF
    state.rip = ORIGIN
    started = time.perf_counter()
    done = vcpu.run(state, microseconds=microseconds)
    assert done.reason is DoneReason.BUDGET
    return done.instructions / (time.perf_counter() - started) / 1e6


def start_up(engine: str, runs: int) -> list[Figure]:
    """Return seconds from starting the daemon to its first answer, and the memory an idle one with one VM holds."""
    seconds, megabytes = [], []
    for _ in range(runs):
        started = time.perf_counter()
        with OwnDaemon(engine) as daemon, machine(daemon.endpoint, KERNELS["alu"]) as (vcpu, state):
            vcpu.run(state, steps=1)
            seconds.append(time.perf_counter() - started)
            megabytes.append(sum(map(_resident, _family(daemon.pid))) / 1e6)
    return [
        Figure.of("start to first answer", "s", seconds),
        Figure.of("idle memory, daemon and worker", "MB", megabytes),
    ]


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _family(int(child))
    return found


def _resident(pid: int) -> int:
    """Proportional share of memory, in bytes (proc_pid_smaps(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
