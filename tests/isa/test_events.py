"""Exceptions, interrupts, IRET and what happens between instructions (SDM vol. 3A, chapter 6; vol. 2, INT and IRET)."""

from __future__ import annotations

import pytest
from machine import function
from system_machine import CS, DS, ES, FS, GS, NO_EVENT, SS, TSS, System, descriptor, gate

from dm.isa.mechanisms import boundary, events
from dm.machine.state import Activity, EventType

DE, DB, NMI, OF, BR, UD, DF, TSF, NP, SSF, GP, PF = 0, 1, 2, 4, 5, 6, 8, 10, 11, 12, 13, 14

IF, TF, AC, RF, NT, VM, VIF, VIP = 1 << 9, 1 << 8, 1 << 18, 1 << 16, 1 << 14, 1 << 17, 1 << 19, 1 << 20
IOPL3 = 0x3000

INT_21, INT3, INTO, ICEBP, IRET, IRET16 = b"\xcd\x21", b"\xcc", b"\xce", b"\xf1", b"\xcf", b"\x66\xcf"

INT32, TRAP32, INT16, TRAP16 = 0x8E, 0x8F, 0x86, 0x87


def inject(machine: System, kind: EventType, vector: int, error: int | None = None, length: int = 0) -> System:
    """Put an event into ``INJECT_*`` and deliver it."""
    machine.inject_type, machine.inject_vector, machine.inject_length = kind, vector, length
    machine.inject_has_error, machine.inject_error = int(error is not None), error or 0
    return machine.deliver()


class TestRealMode:
    def test_int_and_iret(self):
        """SDM vol. 3A, 20.1.4."""
        machine = System().real_mode()
        machine.put(4 * 0x21, 0xF0001234, 4)
        machine.load(CS, 0x100, 0x1000, 0xFFFF, 0x9B)
        machine.set_eflags(0x2 | IF | TF | AC | 0x8D5)
        assert machine.attempt(INT_21) is None
        assert (machine.seg.selector[CS], machine.seg.base[CS], machine.eip) == (0xF000, 0xF0000, 0x1234)
        assert machine.stack(3, 2) == [0x8002, 0x100, 0x0BD7]
        assert machine.eflags == 0x8D7
        assert machine.attempt(IRET) is None
        assert (machine.seg.base[CS], machine.eip, machine.esp) == (0x1000, 0x8002, 0x7000)
        assert machine.eflags == 0xBD7

    def test_vectors_are_at_idtr_base(self):
        machine = System().real_mode()
        machine.idtr_base = 0x4000
        machine.put(0x4000 + 4 * 0x21, 0x12340056, 4)
        assert machine.attempt(INT_21) is None
        assert (machine.seg.base[CS], machine.eip) == (0x12340, 0x56)

    @pytest.mark.parametrize("limit", [4 * 0x21 + 2, 4 * 0x21 - 1])
    def test_beyond_the_table_is_gp(self, limit):
        machine = System().real_mode()
        machine.idtr_limit = limit
        machine.put(4 * GP, 0x00000777, 4)
        machine.go(INT_21)
        assert (machine.eip, machine.stack(1, 2)) == (0x777, [0x8000])

    @pytest.mark.parametrize(("limit", "eip"), [(4 * DF + 3, 0x888), (4 * DF + 2, None)])
    def test_gp_beyond_the_table_is_df_then_shutdown(self, limit, eip):
        machine = System().real_mode()
        machine.idtr_limit = limit
        machine.put(4 * DF, 0x888, 4)
        machine.go(INT_21)
        if eip is None:
            assert machine.activity == Activity.SHUTDOWN
            assert (machine.inject_type, machine.eip, machine.esp) == (NO_EVENT, 0x8000, 0x7000)
        else:
            assert (machine.activity, machine.eip) == (Activity.RUNNING, eip)

    def test_stack_limit(self):
        """No room for the frame: #SS, whose own delivery fails the same way, and so on to shutdown."""
        machine = System().real_mode()
        machine.load(SS, 0, 0, 0x6FFC, 0x93)
        fault = machine.attempt(INT_21)
        assert (fault.vector, fault.cause) == (SSF, "SS_LIMIT")
        assert machine.go(INT_21).activity == Activity.SHUTDOWN

    def test_no_error_code_is_pushed(self):
        machine = System().real_mode()
        machine.put(4 * GP, 0x777, 4)
        machine.handle(GP, 0)
        assert (machine.esp, machine.eip) == (0x7000 - 6, 0x777)

    def test_iretd(self):
        machine = System().real_mode()
        for i, value in enumerate((0x1234, 0x100, 0x003F7FD7)):
            machine.put(0x7000 + 4 * i, value, 4)
        assert machine.attempt(IRET16) is None
        assert (machine.eip, machine.seg.base[CS], machine.esp) == (0x1234, 0x1000, 0x700C)
        assert machine.eflags == 0x257FD7

    def test_iret_beyond_the_limit(self):
        machine = System().real_mode()
        machine.put(0x7000, 0x10000, 4)
        fault = machine.attempt(IRET16)
        assert (fault.vector, fault.cause, machine.esp) == (GP, "CS_LIMIT", 0x7000)

    def test_icebp(self):
        machine = System().real_mode()
        machine.put(4 * DB, 0x777, 4)
        assert machine.attempt(ICEBP) is None
        assert machine.boundary() == boundary.EVENT
        machine.deliver()
        assert (machine.eip, machine.stack(1, 2), machine.dr6) == (0x777, [0x8001], 0xFFFF0FF0)


