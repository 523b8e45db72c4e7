"""Operating modes and privilege, as 1-bit values, and the checks that nearly every system instruction begins with."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa.cells import CPL, CR0, CR4, EFER
from dm.machine.architecture import Cr0, Cr4, Efer, Eflags, Vector
from dm.microcode import Microcode, Value


def pe(m: Microcode) -> Value:
    """Return CR0.PE."""
    return m.get(CR0).has(Cr0.PE)


def paging(m: Microcode) -> Value:
    """Return CR0.PG."""
    return m.get(CR0).has(Cr0.PG)


def virtual_8086(m: Microcode) -> Value:
    """Return whether the CPU is in virtual-8086 mode."""
    return flags.flag(m, Eflags.VM)


def protected(m: Microcode) -> Value:
    """Return whether segment registers are loaded through descriptors: PE set, not virtual-8086."""
    return pe(m) & ~virtual_8086(m)


def long_mode(m: Microcode) -> Value:
    """Return EFER.LMA; code here then runs in compatibility mode."""
    return m.get(EFER).has(Efer.LMA)


def alignment_checked(m: Microcode) -> Value:
    """Return whether misaligned accesses are #AC: CR0.AM, EFLAGS.AC and CPL 3 (SDM vol. 3A, 6.15, interrupt 17)."""
    return (m.get(CPL) == 3) & m.get(CR0).has(Cr0.AM) & flags.flag(m, Eflags.AC)


def cr0_bit(m: Microcode, bit: Cr0) -> Value:
    """Return a bit of CR0."""
    return m.get(CR0).has(bit)


def cr4_bit(m: Microcode, bit: Cr4) -> Value:
    """Return a bit of CR4."""
    return m.get(CR4).has(bit)


def fault_if(
    m: Microcode, condition: Value, vector: int | Value, error: int | Value, cause: str, *operands: int | Value
) -> None:
    """Raise an exception where ``condition`` holds (see :func:`dm.isa.ends.fault`)."""
    with m.If(condition):
        ends.fault(m, vector, error, cause, *operands)


def require_cpl0(m: Microcode) -> None:
    """#GP(0) unless CPL is 0."""
    cpl = m.get(CPL)
    fault_if(m, cpl != 0, Vector.GP, 0, "CPL_NOT_0", cpl.zext(32))


def require_protected(m: Microcode) -> None:
    """#UD in real-address and virtual-8086 mode."""
    fault_if(m, ~protected(m), Vector.UD, 0, "NOT_PROTECTED_MODE")


def require_osxsave(m: Microcode) -> None:
    """#UD unless CR4.OSXSAVE is set."""
    fault_if(m, ~cr4_bit(m, Cr4.OSXSAVE), Vector.UD, 0, "OSXSAVE_CLEAR")


def forbid_umip(m: Microcode) -> None:
    """#GP(0) when CR4.UMIP keeps SGDT, SIDT, SLDT, STR and SMSW from this privilege level (SDM vol. 3A, 2.5)."""
    fault_if(m, cr4_bit(m, Cr4.UMIP) & (m.get(CPL) != 0), Vector.GP, 0, "UMIP")
