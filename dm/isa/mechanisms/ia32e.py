"""IA-32e mode as compatibility-mode code meets it: 16-byte gates, stacks of the 64-bit TSS, 64-bit frames.

SDM vol. 3A, 5.8.3.1, 6.14 and 7.7.  Such a transfer leads to 64-bit code, at which
:func:`dm.isa.mechanisms.boundary.boundary` ends the run.  Stacks and targets beyond 4 GiB, where the engines do not
reach, are exit ``unsupported`` before that.
"""

from __future__ import annotations

from dm.isa import ends
from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, CPL, GPR64, LIMIT, SELECTOR, UNUSABLE
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.descriptor import Descriptor, descriptor_address, error_code, in_descriptor, in_table, linear_32
from dm.isa.mechanisms.mode import fault_if
from dm.machine.architecture import Rights, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value, procedure


def is_64_bit_target(m: Microcode, code: Descriptor) -> Value:
    """Return whether code of this descriptor runs in 64-bit mode: L counts in IA-32e mode only."""
    return mode.long_mode(m) & code.is_long


def refuse_l_and_d(m: Microcode, selector: Value, code: Descriptor) -> None:
    """#GP(selector) for a code segment with both L and D in IA-32e mode (SDM vol. 2, JMP, CALL and RET)."""
    bad = mode.long_mode(m) & code.is_long & code.raw.has(in_descriptor(Rights.DB))
    fault_if(m, bad, Vector.GP, error_code(selector), "CODE_L_AND_D", selector.zext(32))


@procedure(result=64, selector=16)
def upper_half(m: Microcode, selector: Value) -> None:
    """Return bytes 8-15 of the descriptor a selector names; #GP(selector) beyond the table or with a type in them."""
    error, shown = error_code(selector), selector.zext(32)
    fault_if(m, ~m.call(in_table, selector, 16), Vector.GP, error, "DESCRIPTOR_TABLE_LIMIT", shown)
    upper = m.call(p.LOAD_SYSTEM[64], m.call(descriptor_address, selector) + 8)
    kind = upper.field(in_descriptor(Rights.TYPE | Rights.S))
    fault_if(m, kind != 0, Vector.GP, error, "UPPER_TYPE", shown, kind.trunc(32))
    m.return_(upper)


@procedure(result=64, at=32)
def tss_stack(m: Microcode, at: Value) -> None:
    """Return the stack pointer at an offset of the 64-bit TSS; beyond its limit: #TS(TR)."""
    limit = m.get(LIMIT, Seg.TR)
    fault_if(m, at + 7 > limit, Vector.TS, error_code(m.get(SELECTOR, Seg.TR)), "TSS_LIMIT", at, limit)
    m.return_(m.call(p.LOAD_SYSTEM[64], linear_32(m, m.get(BASE, Seg.TR) + at.zext(64))))


def level_slot(level: Value) -> Value:
    """Return where the TSS has the stack pointer of a privilege level, 32 bits."""
    return (level.zext(32) << 3) + 4


def interrupt_slot(number: Value) -> Value:
    """Return where the TSS has stack 1-7 of the interrupt stack table, 32 bits."""
    return (number << 3) + 28


@procedure(pointer=64, size=32, level=8)
def open_stack(m: Microcode, pointer: Value, size: Value, level: Value) -> None:
    """Go to privilege ``level`` and make SS flat, for ``size`` bytes to be pushed below ``pointer``."""
    with m.If((pointer >> 32).nz() | (pointer < size.zext(64))):
        ends.unsupported(m, "STACK_ABOVE_4_GIB")
    m.set(CPL, level)
    m.set(BASE, 0, Seg.SS)
    m.set(LIMIT, 0xFFFFFFFF, Seg.SS)
    m.set(ATTRIBUTES, m.const(16, Rights.FLAT | Rights.DATA) | level.at(Rights.DPL, 16), Seg.SS)
    m.set(UNUSABLE, 0, Seg.SS)
    m.call(p.SEGMENT_CHANGED, Seg.SS)


def push(m: Microcode, pointer: Value, *values: Value) -> Value:
    """Push quadwords on the stack that :func:`open_stack` has made flat; return the pointer to the last, 64 bits."""
    at = pointer
    for value in values:
        at = at - 8
        m.call(p.STORE[64], Seg.SS, at.trunc(32), value.zext(64))
    return at


def null_stack(m: Microcode, selector: Value) -> None:
    """Make SS null, as 64-bit code of levels 0 to 2 may have it; its cache keeps CPL as DPL (SDM vol. 3C, 26.3.1.2)."""
    m.set(SELECTOR, selector, Seg.SS)
    m.set(BASE, 0, Seg.SS)
    m.set(ATTRIBUTES, m.const(16, Rights.FLAT | Rights.DATA) | m.get(CPL).at(Rights.DPL, 16), Seg.SS)
    m.set(UNUSABLE, 1, Seg.SS)
    m.call(p.SEGMENT_CHANGED, Seg.SS)


class Stack:
    """The stack in use, remembered so that it can stay in use after a frame was pushed through a flat SS."""

    def __init__(self, m: Microcode) -> None:
        self.m = m
        self.pointer = m.get(GPR64, Gpr.SP)
        self.selector = m.get(SELECTOR, Seg.SS)
        self._hidden = [(part, m.get(part, Seg.SS)) for part in (BASE, LIMIT, ATTRIBUTES, UNUSABLE)]

    def keep(self) -> None:
        """Give SS back what it had."""
        for part, value in self._hidden:
            self.m.set(part, value, Seg.SS)
        self.m.call(p.SEGMENT_CHANGED, Seg.SS)


def below_4_gib(m: Microcode, rip: Value) -> Value:
    """Return a 64-bit target as 32 bits."""
    with m.If((rip >> 32).nz()):
        ends.unsupported(m, "RIP_ABOVE_4_GIB")
    return rip.trunc(32)
