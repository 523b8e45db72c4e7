"""Segment registers: access checks and loads, each case against the manual's section."""

from __future__ import annotations

import pytest
from system_machine import CS, DS, ES, FS, GDT, GS, LDT, SS, System, descriptor

NP, SSF, GP, UD = 11, 12, 13, 6

FLAT = 0xC093
KINDS = {
    "data": 0x93,
    "read-only": 0x91,
    "down": 0x97,
    "down32": 0x4097,
    "code": 0x9B,
    "execute-only": 0x99,
    "conforming": 0x9F,
    "absent": 0x13,
}


@pytest.mark.parametrize(
    ("kind", "limit", "offset", "size", "write", "expected"),
    [
        # SDM vol. 3A, 5.3: every byte within the limit
        ("data", 0xFFF, 0xFFF, 1, 0, None),
        ("data", 0xFFF, 0xFFE, 2, 1, None),
        ("data", 0xFFF, 0xFFF, 2, 0, "LIMIT"),
        ("data", 0xFFF, 0x1000, 1, 0, "LIMIT"),
        ("data", 0xFFFF, 0xFFFE, 4, 0, "LIMIT"),
        ("data", 0, 0, 1, 1, None),
        ("data", 0xFFFFFFFF, 0xFFFFFFFC, 4, 0, None),
        ("data", 0xFFFFFFFF, 0xFFFFFFFD, 4, 0, "LIMIT"),
        # SDM vol. 3A, 5.3: expand-down, valid above the limit, up to FFFFh or FFFFFFFFh by B
        ("down", 0xFFF, 0xFFF, 1, 0, "LIMIT"),
        ("down", 0xFFF, 0x1000, 1, 1, None),
        ("down", 0xFFF, 0xFFFF, 1, 0, None),
        ("down", 0xFFF, 0xFFFF, 2, 0, "LIMIT"),
        ("down", 0xFFF, 0x10000, 1, 0, "LIMIT"),
        ("down32", 0xFFF, 0x10000, 4, 0, None),
        ("down32", 0xFFF, 0xFFFFFFFF, 2, 0, "LIMIT"),
        ("down", 0xFFFF, 0xFFFF, 1, 0, "LIMIT"),
        # SDM vol. 3A, 5.5 and table 3-1: types
        ("read-only", 0xFFF, 0, 1, 0, None),
        ("read-only", 0xFFF, 0, 1, 1, "READ_ONLY"),
        ("code", 0xFFF, 0, 1, 0, None),
        ("code", 0xFFF, 0, 1, 1, "WRITE_TO_CODE"),
        ("execute-only", 0xFFF, 0, 1, 0, "EXECUTE_ONLY"),
        # a conforming segment is no expand-down one
        ("conforming", 0xFFF, 0, 1, 0, None),
        ("conforming", 0xFFF, 0x1000, 1, 0, "LIMIT"),
        ("absent", 0xFFF, 0, 1, 0, "NOT_PRESENT"),
    ],
)
@pytest.mark.parametrize("seg", [DS, SS])
def test_access_rules_in_protected_mode(seg, kind, limit, offset, size, write, expected):
    machine = System()
    machine.load(seg, 0x10, 0, limit, KINDS[kind])
    vector, prefix = (SSF, "SS_") if seg == SS else (GP, "SEGMENT_")
    assert machine.check(seg, offset, size, write) == (expected and (vector, prefix + expected))


@pytest.mark.parametrize(
    ("kind", "write", "expected"),
    [
        ("code", 1, None),
        ("execute-only", 0, None),
        ("conforming", 1, None),
        ("read-only", 1, "SEGMENT_READ_ONLY"),
        ("read-only", 0, None),
    ],
)
def test_code_and_data_are_one_in_real_mode_caches(kind, write, expected):
    """A real-mode load leaves rights alone, so protected-mode leftovers are used: SDM vol. 3A, 9.9.2."""
    machine = System().real_mode()
    machine.load(CS, 0, 0, 0xFFFF, KINDS[kind])
    assert machine.check(CS, 0, 4, write) == (expected and (GP, expected))


