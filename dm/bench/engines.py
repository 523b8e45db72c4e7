"""Times kernels and single requests on an engine in this process."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from dm.bench import image
from dm.bench.kernels import DEVICE, MEMORY, ORIGIN, Kernel, real_mode
from dm.engine import create
from dm.engine.api import CpuConfig, ExitReason, MemoryMap, Region, RegionKind, RunRequest
from dm.machine.state import State


@dataclass(frozen=True)
class Figure:
    """One measurement: the median of its runs, with the lowest and highest."""

    name: str
    unit: str
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, unit: str, values: list[float]) -> Figure:
        """Summarise the runs."""
        return cls(name, unit, statistics.median(values), min(values), max(values))


class BenchError(Exception):
    """A kernel did not end as it must, or a program that is measured failed."""


@dataclass(frozen=True)
class Ran:
    """What one run of an image's kernel took and gave; a whole REP is one instruction."""

    seconds: float
    instructions: int
    checksum: int

    @property
    def mips(self) -> float:
        """Millions of instructions a second."""
        return self.instructions / self.seconds / 1e6


class BenchMachine:
    """An engine with RAM below DEVICE, a device register there, and an image where a PC has its firmware."""

    def __init__(self, engine: str) -> None:
        """Make one; ``engine`` is ``native`` or ``python``."""
        self._memory = mmap.mmap(-1, MEMORY)  # whole pages, as a guest's RAM is
        self.engine = create(engine, CpuConfig())
        top = MEMORY - image.SIZE
        self.engine.set_map(
            MemoryMap(
                1,
                (
                    Region(0, DEVICE, RegionKind.RAM, self._memory),
                    Region(DEVICE, top - DEVICE, RegionKind.MMIO),
                    Region(top, image.SIZE, RegionKind.ROM, self._memory, top),
                    Region((1 << 32) - image.SIZE, image.SIZE, RegionKind.ROM, self._memory, top),
                ),
            )
        )

    def run(self, kernel: Kernel, rounds: int) -> Ran:
        """Run a kernel's image from reset.

        Raises:
            BenchError: it does not end in HLT, or leaves no checksum.
        """
        try:
            return self.boot(image.build(kernel, rounds))
        except BenchError as error:
            raise BenchError(f"kernel {kernel.name} {error}") from None

    def boot(self, rom: bytes) -> Ran:
        """Run an image from reset.

        Raises:
            BenchError: it does not end in HLT, or leaves no checksum.
        """
        self._memory[-image.SIZE :] = rom
        self.engine.set_state(State.reset())
        reader = image.Reader()
        register = instructions = 0
        while True:
            end = self.engine.run()
            now = time.perf_counter()
            if reader.started is not None and reader.ended is None:
                instructions += end.instructions
            if end.reason is ExitReason.PORT_OUT and end.address == image.DEBUG_PORT:
                reader.feed(end.data, now)
                self.engine.answer()
            elif end.reason is ExitReason.MMIO_READ:
                self.engine.answer(bytes([register]))
            elif end.reason is ExitReason.MMIO_WRITE:
                register = end.data[0]
                self.engine.answer()
            elif end.reason is ExitReason.HALT and reader.checksum is not None:
                return Ran(reader.seconds, instructions, reader.checksum)
            elif end.reason is not ExitReason.KICKED:
                raise BenchError(f"ended with {end.reason} {end.detail}".rstrip())

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def calibrate(attempt: Callable[[int], float], seconds: float, first: int = 1, most: int = (1 << 32) - 1) -> int:
    """Return a number of rounds that takes about ``seconds``; ``attempt(rounds)`` gives the time taken.

    ``first`` is tried first; the result is at most ``most``.
    """
    rounds = first
    while True:
        took = attempt(rounds)
        if took >= seconds / 4 or rounds == most:
            return min(most, max(1, round(rounds * seconds / took)))
        # A time this short says little, and less than the half of what is wanted is enough for the last step.
        grow = seconds / 2 / took if took > 2e-3 else 16.0
        rounds = min(most, round(rounds * min(256.0, max(2.0, grow))))


def single_requests(kernel: Kernel, engine_name: str, runs: int, count: int) -> list[Figure]:
    """Return microseconds that one instruction takes as a request without transport.

    ``run``: nothing but that.  ``registers in and out``: a request that brings the general registers and is answered
    with the groups that changed, as a program of its own or the daemon's path in Python does it (the one in C takes
    less).  ``whole state``: all of it, as an object with checks.
    """
    machine = BenchMachine(engine_name)
    engine = machine.engine
    memory = bytearray(MEMORY)
    memory[ORIGIN : ORIGIN + len(kernel.code)] = kernel.code
    engine.set_map(MemoryMap(2, (Region(0, MEMORY, RegionKind.RAM, memory),)))
    state = real_mode()
    state.ecx = 0x7FFFFFFF
    engine.set_state(state)
    registers = {"general": list(engine.get_groups()["general"])}
    step = RunRequest(budget=1)

    def one() -> None:
        engine.run(step)

    def groups() -> None:
        engine.set_groups(registers)
        engine.run(step)
        engine.get_groups()

    def whole() -> None:
        engine.set_state(state)
        engine.run(step)
        engine.get_state()

    names = {
        "run of one instruction": one,
        "single request, registers in and out": groups,
        "single request, whole state in and out": whole,
    }
    values: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        for name, call in names.items():
            started = time.perf_counter()
            for _ in range(count):
                call()
            values[name].append((time.perf_counter() - started) / count * 1e6)
    machine.close()
    return [Figure.of(name, "us", taken) for name, taken in values.items()]
