"""Descriptor-table registers, and instructions that look at descriptors (SDM vol. 2 and vol. 3A, 2.4 and 5.10)."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import CPL, SELECTOR
from dm.isa.features import before_386
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.descriptor import (
    ANY_TSS,
    AVAILABLE_TSS,
    CALL_GATES,
    GDTR_BASE,
    GDTR_LIMIT,
    RIGHTS_BYTE,
    Descriptor,
    descriptor_address,
    error_code,
    fetch_descriptor,
    in_descriptor,
    in_table,
    is_null,
    load_cache,
    of_part,
    one_of,
    rpl,
)
from dm.isa.mechanisms.events import IDTR_BASE, IDTR_LIMIT
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.segmentation import load_null
from dm.machine.architecture import Eflags, Rights, Selector, System, Vector
from dm.machine.state import Seg
from dm.microcode import Field, Microcode, Value, procedure


def _load_table(x: Insn, src: Memory, base: Field, limit: Field) -> None:
    m = x.m
    mode.require_cpl0(m)
    new_limit = src.load(16)
    new_base = src.load(32, 2)
    if x.osize == 16:
        new_base = new_base & 0xFFFFFF
    m.set(limit, new_limit)
    m.set(base, new_base.zext(64))
    ends.checkpoint(m)


def _store_table(x: Insn, dst: Memory, base: Field, limit: Field) -> None:
    m = x.m
    mode.forbid_umip(m)
    # All 32 bits of the base, whatever the operand size (SDM vol. 2, SGDT); a 80286 has 24 and stores ones behind.
    value = m.get(base).trunc(32)
    dst.store(m.get(limit))
    dst.store(m.select(before_386(m), value | 0xFF000000, value), 2)


@instruction()
def LGDT(x: Insn, src: Memory) -> None:
    """Load GDTR; a 16-bit operand size takes 24 bits of base."""
    _load_table(x, src, GDTR_BASE, GDTR_LIMIT)


@instruction()
def LIDT(x: Insn, src: Memory) -> None:
    """Load IDTR; a 16-bit operand size takes 24 bits of base."""
    _load_table(x, src, IDTR_BASE, IDTR_LIMIT)


@instruction()
def SGDT(x: Insn, dst: Memory) -> None:
    """Store GDTR."""
    _store_table(x, dst, GDTR_BASE, GDTR_LIMIT)


@instruction()
def SIDT(x: Insn, dst: Memory) -> None:
    """Store IDTR."""
    _store_table(x, dst, IDTR_BASE, IDTR_LIMIT)


@procedure(selector=16)
def load_ldtr(m: Microcode, selector: Value) -> None:
    """Load LDTR; the descriptor has 16 bytes for 64-bit code only, not in compatibility mode (APM vol. 3, LLDT)."""
    error, shown = error_code(selector), selector.zext(32)
    with m.If(is_null(selector)):
        load_null(m, m.const(8, Seg.LDTR), selector)
        m.return_()
    fault_if(m, selector.has(Selector.TI), Vector.GP, error, "LDT_NOT_IN_GDT", shown)
    raw = m.call(fetch_descriptor, selector, Vector.GP)
    d = Descriptor(raw)
    fault_if(m, d.is_segment | (d.type != System.LDT), Vector.GP, error, "LDT_TYPE", shown, d.type.zext(32))
    fault_if(m, ~d.present, Vector.NP, error, "LDT_NOT_PRESENT", shown)
    m.call(load_cache, Seg.LDTR, selector, raw)


@procedure(selector=16)
def load_tr(m: Microcode, selector: Value) -> None:
    """Load TR and mark the TSS busy, in memory and in the cache; the descriptor has 8 bytes as LLDT's."""
    error, shown = error_code(selector), selector.zext(32)
    fault_if(m, is_null(selector), Vector.GP, 0, "TR_SELECTOR_NULL")
    fault_if(m, selector.has(Selector.TI), Vector.GP, error, "TSS_NOT_IN_GDT", shown)
    raw = m.call(fetch_descriptor, selector, Vector.GP)
    d = Descriptor(raw)
    good = m.select(mode.long_mode(m), d.type == System.TSS32, one_of(d.type, *AVAILABLE_TSS)) & ~d.is_segment
    fault_if(m, ~good, Vector.GP, error, "TSS_TYPE", shown, d.type.zext(32))
    fault_if(m, ~d.present, Vector.NP, error, "TSS_NOT_PRESENT", shown)
    m.call(p.OR_SYSTEM8, m.call(descriptor_address, selector) + RIGHTS_BYTE, Rights.BUSY)
    m.call(load_cache, Seg.TR, selector, raw | in_descriptor(Rights.BUSY))


