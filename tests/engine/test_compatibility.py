"""Compatibility mode on both engines: 4-level paging, an event into 64-bit code, what the run then ends with."""

from __future__ import annotations

import pytest
from guest import CODE, protected_mode

from dm.engine.api import ExitReason, Until
from dm.machine.state import Gpr, Seg, Segment

PML4, PDPT, DIRECTORY = 0x20000, 0x21000, 0x22000
GDT, IDT, TSS, STACK0 = 0x23000, 0x24000, 0x25000, 0x27000
HANDLER, CODE64 = 0x00401234, 0x40
SS_NULL = 0


def put(vm, address, value, size=8):
    vm.ram[address : address + size] = value.to_bytes(size, "little")


@pytest.fixture
def compatibility(vm):
    """A level 3 program in compatibility mode; #UD goes to 64-bit code through a gate."""
    state = protected_mode(cpl=3)
    state.cr0, state.cr4, state.efer, state.cr3 = 0x80010031, 0x20, 0xD01, PML4
    put(vm, PML4, PDPT | 7)
    put(vm, PDPT, DIRECTORY | 7)
    for i in range(4):
        put(vm, DIRECTORY + 8 * i, i << 21 | 0x87)
    state.gdtr_base, state.gdtr_limit, state.idtr_base, state.idtr_limit = GDT, 0xFF, IDT, 0xFFF
    put(vm, GDT + CODE64, 0x00209A0000000000)
    put(vm, IDT + 16 * 6, HANDLER & 0xFFFF | CODE64 << 16 | 0x8E01 << 32 | (HANDLER >> 16) << 48)
    put(vm, IDT + 16 * 6 + 8, 0)
    put(vm, TSS + 0x24, STACK0 + 8)
    state.seg[Seg.TR] = Segment(0x30, TSS, 0x67, 0x8B, 0)
    state.gpr[Gpr.SP] |= 0x1_2345 << 32
    return vm, state


def test_event_into_64_bit_code(compatibility):
    """SDM vol. 3A, 6.14; the state is that of the handler's first instruction, and enterable."""
    vm, state = compatibility
    esp = state.gpr[Gpr.SP]
    vm.load("40 0f0b", state)
    end = vm.run()
    assert (end.reason, end.detail, end.steps, end.instructions) == (ExitReason.UNSUPPORTED, "CODE_64_BIT", 2, 1)
    s = vm.state
    assert (s.rip, s.cpl, s.gpr[Gpr.SP]) == (HANDLER, 0, STACK0 - 40)
    frame = [int.from_bytes(vm.ram[STACK0 - 40 + 8 * i : STACK0 - 32 + 8 * i], "little") for i in range(5)]
    assert frame == [CODE + 1, state.seg[Seg.CS].selector, 0x10002, esp, state.seg[Seg.SS].selector]
    assert (s.seg[Seg.CS].selector, s.seg[Seg.CS].attributes) == (CODE64, 0x209B)
    assert (s.seg[Seg.SS].selector, s.seg[Seg.SS].unusable) == (SS_NULL, 1)
    assert vm.run().detail == "CODE_64_BIT", "and it stays there"
    assert vm.run(until=Until.VMX).reason is vm.run(until=Until.SVM).reason is ExitReason.ENTERABLE
    assert vm.state == s


def test_the_policy_comes_first(compatibility):
    """At the handler a run until the state can be given back ends with that."""
    vm, state = compatibility
    vm.load("40 0f0b", state)
    end = vm.run(until=Until.SVM, progress=True)
    while vm.state.cpl == 3:
        assert end.reason is ExitReason.ENTERABLE
        end = vm.run(until=Until.SVM, progress=True)
    assert (end.reason, vm.state.rip) == (ExitReason.ENTERABLE, HANDLER)


def test_a_stack_that_is_not_mapped(compatibility):
    """#PF while #UD is delivered; its handler's gate is empty, so #GP in #PF is a double fault, then shutdown."""
    vm, state = compatibility
    put(vm, TSS + 0x24, 0x1000000)
    put(vm, IDT + 16 * 14, HANDLER & 0xFFFF | CODE64 << 16 | 0x8E02 << 32 | (HANDLER >> 16) << 48)
    put(vm, TSS + 0x2C, STACK0)
    vm.load("40 0f0b", state)
    assert vm.run().detail == "CODE_64_BIT"
    s = vm.state
    assert (s.rip, s.cr2, s.gpr[Gpr.SP]) == (HANDLER, 0x1000000 - 8, STACK0 - 48)
    assert int.from_bytes(vm.ram[STACK0 - 48 : STACK0 - 40], "little") == 2, "a supervisor's write, page not there"


@pytest.mark.parametrize("code", ["90 40 0f0b", "8b0d00900000 40 0f0b"], ids=["fetch", "data"])
@pytest.mark.parametrize("high", [0, 1])
def test_breakpoints_of_64_bit_code_are_not_met(compatibility, code, high):
    """SDM vol. 3B, 17.2.6: debug registers have 64 bits; addresses here have zeros above bit 31."""
    vm, state = compatibility
    fetch = code.startswith("90")
    state.dr = [(CODE + 1 if fetch else 0x9000) | high << 32, 0, 0, 0]
    state.dr7 = 0x402 if fetch else 0xF0402
    put(vm, IDT + 16, HANDLER & 0xFFFF | CODE64 << 16 | 0x8E01 << 32 | (HANDLER >> 16) << 48)
    vm.load(code, state)
    assert vm.run().detail == "CODE_64_BIT"
    s = vm.state
    assert (s.eax == state.eax, s.dr6 & 1) == ((False, 0) if high else (True, 1))
