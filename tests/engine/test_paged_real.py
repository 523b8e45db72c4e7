"""SVM's paged real mode: PE=0 with PG=1, where page faults are the hypervisor's (APM vol. 2, 15.19)."""

import pytest
from guest import CODE, real_mode

from dm.engine.api import ExitReason
from dm.machine.state import EventType

DIRECTORY, TABLE = 0x20000, 0x21000
ABSENT, READ_ONLY, MOVED = 0x9000, 0xA000, 0xB000
TARGET = 0x40000  # what MOVED is mapped to
WP = 1 << 16


def load(vm, code, **registers):
    """Real mode with the first 4 MiB mapped to themselves, but for three pages."""
    put = vm.ram
    put[DIRECTORY : DIRECTORY + 4] = (TABLE | 7).to_bytes(4, "little")
    for page in range(256):
        entry = page << 12 | 7
        entry = {ABSENT: 0, READ_ONLY: READ_ONLY | 5, MOVED: TARGET | 7}.get(page << 12, entry)
        put[TABLE + 4 * page : TABLE + 4 * page + 4] = entry.to_bytes(4, "little")
    vm.load(code, real_mode(cr0=0x80000010, cr3=DIRECTORY, **registers))


def test_it_is_real_mode_through_page_tables(vm):
    load(vm, "a100b0 8ed8 f4")  # mov ax,[b000h]; mov ds,ax; hlt
    vm.ram[TARGET : TARGET + 2] = b"\x34\x12"
    assert vm.run().reason is ExitReason.HALT
    assert (vm.state.eax & 0xFFFF, vm.state.ds.selector, vm.state.ds.base) == (0x1234, 0x1234, 0x12340)


@pytest.mark.parametrize(
    ("code", "address", "error"),
    [
        ("a10090 f4", ABSENT, 0),  # mov ax,[9000h]
        ("c606009001 f4", ABSENT, 2),  # mov byte [9000h],1
        ("ff0600a0 f4", READ_ONLY, 3),  # inc word [a000h]
        ("ea00900000", ABSENT, 0),  # jmp 0:9000h: the fetch
    ],
)
def test_a_page_fault_ends_the_run_before_the_instruction(vm, code, address, error):
    load(vm, "90" + code)
    state = vm.state
    state.cr0 |= WP
    vm.engine.set_state(state)
    jump = code.startswith("ea")
    done = vm.run()
    assert (done.reason, done.address, done.error) == (ExitReason.PAGE_FAULT, address, error)
    assert (done.steps, vm.state.eip) == ((2, ABSENT) if jump else (1, CODE + 1))
    assert (vm.state.cr2, vm.state.inject_type) == (0, EventType.NONE)
    # The hypervisor provides the page, and the instruction continues as if nothing had happened.
    page = address >> 12
    vm.ram[TABLE + 4 * page : TABLE + 4 * page + 4] = (TARGET | 7).to_bytes(4, "little")
    vm.ram[TARGET] = 0xF4
    vm.engine.set_state(vm.state)
    assert vm.run().reason is ExitReason.HALT


def test_a_page_fault_while_an_event_is_delivered_leaves_the_event(vm):
    load(vm, "cd21 f4", esp=ABSENT + 4)  # int 21h: its third word goes below the page's start
    vm.ram[0x21 * 4 : 0x21 * 4 + 4] = (0x7D00).to_bytes(4, "little")
    vm.ram[0x7D00] = 0xF4
    state = vm.state
    state.inject_type, state.inject_vector = int(EventType.EXTERNAL), 0x21
    vm.engine.set_state(state)
    done = vm.run()
    assert (done.reason, done.error, done.address >> 12) == (ExitReason.PAGE_FAULT, 2, ABSENT >> 12)
    assert (vm.state.inject_type, vm.state.inject_vector, vm.state.eip) == (EventType.EXTERNAL, 0x21, CODE)
    vm.ram[TABLE + 4 * 9 : TABLE + 4 * 9 + 4] = (TARGET | 7).to_bytes(4, "little")
    vm.engine.set_state(vm.state)
    assert vm.run().reason is ExitReason.HALT
    assert (vm.state.eip, vm.state.esp) == (0x7D01, ABSENT - 2)


def test_in_protected_mode_it_is_the_guests(vm):
    load(vm, "a10090 f4")
    state = vm.state
    state.cr0 |= 1
    vm.engine.set_state(state)
    assert vm.run(budget=100).reason is ExitReason.SHUTDOWN  # there is no IDT to speak of
    assert vm.state.cr2 == ABSENT
