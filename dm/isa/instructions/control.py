"""Control and debug registers, and small privileged instructions (SDM vol. 3A, 2.5; vol. 3B, 17.2)."""

from __future__ import annotations

from typing import Final

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import ACTIVITY, ATTRIBUTES, BASE, CPL, CR0, CR2, CR3, CR4, DR, DR6, DR7, EFER, MODEL, cell
from dm.isa.features import has
from dm.isa.insn import Insn, Memory, Operand, Special, instruction
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.paging import load_pdptes
from dm.machine.architecture import Cr0, Cr3, Cr4, Dr6, Dr7, Efer, Eflags, Rights, Vector
from dm.machine.state import Activity, Seg
from dm.microcode import Microcode, Value, procedure

CR8: Final = cell("cr8")

#: CR4 bits by the CPUID feature that brings them.
CR4_FEATURES: Final = {
    Cr4.VME: "vme",
    Cr4.PVI: "vme",
    Cr4.TSD: "tsc",
    Cr4.DE: "de",
    Cr4.PSE: "pse",
    Cr4.PAE: "pae",
    Cr4.MCE: "mce",
    Cr4.PGE: "pge",
    Cr4.OSFXSR: "fxsr",
    Cr4.OSXMMEXCPT: "sse",
    Cr4.UMIP: "umip",
    Cr4.VMXE: "vmx",
    Cr4.SMXE: "smx",
    Cr4.FSGSBASE: "fsgsbase",
    Cr4.PCIDE: "pcid",
    Cr4.OSXSAVE: "xsave",
    Cr4.SMEP: "smep",
    Cr4.SMAP: "smap",
    Cr4.PKE: "pku",
}

#: CR4 bits that CPUID can announce and that are not executed here: shadow stacks, protection keys of the supervisor ...
CR4_ELSEWHERE: Final = {
    Cr4.LA57: ("la57",),
    Cr4.KL: ("kl",),
    Cr4.CET: ("cet_ss", "cet_ibt"),
    Cr4.PKS: ("pks",),
    Cr4.UINTR: ("uintr",),
    Cr4.LAM_SUP: ("lam",),
}

#: A change of these makes the PDPTE registers be read again (SDM vol. 3A, 4.4.1).
CR0_PDPTE: Final = Cr0.PG | Cr0.CD | Cr0.NW
CR4_PDPTE: Final = Cr4.PAE | Cr4.PGE | Cr4.PSE | Cr4.SMEP
#: Translations depend on these.
CR0_TLB: Final = Cr0.PG | Cr0.WP | Cr0.PE
CR4_TLB: Final = Cr4.PAE | Cr4.PGE | Cr4.PSE | Cr4.SMEP | Cr4.SMAP | Cr4.PCIDE


def segments_changed(m: Microcode) -> None:
    """Recompute what is derived from the segments: PE decides whether code and data differ."""
    for seg in range(6):
        m.call(p.SEGMENT_CHANGED, seg)


@procedure(value=32)
def write_cr0(m: Microcode, value: Value) -> None:
    """Load CR0; segment caches and CPL stay (SDM vol. 2, MOV to control registers; vol. 3A, 9.9)."""
    new = value & m.select(m.get(MODEL) < 4, m.const(32, Cr0.ALL_386), m.const(32, Cr0.ALL)) | Cr0.ET
    old = m.get(CR0).trunc(32)
    pg, pe = new.has(Cr0.PG), new.has(Cr0.PE)
    fault_if(m, pg & ~pe, Vector.GP, 0, "PG_WITHOUT_PE", new)
    fault_if(m, new.has(Cr0.NW) & ~new.has(Cr0.CD), Vector.GP, 0, "NW_WITHOUT_CD", new)  # of the 80486: else both are 0
    off = ~pg & old.has(Cr0.PG)
    fault_if(m, off & mode.cr4_bit(m, Cr4.PCIDE), Vector.GP, 0, "PG_CLEARED_WITH_PCIDE", new)
    efer, pae = m.get(EFER), mode.cr4_bit(m, Cr4.PAE)
    long_ = efer.has(Efer.LME)
    changed = new ^ old
    turned_on = pg & changed.has(Cr0.PG)
    fault_if(m, turned_on & long_ & ~pae, Vector.GP, 0, "LONG_MODE_WITHOUT_PAE", new)
    fault_if(m, turned_on & long_ & m.get(ATTRIBUTES, Seg.CS).has(Rights.L), Vector.GP, 0, "LONG_MODE_CS_L", new)
    with m.If(pg & pae & ~long_ & (changed & CR0_PDPTE).nz()):
        m.call(load_pdptes, m.get(CR3))
    with m.If(turned_on & long_):
        m.set(EFER, efer | Efer.LMA)
    with m.If(~pg & efer.has(Efer.LMA)):
        m.set(EFER, efer & (0xFFFFFFFFFFFFFFFF ^ Efer.LMA))
    m.set(CR0, new.zext(64))
    with m.If((changed & CR0_TLB).nz()):
        m.call(p.TLB_FLUSH)
    with m.If(changed.has(Cr0.PE)):
        segments_changed(m)


