"""Places where the two engines once had rules of their own, on both: each instance stays as a test."""

from __future__ import annotations

import pytest
from guest import CODE, HANDLERS, IDT, Machine, load_protected, real_mode

from dm.engine.api import CpuConfig, CpuidEntry, ExitReason, Region, RegionKind
from dm.engine.parts import identity

TOP = 0xFFFFF000


@pytest.mark.parametrize("code", ["a1fe0f0000", "a3fe0f0000", "0105fe0f0000", "f00105fe0f0000", "ff35fe0f0000"])
@pytest.mark.parametrize(("at", "hit"), [(0, True), (1, True), (2, False), (0xFFFFFFFE, True), (0xFFFFFFFD, False)])
def test_a_breakpoint_at_0_is_met_by_an_access_that_wraps_at_4_gib(vm: Machine, code: str, at: int, hit: bool) -> None:
    memory = bytearray(0x1000)
    vm.remap(Region(TOP, 0x1000, RegionKind.RAM, memory))
    load_protected(vm, code + "90f4", eax=0x44332211)
    state = vm.state
    state.ds.base = TOP  # four bytes: two at the top, two at 0
    state.dr7, state.dr = 0x401 | 3 << 16, [at, 0, 0, 0]  # L0: reads and writes of one byte
    vm.engine.set_state(state)
    vm.run(budget=2)
    assert vm.state.dr6 & 0xF == int(hit)
    assert vm.state.eip == (HANDLERS + 2 if hit else CODE + len(code) // 2 + 1)


@pytest.mark.parametrize("down", [False, True])
def test_a_device_is_copied_into_the_page_of_code_that_has_run(vm: Machine, down: bool) -> None:
    """The code behind REP MOVSB has been decoded, and is replaced by what the device reads."""
    vm.remap(Region(0xA0000, 0x1000, RegionKind.MMIO))
    vm.load("43 43 f3a4 43 43 43 43 f4", cx=0, bx=0)
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.bx == 6
    target, device = CODE + 4, bytes.fromhex("4b4b4390")  # dec bx; dec bx; inc bx; nop
    state = real_mode(bx=0, cx=4, si=3 if down else 0, di=target + (3 if down else 0))
    state.ds.base = 0xA0000
    state.rflags |= 0x400 if down else 0
    vm.engine.set_state(state)
    asked = 0
    while (end := vm.run()).reason is ExitReason.MMIO_READ:
        asked += 1
        at = [end.address - 0xA0000 + (-n if end.down else n) for n in range(end.count)]
        vm.engine.answer(bytes(device[n] for n in at))
    assert (end.reason, asked) == (ExitReason.HALT, 1)
    assert bytes(vm.ram[target : target + 4]) == device
    assert vm.state.bx == 1


@pytest.mark.parametrize("name", ["leaf", "subleaf", "eax", "ebx", "ecx", "edx"])
@pytest.mark.parametrize("value", [1 << 32, -1, True, "1"])
def test_a_value_of_cpuid_that_has_no_32_bits_is_refused(name: str, value: object) -> None:
    row = {"leaf": 1, "subleaf": 2, "eax": 0, "ebx": 0, "ecx": 0, "edx": 0} | {name: value}
    where = f"CPUID {name}" if "leaf" in name else f"CPUID leaf 0x1 subleaf 0x2 {name}"
    with pytest.raises(ValueError, match=rf"^{where} is .*, an integer below 2\*\*32 is needed"):
        CpuidEntry(**row)  # type: ignore[arg-type]


def test_both_engines_make_the_same_of_a_configuration() -> None:
    rows = (CpuidEntry(1, 0, 1, 0, 0, 1), CpuidEntry(1, 0, 1, 0, 0, 2))
    assert identity(CpuConfig(rows)).cpuid == {(1, 0): (1, 0, 0, 2)}
    with pytest.raises(ValueError, match="model '8086' is not known, one of 80286, 80386, p6 is needed"):
        identity(CpuConfig(model="8086"))


def test_the_stack_of_an_inner_level_need_not_be_aligned(vm: Machine) -> None:
    """The frame is pushed at the new CPL, where alignment is not checked (SDM vol. 3A, 6.15, interrupt 17)."""
    load_protected(vm, "cd40", cpl=3)
    vm.ram[0x5004:0x500C] = (0x4F03).to_bytes(4, "little") + (0x10).to_bytes(4, "little")
    vm.ram[IDT + 8 * 0x40 + 5] = 0xEE
    state = vm.state
    for seg in state.seg[:6]:
        seg.selector = 0x13
    state.cs.selector = 0x0B
    state.tr.selector, state.tr.base, state.tr.limit, state.tr.attributes = 0x18, 0x5000, 0x67, 0x8B
    state.cr0 |= 1 << 18
    state.rflags |= 1 << 18
    vm.engine.set_state(state)
    vm.run(budget=1)
    assert (vm.state.eip, vm.state.cpl, vm.state.esp) == (0x3040, 0, 0x4F03 - 20)
    assert vm.engine.last_fault[2] != "ALIGNMENT"


def _with_tables_on_a_device(vm: Machine, code: str) -> None:
    """Load a program for 32-bit paging, the page directory on a device."""
    directory, table = 0x30000, 0x31000
    for n in range(256):
        vm.ram[table + 4 * n : table + 4 * n + 4] = (n << 12 | 0x63).to_bytes(4, "little")
    vm.remap(Region(directory, 0x1000, RegionKind.MMIO))
    load_protected(vm, code)
    state = vm.state
    state.cr0, state.cr3 = 0x80000011, directory
    vm.engine.set_state(state)


def test_a_fetch_walks_the_tables_once_for_all_bytes_of_a_page(vm: Machine) -> None:
    """Not once for each byte: page tables on a device show it."""
    _with_tables_on_a_device(vm, "b844332211 f4")
    asked = 0
    while (end := vm.run(budget=not asked)).reason is ExitReason.MMIO_READ:  # a step is paid when it is begun
        assert (end.address, end.size) == (0x30000, 4)
        vm.engine.answer((0x31000 | 0x63).to_bytes(4, "little"))
        asked += 1
    assert (end.instructions, vm.state.eax, asked) == (1, 0x11223344, 1)


def test_an_address_to_be_touched_says_nothing_about_the_fetch_of_a_later_instruction(vm: Machine) -> None:
    """A first instruction that touches another address ends the run; the next run has no such address."""
    vm.load("a30080 f4")
    end = vm.run(mmio=0xA0000)
    assert (end.reason, end.address) == (ExitReason.MMIO_MISMATCH, 0)
    _with_tables_on_a_device(vm, "b844332211 f4")
    end = vm.run(budget=1)
    assert (end.reason, end.address) == (ExitReason.MMIO_READ, 0x30000)
