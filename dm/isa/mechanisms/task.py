"""Hardware task switches by JMP, CALL, event and IRET, 16- and 32-bit TSSs (SDM vol. 3A, chapter 7).

The old task's state is saved and the new one's registers are set before COMMIT.  What fails later (LDT and segment
descriptors) is a fault of the new task; each descriptor loaded before it stays loaded.
"""

from __future__ import annotations

from typing import Final

from dm.isa import flags
from dm.isa import primitives as p
from dm.isa.cells import (
    ATTRIBUTES,
    BASE,
    CPL,
    CR0,
    CR3,
    DR7,
    EIP,
    GPR32,
    LIMIT,
    PENDING_DEBUG,
    SELECTOR,
    UNUSABLE,
)
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.code import check_code_level, code_segment
from dm.isa.mechanisms.descriptor import (
    AVAILABLE_TSS,
    BUSY_TSS,
    RIGHTS_BYTE,
    Descriptor,
    descriptor_address,
    error_code,
    fetch_descriptor,
    in_descriptor,
    in_table,
    is_null,
    load_cache,
    mark_accessed,
    one_of,
    rpl,
)
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.paging import load_pdptes
from dm.isa.mechanisms.segmentation import data_segment, load_null, load_real, stack_segment
from dm.machine.architecture import Cr0, Cr4, Dr7, Eflags, PendingDebug, Rights, Selector, System, Vector
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

#: What caused the switch.
JMP, CALL, EVENT, IRET = 0, 1, 2, 3

#: Last byte a TSS must have (SDM vol. 3A, 7.2.2).
LAST16, LAST32 = 0x2B, 0x67

#: Data segments in the order their faults come.
DATA: Final = (Seg.DS, Seg.ES, Seg.FS, Seg.GS)


@procedure(result=64, selector=16, vector=8, busy=1)
def check_tss(m: Microcode, selector: Value, vector: Value, busy: Value) -> None:
    """Return a TSS descriptor: in the GDT, of the right type and present, else ``vector`` or #NP (selector)."""
    error, shown = error_code(selector), selector.zext(32)
    fault_if(m, selector.has(Selector.TI) | is_null(selector), vector, error, "TSS_NOT_IN_GDT", shown)
    raw = m.call(fetch_descriptor, selector, vector)
    d = Descriptor(raw)
    good = (
        m.select(
            busy,
            one_of(d.type, *BUSY_TSS),
            one_of(d.type, *AVAILABLE_TSS),
        )
        & ~d.is_segment
    )
    fault_if(m, ~good, vector, error, "TSS_TYPE", shown, d.type.zext(32))
    fault_if(m, ~d.present, Vector.NP, error, "TSS_NOT_PRESENT", shown)
    m.return_(raw)


@procedure(image=32)
def save_task(m: Microcode, image: Value) -> None:
    """Write the registers to the current TSS; ``image`` is EFLAGS as saved, cell EIP the address to resume at."""
    base = m.get(BASE, Seg.TR).trunc(32)

    def save(at: int, value: Value) -> None:
        m.call(p.STORE_SYSTEM[value.width], base + at, value)

    with m.If(m.get(ATTRIBUTES, Seg.TR).has(Rights.WIDE)):
        save(0x20, m.get(EIP))
        save(0x24, image)
        for i in range(8):
            save(0x28 + 4 * i, m.get(GPR32, i))
        for seg in range(6):
            save(0x48 + 4 * seg, m.get(SELECTOR, seg))
    with m.Else():
        save(0x0E, m.get(EIP).trunc(16))
        save(0x10, image.trunc(16))
        for i in range(8):
            save(0x12 + 2 * i, m.get(GPR32, i).trunc(16))
        for seg in range(4):
            save(0x22 + 2 * seg, m.get(SELECTOR, seg))


