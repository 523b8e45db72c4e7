"""Descriptor-table registers and descriptor instructions (SDM vol. 2)."""

from __future__ import annotations

import pytest
from system_machine import DS, GDT, LDTR, TR, TSS2, System, descriptor, gate

NP, SSF, GP, UD = 11, 12, 13, 6
ZF = 1 << 6


class TestTableRegisters:
    @pytest.mark.parametrize(("code", "register"), [(b"\x0f\x01\x10", "gdtr"), (b"\x0f\x01\x18", "idtr")])
    @pytest.mark.parametrize(("prefix", "base"), [(b"", 0x89ABCDEF), (b"\x66", 0xABCDEF)])
    def test_load(self, code, register, prefix, base):
        """A 16-bit operand size takes 24 bits of base (SDM vol. 2, LGDT)."""
        machine = System()
        machine.gpr32[0] = 0x500
        machine.put(0x500, 0x89ABCDEF_1234, 6)
        assert machine.attempt(prefix + code) is None
        assert (getattr(machine, f"{register}_base"), getattr(machine, f"{register}_limit")) == (base, 0x1234)
        assert machine.ended == ("checkpoint",)

    @pytest.mark.parametrize(("code", "register"), [(b"\x0f\x01\x00", "gdtr"), (b"\x0f\x01\x08", "idtr")])
    @pytest.mark.parametrize("prefix", [b"", b"\x66"])
    def test_store(self, code, register, prefix):
        machine = System()
        setattr(machine, f"{register}_base", 0x89ABCDEF)
        setattr(machine, f"{register}_limit", 0x1234)
        machine.gpr32[0] = 0x500
        assert machine.attempt(prefix + code) is None
        assert machine.at(0x500, 8) == 0x89ABCDEF_1234

    def test_in_real_mode(self):
        machine = System().real_mode()
        machine.put(0x500, 0x12345678_0FFF, 6)
        assert machine.attempt(b"\x66\x0f\x01\x16\x00\x05") is None
        assert (machine.gdtr_base, machine.gdtr_limit) == (0x12345678, 0xFFF)

    def test_a_fault_leaves_the_register(self):
        """Limit and base are two accesses, the second may fault."""
        machine = System()
        machine.load(DS, 0x10, 0, 0x503, 0xC093)
        machine.gpr32[0] = 0x500
        assert machine.attempt(b"\x0f\x01\x10").cause == "SEGMENT_LIMIT"
        assert (machine.gdtr_base, machine.gdtr_limit) == (GDT, 0x1FF)

    @pytest.mark.parametrize("reg", range(4))
    def test_register_form(self, reg):
        fault = System().attempt(bytes((0x0F, 0x01, 0xC0 | reg << 3 | 5)))
        assert fault.vector == UD


SYSTEM_IN_REAL_MODE = {
    "sldt": b"\x0f\x00\xc0",
    "str": b"\x0f\x00\xc8",
    "lldt": b"\x0f\x00\xd0",
    "ltr": b"\x0f\x00\xd8",
    "verr": b"\x0f\x00\xe0",
    "verw": b"\x0f\x00\xe8",
    "lar": b"\x0f\x02\xc0",
    "lsl": b"\x0f\x03\xc0",
    "arpl": b"\x63\xc0",
}


@pytest.mark.parametrize("name", SYSTEM_IN_REAL_MODE)
@pytest.mark.parametrize("mode", ["real_mode", "vm86"])
def test_not_outside_protected_mode(name, mode):
    fault = getattr(System(), mode)().attempt(SYSTEM_IN_REAL_MODE[name])
    assert (fault.vector, fault.cause) == (UD, "NOT_PROTECTED_MODE")


def with_entry(raw: int, selector: int = 0x40) -> System:
    machine = System()
    machine.set_gdt(0x40, raw)
    machine.gpr32[0] = selector
    return machine


LLDT, LTR = b"\x0f\x00\xd0", b"\x0f\x00\xd8"


