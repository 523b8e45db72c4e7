"""Control and debug registers and the small privileged instructions (SDM vol. 2; vol. 3A, 2.5)."""

from __future__ import annotations

import pytest
from machine import Unsupported
from system_machine import CS, DS, System, SystemFault

from dm.isa import features
from dm.machine.state import Activity

GP, UD, DB = 13, 6, 1
PE, ET, WP, NW, CD, PG = 1, 1 << 4, 1 << 16, 1 << 29, 1 << 30, 1 << 31
LME, LMA, L = 1 << 8, 1 << 10, 1 << 13


def mov_to(number: int) -> bytes:
    return bytes((0x0F, 0x22, 0xC0 | number << 3))


def mov_from(number: int) -> bytes:
    return bytes((0x0F, 0x20, 0xC0 | number << 3))


def write_cr(machine: System, number: int, value: int) -> SystemFault | None:
    machine.gpr32[0] = value
    return machine.attempt(mov_to(number))


def with_features(machine: System, *names: str) -> System:
    for name in names:
        machine.features |= 1 << list(features.TABLE).index(name)
    return machine


class TestCr0:
    @pytest.mark.parametrize(
        ("value", "result"),
        [
            (0x60000010, 0x60000010),
            (0x00000001, 0x00000011),
            (0xFFFFFFFF & ~(PG | NW), 0xC005003F & ~PG),
            (0x1FFAFFC0, 0x10),
        ],
    )
    def test_bits(self, value, result):
        """ET reads as 1, reserved bits cannot be set."""
        machine = System()
        assert write_cr(machine, 0, value) is None
        assert machine.cr0 == result
        assert machine.attempt(mov_from(0)) is None
        assert machine.gpr32[0] == result

    @pytest.mark.parametrize(
        ("value", "cause"), [(PG | ET, "PG_WITHOUT_PE"), (PE | NW, "NW_WITHOUT_CD"), (NW, "NW_WITHOUT_CD")]
    )
    def test_refused(self, value, cause):
        machine = System()
        fault = write_cr(machine, 0, value)
        assert (fault.vector, fault.error, fault.cause, machine.cr0) == (GP, 0, cause, 0x60000011)

    def test_pe_leaves_caches_and_cpl(self):
        """SDM vol. 3A, 9.9: in both directions; CPL is not CS.RPL."""
        machine = System().real_mode()
        machine.load(CS, 0x1003, 0x10030, 0xFFFF, 0x9B)
        machine.load(DS, 0x2003, 0x20030, 0xFFFFFFFF, 0x8093)
        assert write_cr(machine, 0, 0x11) is None
        assert (machine.seg.base[CS], machine.seg.attributes[CS], machine.cpl) == (0x10030, 0x9B, 0)
        assert (machine.seg.base[DS], machine.seg.limit[DS], machine.seg.attributes[DS]) == (
            0x20030,
            0xFFFFFFFF,
            0x8093,
        )
        assert machine.ended == ("checkpoint",)
        assert machine.flushed == 1
        assert write_cr(machine, 0, 0x10) is None
        assert machine.seg.limit[DS] == 0xFFFFFFFF

    @pytest.mark.parametrize(("old", "new", "flushed"), [(0, PG, 1), (PG, PG | WP, 1), (PG, PG | CD, 0), (PG, 0, 1)])
    def test_translations_are_dropped(self, old, new, flushed):
        machine = System()
        machine.cr0 = PE | ET | old
        machine.cr3 = 0x9000
        machine.put(0x9000, 0xA007, 4)
        for page in range(32):
            machine.put(0xA000 + 4 * page, page << 12 | 7, 4)
        assert write_cr(machine, 0, PE | new) is None
        assert machine.flushed == flushed

    def test_long_mode_comes_and_goes_with_paging(self):
        """SDM vol. 3A, 9.8.5."""
        machine = System()
        machine.efer = LME
        assert write_cr(machine, 0, PG | PE).cause == "LONG_MODE_WITHOUT_PAE"
        machine.cr4 = 0x20
        machine.seg.attributes[CS] |= L
        assert write_cr(machine, 0, PG | PE).cause == "LONG_MODE_CS_L"
        machine.seg.attributes[CS] &= ~L
        assert write_cr(machine, 0, PG | PE) is None
        assert machine.efer == LME | LMA
        assert write_cr(machine, 4, 0).cause == "CR4_PAE_IN_LONG_MODE"
        assert write_cr(machine, 0, PE) is None
        assert machine.efer == LME


@pytest.mark.parametrize("number", [1, 5, 6, 7])
@pytest.mark.parametrize("code", [mov_to, mov_from])
def test_no_such_control_register(number, code):
    fault = System().ring3().attempt(code(number))
    assert (fault.vector, fault.cause) == (UD, "NO_SUCH_CR")


