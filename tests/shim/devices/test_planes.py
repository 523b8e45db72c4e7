"""The VGA's memory behind the ports, as a program sees it."""

import pytest

from dm.shim.bus import PortBus
from dm.shim.clock import ManualClock
from dm.shim.devices.planes import View
from dm.shim.devices.vga import Vga


@pytest.fixture
def rig():
    """A VGA in mode 12h."""
    bus, ram, maps = PortBus(), bytearray(0xC0000), []
    vgas = []
    vga = Vga(ManualClock(), ram, lambda: maps.extend(each.window for each in vgas))
    vgas.append(vga)
    vga.connect(bus)
    vga.load(0xE3, bytes((3, 1, 15, 0, 6)), bytes(25), bytes(21), bytes((0, 0, 0, 0, 0, 0, 5, 15, 0xFF)))
    return vga, bus, ram, maps


def sequencer(bus, index, value):
    bus.write(0x3C4, 2, bytes((index, value)))


def graphics(bus, index, value):
    bus.write(0x3CE, 2, bytes((index, value)))


def planes(vga, offset=0):
    return [plane[offset] for plane in vga.memory.planes]


def test_map_mask_chooses_planes(rig):
    vga, bus, _, maps = rig
    count = len(maps)
    sequencer(bus, 2, 0b0101)
    vga.write_memory(0xA0000, b"\x3c")
    assert planes(vga) == [0x3C, 0, 0x3C, 0]
    assert len(maps) == count, "no new memory map for it"


def test_read_map_and_latches(rig):
    vga, bus, _, _ = rig
    for i in range(4):
        vga.memory.planes[i][5] = 0x10 + i
    graphics(bus, 4, 2)
    assert vga.read_memory(0xA0005) == 0x12
    graphics(bus, 5, 1)  # write mode 1: the latches
    vga.write_memory(0xA0009, b"\0")
    assert planes(vga, 9) == [0x10, 0x11, 0x12, 0x13]


def test_bit_mask_keeps_latched_bits(rig):
    vga, bus, _, _ = rig
    vga.write_memory(0xA0000, b"\xf0")
    vga.read_memory(0xA0000)
    graphics(bus, 8, 0x0F)
    vga.write_memory(0xA0000, b"\x05")
    assert planes(vga) == [0xF5] * 4


@pytest.mark.parametrize(("function", "result"), [(0x08, 0x30), (0x10, 0xFC), (0x18, 0xCC)])
def test_functions(rig, function, result):
    vga, bus, _, _ = rig
    vga.write_memory(0xA0000, b"\xf0")
    vga.read_memory(0xA0000)
    graphics(bus, 3, function)
    vga.write_memory(0xA0000, b"\x3c")
    assert planes(vga) == [result] * 4


def test_rotation_and_set_reset(rig):
    vga, bus, _, _ = rig
    graphics(bus, 3, 1)
    vga.write_memory(0xA0000, b"\x01")
    assert planes(vga) == [0x80] * 4
    graphics(bus, 0, 0b0010)
    graphics(bus, 1, 0b0011)
    vga.write_memory(0xA0000, b"\x01")
    assert planes(vga) == [0, 0xFF, 0x80, 0x80]


def test_write_modes_2_and_3(rig):
    vga, bus, _, _ = rig
    graphics(bus, 5, 2)
    vga.write_memory(0xA0000, b"\x09")
    assert planes(vga) == [0xFF, 0, 0, 0xFF]
    vga.read_memory(0xA0000)
    graphics(bus, 5, 3)
    graphics(bus, 0, 0b0110)
    vga.write_memory(0xA0000, b"\x0f")
    assert planes(vga) == [0xF0, 0x0F, 0x0F, 0xF0]


def test_colour_compare(rig):
    vga, bus, _, _ = rig
    for i, value in enumerate((0xF0, 0xCC, 0, 0)):
        vga.memory.planes[i][0] = value
    graphics(bus, 5, 8)
    graphics(bus, 2, 0b0011)
    graphics(bus, 7, 0b1111)
    assert vga.read_memory(0xA0000) == 0xC0
    graphics(bus, 7, 0b0001)
    assert vga.read_memory(0xA0000) == 0xF0


def test_chain_4_is_plain_memory_until_something_is_special(rig):
    vga, bus, ram, maps = rig
    sequencer(bus, 4, 0x0E)
    assert vga.window.view is View.CHAIN4
    ram[0xA0000:0xA0008] = bytes(range(1, 9))
    sequencer(bus, 4, 0x06)  # mode X
    assert [planes(vga, 0), planes(vga, 4)] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    vga.memory.planes[2][4] = 0x77
    sequencer(bus, 4, 0x0E)
    assert ram[0xA0000:0xA0008] == bytes((1, 2, 3, 4, 5, 6, 0x77, 8))
    sequencer(bus, 2, 1)
    assert vga.window.view is View.LATCHED
    vga.write_memory(0xA0000, b"\xaa\xbb")
    assert [planes(vga, 0), planes(vga, 4)] == [[0xAA, 2, 3, 4], [5, 6, 0x77, 8]]
    assert vga.read_memory(0xA0006) == 0x77
    assert [w.view for w in maps[-4:]] == [View.CHAIN4, View.LATCHED, View.CHAIN4, View.LATCHED]


def test_outside_the_window_there_is_nothing(rig):
    vga, _, _, _ = rig
    vga.write_memory(0xB8000, b"x")
    assert all(not any(plane) for plane in vga.memory.planes)
    assert vga.read_memory(0xB8000) == 0xFF


def test_any_register_values_are_survived(rig):
    vga, bus, _, _ = rig
    for misc in (0, 3, 0xFF):
        bus.write(0x3C2, 1, bytes((misc,)))
        for port in (0x3C4, 0x3CE):
            for index in range(16):
                for value in (0, 1, 2, 4, 8, 0x5A, 0xFF):
                    bus.write(port, 2, bytes((index, value)))
                    for address in (0xA0000, 0xAFFFF, 0xB0000, 0xB7FFF, 0xBFFFF):
                        vga.write_memory(address, b"\x5a")
                        assert 0 <= vga.read_memory(address) <= 255
