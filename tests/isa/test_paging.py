"""The page walk, each case against SDM vol. 3A, chapter 4."""

from __future__ import annotations

import pytest
from machine import Unsupported, function
from system_machine import DS, System, SystemFault

from dm.isa import features
from dm.isa.mechanisms import paging

P, RW, US, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
NX = 1 << 63
WRITE, USER, FETCH, IMPLICIT = 1, 2, 4, 8
WP, PSE, PAE, SMEP, SMAP = 1 << 16, 1 << 4, 1 << 5, 1 << 20, 1 << 21
NXE, LMA = 1 << 11, 1 << 10
AC = 1 << 18

#: 32-bit paging: directory and table; PAE and 4-level: directory pointers, directory, table.
DIRECTORY, TABLE, POINTERS, PML4 = 0x9000, 0xA000, 0xB000, 0xC000
LINEAR = 0x00403123


def machine(*extra: str) -> System:
    made = System()
    made.cr0 |= 1 << 31
    made.cr3 = DIRECTORY
    for name in extra:
        leaf, subleaf, register, bit = features.TABLE[name]
        values = list(made.cpuid.get((leaf, subleaf), (0, 0, 0, 0)))
        values[register] |= 1 << bit
        made.cpuid[leaf, subleaf] = tuple(values)
    made.features |= features.feature_mask(made.cpuid)
    return made


def translate(m: System, access: int = 0, linear: int = LINEAR) -> int:
    return int(function("page_walk", paging.page_walk)(m, linear, access))


def refused(m: System, access: int = 0, linear: int = LINEAR) -> int:
    """Return the error code of the page fault."""
    memory = bytes(m.memory)
    with pytest.raises(SystemFault) as caught:
        translate(m, access, linear)
    assert (caught.value.vector, caught.value.operands[0]) == (14, linear)
    assert bytes(m.memory) == memory
    return caught.value.error


class Test32Bit:
    """4.3."""

    def map(self, pde: int, pte: int, *extra: str) -> System:
        m = machine(*extra)
        m.put(DIRECTORY + 4, TABLE | pde, 4)
        m.put(TABLE + 12, 0x5000 | pte, 4)
        return m

    def entries(self, m: System) -> tuple[int, int]:
        return m.at(DIRECTORY + 4) & 0xFFF, m.at(TABLE + 12) & 0xFFF

    @pytest.mark.parametrize(
        ("access", "pde", "pte"), [(0, P | A, P | A), (FETCH, P | A, P | A), (WRITE, P | A, P | A | D)]
    )
    def test_accessed_and_dirty(self, access, pde, pte):
        """4.8: A in every entry used, D in the last one, on a write."""
        m = self.map(P, P)
        assert translate(m, access) == 0x5123
        assert self.entries(m) == (pde, pte)

    @pytest.mark.parametrize(("pde", "pte", "access", "error"), [(0, P, 0, 0), (P, 0, WRITE, 2), (P, 0, USER, 4)])
    def test_not_present(self, pde, pte, access, error):
        assert refused(self.map(pde, pte), access) == error

    @pytest.mark.parametrize(
        ("pde", "pte", "access", "cr0", "error"),
        [
            # 4.6.1: rights are the AND of both levels
            (RW | US, US, USER, 0, None),
            (RW, RW | US, USER, 0, 5),
            (RW | US, RW, USER, 0, 5),
            (RW | US, RW | US, USER | WRITE, 0, None),
            (US, RW | US, USER | WRITE, 0, 7),
            (RW | US, US, USER | WRITE, 0, 7),
            (0, 0, WRITE, 0, None),
            (0, RW, WRITE, WP, 3),
            (RW | US, US, WRITE, WP, 3),
            (RW, RW, WRITE, WP, None),
            (0, 0, 0, WP, None),
            (US, US, USER | FETCH, 0, None),
            (0, 0, USER | FETCH, 0, 5),
        ],
    )
    def test_rights(self, pde, pte, access, cr0, error):
        m = self.map(P | pde, P | pte)
        m.cr0 |= cr0
        if error is None:
            assert translate(m, access) == 0x5123
        else:
            assert refused(m, access) == error

    @pytest.mark.parametrize(
        ("access", "flags", "cpl", "page", "error"),
        [
            # 4.6.1: SMAP, SMEP
            (0, 0, 0, US, 1),
            (0, AC, 0, US, None),
            (IMPLICIT, AC, 0, US, 1),
            (0, AC, 3, US, 1),
            (0, 0, 0, 0, None),
            (USER, 0, 3, US, None),
            (WRITE, 0, 0, US, 3),
            (FETCH, 0, 0, US, 0x11),
            (FETCH, AC, 0, US, 0x11),
            (FETCH, 0, 0, 0, None),
            (FETCH | USER, 0, 3, US, None),
        ],
    )
    def test_supervisor_access_to_user_pages(self, access, flags, cpl, page, error):
        m = self.map(P | RW | page, P | RW | page)
        m.cr4, m.flags, m.cpl = SMAP | SMEP, flags, cpl
        if error is None:
            assert translate(m, access) == 0x5123
        else:
            assert refused(m, access) == error

    def test_large_page(self):
        m = machine()
        m.cr4 = PSE
        m.put(DIRECTORY + 4, 0x00C00000 | P | PS | RW, 4)
        assert translate(m, WRITE) == 0x00C03123
        assert m.at(DIRECTORY + 4) == 0x00C00000 | P | PS | RW | A | D

    def test_ps_without_pse_is_a_table(self):
        assert translate(self.map(P | PS, P)) == 0x5123

    @pytest.mark.parametrize(
        ("bits", "feature", "width", "expected"),
        [
            (0x1E000, "pse36", 36, 0xF_00C03123),
            (0x1E000, "", 36, None),
            (0x20000, "pse36", 36, None),
            (0x20000, "pse36", 40, 0x10_00C03123),
            (0x200000, "pse36", 40, None),
        ],
    )
    def test_pse_36(self, bits, feature, width, expected):
        """Table 4-4: PDE bits 13-20 are address bits 32-39; what MAXPHYADDR lacks is reserved."""
        m = machine(*filter(None, [feature]))
        if not feature:
            m.features &= ~features.feature_mask({(1, 0): (0, 0, 0, 1 << 17)})
        m.cpuid[0x80000000, 0] = (0x80000008, 0, 0, 0)
        m.cpuid[0x80000008, 0] = (width, 0, 0, 0)
        m.cr4 = PSE
        m.put(DIRECTORY + 4, 0x00C00000 | bits | P | PS, 4)
        if expected is None:
            assert refused(m) == 9
        else:
            assert translate(m) == expected