def test_cr2_and_cr3():
    machine = System()
    for number in (2, 3):
        assert write_cr(machine, number, 0xFFFFF018) is None
        machine.gpr32[0] = 0
        assert machine.attempt(mov_from(number)) is None
        assert machine.gpr32[0] == 0xFFFFF018
    assert (machine.cr2, machine.cr3, machine.flushed) == (0xFFFFF018, 0xFFFFF018, 1)


class TestCr4:
    @pytest.mark.parametrize("bit", range(32))
    def test_bits_follow_cpuid(self, bit):
        """Every bit without its CPUID feature is reserved: #GP(0) (SDM vol. 3A, 2.5)."""
        names = {0: "vme", 1: "vme", 2: "tsc", 3: "de", 4: "pse", 5: "pae", 6: "mce", 7: "pge", 9: "fxsr", 10: "sse"}
        names |= {11: "umip", 13: "vmx", 14: "smx", 16: "fsgsbase", 18: "xsave", 20: "smep", 21: "smap", 22: "pku"}
        machine = System()
        machine.features = 0
        if bit != 8:
            fault = write_cr(machine, 4, 1 << bit)
            assert (fault.vector, fault.error, fault.cause, machine.cr4) == (GP, 0, "CR4_RESERVED", 0)
        if bit == 8 or bit in names:
            with_features(machine, *([names[bit]] if bit in names else []))
            assert write_cr(machine, 4, 1 << bit) is None
            assert machine.cr4 == 1 << bit

    def test_a_bit_that_is_set_may_stay(self):
        machine = System()
        machine.cr4 = 1 << 23
        assert write_cr(machine, 4, 1 << 23 | 1 << 8) is None
        assert write_cr(machine, 4, 0) is None
        assert write_cr(machine, 4, 1 << 23).cause == "CR4_RESERVED"

    def test_pcide_needs_long_mode(self):
        machine = with_features(System(), "pcid")
        assert write_cr(machine, 4, 1 << 17).cause == "CR4_PCIDE"

    @pytest.mark.parametrize(("value", "flushed"), [(0x10, 1), (0x80, 1), (0x08, 0)])
    def test_translations_are_dropped(self, value, flushed):
        machine = System()
        assert write_cr(machine, 4, value) is None
        assert machine.flushed == flushed


class TestDebugRegisters:
    @pytest.mark.parametrize(
        ("number", "value", "result"),
        [
            (0, 0xFFFFFFFF, 0xFFFFFFFF),
            (3, 0x12345678, 0x12345678),
            (6, 0, 0xFFFF0FF0),
            (6, 0xFFFFFFFF, 0xFFFFEFFF),
            (7, 0, 0x400),
            (7, 0xFFFFFFFF, 0xFFFF27FF & ~0x2000),
            (4, 0xF, 0xFFFF0FFF),
            (5, 0x3, 0x403),
        ],
    )
    def test_values(self, number, value, result):
        """SDM vol. 3B, 17.2: fixed bits; DR4 and DR5 stand for DR6 and DR7 without CR4.DE."""
        machine = System()
        machine.gpr32[0] = value & (0xFFFFDFFF if number == 7 else 0xFFFFFFFF)
        assert machine.attempt(bytes((0x0F, 0x23, 0xC0 | number << 3))) is None
        assert machine.attempt(bytes((0x0F, 0x21, 0xC0 | (number | 2 if number > 3 else number) << 3))) is None
        assert machine.gpr32[0] == result

    @pytest.mark.parametrize(("number", "value"), [(4, 0xFFFF0FF0), (5, 0x400), (3, 7)])
    def test_reads_of_aliases(self, number, value):
        machine = System()
        machine.dr[3] = 7
        assert machine.attempt(bytes((0x0F, 0x21, 0xC0 | number << 3))) is None
        assert machine.gpr32[0] == value

    @pytest.mark.parametrize("opcode", [0x21, 0x23])
    def test_refused_in_this_order(self, opcode):
        machine = System().ring3()
        machine.cr4, machine.dr7 = 8, 0x2400
        dr4, dr0 = bytes((0x0F, opcode, 0xE0)), bytes((0x0F, opcode, 0xC0))
        assert machine.attempt(dr4).vector == UD
        assert machine.attempt(dr0).cause == "CPL_NOT_0"
        machine.cpl = 0
        fault = machine.attempt(dr0)
        assert (fault.vector, fault.cause, fault.operands[0]) == (DB, "DEBUG_REGISTER_GUARD", 0x2000)


