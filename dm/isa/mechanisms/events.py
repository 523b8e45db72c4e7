"""Exceptions and interrupts: raising and delivery (SDM vol. 3A, chapters 6 and 20).

Engines call :func:`raise_exception` for a fault and :func:`deliver` for the event in ``INJECT_*``.  Which one is taken
when stands in :mod:`dm.isa.mechanisms.boundary`.
"""

from __future__ import annotations

from typing import Final

from dm.isa import flags
from dm.isa import primitives as p
from dm.isa.cells import (
    ACTIVITY,
    ATTRIBUTES,
    BASE,
    CPL,
    CR2,
    DELIVERING,
    DR6,
    DR7,
    EIP,
    GPR32,
    GPR64,
    INJECT_ERROR,
    INJECT_HAS_ERROR,
    INJECT_LENGTH,
    INJECT_TYPE,
    INJECT_VECTOR,
    LIMIT,
    NMI_BLOCKED,
    SELECTOR,
    SHADOW,
    SHADOW_NEXT,
    cell,
)
from dm.isa.mechanisms import frames, ia32e, mode, task
from dm.isa.mechanisms.code import check_eip, enter_code, enter_real, gate_target
from dm.isa.mechanisms.debug import DEBUGCTL
from dm.isa.mechanisms.descriptor import (
    INTERRUPT_GATES,
    TRAP_GATES,
    Descriptor,
    linear_32,
    of_part,
    one_of,
)
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.segmentation import load_null
from dm.machine.architecture import (
    Cr4,
    DebugCtl,
    Dr6,
    Dr7,
    Eflags,
    Rights,
    SelectorError,
    System,
    Vector,
)
from dm.machine.state import Activity, EventType, Gpr, Seg
from dm.microcode import Microcode, Value, procedure

IDTR_BASE: Final = cell("idtr_base")
IDTR_LIMIT: Final = cell("idtr_limit")
INJECT_PAYLOAD: Final = cell("inject_payload")
INJECT_HAS_PAYLOAD: Final = cell("inject_has_payload")


def _set(*vectors: Vector) -> int:
    """Return a set of vectors as a bit mask."""
    return sum(1 << vector for vector in vectors)


#: Exceptions that push an error code (SDM vol. 3A, table 6-1).
WITH_ERROR: Final = sum(
    1 << v for v in (Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC, Vector.CP)
)
#: Contributory exceptions (SDM vol. 3A, table 6-4).
CONTRIBUTORY: Final = sum(1 << v for v in (Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.CP))
#: Exceptions whose error code names a selector or is zero, and so carries EXT.
SELECTOR_CODES: Final = sum(1 << v for v in (Vector.TS, Vector.NP, Vector.SS, Vector.GP))


def _member(m: Microcode, mask: int, vector: Value) -> Value:
    """Return whether a vector is in a set given as a bit mask, 1 bit."""
    return m.const(32, mask).bit(vector) & (vector < 32)


def inject(m: Microcode, kind: EventType, vector: int | Value, error: int | Value, has_error: int | Value) -> None:
    """Make this the event to deliver next, without a payload; ``vector`` has 8 bits, ``error`` 32, ``has_error`` 1."""
    m.set(INJECT_TYPE, int(kind))
    m.set(INJECT_VECTOR, vector)
    m.set(INJECT_HAS_ERROR, has_error)
    m.set(INJECT_ERROR, error)
    m.set(INJECT_LENGTH, 0)
    m.set(INJECT_HAS_PAYLOAD, 0)


@procedure(result=1, vector=8)
def is_hypervisors(m: Microcode, vector: Value) -> None:
    """Return whether a fault is the hypervisor's: a page fault in SVM's paged real mode (APM vol. 2, 15.19)."""
    m.return_((vector == Vector.PF) & ~mode.pe(m))