@procedure(value=32)
def write_cr3(m: Microcode, value: Value) -> None:
    """Load CR3, and the PDPTE registers under PAE paging."""
    new = value.zext(64)
    with m.If(mode.cr0_bit(m, Cr0.PG) & mode.cr4_bit(m, Cr4.PAE) & ~mode.long_mode(m)):
        m.call(load_pdptes, new)
    m.set(CR3, new)
    m.call(p.TLB_FLUSH)


@procedure(value=32)
def write_cr4(m: Microcode, value: Value) -> None:
    """Load CR4; a bit whose feature CPUID lacks is #GP(0)."""
    # What the hypervisor has set already may stay.
    allowed = m.get(CR4).trunc(32) | Cr4.PCE
    for bit, feature in CR4_FEATURES.items():
        allowed = allowed | has(m, feature).at(bit, 32)
    elsewhere = m.const(32, 0)
    for bit, brings in CR4_ELSEWHERE.items():
        for feature in brings:
            elsewhere = elsewhere | has(m, feature).at(bit, 32)
    fault_if(m, (value & ~(allowed | elsewhere)).nz(), Vector.GP, 0, "CR4_RESERVED", value, allowed)
    with m.If((value & ~allowed).nz()):
        ends.unsupported(m, "CR4_EXTENSION")
    lma = mode.long_mode(m)
    fault_if(m, lma & ~value.has(Cr4.PAE), Vector.GP, 0, "CR4_PAE_IN_LONG_MODE", value)
    changed = value ^ m.get(CR4).trunc(32)
    # PCIDE can be set only in IA-32e mode and with CR3[11:0] zero.
    bad = value.has(Cr4.PCIDE) & changed.has(Cr4.PCIDE) & (~lma | (m.get(CR3) & Cr3.PCID).nz())
    fault_if(m, bad, Vector.GP, 0, "CR4_PCIDE", value)
    with m.If(mode.cr0_bit(m, Cr0.PG) & value.has(Cr4.PAE) & ~lma & (changed & CR4_PDPTE).nz()):
        m.call(load_pdptes, m.get(CR3))
    m.set(CR4, value.zext(64))
    with m.If((changed & CR4_TLB).nz()):
        m.call(p.TLB_FLUSH)


def _check_cr_number(m: Microcode, number: Value) -> None:
    # CR4 came with the Pentium.
    fifth = m.select(m.get(MODEL) < 5, m.const(16, 0), m.const(16, 1 << 4))
    exists = (fifth | 1 << 0 | 1 << 2 | 1 << 3).bit(number)
    fault_if(m, ~exists, Vector.UD, 0, "NO_SUCH_CR", number.zext(32))
    mode.require_cpl0(m)


@procedure(result=32, number=8)
def read_cr(m: Microcode, number: Value) -> None:
    """Return control register ``number``, checked."""
    _check_cr_number(m, number)
    for register, which in ((CR0, 0), (CR2, 2), (CR3, 3)):
        with m.If(number == which):
            m.return_(m.get(register).trunc(32))
    m.return_(m.get(CR4).trunc(32))


@procedure(number=8, value=32)
def write_cr(m: Microcode, number: Value, value: Value) -> None:
    """Write control register ``number``, checked."""
    _check_cr_number(m, number)
    for target, which in ((write_cr0, 0), (write_cr3, 3), (write_cr4, 4)):
        with m.If(number == which):
            m.call(target, value)
            m.return_()
    m.set(CR2, value.zext(64))