def test_into_only_with_overflow():
    machine = System().real_mode()
    machine.put(4 * OF, 0x444, 4)
    assert machine.attempt(INTO) is None
    assert machine.eip == 0x8001
    machine.set_eflags(0x802)
    assert machine.attempt(INTO) is None
    assert (machine.eip, machine.stack(1, 2)) == (0x444, [0x8002])


class TestGates:
    @pytest.mark.parametrize("kind", [INT32, TRAP32])
    def test_same_level(self, kind):
        machine = System()
        machine.set_idt(0x21, gate(0x08, 0x12345678, kind))
        machine.set_eflags(2 | IF | TF | NT | IOPL3 | AC)
        assert machine.attempt(INT_21) is None
        assert (machine.eip, machine.cpl) == (0x12345678, 0)
        assert machine.stack(3) == [0x8002, 8, 2 | IF | TF | NT | IOPL3 | AC]
        assert machine.eflags == 2 | IOPL3 | AC | (IF if kind == TRAP32 else 0)

    def test_frame_goes_through_the_base_of_ss(self):
        machine = System()
        machine.load(SS, 0x40, 0x10000, 0xFFFF, 0x93)
        machine.set_idt(0x21, gate(0x08, 0x777, INT32))
        assert machine.attempt(INT_21) is None
        assert [machine.at(0x17000 - 12 + 4 * i) for i in range(3)] == [0x8002, 8, 2]

    def test_286_gate_has_no_upper_offset(self):
        machine = System()
        machine.set_idt(0x21, gate(0x08, 0xFFFF1234, INT16))
        assert machine.attempt(INT_21) is None
        assert (machine.eip, machine.esp) == (0x1234, 0x7000 - 6)
        assert machine.stack(3, 2) == [0x8002, 8, 2]

    def test_inner_level_with_error_code(self):
        machine = System().ring3()
        machine.set_idt(GP, gate(0x08, 0x777, INT32))
        machine.set_eflags(2 | IF)
        machine.handle(GP, 0x1238)
        assert (machine.cpl, machine.seg.selector[CS], machine.seg.selector[SS]) == (0, 8, 0x10)
        assert machine.stack(6) == [0x1238, 0x8000, 0x1B, 2 | IF | RF, 0x7000, 0x23]
        assert machine.esp == 0x6000 - 24
        assert machine.eflags == 2
        machine.gpr32[4] += 4
        assert machine.attempt(IRET) is None
        assert (machine.cpl, machine.eip, machine.esp, machine.seg.selector[SS]) == (3, 0x8000, 0x7000, 0x23)
        assert machine.eflags == 2 | IF | RF

    def test_16_bit_gate_to_inner_level(self):
        machine = System().ring3()
        machine.set_idt(GP, gate(0x08, 0x777, INT16))
        machine.handle(GP, 0x1238)
        assert machine.stack(6, 2) == [0x1238, 0x8000, 0x1B, 2, 0x7000, 0x23]

    def test_conforming_handler_stays(self):
        machine = System().ring3()
        machine.set_gdt(0x40, descriptor(0, 0xFFFFF, 0x9F, 0xC))
        machine.set_idt(0x21, gate(0x40, 0x777, 0xEE))
        assert machine.attempt(INT_21) is None
        assert (machine.cpl, machine.seg.selector[CS], machine.esp) == (3, 0x43, 0x7000 - 12)

    @pytest.mark.parametrize(
        ("raw", "vector", "error", "cause"),
        [
            (0, GP, 0x10A, "GATE_TYPE"),
            (gate(0x08, 0, 0x8C), GP, 0x10A, "GATE_TYPE"),
            (gate(0x08, 0, 0x9E), GP, 0x10A, "GATE_TYPE"),
            (gate(0x08, 0, 0x8E), GP, 0x10A, "GATE_DPL"),
            (gate(0x08, 0, 0x6E), NP, 0x10A, "GATE_NOT_PRESENT"),
            (gate(0, 0, 0xEE), GP, 0, "GATE_SELECTOR_NULL"),
            (gate(0x200, 0, 0xEE), GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            (gate(0x10, 0, 0xEE), GP, 0x10, "NOT_CODE"),
            (gate(0x40, 0, 0xEE), NP, 0x40, "SEGMENT_NOT_PRESENT"),
            (gate(0x48, 0x100, 0xEE), GP, 0, "CS_LIMIT"),
        ],
    )
    def test_refused(self, raw, vector, error, cause):
        """SDM vol. 2, INT: bit 1 of the error code says IDT; EXT is 0 for INT n."""
        machine = System().ring3()
        machine.set_gdt(0x40, descriptor(0, 0xFFFFF, 0x1A, 0xC))
        machine.set_gdt(0x48, descriptor(0, 0xFF, 0x9A, 0x4))
        machine.set_idt(0x21, raw)
        fault = machine.attempt(INT_21)
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert (machine.cpl, machine.esp, machine.eip) == (3, 0x7000, 0x8000)

    def test_idt_limit(self):
        machine = System()
        machine.idtr_limit = 8 * 0x21 + 6
        fault = machine.attempt(INT_21)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0x10A, "IDT_LIMIT")

    def test_handler_less_privileged(self):
        machine = System()
        machine.set_idt(0x21, gate(0x1B, 0, 0x8E))
        fault = machine.attempt(INT_21)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0x18, "CODE_DPL")

    @pytest.mark.parametrize("code", [INT3, INTO])
    def test_int3_and_into_check_the_gate(self, code):
        machine = System().ring3()
        machine.set_eflags(0x802)
        for vector in (3, 4):
            machine.set_idt(vector, gate(0x08, 0x100, 0x8E))
        fault = machine.attempt(code)
        assert (fault.vector, fault.cause) == (GP, "GATE_DPL")

    def test_icebp_does_not(self):
        machine = System().ring3()
        machine.set_idt(DB, gate(0x08, 0x100, 0x8E))
        assert machine.attempt(ICEBP) is None
        machine.deliver()
        assert (machine.cpl, machine.eip, machine.stack(1)) == (0, 0x100, [0x8001])

    @pytest.mark.parametrize(
        ("ss", "limit", "vector", "error"),
        [(0, 0xFFFF, TSF, 1), (0x200, 0xFFFF, TSF, 0x201), (0x20, 0xFFFF, TSF, 0x21), (0x40, 0x5FEB, SSF, 0x41)],
    )
    def test_external_event_sets_ext(self, ss, limit, vector, error):
        """A fault on the way to a handler of a hardware event has EXT set (SDM vol. 3A, 6.13)."""
        machine = System().ring3()
        machine.set_gdt(0x40, descriptor(0, limit, 0x92, 0x4))
        machine.put(TSS + 8, ss, 2)
        machine.set_idt(0x40, gate(0x08, 0x100, INT32))
        # The fault itself goes to a conforming handler, which needs no other stack.
        machine.set_gdt(0x48, descriptor(0, 0xFFFFF, 0x9F, 0xC))
        machine.set_idt(vector, gate(0x48, 0x777, INT32))
        inject(machine, EventType.EXTERNAL, 0x40)
        assert (machine.eip, machine.cpl) == (0x777, 3)
        assert machine.stack(2) == [error, 0x8000]


