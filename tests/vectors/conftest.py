"""An engine of five instructions, enough to test the runner with, and the place of the recorded vectors."""

from __future__ import annotations

import functools
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import dm.engine
from dm.commands.vectors import report, run_all
from dm.engine.api import FREELY, CpuConfig, Engine, Exit, ExitReason, MemoryMap, RunRequest
from dm.isa.map import coverage
from dm.machine.state import EventType, Segment, State
from dm.vectors.formats import find_files
from dm.vectors.runner import run_file

#: What the engines may refuse to run, in the recorded sets.
UNIMPLEMENTED = {"F2XM1", "FYL2X", "FYL2XP1", "FPTAN", "FPATAN", "FSIN", "FCOS", "FSINCOS"}


class TinyEngine:
    """INC (E)AX, NOP, HLT, IN AL,ib and REP STOSB, in real mode and in ring 3; anything else is ``unsupported``.

    ``broken`` makes it wrong in one way.
    """

    name = "tiny"

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.state = State.reset()
        self.memory = MemoryMap(0, ())
        self.port: int | None = None
        self.closed = False

    def get_state(self) -> State:
        return self.state

    def set_state(self, state: State) -> None:
        self.state = state.copy()
        self.port = None

    def set_map(self, memory: MemoryMap) -> None:
        self.memory = memory

    def kick(self) -> None:
        raise AssertionError("no test of vectors kicks")

    def inject(self, event: EventType, vector: int, *, error: int | None = None, length: int = 0) -> None:
        raise AssertionError("no test of vectors injects")

    def close(self) -> None:
        self.closed = True

    def _write(self, address: int, data: bytes) -> None:
        for region in self.memory.regions:
            if region.gpa <= address < region.gpa + region.size:
                assert region.memory is not None
                region.memory[address - region.gpa : address - region.gpa + len(data)] = data

    def _read(self, address: int, size: int) -> bytes:
        for region in self.memory.regions:
            if region.gpa <= address < region.gpa + region.size:
                assert region.memory is not None
                return bytes(region.memory[address - region.gpa : address - region.gpa + size])
        return b"\xff" * size

    def answer(self, data: bytes = b"", *, fault: bool = False) -> None:
        assert self.port is not None
        self.state.gpr[0] = self.state.gpr[0] & ~0xFF | data[0]
        self.state.rip += 2
        self.port = None

    def run(self, request: RunRequest = FREELY) -> Exit:
        s = self.state
        for _ in range(request.budget):
            op = self._read(s.cs.base + s.rip, 2)
            if op[0] == 0x40:
                s.gpr[0] = s.gpr[0] + 1 & 0xFFFF
                s.rip += 1
                if self.broken == "store":
                    self._write(s.ds.base + 0x10, b"!")
                if self.broken == "budget":
                    break
                if self.broken == "raise":
                    raise ValueError("no such register")
            elif op[0] == 0x90:
                s.rip += 1
            elif op[0] == 0xF4 and s.cpl:
                self._general_protection()
            elif op[0] == 0xF4:
                s.rip += 1
                return Exit(ExitReason.HALT)
            elif op[0] == 0xE4:
                self.port = op[1]
                return Exit(ExitReason.PORT_IN, address=op[1], size=1)
            elif op == b"\xf3\xaa":
                if s.ecx:
                    self._write(s.es.base + s.edi, bytes([s.gpr[0] & 0xFF]))
                    s.edi, s.ecx = s.edi + 1, s.ecx - 1
                if not s.ecx:
                    s.rip += 2
            else:
                return Exit(ExitReason.UNSUPPORTED, detail=f"opcode {op[0]:02x}")
        return Exit(ExitReason.BUDGET)

    def _general_protection(self) -> None:
        s = self.state
        esp0 = int.from_bytes(self._read(s.tr.base + 4, 4), "little")
        error = 4 if self.broken == "error" else 0
        frame = [error, s.eip, s.cs.selector, s.eflags, s.esp, s.ss.selector]
        s.esp = esp0 - 24
        self._write(s.esp, b"".join(word.to_bytes(4, "little") for word in frame))
        gate = self._read(s.idtr_base + 13 * 8, 8)
        s.rip = int.from_bytes(gate[:2] + gate[6:], "little")
        s.seg[1] = Segment(8, 0, 0xFFFFFFFF, 0xC09B)
        s.seg[2] = Segment(16, 0, 0xFFFFFFFF, 0xC093)
        s.cpl = 0


@pytest.fixture
def tiny() -> Callable[[str], Callable[[CpuConfig], Engine]]:
    """Return ``make(broken)``, which returns what a runner makes engines with."""
    return lambda broken="": lambda config: TinyEngine(broken)


@pytest.fixture
def recorded() -> Path:
    """Return the directory of the recorded vectors, or skip."""
    given = os.environ.get("DM_VECTORS")
    path = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "vectors"
    if not path.is_dir():
        pytest.skip(f"no recorded vectors in {path}; DM_VECTORS names their directory")
    return path


@pytest.fixture
def hold() -> Callable[[Path, str, float], int]:
    """Return ``hold(directory, engine, sample)``: runs vectors, fails with their report, returns how many passed."""

    def run(directory: Path, engine: str, sample: float) -> int:
        seed = random.randrange(1 << 32)
        print(f"--engine {engine} --sample {sample} --seed {seed}")
        work = functools.partial(run_file, make=functools.partial(dm.engine.create, engine), sample=sample, seed=seed,
                                 record=sample == 1)  # fmt: skip
        results = list(run_all(find_files([directory]), work, jobs=2 if sample == 1 else 1))
        coverage.recorded.update(*(r.executed for r in results))
        text = report(engine, seed, results)
        print(text)
        assert sum(r.failed for r in results) == 0, text
        assert {what for r in results for what in r.unimplemented} <= UNIMPLEMENTED, text
        return sum(r.passed for r in results)

    return run