@procedure(vector=8, error=32, info=32)
def raise_exception(m: Microcode, vector: Value, error: Value, info: Value) -> None:
    """Make a fault the event to deliver next, or combine it with the one under delivery (SDM vol. 3A, 6.15, #DF).

    Args:
        m: builder.
        vector: of the fault.
        error: its error code, 0 where it has none.
        info: linear address of a page fault, DR6 bits of a debug fault.

    Leaves the event in ``INJECT_*``, or ACTIVITY = shutdown.
    """
    with m.If(vector == Vector.PF):
        m.set(CR2, info.zext(64))
    with m.If(vector == Vector.DB):
        m.set(DR6, m.get(DR6) | info.zext(64))
    wide_error = m.var(32, error)
    with m.If(m.get(DELIVERING).nz()):
        kind = m.get(INJECT_TYPE)
        # The event ended HLT or shutdown, although its delivery failed (SDM vol. 3C, 27.7.2).
        m.set(ACTIVITY, int(Activity.RUNNING))
        with m.If(kind == EventType.NMI):
            m.set(NMI_BLOCKED, 1)
        soft = (kind == EventType.SOFT_INT) | (kind == EventType.SOFT_EXCEPTION)
        with m.If(~soft & _member(m, SELECTOR_CODES, vector)):
            wide_error.v = wide_error.v | SelectorError.EXT
        with m.If(kind == EventType.EXCEPTION):
            first = m.get(INJECT_VECTOR)
            page = vector == Vector.PF
            serious = page | _member(m, CONTRIBUTORY, vector)
            with m.If((first == Vector.DF) & serious):
                m.set(INJECT_TYPE, int(EventType.NONE))
                m.set(ACTIVITY, int(Activity.SHUTDOWN))
                m.return_()
            double = (first == Vector.PF) & serious | _member(m, CONTRIBUTORY, first) & _member(m, CONTRIBUTORY, vector)
            with m.If(double):
                inject(m, EventType.EXCEPTION, Vector.DF, 0, mode.pe(m))
                m.return_()
    inject(m, EventType.EXCEPTION, vector, wide_error.v, mode.pe(m) & _member(m, WITH_ERROR, vector))
    # The saved image of a fault has RF set, so that its handler can go back past a breakpoint (SDM vol. 3B, 17.3.1.1).
    flags.set_flag(m, Eflags.RF, 1)


@procedure(vector=8, return_eip=32)
def interrupt_real(m: Microcode, vector: Value, return_eip: Value) -> None:
    """Deliver through the interrupt vector table at IDTR.base (SDM vol. 3A, 20.1.4)."""
    at = vector.zext(32) << 2
    limit = m.get(IDTR_LIMIT).zext(32)
    fault_if(m, at + 3 > limit, Vector.GP, 0, "IDT_LIMIT", vector.zext(32), limit)
    target = m.call(p.LOAD_SYSTEM[32], m.get(IDTR_BASE).trunc(32) + at)
    cs = m.get(SELECTOR, Seg.CS).zext(32)
    m.call(frames.push, flags.eflags(m), 0)
    m.call(frames.push, cs, 0)
    m.call(frames.push, return_eip, 0)
    m.call(enter_real, (target >> 16).trunc(16), target & 0xFFFF)
    flags.clear(m, Eflags.IF, Eflags.TF, Eflags.AC, Eflags.RF)


@procedure(vector=8, return_eip=32)
def interrupt_redirected(m: Microcode, vector: Value, return_eip: Value) -> None:
    """Deliver INT n to the virtual-8086 program's own vector table at linear 0 (SDM vol. 3A, 20.3.3.4)."""
    target = m.call(p.LOAD_SYSTEM[32], vector.zext(32) << 2)
    image = m.var(32, flags.eflags(m))
    virtual = flags.iopl(m) != 3
    with m.If(virtual):
        vif = flags.flag(m, Eflags.VIF)
        image.v = image.v & ~m.const(32, Eflags.IF) | vif.at(Eflags.IF, 32) | Eflags.IOPL
    m.call(frames.push, image.v, 0)
    m.call(frames.push, m.get(SELECTOR, Seg.CS).zext(32), 0)
    m.call(frames.push, return_eip, 0)
    m.call(enter_real, (target >> 16).trunc(16), target & 0xFFFF)
    with m.If(virtual):
        flags.clear(m, Eflags.VIF, Eflags.TF, Eflags.RF)
    with m.Else():
        flags.clear(m, Eflags.IF, Eflags.TF, Eflags.RF)


