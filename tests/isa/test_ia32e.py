"""Compatibility mode: 16-byte gates, 64-bit frames, ways into 64-bit code (SDM vol. 2 and 3A)."""

from __future__ import annotations

import pytest
from machine import Unsupported
from system_machine import CS, DS, GDT, IDT, LDT, SS, TSS, System, descriptor, gate

UD, TSF, NP, SSF, GP = 6, 10, 11, 12, 13
IF, TF, NT, RF, VM = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17
CODE64, CODE64_3, CODE64_CONFORMING, GATE, SYSTEM = 0x80, 0x88, 0x90, 0xA0, 0xB0
INT_21, IRET, RETF = b"\xcd\x21", b"\xcf", b"\xcb"
JMP, CALL = 0xEA, 0x9A
LDTR, TR = 6, 7


def far(opcode: int, selector: int, offset: int) -> bytes:
    return bytes([opcode]) + offset.to_bytes(4, "little") + selector.to_bytes(2, "little")


class Long(System):
    """IA-32e mode (paging left out): 64-bit IDT of 256 gates, 64-bit TSS, code segments for 64 bits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.efer = 1 << 10 | 1 << 8
        self.idtr_limit = 0xFFF
        self.set_gdt(CODE64, descriptor(0, 0, 0x9A, 2))
        self.set_gdt(CODE64_3, descriptor(0, 0, 0xFA, 2))
        self.set_gdt(CODE64_CONFORMING, descriptor(0, 0, 0x9E, 2))
        self.set_rsp(0, 0x6008)
        self.set_rsp(1, 0x5000)

    def set_rsp(self, level: int, value: int) -> None:
        self.put(TSS + 4 + 8 * level, value, 8)

    def set_ist(self, number: int, value: int) -> None:
        self.put(TSS + 0x1C + 8 * number, value, 8)

    def set_idt(self, vector: int, raw: int, upper: int = 0) -> None:
        self.put(IDT + 16 * vector, raw | upper << 64, 16)

    def stack64(self, count: int) -> list[int]:
        return [self.at(self.gpr64[4] + 8 * i, 8) for i in range(count)]

    def ends_in_64_bit_mode(self) -> bool:
        """Whether the run ends at this boundary."""
        with pytest.raises(Unsupported, match="CODE_64_BIT"):
            self.boundary()
        return True


class TestEvents:
    def test_int_from_level_3(self):
        """SDM vol. 3A, 6.14.2-6.14.4: five quadwords on an aligned stack, SS null."""
        m = Long().ring3()
        m.set_idt(0x21, gate(CODE64, 0x12345678, 0xEE))
        m.set_eflags(2 | IF | TF | NT | 0x8D5)
        assert m.attempt(INT_21) is None
        assert m.stack64(5) == [0x8002, 0x1B, 2 | IF | TF | NT | 0x8D5, 0x7000, 0x23]
        assert (m.cpl, m.eip, m.gpr64[4]) == (0, 0x12345678, 0x6000 - 40)
        assert (m.seg.selector[CS], m.seg.attributes[CS]) == (CODE64, 0x209B)
        assert (m.seg.selector[SS], m.seg.unusable[SS], m.seg.attributes[SS] >> 5 & 3) == (0, 1, 0)
        assert m.eflags == 2 | 0x8D5
        assert m.ends_in_64_bit_mode()

    def test_accessed_bit_of_the_code_segment(self):
        m = Long().ring3()
        m.set_idt(0x21, gate(CODE64, 0, 0xEE))
        m.attempt(INT_21)
        assert m.at(GDT + CODE64 + 5, 1) == 0x9B

    def test_error_code_and_trap_gate(self):
        m = Long().ring3()
        m.set_idt(GP, gate(CODE64, 0x400, 0x8F))
        m.set_eflags(2 | IF)
        m.handle(GP, 0x1234)
        assert m.stack64(6) == [0x1234, 0x8000, 0x1B, 2 | IF | RF, 0x7000, 0x23]
        assert m.eflags == 2 | IF

    def test_upper_half_of_rsp_is_in_the_frame(self):
        m = Long().ring3()
        m.gpr64[4] = 0xABCD_0000_7000
        m.set_idt(0x21, gate(CODE64, 0, 0xEE))
        assert m.attempt(INT_21) is None
        assert m.stack64(5)[3] == 0xABCD_0000_7000
        assert m.gpr64[4] == 0x6000 - 40

    def test_level_1(self):
        m = Long().ring3()
        m.set_gdt(0x98, descriptor(0, 0, 0xBA, 2))
        m.set_idt(0x21, gate(0x98, 0, 0xEE))
        assert m.attempt(INT_21) is None
        assert (m.cpl, m.seg.selector[CS], m.seg.selector[SS], m.gpr64[4]) == (1, 0x99, 1, 0x5000 - 40)

    @pytest.mark.parametrize("conforming", [False, True])
    def test_same_level_keeps_ss(self, conforming):
        """SDM vol. 2, INT, intra-privilege: RSP is aligned, SS:RSP pushed all the same; SS stays."""
        m = Long()
        if conforming:
            m.ring3()
        m.gpr32[4] = 0x700C
        before = m.seg.selector[SS], m.seg.base[SS], m.seg.limit[SS], m.seg.attributes[SS], m.seg.unusable[SS]
        m.set_idt(0x21, gate(CODE64_CONFORMING if conforming else CODE64, 0x900, 0xEE))
        assert m.attempt(INT_21) is None
        level = 3 if conforming else 0
        assert m.stack64(5) == [0x8002, [0x08, 0x1B][conforming], 2, 0x700C, [0x10, 0x23][conforming]]
        assert (m.cpl, m.gpr64[4], m.seg.selector[CS] & 3) == (level, 0x7000 - 40, level)
        after = m.seg.selector[SS], m.seg.base[SS], m.seg.limit[SS], m.seg.attributes[SS], m.seg.unusable[SS]
        assert before == after

    def test_the_base_and_limit_of_ss_do_not_count(self):
        m = Long()
        m.load(SS, 0x10, 0x100000, 0xFF, 0x4093)
        m.set_idt(0x21, gate(CODE64, 0x900, 0x8E))
        assert m.attempt(INT_21) is None
        assert (m.at(0x7000 - 40, 8), m.seg.base[SS], m.seg.limit[SS]) == (0x8002, 0x100000, 0xFF)

    @pytest.mark.parametrize("ring3", [False, True])
    def test_interrupt_stack_table(self, ring3):
        """SDM vol. 3A, 6.14.5: used whether the level changes or not."""
        m = Long().ring3() if ring3 else Long()
        m.set_ist(7, 0x4800)
        m.set_idt(UD, gate(CODE64, 0x900, 0x8E, count=7))
        m.handle(UD)
        assert (m.gpr64[4], m.stack64(5)[3]) == (0x4800 - 40, 0x7000)
        assert m.seg.selector[SS] == (0 if ring3 else 0x10)

    @pytest.mark.parametrize(
        ("change", "vector", "error", "cause"),
        [
            ({"limit": 0x21E}, GP, 0x10A, "IDT_LIMIT"),
            ({"access": 0xE6}, GP, 0x10A, "GATE_TYPE"),
            ({"access": 0xE5}, GP, 0x10A, "GATE_TYPE"),
            ({"access": 0xEC}, GP, 0x10A, "GATE_TYPE"),
            ({"access": 0xFE}, GP, 0x10A, "GATE_TYPE"),
            ({"access": 0xCE}, GP, 0x10A, "GATE_DPL"),
            ({"access": 0x6E}, NP, 0x10A, "GATE_NOT_PRESENT"),
            ({"selector": 3}, GP, 0, "GATE_SELECTOR_NULL"),
            ({"selector": 0x1000}, GP, 0x1000, "DESCRIPTOR_TABLE_LIMIT"),
            ({"selector": 0x10}, GP, 0x10, "NOT_CODE"),
            ({"selector": 0x08}, GP, 0x08, "NOT_64_BIT_CODE"),
            ({"code": (0x9A, 6)}, GP, CODE64, "NOT_64_BIT_CODE"),
            ({"code": (0x1A, 2)}, NP, CODE64, "SEGMENT_NOT_PRESENT"),
            ({"tss_limit": 10}, TSF, 0x30, "TSS_LIMIT"),
            ({"ist": 1, "tss_limit": 0x2A}, TSF, 0x30, "TSS_LIMIT"),
        ],
    )
    def test_refused(self, change, vector, error, cause):
        """SDM vol. 2, INT, in the manual's order; vol. 3A, 6.14.1: interrupt and trap gates of 64 bits only."""
        m = Long().ring3()
        m.idtr_limit = change.get("limit", 0xFFF)
        if "code" in change:
            m.set_gdt(CODE64, descriptor(0, 0, *change["code"]))
        m.seg.limit[TR] = change.get("tss_limit", 0x67)
        m.set_ist(1, 0x4800)
        m.set_idt(0x21, gate(change.get("selector", CODE64), 0, change.get("access", 0xEE), change.get("ist", 0)))
        fault = m.attempt(INT_21)
        assert fault is not None
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert (m.cpl, m.eip, m.gpr64[4]) == (3, 0x8000, 0x7000)

    def test_code_of_an_outer_level(self):
        m = Long()
        m.set_idt(0x21, gate(CODE64_3, 0, 0x8E))
        fault = m.attempt(INT_21)
        assert fault is not None
        assert (fault.vector, fault.error, fault.cause) == (GP, CODE64_3, "CODE_DPL")

    def test_double_fault(self):
        m = Long().ring3()
        m.set_idt(8, gate(CODE64, 0x888, 0x8E))
        m.handle(GP)
        assert (m.eip, m.stack64(2)) == (0x888, [0, 0x8000])

    @pytest.mark.parametrize("what", ["idt", "rip", "stack", "low stack", "tss", "gdt"])
    def test_what_lies_beyond_4_gib_is_left_to_the_hypervisor(self, what):
        m = Long().ring3()
        high = 0xFFFF_8000_0000_0000
        m.set_idt(0x21, gate(CODE64, 0x900, 0xEE), high >> 32 if what == "rip" else 0)
        if what == "idt":
            m.idtr_base |= high
        if what in ("stack", "low stack"):
            m.set_rsp(0, high | 0x6000 if what == "stack" else 0x20)
        if what == "tss":
            m.seg.base[TR] |= high
        if what == "gdt":
            m.gdtr_base |= high
        before = m._save()
        names = {"rip": "RIP", "stack": "STACK", "low stack": "STACK"}
        with pytest.raises(Unsupported, match=f"{names.get(what, 'TABLE')}_ABOVE_4_GIB"):
            m.attempt(INT_21)
        m._restore(m.committed[0])
        assert (m.memory, m.gpr32, m.eip) == (before["memory"], before["gpr32"], before["eip"])


