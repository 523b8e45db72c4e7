"""Message ``memory-map``: generations, checks, and runs that are under way."""

import time

import pytest
from live import DEVICE, MAP, real_mode

from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import DoneReason, ErrorClass, IoKind, Kind, Map, Region, Stop


@pytest.mark.parametrize("generation", [0, 1])
def test_generations_grow(vm, generation):
    vm.set_map()
    error = vm.request(schema.MemoryMap, map=Map(vm.generation - generation, list(MAP), True))
    assert (error.error, error.field) == (ErrorClass.BAD_GENERATION, "map.generation")


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        ([Region(0, 4096, Kind.RAM, 9)], "ram 9 is not known"),
        ([Region(0, 8192, Kind.RAM, 1), Region(4096, 4096, Kind.MMIO)], "must not overlap"),
        ([Region(4096, 4096, Kind.MMIO), Region(0, 4096, Kind.MMIO)], "must be sorted"),
        ([Region(5, 4096, Kind.MMIO)], "multiples of 4096"),
        ([Region(0, 0, Kind.MMIO)], "multiples of 4096"),
        ([Region(0, 1 << 30, Kind.RAM, 1)], "backing has 0x100000 bytes"),
        ([Region((1 << 64) - 4096, 4096, Kind.MMIO)], "beyond 52 bits"),
    ],
)
def test_a_wrong_map_changes_nothing(vm, regions, text):
    error = vm.request(schema.MemoryMap, map=vm.map(regions))
    assert error.error is ErrorClass.BAD_MEMORY
    assert text in error.text + error.expected
    vm.generation -= 1
    _, done = vm.run("fe060020 f4")
    assert (done.reason, vm.ram.view[0x2000]) == (DoneReason.HALT, 1)


def test_too_many_regions_are_refused(vm):
    regions = [Region(n << 12, 4096, Kind.MMIO) for n in range(schema.MAX_REGIONS + 1)]
    with pytest.raises(ProtocolError, match="at most 1024 values"):
        vm.request(schema.MemoryMap, map=vm.map(regions))
    vm.generation -= 1


def test_a_running_vcpu_takes_a_new_map_up(vm):
    """It spins on a byte that the next map takes from elsewhere in RAM."""
    vm.ram.view[0x22000] = 1
    vm.load("803e002000 74f9 f4")  # wait until byte [2000h] is not 0
    vm.start()
    time.sleep(0.02)
    assert vm.vcpu.silent()
    regions = [
        Region(0, 0x2000, Kind.RAM, 1),
        Region(0x2000, 0x1000, Kind.RAM, 1, 0x22000),
        Region(0x3000, DEVICE - 0x3000, Kind.RAM, 1, 0x3000),
    ]
    vm.set_map(regions)
    assert vm.vcpu.receive().reason is DoneReason.HALT


def test_a20_off_folds_addresses_of_accesses_and_code(vm):
    vm.set_map(a20=False)
    vm.ram.view[0x100] = 0x42
    seen, _ = vm.run("a00001 f4", None, real_mode(ds=0x100000))
    assert (seen, vm.state.eax & 0xFF) == ([], 0x42)
    state = real_mode()
    state.cs.base = 0x100000
    _, done = vm.run("40 f4", None, state)
    assert (done.reason, vm.state.eax) == (DoneReason.HALT, 1)


def test_an_empty_map_asks_for_everything(vm):
    vm.set_map([])
    io = vm.emulate()
    assert (io.kind, io.address) == (IoKind.MMIO_READ, 0x7C00)
    vm.answer(io, data=b"\xf4" + bytes(io.size * io.count - 1), stop=Stop.NONE)