@procedure(result=1, vector=8)
def redirected(m: Microcode, vector: Value) -> None:
    """Return whether the TSS's redirection bitmap sends INT n to the virtual-8086 program (bit clear)."""
    base, limit = m.get(BASE, Seg.TR).trunc(32), m.get(LIMIT, Seg.TR)
    fault_if(m, limit < 0x67, Vector.GP, 0, "TSS_LIMIT", 0x67, limit)
    # The 32 bytes below the I/O permission bitmap.
    at = m.call(p.LOAD_SYSTEM[16], base + 0x66).zext(32) - 32 + (vector >> 3).zext(32)
    fault_if(m, at > limit, Vector.GP, 0, "TSS_LIMIT", at, limit)
    m.return_(~m.call(p.LOAD_SYSTEM[8], base + at).bit(vector & 7))


def _check_gate(m: Microcode, number: Value, gate: Descriptor, soft: Value, error: Value, *kinds: int) -> None:
    """Check a gate of the IDT (SDM vol. 3A, 6.12.1): one of ``kinds``, open to software interrupts, present.

    Args:
        m: builder.
        number: vector, 32 bits.
        gate: the gate.
        soft: 1 for INT n, INT3 and INTO, whose gate's DPL is checked.
        error: error code that names the gate.
        kinds: types it may have.
    """
    known = one_of(gate.type, *kinds) & ~gate.is_segment
    fault_if(m, ~known, Vector.GP, error, "GATE_TYPE", number, gate.type.zext(32))
    fault_if(m, soft & (gate.dpl < m.get(CPL)), Vector.GP, error, "GATE_DPL", number, gate.dpl.zext(32))
    fault_if(m, ~gate.present, Vector.NP, error, "GATE_NOT_PRESENT", number)


@procedure(vector=8, soft=1, has_error=1, error=32, return_eip=32)
def interrupt_ia32e(
    m: Microcode, vector: Value, soft: Value, has_error: Value, error: Value, return_eip: Value
) -> None:
    """Deliver to 64-bit code through the 16-byte gates of IA-32e mode (SDM vol. 3A, 6.14); see interrupt_protected."""
    number = vector.zext(32)
    idt_error, limit = number << 3 | SelectorError.IDT, m.get(IDTR_LIMIT).zext(32)
    at = number << 4
    fault_if(m, at + 15 > limit, Vector.GP, idt_error, "IDT_LIMIT", number, limit)
    address = linear_32(m, m.get(IDTR_BASE) + at.zext(64))
    gate, upper = Descriptor(m.call(p.LOAD_SYSTEM[64], address)), m.call(p.LOAD_SYSTEM[64], address + 8)
    _check_gate(m, number, gate, soft, idt_error, System.INT32, System.TRAP32)
    selector = gate.gate_selector
    target = m.call(gate_target, selector, 0)
    code, cpl = Descriptor(target), m.get(CPL)
    inner = ~code.is_conforming & (code.dpl < cpl)
    level = m.select(inner, code.dpl, cpl)
    stack, image, old_cs = ia32e.Stack(m), flags.eflags(m), m.get(SELECTOR, Seg.CS)
    ist = gate.gate_stack
    pointer = m.var(64, stack.pointer)
    with m.If(inner | (ist != 0)):
        slot = m.select(ist != 0, ia32e.interrupt_slot(ist), ia32e.level_slot(level))
        pointer.v = m.call(ia32e.tss_stack, slot)
    # Frames are aligned to 16 bytes.
    first = pointer.v & 0xFFFFFFFFFFFFFFF0
    eip = ia32e.below_4_gib(m, gate.gate_offset.zext(64) | (upper << 32))
    m.call(ia32e.open_stack, first, 48, level)
    top = ia32e.push(m, first, stack.selector, stack.pointer, image, old_cs, return_eip)
    m.set(GPR64, top, Gpr.SP)
    with m.If(has_error):
        m.set(GPR64, ia32e.push(m, top, error), Gpr.SP)
    with m.If(inner):
        ia32e.null_stack(m, level.zext(16))
    with m.Else():
        stack.keep()
    m.call(enter_code, selector, target, eip)
    flags.clear(m, Eflags.TF, Eflags.NT, Eflags.RF)
    with m.If(gate.type == System.INT32):
        flags.clear(m, Eflags.IF)