@procedure(result=16, base=32, wide=1)
def load_task(m: Microcode, base: Value, wide: Value) -> None:
    """Read the new TSS into registers, EFLAGS, EIP, CR3 and (invalid as yet) selectors; return the LDT selector."""
    for seg in range(6):
        m.set(UNUSABLE, 1, seg)
    with m.If(wide):
        m.set(EIP, m.call(p.LOAD_SYSTEM[32], base + 0x20))
        flags.set_eflags(m, m.call(p.LOAD_SYSTEM[32], base + 0x24) & Eflags.ALL_32)
        for i in range(8):
            m.set(GPR32, m.call(p.LOAD_SYSTEM[32], base + (0x28 + 4 * i)), i)
        for seg in range(6):
            m.set(SELECTOR, m.call(p.LOAD_SYSTEM[16], base + (0x48 + 4 * seg)), seg)
        ldt = m.call(p.LOAD_SYSTEM[16], base + 0x60)
        with m.If(m.call(p.LOAD_SYSTEM[8], base + 0x64).bit(0)):
            m.set(PENDING_DEBUG, m.get(PENDING_DEBUG) | PendingDebug.BT)
        cr3 = m.call(p.LOAD_SYSTEM[32], base + 0x1C).zext(64)
        with m.If(mode.cr0_bit(m, Cr0.PG)):
            with m.If(mode.cr4_bit(m, Cr4.PAE)):
                m.call(load_pdptes, cr3)
            m.set(CR3, cr3)
            m.call(p.TLB_FLUSH)
        m.return_(ldt)
    m.set(EIP, m.call(p.LOAD_SYSTEM[16], base + 0x0E).zext(32))
    flags.set_eflags(m, m.call(p.LOAD_SYSTEM[16], base + 0x10).zext(32) & Eflags.ALL_16)
    for i in range(8):
        # The upper halves are undefined; ones, as parts of this class leave them.
        m.set(GPR32, m.call(p.LOAD_SYSTEM[16], base + (0x12 + 2 * i)).zext(32) | 0xFFFF0000, i)
    for seg in range(4):
        m.set(SELECTOR, m.call(p.LOAD_SYSTEM[16], base + (0x22 + 2 * seg)), seg)
    for seg in (Seg.FS, Seg.GS):
        m.set(SELECTOR, 0, seg)
    m.return_(m.call(p.LOAD_SYSTEM[16], base + 0x2A))


@procedure(selector=16)
def load_task_ldt(m: Microcode, selector: Value) -> None:
    """Load LDTR for a new task; whatever is wrong with it is #TS(selector)."""
    error, shown = error_code(selector), selector.zext(32)
    with m.If(is_null(selector)):
        load_null(m, m.const(8, Seg.LDTR), selector)
        m.return_()
    bad = selector.has(Selector.TI) | ~m.call(in_table, selector & (0xFFFF ^ Selector.TI), 8)
    fault_if(m, bad, Vector.TS, error, "LDT_SELECTOR", shown)
    raw = m.call(fetch_descriptor, selector, Vector.TS)
    d = Descriptor(raw)
    fault_if(
        m,
        (d.type != System.LDT) | d.is_segment | ~d.present,
        Vector.TS,
        error,
        "LDT_DESCRIPTOR",
        shown,
        d.type.zext(32),
    )
    m.call(load_cache, Seg.LDTR, selector, raw)


@procedure()
def load_task_code_stack(m: Microcode) -> None:
    """Load CS and SS of a new task (SDM vol. 3A, table 7-1)."""
    cs, ss = m.get(SELECTOR, Seg.CS), m.get(SELECTOR, Seg.SS)
    raw = code_segment(m, cs, Vector.TS, "CS_SELECTOR_NULL")
    check_code_level(m, cs, Descriptor(raw), Vector.TS)
    m.call(load_cache, Seg.CS, cs, m.call(mark_accessed, cs, raw))
    m.call(p.COMMIT)
    raw = m.call(stack_segment, ss, rpl(cs), Vector.TS)
    m.call(load_cache, Seg.SS, ss, m.call(mark_accessed, ss, raw))
    m.call(p.COMMIT)


