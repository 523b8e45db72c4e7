"""Fast system calls: SYSENTER and SYSEXIT, and AMD's legacy-mode SYSCALL and SYSRET."""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, CPL, EFER, EIP, GPR32, GPR64, LIMIT, SELECTOR, UNUSABLE, cell
from dm.isa.features import has, is_amd
from dm.isa.insn import Insn, instruction
from dm.isa.mechanisms import ia32e, mode
from dm.isa.mechanisms.descriptor import is_null
from dm.isa.mechanisms.mode import fault_if
from dm.machine.architecture import Efer, Eflags, Rights, Selector, Vector, position
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value

SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = cell("sysenter_cs"), cell("sysenter_esp"), cell("sysenter_eip")
STAR = cell("star")


def _flat(m: Microcode, seg: Seg, selector: Value, attributes: int) -> None:
    """Load a flat 4 GiB segment without a descriptor."""
    m.set(SELECTOR, selector, seg)
    m.set(BASE, 0, seg)
    m.set(LIMIT, 0xFFFFFFFF, seg)
    m.set(ATTRIBUTES, attributes, seg)
    m.set(UNUSABLE, 0, seg)
    m.call(p.SEGMENT_CHANGED, seg)


def _enter(m: Microcode, level: int, cs: Value, ss: Value) -> None:
    """Load CS and SS for level 0 or 3: code 32-bit readable, data writable, both accessed."""
    flat = Rights.FLAT | level << position(Rights.DPL)
    m.set(CPL, level)
    _flat(m, Seg.CS, cs, flat | Rights.TEXT)
    _flat(m, Seg.SS, ss, flat | Rights.DATA)


def _require_sysenter(m: Microcode) -> Value:
    """Return IA32_SYSENTER_CS (16 bits), checked."""
    fault_if(m, ~has(m, "sep") | (is_amd(m) & mode.long_mode(m)), Vector.UD, 0, "NO_FEATURE")
    fault_if(m, ~mode.pe(m), Vector.GP, 0, "NOT_PROTECTED_MODE")
    cs = m.get(SYSENTER_CS).trunc(16)
    fault_if(m, is_null(cs), Vector.GP, 0, "SYSENTER_CS_NULL")
    return cs & Selector.NAME


@instruction()
def SYSENTER(x: Insn) -> None:
    """Call level 0 (SDM vol. 2, SYSENTER)."""
    m = x.m
    cs = _require_sysenter(m)
    long_, esp, eip = mode.long_mode(m), m.get(SYSENTER_ESP), m.get(SYSENTER_EIP)
    flags.clear(m, Eflags.VM, Eflags.IF, Eflags.RF)
    _enter(m, 0, cs, cs + 8)
    with m.If(long_):
        # L instead of D.
        m.set(ATTRIBUTES, Rights.G | Rights.L | Rights.TEXT, Seg.CS)
        m.call(p.SEGMENT_CHANGED, Seg.CS)
        m.set(GPR64, esp, Gpr.SP)
        m.set(EIP, ia32e.below_4_gib(m, eip))
        m.end(ends.TRANSFER)
    m.set(GPR32, esp.trunc(32), Gpr.SP)
    m.set(EIP, eip.trunc(32))
    m.end(ends.TRANSFER)


@instruction()
def SYSEXIT(x: Insn) -> None:
    """Go back to level 3 at EDX, stack ECX (SDM vol. 2, SYSEXIT)."""
    m = x.m
    cs = _require_sysenter(m)
    mode.require_cpl0(m)
    esp, eip = m.get(GPR32, Gpr.CX), m.get(GPR32, Gpr.DX)
    _enter(m, 3, (cs + 16) | 3, (cs + 24) | 3)
    m.set(GPR32, esp, Gpr.SP)
    m.set(EIP, eip)
    m.end(ends.TRANSFER)


def _require_syscall(m: Microcode) -> None:
    """#UD outside AMD's legacy mode: Intel has SYSCALL in 64-bit code only (AMD APM vol. 3, SYSCALL)."""
    usable = is_amd(m) & has(m, "syscall") & m.get(EFER).has(Efer.SCE) & mode.protected(m)
    fault_if(m, ~usable, Vector.UD, 0, "NO_SYSCALL")
    with m.If(mode.long_mode(m)):
        ends.unsupported(m, "SYSCALL_IN_LONG_MODE")


@instruction()
def SYSCALL(x: Insn) -> None:
    """Call level 0 at STAR[31:0], return address in ECX (AMD APM vol. 3)."""
    m = x.m
    _require_syscall(m)
    star = m.get(STAR)
    cs = (star >> 32).trunc(16) & Selector.NAME
    m.set(GPR32, ends.next_eip(m), Gpr.CX)
    flags.clear(m, Eflags.VM, Eflags.IF, Eflags.RF)
    _enter(m, 0, cs, cs + 8)
    m.set(EIP, star.trunc(32))
    m.end(ends.TRANSFER)


@instruction()
def SYSRET(x: Insn) -> None:
    """Go back to level 3 at ECX; SS gets a selector only (AMD APM vol. 3)."""
    m = x.m
    _require_syscall(m)
    mode.require_cpl0(m)
    cs = (m.get(STAR) >> 48).trunc(16)
    m.set(CPL, 3)
    _flat(m, Seg.CS, cs | 3, Rights.FLAT | Rights.TEXT | Rights.DPL)
    m.set(SELECTOR, (cs + 8) | 3, Seg.SS)
    m.set(ATTRIBUTES, m.get(ATTRIBUTES, Seg.SS) | Rights.DPL, Seg.SS)
    m.call(p.SEGMENT_CHANGED, Seg.SS)
    flags.set_flag(m, Eflags.IF, 1)
    m.set(EIP, m.get(GPR32, Gpr.CX))
    m.end(ends.TRANSFER)