@procedure(vector=8, soft=1, has_error=1, error=32, return_eip=32)
def interrupt_protected(
    m: Microcode, vector: Value, soft: Value, has_error: Value, error: Value, return_eip: Value
) -> None:
    """Deliver through the IDT: interrupt, trap and task gates (SDM vol. 3A, 6.12; vol. 2, INT).

    Args:
        m: builder.
        vector: of the event.
        soft: 1 for INT n, INT3 and INTO, whose gate's DPL is checked.
        has_error: 1 when ``error`` is pushed.
        error: error code.
        return_eip: EIP in the frame.
    """
    with m.If(mode.long_mode(m)):
        m.call(interrupt_ia32e, vector, soft, has_error, error, return_eip)
        m.return_()
    number = vector.zext(32)
    at = number << 3
    idt_error = at | SelectorError.IDT
    limit = m.get(IDTR_LIMIT).zext(32)
    fault_if(m, at + 7 > limit, Vector.GP, idt_error, "IDT_LIMIT", number, limit)
    gate = Descriptor(of_part(m, m.call(p.LOAD_SYSTEM[64], m.get(IDTR_BASE).trunc(32) + at)))
    _check_gate(m, number, gate, soft, idt_error, System.TASK_GATE, *INTERRUPT_GATES, *TRAP_GATES)
    with m.If(gate.type == System.TASK_GATE):
        tss = m.call(task.check_tss, gate.gate_selector, Vector.GP, 0)
        m.call(task.switch_task, gate.gate_selector, tss, task.EVENT, return_eip)
        with m.If(has_error):
            m.call(frames.push, error, m.get(ATTRIBUTES, Seg.TR).has(Rights.WIDE))
        m.call(task.check_task_eip)
        m.return_()

    selector, eip, wide = gate.gate_selector, gate.gate_offset, gate.is_wide
    target = m.call(gate_target, selector, 0)
    code, cpl, vm = Descriptor(target), m.get(CPL), mode.virtual_8086(m)
    inner = ~code.is_conforming & (code.dpl < cpl)
    image = flags.eflags(m)
    old_cs = m.get(SELECTOR, Seg.CS).zext(32)
    with m.If(inner):
        level = code.dpl
        stack = m.call(frames.inner_stack, level)
        stack_raw = frames.check_stack(m, stack, level)
        count = m.select(vm, m.const(32, 9), m.const(32, 5)) + has_error.zext(32)
        m.call(frames.check_room, stack, stack_raw, count, wide)
        check_eip(m, eip, code.limit)
        old_ss, old_esp = m.get(SELECTOR, Seg.SS).zext(32), m.get(GPR32, Gpr.SP)
        m.call(frames.enter_stack, stack, stack_raw, level)
        with m.If(vm):
            # VM goes first: the registers below are loaded as protected mode does.
            flags.set_flag(m, Eflags.VM, 0)
            for seg in (Seg.GS, Seg.FS, Seg.DS, Seg.ES):
                m.call(frames.push, m.get(SELECTOR, seg).zext(32), wide)
                load_null(m, m.const(8, seg), m.const(16, 0))
        m.call(frames.push, old_ss, wide)
        m.call(frames.push, old_esp, wide)
    m.call(frames.push, image, wide)
    m.call(frames.push, old_cs, wide)
    m.call(frames.push, return_eip, wide)
    with m.If(has_error):
        m.call(frames.push, error, wide)
    m.call(enter_code, selector, target, eip)
    flags.clear(m, Eflags.TF, Eflags.NT, Eflags.RF)
    with m.If(one_of(gate.type, *INTERRUPT_GATES)):
        flags.clear(m, Eflags.IF)


