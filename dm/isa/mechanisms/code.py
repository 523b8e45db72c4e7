"""Code segments: where control may go, and loading CS (SDM vol. 3A, 5.8; vol. 2, JMP, CALL, RET and IRET)."""

from __future__ import annotations

from dm.isa.cells import CPL, EIP, GPR64, LIMIT
from dm.isa.mechanisms import frames, ia32e, mode
from dm.isa.mechanisms.descriptor import (
    Descriptor,
    error_code,
    fetch_descriptor,
    is_null,
    load_cache,
    mark_accessed,
    rpl,
)
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.segmentation import load_real, null_inaccessible, stack_segment
from dm.machine.architecture import Selector, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value, procedure


def check_eip(m: Microcode, eip: Value, limit: Value) -> None:
    """#GP(0) when the target lies beyond the code segment's limit."""
    fault_if(m, eip > limit, Vector.GP, 0, "CS_LIMIT", eip, limit)


def check_target(m: Microcode, eip: Value, code: Descriptor) -> None:
    """#GP(0) when the target lies beyond the limit of a new code segment; 64-bit code has none."""
    beyond = (eip > code.limit) & ~ia32e.is_64_bit_target(m, code)
    fault_if(m, beyond, Vector.GP, 0, "CS_LIMIT", eip, code.limit)


@procedure(selector=16, eip=32)
def enter_real(m: Microcode, selector: Value, eip: Value) -> None:
    """Load CS:EIP in real-address and virtual-8086 mode."""
    check_eip(m, eip, m.get(LIMIT, Seg.CS))
    load_real(m, m.const(8, Seg.CS), selector)
    m.set(EIP, eip)


@procedure(selector=16, raw=64, eip=32)
def enter_code(m: Microcode, selector: Value, raw: Value, eip: Value) -> None:
    """Load CS:EIP from a code descriptor that passed its checks; CS.RPL becomes CPL."""
    check_target(m, eip, Descriptor(raw))
    marked = m.call(mark_accessed, selector, raw)
    m.call(load_cache, Seg.CS, selector & Selector.NAME | m.get(CPL).zext(16), marked)
    m.set(EIP, eip)


def code_segment(m: Microcode, selector: Value, vector: Vector, null: str) -> Value:
    """Return the descriptor of a code segment, 64 bits, whose privilege level is still to be checked.

    A null selector is ``vector``(0) with cause ``null``; what names no code segment is ``vector``(selector).
    """
    fault_if(m, is_null(selector), vector, 0, null)
    raw = m.call(fetch_descriptor, selector, vector)
    d = Descriptor(raw)
    fault_if(m, ~d.is_code, vector, error_code(selector), "NOT_CODE", selector.zext(32), d.type.zext(32))
    return raw


def check_code_level(m: Microcode, selector: Value, code: Descriptor, vector: Vector) -> None:
    """Check code that a return or a task switch goes to, at the level of its selector's RPL, and that it is present."""
    error, shown, level = error_code(selector), selector.zext(32), rpl(selector)
    bad = m.select(code.is_conforming, code.dpl > level, code.dpl != level)
    fault_if(m, bad, vector, error, "CODE_DPL", shown, code.dpl.zext(32))
    fault_if(m, ~code.present, Vector.NP, error, "SEGMENT_NOT_PRESENT", shown)


@procedure(selector=16, raw=64)
def check_code(m: Microcode, selector: Value, raw: Value) -> None:
    """Check the target of a direct far JMP or CALL (SDM vol. 3A, 5.8.1)."""
    d = Descriptor(raw)
    error, shown, cpl = error_code(selector), selector.zext(32), m.get(CPL)
    fault_if(m, ~d.is_code, Vector.GP, error, "NOT_CODE", shown, d.type.zext(32))
    ia32e.refuse_l_and_d(m, selector, d)
    with m.If(d.is_conforming):
        fault_if(m, d.dpl > cpl, Vector.GP, error, "CODE_DPL", shown, d.dpl.zext(32), cpl.zext(32))
    with m.Else():
        fault_if(m, rpl(selector) > cpl, Vector.GP, error, "CODE_RPL", shown, cpl.zext(32))
        fault_if(m, d.dpl != cpl, Vector.GP, error, "CODE_DPL", shown, d.dpl.zext(32), cpl.zext(32))
    fault_if(m, ~d.present, Vector.NP, error, "SEGMENT_NOT_PRESENT", shown)


