"""RDMSR and WRMSR: what is kept, what is checked, what is forwarded (SDM vol. 4)."""

from __future__ import annotations

import pytest
from system_machine import FS, System, SystemFault

from dm.isa import features

GP, UD = 13, 6
RDMSR, WRMSR = b"\x0f\x32", b"\x0f\x30"
ALL = ("msr", "tsc", "sep", "pat", "mtrr", "apic", "lm", "nx", "syscall", "rdtscp")


def machine(*without: str) -> System:
    made = System()
    made.features = sum(1 << i for i, name in enumerate(features.TABLE) if name in ALL and name not in without)
    return made


def write(m: System, number: int, value: int) -> SystemFault | None:
    m.gpr32[1], m.gpr32[0], m.gpr32[2] = number, value & 0xFFFFFFFF, value >> 32
    return m.attempt(WRMSR)


def read(m: System, number: int) -> int | SystemFault:
    m.gpr32[1] = number
    return m.attempt(RDMSR) or m.gpr32[2] << 32 | m.gpr32[0]


@pytest.mark.parametrize(
    ("number", "feature", "value"),
    [
        (0x174, "sep", 0x8),
        (0x175, "sep", 0xFFFFF000),
        (0x176, "sep", 0xC0100000),
        (0x277, "pat", 0x0007040600070406),
        (0x2FF, "mtrr", 0xC06),
        (0x250, "mtrr", 0x0606060606060606),
        (0x26F, "mtrr", 0x0505040101000006),
        (0x200, "mtrr", 0xC00000006),
        (0x20F, "mtrr", 0xFC0000800),
        (0xC0000081, "syscall", 0x0023001000000000),
        (0xC0000082, "lm", 0xFFFF800000000000),
        (0xC0000084, "lm", 0x47700),
        (0xC0000101, "lm", 0x00007FFFFFFFF000),
        (0xC0000102, "lm", 0x123),
        (0xC0000103, "rdtscp", 0xFFFFFFFF),
        (0xC0000080, "nx", 0x801),
    ],
)
def test_kept_here(number, feature, value):
    m = machine()
    assert write(m, number, value) is None
    assert m.ended == ("checkpoint",)
    assert read(m, number) == value
    assert m.msrs == {}
    without = {"nx": ("nx", "lm", "syscall")}.get(feature, (feature,))
    m = machine(*without)
    for fault in (read(m, number), write(m, number, value)):
        assert isinstance(fault, SystemFault)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0, "NO_SUCH_MSR")


@pytest.mark.parametrize(
    ("number", "value"),
    [
        # SDM vol. 3A, 11.12.4: PAT types 2 and 3, and reserved bits
        (0x277, 0x0007040600070402),
        (0x277, 0x0307040600070406),
        (0x277, 0x0007040600070426),
        # 11.11.2: MTRR types and reserved bits
        (0x2FF, 0x002),
        (0x2FF, 0x106),
        (0x2FF, 0x1000),
        (0x250, 0x0600000000000007),
        (0x268, 0x0000000200000000),
        (0x200, 0x002),
        (0x200, 0x106),
        (0x200, 1 << 36),
        (0x201, 0x400),
        (0x201, 1 << 36),
        # canonical addresses
        (0x175, 0x0000800000000000),
        (0xC0000082, 0x0000800000000000),
        (0xC0000100, 0xFFFF7FFFFFFFFFFF),
        (0xC0000103, 1 << 32),
    ],
)
def test_values_refused(number, value):
    m = machine()
    fault = write(m, number, value)
    assert (fault.vector, fault.error, fault.cause) == (GP, 0, "MSR_VALUE")
    assert fault.operands[0] == number


class TestEfer:
    @pytest.mark.parametrize(("bit", "feature"), [(0, "syscall"), (8, "lm"), (11, "nx")])
    def test_bits_follow_cpuid(self, bit, feature):
        assert write(machine(), 0xC0000080, 1 << bit) is None
        fault = write(machine(feature), 0xC0000080, 1 << bit)
        assert (fault.vector, fault.cause) == (GP, "EFER_RESERVED")

    @pytest.mark.parametrize("bit", [1, 9, 12, 16, 63])
    def test_reserved(self, bit):
        assert write(machine(), 0xC0000080, 1 << bit).cause == "EFER_RESERVED"

    def test_a_bit_the_hypervisor_set_may_stay(self):
        m = machine()
        m.efer = 1 << 12
        assert write(m, 0xC0000080, 1 << 12 | 1) is None
        assert m.efer == 1 << 12 | 1

    def test_lma_is_read_only(self):
        m = machine()
        assert write(m, 0xC0000080, 0x500) is None
        assert m.efer == 0x100

    def test_lme_does_not_change_with_paging(self):
        m = machine()
        m.cr0 |= 1 << 31
        m.cr3 = 0x9000
        m.put(0x9000, 0xA007, 4)
        m.put(0xA000 + 32, 0x8007, 4)
        assert write(m, 0xC0000080, 0x100).cause == "EFER_LME_WITH_PAGING"

    def test_nxe_drops_translations(self):
        m = machine()
        assert write(m, 0xC0000080, 1) is None
        assert m.flushed == 0
        assert write(m, 0xC0000080, 0x801) is None
        assert m.flushed == 1


def test_segment_bases():
    m = machine()
    assert write(m, 0xC0000100, 0x12345000) is None
    assert m.seg.base[FS] == 0x12345000


def test_time_stamp_counter():
    m = machine()
    assert write(m, 0x10, 0x123456789) is None
    assert m.log == [("tsc", 0x123456789)]
    assert read(m, 0x10) == m.tsc_read()
    assert read(machine("tsc"), 0x10).cause == "NO_SUCH_MSR"


@pytest.mark.parametrize(("number", "field"), [(0x1B, "apic_base"), (0x1A0, "misc_enable"), (0x1D9, "debugctl")])
def test_the_hypervisor_hears_of_what_is_its_own(number, field):
    """Written there first: its refusal is the guest's #GP(0), and then nothing is kept."""
    m = machine()
    m.msrs[number] = 0
    assert write(m, number, 0xFEE00800) is None
    assert (m.msrs[number], getattr(m, field)) == (0xFEE00800, 0xFEE00800)
    del m.msrs[number]
    assert write(m, number, 1).cause == "MSR_REFUSED"
    assert getattr(m, field) == 0xFEE00800


def test_apic_base_is_there_without_an_apic():
    """From the P6 on (SDM vol. 4, table 2-2): firmware reads it before it asks CPUID."""
    m = machine("apic")
    m.apic_base = 0xFEE00100
    assert read(m, 0x1B) == 0xFEE00100
    m.msrs[0x1B] = 0
    assert write(m, 0x1B, 0xFEE00000) is None
    assert read(m, 0x1B) == 0xFEE00000


def test_the_rest_is_forwarded():
    m = machine()
    m.msrs[0x8B] = 0x12_00000034
    assert read(m, 0x8B) == 0x12_00000034
    assert write(m, 0x8B, 5) is None
    assert m.msrs == {0x8B: 5}
    assert read(m, 0x12345).cause == "MSR_REFUSED"
    assert write(m, 0x12345, 0).cause == "MSR_REFUSED"


@pytest.mark.parametrize("code", [RDMSR, WRMSR])
def test_feature(code):
    assert machine("msr").attempt(code).vector == UD
