"""What a hypervisor injects, on both engines: gates, task gates, virtual-8086 mode, EXT, NMIs and their blocking.

Guests cannot make these events themselves, so Bochs has nothing to say here; the sections are the SDM's.
"""

from __future__ import annotations

import pytest
from guest import CODE, HANDLERS, load_protected

from dm.engine.api import ExitReason
from dm.machine.state import EventType, Seg, Segment, Shadow

GDT, IDT, LDT, TSS, TSS2, STACK0 = 0x800, 0x2000, 0x3200, 0x3800, 0x3900, 0x9000
#: Selectors beside those of load_protected.
CODE3, DATA3, TASK = 0x18, 0x20, 0x28
IF, RF, NT, VM = 1 << 9, 1 << 16, 1 << 14, 1 << 17
NP, GP = 11, 13
EXTERNAL, NMI, EXCEPTION = EventType.EXTERNAL, EventType.NMI, EventType.EXCEPTION


def put(vm, address, value, size=4):
    vm.ram[address : address + size] = value.to_bytes(size, "little")


def words(vm, count):
    """The doublewords on top of the stack."""
    esp = vm.state.esp
    return [int.from_bytes(vm.ram[esp + 4 * i : esp + 4 * i + 4], "little") for i in range(count)]


def gate(vm, vector, selector, offset, access):
    put(vm, IDT + 8 * vector, offset & 0xFFFF | selector << 16 | access << 40 | (offset >> 16) << 48, 8)


@pytest.fixture
def program(vm):
    """Ring 0 code of five INC EAX and HLT; a TSS with a stack of level 0, a second TSS, segments of level 3."""

    def load(code="40 40 40 40 40 f4", cpl=0, **fields):
        load_protected(vm, code)
        for selector, raw in (
            (CODE3, 0x00CFFB000000FFFF),
            (DATA3, 0x00CFF3000000FFFF),
            (TASK, 0x0000890000000067 | TSS2 << 16),
        ):
            put(vm, GDT + selector, raw, 8)
        put(vm, TSS + 4, STACK0)
        put(vm, TSS + 8, 0x10)
        state = vm.state
        state.gdtr_limit = 0x2F
        state.seg[Seg.TR] = Segment(0x30, TSS, 0x67, 0x8B, 0)
        if cpl:
            state.cpl = 3
            state.seg[Seg.CS] = Segment(CODE3 | 3, 0, 0xFFFFFFFF, 0xC0FB, 0)
            for seg in (Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS):
                state.seg[seg] = Segment(DATA3 | 3, 0, 0xFFFFFFFF, 0xC0F3, 0)
        state.gpr[0] = 0
        for name, value in fields.items():
            setattr(state, name, value)
        vm.engine.set_state(state)
        return vm

    return load


def stopped_at(vm):
    """Vector of the handler that has halted."""
    assert vm.run().reason is ExitReason.HALT
    return vm.state.eip - 1 - HANDLERS


@pytest.mark.parametrize("cpl", [0, 3])
def test_external_interrupt(program, cpl):
    """SDM vol. 3A, 6.12.1: RF of the image is what it was, the gate's DPL does not count."""
    vm = program(cpl=cpl, rflags=2 | IF)
    vm.engine.inject(EXTERNAL, 0x41)
    assert stopped_at(vm) == 0x41
    s = vm.state
    assert (s.eax, s.cpl, s.rflags & IF) == (0, 0, 0)
    frame = words(vm, 5 if cpl else 3)
    assert frame[:3] == [CODE, CODE3 | 3 if cpl else 8, 2 | IF]
    if cpl:
        assert (frame[3:], s.esp) == ([0x7000, DATA3 | 3], STACK0 - 20)


@pytest.mark.parametrize(
    ("access", "selector", "vector", "error"),
    [
        (0x0E, 8, NP, 0x41 * 8 + 3),
        (0x84, 8, GP, 0x41 * 8 + 3),
        (0x8E, 0, GP, 1),
        (0x8E, 0x10, GP, 0x11),
        (0x8E, 0x1000, GP, 0x1001),
    ],
)
def test_error_codes_say_that_the_event_was_external(program, access, selector, vector, error):
    """SDM vol. 3A, 6.13: EXT, and IDT where the gate itself is at fault."""
    vm = program()
    gate(vm, 0x41, selector, HANDLERS + 0x41, access)
    vm.engine.inject(EXTERNAL, 0x41)
    assert stopped_at(vm) == vector
    assert words(vm, 2) == [error, CODE]


def test_exception_with_an_error_code(program):
    vm = program(cpl=3)
    vm.engine.inject(EXCEPTION, GP, error=0x1234)
    assert stopped_at(vm) == GP
    assert words(vm, 3) == [0x1234, CODE, CODE3 | 3]


def test_injected_exceptions_combine_with_faults_of_their_delivery(program):
    """SDM vol. 3A, table 6-5."""
    vm = program()
    gate(vm, GP, 8, 0, 0x0E)
    vm.engine.inject(EXCEPTION, GP, error=0)
    assert stopped_at(vm) == 8
    assert words(vm, 2) == [0, CODE]