@procedure(vector=8, return_eip=32)
def interrupt_n(m: Microcode, vector: Value, return_eip: Value) -> None:
    """INT n with CR0.PE set: IOPL and redirection in virtual-8086 mode come first (SDM vol. 3A, table 20-2)."""
    with m.If(mode.virtual_8086(m)):
        iopl = flags.iopl(m)
        with m.If(mode.cr4_bit(m, Cr4.VME)):  # noqa: SIM117 - m.If nests in the guest
            with m.If(m.call(redirected, vector)):
                m.call(interrupt_redirected, vector, return_eip)
                m.return_()
        fault_if(m, iopl != 3, Vector.GP, 0, "VM86_IOPL", iopl.zext(32))
    m.call(interrupt_protected, vector, 1, 0, 0, return_eip)


@procedure()
def deliver(m: Microcode) -> None:
    """Deliver the event in ``INJECT_*`` and clear it.  Engines run it as a transaction with DELIVERING set."""
    kind, vector, payload = m.get(INJECT_TYPE), m.get(INJECT_VECTOR), m.get(INJECT_PAYLOAD)
    soft = (kind == EventType.SOFT_INT) | (kind == EventType.SOFT_EXCEPTION)
    after = soft | (kind == EventType.PRIVILEGED_SOFT)
    eip = m.get(EIP)
    return_eip = m.select(after, eip + m.get(INJECT_LENGTH).zext(32), eip)
    exception = kind == EventType.EXCEPTION
    with m.If(m.get(INJECT_HAS_PAYLOAD)):
        with m.If(exception & (vector == Vector.PF)):
            m.set(CR2, payload)
        with m.If(exception & (vector == Vector.DB)):
            m.set(DR6, m.get(DR6) & (0xFFFFFFFFFFFFFFFF ^ Dr6.B) | payload)
    with m.If(exception & (vector == Vector.DB)):
        m.set(DR7, m.get(DR7) & (0xFFFFFFFFFFFFFFFF ^ Dr7.GD))
    with m.If(~mode.pe(m)):
        m.call(interrupt_real, vector, return_eip)
    with m.Else():
        with m.If(kind == EventType.SOFT_INT):
            m.call(interrupt_n, vector, return_eip)
        with m.Else():
            m.call(interrupt_protected, vector, soft, m.get(INJECT_HAS_ERROR), m.get(INJECT_ERROR), return_eip)
    with m.If(kind == EventType.NMI):
        m.set(NMI_BLOCKED, 1)
    with m.If(exception & (vector == Vector.DB)):
        # A handler is neither stepped nor recorded by branches (SDM vol. 3B, 17.4.1 and 17.4.3; APM vol. 2, 13.1.1).
        m.set(DEBUGCTL, m.get(DEBUGCTL) & (0xFFFFFFFFFFFFFFFF ^ (DebugCtl.LBR | DebugCtl.BTF)))
    inject(m, EventType.NONE, 0, 0, 0)
    m.set(INJECT_PAYLOAD, 0)
    m.set(ACTIVITY, int(Activity.RUNNING))
    m.set(SHADOW, 0)
    m.set(SHADOW_NEXT, 0)