def test_null_segment_faults_whatever_the_mode():
    """SDM vol. 3A, 3.4.2."""
    machine = System()
    machine.load(DS, 0, 0, 0xFFFFFFFF, FLAT, unusable=1)
    assert machine.check(DS, 0, 1) == (GP, "SEGMENT_NULL")
    machine.real_mode().load(DS, 0, 0, 0xFFFFFFFF, FLAT, unusable=1)
    assert machine.check(DS, 0, 1) == (GP, "SEGMENT_NULL")


def hidden(machine: System, seg: int) -> tuple[int, int, int, int, int]:
    s = machine.seg
    return s.selector[seg], s.base[seg], s.limit[seg], s.attributes[seg], s.unusable[seg]


MOV_DS_AX, MOV_SS_AX, MOV_ES_AX = b"\x8e\xd8", b"\x8e\xd0", b"\x8e\xc0"


def move(machine: System, code: bytes, selector: int):
    machine.gpr32[0] = selector
    return machine.attempt(code)


class TestRealMode:
    def test_a_load_keeps_limit_and_rights(self):
        """SDM vol. 3A, 20.1.1: 'unreal' mode keeps a 4 GiB limit."""
        machine = System().real_mode()
        machine.load(DS, 0x10, 0, 0xFFFFFFFF, FLAT)
        assert move(machine, MOV_DS_AX, 0x1234) is None
        assert hidden(machine, DS) == (0x1234, 0x12340, 0xFFFFFFFF, FLAT, 0)
        assert machine.ended == ("next",)
        assert machine.check(DS, 0x12345678, 4) is None

    def test_a_load_makes_a_null_segment_usable(self):
        machine = System().real_mode()
        machine.load(DS, 0, 0x5550, 0xFFFF, 0x4091, unusable=1)
        assert move(machine, MOV_DS_AX, 0) is None
        assert hidden(machine, DS) == (0, 0, 0xFFFF, 0x4093, 0)

    def test_selector_zero_loaded_here_is_no_null_segment_later(self):
        """FreeBSD BTX: DS loaded with 0 in real mode still reads linear 0xC after PE is set."""
        machine = System().real_mode()
        assert move(machine, MOV_DS_AX, 0) is None
        machine.put(0xC, 0xCAFE, 4)
        machine.gpr32[0] = 0x60000011
        for code in (b"\x0f\x22\xc0", b"\xea\x7f\x00\x08\x00"):
            assert machine.attempt(code) is None
        assert move(machine, MOV_SS_AX, 0x10) is None
        assert machine.attempt(b"\xff\x35\x0c\x00\x00\x00") is None
        assert machine.stack(1) == [0xCAFE]
        assert hidden(machine, DS) == (0, 0, 0xFFFF, 0x93, 0)

    def test_virtual_8086_load(self):
        """SDM vol. 3A, 20.2.1."""
        machine = System().vm86()
        machine.load(DS, 0, 0, 0x1234, 0x91, unusable=1)
        assert move(machine, MOV_DS_AX, 0xFFFF) is None
        assert hidden(machine, DS) == (0xFFFF, 0xFFFF0, 0xFFFF, 0xF3, 0)

    def test_far_pointer_halves_are_two_accesses(self):
        """The selector of LDS may wrap to offset 0, a doubleword operand may not cross FFFFh."""
        machine = System().real_mode()
        machine.put(0xFFFE, 0x5678, 2)
        machine.put(0, 0x1234, 2)
        assert machine.attempt(b"\xc5\x1e\xfe\xff") is None
        assert machine.gpr32[3] == 0x5678
        assert hidden(machine, DS)[:2] == (0x1234, 0x12340)
        fault = System().real_mode().attempt(b"\x66\xa1\xfe\xff")
        assert (fault.vector, fault.cause) == (GP, "SEGMENT_LIMIT")