def move_from_cr(x: Insn, dst: Operand, src: Special) -> None:
    """Describe MOV Rd,Cd."""
    if x.variant.lock:
        _require_cr8(x, src)
        dst.write(x.m.get(CR8).trunc(32))
    else:
        dst.write(x.m.call(read_cr, src.number))


def move_to_cr(x: Insn, dst: Special, src: Operand) -> None:
    """Describe MOV Cd,Rd."""
    value = src.read()
    if x.variant.lock:
        _require_cr8(x, dst)
        x.fault_if(value > 15, Vector.GP, 0, "CR8_RESERVED", value)
        x.m.set(CR8, value.zext(64))
    else:
        x.m.call(write_cr, dst.number, value)
    ends.checkpoint(x.m)


def _require_cr8(x: Insn, operand: Special) -> None:
    """LOCK MOV CR0 is MOV CR8 where CPUID says so, else #UD (APM vol. 3, MOV CRn)."""
    x.fault_if((operand.number != 0) | ~has(x.m, "cr8_legacy"), Vector.UD, 0, "LOCK")
    mode.require_cpl0(x.m)


def _check_debug(m: Microcode, number: Value) -> None:
    """#UD for DR4 and DR5 with CR4.DE, #GP(0) by CPL, #DB with DR6.BD while DR7.GD is set (SDM vol. 3B, 17.2)."""
    fault_if(m, (number >> 1 == 2) & mode.cr4_bit(m, Cr4.DE), Vector.UD, 0, "NO_SUCH_DR", number.zext(32))
    mode.require_cpl0(m)
    fault_if(m, m.get(DR7).has(Dr7.GD), Vector.DB, 0, "DEBUG_REGISTER_GUARD", Dr6.BD)


@procedure(result=32, number=8)
def read_dr(m: Microcode, number: Value) -> None:
    """Return debug register ``number``, checked; 4 and 5 stand for 6 and 7."""
    _check_debug(m, number)
    with m.If(number < 4):
        m.return_(m.get(DR, number).trunc(32))
    m.return_(m.select(number.bit(0), m.get(DR7), m.get(DR6)).trunc(32))


@procedure(number=8, value=32)
def write_dr(m: Microcode, number: Value, value: Value) -> None:
    """Write debug register ``number``, checked."""
    _check_debug(m, number)
    with m.If(number < 4):
        m.set(DR, value.zext(64), number)
    with m.Else():
        with m.If(number.bit(0)):
            m.set(DR7, (value & Dr7.WRITABLE | Dr7.FIXED).zext(64))
        with m.Else():
            m.set(DR6, (value & Dr6.WRITABLE | Dr6.ONES).zext(64))


def move_from_dr(x: Insn, dst: Operand, src: Special) -> None:
    """Describe MOV Rd,Dd."""
    dst.write(x.m.call(read_dr, src.number))


def move_to_dr(x: Insn, dst: Special, src: Operand) -> None:
    """Describe MOV Dd,Rd."""
    x.m.call(write_dr, dst.number, src.read())
    ends.checkpoint(x.m)


def test_register(x: Insn, register: Special) -> None:
    """Describe MOV to and from TR6 and TR7 of the 80386, which look into its TLB (80386 manual, 10.6.2)."""
    x.fault_if(register.number < 6, Vector.UD, 0, "NO_SUCH_TR", register.number.zext(32))
    mode.require_cpl0(x.m)
    ends.unsupported(x.m, "TEST_REGISTER")


@instruction()
def SMSW(x: Insn, dst: Operand) -> None:
    """Store machine status word: 16 bits in memory, all of CR0 in a 32-bit register."""
    m = x.m
    mode.forbid_umip(m)
    value = m.get(CR0)
    if isinstance(dst, Memory):
        dst.store(value.trunc(16))
    else:
        dst.write(value.trunc(dst.width))


@instruction()
def LMSW(x: Insn, src: Operand) -> None:
    """Load machine status word: PE MP EM TS; PE can be set, not cleared."""
    m = x.m
    mode.require_cpl0(m)
    low = (src.read() & Cr0.MSW).zext(32)
    old = m.get(CR0).trunc(32)
    m.call(write_cr0, old & (0xFFFFFFFF ^ Cr0.MSW | Cr0.PE) | low)
    ends.checkpoint(m)


