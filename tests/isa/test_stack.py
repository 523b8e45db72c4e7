"""PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE."""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

from dm.machine.state import Seg

CASES: list[tuple[str, Values, Values]] = [
    ("50 ; push ax", {"ax": 0x1234}, {"sp": 0x6FFE, 0x6FFE: b"\x34\x12"}),
    ("6650 ; push eax", {"eax": 0x12345678}, {"sp": 0x6FFC, 0x6FFC: bytes.fromhex("78563412")}),
    ("54 ; push sp pushes the old one", {"sp": 0x7000}, {"sp": 0x6FFE, 0x6FFE: b"\x00\x70"}),
    ("6aff ; push -1", {}, {"sp": 0x6FFE, 0x6FFE: b"\xff\xff"}),
    ("50 ; push wraps, the upper half of ESP stays", {"esp": 0x50000, "ax": 1}, {"esp": 0x5FFFE, 0xFFFE: b"\x01\x00"}),
    ("1e ; push ds", {"ds": 0x1234}, {"sp": 0x6FFE, 0x6FFE: b"\x34\x12"}),
    ("58 ; pop ax", {0x7000: b"\x34\x12"}, {"ax": 0x1234, "sp": 0x7002}),
    ("5c ; pop sp", {0x7000: b"\x34\x12"}, {"sp": 0x1234}),
    ("8f060010 ; pop [1000]", {0x7000: b"\x34\x12"}, {0x1000: b"\x34\x12", "sp": 0x7002}),
    ("678f0424 ; pop [esp] is addressed after the pop", {0x7000: b"\x34\x12"}, {0x7002: b"\x34\x12", "sp": 0x7002}),
    ("1f ; pop ds", {0x7000: b"\x34\x12"}, {"ds": 0x1234, "sp": 0x7002}),
    ("60 ; pusha",
     {"ax": 0, "cx": 1, "dx": 2, "bx": 3, "bp": 5, "si": 6, "di": 7},
     {"sp": 0x6FF0, 0x6FF0: bytes.fromhex("0700060005000070 0300020001000000")}),
    ("61 ; popa passes over SP",
     {0x7000: bytes.fromhex("0700060005000bad 0300020001000900")},
     {"ax": 9, "cx": 1, "dx": 2, "bx": 3, "bp": 5, "si": 6, "di": 7, "sp": 0x7010}),
    ("c9 ; leave", {"bp": 0x6000, "sp": 0x5000, 0x6000: b"\x34\x12"}, {"sp": 0x6002, "bp": 0x1234}),
    ("c8040000 ; enter 4,0", {"bp": 0x6100}, {"bp": 0x6FFE, "sp": 0x6FFA, 0x6FFE: b"\x00\x61"}),
    ("c8040001 ; enter 4,1", {"bp": 0x6100}, {"bp": 0x6FFE, "sp": 0x6FF8, 0x6FFC: bytes.fromhex("fe6f0061")}),
    ("c8040023 ; enter 4,3 (modulo 32) copies two outer frames",
     {"bp": 0x6100, 0x60FC: bytes.fromhex("22221111")},
     {"bp": 0x6FFE, "sp": 0x6FF4, 0x6FF8: bytes.fromhex("fe6f222211110061")}),
    ("66c8040002 ; enter with 32-bit operands on a 16-bit stack",
     {"ebp": 0x6100, 0x60FC: bytes.fromhex("44332211")},
     {"ebp": 0x6FFC, "sp": 0x6FF0, 0x6FF4: bytes.fromhex("fc6f0000 44332211 00610000")}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


@pytest.mark.parametrize(("vendor", "slot"), [(0, "3412ffff"), (1, "34120000")])
def test_pushing_a_segment_with_a_32_bit_operand(vendor: int, slot: str) -> None:
    m = Machine()
    m.vendor = vendor
    execute("661e", {"ds": 0x1234, 0x6FFC: b"\xff" * 4}, {"sp": 0x6FFC, 0x6FFC: bytes.fromhex(slot)}, m)


@pytest.mark.parametrize("code", ["50", "60", "c8000005", "e80000"])
def test_stack_fault_changes_nothing(code: str) -> None:
    fails(code, 12, "SS_LIMIT", {"sp": 1})


def test_push_from_memory_reads_first() -> None:
    fails("ff36ffff", 13, "SEGMENT_LIMIT", {"sp": 1})


def test_pop_faults_leave_the_stack_pointer() -> None:
    fails("58", 12, "SS_LIMIT", {"sp": 0xFFFF})
    fails("8f06ffff", 13, "SEGMENT_LIMIT", {"sp": 0x7000})


def test_pop_ss_uses_the_old_stack_size() -> None:
    m = execute("17", {"esp": 0x17000, 0x7000: b"\x00\x01"}, {"ss": 0x100, "esp": 0x17002})
    assert m.shadow_next == 2


def test_enter_probes_the_new_top() -> None:
    m = Machine()
    m.seg.limit[Seg.SS], m.seg.attributes[Seg.SS] = 0x6000, 0x97  # expand-down: valid above 6000h
    fails("c8001000", 12, "SS_LIMIT", m=m)


def test_stack_of_32_bits() -> None:
    m = Machine().protect()
    execute("50 ; push eax", {"esp": 0x10002, "eax": 0x11223344}, {"esp": 0xFFFE, 0xFFFE: bytes.fromhex("44332211")}, m)
    m = Machine().protect()
    execute("66c8040000", {"esp": 0x7000, "ebp": 0x12345678}, {"esp": 0x6FFA, "bp": 0x6FFE, 0x6FFE: b"\x78\x56"}, m)


def test_pushfd_hides_rf_and_vm() -> None:
    m = Machine().protect()
    execute("9c", {"cf": 1, "rf": 1, "ac": 1}, {"esp": 0x6FFC, 0x6FFC: bytes.fromhex("03000400")}, m)


@pytest.mark.parametrize(
    ("cpl", "iopl", "result"),
    [
        (0, 0, 0x0024_7ED7 | 2),
        (3, 0, 0x0024_4CD7 | 2),  # neither IF nor IOPL
        (3, 3, 0x0024_7ED7 | 2),  # IF, IOPL as it was
    ],
)
def test_popfd(cpl: int, iopl: int, result: int) -> None:
    m = Machine().protect(cpl, iopl)
    put = {0x7000: (0xFFFFFFFF ^ 0x8100).to_bytes(4, "little")}
    m = execute("9d", put, {"esp": 0x7004}, m)
    assert f"{m.eflags:x}" == f"{result:x}"
    assert m.ended == ("checkpoint",)


def test_popf_keeps_the_upper_half() -> None:
    m = Machine()
    m.flags |= 1 << 18
    m = execute("9d", {0x7000: b"\x00\x00", "if": 1}, {"sp": 0x7002, "if": 0, "ac": 1}, m)


def test_386_has_neither_ac_nor_id() -> None:
    m = Machine()
    m.model = 3
    execute("669d", {0x7000: b"\x00\x00\x24\x00"}, {"sp": 0x7004, "ac": 0, "id": 0}, m)


def test_virtual_8086_flags() -> None:
    fails("9c", 13, "IOPL", m=Machine().virtual_8086())
    fails("9d", 13, "IOPL", m=Machine().virtual_8086())
    execute("9c", {"if": 1}, {"sp": 0x6FFE, 0x6FFE: b"\x02\x32"}, Machine().virtual_8086(iopl=3))


def with_vme() -> Machine:
    m = Machine().virtual_8086()
    m.cr4 = 1
    return m


def test_vme_pushes_vif_in_the_place_of_if() -> None:
    execute("9c", {"if": 1, "vif": 0}, {"sp": 0x6FFE, 0x6FFE: b"\x02\x30"}, with_vme())
    execute("9c", {"if": 0, "vif": 1}, {"sp": 0x6FFE, 0x6FFE: b"\x02\x32"}, with_vme())
    fails("669c", 13, "IOPL", m=with_vme())


def test_vme_pops_if_into_vif() -> None:
    execute("9d", {0x7000: b"\x00\x02", "if": 0}, {"sp": 0x7002, "vif": 1, "if": 0}, with_vme())
    execute("9d", {0x7000: b"\x00\x00", "if": 1, "vif": 1}, {"sp": 0x7002, "vif": 0, "if": 1}, with_vme())
    fails("9d", 13, "VME_FLAGS", {0x7000: b"\x00\x02", "vip": 1}, with_vme())
    fails("9d", 13, "VME_FLAGS", {0x7000: b"\x00\x01"}, with_vme())
