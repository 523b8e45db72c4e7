"""What each check of the native engine costs: ``python -m dm.bench.checks DIRECTORY``.

Builds the engine once as it is and once without each check (``python -m dm.engine.native.build --without``) below
DIRECTORY, then runs every kernel on all of them in turn, one process for each.  A figure is the median, over all
turns, of the time with the check over the time without it, from processor time of the thread that ran.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from dm.bench.kernels import KERNELS, MEMORY, ORIGIN, TABLES, Kernel, real_mode
from dm.engine.api import CpuConfig, Engine, ExitReason, MemoryMap, Region, RegionKind
from dm.engine.native.build import CHECKS
from dm.machine.architecture import Cr0, Rights
from dm.machine.state import State

#: Where kernels return to: HLT.
_END: Final = 0x500
#: Kernels of guest code alone.
MEASURED: Final = tuple(name for name, kernel in KERNELS.items() if not kernel.device)
#: Named builds beside those that lack one check each: the engine as it is, and without all that keeps it exact.
PRODUCT, BARE = "all", "limits,tlb,budget,smc"


def start(kernel: Kernel, rounds: int) -> State:
    """Return the state in which the kernel is called, with as many rounds."""
    state = real_mode()
    if kernel.paged:
        state.cr0, state.cr3 = Cr0.PG | Cr0.ET | Cr0.PE, TABLES
        for seg in state.seg[:6]:
            seg.selector, seg.base, seg.limit, seg.attributes = 0x10, 0, 0xFFFFFFFF, Rights.FLAT | Rights.DATA
        state.cs.selector, state.cs.attributes = 8, Rights.FLAT | Rights.TEXT
    state.esp, state.ecx = kernel.stack - 4, rounds
    return state


def memory(kernel: Kernel) -> bytearray:
    """Return RAM with the kernel, and the address it returns to on its stack."""
    ram = bytearray(MEMORY)
    for address, data in ((ORIGIN, kernel.code), *kernel.memory, (_END, b"\xf4")):
        ram[address : address + len(data)] = data
    ram[kernel.stack - 4 : kernel.stack] = _END.to_bytes(4, "little")
    return ram


def load(module: str) -> None:
    """Put an extension in the place of the package's own, whatever it was built without.

    Raises:
        ImportError: the file is no extension module.
    """
    import dm.engine

    spec = importlib.util.spec_from_file_location("dm.engine._native", module)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} is not an extension module")
    made = importlib.util.module_from_spec(spec)
    sys.modules["dm.engine._native"] = made
    spec.loader.exec_module(made)
    dm.engine._native = made


def work(module: str, source: IO[str], sink: IO[str]) -> None:
    """Time what is asked for in lines ``KERNEL ROUNDS``; answer ``SECONDS INSTRUCTIONS`` to each.

    Raises:
        ImportError: ``module`` is no extension module.
        RuntimeError: a kernel does not end as it should.
    """
    load(module)
    from dm.engine.native_engine import NativeEngine

    engines: dict[str, Engine] = {}
    for line in source:
        name, rounds = line.split()
        kernel = KERNELS[name]
        if name not in engines:
            engines[name] = NativeEngine(CpuConfig())
            engines[name].set_map(MemoryMap(1, (Region(0, MEMORY, RegionKind.RAM, memory(kernel)),)))
        engine = engines[name]
        engine.set_state(start(kernel, int(rounds)))
        instructions, began = 0, time.thread_time()
        while (end := engine.run()).reason is not ExitReason.HALT:
            if end.reason is not ExitReason.KICKED:
                raise RuntimeError(f"kernel {name} ended with {end.reason} {end.detail}")
            instructions += end.instructions
        print(time.thread_time() - began, instructions + end.instructions, file=sink, flush=True)


class EngineBuild:
    """A build of the engine in a process of its own."""

    def __init__(self, name: str, module: Path) -> None:
        self.name = name
        command = [sys.executable, "-m", "dm.bench.checks", "--worker", str(module)]
        self._process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, kernel: str, rounds: int) -> float:
        """Return processor seconds that as many rounds took.

        Raises:
            RuntimeError: the process has failed.
        """
        self._process.stdin.write(f"{kernel} {rounds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if not answer:
            raise RuntimeError(f"the engine {self.name!r} failed on {kernel}")
        return float(answer[0])

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def measure(variants: Sequence[EngineBuild], kernel: str, turns: int, seconds: float) -> list[float]:
    """Return, for each variant, the first one's time over its own: how much faster it is."""
    rounds, took = 1, 0.0
    while (took := variants[0].run(kernel, rounds)) < seconds / 4:
        rounds *= 4
    rounds = max(1, round(rounds * seconds / took))
    for variant in variants:
        variant.run(kernel, rounds)
    ratios: list[list[float]] = [[] for _ in variants]
    for _ in range(turns):
        times = [variant.run(kernel, rounds) for variant in variants]
        for collected, t in zip(ratios, times, strict=True):
            collected.append(times[0] / t)
    return [statistics.median(collected) for collected in ratios]


def built(directory: Path, name: str) -> Path:
    """Build a variant unless that is done, and return its extension."""
    place = directory / name
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dm.engine.native.build"]
    if name == PRODUCT:
        (place / "objects").mkdir(exist_ok=True)
        command += ["--out", str(place / "objects"), "--target", str(place)]
    else:
        command += ["--without", name, "--output", str(place)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(place.glob("_native*.so"))


def main(arguments: list[str]) -> int:
    """Build, measure, print a table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dm.bench.checks", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the builds go; kept for the next time")
    parser.add_argument("--turns", type=int, default=15, help="runs of each (15)")
    parser.add_argument("--seconds", type=float, default=0.05, help="length of a run (0.05)")
    parser.add_argument("--kernel", action="append", choices=MEASURED, help="only this kernel")
    parser.add_argument("--without", action="append", choices=(*CHECKS, BARE), help="only without this")
    if arguments[:1] == ["--worker"]:
        work(arguments[1], sys.stdin, sys.stdout)
        return 0
    args = parser.parse_args(arguments)
    names = [PRODUCT, *(args.without or (*CHECKS, BARE))]
    variants = [EngineBuild(name, built(args.directory.resolve(), name)) for name in names]
    kernels = args.kernel or MEASURED
    print(f"| without | {' | '.join(kernels)} | mean |")
    print("| --- " * (len(kernels) + 2) + "|")
    rows = [measure(variants, kernel, args.turns, args.seconds) for kernel in kernels]
    for n, variant in enumerate(variants[1:], 1):
        ratios = [row[n] for row in rows]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"| {variant.name} | " + " | ".join(f"{ratio:.2f}" for ratio in (*ratios, mean)) + " |", flush=True)
    for variant in variants:
        variant.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
