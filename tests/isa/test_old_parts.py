"""What the 80286 and the 80386 do in their own way: LOADALL, test registers, flags, descriptors, CR0."""

from __future__ import annotations

import pytest
from machine import Unsupported, forms
from system_machine import CS, DS, ES, LDTR, SS, TR, System, descriptor, gate

from dm.isa.insn import Variant
from dm.isa.map.coverage import form_name
from dm.isa.map.forms import Row

GP, UD = 13, 6


def old(model: int, **cells: int) -> System:
    m = System()
    m.model = model
    if model == 2:
        m.seg.attributes[CS] = 0x9B
        m.code32 = False
    for name, value in cells.items():
        setattr(m, name, value)
    return m


def loadall_table(m: System, msw: int, rights: int) -> None:
    words = {
        0x06: msw, 0x16: 0x58, 0x18: 0x3246, 0x1A: 0x1234, 0x1C: 0x48,
        0x1E: 0x111, 0x20: 0x222, 0x22: 0x333, 0x24: 0x444,
    }  # fmt: skip
    words |= {0x26 + 2 * n: 0x7000 + n for n in range(8)}  # DI SI BP SP BX DX CX AX
    for offset, value in words.items():
        m.put(0x800 + offset, value, 2)
    for n, offset in enumerate((0x36, 0x3C, 0x42, 0x48, 0x4E, 0x54, 0x5A, 0x60)):
        m.put(0x800 + offset, 0x120000 + n, 3)
        m.put(0x800 + offset + 3, rights if offset < 0x4E else 0x82 if offset == 0x54 else 0x81, 1)
        m.put(0x800 + offset + 4, 0xFF00 + n, 2)


@pytest.mark.parametrize(("row", "variant"), forms("LOADALL"), ids=[form_name(v, r) for r, v in forms("LOADALL")])
def test_loadall_of_the_80286(row: Row, variant: Variant) -> None:
    m = old(2).real_mode()
    m.seg.attributes[CS] = 0x409B if variant.osize == 32 else 0x9B
    loadall_table(m, 0xFFF1, 0xF3)
    assert m.attempt(bytes.fromhex("0f05")) is None
    assert [m.gpr32[n] & 0xFFFF for n in range(8)] == [0x7007 - n for n in range(8)]
    assert (m.eip, m.cpl, m.cr0 & 0xF, m.eflags) == (0x1234, 3, 1, 0x3246)
    for n, seg in enumerate((ES, CS, SS, DS)):
        assert (m.seg.base[seg], m.seg.limit[seg], m.seg.attributes[seg]) == (0x120000 + n, 0xFF00 + n, 0xF3)
    assert [m.seg.selector[n] for n in (ES, CS, SS, DS, LDTR, TR)] == [0x444, 0x333, 0x222, 0x111, 0x48, 0x58]
    assert (m.gdtr_base, m.gdtr_limit, m.idtr_base, m.idtr_limit) == (0x120004, 0xFF04, 0x120006, 0xFF06)
    assert (m.seg.base[LDTR], m.seg.base[TR], m.seg.unusable[LDTR]) == (0x120005, 0x120007, 0)


def test_loadall_cannot_leave_protected_mode_and_is_privileged() -> None:
    m = old(2)
    loadall_table(m, 0, 0x93)
    assert m.attempt(bytes.fromhex("0f05")) is None
    assert (m.cr0 & 1, m.cpl) == (1, 0)
    m = old(2)
    m.cpl = 3
    assert m.attempt(bytes.fromhex("0f05")).cause == "CPL_NOT_0"
    assert old(3).attempt(bytes.fromhex("0f05")).vector == UD


@pytest.mark.parametrize(("code", "cause"), [("0f24f0", ""), ("0f26f8", ""), ("0f24c0", "NO_SUCH_TR")])
@pytest.mark.parametrize("code32", [False, True])
def test_test_registers_of_the_80386(code: str, cause: str, code32: bool) -> None:
    """MOV to and from TR6 and TR7 (80386 manual, 10.6): the part has them, this emulator has not."""
    m = old(3)
    m.seg.attributes[CS] = 0x409B if code32 else 0x9B
    if cause:
        assert m.attempt(bytes.fromhex(code)).cause == cause
    else:
        with pytest.raises(Unsupported, match="TEST_REGISTER"):
            m.attempt(bytes.fromhex(code))
        m.cpl = 3
        assert m.attempt(bytes.fromhex(code)).cause == "CPL_NOT_0"
    assert old(6).attempt(bytes.fromhex(code)).vector == UD


@pytest.mark.parametrize(("model", "protected", "kept"), [(2, False, 0), (2, True, 0x7000), (3, False, 0x7000)])
def test_popf_of_the_80286_in_real_mode(model: int, protected: bool, kept: int) -> None:
    m = old(model)
    if not protected:
        m.real_mode()
    m.seg.attributes[CS] = 0x9B
    m.gpr32[4] = 0x6000
    m.put(0x6000, 0x7ED7, 2)
    assert m.attempt(b"\x9d") is None
    assert m.eflags & 0xF000 == kept
    assert m.eflags & 0xFD7 == 0xED7 & 0xFD7


@pytest.mark.parametrize(("model", "last"), [(2, 0xFF), (3, 0x12), (6, 0x12)])
@pytest.mark.parametrize("code", ["0f010600 05", "0f010e00 05"])
def test_the_last_byte_of_sgdt_and_sidt(model: int, last: int, code: str) -> None:
    m = old(model)
    m.seg.attributes[CS] = 0x9B
    m.gdtr_base = m.idtr_base = 0x12345678
    assert m.attempt(bytes.fromhex(code)) is None
    assert m.at(0x502) == last << 24 | 0x345678


@pytest.mark.parametrize("access", [0x8E, 0x8F])
def test_gates_of_the_80386_are_none_to_the_80286(access: int) -> None:
    m = old(2)
    m.seg.attributes[CS] = 0x9B
    m.set_idt(0x21, gate(8, 0x4000, access))
    fault = m.attempt(bytes.fromhex("cd21"))
    assert (fault.vector, fault.error, fault.cause) == (GP, 0x21 * 8 + 2, "GATE_TYPE")
    m.set_idt(0x21, gate(8, 0x12344000, access & 0xF7))
    assert m.attempt(bytes.fromhex("cd21")) is None
    assert m.eip == 0x4000


def test_descriptors_of_the_80286_have_three_words() -> None:
    m = old(2)
    m.set_gdt(0x60, descriptor(0x12345678, 0xFABCD, 0x93, 0xC))
    m.gpr32[0] = 0x60
    assert m.attempt(bytes.fromhex("8ed8")) is None
    assert (m.seg.base[DS], m.seg.limit[DS], m.seg.attributes[DS]) == (0x345678, 0xABCD, 0x93)
    m.set_gdt(0x60, descriptor(0x1000, 0x67, 0x89))
    assert m.attempt(bytes.fromhex("0f00d8")).cause == "TSS_TYPE"  # LTR
    assert m.attempt(bytes.fromhex("0f02d8")) is None  # LAR BX,AX
    assert not m["zf"]


@pytest.mark.parametrize(("model", "value"), [(3, 0x11), (6, None)])
def test_cr0_of_the_80386_has_no_nw(model: int, value: int | None) -> None:
    m = old(model)
    m.gpr32[0] = 0x20000011  # NW without CD
    fault = m.attempt(bytes.fromhex("0f22c0"))
    if value is None:
        assert fault.cause == "NW_WITHOUT_CD"
    else:
        assert (fault, m.cr0) == (None, value)
