"""RDMSR and WRMSR (SDM vol. 4).

MSRs of the state table are kept here, checked as hardware checks them.  The rest are asked of the hypervisor; so are
writes to those of the table that change its own machine (APIC base, debug control, miscellaneous enables).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dm.isa import ends
from dm.isa import primitives as p
from dm.isa.cells import BASE, CR0, EFER, cell
from dm.isa.features import has
from dm.isa.insn import Insn, instruction
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.paging import reserved_address
from dm.machine.architecture import Cr0, Efer, Msr, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Field, Microcode, Value, procedure

#: Gives 1 bit: the value may not be written.
Check = Callable[[Microcode, Value], Value]


def _memory_types(m: Microcode, value: Value, allowed: int) -> Value:
    """Return whether any of the eight bytes is not a memory type in ``allowed`` (SDM vol. 3A, table 11-2)."""
    bad = m.const(1, 0)
    for i in range(8):
        byte = (value >> (8 * i)).trunc(8)
        bad = bad | (byte > 7) | ~m.const(8, allowed).bit(byte & 7)
    return bad


#: Memory types 0 UC, 1 WC, 4 WT, 5 WP, 6 WB; PAT has 7 UC- too.
MTRR_TYPES, PAT_TYPES = 0b0111_0011, 0b1111_0011


def _pat(m: Microcode, value: Value) -> Value:
    return _memory_types(m, value, PAT_TYPES)


def _fixed(m: Microcode, value: Value) -> Value:
    return _memory_types(m, value, MTRR_TYPES)


def _type_byte(m: Microcode, value: Value) -> Value:
    byte = value.trunc(8)
    return (byte > 7) | ~m.const(8, MTRR_TYPES).bit(byte & 7)


def _default_type(m: Microcode, value: Value) -> Value:
    return (value & 0xFFFFFFFFFFFFF300).nz() | _type_byte(m, value)


def _beyond(m: Microcode, value: Value) -> Value:
    """Return whether address bits beyond MAXPHYADDR, or bits 52-63, are set."""
    return (value & (m.call(reserved_address) | 0xFFF0000000000000)).nz()


def _range_base(m: Microcode, value: Value) -> Value:
    return _beyond(m, value) | (value & 0xF00).nz() | _type_byte(m, value)


def _range_mask(m: Microcode, value: Value) -> Value:
    return _beyond(m, value) | (value & 0x7FF).nz()


def _canonical(m: Microcode, value: Value) -> Value:
    top = value.sar(47)
    return (top != 0) & (top != 0xFFFFFFFFFFFFFFFF)


def _above_32(m: Microcode, value: Value) -> Value:
    return (value >> 32).nz()


def _any(m: Microcode, value: Value) -> Value:
    return m.const(1, 0)


@dataclass(frozen=True)
class Local:
    """An MSR kept in the state table; ``feature`` is what CPUID must show, or an empty string."""

    number: int
    cell: Field
    index: int | None
    feature: str
    check: Check
    told: bool = False


#: IA32_MTRRCAP, read-only: eight variable ranges, fixed ranges, write-combining (SDM vol. 3A, 12.11.1).
MTRR_CAP: Final = 8 | 1 << 8 | 1 << 10

_SYSCALL: Final = "syscall"
_FIXED: Final = (
    Msr.MTRR_FIX64K_00000,
    *(Msr.MTRR_FIX16K_80000 + i for i in range(2)),
    *(Msr.MTRR_FIX4K_C0000 + i for i in range(8)),
)

LOCAL: Final[tuple[Local, ...]] = (
    Local(Msr.SYSENTER_CS, cell("sysenter_cs"), None, "sep", _any),
    Local(Msr.SYSENTER_ESP, cell("sysenter_esp"), None, "sep", _canonical),
    Local(Msr.SYSENTER_EIP, cell("sysenter_eip"), None, "sep", _canonical),
    Local(Msr.PAT, cell("pat"), None, "pat", _pat),
    Local(Msr.MTRR_DEF_TYPE, cell("mtrr_def_type"), None, "mtrr", _default_type),
    *(Local(number, cell("mtrr_fixed"), i, "mtrr", _fixed) for i, number in enumerate(_FIXED)),
    *(Local(Msr.MTRR_PHYSBASE0 + 2 * i, cell("mtrr_base"), i, "mtrr", _range_base) for i in range(8)),
    *(Local(Msr.MTRR_PHYSMASK0 + 2 * i, cell("mtrr_mask"), i, "mtrr", _range_mask) for i in range(8)),
    Local(Msr.STAR, cell("star"), None, _SYSCALL, _any),
    Local(Msr.LSTAR, cell("lstar"), None, "lm", _canonical),
    Local(Msr.CSTAR, cell("cstar"), None, "lm", _canonical),
    Local(Msr.FMASK, cell("fmask"), None, "lm", _any),
    Local(Msr.FS_BASE, BASE, Seg.FS, "lm", _canonical),
    Local(Msr.GS_BASE, BASE, Seg.GS, "lm", _canonical),
    Local(Msr.KERNEL_GS_BASE, cell("kernel_gs_base"), None, "lm", _canonical),
    Local(Msr.TSC_AUX, cell("tsc_aux"), None, "rdtscp", _above_32),
    # From the P6 on it is there whether or not there is an APIC (SDM vol. 4, table 2-2).
    Local(Msr.APIC_BASE, cell("apic_base"), None, "", _any, told=True),
    Local(Msr.MISC_ENABLE, cell("misc_enable"), None, "", _any, told=True),
    Local(Msr.DEBUGCTL, cell("debugctl"), None, "", _any, told=True),
)


#: EFER bits by the CPUID feature that brings them.
EFER_FEATURES: Final = (
    (Efer.SCE, _SYSCALL), (Efer.LME, "lm"), (Efer.NXE, "nx"), (Efer.SVME, "svm"), (Efer.FFXSR, "ffxsr"),
    (Efer.TCE, "tce"),
)  # fmt: skip


def _require(m: Microcode, feature: str, number: Value) -> None:
    if feature:
        fault_if(m, ~has(m, feature), Vector.GP, 0, "NO_SUCH_MSR", number)


def _efer_bits(m: Microcode) -> Value:
    """Return the EFER bits that may be set: by CPUID, and those the hypervisor has set already."""
    bits = m.get(EFER) | Efer.LMA
    for bit, feature in EFER_FEATURES:
        bits = bits | has(m, feature).at(bit, 64)
    return bits


def _require_efer(m: Microcode, number: Value) -> None:
    exists = has(m, _SYSCALL) | has(m, "lm") | has(m, "nx")
    fault_if(m, ~exists, Vector.GP, 0, "NO_SUCH_MSR", number)


@procedure(value=64)
def write_efer(m: Microcode, value: Value) -> None:
    """Load EFER; LMA is read-only, LME cannot change while paging is on (SDM vol. 3A, 9.8.5)."""
    allowed = _efer_bits(m)
    old = m.get(EFER)
    fault_if(m, (value & ~allowed).nz(), Vector.GP, 0, "EFER_RESERVED", value.trunc(32), allowed.trunc(32))
    changed = value ^ old
    paging = m.get(CR0).has(Cr0.PG)
    fault_if(m, changed.has(Efer.LME) & paging, Vector.GP, 0, "EFER_LME_WITH_PAGING", value.trunc(32))
    lma = m.const(64, Efer.LMA)
    m.set(EFER, value & ~lma | old & lma)
    with m.If(changed.has(Efer.NXE)):
        m.call(p.TLB_FLUSH)


@procedure(result=64, number=32)
def read_msr(m: Microcode, number: Value) -> None:
    """Return an MSR; one that does not exist is #GP(0)."""
    with m.If(number == Msr.TSC):
        _require(m, "tsc", number)
        m.return_(m.call(p.TSC_READ))
    with m.If(number == Msr.EFER):
        _require_efer(m, number)
        m.return_(m.get(EFER))
    with m.If(number == Msr.MTRRCAP):
        _require(m, "mtrr", number)
        m.return_(MTRR_CAP)
    for row in LOCAL:
        with m.If(number == row.number):
            _require(m, row.feature, number)
            m.return_(m.get(row.cell, row.index))
    m.return_(m.call(p.MSR_READ, number))


