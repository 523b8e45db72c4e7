"""Hardware task switches (SDM vol. 3A, chapter 7)."""

from __future__ import annotations

import pytest
from system_machine import CS, DS, ES, FS, GDT, GS, LDT, LDTR, SS, TR, TSS, TSS2, System, descriptor, gate

from dm.machine.state import Activity, EventType

TSF, NP, SSF, GP, PF, UD = 10, 11, 12, 13, 14, 6
IF, NT, VM, RF = 1 << 9, 1 << 14, 1 << 17, 1 << 16

JMP_TSS, CALL_TSS = b"\xea\0\0\0\0\x38\x00", b"\x9a\0\0\0\0\x38\x00"
IRET = b"\xcf"

GPRS = [0x10000001 * (i + 1) for i in range(8)]


def machine_with_task(**changes: int) -> System:
    """Return a machine whose TSS 38h holds a complete 32-bit level-0 task; ``changes`` replace fields."""
    machine = System()
    fields = {"cr3": 0x9000, "eip": 0x1234, "eflags": 0x202, "ldt": 0x28}
    fields |= {"es": 0x10, "cs": 0x08, "ss": 0x10, "ds": 0x10, "fs": 0, "gs": 0x10, "trap": 0} | changes
    write_task(machine, fields)
    machine.gpr32[:8] = [i + 0x100 for i in range(8)]
    machine.gpr32[4] = 0x7000
    return machine


def write_task(machine: System, fields: dict[str, int], at: int = TSS2) -> None:
    for name, offset in (("cr3", 0x1C), ("eip", 0x20), ("eflags", 0x24)):
        machine.put(at + offset, fields[name], 4)
    for i, value in enumerate(GPRS):
        machine.put(at + 0x28 + 4 * i, value, 4)
    for i, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
        machine.put(at + 0x48 + 4 * i, 0xAAAA0000 | fields[name], 4)
    machine.put(at + 0x60, fields["ldt"], 4)
    machine.put(at + 0x64, fields["trap"], 2)


def busy(machine: System, selector: int) -> bool:
    return bool(machine.at(GDT + selector + 5, 1) & 2)