#: What GDT entry 40h holds, by name.
ENTRIES = {
    "data0": descriptor(0x100000, 0xFFF, 0x92),
    "data3": descriptor(0, 0xFFFFF, 0xF2, 0xC),
    "read-only0": descriptor(0, 0xFFF, 0x90),
    "code0": descriptor(0, 0xFFF, 0x9A),
    "code3": descriptor(0, 0xFFF, 0xFA),
    "execute-only0": descriptor(0, 0xFFF, 0x98),
    "conforming0": descriptor(0, 0xFFF, 0x9E),
    "absent-data0": descriptor(0, 0xFFF, 0x12),
    "absent-data3": descriptor(0, 0xFFF, 0x72),
    "absent-code0": descriptor(0, 0xFFF, 0x18),
    "ldt": descriptor(0, 0xFFF, 0x82),
    "tss": descriptor(0, 0xFFF, 0x89),
    "gate": descriptor(0, 0xFFF, 0x8C),
}


@pytest.mark.parametrize(
    ("cpl", "seg", "entry", "selector", "vector", "error", "cause"),
    [
        # SDM vol. 2, MOV, loading SS
        (0, SS, "data0", 0x00, GP, 0, "SS_SELECTOR_NULL"),
        (0, SS, "data0", 0x03, GP, 0, "SS_SELECTOR_NULL"),
        (0, SS, "data0", 0x200, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
        (0, SS, "data0", 0x41, GP, 0x40, "SS_RPL"),
        (0, SS, "code0", 0x40, GP, 0x40, "SS_NOT_WRITABLE"),
        (0, SS, "read-only0", 0x40, GP, 0x40, "SS_NOT_WRITABLE"),
        (0, SS, "ldt", 0x40, GP, 0x40, "SS_NOT_WRITABLE"),
        (0, SS, "data3", 0x40, GP, 0x40, "SS_DPL"),
        (3, SS, "data0", 0x43, GP, 0x40, "SS_DPL"),
        (3, SS, "data3", 0x40, GP, 0x40, "SS_RPL"),
        (0, SS, "absent-data0", 0x40, SSF, 0x40, "SS_NOT_PRESENT"),
        (0, SS, "absent-data3", 0x40, GP, 0x40, "SS_DPL"),
        # the others
        (0, DS, "data0", 0x1F8 + 8, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
        (0, DS, "data0", 0x107, GP, 0x104, "DESCRIPTOR_TABLE_LIMIT"),
        (0, DS, "execute-only0", 0x40, GP, 0x40, "DATA_NOT_READABLE"),
        (0, DS, "tss", 0x40, GP, 0x40, "DATA_NOT_READABLE"),
        (0, DS, "gate", 0x40, GP, 0x40, "DATA_NOT_READABLE"),
        (3, DS, "data0", 0x40, GP, 0x40, "DATA_DPL"),
        (0, DS, "data0", 0x43, GP, 0x40, "DATA_DPL"),
        (3, DS, "code0", 0x40, GP, 0x40, "DATA_DPL"),
        (0, DS, "absent-data0", 0x40, NP, 0x40, "SEGMENT_NOT_PRESENT"),
        (0, DS, "absent-code0", 0x40, GP, 0x40, "DATA_NOT_READABLE"),
        (3, ES, "absent-data0", 0x40, GP, 0x40, "DATA_DPL"),
    ],
)
def test_loads_that_protected_mode_refuses(cpl, seg, entry, selector, vector, error, cause):
    machine = System()
    if cpl:
        machine.ring3()
    machine.set_gdt(0x40, ENTRIES[entry])
    before = hidden(machine, seg)
    fault = move(machine, {SS: MOV_SS_AX, DS: MOV_DS_AX, ES: MOV_ES_AX}[seg], selector)
    assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
    assert hidden(machine, seg) == before
    assert machine.at(GDT + 0x40, 8) == ENTRIES[entry]


@pytest.mark.parametrize(
    ("cpl", "seg", "entry", "selector"),
    [
        (0, SS, "data0", 0x40),
        (3, SS, "data3", 0x43),
        (0, DS, "data0", 0x40),
        (0, DS, "data3", 0x43),
        (0, DS, "code0", 0x40),
        (3, DS, "conforming0", 0x43),
        (0, DS, "read-only0", 0x40),
    ],
)
def test_loads_that_protected_mode_takes(cpl, seg, entry, selector):
    """The cache takes over everything, and the accessed bit goes to memory (SDM vol. 3A, 3.4.5.1)."""
    machine = System()
    if cpl:
        machine.ring3()
    raw = ENTRIES[entry]
    machine.set_gdt(0x40, raw)
    assert move(machine, MOV_SS_AX if seg == SS else MOV_DS_AX, selector) is None
    limit = 0xFFFFFFFF if raw >> 55 & 1 else 0xFFF
    base = 0x100000 if entry == "data0" else 0
    assert hidden(machine, seg) == (selector, base, limit, raw >> 40 & 0xF0FF | 1, 0)
    assert machine.at(GDT + 0x40, 8) == raw | 1 << 40
    assert machine.ended == ("checkpoint",)


def test_load_through_the_ldt():
    machine = System()
    machine.set_ldt(0x0C, descriptor(0x7000, 0x1F, 0x92))
    assert move(machine, MOV_DS_AX, 0x0C) is None
    assert hidden(machine, DS) == (0x0C, 0x7000, 0x1F, 0x93, 0)
    assert machine.at(LDT + 8 + 5, 1) == 0x93
    fault = move(machine, MOV_DS_AX, 0x104)
    assert (fault.vector, fault.error) == (GP, 0x104)
    machine.seg.unusable[6] = 1
    assert move(machine, MOV_DS_AX, 0x0C).cause == "DESCRIPTOR_TABLE_LIMIT"


@pytest.mark.parametrize(("vendor", "base"), [(0, 0), (1, 0x5000)])
def test_base_after_a_null_load(vendor, base):
    machine = System()
    machine.vendor = vendor
    machine.load(DS, 0x10, 0x5000, 0xFFF, 0x93)
    assert move(machine, MOV_DS_AX, 3) is None
    assert hidden(machine, DS) == (3, base, 0xFFF, 0x93, 1)


@pytest.mark.parametrize("mode", ["real_mode", "vm86"])
@pytest.mark.parametrize("code", [MOV_SS_AX, b"\x17"])
def test_mov_and_pop_ss_leave_a_shadow(mode, code):
    """SDM vol. 3A, 6.8.3."""
    machine = getattr(System(), mode)()
    assert machine.attempt(code) is None
    assert machine.shadow == 2
    assert machine.ended == ("checkpoint",)
    assert machine.attempt(b"\x90") is None
    assert machine.shadow == 0


def test_lss_leaves_no_shadow():
    machine = System().real_mode()
    machine.put(0x500, 0x12345678, 4)
    assert machine.attempt(b"\x0f\xb2\x26\x00\x05") is None
    assert machine.shadow == 0
    assert hidden(machine, SS)[:2] == (0x1234, 0x12340)
    assert machine.esp & 0xFFFF == 0x5678


@pytest.mark.parametrize(("opcode", "seg"), [("c4", ES), ("c5", DS), ("0fb2", SS), ("0fb4", FS), ("0fb5", GS)])
def test_far_pointer_loads(opcode, seg):
    machine = System()
    machine.put(0x500, 0x0010_89ABCDEF, 6)
    machine.load(seg, 0, 0, 0, FLAT) if seg not in (DS, SS) else None
    assert machine.attempt(bytes.fromhex(opcode) + b"\x1d\x00\x05\x00\x00") is None
    assert machine.gpr32[3] == 0x89ABCDEF
    assert hidden(machine, seg) == (0x10, 0, 0xFFFFFFFF, FLAT, 0)


@pytest.mark.parametrize("modrm", [0xC8, 0xF0, 0xF8])
def test_no_such_segment(modrm):
    """MOV CS and segment registers 6 and 7: #UD (SDM vol. 2, MOV)."""
    fault = System().attempt(bytes((0x8E, modrm)))
    assert (fault.vector, fault.cause) == (UD, "NO_SUCH_SEGMENT")


def test_no_such_segment_comes_before_the_operand():
    machine = System()
    machine.load(DS, 0, 0, 0, FLAT, unusable=1)
    assert machine.attempt(b"\x8e\x0d\x00\x00\x00\x00").vector == UD