@procedure(seg=8)
def load_task_data(m: Microcode, seg: Value) -> None:
    """Load DS, ES, FS or GS of a new task from the selector already in it."""
    selector = m.get(SELECTOR, seg)
    with m.If(is_null(selector)):
        load_null(m, seg, selector)
        m.return_()
    raw = m.call(data_segment, selector, Vector.TS)
    m.call(load_cache, seg, selector, m.call(mark_accessed, selector, raw))


@procedure(selector=16, raw=64, kind=8, resume=32)
def switch_task(m: Microcode, selector: Value, raw: Value, kind: Value, resume: Value) -> None:
    """Switch to the task of a checked TSS descriptor (SDM vol. 3A, 7.3).

    Args:
        m: builder.
        selector: selector of the new TSS.
        raw: its descriptor, from :func:`check_tss`.
        kind: JMP, CALL, EVENT or IRET.
        resume: EIP saved in the old TSS.
    """
    new = Descriptor(raw)
    wide = new.is_wide
    error = error_code(selector)
    least = m.select(wide, m.const(32, LAST32), m.const(32, LAST16))
    fault_if(m, new.limit < least, Vector.TS, error, "TSS_LIMIT", least, new.limit)
    old_selector = m.get(SELECTOR, Seg.TR)
    old_least = m.select(m.get(ATTRIBUTES, Seg.TR).has(Rights.WIDE), m.const(32, 0x5F), m.const(32, 0x29))
    old_limit = m.get(LIMIT, Seg.TR)
    fault_if(m, old_limit < old_least, Vector.TS, error_code(old_selector), "TSS_LIMIT", old_least, old_limit)
    nested = (kind == CALL) | (kind == EVENT)
    base = new.base.trunc(32)

    image = flags.eflags(m)
    m.set(EIP, resume)
    m.call(save_task, m.select(kind == IRET, image & ~m.const(32, Eflags.NT), image))
    with m.If(~nested):
        m.call(p.AND_SYSTEM8, m.call(descriptor_address, old_selector) + RIGHTS_BYTE, 0xFF ^ Rights.BUSY)
    with m.If(nested):
        m.call(p.STORE_SYSTEM[16], base, old_selector)
    with m.If(kind != IRET):
        m.call(p.OR_SYSTEM8, m.call(descriptor_address, selector) + RIGHTS_BYTE, Rights.BUSY)
    m.call(load_cache, Seg.TR, selector, raw | in_descriptor(Rights.BUSY))
    m.set(CR0, m.get(CR0) | Cr0.TS)
    m.set(DR7, m.get(DR7) & (0xFFFFFFFFFFFFFFFF ^ Dr7.LOCAL))
    ldt = m.call(load_task, base, wide)
    with m.If(nested):
        flags.set_flag(m, Eflags.NT, 1)
    vm = mode.virtual_8086(m)
    level = m.select(vm, m.const(8, 3), rpl(m.get(SELECTOR, Seg.CS)))
    m.set(CPL, level)
    load_null(m, m.const(8, Seg.LDTR), ldt)
    for seg in range(6):
        m.call(p.SEGMENT_CHANGED, seg)
    m.call(p.COMMIT)

    m.call(load_task_ldt, ldt)
    m.call(p.COMMIT)
    with m.If(vm):
        for seg in range(6):
            load_real(m, m.const(8, seg), m.get(SELECTOR, seg))
        m.call(p.COMMIT)
    with m.Else():
        m.call(load_task_code_stack)
        for seg in DATA:
            m.call(load_task_data, seg)
            m.call(p.COMMIT)


@procedure()
def check_task_eip(m: Microcode) -> None:
    """#GP(0) in the new task when its EIP lies beyond CS.limit: the last step, after an error code was pushed."""
    m.call(p.COMMIT)
    eip, limit = m.get(EIP), m.get(LIMIT, Seg.CS)
    fault_if(m, eip > limit, Vector.GP, 0, "CS_LIMIT", eip, limit)
