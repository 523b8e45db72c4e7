"""Segment registers: loading them in every mode (SDM vol. 3A, chapters 3 and 5).

The descriptor cache is what counts: a real-mode load sets selector and base and leaves limit and attributes alone.
"""

from __future__ import annotations

from typing import Final

from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, CPL, LIMIT, SELECTOR, UNUSABLE
from dm.isa.features import is_amd
from dm.isa.mechanisms import mode
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
from dm.machine.architecture import Rights, Vector
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

#: What a load outside protected mode leaves of access rights that were null; the type of conforming code.
_UPPER: Final = Rights.AVL | Rights.L | Rights.DB | Rights.G
_CONFORMING: Final = Rights.CODE | Rights.CONFORMING


def load_real(m: Microcode, seg: Value, selector: Value) -> None:
    """Load a segment register outside protected mode (SDM vol. 3A, 20.1.1 and 20.2.1)."""
    m.set(SELECTOR, selector, seg)
    m.set(BASE, selector.zext(64) << 4, seg)
    with m.If(mode.virtual_8086(m)):
        m.set(LIMIT, 0xFFFF, seg)
        m.set(ATTRIBUTES, Rights.DATA | Rights.DPL, seg)
        m.set(UNUSABLE, 0, seg)
    with m.If(m.get(UNUSABLE, seg)):
        m.set(UNUSABLE, 0, seg)
        m.set(ATTRIBUTES, m.get(ATTRIBUTES, seg) & _UPPER | Rights.DATA, seg)
    m.call(p.SEGMENT_CHANGED, seg)


def load_null(m: Microcode, seg: Value, selector: Value) -> None:
    """Make a segment register null.  Intel clears the base, AMD keeps it; limit and attributes stay."""
    m.set(SELECTOR, selector, seg)
    m.set(UNUSABLE, 1, seg)
    with m.If(~is_amd(m)):
        m.set(BASE, 0, seg)
    m.call(p.SEGMENT_CHANGED, seg)


@procedure(result=64, selector=16, level=8, vector=8)
def stack_segment(m: Microcode, selector: Value, level: Value, vector: Value) -> None:
    """Return the descriptor of a stack for privilege ``level``, checked (SDM vol. 2, MOV, CALL, RET, IRET and INT).

    A null selector is ``vector``(0), a stack that is not present #SS(selector), all else ``vector``(selector).
    """
    error, shown = error_code(selector), selector.zext(32)
    fault_if(m, is_null(selector), vector, 0, "SS_SELECTOR_NULL")
    raw = m.call(fetch_descriptor, selector, vector)
    d = Descriptor(raw)
    fault_if(m, rpl(selector) != level, vector, error, "SS_RPL", shown, level.zext(32))
    fault_if(m, ~d.is_writable, vector, error, "SS_NOT_WRITABLE", shown, d.type.zext(32))
    fault_if(m, d.dpl != level, vector, error, "SS_DPL", shown, d.dpl.zext(32), level.zext(32))
    fault_if(m, ~d.present, Vector.SS, error, "SS_NOT_PRESENT", shown)
    m.return_(raw)


@procedure(result=64, selector=16, vector=8)
def data_segment(m: Microcode, selector: Value, vector: Value) -> None:
    """Return the descriptor of a segment for DS, ES, FS or GS, checked; ``selector`` is not null (SDM vol. 2, MOV).

    One that is not present is #NP(selector), all else ``vector``(selector).
    """
    error, shown, cpl = error_code(selector), selector.zext(32), m.get(CPL)
    raw = m.call(fetch_descriptor, selector, vector)
    d = Descriptor(raw)
    fault_if(m, ~d.is_readable, vector, error, "DATA_NOT_READABLE", shown, d.type.zext(32))
    low = (rpl(selector) > d.dpl) | (cpl > d.dpl)
    fault_if(m, ~d.is_conforming & low, vector, error, "DATA_DPL", shown, d.dpl.zext(32), cpl.zext(32))
    fault_if(m, ~d.present, Vector.NP, error, "SEGMENT_NOT_PRESENT", shown)
    m.return_(raw)


@procedure(seg=8, selector=16)
def load_protected(m: Microcode, seg: Value, selector: Value) -> None:
    """Load ES, SS, DS, FS or GS through a descriptor: every check in the manual's order (SDM vol. 2, MOV)."""
    with m.If(is_null(selector)):
        fault_if(m, seg == Seg.SS, Vector.GP, 0, "SS_SELECTOR_NULL")
        load_null(m, seg, selector)
        m.return_()
    with m.If(seg == Seg.SS):
        raw = m.call(stack_segment, selector, m.get(CPL), Vector.GP)
        m.call(load_cache, seg, selector, m.call(mark_accessed, selector, raw))
        m.return_()
    raw = m.call(data_segment, selector, Vector.GP)
    m.call(load_cache, seg, selector, m.call(mark_accessed, selector, raw))


@procedure()
def null_inaccessible(m: Microcode) -> None:
    """After a return to an outer level: make null what that level may not use (SDM vol. 2, RET and IRET)."""
    cpl = m.get(CPL)
    for seg in (Seg.ES, Seg.DS, Seg.FS, Seg.GS):
        attributes = m.get(ATTRIBUTES, seg)
        dpl = attributes.field(Rights.DPL).trunc(8)
        conforming = (attributes & _CONFORMING) == _CONFORMING
        with m.If(~m.get(UNUSABLE, seg) & ~conforming & (dpl < cpl)):
            load_null(m, m.const(8, seg), m.const(16, 0))


@procedure(es=16, ss=16, ds=16, fs=16, gs=16)
def load_virtual_8086(m: Microcode, es: Value, ss: Value, ds: Value, fs: Value, gs: Value) -> None:
    """Load the data segments of a virtual-8086 task; EFLAGS.VM is set already."""
    for seg, selector in ((Seg.ES, es), (Seg.SS, ss), (Seg.DS, ds), (Seg.FS, fs), (Seg.GS, gs)):
        load_real(m, m.const(8, seg), selector)
