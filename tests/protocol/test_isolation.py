"""Machines do not wait for each other: one that is busy, stopped, or does not answer delays no other's requests."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time

import pytest
from live import CODE, Vm, real_mode

from dm.protocol.schema import DoneReason
from dm.shim import Kind, Ram, Region, Shim

#: A request may take so much longer beside another machine, and this much at most, in milliseconds.
FACTOR, MOST_MS = 5.0, 20.0


@contextlib.contextmanager
def machine(endpoint, code):
    """A session with one vCPU whose program is ``code``."""
    with Shim.connect(endpoint) as shim, Ram(1 << 20) as ram:
        ram.view[CODE : CODE + len(code)] = code
        shim.set_map([Region(0, ram.size, Kind.RAM, shim.add_ram(ram))])
        yield shim.create_vcpu(0)


def requests(vcpu, count=300):
    """Median time of a request of one instruction, in milliseconds."""
    times = []
    for _ in range(count):
        state = real_mode()
        started = time.perf_counter()
        assert vcpu.run(state, steps=1).reason is DoneReason.BUDGET
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


@contextlib.contextmanager
def busy(endpoint):
    """Another machine that spins."""
    with machine(endpoint, b"\xeb\xfe") as other:
        thread = threading.Thread(target=lambda: other.run(real_mode()))
        thread.start()
        yield
        other.kick()
        thread.join(10)


@contextlib.contextmanager
def unanswered(endpoint):
    """Another machine whose shim does not answer a question."""
    with Vm(endpoint) as vm:
        vm.load("e460 f4")
        io = vm.emulate()
        yield
        vm.finish(vm.answer(io, data=b"\x01"))


@contextlib.contextmanager
def stopped(endpoint):
    """Another machine whose shim has run and reads nothing any more: its answers pile up."""
    with Vm(endpoint) as vm:
        vm.load("f4")
        vm.emulate()
        for _ in range(3000):  # repeated requests, answered from the record, never read
            vm.vcpu.send(vm.sent)
        yield


@pytest.mark.parametrize("other", [busy, unanswered, stopped])
def test_another_machine_does_not_delay_requests(live_daemon, other, record_property):
    with machine(live_daemon.endpoint, b"\x90") as vcpu:
        requests(vcpu, 50)
        alone = requests(vcpu)
        with other(live_daemon.endpoint):
            beside = requests(vcpu)
        alone = max(alone, requests(vcpu))  # whatever else this computer does counts on both sides
    record_property("milliseconds", f"alone {alone:.3f}, beside {other.__name__} {beside:.3f}")
    print(f"alone {alone:.3f} ms, beside a {other.__name__} machine {beside:.3f} ms")
    assert beside < max(FACTOR * alone, MOST_MS)


def test_a_spinning_vcpu_does_not_delay_its_sister(live_daemon):
    """Two vCPUs of one session: the engine releases the interpreter while it runs."""
    with Shim.connect(live_daemon.endpoint) as shim, Ram(1 << 20) as ram:
        ram.view[CODE] = 0x90
        ram.view[0x5000:0x5002] = b"\xeb\xfe"
        shim.set_map([Region(0, ram.size, Kind.RAM, shim.add_ram(ram))])
        vcpu, sister = shim.create_vcpu(0), shim.create_vcpu(1)
        alone = requests(vcpu)
        thread = threading.Thread(target=lambda: sister.run(real_mode(0x5000)))
        thread.start()
        beside = requests(vcpu)
        sister.kick()
        thread.join(10)
        assert beside < max(FACTOR * alone, MOST_MS)