def test_external_interrupt_through_a_task_gate(program):
    """SDM vol. 3A, 6.12.2 and 7.3: link, NT, busy bits."""
    vm = program(rflags=2 | IF)
    gate(vm, 0x41, TASK, 0, 0x85)
    for at, value in ((0x20, HANDLERS + 0x41), (0x24, 2), (0x38, STACK0), (0x4C, 8)):
        put(vm, TSS2 + at, value)
    for at in (0x48, 0x50, 0x54, 0x58, 0x5C):
        put(vm, TSS2 + at, 0x10)
    vm.engine.inject(EXTERNAL, 0x41)
    assert stopped_at(vm) == 0x41
    s = vm.state
    assert (s.seg[Seg.TR].selector, s.rflags & NT, s.cr0 & 8) == (TASK, NT, 8)
    assert int.from_bytes(vm.ram[TSS2 : TSS2 + 2], "little") == 0x30
    assert int.from_bytes(vm.ram[TSS + 0x20 : TSS + 0x28], "little") == CODE | (2 | IF) << 32
    assert vm.ram[GDT + TASK + 5] == 0x8B


def test_external_interrupt_in_virtual_8086_mode(program):
    """SDM vol. 3A, 20.3.1: nine doublewords, the data segments null; IOPL and redirection do not matter."""
    vm = program(cpl=3, rflags=2 | VM | IF, cr4=1)
    state = vm.state
    for n, seg in enumerate((Seg.CS, Seg.SS, Seg.DS, Seg.ES, Seg.FS, Seg.GS)):
        selector = 0 if seg in (Seg.CS, Seg.SS) else 0x100 * n
        state.seg[seg] = Segment(selector, selector << 4, 0xFFFF, 0xF3, 0)
    vm.engine.set_state(state)
    vm.engine.inject(EXTERNAL, 0x41)
    assert stopped_at(vm) == 0x41
    assert words(vm, 9) == [CODE, 0, 2 | VM | IF, 0x7000, 0, 0x300, 0x200, 0x400, 0x500]
    s = vm.state
    assert [s.seg[n].unusable for n in (Seg.DS, Seg.ES, Seg.FS, Seg.GS)] == [1, 1, 1, 1]
    assert (s.cpl, s.rflags & VM) == (0, 0)


def test_nmi_waits_for_the_instruction_behind_mov_ss(program):
    """SDM vol. 3A, 6.8.3."""
    vm = program("8ed1 40 40 f4", nmi_pending=1, shadow=int(Shadow.MOV_SS), ecx=0x10)
    assert stopped_at(vm) == 2
    assert (vm.state.eax, words(vm, 1)) == (0, [CODE + 2]), "of two loads of SS in a row only the first shadows"


def test_nmis_are_blocked_until_iret(program):
    """SDM vol. 3A, 6.7.1."""
    vm = program(nmi_pending=1)
    vm.ram[HANDLERS + 2 : HANDLERS + 5] = b"\x43\xcf\xf4"  # inc ebx; iret
    gate(vm, 2, 8, HANDLERS + 2, 0x8E)
    assert vm.run(budget=1).reason is ExitReason.BUDGET
    s = vm.state
    assert (s.nmi_blocked, s.nmi_pending) == (1, 0)
    s.nmi_pending = 1
    vm.engine.set_state(s)
    assert vm.run().reason is ExitReason.HALT
    s = vm.state
    assert (s.gpr[3] & 0xFF, s.eax, s.nmi_blocked, s.nmi_pending) == (2, 5, 0, 0)


def test_nmi_ends_halt(program):
    vm = program("f4 40 f4")
    vm.run()
    state = vm.state
    state.nmi_pending = 1
    vm.engine.set_state(state)
    assert stopped_at(vm) == 2
    assert words(vm, 1) == [CODE + 1]


@pytest.mark.parametrize(("kind", "eip"), [(EventType.SOFT_INT, CODE + 2), (EventType.SOFT_EXCEPTION, CODE + 2)])
def test_software_events_return_behind_their_instruction(program, kind, eip):
    """SDM vol. 3C, 26.6.1: the instruction's length is injected with it; the gate's DPL counts."""
    vm = program(cpl=3)
    vm.engine.inject(kind, 3, length=2)
    assert stopped_at(vm) == GP
    assert words(vm, 2) == [3 * 8 + 2, CODE]
    vm = program(cpl=3)
    gate(vm, 3, 8, HANDLERS + 3, 0xEE)
    vm.engine.inject(kind, 3, length=2)
    assert stopped_at(vm) == 3
    assert words(vm, 1) == [eip]


def test_vif_and_vip_fault_before_the_first_instruction(program):
    """SDM vol. 3A, 20.4: protected-mode virtual interrupts."""
    vm = program(cpl=3, rflags=2 | 0x180000, cr4=2)
    assert stopped_at(vm) == GP
    assert words(vm, 4) == [0, CODE, CODE3 | 3, 2 | RF | 0x180000]
    assert vm.state.eax == 0