class TestDoubleFault:
    @pytest.mark.parametrize(
        ("first", "second", "outcome"),
        [
            # SDM vol. 3A, table 6-5
            (UD, GP, GP),
            (DB, PF, PF),
            (GP, UD, UD),
            (GP, PF, PF),
            (GP, NP, DF),
            (DE, GP, DF),
            (PF, PF, DF),
            (PF, GP, DF),
            (PF, UD, UD),
            (DF, GP, None),
            (DF, PF, None),
        ],
    )
    def test_combination(self, first, second, outcome):
        machine = System()
        machine.inject_type, machine.inject_vector, machine.delivering = int(EventType.EXCEPTION), first, 1
        function("raise_exception", events.raise_exception)(machine, second, 0x18, 0x1234)
        if outcome is None:
            assert (machine.activity, machine.inject_type) == (Activity.SHUTDOWN, NO_EVENT)
            return
        error = 0x19 if outcome in (GP, NP) else 0x18
        assert (machine.inject_type, machine.inject_vector) == (EventType.EXCEPTION, outcome)
        assert machine.inject_error == (0 if outcome == DF else error)
        assert machine.inject_has_error == int(outcome not in (UD, DB))
        assert machine.cr2 == (0x1234 if second == PF else 0)

    def test_software_events_are_benign(self):
        machine = System()
        machine.inject_type, machine.inject_vector, machine.delivering = int(EventType.SOFT_INT), GP, 1
        function("raise_exception", events.raise_exception)(machine, GP, 0x6A, 0)
        assert (machine.inject_vector, machine.inject_error) == (GP, 0x6A)

    @pytest.mark.parametrize(("kind", "blocked"), [(EventType.NMI, 1), (EventType.EXTERNAL, 0)])
    def test_an_nmi_that_could_not_be_delivered_blocks_nmis(self, kind, blocked):
        machine = System()
        machine.set_idt(GP, gate(0x08, 0x777, INT32))
        inject(machine, kind, NMI)
        assert (machine.eip, machine.stack(1), machine.nmi_blocked) == (0x777, [0x13], blocked)

    def test_missing_gates_go_to_the_double_fault_handler(self):
        machine = System()
        machine.set_idt(DF, gate(0x08, 0x888, INT32))
        machine.handle(DE)
        assert (machine.eip, machine.stack(2)) == (0x888, [0, 0x8000])

    def test_triple_fault(self):
        machine = System()
        machine.handle(DE)
        assert machine.activity == Activity.SHUTDOWN
        assert machine.inject_type == NO_EVENT


