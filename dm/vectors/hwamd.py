"""Ring-3 protected-mode tests recorded on AMD's and Intel's CPUs, 16- and 32-bit (hwamd and hwintel).

The world around them is the least that delivers an exception to ring 0 as any kernel would: GDT, LDT, IDT, TSS, and
handlers that halt, so that vector, error code and interrupted context are read off the ring-0 stack.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from dm.engine.api import CpuConfig, Engine, ExitReason, RunRequest
from dm.machine.architecture import Cr0, Eflags, Rights, System, Vector
from dm.machine.state import Segment, State
from dm.vectors import packed
from dm.vectors.case import REP, Case, CaseOutcome, FormatError, RecordedFault, Stuck, ended, prefix_count
from dm.vectors.vendor import cpu
from dm.vectors.world_memory import MemoryPiece, Patch, WorldMemory

GPR: Final = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
SEG: Final = ("es", "cs", "ss", "ds", "fs", "gs")
FIELDS: Final = (
    "code32", "bytes", "gpr", "seg", "eip", "eflags", "patches", "ldt", "final_gpr", "final_seg", "final_eip",
    "final_eflags", "mem_writes", "exception", "undef_flags",
)  # fmt: skip
#: The segment registers that an LDT's entries give, by index.
Ldt: TypeAlias = dict[int, Segment]
#: The file of LDTs that stands beside the tests.
LDT_FILE: Final = "ldts.mp.gz"
#: Flags that were recorded.
FLAGS: Final = Eflags.ID | Eflags.AC | Eflags.NT | Eflags.DF | Eflags.STATUS

# The arena: 256 KiB at the linear (and, without paging, physical) address it was recorded at.
ARENA: Final = 0x10000000
ARENA_SIZE: Final = 0x40000
CODE: Final = 0x30000

# Addresses of the system structures, in the first 16 KiB of memory.
_GDT, _TSS, _IDT, _HANDLERS, _LDT, _STACK = 0x0000, 0x0400, 0x0800, 0x1000, 0x2000, 0x4000
_R0_CODE, _R0_DATA, _TSS_SELECTOR, _LDT_SELECTOR = 0x08, 0x10, 0x18, 0x20
_VECTORS: Final = 256
# Exceptions that push an error code (SDM vol. 3A, table 6-1); the recorder has 0 for all others.
_WITH_ERROR: Final = frozenset({8, 10, 11, 12, 13, 14, 17})
_HLT: Final = 0xF4
#: Where access rights are in the second doubleword of a descriptor.
_RIGHTS_AT: Final = 8
_BUSY_TSS: Final = Rights.P | System.TSS32_BUSY
# Exception frames with a change of stack: EIP CS EFLAGS ESP SS, with and without an error code before them.
_FRAME: Final = 20

_STRINGS: Final = frozenset({0x6C, 0x6D, 0x6E, 0x6F, 0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF})
# String instructions that repeat until the count is zero, whatever the data.
_COUNTED: Final = frozenset({0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD})
# REP: more iterations than any recorded case has.
_ITERATIONS: Final = 1 << 18


def read(path: Path, table: dict[str, Any], vendor: str) -> tuple[RingThree, Iterator[Case]]:
    """Return the world and the cases of a file (``0fa4.mp.gz``), unpacked as ``table``, checked against a ``vendor``.

    LDTs stand in a file beside it.

    Raises:
        FormatError: the tables are not as the set's README says.
    """
    tests, ldts = tables(path, table, FIELDS)
    opcode = path.name.removesuffix(".mp.gz")
    return RingThree(cpu(vendor)), (case(opcode, i, row, ldts) for i, row in enumerate(tests))


def tables(path: Path, table: dict[str, Any], fields: tuple[str, ...]) -> tuple[list[list[Any]], list[Ldt]]:
    """Return the rows of a file, and the LDTs beside it, both checked.

    Raises:
        FormatError: they are not as the set's README says.
    """
    tests = packed.check_tests(path, table, fields)
    if tuple(table.get("gpr", ())) != GPR or tuple(table.get("seg", ())) != SEG:
        raise FormatError(f"{path}: registers must be {' '.join(GPR)} and {' '.join(SEG)}")
    return tests, _ldts(path.with_name(LDT_FILE))


@functools.lru_cache(maxsize=4)
def _ldts(path: Path) -> list[Ldt]:
    rows = packed.load(path)
    if not isinstance(rows, list) or any(len(entry) != 8 for ldt in rows for entry in ldt):
        raise FormatError(f"{path}: a list of LDTs with entries of 8 values is needed")
    return [{entry[0]: segment(*entry) for entry in ldt} for ldt in rows]


def segment(
    index: int, base: int, limit: int, big: int, contents: int, read_exec_only: int, pages: int, absent: int
) -> Segment:
    """Return the segment register that loading an entry of ``struct user_desc`` gives.

    The recorder asked for ``useable``: AVL is 1.  DPL is 3 and the segment is marked accessed, as Linux does it.
    """
    attributes = contents << 2 | Rights.S | Rights.DPL | Rights.AVL | Rights.ACCESSED
    for holds, right in (
        (not read_exec_only, Rights.WRITABLE), (not absent, Rights.P), (big, Rights.DB), (pages, Rights.G)
    ):  # fmt: skip
        attributes |= right if holds else 0
    return Segment(index << 3 | 7, ARENA + base, limit << 12 | 0xFFF if pages else limit, attributes)


def _descriptor(segment: Segment) -> bytes:
    """Return the 8-byte descriptor a segment register is loaded from (SDM vol. 3A, 3.4.5)."""
    limit = segment.limit >> 12 if segment.attributes & Rights.G else segment.limit
    low = segment.base << 16 & 0xFFFF0000 | limit & 0xFFFF
    high = segment.base & 0xFF000000 | limit & 0xF0000 | segment.attributes << _RIGHTS_AT | segment.base >> 16 & 0xFF
    return low.to_bytes(4, "little") + high.to_bytes(4, "little")


@functools.cache
def _system() -> bytes:
    """Return the first 16 KiB: GDT, TSS, IDT, one HLT per vector, room for the LDT and the ring-0 stack."""
    image = bytearray(_STACK)

    def put(address: int, data: bytes) -> None:
        image[address : address + len(data)] = data

    put(_GDT + _R0_CODE, _descriptor(Segment(base=0, limit=0xFFFFFFFF, attributes=Rights.FLAT | Rights.TEXT)))
    put(_GDT + _R0_DATA, _descriptor(Segment(base=0, limit=0xFFFFFFFF, attributes=Rights.FLAT | Rights.DATA)))
    put(_GDT + _TSS_SELECTOR, _descriptor(Segment(base=_TSS, limit=0x67, attributes=_BUSY_TSS)))
    put(_TSS + 4, _STACK.to_bytes(4, "little") + _R0_DATA.to_bytes(4, "little"))
    put(_TSS + 0x66, (0x68).to_bytes(2, "little"))
    for vector in range(_VECTORS):
        # Only INT3 and INTO may be called from ring 3.
        rights = System.INT32 | Rights.P | (Rights.DPL if vector in (Vector.BP, Vector.OF) else 0)
        handler = _HANDLERS + vector
        put(_IDT + 8 * vector, (_R0_CODE << 16 | handler).to_bytes(4, "little") + (rights << 8).to_bytes(4, "little"))
    put(_HANDLERS, bytes([_HLT]) * _VECTORS)
    return bytes(image)


@functools.cache
def _arena() -> bytes:
    return bytes((a * 167 + (a >> 8) * 13 + (a >> 4) * 5 + 7) & 255 for a in range(ARENA_SIZE))


@functools.lru_cache(maxsize=1)
def _template() -> State:
    """Return the state all cases share: CR0 as a kernel sets it but for paging, GDT and IDT loaded, ring 3."""
    state = State.reset()
    state.cr0 = Cr0.AM | Cr0.WP | Cr0.NE | Cr0.ET | Cr0.MP | Cr0.PE
    state.cpl = 3
    state.gdtr_base, state.gdtr_limit = _GDT, 0x27
    state.idtr_base, state.idtr_limit = _IDT, 8 * _VECTORS - 1
    return state


def _load(selector: int, ldt: Ldt) -> Segment:
    if selector & ~3 == 0:
        return Segment(selector, unusable=1)
    if selector & 7 != 7 or selector >> 3 not in ldt:
        raise FormatError(f"selector {selector:#x} names no entry of the test's LDT")
    found = ldt[selector >> 3]
    return Segment(found.selector, found.base, found.limit, found.attributes)


def case(opcode: str, index: int, row: list[Any], ldts: list[Ldt]) -> Case:
    """Return the case of one row (:data:`FIELDS`), number ``index`` of ``opcode``, whose LDT is one of ``ldts``."""
    (_, code, gpr, seg, eip, eflags, patches, ldt_index, final_gpr, final_seg, final_eip, final_eflags, writes,
     exception, undefined) = row  # fmt: skip
    ldt = ldts[ldt_index]
    table = b"".join(_descriptor(ldt[i]) if i in ldt else bytes(8) for i in range(max(ldt) + 1))
    ldtr = Segment(_LDT_SELECTOR, _LDT, len(table) - 1, Rights.P | System.LDT)
    state = replace(
        _template(),
        gpr=list(gpr),
        seg=[*(_load(selector, ldt) for selector in seg), ldtr, Segment(_TSS_SELECTOR, _TSS, 0x67, _BUSY_TSS)],
        rip=eip,
        rflags=eflags | Eflags.IF | Eflags.FIXED,
    )
    memory: list[Patch] = [(_LDT, table), (_GDT + _LDT_SELECTOR, _descriptor(ldtr)), (ARENA + CODE + eip, code)]
    memory += [(ARENA + offset, data) for offset, data in patches]
    registers = {name: (final_gpr.get(i, gpr[i]), 0xFFFFFFFF) for i, name in enumerate(GPR)}
    selectors = [final_seg.get(i, selector) for i, selector in enumerate(seg)]
    # The kernel's way out of the test cleared the RPL of null selectors.
    registers |= {name: (s, 0xFFFF if s else 0xFFFC) for name, s in zip(SEG, selectors, strict=True)}
    vector, error = exception or (0, 0)
    registers["eip"] = (final_eip, 0xFFFFFFFF)
    registers["eflags"] = (final_eflags, FLAGS & ~undefined)
    return Case(
        opcode=opcode,
        index=index,
        name="",
        code=code,
        state=state,
        patches=tuple(memory),
        registers=registers,
        changes=tuple((ARENA + offset, data) for offset, data in writes),
        fault=RecordedFault(vector, error if vector in _WITH_ERROR else None) if exception else None,
        undefined=undefined & FLAGS,
    )


def overwrites_itself(case: Case) -> bool:
    """Return whether the instruction has written to its own bytes, as a repeated store can between two iterations."""
    start = ARENA + CODE + case.state.rip
    return any(at < start + len(case.code) and start < at + len(data) for at, data in case.changes)


class RingThree:
    """Protected mode without paging, one ring-3 instruction at a time."""

    def __init__(self, cpu: CpuConfig) -> None:
        self.cpu = cpu
        self.pieces = (MemoryPiece(0, _system(), compared=False), MemoryPiece(ARENA, _arena()))

    def run(self, engine: Engine, memory: WorldMemory, case: Case) -> CaseOutcome:
        """Run one instruction (REP: all iterations), and the handler if it faults; see :class:`World`."""
        n = prefix_count(case.code)
        prefixes, opcode = case.code[:n], case.code[n : n + 1]
        state = self._step(engine, 1)
        # (There may be nothing but prefixes, up to the end of the code segment.)
        if opcode and opcode[0] in _STRINGS and not REP.isdisjoint(prefixes):
            wide = case.state.cs.big ^ (0x67 in prefixes)
            rewritten = overwrites_itself(case)  # what comes then is another instruction, and only one step of it
            for _ in range(_ITERATIONS):
                if state.cpl == 0 or state.rip != case.state.rip:
                    break
                left = state.ecx if wide else state.cx
                state = self._step(engine, max(left, 1) if opcode[0] in _COUNTED and not rewritten else 1)
        return self._fault(state, memory) if state.cpl == 0 else CaseOutcome(_registers(state))

    @staticmethod
    def _step(engine: Engine, budget: int) -> State:
        """Run ``budget`` steps; a fault taken on the way runs into its handler's HLT."""
        end = engine.run(RunRequest(budget=budget))
        state = engine.get_state()
        if end.reason is ExitReason.BUDGET and state.cpl == 0:
            end = engine.run(RunRequest(budget=2))
            state = engine.get_state()
        if end.reason is not (ExitReason.BUDGET if state.cpl else ExitReason.HALT):
            raise ended(end)
        return state

    @staticmethod
    def _fault(state: State, memory: WorldMemory) -> CaseOutcome:
        """Read the exception and the interrupted context off the ring-0 stack."""
        size = _STACK - state.esp
        if size not in (_FRAME, _FRAME + 4):
            raise Stuck(f"ring-0 stack holds {size} bytes; an exception frame has {_FRAME} or {_FRAME + 4}")
        words = memory.read(state.esp, size)
        values = [int.from_bytes(words[i : i + 4], "little") for i in range(0, size, 4)]
        error = values.pop(0) if size > _FRAME else None
        registers = _registers(state)
        registers["eip"], registers["cs"], registers["eflags"], registers["esp"], registers["ss"] = values
        return CaseOutcome(registers, RecordedFault(state.eip - 1 - _HANDLERS, error))


def _registers(state: State) -> dict[str, int]:
    out = {name: value & 0xFFFFFFFF for name, value in zip(GPR, state.gpr, strict=True)}
    out |= {name: segment.selector for name, segment in zip(SEG, state.seg[:6], strict=True)}
    out["eip"], out["eflags"] = state.eip, state.eflags
    return out
