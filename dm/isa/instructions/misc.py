"""What fits nowhere else (SDM vol. 2, NOP PAUSE UD CPUID RDPID RDTSC RDPMC RDRAND fences CLFLUSH MONITOR RSM)."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import CPL, cell
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.mechanisms import mode
from dm.machine.architecture import ApicBase, Cr4, Eflags, Vector
from dm.microcode import Value


@instruction("NOP", "PAUSE")
def NOP(x: Insn, _: Operand | None = None) -> None:
    """Nothing; the operand of the long forms is not accessed."""


@instruction("UD0", "UD1", "UD2", "UD")
def UD(x: Insn, *_: Operand) -> None:
    """Always #UD."""
    x.fault(Vector.UD, 0, "UNDEFINED")


@instruction()
def RSM(x: Insn) -> None:
    """Return from system-management mode; a CPU in that mode is never taken, and elsewhere this is #UD."""
    x.fault(Vector.UD, 0, "NOT_IN_SMM")


#: Bits of CPUID(1).ECX, CPUID(7).ECX, CPUID(1).EDX (AMD: CPUID(80000001h).EDX too).
_OSXSAVE, _OSPKE, _APIC = 27, 4, 9


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
    beyond = asked > m.call(p.CPUID_READ, asked & 0x80000000, 0, 0)
    with m.If(~is_amd(m) & ~hypervisors & beyond):
        # Beyond the last leaf Intel's parts show the last basic one.
        leaf.v = m.call(p.CPUID_READ, m.const(32, 0), 0, 0)
    with m.If((leaf.v == 0xD) & (subleaf < 2) & mode.cr4_bit(m, Cr4.OSXSAVE)):
        ends.unsupported(m, "CPUID_XSAVE_SIZE")
    eax, ebx, ecx, edx = (m.call(p.CPUID_READ, leaf.v, subleaf, which) for which in range(4))
    basic, extended = leaf.v == 1, (leaf.v == 0x80000001) & is_amd(m)
    osxsave, ospke = mode.cr4_bit(m, Cr4.OSXSAVE), mode.cr4_bit(m, Cr4.PKE)
    ecx = m.select(basic, ecx & ~m.const(32, 1 << _OSXSAVE) | osxsave.zext(32) << _OSXSAVE, ecx)
    ecx = m.select((leaf.v == 7) & (subleaf == 0), ecx & ~m.const(32, 1 << _OSPKE) | ospke.zext(32) << _OSPKE, ecx)
    apic = m.get(cell("apic_base")).has(ApicBase.EN)
    edx = m.select((basic | extended) & ~apic, edx & ~m.const(32, 1 << _APIC), edx)
    for number, answer in zip((0, 3, 1, 2), (eax, ebx, ecx, edx), strict=True):
        x.register(number, 32).write(answer)


@instruction()
def RDPID(x: Insn, dst: Operand) -> None:
    """Read TSC_AUX."""
    dst.write(x.m.get(cell("tsc_aux")).trunc(32))


@instruction()
def SERIALIZE(x: Insn) -> None:
    """Instructions are executed in order anyway; earlier stores become visible before later loads."""
    x.m.call(p.FENCE)


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


@instruction("LFENCE", "SFENCE")
def LFENCE(x: Insn, _: Operand) -> None:
    """Loads, and stores, are made in program order anyway."""


@instruction()
def MFENCE(x: Insn, _: Operand) -> None:
    """Make earlier stores visible before later loads."""
    x.m.call(p.FENCE)


@instruction("CLFLUSH", "CLFLUSHOPT", "CLWB")
def CLFLUSH(x: Insn, line: Memory) -> None:
    """Caches are not modelled; the address is checked as that of a byte read."""
    x.m.call(p.PROBE_READ, line.segment, line.offset(), 1)


@instruction("MONITOR", "MWAIT")
def MONITOR(x: Insn) -> None:
    """Waiting for a store is the hypervisor's business; #UD above CPL 0."""
    m = x.m
    x.fault_if(m.get(CPL) != 0, Vector.UD, 0, "CPL_NOT_0", m.get(CPL).zext(32))
    ends.unsupported(m, x.row.mnemonic)