class TestVirtual8086:
    def test_interrupt_and_return(self):
        """SDM vol. 3A, 20.3.1.1: nine doublewords, data segments become null."""
        machine = System().vm86()
        for seg, selector in ((CS, 0x100), (SS, 0x200), (DS, 0x300), (ES, 0x400), (FS, 0x500), (GS, 0x600)):
            machine.load(seg, selector, selector << 4, 0xFFFF, 0xF3)
        machine.set_idt(0x21, gate(0x08, 0x777, 0xEE))
        assert machine.attempt(INT_21) is None
        s = machine.seg
        assert (machine.cpl, s.selector[CS], machine.eip, machine.eflags) == (0, 8, 0x777, 2 | IOPL3)
        flags_ = 2 | IOPL3 | VM
        assert machine.stack(9) == [0x8002, 0x100, flags_, 0x7000, 0x200, 0x400, 0x300, 0x500, 0x600]
        assert [s.unusable[seg] for seg in (ES, DS, FS, GS)] == [1] * 4
        assert machine.esp == 0x6000 - 36
        assert machine.attempt(IRET) is None
        assert (machine.cpl, machine.eip, machine.esp, machine.eflags) == (3, 0x8002, 0x7000, flags_)
        for seg, selector in ((CS, 0x100), (SS, 0x200), (DS, 0x300), (ES, 0x400), (FS, 0x500), (GS, 0x600)):
            assert (s.selector[seg], s.base[seg], s.limit[seg]) == (selector, selector << 4, 0xFFFF)
            assert (s.attributes[seg], s.unusable[seg]) == (0xF3, 0)

    def test_handler_must_be_level_0(self):
        machine = System().vm86()
        machine.set_gdt(0x40, descriptor(0, 0xFFFFF, 0xFF, 0xC))
        machine.set_idt(0x21, gate(0x40, 0x777, 0xEE))
        fault = machine.attempt(INT_21)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0x40, "HANDLER_NOT_LEVEL_0")

    @pytest.mark.parametrize("code", [INT_21, IRET])
    def test_iopl(self, code):
        machine = System().vm86(iopl=2)
        fault = machine.attempt(code)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0, "VM86_IOPL")

    def test_int3_ignores_iopl(self):
        machine = System().vm86(iopl=0)
        machine.set_idt(3, gate(0x08, 0x777, 0xEE))
        assert machine.attempt(INT3) is None
        assert (machine.cpl, machine.eip) == (0, 0x777)

    def test_iret_within(self):
        """IOPL 3: all of FLAGS but IOPL and VM come from the stack."""
        machine = System().vm86()
        for i, value in enumerate((0x1234, 0x100, 0x0AD7)):
            machine.put(0x7000 + 2 * i, value, 2)
        assert machine.attempt(IRET) is None
        assert (machine.eip, machine.seg.base[CS], machine.esp) == (0x1234, 0x1000, 0x7006)
        assert machine.eflags == 0x0AD7 | VM | IOPL3

    def vme(self, iopl: int, redirect: bool) -> System:
        machine = System().vm86(iopl=iopl)
        machine.cr4 = 1
        machine.seg.limit[7] = 0x2FF
        machine.put(TSS + 0x66, 0x100, 2)
        machine.memory[TSS + 0x100 - 32 : TSS + 0x100] = b"\xff" * 32
        if redirect:
            machine.put(TSS + 0x100 - 32 + 4, 0xFD, 1)
        machine.put(4 * 0x21, 0x0F001234, 4)
        machine.set_idt(0x21, gate(0x08, 0x777, 0xEE))
        return machine

    def test_redirected_with_iopl_3(self):
        """SDM vol. 3A, table 20-2, method 5."""
        machine = self.vme(3, True)
        machine.flags |= IF | TF | VIF
        assert machine.attempt(INT_21) is None
        assert (machine.cpl, machine.seg.base[CS], machine.eip) == (3, 0xF000, 0x1234)
        assert machine.stack(3, 2) == [0x8002, 0, 0x3302]
        assert machine.eflags == 2 | VM | IOPL3 | VIF

    def test_redirected_with_iopl_0(self):
        """Method 6: the image shows IOPL 3 and VIF as IF; VIF is cleared, IF stays."""
        machine = self.vme(0, True)
        machine.flags |= IF | VIF
        assert machine.attempt(INT_21) is None
        assert (machine.seg.base[CS], machine.eip) == (0xF000, 0x1234)
        assert machine.stack(3, 2) == [0x8002, 0, 0x3202]
        assert machine.eflags == 2 | VM | IF

    def test_not_redirected(self):
        assert self.vme(0, False).attempt(INT_21).cause == "VM86_IOPL"
        machine = self.vme(3, False)
        assert machine.attempt(INT_21) is None
        assert (machine.cpl, machine.eip) == (0, 0x777)

    def test_bitmap_beyond_the_tss(self):
        machine = self.vme(3, True)
        machine.seg.limit[7] = 0x100 - 32 + 3
        fault = machine.attempt(INT_21)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0, "TSS_LIMIT")

    @pytest.mark.parametrize(
        ("image", "flags_", "expected"),
        [
            (IF, VIP, None),
            (TF, 0, None),
            (IF, 0, VIF),
            (0, VIF | VIP, VIP),
            (0x3000 | NT, IF, IF | NT),
        ],
    )
    def test_vme_iret(self, image, flags_, expected):
        """SDM vol. 3A, 20.3.3.4 and vol. 2, IRET: IF goes to VIF; VIP with IF, or TF, is #GP(0)."""
        machine = System().vm86(iopl=0)
        machine.cr4 = 1
        machine.flags |= flags_
        for i, value in enumerate((0x1234, 0x100, image | 2)):
            machine.put(0x7000 + 2 * i, value, 2)
        fault = machine.attempt(IRET)
        if expected is None:
            assert (fault.vector, fault.error, fault.cause) == (GP, 0, "VME_IRET")
        else:
            assert fault is None
            assert machine.eflags == 2 | VM | expected

    def test_vme_iretd_is_refused(self):
        machine = System().vm86(iopl=0)
        machine.cr4 = 1
        assert machine.attempt(IRET16).cause == "VM86_IOPL"


