"""Far JMP, CALL and RET, each case against the manual's pseudocode (SDM vol. 2)."""

from __future__ import annotations

import pytest
from system_machine import CS, DS, ES, FS, GDT, GS, SS, TSS, System, descriptor, gate

TSF, NP, SSF, GP = 10, 11, 12, 13

#: What the tests put into GDT entry 40h.
TARGETS = {
    "code0": descriptor(0, 0xFFFFF, 0x9A, 0xC),
    "code0-16": descriptor(0x100, 0xFFF, 0x9A),
    "code1": descriptor(0, 0xFFFFF, 0xBA, 0xC),
    "code3": descriptor(0, 0xFFFFF, 0xFA, 0xC),
    "conforming0": descriptor(0, 0xFFFFF, 0x9E, 0xC),
    "conforming3": descriptor(0, 0xFFFFF, 0xFE, 0xC),
    "small0": descriptor(0, 0x1FF, 0x9A, 0x4),
    "absent0": descriptor(0, 0xFFFFF, 0x1A, 0xC),
    "absent3": descriptor(0, 0xFFFFF, 0x7A, 0xC),
    "data0": descriptor(0, 0xFFFFF, 0x92, 0xC),
    "ldt": descriptor(0, 0xFF, 0x82),
    "int-gate": gate(0x08, 0x100, 0x8E),
    "busy-tss": descriptor(0x3800, 0x67, 0x8B),
    "gate-absent": gate(0x08, 0x100, 0x0C),
    "gate-null": gate(0, 0x100, 0x8C),
    "gate-data": gate(0x10, 0x100, 0x8C),
    "gate-beyond": gate(0x208, 0x100, 0x8C),
    "gate-code3": gate(0x1B, 0x100, 0x8C),
}


def far(opcode: int, selector: int, offset: int) -> bytes:
    """Return EA or 9A with a 16:32 pointer."""
    return bytes((opcode,)) + offset.to_bytes(4, "little") + selector.to_bytes(2, "little")


JMP, CALL = 0xEA, 0x9A


