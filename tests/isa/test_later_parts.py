"""Small instructions of later parts that CPUID announces: INVPCID RDPID SERIALIZE MOVDIRI CLWB, transactions, CPUID."""

from __future__ import annotations

import random

import pytest
from encode import encode
from machine import Machine, Unsupported, execute, fails, forms
from system_machine import System

from dm.isa import features
from dm.isa.insn import Variant
from dm.isa.map.coverage import form_name
from dm.isa.map.forms import Row

ALL = (1 << 64) - 1
UD, GP = 6, 13
AT = 0x1000


def able(*, code32: bool = False) -> Machine:
    m = Machine()
    m.code32 = code32
    m.features = m.more_features = ALL
    return m


def every(*names: str) -> list[object]:
    return [pytest.param(row, v, id=f"{row.text} {form_name(v, row)}") for row, v in forms(*names)]


def bytes_of(row: Row, variant: Variant) -> tuple[bytes, bool]:
    for code32 in (variant.osize == 32, variant.osize != 32):
        code = encode(row, variant, code32, random.Random(row.text))
        if code is not None:
            return code, code32
    raise AssertionError(row.text)


def test_rdpid() -> None:
    m = able()
    m.tsc_aux = 0x1_2345_6789
    execute("f30fc7fb ; rdpid ebx", {"ebx": 1}, {"ebx": 0x23456789}, m)
    execute("66f30fc7f9 ; rdpid ecx", {"ecx": 1}, {"ecx": 0x23456789}, m)
    fails("f30fc7fb", UD, "NO_FEATURE")
    assert execute("0fc7fb ; rdseed bx", m=able(), after={"bx": 0x3210})


@pytest.mark.parametrize(("row", "variant"), every("RDPID"))
def test_rdpid_in_every_size(row: Row, variant: Variant) -> None:
    m = able(code32=variant.osize == 32)
    m.tsc_aux = 7
    execute("f30fc7fb", {"ebx": 1}, {"ebx": 7}, m)


@pytest.mark.parametrize(("row", "variant"), every("SERIALIZE", "XTEST", "XABORT"))
def test_instructions_without_operands(row: Row, variant: Variant) -> None:
    code, code32 = ((row.prefix == "NP" and "0f01") or "") and bytes([0x0F, 1, row.third]), variant.osize == 32
    code = code or bytes([row.opcode, row.third, 0x55])
    m = execute(code.hex(), {"cf": 1, "zf": 0, "of": 1} if row.mnemonic == "XTEST" else {}, m=able(code32=code32))
    if row.mnemonic == "SERIALIZE":
        assert m.log == [("fence",)]
    if row.mnemonic == "XTEST":
        assert [m[f] for f in ("zf", "cf", "of", "sf", "pf", "af")] == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("row", "variant"), every("CLAC", "STAC"))
def test_ac_in_every_size(row: Row, variant: Variant) -> None:
    wanted = int(row.mnemonic == "STAC")
    m = execute(bytes([0x0F, 1, row.third]).hex(), {"ac": 1 - wanted}, {"ac": wanted}, able(code32=variant.osize == 32))
    assert m["ac"] == wanted