def framed(*values: int, cpl: int = 0) -> System:
    machine = System()
    if cpl:
        machine.ring3()
    for i, value in enumerate(values):
        machine.put(0x7000 + 4 * i, value, 4)
    return machine


class TestIret:
    @pytest.mark.parametrize(
        ("cpl", "iopl", "code", "changed"),
        [
            # SDM vol. 2, IRET: what the old CPL and IOPL let through
            (0, 0, IRET, 0x3D7FD5),
            (0, 3, IRET, 0x3D7FD5),
            (3, 3, IRET, 0x254FD5),
            (3, 0, IRET, 0x254DD5),
        ],
    )
    def test_flags(self, cpl, iopl, code, changed):
        machine = framed(0x1234, 0x1B if cpl else 8, 0x3D7FD7 ^ iopl << 12, cpl=cpl)
        machine.set_eflags(2 | iopl << 12)
        assert machine.attempt(code) is None
        image, old = 0x3D7FD7 ^ iopl << 12, 2 | iopl << 12
        assert machine.eflags == (image & changed) | (old & ~changed)
        assert machine.esp == 0x700C

    def test_16_bit(self):
        machine = framed()
        for i, value in enumerate((0x1234, 8, 0x7FD7)):
            machine.put(0x7000 + 2 * i, value, 2)
        machine.set_eflags(2 | AC)
        assert machine.attempt(IRET16) is None
        assert (machine.eip, machine.esp, machine.eflags) == (0x1234, 0x7006, 0x7FD7 | AC)

    def test_outer_level_to_16_bit_stack_keeps_upper_esp(self):
        machine = framed(0x1234, 0x1B, 2, 0x99999000, 0x43)
        machine.set_gdt(0x40, descriptor(0, 0xFFFF, 0xF3))
        machine.gpr32[4] = 0x7000
        assert machine.attempt(IRET) is None
        assert (machine.cpl, machine.esp, machine.stack_mask) == (3, 0x9000, 0xFFFF)
        assert machine.seg.unusable[DS] == 1

    @pytest.mark.parametrize(
        ("cs", "ss", "vector", "error", "cause"),
        [
            (0, 0x23, GP, 0, "CS_SELECTOR_NULL"),
            (0x10, 0x23, GP, 0x10, "NOT_CODE"),
            (0x0B, 0x23, GP, 0x08, "CODE_DPL"),
            (0x1B, 0, GP, 0, "SS_SELECTOR_NULL"),
            (0x1B, 0x13, GP, 0x10, "SS_DPL"),
        ],
    )
    def test_refused(self, cs, ss, vector, error, cause):
        machine = framed(0x1234, cs, 2, 0x9000, ss)
        fault = machine.attempt(IRET)
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
        assert (machine.eip, machine.esp) == (0x8000, 0x7000)

    def test_vm_bit_from_level_3_is_ignored(self):
        machine = framed(0x1234, 0x1B, 2 | VM, cpl=3)
        assert machine.attempt(IRET) is None
        assert machine.eflags == 2

    def test_virtual_8086_takes_every_flag(self):
        machine = framed(0xFFFF, 0, 0xFFFFFFFF, 0x7000, 0, 0, 0, 0, 0)
        assert machine.attempt(IRET) is None
        assert (machine.eflags, machine.eip) == (0x3F7FD7, 0xFFFF)

    def test_virtual_8086_eip_beyond_64_kib(self):
        machine = framed(0x10000, 0, 2 | VM, 0, 0, 0, 0, 0, 0)
        fault = machine.attempt(IRET)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0, "CS_LIMIT")
        assert machine.eflags == 2

    @pytest.mark.parametrize("cs", [8, 0])
    def test_unblocks_nmi_even_if_it_faults(self, cs):
        """SDM vol. 3A, 6.7.1."""
        machine = framed(0x1234, cs, 2)
        machine.nmi_blocked = 1
        fault = machine.attempt(IRET)
        assert (fault is None) == (cs == 8)
        assert machine.nmi_blocked == 0


