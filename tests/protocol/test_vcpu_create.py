"""Messages ``vcpu-create``, ``vcpu-ready`` and ``vcpu-destroy``."""

import os
import stat

import pytest
from harness import Peer, eventually, groups
from live import real_mode

from dm.protocol import schema
from dm.protocol.schema import Cpuid, Done, Emulate, ErrorClass, Ok, VcpuReady


def test_each_vcpu_has_an_endpoint_of_its_own(vm):
    ready = vm.request(schema.VcpuCreate, vcpu=7)
    assert isinstance(ready, VcpuReady)
    assert ready.endpoint != vm.endpoint
    path = ready.endpoint.removeprefix("ipc://")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert isinstance(vm.request(schema.VcpuDestroy, vcpu=7), Ok)
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"vcpu": 0}, ErrorClass.BUSY, "vcpu"),
        ({"vcpu": schema.MAX_VCPUS}, ErrorClass.LIMIT, "vcpu"),
        ({"vcpu": 9, "model": "z80"}, ErrorClass.BAD_MESSAGE, "model"),
    ],
)
def test_wrong_ones_are_refused(vm, fields, error, field):
    refusal = vm.request(schema.VcpuCreate, **fields)
    assert (refusal.error, refusal.field) == (error, field)


def test_destroying_what_is_not_there_is_refused(vm):
    assert vm.request(schema.VcpuDestroy, vcpu=99).error is ErrorClass.UNKNOWN_VCPU


def test_destroying_gives_up_the_run(vm):
    vm.load("c6 06 00 20 01 eb fe")  # mov byte [2000h],1; jmp $
    vm.start()
    eventually(lambda: vm.ram.view[0x2000])  # a request may still be on its way when the vCPU is no more
    assert isinstance(vm.request(schema.VcpuDestroy, vcpu=0), Ok)
    assert vm.vcpu.receive().error is ErrorClass.ABORTED
    vm.vcpu.close()
    vm.vcpu = None
    vm.begin()


def test_the_guest_sees_the_given_cpuid(vm):
    rows = [Cpuid(0, 0, 1, 0x11111111, 0x22222222, 0x33333333), Cpuid(1, 0, 0x633, 4, 5, 0x8001)]
    ready = vm.request(schema.VcpuCreate, vcpu=3, cpuid=rows)
    vm.load("6631c0 0fa2 f4")
    with Peer(ready.endpoint) as peer:
        ids = {"session": vm.session, "vcpu": 3, "epoch": 1, "seq": 1, "secret": vm.welcome.secret}
        done = peer.ask(Emulate(**ids, generation=vm.generation, state=groups(real_mode())))
    assert isinstance(done, Done)
    assert done.state["general"][:4] == [1, 0x22222222, 0x33333333, 0x11111111]
    vm.request(schema.VcpuDestroy, vcpu=3)


def test_an_old_part_is_made_by_name(vm):
    ready = vm.request(schema.VcpuCreate, vcpu=4, model="80386")
    assert isinstance(ready, VcpuReady)
    vm.request(schema.VcpuDestroy, vcpu=4)