class TestPae:
    """4.4."""

    def map(self, pde: int, pte: int, *extra: str) -> System:
        m = machine(*extra)
        m.cr4 = PAE
        m.pdpte[0] = DIRECTORY | P
        m.put(DIRECTORY + 16, TABLE | pde if not pde & PS else pde, 8)
        m.put(TABLE + 24, 0x5000 | pte, 8)
        return m

    def test_small_page(self):
        m = self.map(P | RW, P | RW)
        assert translate(m, WRITE) == 0x5123
        assert (m.at(DIRECTORY + 16, 8) & 0xFFF, m.at(TABLE + 24, 8) & 0xFFF) == (P | RW | A, P | RW | A | D)

    def test_large_page(self):
        m = self.map(0x8_00C00000 | P | PS, 0)
        assert translate(m) == 0x8_00C03123

    def test_pointer_registers_choose_by_bits_30_and_31(self):
        m = self.map(P, P)
        m.pdpte[3] = m.pdpte[0]
        assert translate(m, 0, 0xC0403123) == 0x5123
        assert refused(m, 0, 0x80403123) == 0

    @pytest.mark.parametrize(
        ("pde", "pte", "efer", "error"),
        [
            (P, P | NX, 0, 9),
            (P | NX, P, 0, 9),
            (P, P | NX, NXE, None),
            (P, P | 1 << 36, 0, 9),
            (P, P | 1 << 35, 0, None),
            (P | 1 << 51, P, 0, 9),
            (P, P | 1 << 52, 0, 9),
            (P | 1 << 62, P, 0, 9),
            (0x00C02000 | P | PS, 0, 0, 9),
        ],
    )
    def test_reserved_bits(self, pde, pte, efer, error):
        m = self.map(pde, pte)
        m.efer = efer
        if error is None:
            translate(m)
        else:
            assert refused(m) == error

    @pytest.mark.parametrize(("pde", "pte"), [(P | US | NX, P | US), (P | US, P | US | NX)])
    def test_no_execute(self, pde, pte):
        m = self.map(pde, pte)
        m.efer = NXE
        assert translate(m) == 0x5123
        assert refused(m, FETCH) == 0x11
        assert refused(m, FETCH | USER) == 0x15

    def test_fetch_bit_of_the_error_code_needs_nx(self):
        assert refused(self.map(P, 0), FETCH) == 0

    def test_pointers_are_loaded_by_mov_cr3(self):
        m = self.map(P, P)
        for i in range(4):
            m.put(POINTERS + 8 * i, DIRECTORY | P if i < 2 else 0, 8)
        m.gpr32[0] = POINTERS
        m.cr0 &= ~(1 << 31)
        assert m.attempt(b"\x0f\x22\xd8") is None
        assert m.pdpte[1] == 0
        m.gpr32[0] = m.cr0 | 1 << 31
        assert m.attempt(b"\x0f\x22\xc0") is None
        assert (m.cr3, m.pdpte) == (POINTERS, [DIRECTORY | P, DIRECTORY | P, 0, 0])

    @pytest.mark.parametrize(
        ("entry", "good"),
        [(P | 2, False), (P | 0x20, False), (P | 1 << 36, False), (2, True), (P | 8, True), (P | NX, False)],
    )
    def test_reserved_bits_of_pointers(self, entry, good):
        """4.4.1: #GP(0) from the MOV, and nothing is changed."""
        m = machine()
        m.cr4 = PAE
        m.cr0 &= ~(1 << 31)
        m.put(POINTERS + 16, DIRECTORY | entry, 8)
        m.cr3, m.gpr32[0] = POINTERS, m.cr0 | 1 << 31
        fault = m.attempt(b"\x0f\x22\xc0")
        assert (fault is None) == good
        if fault:
            assert (fault.vector, fault.error, fault.cause) == (13, 0, "PDPTE_RESERVED")
            assert m.cr0 >> 31 == 0


