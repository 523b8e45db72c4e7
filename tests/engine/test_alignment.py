"""#AC: CR0.AM, EFLAGS.AC, CPL 3 (SDM vol. 3A, 6.15, interrupt 17), on both engines.

What hardware does for every user-level instruction the live oracle shows: one case in twelve runs with AC set.
"""

from __future__ import annotations

import pytest
from guest import CODE, IDT, Machine, load_protected

AM, AC, TSS = 1 << 18, 1 << 18, 0x5000


def load_user(vm: Machine, code: str, *, am: bool = True, ac: bool = True, **registers: int) -> None:
    """Load a ring-3 program whose exceptions come to ring-0 handlers that halt."""
    load_protected(vm, code, cpl=3, **registers)
    vm.ram[TSS + 4 : TSS + 12] = (0x4F00).to_bytes(4, "little") + (0x10).to_bytes(4, "little")
    state = vm.state
    for seg in state.seg[:6]:
        seg.selector = 0x13
    state.cs.selector = 0x0B
    state.tr.selector, state.tr.base, state.tr.limit, state.tr.attributes = 0x18, TSS, 0x67, 0x8B
    state.cr0 |= AM * am
    state.rflags |= AC * ac
    vm.engine.set_state(state)


def vector(vm: Machine) -> int | None:
    """Return the vector of the ring-0 handler that was entered, None in ring 3."""
    state = vm.state
    return None if state.cpl else state.eip - 0x3000


FAULTS = [
    ("8b03", {"ebx": 0x8001}),  # mov eax,[ebx]
    ("8b03", {"ebx": 0x8002}),
    ("668903", {"ebx": 0x8001}),  # mov [ebx],ax
    ("0103", {"ebx": 0x8002}),  # add [ebx],eax
    ("f00103", {"ebx": 0x8002}),
    ("0fc70b", {"ebx": 0x8004}),  # cmpxchg8b: eight bytes
    ("50", {"esp": 0x6FFE}),  # push
    ("c3", {"esp": 0x6FFD}),
    ("e800000000", {"esp": 0x6FFF}),
    ("c8040000", {"esp": 0x7001}),  # enter
    ("c8020000", {"esp": 0x7000}),  # enter: the new top of the stack is probed
    ("a5", {"esi": 0x8001, "edi": 0x9000}),  # movsd
    ("a5", {"esi": 0x8000, "edi": 0x9002}),
    ("f3ab", {"edi": 0x9001, "ecx": 2}),
    ("6203", {"ebx": 0x8001}),  # bound
    ("c403", {"ebx": 0x8001}),  # les
    ("ff2b", {"ebx": 0x8002}),  # jmp far
]
PASSES = [
    ("8b03", {"ebx": 0x8004}),
    ("668b03", {"ebx": 0x8002}),
    ("8a03", {"ebx": 0x8003}),  # a byte
    ("0fc70b", {"ebx": 0x8008}),
    ("50", {"esp": 0x6FFC}),
    ("a4", {"esi": 0x8001, "edi": 0x9003}),
    ("8d03", {"ebx": 0x8001}),  # lea touches nothing
    ("0f18 03", {"ebx": 0x8001}),  # nor does a hint
]


@pytest.mark.parametrize(("code", "registers"), FAULTS)
def test_a_misaligned_access_faults(vm: Machine, code: str, registers: dict[str, int]) -> None:
    load_user(vm, code, **registers)
    before, ram = vm.state, bytes(vm.ram[0x8000:0xA000])
    vm.run(budget=1)
    assert (vector(vm), vm.engine.last_fault[:3]) == (17, (17, 0, "ALIGNMENT"))
    frame = [int.from_bytes(vm.ram[vm.state.esp + 4 * n : vm.state.esp + 4 * n + 4], "little") for n in range(6)]
    assert frame == [0, CODE, 0x0B, before.eflags | 1 << 16, before.esp, 0x13]  # error code 0, then the fault's frame
    assert bytes(vm.ram[0x8000:0xA000]) == ram
    assert vm.state.gpr[:4] + vm.state.gpr[5:] == before.gpr[:4] + before.gpr[5:]


@pytest.mark.parametrize(("code", "registers"), PASSES)
def test_an_aligned_access_does_not(vm: Machine, code: str, registers: dict[str, int]) -> None:
    load_user(vm, code, **registers)
    assert vm.run(budget=1).instructions == 1
    assert vector(vm) is None


@pytest.mark.parametrize(("am", "ac"), [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize(("code", "registers"), FAULTS[:8])
def test_both_switches_are_needed(vm: Machine, code: str, registers: dict[str, int], am: bool, ac: bool) -> None:
    load_user(vm, code, am=am, ac=ac, **registers)
    assert vm.run(budget=1).instructions == 1
    assert vector(vm) is None


def test_the_switch_works_from_the_next_instruction_on(vm: Machine) -> None:
    """POPFD sets AC: its own access is not checked, the next one is; and POPFD clears it again."""
    load_user(vm, "9d 8b03 f4", ac=False, ebx=0x8001, esp=0x6FF1)
    vm.ram[0x6FF1:0x6FF5] = (0x40002).to_bytes(4, "little")
    vm.run(budget=2)
    assert (vector(vm), vm.state.rflags & AC) == (17, AC)  # the handler's AC counts for nothing in ring 0
    load_user(vm, "9d 8b03 90", esp=0x6FF4, ebx=0x8001)
    vm.ram[0x6FF4:0x6FF8] = (2).to_bytes(4, "little")
    assert vm.run(budget=3).instructions == 3


def test_tables_are_never_checked(vm: Machine) -> None:
    """Accesses of the processor itself are those of a supervisor: the IDT here, the descriptor of a segment load."""
    load_user(vm, "8ec0 cd40", eax=0x13)
    vm.ram[0x801:0x819] = vm.ram[0x800:0x818]
    vm.ram[IDT + 1 : IDT + 0x801] = vm.ram[IDT : IDT + 0x800]
    vm.ram[IDT + 1 + 0x40 * 8 + 5] = 0xEE
    state = vm.state
    state.gdtr_base, state.idtr_base = 0x801, IDT + 1
    vm.engine.set_state(state)
    # Descriptors: DPL 3 data at selector 10h, so that ES can be loaded.
    vm.ram[0x801 + 0x10 + 5] = 0xF3
    assert vm.run(budget=1).instructions == 1
    assert vector(vm) is None
