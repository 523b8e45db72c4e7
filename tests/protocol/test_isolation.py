"""Machines do not wait for each other: one that is busy, stopped, or does not answer holds up no other's requests.

How long requests take beside another machine is for ``x86-dm bench --only busy`` to show; here is what comes before
what.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time

import pytest
from live import CODE, Vm, real_mode

from dm.protocol.schema import DoneReason, Io
from dm.shim import Kind, Ram, Region, Shim

#: A program that counts at COUNT for ever: inc dword [COUNT]; jmp to it.
COUNT = 0x2000
COUNTING = b"\x66\xff\x06\x00\x20\xeb\xf9"


@contextlib.contextmanager
def machine(endpoint, code, vcpus=1):
    """A session whose program is ``code``; yields its memory and its vCPUs."""
    with Shim.connect(endpoint) as shim, Ram(1 << 20) as ram:
        ram.view[CODE : CODE + len(code)] = code
        shim.set_map([Region(0, ram.size, Kind.RAM, shim.add_ram(ram))])
        yield ram.view, *(shim.create_vcpu(number) for number in range(vcpus))


def requests(vcpu, at=CODE, count=300):
    """Make requests of one instruction; returns their median time in milliseconds, to be shown only."""
    times = []
    for _ in range(count):
        state = real_mode(at)
        started = time.perf_counter()
        assert vcpu.run(state, steps=1).reason is DoneReason.BUDGET
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def wait_for_progress(memory):
    """Wait until a counting program has counted on."""
    before = bytes(memory[COUNT : COUNT + 4])
    while bytes(memory[COUNT : COUNT + 4]) == before:
        time.sleep(0.001)


@contextlib.contextmanager
def counting(memory, vcpu):
    """A vCPU that runs: it has begun before what comes within, and is not at its end when that is over."""
    ends = []
    thread = threading.Thread(target=lambda: ends.append(vcpu.run(real_mode())))
    thread.start()
    try:
        wait_for_progress(memory)
        yield
        wait_for_progress(memory)
        assert not ends, "its only end is the kick to come"
    finally:
        vcpu.kick()
        thread.join(100)
    assert [done.reason for done in ends] == [DoneReason.KICKED]


@contextlib.contextmanager
def busy(endpoint):
    """Another machine, in the middle of one run."""
    with machine(endpoint, COUNTING) as (memory, vcpu), counting(memory, vcpu):
        yield


@contextlib.contextmanager
def unanswered(endpoint):
    """Another machine, whose shim does not answer a question meanwhile."""
    with Vm(endpoint) as vm:
        vm.load("e460 f4")
        io = vm.emulate()
        assert isinstance(io, Io)
        yield
        assert vm.vcpu.silent(), "its question is still open"
        _, done = vm.finish(vm.answer(io, data=b"\x01"))
        assert done.reason is DoneReason.HALT


@contextlib.contextmanager
def stopped(endpoint):
    """Another machine, whose shim has run and reads nothing meanwhile: its answers pile up."""
    with Vm(endpoint) as vm:
        vm.load("f4")
        done = vm.emulate()
        for _ in range(3000):  # repeated requests, answered from the record
            vm.vcpu.send(vm.sent)
        yield
        assert vm.vcpu.receive() == done, "what piled up is there"


@pytest.mark.parametrize("other", [busy, unanswered, stopped])
def test_requests_are_answered_while_another_machine_is_not_done(live_daemon, other, record_property):
    with machine(live_daemon.endpoint, b"\x90") as (_, vcpu):
        alone = requests(vcpu)
        with other(live_daemon.endpoint):
            beside = requests(vcpu)
    record_property("milliseconds", f"alone {alone:.3f}, beside {other.__name__} {beside:.3f}")


def test_requests_are_answered_while_a_sister_vcpu_is_not_done(live_daemon):
    """Two vCPUs of one session, in one process."""
    with machine(live_daemon.endpoint, COUNTING, vcpus=2) as (memory, vcpu, sister):
        memory[0x5000] = 0x90
        with counting(memory, sister):
            requests(vcpu, 0x5000)
