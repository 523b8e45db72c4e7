"""Between two instructions: what is taken next (SDM vol. 3A, table 6-2)."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa.cells import (
    ACTIVITY,
    ATTRIBUTES,
    CPL,
    DR6,
    DR7,
    INJECT_TYPE,
    INJECT_VECTOR,
    NMI_BLOCKED,
    NMI_PENDING,
    PENDING_DEBUG,
    SHADOW,
    SHADOW_NEXT,
)
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.debug import instruction_breakpoints
from dm.isa.mechanisms.events import inject
from dm.machine.architecture import (
    Cr4,
    Dr6,
    Dr7,
    Eflags,
    PendingDebug,
    Rights,
    Vector,
)
from dm.machine.state import Activity, EventType, Seg, Shadow
from dm.microcode import Microcode, Value, procedure

#: Results of :func:`boundary`.
RUN_ON, EVENT, HALTED, SHUTDOWN, WINDOW, WAIT_FOR_SIPI = range(6)


def virtual_interrupt_pending(m: Microcode) -> Value:
    """Return whether VIF and VIP are both set where they count: #GP(0) before the next instruction.

    IRET or a task switch has just made it so (SDM vol. 3A, 20.3.2 and 20.4); with IOPL 3 VIP is not looked at (2.3).
    """
    both = flags.flag(m, Eflags.VIF) & flags.flag(m, Eflags.VIP) & (flags.iopl(m) != 3)
    counts = m.select(mode.virtual_8086(m), mode.cr4_bit(m, Cr4.VME), mode.cr4_bit(m, Cr4.PVI) & (m.get(CPL) == 3))
    return both & counts


@procedure()
def retire(m: Microcode) -> None:
    """Put the shadow that the instruction just done leaves behind in force."""
    m.set(SHADOW, m.get(SHADOW_NEXT))
    m.set(SHADOW_NEXT, 0)


@procedure(result=8, window=1)
def boundary(m: Microcode, window: Value) -> None:
    """Decide what happens between two instructions (SDM vol. 3A, table 6-2).

    ``window`` asks for a stop when an external interrupt could be taken.  Returns RUN_ON 0, EVENT 1 (now in
    ``INJECT_*``), HALTED 2, SHUTDOWN 3, WINDOW 4 or WAIT_FOR_SIPI 5; in 64-bit mode and with CR4.CET the run ends as
    unsupported.
    """
    with m.If(mode.long_mode(m) & m.get(ATTRIBUTES, Seg.CS).has(Rights.L)):
        ends.unsupported(m, "CODE_64_BIT")
    # Shadow stacks and branch tracking, whose MSRs are no part of the state, would change every near transfer.
    with m.If(mode.cr4_bit(m, Cr4.CET) & mode.protected(m)):
        ends.unsupported(m, "CET")
    activity, shadow = m.get(ACTIVITY), m.get(SHADOW)
    with m.If(activity == Activity.WAIT_FOR_SIPI):
        m.return_(WAIT_FOR_SIPI)
    kind = m.get(INJECT_TYPE)
    with m.If(activity == Activity.SHUTDOWN):
        # Only NMI and machine checks leave it, besides what resets the part (SDM vol. 3A, 6.15, #DF; 3C, 27.3.1.5).
        check = (kind == EventType.EXCEPTION) & (m.get(INJECT_VECTOR) == Vector.MC)
        with m.If((kind == EventType.NMI) | check):
            m.return_(EVENT)
        with m.If((kind == EventType.NONE) & m.get(NMI_PENDING) & ~m.get(NMI_BLOCKED)):
            m.set(NMI_PENDING, 0)
            inject(m, EventType.NMI, Vector.NMI, 0, 0)
            m.return_(EVENT)
        m.return_(SHUTDOWN)
    with m.If(kind != EventType.NONE):
        m.return_(EVENT)
    # MOV SS and POP SS hold back debug exceptions and NMIs for one instruction.
    after_ss = (shadow & int(Shadow.MOV_SS)).nz()
    pending = m.get(PENDING_DEBUG)
    with m.If(pending.nz() & ~after_ss):
        m.set(PENDING_DEBUG, 0)
        with m.If((pending & (PendingDebug.ENABLED | PendingDebug.BS | PendingDebug.BT)).nz()):
            m.set(DR6, m.get(DR6) & (0xFFFFFFFFFFFFFFFF ^ Dr6.B) | pending & (Dr6.B | Dr6.BS | Dr6.BT))
            inject(m, EventType.EXCEPTION, Vector.DB, 0, 0)
            m.return_(EVENT)
    with m.If(m.get(NMI_PENDING) & ~m.get(NMI_BLOCKED) & ~after_ss):
        m.set(NMI_PENDING, 0)
        inject(m, EventType.NMI, Vector.NMI, 0, 0)
        m.return_(EVENT)
    with m.If(window & (shadow == 0) & flags.flag(m, Eflags.IF)):
        m.return_(WINDOW)
    with m.If(activity == Activity.HALTED):
        m.return_(HALTED)
    with m.If((m.get(DR7) & Dr7.ENABLED).nz() & ~flags.flag(m, Eflags.RF) & ~after_ss):
        hits = m.call(instruction_breakpoints)
        with m.If(hits != 0):
            m.set(DR6, m.get(DR6) & (0xFFFFFFFFFFFFFFFF ^ Dr6.B) | hits.zext(64))
            inject(m, EventType.EXCEPTION, Vector.DB, 0, 0)
            m.return_(EVENT)
    with m.If(virtual_interrupt_pending(m)):
        inject(m, EventType.EXCEPTION, Vector.GP, 0, 1)
        flags.set_flag(m, Eflags.RF, 1)
        m.return_(EVENT)
    m.return_(RUN_ON)
