"""What a guest can make endless ends with the budget, and paging structures may lie in a device."""

from guest import HLT, protected_mode

from dm.engine.api import ExitReason, Region, RegionKind


def test_a_breakpoint_on_its_own_handler_uses_the_budget_up(vm):
    """#DB goes to its handler, whose first byte has the breakpoint: no instruction is ever completed."""
    vm.load(HLT)
    state = vm.state
    state.dr[0], state.dr7 = 0x1001, 0x402  # the handler of vector 1, global
    state.rip = 0x1001
    vm.engine.set_state(state)
    end = vm.run(budget=50)
    assert end.reason is ExitReason.BUDGET
    assert (end.steps, end.instructions) == (50, 0)


def test_an_instruction_fetch_may_walk_tables_in_a_device(vm):
    """Both levels are asked of the device, in order, and the answers are entries, not code bytes."""
    tables = 0x40000000
    vm.remap(Region(tables, 0x2000, RegionKind.MMIO))
    state = protected_mode()
    state.cr0, state.cr3 = 0x80000011, tables
    vm.load(bytes.fromhex("b82a000000") + HLT, state)  # mov eax, 42
    entries = {tables: tables + 0x1000 | 0x67, tables + 0x1000 + 4 * 7: 0x7067}
    asked = []

    def answer(end):
        asked.append(end.address)
        return entries[end.address].to_bytes(4, "little")

    vm.until_halt(answer)
    assert vm.state.eax == 42
    assert asked[:2] == [tables, tables + 0x1000 + 4 * 7]
    assert set(asked) == set(entries)