class TestDelivery:
    def test_soft_interrupt_returns_behind_the_instruction(self):
        machine = System()
        machine.set_idt(0x21, gate(0x08, 0x777, INT32))
        inject(machine, EventType.SOFT_INT, 0x21, length=2)
        assert machine.stack(1) == [0x8002]

    def test_nmi_blocks_nmis_and_clears_shadow_and_halt(self):
        machine = System()
        machine.set_idt(NMI, gate(0x08, 0x777, INT32))
        machine.activity, machine.shadow = Activity.HALTED, 1
        inject(machine, EventType.NMI, NMI)
        assert (machine.nmi_blocked, machine.activity, machine.shadow, machine.eip) == (1, 0, 0, 0x777)
        assert machine.inject_type == NO_EVENT

    def test_hypervisor_payload(self):
        machine = System()
        machine.set_idt(PF, gate(0x08, 0x777, INT32))
        machine.inject_has_payload, machine.inject_payload = 1, 0xABC123
        inject(machine, EventType.EXCEPTION, PF, error=6)
        assert (machine.cr2, machine.stack(2)) == (0xABC123, [6, 0x8000])
        machine.set_idt(DB, gate(0x08, 0x777, INT32))
        machine.dr7 |= 0x2000
        machine.dr6 = 0xFFFFAFFD
        machine.inject_has_payload, machine.inject_payload = 1, 0x4002
        inject(machine, EventType.EXCEPTION, DB)
        assert (machine.dr6, machine.dr7) == (0xFFFFEFF2, 0x400)
        assert machine.inject_has_payload == 0

    def test_fault_image_has_rf(self):
        """SDM vol. 3B, 17.3.1.1; the handler itself runs with RF clear."""
        machine = System()
        machine.set_idt(UD, gate(0x08, 0x777, INT32))
        machine.go(b"\x0f\x0b")
        assert (machine.eip, machine.stack(3)) == (0x777, [0x8000, 8, 2 | RF])
        assert machine.eflags == 2


