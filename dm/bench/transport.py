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
from typing import Any, Final

import zmq

from dm.bench.echo import receiver
from dm.bench.engines import BenchError, Figure
from dm.bench.kernels import KERNELS, MEMORY, ORIGIN, Kernel, real_mode
from dm.machine.state import State
from dm.protocol.schema import DoneReason, Kind, Region
from dm.shim.client import Shim
from dm.shim.daemon import OwnDaemon
from dm.shim.ram import Ram
from dm.shim.vcpu import Vcpu

#: in al, dx; jmp back: nothing but device accesses.
_PORT_LOOP: Final = b"\xec\xeb\xfd"
#: Calls between two turns.
_TURN: Final = 100


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

    def __init__(self, folder: str, sent: int, answered: int, awake: bool = False) -> None:
        """Echo ``sent`` bytes with ``answered`` bytes; see :mod:`dm.bench.echo` for ``awake``."""
        endpoint = f"ipc://{Path(folder) / f'echo-{sent}-{answered}-{awake}'}"
        words = [endpoint, str(answered), *(["awake"] if awake else [])]
        self._process = subprocess.Popen([sys.executable, "-P", "-m", "dm.bench.echo", *words])
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._receive = receiver(self._socket, awake)
        self._message = bytes(sent)
        self.times(1)

    def times(self, count: int) -> None:
        """Make ``count`` round trips."""
        for _ in range(count):
            self._socket.send(self._message)
            self._receive()

    def close(self) -> None:
        """End the process."""
        self._socket.send(b"")
        self._process.wait()
        self._socket.close(0)


def _bytes(vcpu: Vcpu, call: Callable[[int], None]) -> tuple[int, int]:
    """Return how many bytes a vCPU sends and receives in each of many calls."""
    call(_TURN)
    before = vcpu.stats.bytes_sent, vcpu.stats.bytes_received
    call(_TURN)
    return (vcpu.stats.bytes_sent - before[0]) // _TURN, (vcpu.stats.bytes_received - before[1]) // _TURN


def _in_turn(calls: dict[str, Callable[[int], None]], count: int) -> dict[str, float]:
    """Return microseconds of each call; ``call(n)`` makes it n times.

    They take turns every :data:`_TURN` calls, so that what else the machine does falls on all alike.
    """
    taken = dict.fromkeys(calls, 0.0)
    for _ in range(max(1, count // _TURN)):
        for name, call in calls.items():
            started = time.perf_counter()
            call(_TURN)
            taken[name] += time.perf_counter() - started
    return {name: seconds / (max(1, count // _TURN) * _TURN) * 1e6 for name, seconds in taken.items()}


def round_trips(engine: str, runs: int, count: int) -> list[Figure]:
    """Return microseconds for a request of one instruction and for an I/O exit, each with its echoes and the ratios.

    ``bare echo`` sleeps while it waits, as a plain program would; ``echo awake`` waits as shim and daemon do.
    """
    with (
        OwnDaemon(engine) as daemon,
        tempfile.TemporaryDirectory() as folder,
        machine(daemon.endpoint, KERNELS["alu"]) as (vcpu, state),
        machine(daemon.endpoint, KERNELS["alu"], _PORT_LOOP) as (device, device_state),
    ):
        request, exits = _calls(vcpu, state, device, device_state)
        values: dict[str, list[dict[str, float]]] = {}
        for name, own, call in (("request", vcpu, request), ("I/O exit", device, exits)):
            size = _bytes(own, call)
            asleep, awake = Echo(folder, *size), Echo(folder, *size, awake=True)
            calls = {name: call, f"{name}: bare echo": asleep.times, f"{name}: echo awake": awake.times}
            _in_turn(calls, 1)
            values[name] = [_in_turn(calls, count) for _ in range(runs)]
            asleep.close()
            awake.close()
    figures = []
    for name, taken in values.items():
        figures += [Figure.of(key, "us", [run[key] for run in taken]) for key in taken[0]]
        for echo in ("bare echo", "echo awake"):
            ratio = [run[name] / run[f"{name}: {echo}"] for run in taken]
            figures.append(Figure.of(f"{name} / {echo}", "x", ratio))
    return figures


def _calls(
    vcpu: Vcpu, state: State, device: Vcpu, device_state: State
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return functions that make n requests of one instruction, and one request with n I/O exits."""
    state.ecx = 0x7FFFFFFF

    def request(count: int) -> None:
        for _ in range(count):
            vcpu.run(state, steps=1)

    def exits(count: int) -> None:
        device.run(device_state, steps=2 * count)

    return request, exits


def beside_busy(engine: str, runs: int, count: int) -> list[Figure]:
    """Return round trips and their echoes again while a second VM runs without pause, and how much longer they take.

    Each run measures idle, then busy.
    """
    with (
        OwnDaemon(engine) as daemon,
        tempfile.TemporaryDirectory() as folder,
        machine(daemon.endpoint, KERNELS["alu"]) as (vcpu, state),
        machine(daemon.endpoint, KERNELS["alu"], _PORT_LOOP) as (device, device_state),
        machine(daemon.endpoint, KERNELS["alu"]) as (other, other_state),
    ):
        request, exits = _calls(vcpu, state, device, device_state)
        echo = Echo(folder, *_bytes(vcpu, request))
        calls = {"request": request, "I/O exit": exits, "bare echo": echo.times}
        _in_turn(calls, 1)
        idle, busy = [], []
        for _ in range(runs):
            idle.append(_in_turn(calls, count))
            with _running(other, other_state):
                busy.append(_in_turn(calls, count))
        echo.close()
    figures = []
    for name in calls:
        then, now = [run[name] for run in idle], [run[name] for run in busy]
        figures += [
            Figure.of(f"{name}, another VM busy", "us", now),
            Figure.of(f"{name}, another VM busy / idle", "x", _over(now, then)),
        ]
    for name in ("request", "I/O exit"):
        ratio = [run[name] / run["bare echo"] for run in busy]
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
