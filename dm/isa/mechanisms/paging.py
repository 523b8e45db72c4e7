"""The page walk (SDM vol. 3A, chapter 4): 2-level with PSE and PSE-36, PAE, 4-level for compatibility mode.

Accessed and dirty bits are set by compare-and-swap, and only once the access is known to be allowed.
"""

from __future__ import annotations

from typing import Final

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import CPL, CR3, EFER, cell
from dm.isa.features import has
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.cpuid import cpuid_register
from dm.isa.mechanisms.mode import fault_if
from dm.machine.architecture import Access, Cr0, Cr3, Cr4, Efer, Eflags, Entry, PageFault, Vector
from dm.microcode import Microcode, Value, procedure

PDPTE: Final = cell("pdpte")

#: Execute-disable among the rights of :func:`check_rights`, beside R/W and U/S in their places.
_XD: Final = 1 << 3

#: Attempts before a page-table entry that another CPU keeps changing is given up.
ATTEMPTS = 64


@procedure(result=64)
def reserved_address(m: Microcode) -> None:
    """Return the address bits 12-51 that MAXPHYADDR (CPUID 80000008h, 36 without it) leaves reserved."""
    width = m.var(32, 36)
    with m.If(m.call(cpuid_register, 0x80000000, 0, 0) >= 0x80000008):
        width.v = m.call(cpuid_register, 0x80000008, 0, 0) & 0xFF
    m.return_(m.const(64, Entry.ADDRESS) & ~((m.const(64, 1) << width.v) - 1))


@procedure(linear=32, access=8, why=32)
def page_fault(m: Microcode, linear: Value, access: Value, why: Value) -> None:
    """Raise #PF; ``why`` has P (bit 0) and RSVD (bit 3) of the error code (SDM vol. 3A, 4.7)."""
    nx = mode.cr4_bit(m, Cr4.PAE) & m.get(EFER).has(Efer.NXE)
    fetch = access.has(Access.FETCH) & (nx | mode.cr4_bit(m, Cr4.SMEP))
    code = why | (access & (Access.WRITE | Access.USER)).at(PageFault.WR, 32) | fetch.at(PageFault.ID, 32)
    ends.fault(m, Vector.PF, code, "PAGE_FAULT", linear, code)


@procedure(linear=32, access=8, rights=8)
def check_rights(m: Microcode, linear: Value, access: Value, rights: Value) -> None:
    """Raise #PF unless the combined rights (bit 1 R/W, bit 2 U/S, bit 3 NX) allow the access (SDM vol. 3A, 4.6)."""
    write, user, fetch = (access.has(bit) for bit in (Access.WRITE, Access.USER, Access.FETCH))
    writable, user_page, nx = (rights.has(bit) for bit in (Entry.RW, Entry.US, _XD))
    bad = m.var(1, fetch & nx)
    with m.If(user):
        bad.v = bad.v | ~user_page | (write & ~writable)
    with m.Else():
        bad.v = bad.v | (write & ~writable & mode.cr0_bit(m, Cr0.WP))
        with m.If(user_page):
            implicit = access.has(Access.IMPLICIT) | (m.get(CPL) == 3)
            open_ = flags.flag(m, Eflags.AC) & ~implicit
            smap = mode.cr4_bit(m, Cr4.SMAP) & ~fetch & ~open_
            bad.v = bad.v | smap | (fetch & mode.cr4_bit(m, Cr4.SMEP))
    with m.If(bad.v):
        m.call(page_fault, linear, access, PageFault.P)


def _updated(m: Microcode, entry: Value, leaf: bool, write: Value) -> Value:
    """Return the entry with A, and for a leaf that is written D."""
    made = entry | Entry.A
    if leaf:
        made = made | write.at(Entry.D, entry.width)
    return made


def _store(m: Microcode, address: Value, old: Value, new: Value) -> Value:
    """Write back an entry that changed; return 1 unless another CPU changed it first."""
    done = m.var(1, 1)
    with m.If(old != new):
        done.v = m.call(p.SWAP_PHYSICAL[old.width], address, old, new)
    return done.v


def _rights(entry: Value) -> Value:
    """Return R/W and U/S of an entry in bits 1 and 2, with bit 3 clear, 8 bits."""
    return (entry & (Entry.RW | Entry.US)).trunc(8)


def _not_present(m: Microcode, linear: Value, access: Value, entry: Value) -> None:
    with m.If(~entry.has(Entry.P)):
        m.call(page_fault, linear, access, 0)


def _reserved(m: Microcode, linear: Value, access: Value, bad: Value) -> None:
    with m.If(bad):
        m.call(page_fault, linear, access, PageFault.P | PageFault.RSVD)


