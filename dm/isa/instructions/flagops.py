"""Instructions on single flags (SDM vol. 2, CLC STC CMC CLD STD CLI STI LAHF SAHF SALC)."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa.cells import CPL, SHADOW_NEXT
from dm.isa.insn import Insn, instruction
from dm.isa.mechanisms import mode
from dm.machine.architecture import Cr4, Eflags, Vector
from dm.machine.state import Shadow
from dm.microcode import Value


@instruction()
def CLC(x: Insn) -> None:
    """Clear CF."""
    flags.set_carry(x.m, 0)


@instruction()
def STC(x: Insn) -> None:
    """Set CF."""
    flags.set_carry(x.m, 1)


@instruction()
def CMC(x: Insn) -> None:
    """Turn CF over."""
    flags.set_carry(x.m, ~flags.carry(x.m))


@instruction()
def CLD(x: Insn) -> None:
    """Clear DF: strings go up."""
    flags.set_flag(x.m, Eflags.DF, 0)


@instruction()
def STD(x: Insn) -> None:
    """Set DF: strings go down."""
    flags.set_flag(x.m, Eflags.DF, 1)


@instruction()
def LAHF(x: Insn) -> None:
    """Copy the low byte of FLAGS to AH."""
    x.register(4, 8).write(flags.eflags(x.m).trunc(8))


@instruction()
def SAHF(x: Insn) -> None:
    """Copy SF ZF AF PF CF from AH; OF stays."""
    m = x.m
    flags.set_arithmetic(
        m, (x.register(4, 8).read().zext(32) & (Eflags.STATUS ^ Eflags.OF)) | flags.overflow(m).at(Eflags.OF, 32)
    )


@instruction()
def SALC(x: Insn) -> None:
    """Fill AL with CF (not documented by Intel; on every part)."""
    x.register(0, 8).write(flags.carry(x.m).sext(8))


def _interrupt_flag(x: Insn) -> Value:
    """Return whether CLI and STI act on VIF instead of IF, 1 bit; #GP(0) where they may do neither.

    SDM vol. 3A, 6.8.1, 20.3.3.5 and 20.4.
    """
    m = x.m
    virtual, cpl = mode.virtual_8086(m), m.get(CPL)
    sensitive = mode.pe(m) & (cpl > flags.iopl(m))
    extension = m.select(virtual, mode.cr4_bit(m, Cr4.VME), mode.cr4_bit(m, Cr4.PVI) & (cpl == 3))
    x.fault_if(sensitive & ~extension, Vector.GP, 0, "IOPL")
    return sensitive


@instruction()
def CLI(x: Insn) -> None:
    """Clear IF, or VIF."""
    m = x.m
    with m.If(_interrupt_flag(x)):
        flags.set_flag(m, Eflags.VIF, 0)
    with m.Else():
        flags.set_flag(m, Eflags.IF, 0)
    ends.checkpoint(m)


@instruction()
def STI(x: Insn) -> None:
    """Set IF, or VIF.  When IF was clear, interrupts wait for the end of the next instruction."""
    m = x.m
    with m.If(_interrupt_flag(x)):
        x.fault_if(flags.flag(m, Eflags.VIP), Vector.GP, 0, "VIP")
        flags.set_flag(m, Eflags.VIF, 1)
    with m.Else():
        with m.If(~flags.flag(m, Eflags.IF)):
            m.set(SHADOW_NEXT, int(Shadow.STI))
        flags.set_flag(m, Eflags.IF, 1)
    ends.checkpoint(m)
