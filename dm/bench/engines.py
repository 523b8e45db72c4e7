"""Times kernels and single requests on an engine in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from dm.bench.kernels import DEVICE, MEMORY, ORIGIN, Kernel
from dm.engine import create
from dm.engine.api import CpuConfig, Engine, Exit, ExitReason, MemoryMap, Region, RegionKind, Until


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
    """A kernel did not end as it must."""


def prepare(kernel: Kernel, engine_name: str) -> Engine:
    """Return an engine with the kernel in its memory."""
    memory = bytearray(MEMORY)
    memory[ORIGIN : ORIGIN + len(kernel.code)] = kernel.code
    for address, data in kernel.memory:
        memory[address : address + len(data)] = data
    engine = create(engine_name, CpuConfig())
    engine.set_map(
        MemoryMap(1, (Region(0, DEVICE, RegionKind.RAM, memory), Region(DEVICE, MEMORY - DEVICE, RegionKind.MMIO)))
    )
    return engine


def run(engine: Engine, kernel: Kernel, rounds: int) -> tuple[float, int]:
    """Run a kernel to its HLT; returns (seconds, instructions)."""
    state = kernel.start()
    state.ecx = rounds
    engine.set_state(state)
    register = 0
    instructions = 0
    started = time.perf_counter()
    while True:
        end: Exit = engine.run()
        instructions += end.instructions
        if end.reason is ExitReason.HALT:
            return time.perf_counter() - started, instructions
        if end.reason is ExitReason.MMIO_READ:
            engine.answer(bytes([register]))
        elif end.reason is ExitReason.MMIO_WRITE:
            register = end.data[0]
            engine.answer()
        elif end.reason is not ExitReason.KICKED:
            raise BenchError(f"kernel {kernel.name} ended with {end.reason} {end.detail}")


def calibrate(attempt: Callable[[int], float], seconds: float) -> int:
    """Return a number of rounds that takes about ``seconds``; ``attempt(rounds)`` gives the time taken."""
    rounds = 1
    while True:
        took = attempt(rounds)
        if took >= seconds / 4:
            return max(1, round(rounds * seconds / took))
        rounds = max(rounds * 2, round(rounds * seconds / 4 / max(took, 1e-6)) if took > 1e-3 else rounds * 8)


def speed(kernel: Kernel, engine_name: str, runs: int, seconds: float) -> Figure:
    """Return the kernel's speed in millions of guest instructions a second, a whole REP counted as one."""
    engine = prepare(kernel, engine_name)
    try:
        rounds = calibrate(lambda n: run(engine, kernel, n)[0], seconds)
        values = []
        for _ in range(runs):
            took, instructions = run(engine, kernel, rounds)
            values.append(instructions / took / 1e6)
        return Figure.of(kernel.name, "MIPS", values)
    finally:
        engine.close()


def single_requests(kernel: Kernel, engine_name: str, runs: int, count: int) -> list[Figure]:
    """Return what one instruction costs as a request without transport, and what moving the state costs."""
    engine = prepare(kernel, engine_name)
    state = kernel.start()
    state.ecx = 0x7FFFFFFF
    engine.set_state(state)
    one, whole = [], []
    for _ in range(runs):
        started = time.perf_counter()
        for _ in range(count):
            engine.run(Until.NEVER, 1)
        one.append((time.perf_counter() - started) / count * 1e6)
        started = time.perf_counter()
        for _ in range(count):
            engine.set_state(state)
            engine.run(Until.NEVER, 1)
            engine.get_state()
        whole.append((time.perf_counter() - started) / count * 1e6)
    engine.close()
    return [Figure.of("single request", "us", one), Figure.of("single request, state in and out", "us", whole)]
