"""Message ``kick``: at any time, from the shim, ending a run or switching its window."""

import time

import pytest
from live import CODE, real_mode

from dm.protocol.schema import DoneReason, IoKind, Stop


def spin(vm, code="ebfe", state=None, **fields):
    """Start a run that goes on for ever."""
    vm.load(code)
    vm.start(state, **fields)


@pytest.mark.parametrize("stop", [Stop.KICK, Stop.NMI, Stop.RESET])
def test_a_kick_ends_a_spinning_run_soon(vm, stop):
    spin(vm)
    time.sleep(0.02)
    started = time.monotonic()
    vm.kick(stop=stop)
    done = vm.vcpu.receive()
    assert time.monotonic() - started < 0.5  # a slice is under a millisecond; the machine may be busy
    assert (done.reason, done.stop) == (DoneReason.KICKED if stop is Stop.KICK else DoneReason.STOPPED, stop)
    assert done.steps > 0


def test_a_kick_ends_a_repeated_instruction(vm):
    spin(vm, "66 f3 67 aa ebf9", real_mode(ecx=0x7FFFFFFF, edi=0x2000))
    time.sleep(0.01)
    vm.kick()
    assert vm.vcpu.receive().reason in (DoneReason.KICKED, DoneReason.HALT)


def test_a_kick_may_only_open_the_window(vm):
    vm.ram.view[4 * 0x33 : 4 * 0x33 + 4] = bytes.fromhex("00200000")
    vm.ram.view[0x2000] = 0xF4
    spin(vm, state=real_mode(rflags=0x202), acknowledge=True)
    time.sleep(0.01)
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