class Test4Level:
    """4.5, as compatibility mode uses it."""

    def map(self, pml4e: int, pdpte: int, pde: int, pte: int, *extra: str) -> System:
        m = machine(*extra)
        m.cr4, m.efer, m.cr3 = PAE, LMA, PML4
        m.put(PML4, POINTERS | pml4e, 8)
        m.put(POINTERS, pdpte if pdpte & PS else DIRECTORY | pdpte, 8)
        m.put(DIRECTORY + 16, pde if pde & PS else TABLE | pde, 8)
        m.put(TABLE + 24, 0x5000 | pte, 8)
        return m

    def test_small_page(self):
        m = self.map(P | RW, P | RW, P | RW, P | RW)
        assert translate(m, WRITE) == 0x5123
        places = (PML4, POINTERS, DIRECTORY + 16, TABLE + 24)
        assert [m.at(at, 8) & 0xFFF for at in places] == [P | RW | A] * 3 + [P | RW | A | D]

    @pytest.mark.parametrize("level", range(4))
    def test_rights_of_every_level(self, level):
        entries = [P | US | RW] * 4
        entries[level] = P | RW
        assert refused(self.map(*entries), USER) == 5
        entries[level] = P | US
        assert refused(self.map(*entries), USER | WRITE) == 7
        entries[level] = 0
        assert refused(self.map(*entries), USER) == 4

    def test_large_pages(self):
        assert translate(self.map(P, P, 0x00C00000 | P | PS, 0)) == 0x00C03123
        assert translate(self.map(P, 0x40000000 | P | PS, 0, 0, "pdpe1gb")) == 0x40403123
        assert refused(self.map(P, 0x40000000 | P | PS, 0, 0)) == 9

    def test_bits_52_to_62_are_ignored(self):
        assert translate(self.map(P | 1 << 52, P | 1 << 62, P | 1 << 55, P | 1 << 60)) == 0x5123

    def test_ps_in_the_top_level_is_reserved(self):
        assert refused(self.map(P | PS, P, P, P)) == 9


def test_five_levels_are_left_to_the_hypervisor():
    m = machine()
    m.cr4, m.efer = PAE | 1 << 12, LMA
    with pytest.raises(Unsupported, match="FIVE_LEVEL_PAGING"):
        translate(m)


def test_entry_changed_by_another_cpu_is_read_again():
    m = machine()
    m.put(DIRECTORY + 4, TABLE | P, 4)
    m.put(TABLE + 12, 0x5000 | P, 4)
    refusals = [True, True]
    swap = m.any_swap_physical

    def contended(size: int, address: int, old: int, new: int) -> int:
        if refusals:
            refusals.pop()
            m.put(TABLE + 12, 0x6000 | P, 4)
            return 0
        return swap(size, address, old, new)

    m.any_swap_physical = contended
    assert translate(m) == 0x6123
    m.any_swap_physical = lambda *_: 0
    m.put(TABLE + 12, 0x5000 | P, 4)
    with pytest.raises(Unsupported, match="PAGE_TABLE_CONTENTION"):
        translate(m)


def test_descriptor_tables_are_supervisor_accesses():
    """4.6.1: a level-3 segment load reads the GDT from a supervisor page."""
    m = machine().ring3()
    m.put(DIRECTORY, TABLE | P | RW | US, 4)
    for page in range(32):
        m.put(TABLE + 4 * page, page << 12 | P | RW | (US if page == 7 else 0), 4)
    m.gpr32[0] = 0x23
    assert m.attempt(b"\x8e\xd8") is None
    assert m.seg.selector[DS] == 0x23
    fault = m.attempt(b"\xa1\x00\x10\x00\x00")
    assert (fault.vector, fault.error, fault.operands[0]) == (14, 5, 0x1000)
