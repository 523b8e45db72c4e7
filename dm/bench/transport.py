"""Times requests and I/O exits through a daemon process, beside a bare ZeroMQ echo of the same bytes."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from dm.bench.engines import BenchError, Figure
from dm.bench.kernels import KERNELS, MEMORY, ORIGIN, Kernel, real_mode
from dm.machine.state import State
from dm.protocol.schema import DoneReason, Kind, Region
from dm.shim.client import Shim, Vcpu
from dm.shim.daemon import OwnDaemon
from dm.shim.ram import Ram

#: in al, dx; jmp back: nothing but device accesses.
_PORT_LOOP = b"\xec\xeb\xfd"


@contextmanager
def machine(endpoint: str, kernel: Kernel, code: bytes = b"", vcpus: int = 1) -> Iterator[tuple[Any, ...]]:
    """A session with the kernel (or other code) in its memory; yields its vCPUs and the state they start from."""
    with Shim.connect(endpoint, name=f"bench-{kernel.name}") as shim, Ram(MEMORY) as ram:
        program = code or kernel.code
        ram.view[ORIGIN : ORIGIN + len(program)] = program
        for address, data in kernel.memory:
            ram.view[address : address + len(data)] = data
        shim.set_map([Region(0, MEMORY, Kind.RAM, shim.add_ram(ram))])
        yield *(shim.create_vcpu(number) for number in range(vcpus)), real_mode()


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


def _bytes(vcpu: Vcpu, call: Callable[[], object]) -> tuple[int, int]:
    """Return how many bytes a vCPU sends and receives in a second call."""
    call()
    before = vcpu.stats.bytes_sent, vcpu.stats.bytes_received
    call()
    return vcpu.stats.bytes_sent - before[0], vcpu.stats.bytes_received - before[1]


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
            echo = Echo(folder, *_bytes(vcpu, lambda: vcpu.run(state, steps=1)))
            figures += _pairs("request", lambda: vcpu.run(state, steps=1), echo, runs, count)
            echo.close()
        with machine(daemon.endpoint, KERNELS["alu"], _PORT_LOOP) as (vcpu, state):
            vcpu.run(state, steps=2)
            exits = 1000
            sent, received = _bytes(vcpu, lambda: vcpu.run(state, steps=2 * exits))
            echo = Echo(folder, sent // exits, received // exits)
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
        Figure.of(f"{name} / bare echo", "x", _over(ours, theirs)),
    ]


def beside_busy(engine: str, runs: int, count: int) -> list[Figure]:
    """Return round trips and their echoes again while a second VM runs without pause, and how much longer they take.

    Each run measures idle, then busy, with the daemon and the echo in turn.
    """
    figures = []
    with (
        OwnDaemon(engine) as daemon,
        tempfile.TemporaryDirectory() as folder,
        machine(daemon.endpoint, KERNELS["alu"]) as (vcpu, state),
        machine(daemon.endpoint, KERNELS["alu"], _PORT_LOOP) as (device, device_state),
        machine(daemon.endpoint, KERNELS["alu"]) as (other, other_state),
    ):
        state.ecx = 0x7FFFFFFF
        echo = Echo(folder, *_bytes(vcpu, lambda: vcpu.run(state, steps=1)))
        calls: dict[str, Callable[[], float]] = {
            "request": lambda: _time(lambda: vcpu.run(state, steps=1), count),
            "I/O exit": lambda: _time(lambda: device.run(device_state, steps=2 * count), 1) / count,
            "bare echo": lambda: _time(echo.once, count),
        }
        for call in calls.values():
            call()
        idle: dict[str, list[float]] = {name: [] for name in calls}
        busy: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(runs):
            for name, call in calls.items():
                idle[name].append(call())
            with _running(other, other_state):
                for name, call in calls.items():
                    busy[name].append(call())
        echo.close()
    for name in calls:
        figures += [
            Figure.of(f"{name}, another VM busy", "us", busy[name]),
            Figure.of(f"{name}, another VM busy / idle", "x", _over(busy[name], idle[name])),
        ]
    for name in ("request", "I/O exit"):
        ratio = _over(busy[name], busy["bare echo"])
        figures.append(Figure.of(f"{name} / bare echo, another VM busy", "x", ratio))
    return figures


@contextmanager
def _running(vcpu: Vcpu, state: State) -> Iterator[None]:
    """Keep a vCPU running, in runs of 50 ms, until the end of the ``with``."""
    end = threading.Event()

    def keep() -> None:
        while not end.is_set():
            _busy(vcpu, state, 50_000)

    thread = threading.Thread(target=keep)
    thread.start()
    time.sleep(0.05)
    try:
        yield
    finally:
        end.set()
        thread.join()


def scaling(engine: str, runs: int, seconds: float) -> list[Figure]:
    """Return MIPS of kernel alu on one vCPU, on two vCPUs of one VM, and on one each of two VMs."""
    microseconds = int(seconds * 1e6)
    with (
        OwnDaemon(engine) as daemon,
        machine(daemon.endpoint, KERNELS["alu"], vcpus=2) as (first, second, state),
        machine(daemon.endpoint, KERNELS["alu"]) as (other, other_state),
    ):
        alone, siblings, apart = [], [], []
        for _ in range(runs):
            alone.append(_busy(first, copy.deepcopy(state), microseconds))
            pairs = ((first, copy.deepcopy(state)), (second, copy.deepcopy(state)))
            siblings.append(_together(pairs, microseconds))
            apart.append(_together(((first, copy.deepcopy(state)), (other, other_state)), microseconds))
    return [
        Figure.of("one vCPU", "MIPS", alone),
        Figure.of("two vCPUs of one VM", "MIPS", siblings),
        Figure.of("two vCPUs of one VM / one", "x", _over(siblings, alone)),
        Figure.of("two VMs", "MIPS", apart),
        Figure.of("two VMs / one", "x", _over(apart, alone)),
    ]


def _together(pairs: Iterable[tuple[Vcpu, State]], microseconds: int) -> float:
    """Return the sum of the MIPS of vCPUs that run at the same time."""
    with ThreadPoolExecutor() as pool:
        return sum([run.result() for run in [pool.submit(_busy, *pair, microseconds) for pair in pairs]])


def _busy(vcpu: Vcpu, state: State, microseconds: int) -> float:
    state.ecx = 0x7FFFFFFF
    state.rip = ORIGIN
    started = time.perf_counter()
    done = vcpu.run(state, microseconds=microseconds)
    taken = time.perf_counter() - started
    if done.reason is not DoneReason.BUDGET:
        raise BenchError(f"a run of {microseconds} us ended with {done.reason.name}")
    return done.instructions / taken / 1e6


def _over(values: list[float], by: list[float]) -> list[float]:
    return [a / b for a, b in zip(values, by, strict=True)]
