"""What the processor says of itself, time and chance (SDM vol. 2, CPUID RDPID RDTSC RDTSCP RDPMC RDRAND RDSEED)."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import CPL, cell
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Operand, instruction
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.cpuid import cpuid_register
from dm.machine.architecture import ApicBase, Cr4, Eflags, Vector
from dm.microcode import Value

#: Bits of CPUID(1).ECX, CPUID(7).ECX, CPUID(1).EDX (AMD: CPUID(80000001h).EDX too).
_OSXSAVE_SHOWN, _OSPKE_SHOWN, _APIC_SHOWN = 1 << 27, 1 << 4, 1 << 9


@instruction()
def CPUID(x: Insn) -> None:
    """Identify the part: EAX and ECX choose, EAX EBX ECX EDX answer (SDM vol. 2, CPUID).

    OSXSAVE and OSPKE follow CR4, APIC the enable bit of IA32_APIC_BASE.  The sizes of leaf 0Dh depend on XCR0, which is
    the hypervisor's once CR4.OSXSAVE is set.
    """
    m = x.m
    asked, subleaf = x.register(0, 32).read(), x.register(1, 32).read()
    leaf = m.var(32, asked)
    hypervisors = (asked >> 28) == 4
    beyond = asked > m.call(cpuid_register, asked & 0x80000000, 0, 0)
    with m.If(~is_amd(m) & ~hypervisors & beyond):
        # Beyond the last leaf Intel's parts show the last basic one.
        leaf.v = m.call(cpuid_register, m.const(32, 0), 0, 0)
    with m.If((leaf.v == 0xD) & (subleaf < 2) & mode.cr4_bit(m, Cr4.OSXSAVE)):
        ends.unsupported(m, "CPUID_XSAVE_SIZE")
    eax, ebx, ecx, edx = (m.call(cpuid_register, leaf.v, subleaf, which) for which in range(4))
    basic, extended = leaf.v == 1, (leaf.v == 0x80000001) & is_amd(m)
    osxsave, ospke = mode.cr4_bit(m, Cr4.OSXSAVE), mode.cr4_bit(m, Cr4.PKE)
    ecx = m.select(basic, ecx & ~m.const(32, _OSXSAVE_SHOWN) | osxsave.at(_OSXSAVE_SHOWN, 32), ecx)
    ecx = m.select((leaf.v == 7) & (subleaf == 0), ecx & ~m.const(32, _OSPKE_SHOWN) | ospke.at(_OSPKE_SHOWN, 32), ecx)
    apic = m.get(cell("apic_base")).has(ApicBase.EN)
    edx = m.select((basic | extended) & ~apic, edx & ~m.const(32, _APIC_SHOWN), edx)
    for number, answer in zip((0, 3, 1, 2), (eax, ebx, ecx, edx), strict=True):
        x.register(number, 32).write(answer)


@instruction()
def RDPID(x: Insn, dst: Operand) -> None:
    """Read TSC_AUX."""
    dst.write(x.m.get(cell("tsc_aux")).trunc(32))


def _set_edx_eax(x: Insn, value: Value) -> None:
    x.register(0, 32).write(value.trunc(32))
    x.register(2, 32).write((value >> 32).trunc(32))


def _read_tsc(x: Insn) -> Value:
    m = x.m
    x.fault_if(mode.cr4_bit(m, Cr4.TSD) & (m.get(CPL) != 0), Vector.GP, 0, "TSD")
    return m.call(p.TSC_READ)


@instruction()
def RDTSC(x: Insn) -> None:
    """Read the time-stamp counter."""
    _set_edx_eax(x, _read_tsc(x))


@instruction()
def RDTSCP(x: Insn) -> None:
    """Read the time-stamp counter, and TSC_AUX into ECX."""
    _set_edx_eax(x, _read_tsc(x))
    x.register(1, 32).write(x.m.get(cell("tsc_aux")).trunc(32))


@instruction()
def RDPMC(x: Insn) -> None:
    """Performance counters are the hypervisor's."""
    m = x.m
    x.fault_if(~mode.cr4_bit(m, Cr4.PCE) & (m.get(CPL) != 0), Vector.GP, 0, "PCE")
    ends.unsupported(m, "RDPMC")


@instruction("RDRAND", "RDSEED")
def RDRAND(x: Insn, dst: Operand) -> None:
    """Random bits; CF says that there were enough, the other flags are cleared."""
    dst.write(x.m.call(p.RANDOM).trunc(dst.width))
    flags.set_arithmetic(x.m, x.m.const(32, Eflags.CF))