@procedure(number=32, value=64)
def write_msr(m: Microcode, number: Value, value: Value) -> None:
    """Write an MSR; one that does not exist, or a value it cannot take, is #GP(0)."""
    with m.If(number == Msr.TSC):
        _require(m, "tsc", number)
        m.call(p.TSC_WRITE, value)
        m.return_()
    with m.If(number == Msr.EFER):
        _require_efer(m, number)
        m.call(write_efer, value)
        m.return_()
    fault_if(m, number == Msr.MTRRCAP, Vector.GP, 0, "MSR_READ_ONLY", number)
    for row in LOCAL:
        with m.If(number == row.number):
            _require(m, row.feature, number)
            fault_if(
                m, row.check(m, value), Vector.GP, 0, "MSR_VALUE", number, value.trunc(32), (value >> 32).trunc(32)
            )
            if row.told:
                m.call(p.MSR_WRITE, number, value)
            m.set(row.cell, value, row.index)
            if row.cell is BASE and row.index is not None:
                m.call(p.SEGMENT_CHANGED, row.index)
            m.return_()
    m.call(p.MSR_WRITE, number, value)


@procedure(number=32)
def msr_refused(m: Microcode, number: Value) -> None:
    """#GP(0) for an access to an MSR that the hypervisor has refused."""
    ends.fault(m, Vector.GP, 0, "MSR_REFUSED", number)


def _require_msr(x: Insn) -> None:
    x.fault_if(~has(x.m, "msr"), Vector.UD, 0, "NO_FEATURE")
    mode.require_cpl0(x.m)


@instruction()
def RDMSR(x: Insn) -> None:
    """Read MSR ECX into EDX:EAX."""
    m = x.m
    _require_msr(x)
    value = m.call(read_msr, x.register(Gpr.CX, 32).read())
    x.register(Gpr.AX, 32).write(value.trunc(32))
    x.register(Gpr.DX, 32).write((value >> 32).trunc(32))


@instruction("WRMSR", "WRMSRNS")
def WRMSR(x: Insn) -> None:
    """Write EDX:EAX to MSR ECX."""
    m = x.m
    _require_msr(x)
    high, low = x.register(Gpr.DX, 32).read(), x.register(Gpr.AX, 32).read()
    m.call(write_msr, x.register(Gpr.CX, 32).read(), (high.zext(64) << 32) | low.zext(64))
    ends.checkpoint(m)