@instruction()
def CLTS(x: Insn) -> None:
    """Clear CR0.TS."""
    m = x.m
    mode.require_cpl0(m)
    m.set(CR0, m.get(CR0) & (0xFFFFFFFFFFFFFFFF ^ Cr0.TS))
    ends.checkpoint(m)


@instruction()
def INVLPG(x: Insn, page: Memory) -> None:
    """Drop the translation of a page; the operand is only an address."""
    m = x.m
    mode.require_cpl0(m)
    m.call(p.TLB_FLUSH_PAGE, m.get(BASE, page.segment).trunc(32) + page.offset())
    ends.checkpoint(m)


@instruction()
def INVPCID(x: Insn, kind: Operand, descriptor: Memory) -> None:
    """Drop translations by PCID (SDM vol. 2, INVPCID): all are dropped whatever it names."""
    m = x.m
    x.fault_if(mode.virtual_8086(m), Vector.GP, 0, "VIRTUAL_8086_MODE")
    mode.require_cpl0(m)
    which, pcid, linear = kind.read(), descriptor.load(64), descriptor.load(64, 8)
    x.fault_if(which > 3, Vector.GP, 0, "INVPCID_TYPE", which)
    x.fault_if((pcid >> 12) != 0, Vector.GP, 0, "INVPCID_RESERVED", which)
    named = (which < 2) & (pcid != 0) & ~mode.cr4_bit(m, Cr4.PCIDE)
    x.fault_if(named, Vector.GP, 0, "INVPCID_PCIDE", which, pcid.trunc(32))
    top = linear.sar(47)
    x.fault_if((which == 0) & (top != 0) & (top != 0xFFFFFFFFFFFFFFFF), Vector.GP, 0, "NOT_CANONICAL", which)
    m.call(p.TLB_FLUSH)
    ends.checkpoint(m)


@instruction()
def HLT(x: Insn) -> None:
    """Halt until an event."""
    m = x.m
    mode.require_cpl0(m)
    m.set(ACTIVITY, int(Activity.HALTED))
    ends.checkpoint(m)


@instruction("INVD", "WBINVD")
def INVD(x: Insn) -> None:
    """Flush caches, of which none are modelled."""
    mode.require_cpl0(x.m)


def _set_ac(x: Insn, value: int) -> None:
    m = x.m
    cpl = m.get(CPL)
    fault_if(m, cpl != 0, Vector.UD, 0, "CPL_NOT_0", cpl.zext(32))
    flags.set_flag(m, Eflags.AC, value)
    # Translations may have been checked under the other AC.
    with m.If(mode.cr4_bit(m, Cr4.SMAP)):
        m.call(p.TLB_FLUSH)
    ends.checkpoint(m)


@instruction()
def CLAC(x: Insn) -> None:
    """Clear EFLAGS.AC."""
    _set_ac(x, 0)


@instruction()
def STAC(x: Insn) -> None:
    """Set EFLAGS.AC."""
    _set_ac(x, 1)


def _extended_control(x: Insn, write: bool) -> None:
    m = x.m
    mode.require_osxsave(m)
    if write:
        mode.require_cpl0(m)
    # XCR0 is not part of the state that travels.
    ends.unsupported(m, "XCR0")


@instruction()
def XGETBV(x: Insn) -> None:
    """Read an extended control register."""
    _extended_control(x, False)


@instruction()
def XSETBV(x: Insn) -> None:
    """Write an extended control register."""
    _extended_control(x, True)


@instruction()
def RSM(x: Insn) -> None:
    """Return from system-management mode; a CPU in that mode is never taken, and elsewhere this is #UD."""
    x.fault(Vector.UD, 0, "NOT_IN_SMM")


@instruction("MONITOR", "MWAIT")
def MONITOR(x: Insn) -> None:
    """Waiting for a store is the hypervisor's business; #UD above CPL 0."""
    m = x.m
    x.fault_if(m.get(CPL) != 0, Vector.UD, 0, "CPL_NOT_0", m.get(CPL).zext(32))
    ends.unsupported(m, x.row.mnemonic)