@pytest.mark.parametrize(("row", "variant"), every("XBEGIN"))
def test_every_transaction_is_aborted_at_once(row: Row, variant: Variant) -> None:
    code32 = variant.osize == 32
    distance = (0x10).to_bytes(variant.osize // 8, "little")
    length = 2 + len(distance)
    execute("c7f8" + distance.hex(), {"eax": 5}, {"eax": 0, "eip": 0x8010 + length}, able(code32=code32))
    m = able(code32=code32)
    m.seg.limit[1] = 0x8000 + length
    fails("c7f8" + distance.hex(), GP, "CS_LIMIT", {"eax": 5}, m)
    fails("c7f8" + distance.hex(), UD, "NO_FEATURE")


def test_xend_outside_a_transaction() -> None:
    fails("0f01d5", GP, "NO_TRANSACTION", m=able())
    m = able(code32=True)
    fails("0f01d5", GP, "NO_TRANSACTION", m=m)


@pytest.mark.parametrize(("row", "variant"), every("MOVDIRI"))
def test_movdiri_stores_a_doubleword(row: Row, variant: Variant) -> None:
    m = able(code32=variant.osize == 32)
    wide = variant.asize == 32
    prefix = b"\x67" if wide != m.code32 else b""
    code = prefix + b"\x0f\x38\xf9" + (bytes([0x0D]) + AT.to_bytes(4, "little") if wide else bytes([0x0E, 0, 0x10]))
    execute(code.hex(), {"ecx": 0x44332211}, {AT: b"\x11\x22\x33\x44"}, m)


@pytest.mark.parametrize(("row", "variant"), every("CLWB", "CLFLUSHOPT"))
def test_lines_are_only_looked_at(row: Row, variant: Variant) -> None:
    code, code32 = bytes_of(row, variant)
    execute(code.hex(), m=able(code32=code32))
    m = able(code32=code32)
    m.seg.limit[3] = 0
    m.seg.limit[2] = 0
    with pytest.raises(Exception, match="LIMIT"):
        m.run(code)


@pytest.mark.parametrize(("row", "variant"), every("BND", "RDSSPD"))
def test_long_nops_where_nothing_is_switched_on(row: Row, variant: Variant) -> None:
    code, code32 = bytes_of(row, variant)
    execute(code.hex(), m=able(code32=code32))


@pytest.mark.parametrize(("row", "variant"), every("WRMSRNS"))
def test_wrmsrns_is_wrmsr(row: Row, variant: Variant) -> None:
    m = System()
    m.features = m.more_features = ALL
    m.code32 = True
    m.seg.attributes[1] = 0xC09B if variant.osize == 32 else 0x809B
    m.gpr32[1], m.gpr32[0], m.gpr32[2] = 0x174, 0x10, 0
    assert m.attempt(bytes.fromhex("0f01c6")) is None
    assert m.sysenter_cs == 0x10


class TestInvpcid:
    def run(self, kind: int, low: int, high: int = 0, *, cr4: int = 1 << 17) -> object:
        m = System()
        m.features = m.more_features = ALL
        m.cr4 = cr4
        m.put(AT, low, 8)
        m.put(AT + 8, high, 8)
        m.gpr32[0] = kind
        fault = m.attempt(bytes.fromhex("660f38820500100000"))
        return fault.cause if fault else m.flushed

    @pytest.mark.parametrize("kind", range(4))
    def test_every_kind_drops_all(self, kind: int) -> None:
        assert self.run(kind, 5) == 1

    def test_refusals(self) -> None:
        assert self.run(4, 0) == "INVPCID_TYPE"
        assert self.run(0, 0x1000) == "INVPCID_RESERVED"
        assert self.run(0, 1 << 63) == "INVPCID_RESERVED"
        assert self.run(0, 5, cr4=0) == "INVPCID_PCIDE"
        assert self.run(1, 5, cr4=0) == "INVPCID_PCIDE"
        assert self.run(2, 5, cr4=0) == 1
        assert self.run(0, 0, 1 << 47) == "NOT_CANONICAL"
        assert self.run(1, 0, 1 << 47) == 1
        m = System().ring3()
        m.features = m.more_features = ALL
        fault = m.attempt(bytes.fromhex("660f38820500100000"))
        assert (fault.vector, fault.cause) == (GP, "CPL_NOT_0")
        m = System().vm86()
        m.features = m.more_features = ALL
        assert m.attempt(bytes.fromhex("660f38820600100000")).cause == "VIRTUAL_8086_MODE"

    @pytest.mark.parametrize(("row", "variant"), every("INVPCID"))
    def test_every_size(self, row: Row, variant: Variant) -> None:
        m = System()
        m.features = m.more_features = ALL
        if variant.osize == 32:
            m.seg.attributes[1] = 0x809B  # the mandatory 66 makes it a 32-bit operand of 16-bit code
        code32 = variant.osize == 16
        wide = variant.asize == 32
        code = b"\x67" * (wide != code32) + b"\x66\x0f\x38\x82"
        code += b"\x05" + AT.to_bytes(4, "little") if wide else b"\x06" + AT.to_bytes(2, "little")
        m.gpr32[0] = 2
        assert m.attempt(code) is None
        assert m.flushed == 1


ROWS = {
    (0, 0): (7, 0, 0, 0), (1, 0): (1, 2, ALL >> 32, ALL >> 32), (7, 0): (0, 0, ALL >> 32, 0),
    (0x80000000, 0): (0x80000001, 0, 0, 0), (0x80000001, 0): (0, 0, 0, ALL >> 32),
}  # fmt: skip


class TestCpuid:
    OSXSAVE, OSPKE, APIC = 1 << 27, 1 << 4, 1 << 9

    def ask(self, leaf: int, **cells: int) -> tuple[int, int]:
        m = System()
        m.cpuid = ROWS
        for name, value in {"apic_base": 0x800, **cells}.items():
            setattr(m, name, value)
        m.gpr32[0], m.gpr32[1] = leaf, 0
        assert m.attempt(bytes.fromhex("0fa2")) is None
        return m.gpr32[1], m.gpr32[2]

    def test_osxsave_and_ospke_follow_cr4(self) -> None:
        assert not self.ask(1)[0] & self.OSXSAVE
        assert self.ask(1, cr4=1 << 18)[0] & self.OSXSAVE
        assert not self.ask(7)[0] & self.OSPKE
        assert self.ask(7, cr4=1 << 22)[0] & self.OSPKE

    def test_the_apic_bit_follows_its_enable_bit(self) -> None:
        assert self.ask(1)[1] & self.APIC
        assert not self.ask(1, apic_base=0)[1] & self.APIC
        assert self.ask(0x80000001, apic_base=0)[1] & self.APIC  # reserved, on an Intel part
        assert not self.ask(0x80000001, apic_base=0, vendor=1)[1] & self.APIC
        assert self.ask(0x80000001, vendor=1)[1] & self.APIC

    def test_beyond_the_last_leaf(self) -> None:
        assert self.ask(0x12345, cr4=1 << 22) == self.ask(7, cr4=1 << 22)
        assert self.ask(0x12345, vendor=1) == (0, 0)
        assert self.ask(0x40000000) == (0, 0)

    def test_sizes_that_depend_on_xcr0_are_the_hypervisors(self) -> None:
        m = System()
        m.cpuid = {**ROWS, (0, 0): (0xD, 0, 0, 0), (0xD, 0): (1, 2, 3, 4), (0xD, 2): (5, 6, 7, 8)}
        m.gpr32[0], m.gpr32[1] = 0xD, 0
        assert m.attempt(bytes.fromhex("0fa2")) is None
        assert m.gpr32[3] == 2
        m.cr4 = 1 << 18
        m.gpr32[0], m.gpr32[1] = 0xD, 2
        assert m.attempt(bytes.fromhex("0fa2")) is None
        m.gpr32[0], m.gpr32[1] = 0xD, 0
        with pytest.raises(Unsupported, match="CPUID_XSAVE_SIZE"):
            m.attempt(bytes.fromhex("0fa2"))


class TestControl:
    def cr0(self, value: int, **cells: int) -> str | int:
        m = System()
        for name, content in cells.items():
            setattr(m, name, content)
        m.gpr32[0] = value
        fault = m.attempt(bytes.fromhex("0f22c0"))
        return fault.cause if fault else m.cr0

    def test_paging_stays_on_under_pcide(self) -> None:
        """SDM vol. 3A, 4.10.1."""
        long_ = {"cr0": 0x80000011, "cr4": 1 << 17 | 1 << 5, "efer": 0x500}
        assert self.cr0(0x11, **long_) == "PG_CLEARED_WITH_PCIDE"
        assert self.cr0(0x11, **{**long_, "cr4": 1 << 5}) == 0x11

    @pytest.mark.parametrize(
        ("bit", "feature"), [(12, "la57"), (19, "kl"), (23, "cet_ss"), (23, "cet_ibt"), (24, "pks"), (25, "uintr")]
    )
    def test_cr4_bits_that_are_announced_leave(self, bit: int, feature: str) -> None:
        number = list(features.TABLE).index(feature)
        m = System()
        m.gpr32[0] = 1 << bit
        assert m.attempt(bytes.fromhex("0f22e0")).cause == "CR4_RESERVED"
        m.features, m.more_features = m.features | (1 << number & ALL), 1 << number >> 64
        with pytest.raises(Unsupported, match="CR4_EXTENSION"):
            m.attempt(bytes.fromhex("0f22e0"))

    @pytest.mark.parametrize(("bit", "feature"), [(12, "svm"), (14, "ffxsr"), (15, "tce")])
    def test_efer_bits_follow_cpuid(self, bit: int, feature: str) -> None:
        for announced in (False, True):
            number = list(features.TABLE).index(feature)
            m = System()
            m.features |= 1 << list(features.TABLE).index("nx")
            m.more_features = (1 << number >> 64) * announced
            m.gpr32[1], m.gpr32[0], m.gpr32[2] = 0xC0000080, 1 << bit, 0
            fault = m.attempt(bytes.fromhex("0f30"))
            assert (fault is None) == announced
            assert m.efer == (1 << bit) * announced

    def test_mtrrcap(self) -> None:
        """SDM vol. 3A, 12.11.1: eight variable ranges, fixed ranges, write-combining; read-only."""
        m = System()
        m.gpr32[1] = 0xFE
        assert m.attempt(bytes.fromhex("0f32")) is None
        assert (m.gpr32[0], m.gpr32[2]) == (0x508, 0)
        assert m.attempt(bytes.fromhex("0f30")).cause == "MSR_READ_ONLY"
        m.features &= ~(1 << list(features.TABLE).index("mtrr"))
        assert m.attempt(bytes.fromhex("0f32")).cause == "NO_SUCH_MSR"