@procedure(result=64, selector=16, jump=1)
def gate_target(m: Microcode, selector: Value, jump: Value) -> None:
    """Return the code descriptor that a call, interrupt or trap gate names, checked (SDM vol. 3A, 5.8.4 and 6.12.1).

    ``jump``: by JMP, which cannot change the level.
    """
    raw = code_segment(m, selector, Vector.GP, "GATE_SELECTOR_NULL")
    d, cpl = Descriptor(raw), m.get(CPL)
    error, shown = error_code(selector), selector.zext(32)
    low = (d.dpl > cpl) | (jump & ~d.is_conforming & (d.dpl != cpl))
    fault_if(m, low, Vector.GP, error, "CODE_DPL", shown, d.dpl.zext(32), cpl.zext(32))
    fault_if(m, mode.long_mode(m) & ~d.is_64_bit_code, Vector.GP, error, "NOT_64_BIT_CODE", shown)
    # Virtual-8086 mode, where only events come through gates, can be left to non-conforming code of level 0 alone.
    bad = mode.virtual_8086(m) & (d.is_conforming | (d.dpl != 0))
    fault_if(m, bad, Vector.GP, error, "HANDLER_NOT_LEVEL_0", shown, d.dpl.zext(32))
    fault_if(m, ~d.present, Vector.NP, error, "SEGMENT_NOT_PRESENT", shown)
    m.return_(raw)


@procedure(result=64, selector=16)
def return_code(m: Microcode, selector: Value) -> None:
    """Return the code descriptor that a far return goes to, checked (SDM vol. 2, RET and IRET)."""
    raw = code_segment(m, selector, Vector.GP, "CS_SELECTOR_NULL")
    d, cpl = Descriptor(raw), m.get(CPL)
    ia32e.refuse_l_and_d(m, selector, d)
    inner = rpl(selector) < cpl
    fault_if(m, inner, Vector.GP, error_code(selector), "RETURN_TO_INNER", selector.zext(32), cpl.zext(32))
    check_code_level(m, selector, d, Vector.GP)
    m.return_(raw)


@procedure(cs=16, code=64, eip=32, ss=16, esp=32, extra=32)
def enter_outer(m: Microcode, cs: Value, code: Value, eip: Value, ss: Value, esp: Value, extra: Value) -> None:
    """Go to the outer level that ``cs`` names, dropping ``extra`` bytes of parameters from its stack."""
    level = rpl(cs)
    to_64_bit = ia32e.is_64_bit_target(m, Descriptor(code))
    with m.If(to_64_bit & is_null(ss) & (level != 3)):
        # 64-bit code of levels 0 to 2 may have a null SS (SDM vol. 2, RET and IRET).
        m.set(CPL, level)
        m.call(enter_code, cs, code, eip)
        ia32e.null_stack(m, ss)
        m.set(GPR64, (esp + extra).zext(64), Gpr.SP)
        m.call(null_inaccessible)
        m.return_()
    stack = m.call(stack_segment, ss, level, Vector.GP)
    check_target(m, eip, Descriptor(code))
    marked = m.call(mark_accessed, ss, stack)
    m.set(CPL, level)
    m.call(enter_code, cs, code, eip)
    m.call(load_cache, Seg.SS, ss, marked)
    with m.If(to_64_bit):
        m.set(GPR64, (esp + extra).zext(64), Gpr.SP)
    with m.Else():
        frames.set_stack_pointer(m, esp + extra)
    m.call(null_inaccessible)