class TestTransfers:
    @pytest.mark.parametrize("opcode", [JMP, CALL])
    def test_to_64_bit_code(self, opcode):
        """The limit does not count; a CALL's frame is that of its operand size (SDM vol. 2, JMP and CALL)."""
        m = Long()
        assert m.attempt(far(opcode, CODE64, 0x12345)) is None
        assert (m.seg.selector[CS], m.seg.attributes[CS], m.eip) == (CODE64, 0x209B, 0x12345)
        if opcode == CALL:
            assert m.stack(2) == [0x8007, 8]
        assert m.ends_in_64_bit_mode()

    def test_without_ia32e_mode_l_means_nothing(self):
        m = Long()
        m.efer = 0
        fault = m.attempt(far(JMP, CODE64, 0x12345))
        assert fault is not None
        assert fault.cause == "CS_LIMIT"

    @pytest.mark.parametrize("code", [far(JMP, GATE, 0), far(CALL, GATE, 0), RETF, IRET])
    def test_l_and_d(self, code):
        """SDM vol. 2, JMP, CALL, RET: #GP(selector)."""
        m = Long()
        m.set_gdt(GATE, descriptor(0, 0xFFFFF, 0x9A, 0xE))
        for i, value in enumerate((0x1000, GATE, 2)):
            m.put(0x7000 + 4 * i, value, 4)
        fault = m.attempt(code)
        assert fault is not None
        assert (fault.vector, fault.error, fault.cause) == (GP, GATE, "CODE_L_AND_D")

    @pytest.mark.parametrize("code", [RETF, IRET])
    def test_return_to_64_bit_code_of_the_same_level(self, code):
        m = Long()
        for i, value in enumerate((0x12345, CODE64, 2 | IF)):
            m.put(0x7000 + 4 * i, value, 4)
        assert m.attempt(code) is None
        assert (m.eip, m.gpr64[4], m.seg.attributes[CS]) == (0x12345, 0x700C if code == IRET else 0x7008, 0x209B)

    @pytest.mark.parametrize("code", [RETF, IRET])
    @pytest.mark.parametrize(
        ("cs", "ss", "error"),
        [
            (CODE64_3 | 3, 0x23, None),
            (0x9A, 0, None),  # level 2
            (0x9A, 1, None),
            (CODE64_3 | 3, 0, 0),
            (CODE64_3 | 3, 3, 0),
            (0x1B, 0, 0),
        ],
    )
    def test_return_to_an_outer_level(self, code, cs, ss, error):
        """SDM vol. 2, RET: a null SS is good for 64-bit code of levels 0 to 2."""
        m = Long()
        m.gpr64[4] = 0x5_0000_7000
        m.set_gdt(0x98, descriptor(0, 0, 0xDA, 2))
        frame = [0x12345, cs, *([2 | VM] if code == IRET else []), 0x8888, ss]
        for i, value in enumerate(frame):
            m.put(0x7000 + 4 * i, value, 4)
        fault = m.attempt(code)
        if error is not None:
            assert fault is not None
            assert (fault.vector, fault.error) == (GP, error)
            return
        assert fault is None
        assert (m.cpl, m.eip, m.gpr64[4], m.seg.selector[SS]) == (cs & 3, 0x12345, 0x8888, ss)
        assert m.seg.unusable[SS] == (ss & 0xFFFC == 0)
        assert m.seg.attributes[SS] >> 5 & 3 == m.cpl
        assert m.seg.unusable[DS] == 1
        assert not m.eflags & VM, "IRET ignores VM in IA-32e mode"

    def test_compatibility_mode_to_compatibility_mode(self):
        m = Long()
        for i, value in enumerate((0x1000, 0x1B, 2, 0x8888, 0x23)):
            m.put(0x7000 + 4 * i, value, 4)
        assert m.attempt(IRET) is None
        assert (m.cpl, m.eip, m.esp, m.boundary()) == (3, 0x1000, 0x8888, 0)

    @pytest.mark.parametrize("kind", ["tss", "busy tss", "286 gate", "task gate"])
    def test_no_task_switch(self, kind):
        """SDM vol. 3A, 7.7 and 5.8.3.1."""
        raw = {
            "tss": descriptor(TSS, 0x67, 0x89),
            "busy tss": descriptor(TSS, 0x67, 0x8B),
            "286 gate": gate(CODE64, 0, 0x84),
            "task gate": gate(0x38, 0, 0x85),
        }[kind]
        for opcode in (JMP, CALL):
            m = Long()
            m.set_gdt(GATE, raw)
            fault = m.attempt(far(opcode, GATE, 0))
            assert fault is not None
            assert (fault.vector, fault.error) == (GP, GATE)

    def test_iret_with_nt(self):
        m = Long()
        m.set_eflags(2 | NT)
        fault = m.attempt(IRET)
        assert fault is not None
        assert (fault.vector, fault.error, fault.cause) == (GP, 0, "NT_IN_LONG_MODE")