class TestMachineStatusWord:
    def test_smsw(self):
        machine = System()
        machine.gpr32[0] = 0xABCD0000
        assert machine.attempt(b"\x66\x0f\x01\xe0") is None
        assert machine.gpr32[0] == 0xABCD0011
        assert machine.attempt(b"\x0f\x01\xe0") is None
        assert machine.gpr32[0] == 0x60000011
        machine.put(0x500, 0x99999999, 4)
        assert machine.attempt(b"\x0f\x01\x25\x00\x05\x00\x00") is None
        assert machine.at(0x500) == 0x99990011

    @pytest.mark.parametrize(("old", "value", "new"), [(0x10, 0xFFFF, 0x1F), (0x1F, 0, 0x11), (0x11, 0xA, 0x1B)])
    def test_lmsw_sets_pe_but_does_not_clear_it(self, old, value, new):
        machine = System()
        machine.cr0, machine.gpr32[0] = old, value
        assert machine.attempt(b"\x0f\x01\xf0") is None
        assert machine.cr0 == new

    def test_clts(self):
        machine = System()
        machine.cr0 |= 8
        assert machine.attempt(b"\x0f\x06") is None
        assert machine.cr0 == 0x60000011


PRIVILEGED = {
    "mov to cr": mov_to(3),
    "mov from cr": mov_from(3),
    "mov to dr": b"\x0f\x23\xc0",
    "lmsw": b"\x0f\x01\xf0",
    "clts": b"\x0f\x06",
    "hlt": b"\xf4",
    "invd": b"\x0f\x08",
    "wbinvd": b"\x0f\x09",
    "invlpg": b"\x0f\x01\x38",
    "lgdt": b"\x0f\x01\x10",
    "lidt": b"\x0f\x01\x18",
    "lldt": b"\x0f\x00\xd0",
    "ltr": b"\x0f\x00\xd8",
    "rdmsr": b"\x0f\x32",
    "wrmsr": b"\x0f\x30",
}


@pytest.mark.parametrize("name", PRIVILEGED)
@pytest.mark.parametrize("cpl", [1, 3])
def test_privileged(name, cpl):
    machine = System().ring3()
    machine.cpl = cpl
    fault = machine.attempt(PRIVILEGED[name])
    assert (fault.vector, fault.error, fault.cause) == (GP, 0, "CPL_NOT_0")


@pytest.mark.parametrize("name", sorted(set(PRIVILEGED) - {"lldt", "ltr"}))
def test_privileged_in_virtual_8086_mode(name):
    machine = System().vm86()
    assert machine.attempt(PRIVILEGED[name]).cause == "CPL_NOT_0"


UMIP = {
    "sgdt": b"\x0f\x01\x00",
    "sidt": b"\x0f\x01\x08",
    "sldt": b"\x0f\x00\xc0",
    "str": b"\x0f\x00\xc8",
    "smsw": b"\x0f\x01\xe0",
}


@pytest.mark.parametrize("name", UMIP)
def test_umip(name):
    machine = System().ring3()
    machine.gpr32[0] = 0x500
    assert machine.attempt(UMIP[name]) is None
    machine.cr4 = 1 << 11
    fault = machine.attempt(UMIP[name])
    assert (fault.vector, fault.error, fault.cause) == (GP, 0, "UMIP")


def test_hlt():
    machine = System()
    assert machine.attempt(b"\xf4") is None
    assert (machine.activity, machine.eip, machine.ended) == (Activity.HALTED, 0x8001, ("checkpoint",))


def test_invlpg_takes_any_address():
    """The operand is not accessed: no limit, no null check (SDM vol. 2, INVLPG)."""
    machine = System()
    machine.load(DS, 0, 0x1000, 0, 0x93, unusable=1)
    assert machine.attempt(b"\x0f\x01\x3d\x00\x20\x00\x00") is None
    assert machine.log == [("invlpg", 0x3000)]


@pytest.mark.parametrize(("code", "before", "after"), [(b"\x0f\x01\xca", 1, 0), (b"\x0f\x01\xcb", 0, 1)])
def test_clac_and_stac(code, before, after):
    machine = System()
    assert machine.attempt(code).vector == UD
    with_features(machine, "smap")
    machine.flags = before << 18
    assert machine.attempt(code) is None
    assert machine.flags >> 18 & 1 == after
    machine.cr4 = 1 << 21
    assert machine.attempt(code) is None
    assert machine.flushed == 1
    machine.cpl = 3
    assert machine.attempt(code).cause == "CPL_NOT_0"


@pytest.mark.parametrize("code", [b"\x0f\x01\xd0", b"\x0f\x01\xd1"])
def test_xgetbv_and_xsetbv(code):
    machine = System()
    assert machine.attempt(code).vector == UD
    with_features(machine, "xsave")
    assert machine.attempt(code).cause == "OSXSAVE_CLEAR"
    machine.cr4 = 1 << 18
    with pytest.raises(Unsupported, match="XCR0"):
        machine.attempt(code)
