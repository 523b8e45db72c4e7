"""Software interrupts and the return from them (SDM vol. 2, INT n, INT3, INTO, INT1 and IRET)."""

from __future__ import annotations

from typing import Final

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import (
    BASE,
    CPL,
    EIP,
    GPR32,
    INJECT_LENGTH,
    MODEL,
    NMI_BLOCKED,
    PENDING_DEBUG,
)
from dm.isa.features import before_386, is_amd
from dm.isa.insn import Insn, Operand, instruction
from dm.isa.mechanisms import frames, mode, task
from dm.isa.mechanisms.code import check_eip, enter_code, enter_outer, enter_real, return_code
from dm.isa.mechanisms.descriptor import (
    rpl,
)
from dm.isa.mechanisms.events import inject, interrupt_n, interrupt_protected, interrupt_real
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.segmentation import load_real, load_virtual_8086
from dm.machine.architecture import (
    Cr4,
    Eflags,
    PendingDebug,
    Vector,
)
from dm.machine.state import EventType, Gpr, Seg
from dm.microcode import Microcode, Value, procedure

#: Flags that IRET takes from its frame at every level; and those of the upper half, from a doubleword.
_OPEN: Final = Eflags.STATUS | Eflags.TF | Eflags.DF | Eflags.NT
_WIDE: Final = Eflags.RF | Eflags.AC | Eflags.ID


def _no_single_step(m: Microcode) -> None:
    """A software interrupt clears TF and takes no single-step trap itself (SDM vol. 3B, 17.3.1.4)."""
    m.set(PENDING_DEBUG, m.get(PENDING_DEBUG) & (0xFFFFFFFFFFFFFFFF ^ PendingDebug.BS))


@instruction()
def INT(x: Insn, vector: Operand) -> None:
    """Software interrupt."""
    m = x.m
    with m.If(mode.pe(m)):
        m.call(interrupt_n, vector.read(), ends.next_eip(m))
    with m.Else():
        m.call(interrupt_real, vector.read(), ends.next_eip(m))
    _no_single_step(m)
    m.end(ends.CHECKPOINT)


def _soft_exception(x: Insn, vector: int) -> None:
    m = x.m
    with m.If(mode.pe(m)):
        m.call(interrupt_protected, vector, 1, 0, 0, ends.next_eip(m))
    with m.Else():
        m.call(interrupt_real, vector, ends.next_eip(m))
    _no_single_step(m)
    m.end(ends.CHECKPOINT)


@instruction()
def INT3(x: Insn) -> None:
    """Breakpoint; IOPL and redirection do not apply."""
    _soft_exception(x, Vector.BP)


@instruction()
def INTO(x: Insn) -> None:
    """Overflow trap."""
    with x.m.If(flags.overflow(x.m)):
        _soft_exception(x, Vector.OF)


@instruction()
def ICEBP(x: Insn) -> None:
    """INT1: a #DB that leaves DR6 alone and whose gate's DPL does not matter; delivered as an event of its own."""
    m = x.m
    inject(m, EventType.PRIVILEGED_SOFT, Vector.DB, 0, 0)
    m.set(INJECT_LENGTH, (ends.next_eip(m) - ends.this_eip(m)).trunc(8))
    _no_single_step(m)
    m.set(EIP, ends.this_eip(m))
    m.end(ends.CHECKPOINT)


def existing_flags(m: Microcode) -> Value:
    """Return the flags that the part modelled has, apart from VM (32 bits)."""
    return m.select(
        m.get(MODEL) < 6,
        m.select(before_386(m), m.const(32, Eflags.ALL_16), m.const(32, Eflags.ALL_16 | Eflags.RF)),
        m.const(32, Eflags.ALL_32 ^ Eflags.VM),
    )


def _replace_flags(m: Microcode, image: Value, mask: Value) -> None:
    flags.set_eflags(m, (flags.eflags(m) & ~mask | image & mask) & (0xFFFFFFFF ^ Eflags.FIXED))


@procedure(image=32, wide=1)
def iret_flags_real(m: Microcode, image: Value, wide: Value) -> None:
    """Take EFLAGS from an IRET frame in real-address mode (SDM vol. 2, IRET)."""
    all_32 = Eflags.ALL_16 | _WIDE
    mask = m.select(wide, m.const(32, all_32), m.const(32, Eflags.ALL_16)) & existing_flags(m)
    # A 80286 cannot set IOPL and NT here.
    _replace_flags(m, image, m.select(before_386(m), mask & (Eflags.ALL_16 ^ Eflags.IOPL ^ Eflags.NT), mask))


@procedure(image=32, wide=1, cpl=8)
def iret_flags_protected(m: Microcode, image: Value, wide: Value, cpl: Value) -> None:
    """Take EFLAGS from an IRET frame in protected mode, as far as the level ``cpl`` returned from may."""
    mask = m.var(32, _OPEN)
    with m.If(wide):
        mask.v = mask.v | _WIDE
    with m.If(cpl <= flags.iopl(m)):
        mask.v = mask.v | Eflags.IF
    with m.If(cpl == 0):
        mask.v = mask.v | Eflags.IOPL
        with m.If(wide):
            mask.v = mask.v | (Eflags.VIF | Eflags.VIP)
    _replace_flags(m, image, mask.v & existing_flags(m))