@procedure(result=64, linear=32, access=8)
def walk_32(m: Microcode, linear: Value, access: Value) -> None:
    """Walk the two-level tables of 32-bit paging (SDM vol. 3A, 4.3)."""
    write = access.has(Access.WRITE)
    attempts = m.var(32, ATTEMPTS)
    with m.Loop():
        m.break_if(attempts.v == 0)
        attempts.v = attempts.v - 1
        pde_at = (m.get(CR3) & Cr3.DIRECTORY) | ((linear >> 22) << 2).zext(64)
        pde = m.call(p.LOAD_PHYSICAL[32], pde_at)
        _not_present(m, linear, access, pde)
        with m.If(pde.has(Entry.PS) & mode.cr4_bit(m, Cr4.PSE)):
            # PSE-36: PDE bits 13-20 are address bits 32-39, as far as MAXPHYADDR goes; bit 21 is reserved.
            high = (pde.zext(64) & 0x1FE000) << 19
            allowed = m.select(has(m, "pse36"), high & ~m.call(reserved_address), m.const(64, 0))
            _reserved(m, linear, access, pde.has(Entry.PSE36_RESERVED) | (high != allowed))
            m.call(check_rights, linear, access, _rights(pde))
            with m.If(_store(m, pde_at, pde, _updated(m, pde, True, write))):
                m.return_(high | (pde & 0xFFC00000 | linear & 0x3FFFFF).zext(64))
        with m.Else():
            pte_at = ((pde & Entry.ADDRESS_32) | ((linear >> 10) & 0xFFC)).zext(64)
            pte = m.call(p.LOAD_PHYSICAL[32], pte_at)
            _not_present(m, linear, access, pte)
            m.call(check_rights, linear, access, _rights(pde & pte))
            with m.If(_store(m, pde_at, pde, _updated(m, pde, False, write))):  # noqa: SIM117 - m.If nests in the guest
                with m.If(_store(m, pte_at, pte, _updated(m, pte, True, write))):
                    m.return_((pte & Entry.ADDRESS_32 | linear & 0xFFF).zext(64))
    ends.unsupported(m, "PAGE_TABLE_CONTENTION")


def _extended_rights(m: Microcode, *entries: Value) -> Value:
    """Combine 64-bit entries: R/W and U/S of all, NX of any."""
    both, any_ = entries[0], entries[0]
    for entry in entries[1:]:
        both, any_ = both & entry, any_ | entry
    return _rights(both) | any_.has(Entry.XD).at(_XD, 8)


def _extended_reserved(m: Microcode) -> Value:
    """Return the bits reserved in every 64-bit entry: address bits beyond MAXPHYADDR, NX when EFER.NXE is clear."""
    return m.call(reserved_address) | (~m.get(EFER).has(Efer.NXE)).at(Entry.XD, 64)


def _two_levels(
    m: Microcode, linear: Value, access: Value, table: Value, reserved: Value, above: list[Value], marks: list[Value]
) -> None:
    """Walk page directory and page table, in a loop; returns from the procedure when done.

    ``above`` are entries of upper levels whose rights count, ``marks`` their addresses (accessed bits to set).
    """
    write = access.has(Access.WRITE)

    def commit(pairs: list[tuple[Value, Value, bool]], physical: Value) -> None:
        if not pairs:
            m.return_(physical)
            return
        (at, entry, leaf), *rest = pairs
        with m.If(_store(m, at, entry, _updated(m, entry, leaf, write))):
            commit(rest, physical)

    upper = [(at, entry, False) for at, entry in zip(marks, above, strict=True)]
    pde_at = (table & Entry.ADDRESS) | ((linear >> 18) & 0xFF8).zext(64)
    pde = m.call(p.LOAD_PHYSICAL[64], pde_at)
    _not_present(m, linear, access, pde)
    _reserved(m, linear, access, (pde & reserved) != 0)
    with m.If(pde.has(Entry.PS)):
        _reserved(m, linear, access, (pde & 0x1FE000) != 0)
        m.call(check_rights, linear, access, _extended_rights(m, *above, pde))
        commit([*upper, (pde_at, pde, True)], pde & (Entry.ADDRESS & ~0x1FFFFF) | (linear & 0x1FFFFF).zext(64))
    with m.Else():
        pte_at = (pde & Entry.ADDRESS) | ((linear >> 9) & 0xFF8).zext(64)
        pte = m.call(p.LOAD_PHYSICAL[64], pte_at)
        _not_present(m, linear, access, pte)
        _reserved(m, linear, access, (pte & reserved) != 0)
        m.call(check_rights, linear, access, _extended_rights(m, *above, pde, pte))
        commit([*upper, (pde_at, pde, False), (pte_at, pte, True)], pte & Entry.ADDRESS | (linear & 0xFFF).zext(64))


