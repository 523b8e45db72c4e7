"""Message ``kick``: at any time, from the shim, ending a run or switching its window."""

import time

import pytest
from live import CODE, real_mode

from dm.protocol.schema import DoneReason, IoKind, Stop


def spin(vm, code="", state=None, **fields):
    """Start a run that goes on for ever, and wait until it is under way."""
    vm.load(f"c606 0040 01 {code} ebfe")  # mov byte [4000h],1
    vm.start(state, **fields)
    while not vm.ram.view[0x4000]:
        time.sleep(0.001)


@pytest.mark.parametrize("stop", [Stop.KICK, Stop.NMI, Stop.RESET])
def test_a_kick_ends_a_spinning_run(vm, stop):
    spin(vm)
    vm.kick(stop=stop)
    done = vm.vcpu.receive()
    assert (done.reason, done.stop) == (DoneReason.KICKED if stop is Stop.KICK else DoneReason.STOPPED, stop)
    assert done.steps > 0


def test_a_kick_ends_repeated_instructions(vm):
    spin(vm, "b9ffff f3ac ebf9")  # mov cx,0FFFFh; rep lodsb; jmp to the first
    vm.kick()
    _, done = vm.finish(vm.vcpu.receive())
    assert (done.reason, CODE < vm.state.rip < CODE + 14) == (DoneReason.KICKED, True)


def test_a_kick_may_only_open_the_window(vm):
    vm.ram.view[4 * 0x33 : 4 * 0x33 + 4] = bytes.fromhex("00200000")
    vm.ram.view[0x2000] = 0xF4
    spin(vm, state=real_mode(rflags=0x202), acknowledge=True)
    vm.kick(stop=Stop.NONE, window=True)
    io = vm.vcpu.receive()
    assert io.kind is IoKind.INTERRUPT_ACK
    _, done = vm.finish(vm.answer(io, data=b"\x33"))
    assert (done.reason, vm.state.rip) == (DoneReason.HALT, 0x2001)


def test_a_kick_waits_for_an_open_question(vm):
    vm.load("e460 a20020 ebfe")
    io = vm.emulate()
    vm.kick()
    assert vm.vcpu.silent()
    _, done = vm.finish(vm.answer(io, data=b"\x66"))
    assert (done.reason, vm.state.rip, vm.state.eax & 0xFF) == (DoneReason.KICKED, CODE + 2, 0x66)


def test_a_kick_for_a_run_that_is_over_is_ignored(vm):
    vm.load("f4")
    vm.emulate()
    vm.kick()
    assert vm.vcpu.silent()
    vm.load("40 40 f4")
    _, done = vm.finish(vm.emulate())
    assert (done.reason, done.instructions) == (DoneReason.HALT, 3)