@procedure(wide=1)
def iret_real(m: Microcode, wide: Value) -> None:
    """IRET in real-address mode, and in virtual-8086 mode with IOPL 3."""
    size = frames.element_size(m, wide)
    eip = m.call(frames.peek, 0, wide)
    cs = frames.peek_selector(m, size, wide)
    image = m.call(frames.peek, size * 2, wide)
    m.call(enter_real, cs, eip)
    frames.release(m, size * 3)
    with m.If(mode.virtual_8086(m)):
        mask = m.select(wide, m.const(32, _OPEN | Eflags.IF | _WIDE), m.const(32, _OPEN | Eflags.IF))
        _replace_flags(m, image, mask)
    with m.Else():
        m.call(iret_flags_real, image, wide)


@procedure()
def iret_virtual(m: Microcode) -> None:
    """16-bit IRET in virtual-8086 mode with CR4.VME and IOPL below 3: IF goes to VIF (SDM vol. 3A, 20.3.3)."""
    eip = m.call(frames.peek, 0, 0)
    cs = m.call(frames.peek, 2, 0).trunc(16)
    image = m.call(frames.peek, 4, 0)
    bad = image.has(Eflags.TF) | (image.has(Eflags.IF) & flags.flag(m, Eflags.VIP))
    fault_if(m, bad, Vector.GP, 0, "VME_IRET", image)
    m.call(enter_real, cs, eip)
    frames.release(m, m.const(32, 6))
    _replace_flags(m, image, m.const(32, _OPEN))
    flags.set_flag(m, Eflags.VIF, image.has(Eflags.IF))


@procedure(cs=16, eip=32, image=32)
def return_to_virtual_8086(m: Microcode, cs: Value, eip: Value, image: Value) -> None:
    """IRETD from level 0 to virtual-8086 mode: six more doublewords are on the stack."""
    words = [m.call(frames.peek, 12 + 4 * i, 1) for i in range(6)]
    esp, (ss, es, ds, fs, gs) = words[0], [word.trunc(16) for word in words[1:]]
    check_eip(m, eip, m.const(32, 0xFFFF))
    flags.set_eflags(m, image & Eflags.ALL_32)
    m.set(CPL, 3)
    load_real(m, m.const(8, Seg.CS), cs)
    m.call(load_virtual_8086, es, ss, ds, fs, gs)
    m.set(GPR32, esp, Gpr.SP)
    m.set(EIP, eip)


@procedure(wide=1, next_eip=32)
def iret_protected(m: Microcode, wide: Value, next_eip: Value) -> None:
    """IRET in protected mode: nested task, virtual-8086 mode, same and outer level (SDM vol. 2, IRET)."""
    with m.If(flags.flag(m, Eflags.NT)):
        fault_if(m, mode.long_mode(m), Vector.GP, 0, "NT_IN_LONG_MODE")
        link = m.call(p.LOAD_SYSTEM[16], m.get(BASE, Seg.TR).trunc(32))
        m.call(task.switch_task, link, m.call(task.check_tss, link, Vector.TS, 1), task.IRET, next_eip)
        m.call(task.check_task_eip)
        m.return_()
    size = frames.element_size(m, wide)
    cpl = m.get(CPL)
    image = m.call(frames.peek, size * 2, wide)  # the frame is read from its end (live oracle)
    cs = frames.peek_selector(m, size, wide)
    eip = m.call(frames.peek, 0, wide)
    with m.If(image.has(Eflags.VM) & (cpl == 0) & ~mode.long_mode(m)):
        m.call(return_to_virtual_8086, cs, eip, image)
        m.return_()
    same = rpl(cs) == cpl
    with m.If(is_amd(m) & ~same):
        # As far returns: AMD's parts pop ESP and SS before they look at CS.
        for element in (3, 4):
            m.call(frames.peek, size * element, wide)
    code = m.call(return_code, cs)
    with m.If(same):
        m.call(enter_code, cs, code, eip)
        frames.release(m, size * 3)
    with m.Else():
        esp = m.call(frames.peek, size * 3, wide)
        ss = m.call(frames.peek, size * 4, wide).trunc(16)
        m.call(enter_outer, cs, code, eip, ss, esp, 0)
    m.call(iret_flags_protected, image, wide, cpl)


@instruction()
def IRET(x: Insn) -> None:
    """Return from an interrupt or a nested task."""
    m = x.m
    wide = int(x.osize == 32)
    with m.If(m.get(NMI_BLOCKED)):
        # NMIs are unblocked even if the rest faults (SDM vol. 3A, 6.7.1).
        m.set(NMI_BLOCKED, 0)
        m.call(p.COMMIT)
    with m.If(~mode.pe(m)):
        m.call(iret_real, wide)
    with m.Else():
        with m.If(mode.virtual_8086(m)):
            iopl = flags.iopl(m)
            with m.If(iopl == 3):
                m.call(iret_real, wide)
            with m.Else():
                refused = m.const(1, 1) if wide else ~mode.cr4_bit(m, Cr4.VME)
                with m.If(refused):
                    ends.fault(m, Vector.GP, 0, "VM86_IOPL", iopl.zext(32))
                with m.Else():
                    m.call(iret_virtual)
        with m.Else():
            m.call(iret_protected, wide, ends.next_eip(m))
    m.end(ends.TRANSFER)
