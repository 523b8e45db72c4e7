"""LOADALL of the 80286: the whole register state, descriptor caches included, from 102 bytes at physical 800h.

Nothing is checked (Intel, "Undocumented iAPX 286 Test Instruction", 1985); BIOSes of that part and HIMEM.SYS use it.
"""

from __future__ import annotations

from typing import Final

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, CPL, CR0, EIP, GPR16, LIMIT, SELECTOR, UNUSABLE, cell
from dm.isa.insn import Insn, instruction
from dm.isa.mechanisms import mode
from dm.machine.architecture import Cr0, Eflags, Rights
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value

TABLE: Final = 0x800
#: Offsets of words: machine status word, flags, IP, selectors, registers from DI on in the reverse order of encoding.
_MSW_AT, _FLAGS_AT, _IP_AT, _GPR_AT = 0x06, 0x18, 0x1A, 0x26
_SELECTORS: Final = {Seg.TR: 0x16, Seg.LDTR: 0x1C, Seg.DS: 0x1E, Seg.SS: 0x20, Seg.CS: 0x22, Seg.ES: 0x24}
#: Offsets of caches: base in three bytes, access rights in one, limit in two.
_CACHES: Final = {Seg.ES: 0x36, Seg.CS: 0x3C, Seg.SS: 0x42, Seg.DS: 0x48, Seg.LDTR: 0x54, Seg.TR: 0x60}
_TABLES: Final = {"gdtr": 0x4E, "idtr": 0x5A}


def _word(m: Microcode, offset: int) -> Value:
    return m.call(p.LOAD_SYSTEM[16], m.const(32, TABLE + offset))


def _cache(m: Microcode, offset: int) -> tuple[Value, Value, Value]:
    """Return base (64 bits), access rights (16 bits) and limit (32 bits)."""
    low, high, limit = (_word(m, offset + at) for at in (0, 2, 4))
    return low.zext(64) | (high & 0xFF).zext(64) << 16, high >> 8, limit.zext(32)


@instruction()
def LOADALL(x: Insn) -> None:
    """Load everything; CR0.PE can be set, not cleared, and CPL is SS's DPL."""
    m = x.m
    mode.require_cpl0(m)
    old = m.get(CR0)
    new = old & ~m.const(64, Cr0.MSW ^ Cr0.PE) | (_word(m, _MSW_AT) & Cr0.MSW).zext(64)
    m.set(CR0, new)
    for number in Gpr:
        m.set(GPR16, _word(m, _GPR_AT + 2 * (Gpr.DI - number)), int(number))
    for seg, offset in _CACHES.items():
        base, rights, limit = _cache(m, offset)
        m.set(SELECTOR, _word(m, _SELECTORS[seg]), int(seg))
        m.set(BASE, base, int(seg))
        m.set(LIMIT, limit, int(seg))
        m.set(ATTRIBUTES, rights, int(seg))
        m.set(UNUSABLE, ~rights.has(Rights.P) if seg in (Seg.LDTR, Seg.TR) else m.const(1, 0), int(seg))
        if seg < Seg.LDTR:
            m.call(p.SEGMENT_CHANGED, int(seg))
    for name, offset in _TABLES.items():
        base, _, limit = _cache(m, offset)
        m.set(cell(f"{name}_base"), base)
        m.set(cell(f"{name}_limit"), limit.trunc(16))
    flags.set_eflags(m, _word(m, _FLAGS_AT).zext(32) & Eflags.ALL_16)
    level = m.get(ATTRIBUTES, Seg.SS).field(Rights.DPL).trunc(8)
    m.set(CPL, m.select(new.has(Cr0.PE), level, m.const(8, 0)))
    m.set(EIP, _word(m, _IP_AT).zext(32))
    m.end(ends.CHECKPOINT)