class TestCallGates:
    def gated(self, m: Long, selector: int = CODE64, upper: int = 0, access: int = 0xEC) -> Long:
        m.set_gdt(GATE, gate(selector, 0x12345, access))
        m.set_gdt(GATE + 8, upper)
        return m

    def test_to_an_inner_level(self):
        """SDM vol. 3A, 5.8.5.1: no parameters, four quadwords, SS null, RSP not aligned."""
        m = self.gated(Long().ring3())
        assert m.attempt(far(CALL, GATE | 3, 0)) is None
        assert m.stack64(4) == [0x8007, 0x1B, 0x7000, 0x23]
        assert (m.cpl, m.eip, m.gpr64[4], m.seg.selector[SS], m.seg.unusable[SS]) == (0, 0x12345, 0x6008 - 32, 0, 1)
        assert m.ends_in_64_bit_mode()

    def test_to_the_same_level(self):
        m = self.gated(Long())
        assert m.attempt(far(CALL, GATE, 0)) is None
        assert (m.stack64(2), m.gpr64[4], m.seg.selector[SS], m.cpl) == ([0x8007, 8], 0x7000 - 16, 0x10, 0)
        assert (m.seg.unusable[SS], m.seg.limit[SS]) == (0, 0xFFFFFFFF)

    def test_jmp(self):
        m = self.gated(Long())
        assert m.attempt(far(JMP, GATE, 0)) is None
        assert (m.eip, m.gpr64[4], m.seg.selector[CS]) == (0x12345, 0x7000, CODE64)

    @pytest.mark.parametrize(
        ("change", "vector", "error", "cause"),
        [
            ({"upper": 1 << 40}, GP, GATE, "UPPER_TYPE"),
            ({"upper": 1 << 44}, GP, GATE, "UPPER_TYPE"),
            ({"gdt_limit": GATE + 14}, GP, GATE, "DESCRIPTOR_TABLE_LIMIT"),
            ({"access": 0xCC}, GP, GATE, "GATE_DPL"),
            ({"access": 0x6C}, NP, GATE, "GATE_NOT_PRESENT"),
            ({"selector": 0}, GP, 0, "GATE_SELECTOR_NULL"),
            ({"selector": 0x08}, GP, 0x08, "NOT_64_BIT_CODE"),
            ({"selector": 0x10}, GP, 0x10, "NOT_CODE"),
            ({"tss_limit": 10}, TSF, 0x30, "TSS_LIMIT"),
        ],
    )
    def test_refused(self, change, vector, error, cause):
        """SDM vol. 2, CALL."""
        m = self.gated(
            Long().ring3(), change.get("selector", CODE64), change.get("upper", 0), change.get("access", 0xEC)
        )
        m.gdtr_limit = change.get("gdt_limit", 0x1FF)
        m.seg.limit[TR] = change.get("tss_limit", 0x67)
        fault = m.attempt(far(CALL, GATE | 3, 0))
        assert fault is not None
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)

    def test_target_beyond_4_gib(self):
        m = self.gated(Long(), upper=1)
        with pytest.raises(Unsupported, match="RIP_ABOVE_4_GIB"):
            m.attempt(far(JMP, GATE, 0))