@procedure(result=64, linear=32, access=8)
def walk_pae(m: Microcode, linear: Value, access: Value) -> None:
    """Walk PAE tables below the PDPTE registers (SDM vol. 3A, 4.4)."""
    # Legacy PAE reserves bits 52-62 too.
    reserved = _extended_reserved(m) | 0x7FF0000000000000
    attempts = m.var(32, ATTEMPTS)
    with m.Loop():
        m.break_if(attempts.v == 0)
        attempts.v = attempts.v - 1
        pdpte = m.get(PDPTE, (linear >> 30).trunc(8))
        _not_present(m, linear, access, pdpte)
        _two_levels(m, linear, access, pdpte, reserved, [], [])
    ends.unsupported(m, "PAGE_TABLE_CONTENTION")


@procedure(result=64, linear=32, access=8)
def walk_4_level(m: Microcode, linear: Value, access: Value) -> None:
    """Walk 4-level tables for a 32-bit linear address, as compatibility mode does (SDM vol. 3A, 4.5)."""
    write = access.has(Access.WRITE)
    reserved = _extended_reserved(m)
    attempts = m.var(32, ATTEMPTS)
    with m.Loop():
        m.break_if(attempts.v == 0)
        attempts.v = attempts.v - 1
        pml4e_at = m.get(CR3) & Entry.ADDRESS
        pml4e = m.call(p.LOAD_PHYSICAL[64], pml4e_at)
        _not_present(m, linear, access, pml4e)
        _reserved(m, linear, access, ((pml4e & reserved) != 0) | pml4e.has(Entry.PS))
        pdpte_at = (pml4e & Entry.ADDRESS) | ((linear >> 27) & 0x18).zext(64)
        pdpte = m.call(p.LOAD_PHYSICAL[64], pdpte_at)
        _not_present(m, linear, access, pdpte)
        _reserved(m, linear, access, (pdpte & reserved) != 0)
        with m.If(pdpte.has(Entry.PS)):
            _reserved(m, linear, access, ((pdpte & 0x3FFFE000) != 0) | ~has(m, "pdpe1gb"))
            m.call(check_rights, linear, access, _extended_rights(m, pml4e, pdpte))
            with m.If(_store(m, pml4e_at, pml4e, _updated(m, pml4e, False, write))):  # noqa: SIM117
                with m.If(_store(m, pdpte_at, pdpte, _updated(m, pdpte, True, write))):
                    m.return_(pdpte & (Entry.ADDRESS & ~0x3FFFFFFF) | (linear & 0x3FFFFFFF).zext(64))
        with m.Else():
            _two_levels(m, linear, access, pdpte, reserved, [pml4e, pdpte], [pml4e_at, pdpte_at])
    ends.unsupported(m, "PAGE_TABLE_CONTENTION")


@procedure(result=64, linear=32, access=8)
def page_walk(m: Microcode, linear: Value, access: Value) -> None:
    """Translate one byte's linear address while CR0.PG is set.

    Args:
        m: builder.
        linear: 32-bit linear address.
        access: WRITE 1, USER 2, FETCH 4, IMPLICIT 8 (a supervisor access that the instruction did not name itself).

    Returns the physical address, 64 bits.  Raises #PF; operand 1 of the cause is the linear address.
    """
    with m.If(mode.long_mode(m)):
        with m.If(mode.cr4_bit(m, Cr4.LA57)):
            ends.unsupported(m, "FIVE_LEVEL_PAGING")
        m.return_(m.call(walk_4_level, linear, access))
    with m.If(mode.cr4_bit(m, Cr4.PAE)):
        m.return_(m.call(walk_pae, linear, access))
    m.return_(m.call(walk_32, linear, access))


@procedure(cr3=64)
def load_pdptes(m: Microcode, cr3: Value) -> None:
    """Load the four PDPTE registers of PAE paging; reserved bits in a present one: #GP(0) (SDM vol. 3A, 4.4.1)."""
    table = cr3 & Cr3.POINTERS
    reserved = m.call(reserved_address) | Entry.PDPTE_RESERVED
    entries = []
    for i in range(4):
        entry = m.call(p.LOAD_PHYSICAL[64], table + 8 * i)
        fault_if(m, entry.has(Entry.P) & ((entry & reserved) != 0), Vector.GP, 0, "PDPTE_RESERVED", i)
        entries.append(entry)
    for i, entry in enumerate(entries):
        m.set(PDPTE, entry, i)