class TestSwitch:
    @pytest.mark.parametrize("code", [JMP_TSS, CALL_TSS])
    def test_state_is_saved_and_loaded(self, code):
        machine = machine_with_task()
        machine.set_eflags(2 | IF | 0x8D5)
        old = machine.gpr32[:8]
        assert machine.attempt(code) is None
        # 7.3, steps 6 to 11: the old task
        assert machine.at(TSS + 0x20) == 0x8007
        assert machine.at(TSS + 0x24) == 0xAD7
        assert [machine.at(TSS + 0x28 + 4 * i) for i in range(8)] == old
        assert [machine.at(TSS + 0x48 + 4 * i, 2) for i in range(6)] == [0x10, 8, 0x10, 0x10, 0x10, 0x10]
        # the new one
        nested = code is CALL_TSS
        assert machine.eip == 0x1234
        assert machine.gpr32[:8] == [value & 0xFFFFFFFF for value in GPRS]
        assert machine.eflags == 0x202 | (NT if nested else 0)
        s = machine.seg
        assert (s.selector[CS], s.selector[SS], s.selector[LDTR], s.base[LDTR]) == (8, 0x10, 0x28, LDT)
        assert (s.selector[FS], s.unusable[FS], s.unusable[GS]) == (0, 1, 0)
        assert (s.selector[TR], s.base[TR], s.attributes[TR]) == (0x38, TSS2, 0x8B)
        assert machine.cr0 & 8
        # busy bits and back link, table 7-2
        assert (busy(machine, 0x38), busy(machine, 0x30)) == (True, nested)
        assert machine.at(TSS2, 2) == (0x30 if nested else 0)
        assert machine.at(GDT + 0x35, 1) == (0x8B if nested else 0x89)
        # paging is off: CR3 is read, not loaded
        assert machine.cr3 == 0

    def test_level_3_task(self):
        machine = machine_with_task(cs=0x1B, ss=0x23, ds=0x23, es=0x23, gs=0x23)
        assert machine.attempt(JMP_TSS) is None
        assert (machine.cpl, machine.seg.selector[CS], machine.seg.attributes[SS]) == (3, 0x1B, 0xC0F3)

    def test_virtual_8086_task(self):
        machine = machine_with_task(eflags=2 | VM, cs=0xF000, ss=0x1000, ds=0x2000, es=0x3000, fs=0x4000, gs=0x5000)
        assert machine.attempt(JMP_TSS) is None
        s = machine.seg
        assert (machine.cpl, machine.eflags) == (3, 2 | VM)
        for seg, selector in ((CS, 0xF000), (SS, 0x1000), (DS, 0x2000), (ES, 0x3000), (FS, 0x4000), (GS, 0x5000)):
            assert (s.selector[seg], s.base[seg], s.limit[seg]) == (selector, selector << 4, 0xFFFF)
            assert (s.attributes[seg], s.unusable[seg]) == (0xF3, 0)

    def test_local_breakpoints_are_cleared(self):
        """SDM vol. 3B, 17.2.4."""
        machine = machine_with_task()
        machine.dr7 = 0x7FF
        assert machine.attempt(JMP_TSS) is None
        assert machine.dr7 == 0x6AA

    def test_trap_flag_of_the_tss(self):
        machine = machine_with_task(trap=1)
        machine.set_idt(1, gate(0x08, 0x777, 0x8E))
        machine.put(TSS2 + 0x38, 0x7000, 4)
        assert machine.attempt(JMP_TSS) is None
        assert machine.boundary() == 1
        machine.deliver()
        assert machine.dr6 & 0x8000
        assert (machine.eip, machine.stack(1)) == (0x777, [0x1234])

    def test_cr3_with_paging(self):
        machine = machine_with_task(cr3=0xA018)
        identity(machine, 0x9000)
        identity(machine, 0xA000)
        machine.cr0 |= 1 << 31
        machine.cr3 = 0x9000
        assert machine.attempt(JMP_TSS) is None
        assert machine.cr3 == 0xA018
        assert machine.flushed == 1

    def test_16_bit_tasks(self):
        """SDM vol. 3A, 7.6."""
        machine = System()
        machine.set_gdt(0x30, descriptor(TSS, 0x2B, 0x83))
        machine.load(TR, 0x30, TSS, 0x2B, 0x83)
        machine.set_gdt(0x38, descriptor(TSS2, 0x2B, 0x81))
        for i, value in enumerate((0x1234, 0x0202, *range(0x1001, 0x1009), 0x10, 0x08, 0x10, 0x10, 0x28)):
            machine.put(TSS2 + 0x0E + 2 * i, value, 2)
        machine.gpr32[0] = 0xABCD1111
        machine.cr3 = 0x5000
        assert machine.attempt(CALL_TSS) is None
        assert (machine.at(TSS + 0x0E, 2), machine.at(TSS + 0x10, 2), machine.at(TSS + 0x12, 2)) == (0x8007, 2, 0x1111)
        assert [machine.at(TSS + 0x22 + 2 * i, 2) for i in range(4)] == [0x10, 8, 0x10, 0x10]
        assert [value & 0xFFFF for value in machine.gpr32[:8]] == list(range(0x1001, 0x1009))
        assert (machine.eip, machine.eflags, machine.cr3) == (0x1234, 0x202 | NT, 0x5000)
        s = machine.seg
        assert (s.selector[LDTR], s.unusable[FS], s.unusable[GS], s.unusable[DS]) == (0x28, 1, 1, 0)
        assert (machine.at(TSS2, 2), s.attributes[TR]) == (0x30, 0x83)


