"""The world of real-mode tests: one megabyte and 64 KiB of RAM, floating ports, and HLT as the end of every test."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from dm.engine.api import CpuConfig, Engine, ExitReason, RunRequest
from dm.machine.architecture import Cr0, Eflags, Rights
from dm.machine.state import Segment, State
from dm.vectors.case import Case, CaseOutcome, RecordedFault, ended
from dm.vectors.world_memory import MemoryPiece, Patch, WorldMemory

#: First byte after what real mode can address: FFFF:FFFF is 10FFEFh.
RAM_SIZE: Final = 0x110000
#: Flags that exist in real mode of every modelled part and carry no system state (bits 12-15 vary by part).
FLAGS: Final = Eflags.ALL_16 ^ Eflags.IOPL ^ Eflags.NT

# A page behind the addressable RAM, out of reach of every test, for an IVT that tells vectors apart.
_PROBE_IVT: Final = RAM_SIZE
_PROBE_VECTORS: Final = 32
_HLT: Final = 0xF4
# Steps for one run: more than the longest REP (65535 iterations) needs.
_ONE_CASE: Final = RunRequest(budget=0x20000)
# Questions one instruction can ask: a REP INS may be answered element by element.
_QUESTIONS: Final = 0x10000


def segment(selector: int) -> Segment:
    """Return a segment register as a real-mode load leaves it after reset (SDM vol. 3A, 20.1.1)."""
    return Segment(selector, selector << 4, 0xFFFF, int(Rights.DATA))


@functools.lru_cache(maxsize=1)
def _template() -> State:
    """Return what all tests start from: the state after reset with the IVT at 0 and the FPU as FNINIT leaves it."""
    state = State.reset()
    state.cr0 = int(Cr0.ET)
    state.idtr_base, state.idtr_limit = 0, 0x3FF
    fx = bytearray(state.fxsave)
    fx[0:2] = (0x37F).to_bytes(2, "little")
    state.fxsave = bytes(fx)
    return state


def initial_state(gpr: list[int], selectors: list[int], rip: int, rflags: int) -> State:
    """Return a real-mode state.

    Args:
        gpr: eight general registers in encoding order, 32 bits.
        selectors: ES CS SS DS FS GS.
        rip: instruction pointer.
        rflags: flags; bits 12-15 and undefined ones are dropped.
    """
    system = _template().seg[6:]
    return replace(
        _template(), gpr=gpr, seg=[*map(segment, selectors), *system], rip=rip, rflags=rflags & FLAGS | Eflags.FIXED
    )


def frame_address(ss: int, sp: int, item: int) -> int:
    """Return the linear address of a word of a 16-bit exception frame: 0 IP, 1 CS, 2 FLAGS; ``sp`` is that of IP."""
    return (ss << 4) + (sp + 2 * item & 0xFFFF)


def probe(state: State, used: Iterable[Patch]) -> tuple[Patch, ...]:
    """Point ``state`` at an IVT whose 32 handlers tell the vector, and return the memory that makes it.

    The handlers are HLTs in a paragraph-aligned block that none of ``used`` touches.

    Raises:
        ValueError: ``used`` leaves no room for the handlers.
    """
    taken = [(address, address + len(data)) for address, data in used]
    for paragraph in range(0x40, 0xF000, 0x10):
        start = paragraph << 4
        if all(end <= start or start + _PROBE_VECTORS <= begin for begin, end in taken):
            break
    else:
        raise ValueError("no room for handlers between the test's memory")
    state.idtr_base, state.idtr_limit = _PROBE_IVT, 4 * _PROBE_VECTORS - 1
    ivt = b"".join((paragraph << 16 | vector).to_bytes(4, "little") for vector in range(_PROBE_VECTORS))
    return (_PROBE_IVT, ivt), (start, bytes([_HLT]) * _PROBE_VECTORS)


class RealMode:
    """A real-mode machine in which ports read as all ones and swallow writes."""

    def __init__(self, cpu: CpuConfig) -> None:
        self.cpu = cpu
        self.pieces = (MemoryPiece(0, bytes(RAM_SIZE)), MemoryPiece(_PROBE_IVT, bytes(0x1000)))

    def run(self, engine: Engine, memory: WorldMemory, case: Case) -> CaseOutcome:
        """Run until HLT has executed; see :class:`dm.vectors.case.World`."""
        for _ in range(_QUESTIONS):
            end = engine.run(_ONE_CASE)
            if end.reason is ExitReason.PORT_IN:
                engine.answer(b"\xff" * (end.size * end.count))
            elif end.reason is ExitReason.PORT_OUT:
                engine.answer()
            else:
                break
        if end.reason is not ExitReason.HALT:
            raise ended(end)
        state = engine.get_state()
        fault = None
        if state.idtr_base == _PROBE_IVT and state.eip - 1 < _PROBE_VECTORS:
            fault = RecordedFault(state.eip - 1)
        return CaseOutcome(registers(state), fault)


def registers(state: State) -> dict[str, int]:
    """Return 16- and 32-bit registers by their names."""
    out = {"eip": state.eip, "eflags": state.eflags, "ip": state.eip & 0xFFFF, "flags": state.eflags & 0xFFFF}
    for name in ("ax", "bx", "cx", "dx", "sp", "bp", "si", "di"):
        value: int = getattr(state, "e" + name)
        out["e" + name] = value
        out[name] = value & 0xFFFF
    for name in ("es", "cs", "ss", "ds", "fs", "gs"):
        out[name] = getattr(state, name).selector
    for name in ("cr0", "cr3", "dr6", "dr7"):
        out[name] = getattr(state, name)
    return out