class TestLldt:
    def test_load(self):
        machine = with_entry(descriptor(0x5000, 0x3F, 0x82))
        machine.seg.unusable[LDTR] = 1
        assert machine.attempt(LLDT) is None
        s = machine.seg
        assert (s.selector[LDTR], s.base[LDTR], s.limit[LDTR], s.attributes[LDTR]) == (0x40, 0x5000, 0x3F, 0x82)
        assert s.unusable[LDTR] == 0

    def test_null(self):
        machine = with_entry(0, 3)
        assert machine.attempt(LLDT) is None
        assert (machine.seg.selector[LDTR], machine.seg.unusable[LDTR]) == (3, 1)

    @pytest.mark.parametrize(
        ("raw", "selector", "vector", "error", "cause"),
        [
            (0, 0x0C, GP, 0x0C, "LDT_NOT_IN_GDT"),
            (0, 0x200, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            (descriptor(0, 0xFF, 0x92), 0x40, GP, 0x40, "LDT_TYPE"),
            (descriptor(0, 0xFF, 0x89), 0x40, GP, 0x40, "LDT_TYPE"),
            (descriptor(0, 0xFF, 0x02), 0x40, NP, 0x40, "LDT_NOT_PRESENT"),
        ],
    )
    def test_refused(self, raw, selector, vector, error, cause):
        machine = with_entry(raw, selector)
        fault = machine.attempt(LLDT)
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert machine.seg.selector[LDTR] == 0x28


class TestLtr:
    @pytest.mark.parametrize("access", [0x89, 0x81])
    def test_load_makes_the_tss_busy(self, access):
        machine = with_entry(descriptor(TSS2, 0x67, access))
        assert machine.attempt(LTR) is None
        s = machine.seg
        assert (s.selector[TR], s.base[TR], s.limit[TR], s.attributes[TR]) == (0x40, TSS2, 0x67, access | 2)
        assert machine.at(GDT + 0x45, 1) == access | 2

    @pytest.mark.parametrize(
        ("raw", "selector", "vector", "error", "cause"),
        [
            (0, 0, GP, 0, "TR_SELECTOR_NULL"),
            (0, 0x44, GP, 0x44, "TSS_NOT_IN_GDT"),
            (0, 0x200, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            (descriptor(0, 0x67, 0x8B), 0x40, GP, 0x40, "TSS_TYPE"),
            (descriptor(0, 0x67, 0x99), 0x40, GP, 0x40, "TSS_TYPE"),
            (descriptor(0, 0x67, 0x09), 0x40, NP, 0x40, "TSS_NOT_PRESENT"),
        ],
    )
    def test_refused(self, raw, selector, vector, error, cause):
        machine = with_entry(raw, selector)
        fault = machine.attempt(LTR)
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert (machine.seg.selector[TR], machine.at(GDT + 0x40, 8)) == (0x30, raw)


@pytest.mark.parametrize(("code", "selector"), [(b"\x0f\x00\xc0", 0x28), (b"\x0f\x00\xc8", 0x30)])
def test_store_selector(code, selector):
    machine = System()
    machine.gpr32[0] = 0xAAAAAAAA
    assert machine.attempt(b"\x66" + code) is None
    assert machine.gpr32[0] == 0xAAAA0000 | selector
    assert machine.attempt(code) is None
    assert machine.gpr32[0] == selector
    machine.gpr32[0] = 0x500
    machine.put(0x500, 0xBBBBBBBB, 4)
    assert machine.attempt(code[:2] + bytes((code[2] & 0x3F,))) is None
    assert machine.at(0x500) == 0xBBBB0000 | selector


#: Descriptor, level of the program, RPL, and what LAR, LSL, VERR, VERW find.
LOOKS = [
    # SDM vol. 2, LAR and LSL tables; VERR
    (descriptor(0, 0xFFF, 0x92), 0, 0, (1, 1, 1, 1)),
    (descriptor(0, 0xFFF, 0x90), 0, 0, (1, 1, 1, 0)),
    (descriptor(0, 0xFFF, 0x98), 0, 0, (1, 1, 0, 0)),
    (descriptor(0, 0xFFF, 0x9A), 0, 0, (1, 1, 1, 0)),
    (descriptor(0, 0xFFF, 0x92), 3, 0, (0, 0, 0, 0)),
    (descriptor(0, 0xFFF, 0x92), 0, 1, (0, 0, 0, 0)),
    (descriptor(0, 0xFFF, 0xF2), 3, 3, (1, 1, 1, 1)),
    (descriptor(0, 0xFFF, 0x9E), 3, 3, (1, 1, 1, 0)),
    (descriptor(0, 0xFFF, 0x12), 0, 0, (1, 1, 1, 1)),
    *((descriptor(0, 0xFFF, 0x80 | t), 0, 0, (1, 1, 0, 0)) for t in (1, 2, 3, 9, 11)),
    *((descriptor(0, 0xFFF, 0x80 | t), 0, 0, (1, 0, 0, 0)) for t in (4, 5, 12)),
    *((descriptor(0, 0xFFF, 0x80 | t), 0, 0, (0, 0, 0, 0)) for t in (0, 6, 7, 8, 10, 13, 14, 15)),
    (gate(0x08, 0x1234, 0xEC), 3, 3, (1, 0, 0, 0)),
]


@pytest.mark.parametrize(("raw", "cpl", "rpl", "expected"), LOOKS)
@pytest.mark.parametrize("index", range(4))
def test_looks(raw, cpl, rpl, expected, index):
    """ZF says whether; nothing else changes when not."""
    code = (b"\x0f\x02\xd8", b"\x0f\x03\xd8", b"\x0f\x00\xe0", b"\x0f\x00\xe8")[index]
    machine = with_entry(raw, 0x40 | rpl)
    machine.cpl, machine.gpr32[3] = cpl, 0x5A5A5A5A
    for flags in (2, 0x8D7):
        machine.set_eflags(flags)
        assert machine.attempt(code) is None
        assert machine.eflags == flags & ~ZF | (ZF if expected[index] else 0)
    if index > 1 or not expected[index]:
        assert machine.gpr32[3] == 0x5A5A5A5A


@pytest.mark.parametrize("code", [b"\x0f\x02\xd8", b"\x0f\x03\xd8", b"\x0f\x00\xe0", b"\x0f\x00\xe8"])
@pytest.mark.parametrize("selector", [0, 3, 0x200, 0x104])
def test_looks_beyond_the_table(code, selector):
    machine = with_entry(0, selector)
    machine.set_eflags(0x8D7)
    assert machine.attempt(code) is None
    assert machine.eflags == 0x897


def test_values():
    machine = with_entry(descriptor(0x12345678, 0xABCDE, 0xF2, 0xD))
    assert machine.attempt(b"\x0f\x02\xd8") is None
    assert machine.gpr32[3] == 0x00DAF200
    assert machine.attempt(b"\x0f\x03\xd8") is None
    assert machine.gpr32[3] == 0xABCDEFFF
    for code, low in ((b"\x66\x0f\x02\xd8", 0xF200), (b"\x66\x0f\x03\xd8", 0xEFFF)):
        machine.gpr32[3] = 0x5A5A5A5A
        assert machine.attempt(code) is None
        assert machine.gpr32[3] == 0x5A5A0000 | low


@pytest.mark.parametrize(
    ("dst", "src", "result", "zero"),
    [
        (0x1230, 0x0003, 0x1233, 1),
        (0x1233, 0x0000, 0x1233, 0),
        (0x1232, 0xFFF2, 0x1232, 0),
        (0x1231, 0xFFF2, 0x1232, 1),
    ],
)
def test_arpl(dst, src, result, zero):
    machine = System()
    machine.gpr32[0], machine.gpr32[3] = 0x500, src
    machine.put(0x500, dst, 2)
    machine.set_eflags(0x8D7 if not zero else 0x897)
    assert machine.attempt(b"\x63\x18") is None
    assert machine.at(0x500, 2) == result
    assert machine.eflags == 0x897 | zero << 6
    machine.gpr32[0] = 0xAAAA0000 | dst
    assert machine.attempt(b"\x63\xd8") is None
    assert machine.gpr32[0] == 0xAAAA0000 | result