def identity(machine: System, at: int) -> None:
    """Map the first 4 MiB one to one with 32-bit paging."""
    machine.put(at, 0xB000 | 7, 4)
    for page in range(32):
        machine.put(0xB000 + 4 * page, page << 12 | 7, 4)


class TestRefused:
    @pytest.mark.parametrize(
        ("raw", "vector", "cause"),
        [
            (descriptor(TSS2, 0x67, 0x8B), GP, "TSS_TYPE"),
            (descriptor(TSS2, 0x67, 0x09), NP, "TSS_NOT_PRESENT"),
            (descriptor(TSS2, 0x66, 0x89), TSF, "TSS_LIMIT"),
            (descriptor(TSS2, 0x2A, 0x81), TSF, "TSS_LIMIT"),
        ],
    )
    def test_direct(self, raw, vector, cause):
        machine = machine_with_task()
        machine.set_gdt(0x38, raw)
        memory = bytes(machine.memory)
        fault = machine.attempt(JMP_TSS)
        assert (fault.vector, fault.error, fault.cause) == (vector, 0x38, cause)
        assert (machine.seg.selector[TR], machine.eip, bytes(machine.memory)) == (0x30, 0x8000, memory)

    def test_privilege(self):
        machine = machine_with_task().ring3()
        fault = machine.attempt(JMP_TSS)
        assert (fault.vector, fault.error, fault.cause) == (GP, 0x38, "GATE_DPL")

    @pytest.mark.parametrize(
        ("selector", "vector", "error", "cause"),
        [
            (0x3C, GP, 0x3C, "TSS_NOT_IN_GDT"),
            (0x200, GP, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
            (0x10, GP, 0x10, "TSS_TYPE"),
            (0x30, GP, 0x30, "TSS_TYPE"),
        ],
    )
    def test_through_a_task_gate(self, selector, vector, error, cause):
        machine = machine_with_task()
        machine.set_gdt(0x40, gate(selector, 0, 0x85))
        fault = machine.attempt(b"\xea\0\0\0\0\x40\x00")
        assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)

    def test_task_gate_not_present(self):
        machine = machine_with_task()
        machine.set_gdt(0x40, gate(0x38, 0, 0x05))
        fault = machine.attempt(b"\xea\0\0\0\0\x40\x00")
        assert (fault.vector, fault.error, fault.cause) == (NP, 0x40, "GATE_NOT_PRESENT")

    def test_old_tss_too_small(self):
        machine = machine_with_task()
        machine.seg.limit[TR] = 0x5E
        fault = machine.attempt(JMP_TSS)
        assert (fault.vector, fault.error, fault.cause) == (TSF, 0x30, "TSS_LIMIT")


def test_task_gate_privilege_is_the_gates():
    """A level-3 program may use a gate of DPL 3 to a TSS of DPL 0 (SDM vol. 3A, 7.2.5)."""
    machine = machine_with_task().ring3()
    machine.set_gdt(0x40, gate(0x38, 0, 0xE5))
    assert machine.attempt(b"\x9a\0\0\0\0\x43\x00") is None
    assert (machine.cpl, machine.seg.selector[TR]) == (0, 0x38)
    assert machine.at(TSS + 0x4C, 2) == 0x1B


ABSENT = descriptor(0, 0xFFFFF, 0x12, 0xC)