@pytest.mark.parametrize("opcode", [JMP, CALL])
@pytest.mark.parametrize(
    ("cpl", "entry", "selector", "offset", "vector", "error", "cause"),
    [
        (0, "code0", 0, 0x100, GP, 0, "CS_SELECTOR_NULL"),
        (0, "code0", 0x200, 0x100, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
        (0, "data0", 0x40, 0x100, GP, 0x40, "NOT_CODE"),
        (0, "ldt", 0x40, 0x100, GP, 0x40, "DESCRIPTOR_TYPE"),
        (0, "int-gate", 0x40, 0x100, GP, 0x40, "DESCRIPTOR_TYPE"),
        (0, "code0", 0x41, 0x100, GP, 0x40, "CODE_RPL"),
        (0, "code3", 0x40, 0x100, GP, 0x40, "CODE_DPL"),
        (3, "code0", 0x40, 0x100, GP, 0x40, "CODE_DPL"),
        (0, "conforming3", 0x40, 0x100, GP, 0x40, "CODE_DPL"),
        (0, "absent0", 0x40, 0x100, NP, 0x40, "SEGMENT_NOT_PRESENT"),
        (0, "absent3", 0x40, 0x100, GP, 0x40, "CODE_DPL"),
        (0, "small0", 0x40, 0x200, GP, 0, "CS_LIMIT"),
        (0, "busy-tss", 0x40, 0, GP, 0x40, "TSS_TYPE"),
        (0, "gate-absent", 0x40, 0, NP, 0x40, "GATE_NOT_PRESENT"),
        (0, "gate-absent", 0x43, 0, GP, 0x40, "GATE_DPL"),
        (0, "gate-null", 0x40, 0, GP, 0, "GATE_SELECTOR_NULL"),
        (0, "gate-data", 0x40, 0, GP, 0x10, "NOT_CODE"),
        (0, "gate-beyond", 0x40, 0, GP, 0x208, "DESCRIPTOR_TABLE_LIMIT"),
        (0, "gate-code3", 0x40, 0, GP, 0x18, "CODE_DPL"),
        (3, "gate-absent", 0x43, 0, GP, 0x40, "GATE_DPL"),
    ],
)
def test_refused(opcode, cpl, entry, selector, offset, vector, error, cause):
    machine = System()
    if cpl:
        machine.ring3()
    machine.set_gdt(0x40, TARGETS[entry])
    eip, esp, memory = machine.eip, machine.esp, bytes(machine.memory)
    fault = machine.attempt(far(opcode, selector, offset))
    assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
    assert (machine.eip, machine.esp, machine.seg.selector[CS]) == (eip, esp, 0x1B if cpl else 0x08)
    if cause == "CS_LIMIT" and opcode == CALL:  # what it has pushed stays (tests/isa/test_vendors.py)
        memory = memory[: esp - 8] + bytes.fromhex("07800000 08000000") + memory[esp:]
    assert bytes(machine.memory) == memory


@pytest.mark.parametrize("opcode", [JMP, CALL])
@pytest.mark.parametrize(
    ("cpl", "entry", "selector", "loaded"),
    [
        (0, "code0", 0x40, 0x40),
        (3, "code3", 0x40, 0x43),
        (3, "code3", 0x43, 0x43),
        (3, "conforming0", 0x40, 0x43),
        (0, "conforming0", 0x43, 0x40),
        (3, "conforming3", 0x42, 0x43),
    ],
)
def test_same_level(opcode, cpl, entry, selector, loaded):
    """CS.RPL becomes CPL, a conforming segment keeps CPL (SDM vol. 3A, 5.8.1.2)."""
    machine = System()
    if cpl:
        machine.ring3()
    machine.set_gdt(0x40, TARGETS[entry])
    old_cs, old_esp = machine.seg.selector[CS], machine.esp
    assert machine.attempt(far(opcode, selector, 0x123456)) is None
    assert (machine.seg.selector[CS], machine.eip, machine.cpl) == (loaded, 0x123456, cpl)
    assert machine.seg.attributes[CS] == TARGETS[entry] >> 40 & 0xF0FF | 1
    assert machine.at(GDT + 0x45, 1) & 1
    assert machine.ended == ("checkpoint",)
    if opcode == CALL:
        assert machine.esp == old_esp - 8
        assert machine.stack(2) == [0x8007, old_cs]
    else:
        assert machine.esp == old_esp


def test_16_bit_operand_size_pushes_words_and_masks_the_target():
    machine = System()
    machine.set_gdt(0x40, TARGETS["code0-16"])
    assert machine.attempt(b"\x66\x9a\x34\x02\x40\x00") is None
    assert (machine.eip, machine.seg.base[CS]) == (0x234, 0x100)
    assert machine.esp == 0x6FFC
    assert machine.stack(2, 2) == [0x8006, 0x08]


def test_far_jump_through_memory():
    machine = System()
    machine.set_gdt(0x40, TARGETS["code0"])
    machine.put(0x500, 0x40_00000777, 6)
    assert machine.attempt(b"\xff\x2d\x00\x05\x00\x00") is None
    assert (machine.seg.selector[CS], machine.eip) == (0x40, 0x777)


class TestRealMode:
    def test_jump_keeps_limit_and_rights(self):
        machine = System().real_mode()
        machine.load(CS, 0x10, 0x5000, 0xFFFFFFFF, 0x809B)
        assert machine.attempt(b"\xea\x34\x12\x00\xf0") is None
        s = machine.seg
        assert (s.selector[CS], s.base[CS], s.limit[CS], s.attributes[CS]) == (0xF000, 0xF0000, 0xFFFFFFFF, 0x809B)
        assert (machine.eip, machine.cpl) == (0x1234, 0)

    def test_call_and_return(self):
        machine = System().real_mode()
        machine.load(CS, 0x100, 0x1000, 0xFFFF, 0x9B)
        assert machine.attempt(b"\x9a\x34\x12\x00\xf0") is None
        assert machine.stack(2, 2) == [0x8005, 0x100]
        assert machine.attempt(b"\xca\x02\x00") is None
        assert (machine.seg.base[CS], machine.eip, machine.esp) == (0x1000, 0x8005, 0x7002)

    def test_32_bit_operand_size(self):
        machine = System().real_mode()
        assert machine.attempt(b"\x66\x9a\x34\x12\x00\x00\x00\xf0") is None
        assert machine.stack(2) == [0x8008, 0]
        assert machine.attempt(b"\x66\xcb") is None
        assert (machine.eip, machine.esp) == (0x8008, 0x7000)

    @pytest.mark.parametrize("code", [b"\x66\xea\x00\x00\x01\x00\x00\xf0", b"\x66\x9a\x00\x00\x01\x00\x00\xf0"])
    def test_target_beyond_the_limit(self, code):
        machine = System().real_mode()
        fault = machine.attempt(code)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0, "CS_LIMIT")
        assert (machine.esp, machine.eip) == (0x7000, 0x8000)

    def test_push_wraps_at_64_kib(self):
        machine = System().real_mode()
        machine.gpr32[4] = 0xABCD0002
        assert machine.attempt(b"\x9a\x34\x12\x00\xf0") is None
        assert machine.esp == 0xABCDFFFE
        assert (machine.at(0, 2), machine.at(0xFFFE, 2)) == (0, 0x8005)

    def test_stack_limit(self):
        machine = System().real_mode()
        machine.load(SS, 0, 0, 0x6FFD, 0x93)
        fault = machine.attempt(b"\x9a\x34\x12\x00\xf0")
        assert (fault.vector, fault.error, fault.cause) == (SSF, 0, "SS_LIMIT")
        assert machine.esp == 0x7000

    def test_pe_set_first_far_jump_uses_descriptors(self):
        """SDM vol. 3A, 9.9.1: MOV CR0 leaves CS alone, the far jump loads it by protected-mode rules."""
        machine = System().real_mode()
        machine.load(CS, 0x0003, 0x30, 0xFFFF, 0x9B)
        machine.gpr32[0] = 0x60000011
        assert machine.attempt(b"\x0f\x22\xc0") is None
        assert (machine.cpl, machine.seg.selector[CS], machine.seg.base[CS]) == (0, 3, 0x30)
        assert machine.attempt(b"\xea\x7f\x00\x08\x00") is None
        assert (machine.seg.selector[CS], machine.seg.base[CS], machine.seg.limit[CS]) == (8, 0, 0xFFFFFFFF)
        assert (machine.eip, machine.cpl, machine.seg.attributes[CS]) == (0x7F, 0, 0xC09B)

    def test_virtual_8086_jump(self):
        machine = System().vm86()
        assert machine.attempt(b"\xea\x34\x12\x00\xf0") is None
        s = machine.seg
        assert (s.selector[CS], s.base[CS], s.limit[CS], s.attributes[CS]) == (0xF000, 0xF0000, 0xFFFF, 0xF3)
        assert machine.cpl == 3