class TestBoundary:
    """SDM vol. 3A, table 6-2."""

    @pytest.mark.parametrize(
        ("vm", "cpl", "cr4", "iopl", "bits", "fault"),
        [
            (VM, 3, 1, 0, VIF | VIP, True),
            (VM, 3, 1, 2, VIF | VIP, True),
            (VM, 3, 1, 3, VIF | VIP, False),
            (VM, 3, 1, 0, VIF, False),
            (VM, 3, 1, 0, VIP, False),
            (VM, 3, 2, 0, VIF | VIP, False),
            (0, 3, 2, 0, VIF | VIP, True),
            (0, 3, 2, 3, VIF | VIP, False),
            (0, 3, 1, 0, VIF | VIP, False),
            (0, 0, 2, 0, VIF | VIP, False),
            (0, 0, 3, 0, VIF | VIP, False),
        ],
    )
    def test_vif_and_vip_together(self, vm, cpl, cr4, iopl, bits, fault):
        """SDM vol. 3A, 20.3.2 and 20.4 (#GP at the beginning of an instruction), 2.3 (VIP counts below IOPL 3)."""
        machine = System()
        machine.cpl, machine.cr4 = cpl, cr4
        machine.set_eflags(2 | vm | bits | iopl << 12)
        assert machine.boundary() == (boundary.EVENT if fault else boundary.RUN_ON)
        if fault:
            assert (machine.inject_type, machine.inject_vector) == (EventType.EXCEPTION, GP)
            assert (machine.inject_has_error, machine.inject_error) == (1, 0)
            assert machine.eflags & RF

    @pytest.mark.parametrize(
        ("fields", "window", "expected"),
        [
            ({}, 0, boundary.RUN_ON),
            ({}, 1, boundary.RUN_ON),
            ({"activity": Activity.WAIT_FOR_SIPI, "nmi_pending": 1}, 0, boundary.WAIT_FOR_SIPI),
            ({"activity": Activity.SHUTDOWN}, 0, boundary.SHUTDOWN),
            ({"activity": Activity.SHUTDOWN, "nmi_pending": 1}, 0, boundary.EVENT),
            ({"activity": Activity.SHUTDOWN, "nmi_pending": 1, "nmi_blocked": 1}, 0, boundary.SHUTDOWN),
            ({"activity": Activity.SHUTDOWN, "inject_type": EventType.NMI, "inject_vector": 2}, 0, boundary.EVENT),
            (
                {"activity": Activity.SHUTDOWN, "inject_type": EventType.EXCEPTION, "inject_vector": 18},
                0,
                boundary.EVENT,
            ),
            ({"activity": Activity.SHUTDOWN, "inject_type": EventType.EXTERNAL}, 0, boundary.SHUTDOWN),
            ({"activity": Activity.SHUTDOWN, "pending_debug": 0x4000}, 0, boundary.SHUTDOWN),
            ({"activity": Activity.HALTED}, 0, boundary.HALTED),
            ({"activity": Activity.HALTED, "nmi_pending": 1}, 0, boundary.EVENT),
            ({"activity": Activity.HALTED, "nmi_pending": 1, "nmi_blocked": 1}, 0, boundary.HALTED),
            ({"activity": Activity.HALTED, "flags": IF}, 1, boundary.WINDOW),
            ({"flags": IF}, 1, boundary.WINDOW),
            ({"flags": IF}, 0, boundary.RUN_ON),
            ({"flags": IF, "shadow": 1}, 1, boundary.RUN_ON),
            ({"flags": IF, "shadow": 2}, 1, boundary.RUN_ON),
            ({"nmi_pending": 1, "shadow": 2}, 0, boundary.RUN_ON),
            ({"nmi_pending": 1, "shadow": 1}, 0, boundary.EVENT),
            ({"pending_debug": 0x4000}, 0, boundary.EVENT),
            ({"pending_debug": 0x4000, "shadow": 2}, 0, boundary.RUN_ON),
            ({"pending_debug": 0x0001}, 0, boundary.RUN_ON),
            ({"pending_debug": 0x1001}, 0, boundary.EVENT),
            ({"pending_debug": 0x8000}, 0, boundary.EVENT),
        ],
    )
    def test_outcome(self, fields, window, expected):
        machine = System()
        for name, value in fields.items():
            setattr(machine, name, value)
        assert machine.boundary(window) == expected

    def test_debug_trap_before_nmi(self):
        machine = System()
        machine.nmi_pending, machine.pending_debug, machine.dr6 = 1, 0x5002, 0xFFFF0FF1
        assert machine.boundary() == boundary.EVENT
        assert (machine.inject_type, machine.inject_vector) == (EventType.EXCEPTION, DB)
        assert (machine.dr6, machine.pending_debug, machine.nmi_pending) == (0xFFFF4FF2, 0, 1)
        machine.inject_type = NO_EVENT
        assert machine.boundary() == boundary.EVENT
        assert (machine.inject_type, machine.inject_vector, machine.nmi_pending) == (EventType.NMI, NMI, 0)

    @pytest.mark.parametrize(
        ("dr7", "address", "fields", "hit"),
        [
            (0x402, 0x8000, {}, True),
            (0x401, 0x8000, {}, True),
            (0x400, 0x8000, {}, False),
            (0x402, 0x8001, {}, False),
            (0x10402, 0x8000, {}, False),
            (0x402, 0x8000, {"flags": RF}, False),
            (0x402, 0x8000, {"shadow": 2}, False),
            (0x402, 0x8000, {"shadow": 1}, True),
        ],
    )
    def test_instruction_breakpoint(self, dr7, address, fields, hit):
        """SDM vol. 3B, 17.3.1.1: a fault before the instruction, its image without RF."""
        machine = System()
        machine.dr7, machine.dr[0] = dr7, address
        for name, value in fields.items():
            setattr(machine, name, value)
        assert machine.boundary() == (boundary.EVENT if hit else boundary.RUN_ON)
        if hit:
            assert machine.dr6 & 0xF == 1
            machine.set_idt(DB, gate(0x08, 0x777, INT32))
            machine.deliver()
            assert machine.stack(3) == [0x8000, 8, 2]

    def test_single_step_across_mov_ss_traps_one_instruction_later(self):
        """SDM vol. 3A, 6.8.3."""
        machine = System()
        machine.set_idt(DB, gate(0x08, 0x777, INT32))
        machine.flags |= TF
        machine.gpr32[0] = 0x10
        machine.go(b"\x8e\xd0")
        assert (machine.shadow, machine.boundary()) == (2, boundary.RUN_ON)
        machine.go(b"\x90")
        assert machine.boundary() == boundary.EVENT
        machine.deliver()
        assert (machine.eip, machine.stack(1), machine.dr6) == (0x777, [0x8003], 0xFFFF4FF0)

    def test_int_takes_no_single_step_trap(self):
        machine = System()
        machine.set_idt(0x21, gate(0x08, 0x777, INT32))
        machine.flags |= TF
        machine.go(INT_21)
        assert machine.eip == 0x777
        assert machine.pending_debug == 0
        assert machine.boundary() == boundary.RUN_ON


def test_guard_clears_itself():
    """DR7.GD: #DB with BD set, and GD clear in the handler (SDM vol. 3B, 17.2.4)."""
    machine = System()
    machine.set_idt(DB, gate(0x08, 0x777, INT32))
    machine.dr7 |= 0x2000
    machine.go(b"\x0f\x21\xf0")
    assert (machine.eip, machine.dr6, machine.dr7) == (0x777, 0xFFFF2FF0, 0x400)
    assert machine.stack(3) == [0x8000, 8, 2 | RF]