@pytest.mark.parametrize(
    ("changes", "vector", "error", "cause", "loaded"),
    [
        # SDM vol. 3A, table 7-1, and what is in the caches when the fault comes
        ({"ldt": 0x10}, TSF, 0x10, "LDT_DESCRIPTOR", ()),
        ({"ldt": 0x2C}, TSF, 0x2C, "LDT_SELECTOR", ()),
        ({"ldt": 0x200}, TSF, 0x200, "LDT_SELECTOR", ()),
        ({"cs": 0}, TSF, 0, "CS_SELECTOR_NULL", (LDTR,)),
        ({"cs": 0x200}, TSF, 0x200, "DESCRIPTOR_TABLE_LIMIT", (LDTR,)),
        ({"cs": 0x10}, TSF, 0x10, "NOT_CODE", (LDTR,)),
        ({"cs": 0x0B}, TSF, 0x08, "CODE_DPL", (LDTR,)),
        ({"cs": 0x50}, NP, 0x50, "SEGMENT_NOT_PRESENT", (LDTR,)),
        ({"ss": 0}, TSF, 0, "SS_SELECTOR_NULL", (LDTR, CS)),
        ({"ss": 0x13}, TSF, 0x10, "SS_RPL", (LDTR, CS)),
        ({"ss": 0x08}, TSF, 0x08, "SS_NOT_WRITABLE", (LDTR, CS)),
        ({"ss": 0x20}, TSF, 0x20, "SS_DPL", (LDTR, CS)),
        ({"ss": 0x48}, SSF, 0x48, "SS_NOT_PRESENT", (LDTR, CS)),
        ({"ds": 0x28}, TSF, 0x28, "DATA_NOT_READABLE", (LDTR, CS, SS)),
        ({"ds": 0x48}, NP, 0x48, "SEGMENT_NOT_PRESENT", (LDTR, CS, SS)),
        ({"es": 0x13}, TSF, 0x10, "DATA_DPL", (LDTR, CS, SS, DS)),
        ({"gs": 0x200}, TSF, 0x200, "DESCRIPTOR_TABLE_LIMIT", (LDTR, CS, SS, DS, ES)),
        ({"cs": 0x58}, GP, 0, "CS_LIMIT", (LDTR, CS, SS, DS, ES, GS)),
    ],
)
def test_faults_behind_the_commit_point_belong_to_the_new_task(changes, vector, error, cause, loaded):
    machine = machine_with_task(**changes)
    machine.set_gdt(0x48, ABSENT)
    machine.set_gdt(0x50, descriptor(0, 0xFFFFF, 0x1A, 0xC))
    machine.set_gdt(0x58, descriptor(0, 0xFFF, 0x9A, 0x4))
    fault = machine.attempt(JMP_TSS)
    assert (fault.vector, fault.error, fault.cause) == (vector, error, cause)
    # The switch has happened.
    assert (machine.seg.selector[TR], machine.eip, machine.gpr32[0]) == (0x38, 0x1234, GPRS[0])
    assert (busy(machine, 0x38), busy(machine, 0x30)) == (True, False)
    assert machine.at(TSS + 0x20) == 0x8007
    usable = {seg for seg in (ES, CS, SS, DS, GS, LDTR) if not machine.seg.unusable[seg]}
    assert usable == set(loaded)


@pytest.mark.parametrize("beyond", [0, 1])
def test_last_byte_of_the_code_segment(beyond):
    machine = machine_with_task(cs=0x58, eip=0xFFF + beyond)
    machine.set_gdt(0x58, descriptor(0, 0xFFF, 0x9A, 0x4))
    fault = machine.attempt(JMP_TSS)
    assert (fault.cause if fault else None) == ("CS_LIMIT" if beyond else None)


