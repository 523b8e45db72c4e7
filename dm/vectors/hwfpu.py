"""Ring-3 tests of x87, MMX and SSE (hwfpu-intel): hwamd's rows with six more columns, in hwamd's world.

x87 registers are numbered as they lie in the part, R0 to R7: ST(j) is R[(TOP + j) & 7].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dm.engine.api import Engine
from dm.machine.architecture import Cr4
from dm.machine.state import State
from dm.vectors import hwamd
from dm.vectors.case import Case, CaseOutcome, FormatError
from dm.vectors.hwamd import Ldt
from dm.vectors.vendor import cpu
from dm.vectors.world_memory import WorldMemory

FIELDS: Final = (*hwamd.FIELDS, "fpu", "regs", "xmm", "final_fpu", "final_regs", "final_xmm")
FPU: Final = ("fcw", "fsw", "ftw", "fop", "fip", "fdp", "mxcsr")

# Where they stand in an FXSAVE image: first byte, size (SDM vol. 2A, FXSAVE, table 3-43).
_PLACES: Final = {
    "fcw": (0, 2), "fsw": (2, 2), "ftw": (4, 1), "fop": (6, 2), "fip": (8, 4), "fdp": (16, 4), "mxcsr": (24, 4)
}  # fmt: skip
_MXCSR_MASK: Final = (28, 4, 0xFFFF)
_STACK, _XMM = 32, 160
# SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT (CPUID leaf 1, ECX).
_FEATURES: Final = 1 << 0 | 1 << 9 | 1 << 19 | 1 << 20 | 1 << 23
# FDP changes with unmasked exceptions only, FCS and FDS are zero (CPUID leaf 7, EBX): so the recorded part says.
_POINTERS: Final = 1 << 6 | 1 << 13
_CR4: Final = Cr4.OSFXSR | Cr4.OSXMMEXCPT


def read(path: Path, table: dict[str, Any], vendor: str) -> tuple[RingThreeFpu, Iterator[Case]]:
    """Return the world and the cases of a file (``0f58.mp.gz``), unpacked as ``table``, checked against a ``vendor``.

    Raises:
        FormatError: the tables are not as the set's README says.
    """
    tests, ldts = hwamd.tables(path, table, FIELDS)
    if tuple(table.get("fpu", FPU)) != FPU:
        raise FormatError(f"{path}: the columns of 'fpu' must be {' '.join(FPU)}")
    opcode = path.name.removesuffix(".mp.gz")
    pointers = _POINTERS if vendor == "intel" else 0
    world = RingThreeFpu(cpu(vendor, ecx=_FEATURES, ebx7=pointers))
    return world, (case(opcode, i, row, ldts) for i, row in enumerate(tests))


def _base() -> tuple[list[int], list[int]]:
    """Return what R0 to R7 and XMM0 to XMM7 hold where a row does not say it."""
    regs = [(0x3FFF + i) << 64 | 0x8000000000000000 | i * 0x0123456789ABCD for i in range(8)]
    xmm = [int.from_bytes(bytes((37 * i + 11 * j + 5) & 255 for j in range(16)), "little") for i in range(8)]
    return regs, xmm


def _changed(values: list[int], changes: dict[int, bytes]) -> list[int]:
    out = [*values]
    for i, data in changes.items():
        out[i] = int.from_bytes(data, "little")
    return out


def case(opcode: str, index: int, row: list[Any], ldts: list[Ldt]) -> Case:
    """Return the case of one row (:data:`FIELDS`), number ``index`` of ``opcode``."""
    plain = hwamd.case(opcode, index, row[: len(hwamd.FIELDS)], ldts)
    fpu, regs, xmm, final_fpu, final_regs, final_xmm = row[len(hwamd.FIELDS) :]
    stack, vectors = _base()
    stack, vectors = _changed(stack, regs), _changed(vectors, xmm)
    words = dict(zip(FPU, fpu, strict=True))
    after = words | {FPU[i]: value for i, value in final_fpu.items()}
    expected: dict[str, tuple[int, int]] = {name: (value, 0xFFFFFFFF) for name, value in after.items()}
    expected |= {f"r{i}": (v, (1 << 80) - 1) for i, v in enumerate(_changed(stack, final_regs))}
    expected |= {f"xmm{i}": (v, (1 << 128) - 1) for i, v in enumerate(_changed(vectors, final_xmm))}
    state = replace(plain.state, cr4=_CR4, fxsave=_image(words, stack, vectors))
    return replace(plain, state=state, registers={**plain.registers, **expected})


def _image(words: dict[str, int], stack: list[int], vectors: list[int]) -> bytes:
    image = bytearray(512)
    for name, (at, size) in _PLACES.items():
        image[at : at + size] = words[name].to_bytes(size, "little")
    at, size, mask = _MXCSR_MASK
    image[at : at + size] = mask.to_bytes(size, "little")
    top = words["fsw"] >> 11 & 7
    for j in range(8):
        image[_STACK + 16 * j : _STACK + 16 * j + 10] = stack[(top + j) & 7].to_bytes(10, "little")
        image[_XMM + 16 * j : _XMM + 16 * j + 16] = vectors[j].to_bytes(16, "little")
    return bytes(image)


def registers(state: State) -> dict[str, int]:
    """Return control words, physical x87 registers and XMM registers by name."""
    image = state.fxsave

    def number(at: int, size: int) -> int:
        return int.from_bytes(image[at : at + size], "little")

    out = {name: number(at, size) for name, (at, size) in _PLACES.items()}
    top = out["fsw"] >> 11 & 7
    for j in range(8):
        out[f"r{(top + j) & 7}"] = number(_STACK + 16 * j, 10)
        out[f"xmm{j}"] = number(_XMM + 16 * j, 16)
    return out


class RingThreeFpu(hwamd.RingThree):
    """The same world with floating point's registers in the outcome."""

    def run(self, engine: Engine, memory: WorldMemory, case: Case) -> CaseOutcome:
        """See :class:`~dm.vectors.case.World`."""
        outcome = super().run(engine, memory, case)
        return CaseOutcome({**outcome.registers, **registers(engine.get_state())}, outcome.fault)