@instruction()
def LLDT(x: Insn, src: Operand) -> None:
    """Load LDTR."""
    m = x.m
    mode.require_protected(m)
    mode.require_cpl0(m)
    m.call(load_ldtr, src.read())
    ends.checkpoint(m)


@instruction()
def LTR(x: Insn, src: Operand) -> None:
    """Load TR."""
    m = x.m
    mode.require_protected(m)
    mode.require_cpl0(m)
    m.call(load_tr, src.read())
    ends.checkpoint(m)


def _store_selector(x: Insn, dst: Operand, seg: Seg) -> None:
    m = x.m
    mode.require_protected(m)
    mode.forbid_umip(m)
    selector = m.get(SELECTOR, seg)
    if isinstance(dst, Memory):
        dst.store(selector)
    else:
        dst.write(selector.fit(dst.width))


@instruction()
def SLDT(x: Insn, dst: Operand) -> None:
    """Store LDTR's selector: 16 bits in memory, zero-extended in a 32-bit register."""
    _store_selector(x, dst, Seg.LDTR)


@instruction()
def STR(x: Insn, dst: Operand) -> None:
    """Store TR's selector: 16 bits in memory, zero-extended in a 32-bit register."""
    _store_selector(x, dst, Seg.TR)


def set_zero_flag(m: Microcode, value: Value) -> None:
    """Change ZF alone."""
    word = flags.eflags(m) & (0xFFFFFFFF ^ Eflags.ZF)
    flags.set_arithmetic(m, word | value.at(Eflags.ZF, 32))


@procedure(result=64, selector=16)
def visible_descriptor(m: Microcode, selector: Value) -> None:
    """Return the descriptor that LAR, LSL, VERR and VERW may look at, else 0, which has an invalid type.

    Privilege does not matter for conforming code.
    """
    with m.If(is_null(selector)):
        m.return_(0)
    with m.If(~m.call(in_table, selector, 8)):
        m.return_(0)
    raw = of_part(m, m.call(p.LOAD_SYSTEM[64], m.call(descriptor_address, selector)))
    d = Descriptor(raw)
    low = (m.get(CPL) > d.dpl) | (rpl(selector) > d.dpl)
    m.return_(m.select(low & ~d.is_conforming, m.const(64, 0), raw))


def _look(x: Insn, src: Operand) -> Descriptor:
    """Return the descriptor for a selector operand, of which memory holds 16 bits."""
    m = x.m
    mode.require_protected(m)
    return Descriptor(m.call(visible_descriptor, src.read()))


@instruction()
def LAR(x: Insn, dst: Operand, src: Operand) -> None:
    """Load access rights; bits 16-19, which the manual calls undefined, are the limit's as they stand (measured)."""
    m = x.m
    d = _look(x, src)
    legacy = one_of(d.type, *ANY_TSS, *CALL_GATES, System.LDT, System.TASK_GATE)
    system = m.select(
        mode.long_mode(m),
        one_of(d.type, System.LDT, System.TSS32, System.TSS32_BUSY, System.CALL32),
        legacy,
    )
    good = d.is_segment | system
    with m.If(good):
        dst.write(((d.raw >> 32).trunc(32) & 0x00FFFF00).trunc(dst.width))
    set_zero_flag(m, good)


@instruction()
def LSL(x: Insn, dst: Operand, src: Operand) -> None:
    """Load segment limit, in bytes."""
    m = x.m
    d = _look(x, src)
    legacy = one_of(d.type, *ANY_TSS, System.LDT)
    system = m.select(mode.long_mode(m), one_of(d.type, System.LDT, System.TSS32, System.TSS32_BUSY), legacy)
    good = d.is_segment | system
    with m.If(good):
        dst.write(d.limit.trunc(dst.width))
    set_zero_flag(m, good)


@instruction()
def VERR(x: Insn, src: Operand) -> None:
    """Verify a segment for reading."""
    set_zero_flag(x.m, _look(x, src).is_readable)


@instruction()
def VERW(x: Insn, src: Operand) -> None:
    """Verify a segment for writing."""
    set_zero_flag(x.m, _look(x, src).is_writable)


@instruction()
def ARPL(x: Insn, dst: Operand, src: Operand) -> None:
    """Adjust RPL of a selector."""
    m = x.m
    mode.require_protected(m)
    wanted = src.read() & Selector.RPL
    old = dst.read()
    raised = (old & Selector.RPL) < wanted
    # An operand that stays as it is is only read, so it may be read-only (measured, Intel's and AMD's).
    with m.If(raised):
        old = dst.read_modify()
        dst.write_back(old & Selector.NAME | wanted)
    set_zero_flag(m, raised)