class TestNested:
    def test_iret_goes_back(self):
        machine = machine_with_task()
        machine.set_eflags(2 | IF)
        assert machine.attempt(CALL_TSS) is None
        assert machine.attempt(IRET) is None
        assert (machine.seg.selector[TR], machine.eip, machine.esp, machine.eflags) == (0x30, 0x8007, 0x7000, 2 | IF)
        assert (busy(machine, 0x38), busy(machine, 0x30)) == (False, True)
        # The task left by IRET resumes behind it, its NT clear (7.3, step 5).
        assert (machine.at(TSS2 + 0x20), machine.at(TSS2 + 0x24)) == (0x1235, 0x202)

    @pytest.mark.parametrize(
        ("link", "error", "cause"),
        [
            (0x38, 0x38, "TSS_TYPE"),
            (0x34, 0x34, "TSS_NOT_IN_GDT"),
            (0x10, 0x10, "TSS_TYPE"),
            (0x200, 0x200, "DESCRIPTOR_TABLE_LIMIT"),
        ],
    )
    def test_bad_link(self, link, error, cause):
        """SDM vol. 2, IRET, TASK-RETURN: #TS(link) unless it is a busy TSS in the GDT."""
        machine = machine_with_task()
        machine.put(TSS, link, 2)
        machine.set_eflags(2 | NT)
        fault = machine.attempt(IRET)
        assert (fault.vector, fault.error, fault.cause) == (TSF, error, cause)


class TestEvents:
    def test_fault_through_a_task_gate(self):
        """SDM vol. 3A, 6.12.2: the error code is pushed on the new task's stack; RF is in the old image."""
        machine = machine_with_task()
        machine.put(TSS2 + 0x38, 0x6800, 4)
        machine.set_idt(GP, gate(0x38, 0, 0x85))
        machine.handle(GP, 0x1238)
        assert (machine.seg.selector[TR], machine.eip, machine.esp) == (0x38, 0x1234, 0x6800 - 4)
        assert machine.stack(1) == [0x1238]
        assert machine.eflags == 0x202 | NT
        assert (machine.at(TSS2, 2), machine.at(TSS + 0x20), machine.at(TSS + 0x24)) == (0x30, 0x8000, 2 | RF)
        assert busy(machine, 0x30)
        assert machine.inject_type == 255

    def test_fault_in_the_new_task_combines(self):
        """#GP, then #NP behind the commit point: #DF in the new task, EXT not lost on the way."""
        machine = machine_with_task(ds=0x48)
        machine.put(TSS2 + 0x38, 0x6800, 4)
        machine.set_gdt(0x48, ABSENT)
        machine.set_idt(GP, gate(0x38, 0, 0x85))
        machine.set_idt(8, gate(0x08, 0x888, 0x8E))
        machine.handle(GP, 0x1238)
        assert (machine.seg.selector[TR], machine.eip) == (0x38, 0x888)
        assert machine.stack(3) == [0, 0x1234, 8]
        assert machine.activity == Activity.RUNNING

    def test_interrupt(self):
        machine = machine_with_task(ds=0x48)
        machine.put(TSS2 + 0x38, 0x6800, 4)
        machine.set_gdt(0x48, ABSENT)
        machine.set_idt(0x40, gate(0x38, 0, 0x85))
        machine.set_idt(NP, gate(0x08, 0xBBB, 0x8E))
        machine.inject_type, machine.inject_vector = int(EventType.EXTERNAL), 0x40
        machine.deliver()
        assert (machine.seg.selector[TR], machine.eip, machine.stack(2)) == (0x38, 0xBBB, [0x49, 0x1234])

    def test_software_interrupt_saves_the_next_address(self):
        machine = machine_with_task()
        machine.set_idt(0x21, gate(0x38, 0, 0x85))
        assert machine.attempt(b"\xcd\x21") is None
        assert (machine.at(TSS + 0x20), machine.seg.selector[TR]) == (0x8002, 0x38)

    def test_from_virtual_8086_mode_and_back(self):
        machine = machine_with_task()
        machine.vm86()
        machine.set_idt(UD, gate(0x38, 0, 0x85))
        machine.handle(UD)
        assert (machine.cpl, machine.seg.selector[TR], machine.eflags) == (0, 0x38, 0x202 | NT)
        assert machine.at(TSS + 0x24) == 2 | VM | 0x3000 | RF
        assert machine.attempt(IRET) is None
        assert (machine.cpl, machine.eip, machine.seg.attributes[CS]) == (3, 0x8000, 0xF3)
        assert machine.eflags == 2 | VM | 0x3000 | RF