class TestSystemRegisters:
    def test_lldt_takes_8_bytes(self):
        """APM vol. 3, LLDT and LTR: 16 bytes in 64-bit mode only; what follows does not count here."""
        m = Long()
        m.set_gdt(SYSTEM, descriptor(0x87654321, 0xFF, 0x82))
        m.set_gdt(SYSTEM + 8, 0xFFFF_FFFF_FFFF_FFFF)
        m.gdtr_limit = SYSTEM + 7
        m.gpr32[0] = SYSTEM
        assert m.attempt(b"\x0f\x00\xd0") is None
        assert (m.seg.selector[LDTR], m.seg.base[LDTR]) == (SYSTEM, 0x87654321)
        assert (m.seg.limit[LDTR], m.seg.attributes[LDTR], m.seg.unusable[LDTR]) == (0xFF, 0x82, 0)

    def test_ltr_takes_8_bytes(self):
        m = Long()
        m.set_gdt(SYSTEM, descriptor(0x4000, 0x67, 0x89))
        m.set_gdt(SYSTEM + 8, 0xFFFF_FFFF_FFFF_FFFF)
        m.gpr32[0] = SYSTEM
        assert m.attempt(b"\x0f\x00\xd8") is None
        assert (m.seg.selector[TR], m.seg.base[TR], m.seg.attributes[TR]) == (SYSTEM, 0x4000, 0x8B)
        assert m.at(GDT + SYSTEM + 5, 1) == 0x8B

    def test_286_tss_cannot_be_loaded(self):
        m = Long()
        m.set_gdt(SYSTEM, descriptor(0, 0x67, 0x81))
        m.gpr32[0] = SYSTEM
        fault = m.attempt(b"\x0f\x00\xd8")
        assert fault is not None
        assert (fault.vector, fault.error, fault.cause) == (GP, SYSTEM, "TSS_TYPE")

    def test_local_descriptors_beyond_4_gib(self):
        m = Long()
        m.seg.base[LDTR] = LDT | 1 << 32
        m.gpr32[0] = 0x0C
        with pytest.raises(Unsupported, match="TABLE_ABOVE_4_GIB"):
            m.attempt(b"\x8e\xd8")

    def test_io_bitmap_beyond_4_gib(self):
        m = Long().ring3()
        m.seg.base[TR] |= 1 << 32
        with pytest.raises(Unsupported, match="TABLE_ABOVE_4_GIB"):
            m.attempt(b"\xe4\x10")

    def test_sysenter(self):
        """SDM vol. 2, SYSENTER: CS has L and not D; RSP and RIP are 64 bits wide."""
        m = Long().ring3()
        m.sysenter_cs, m.sysenter_esp, m.sysenter_eip = 0x40, 0xFFFF_8000_0000_1000, 0xC0001000
        assert m.attempt(b"\x0f\x34") is None
        assert (m.cpl, m.eip, m.gpr64[4]) == (0, 0xC0001000, 0xFFFF_8000_0000_1000)
        assert (m.seg.attributes[CS], m.seg.attributes[SS], m.seg.selector[SS]) == (0xA09B, 0xC093, 0x48)
        assert m.ends_in_64_bit_mode()

    def test_sysenter_to_high_code(self):
        m = Long().ring3()
        m.sysenter_cs, m.sysenter_eip = 0x40, 0xFFFF_8000_0000_1000
        with pytest.raises(Unsupported, match="RIP_ABOVE_4_GIB"):
            m.attempt(b"\x0f\x34")

    @pytest.mark.parametrize(
        ("vendor", "code"), [(1, b"\x0f\x34"), (1, b"\x0f\x35"), (0, b"\x0f\x05"), (0, b"\x0f\x07")]
    )
    def test_vendors(self, vendor, code):
        """APM vol. 3: no SYSENTER in long mode on AMD; SDM vol. 2: SYSCALL in 64-bit mode only on Intel."""
        m = Long()
        m.vendor, m.sysenter_cs = vendor, 0x40
        m.efer |= 1
        fault = m.attempt(code)
        assert fault is not None
        assert fault.vector == UD