def gated(level: int = 0, count: int = 0, kind: int = 0xEC, offset: int = 0x12345678) -> System:
    """Return a level-3 machine with a call gate at 48h to code of ``level`` at 40h, DPL 3."""
    machine = System().ring3()
    machine.set_gdt(0x40, TARGETS["code1" if level == 1 else "code0"])
    machine.set_gdt(0x48, descriptor(0x100, 0xFFFF, 0xB2, 0x4))
    machine.set_gdt(0x50, gate(0x43, offset, kind, count))
    return machine


CALL_GATE, JMP_GATE = far(CALL, 0x53, 0), far(JMP, 0x53, 0)


class TestCallGate:
    def test_to_an_inner_level_with_parameters(self):
        """SDM vol. 3A, 5.8.5 and figure 5-13."""
        machine = gated(count=3)
        for i in range(3):
            machine.put(0x7000 + 4 * i, 0x11111111 * (i + 1), 4)
        assert machine.attempt(CALL_GATE) is None
        assert (machine.cpl, machine.seg.selector[CS], machine.eip) == (0, 0x40, 0x12345678)
        assert machine.seg.selector[SS] == 0x10
        assert machine.esp == 0x6000 - 7 * 4
        assert machine.stack(7) == [0x8007, 0x1B, 0x11111111, 0x22222222, 0x33333333, 0x7000, 0x23]

    def test_16_bit_gate(self):
        machine = gated(count=1, kind=0xE4, offset=0xFFFF1234)
        machine.put(0x7000, 0xABCD1234, 4)
        assert machine.attempt(CALL_GATE) is None
        assert machine.eip == 0x1234
        assert machine.esp == 0x6000 - 5 * 2
        assert machine.stack(5, 2) == [0x8007, 0x1B, 0x1234, 0x7000, 0x23]

    def test_level_1_stack_with_a_base(self):
        machine = gated(level=1)
        machine.set_gdt(0x40, TARGETS["code1"])
        assert machine.attempt(CALL_GATE) is None
        assert (machine.cpl, machine.seg.selector[CS], machine.seg.selector[SS]) == (1, 0x41, 0x49)
        assert machine.esp == 0x5C00 - 16
        assert machine.stack(4) == [0x8007, 0x1B, 0x7000, 0x23]

    def test_conforming_target_stays_on_its_stack(self):
        machine = gated()
        machine.set_gdt(0x40, TARGETS["conforming0"])
        assert machine.attempt(CALL_GATE) is None
        assert (machine.cpl, machine.seg.selector[CS], machine.esp) == (3, 0x43, 0x7000 - 8)

    def test_jump_may_not_change_level(self):
        machine = gated()
        fault = machine.attempt(JMP_GATE)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0x40, "CODE_DPL")

    def test_jump_at_the_same_level(self):
        machine = gated()
        machine.set_gdt(0x40, TARGETS["code3"])
        assert machine.attempt(JMP_GATE) is None
        assert (machine.cpl, machine.seg.selector[CS], machine.eip, machine.esp) == (3, 0x43, 0x12345678, 0x7000)

    @pytest.mark.parametrize(
        ("what", "vector", "error", "cause"),
        [
            ("tss-limit", TSF, 0x30, "TSS_LIMIT"),
            ("null", TSF, 0, "SS_SELECTOR_NULL"),
            ("beyond", TSF, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            ("rpl", TSF, 0x10, "SS_RPL"),
            ("dpl", TSF, 0x20, "SS_DPL"),
            ("read-only", TSF, 0x58, "SS_NOT_WRITABLE"),
            ("absent", SSF, 0x58, "SS_NOT_PRESENT"),
            ("room", SSF, 0x58, "SS_LIMIT"),
            ("old-stack", SSF, 0, "SS_LIMIT"),
        ],
    )
    def test_inner_stack_faults(self, what, vector, error, cause):
        """SDM vol. 2, CALL: everything about the new stack is #TS, but not present and no room #SS(selector)."""
        machine = gated(count=2)
        stack = {"null": 3, "beyond": 0x200, "rpl": 0x11, "dpl": 0x20}.get(what, 0x10)
        if what == "tss-limit":
            machine.seg.limit[7] = 8
        elif what in ("read-only", "absent", "room"):
            stack = 0x58
            access = {"read-only": 0x90, "absent": 0x12, "room": 0x92}[what]
            machine.set_gdt(0x58, descriptor(0, 0x5FFA, access, 0x4))
        elif what == "old-stack":
            machine.load(SS, 0x23, 0, 0x7003, 0xF3)
        machine.put(TSS + 8, stack, 2)
        memory = bytes(machine.memory)
        fault = machine.attempt(CALL_GATE)
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert (machine.cpl, machine.esp, machine.seg.selector[SS]) == (3, 0x7000, 0x23)
        assert bytes(machine.memory) == memory

    @pytest.mark.parametrize(
        ("limit", "esp", "flags", "access", "fits"),
        [
            (0x5FFF, 0x6000, 0x4, 0x92, True),
            (0x5FFE, 0x6000, 0x4, 0x92, False),
            # expand-down: 24 bytes below 6000h begin at 5FE8h
            (0x5FE7, 0x6000, 0x4, 0x96, True),
            (0x5FE8, 0x6000, 0x4, 0x96, False),
            # from 0 down wraps to the top
            (0xFFFFF, 0, 0xC, 0x92, True),
            (0xFFFF, 0, 0x0, 0x92, True),
            (0xFFFE, 0, 0x0, 0x92, False),
            (0xFFFF, 2, 0x0, 0x92, False),
        ],
    )
    def test_room(self, limit, esp, flags, access, fits):
        """Two parameters and four words; the stack itself is not touched when they do not fit."""
        machine = gated(count=2)
        machine.memory.extend(bytes(0x10000))
        machine.set_gdt(0x58, descriptor(0x10000 if esp < 4 else 0, limit, access, flags))
        machine.put(TSS + 8, 0x58, 2)
        machine.put(TSS + 4, esp, 4)
        if limit == 0xFFFFF:
            # Only the check is of interest: there is no memory there.
            machine.any_store_system = lambda *_: None
            machine.any_store = lambda *_: None
        fault = machine.attempt(CALL_GATE)
        assert (None if fault is None else (fault.vector, fault.error)) == (None if fits else (SSF, 0x58))

    def test_room_exactly(self):
        machine = gated(count=2)
        machine.set_gdt(0x58, descriptor(0, 0x5FFF, 0x92, 0x4))
        machine.put(TSS + 8, 0x58, 2)
        assert machine.attempt(CALL_GATE) is None
        assert machine.stack(6)[:2] == [0x8007, 0x1B]

    def test_16_bit_tss(self):
        machine = gated()
        machine.seg.attributes[7] = 0x83
        machine.put(TSS + 2, 0x5000, 2)
        machine.put(TSS + 4, 0x10, 2)
        assert machine.attempt(CALL_GATE) is None
        assert (machine.esp, machine.seg.selector[SS]) == (0x5000 - 16, 0x10)

    @pytest.mark.parametrize(("limit", "fits"), [(5, True), (4, False)])
    def test_16_bit_tss_limit(self, limit, fits):
        machine = gated()
        machine.load(7, 0x30, TSS, limit, 0x83)
        machine.put(TSS + 2, 0x5000, 2)
        machine.put(TSS + 4, 0x10, 2)
        fault = machine.attempt(CALL_GATE)
        assert (None if fault is None else (fault.vector, fault.error)) == (None if fits else (TSF, 0x30))

    def test_16_bit_stack_keeps_the_upper_half_of_esp(self):
        machine = gated()
        machine.set_gdt(0x58, descriptor(0, 0xFFFF, 0x92))
        machine.put(TSS + 8, 0x58, 2)
        machine.put(TSS + 4, 0x99996000, 4)
        machine.gpr32[4] = 0x00017000
        assert machine.attempt(CALL_GATE) is None
        assert machine.esp == 0x00016000 - 16


RETF, RETF_8 = b"\xcb", b"\xca\x08\x00"


def returning(eip: int, cs: int, *more: int, cpl: int = 0) -> System:
    """Return a machine with a far-return frame on top of its stack."""
    machine = System()
    if cpl:
        machine.ring3()
    for i, value in enumerate((eip, cs, *more)):
        machine.put(0x7000 + 4 * i, value, 4)
    return machine


class TestReturn:
    def test_same_level(self):
        machine = returning(0x1234, 0xFFFF0008)
        assert machine.attempt(RETF_8) is None
        assert (machine.seg.selector[CS], machine.eip, machine.esp) == (8, 0x1234, 0x7010)

    def test_outer_level(self):
        """Parameters are dropped from both stacks, inaccessible segments become null (SDM vol. 2, RET)."""
        machine = returning(0x1234, 0x1B, 1, 2, 0x9000, 0x23)
        machine.load(ES, 0x23, 0, 0xFFFFFFFF, 0xC0F3)
        machine.load(FS, 0x40, 0, 0xFFF, 0x9F)
        machine.load(GS, 0x40, 0, 0xFFF, 0x9B)
        assert machine.attempt(RETF_8) is None
        s = machine.seg
        assert (machine.cpl, s.selector[CS], machine.eip) == (3, 0x1B, 0x1234)
        assert (s.selector[SS], machine.esp, s.attributes[SS]) == (0x23, 0x9008, 0xC0F3)
        assert (s.selector[DS], s.unusable[DS]) == (0, 1)
        assert (s.selector[ES], s.unusable[ES]) == (0x23, 0)
        assert (s.selector[FS], s.unusable[FS]) == (0x40, 0)
        assert (s.selector[GS], s.unusable[GS]) == (0, 1)

    @pytest.mark.parametrize(
        ("cpl", "cs", "ss", "vector", "error", "cause"),
        [
            (0, 0, 0x23, GP, 0, "CS_SELECTOR_NULL"),
            (0, 0x200, 0x23, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            (0, 0x10, 0x23, GP, 0x10, "NOT_CODE"),
            (3, 0x08, 0x23, GP, 0x08, "RETURN_TO_INNER"),
            (0, 0x18, 0x23, GP, 0x18, "CODE_DPL"),
            (0, 0x0B, 0x23, GP, 0x08, "CODE_DPL"),
            (0, 0x43, 0x23, NP, 0x40, "SEGMENT_NOT_PRESENT"),
            (0, 0x1B, 0, GP, 0, "SS_SELECTOR_NULL"),
            (0, 0x1B, 0x200, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            (0, 0x1B, 0x20, GP, 0x20, "SS_RPL"),
            (0, 0x1B, 0x1B, GP, 0x18, "SS_NOT_WRITABLE"),
            (0, 0x1B, 0x13, GP, 0x10, "SS_DPL"),
            (0, 0x1B, 0x4B, SSF, 0x48, "SS_NOT_PRESENT"),
            (0, 0x53, 0x23, GP, 0, "CS_LIMIT"),
        ],
    )
    def test_refused(self, cpl, cs, ss, vector, error, cause):
        machine = returning(0x1234, cs, 0x9000, ss, cpl=cpl)
        machine.set_gdt(0x40, TARGETS["absent3"])
        machine.set_gdt(0x48, descriptor(0, 0xFFFFF, 0x72, 0xC))
        machine.set_gdt(0x50, descriptor(0, 0xFF, 0xFA, 0x4))
        fault = machine.attempt(RETF)
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert (machine.cpl, machine.esp, machine.eip) == (cpl, 0x7000, 0x8000)

    def test_conforming_code_of_the_level_or_an_inner_one(self):
        machine = returning(0x1234, 0x43, 0x9000, 0x23)
        machine.set_gdt(0x40, TARGETS["conforming0"])
        assert machine.attempt(RETF) is None
        assert (machine.cpl, machine.seg.selector[CS]) == (3, 0x43)

    def test_stack_limit(self):
        machine = returning(0x1234, 8)
        machine.load(SS, 0x10, 0, 0x7004, 0x4093)
        fault = machine.attempt(RETF)
        assert (fault.vector, fault.error, fault.cause) == (SSF, 0, "SS_LIMIT")

    @pytest.mark.parametrize(("vendor", "vector"), [(0, GP), (1, SSF)])
    def test_what_is_checked_first(self, vendor, vector):
        """AMD's parts pop all of the outer frame before they look at CS (recorded on hardware)."""
        machine = returning(0x1234, 0x10, cpl=3)
        machine.vendor = vendor
        machine.load(SS, 0x23, 0, 0x7007, 0x40F3)
        assert machine.attempt(RETF).vector == vector

    def test_gate_and_back(self):
        """CALL through a gate and RETF undo each other."""
        machine = gated(count=2)
        assert machine.attempt(CALL_GATE) is None
        assert machine.attempt(RETF_8) is None
        assert (machine.cpl, machine.eip, machine.esp, machine.seg.selector[SS]) == (3, 0x8007, 0x7008, 0x23)
