import pytest

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, ManualClock
from dm.shim.devices.vga import Vga


@pytest.fixture
def rig():
    clock, bus = ManualClock(), PortBus()
    vga = Vga(clock)
    vga.connect(bus)
    return vga, bus, clock


def out(bus, port, *values):
    for value in values:
        bus.write(port, 1, bytes((value,)))


def test_crtc_cursor_and_start_by_index(rig):
    vga, bus, _ = rig
    bus.write(0x3D4, 2, bytes((0x0E, 0x01)))
    bus.write(0x3D4, 2, bytes((0x0F, 0x23)))
    assert vga.cursor == 0x123
    bus.write(0x3D4, 2, bytes((0x0C, 0x08)))
    bus.write(0x3D4, 2, bytes((0x0D, 0x00)))
    assert vga.start == 0x800
    out(bus, 0x3D4, 0x0F)
    assert bus.read(0x3D5, 1) == b"\x23"


def test_index_beyond_the_last_register_reads_ones(rig):
    _, bus, _ = rig
    out(bus, 0x3D4, 0x40)
    out(bus, 0x3D5, 1)
    assert bus.read(0x3D5, 1) == b"\xff"


def test_cursor_can_be_hidden(rig):
    vga, bus, _ = rig
    assert vga.cursor_visible
    bus.write(0x3D4, 2, bytes((0x0A, 0x20)))
    assert not vga.cursor_visible


def test_status_shows_retrace_once_a_frame(rig):
    _, bus, clock = rig
    seen = set()
    for _ in range(200):
        seen.add(bus.read(0x3DA, 1)[0] & 8)
        clock.advance(SECOND // 70 // 50)
    assert seen == {0, 8}


def test_attribute_flip_flop_resets_on_status_read(rig):
    vga, bus, _ = rig
    bus.read(0x3DA, 1)
    out(bus, 0x3C0, 0x01, 0x3F)
    assert vga.attributes[1] == 0x3F
    out(bus, 0x3C0, 0x02)
    bus.read(0x3DA, 1)
    out(bus, 0x3C0, 0x01)
    assert bus.read(0x3C1, 1) == b"\x3f"


def test_palette_is_written_and_read_in_threes(rig):
    _, bus, _ = rig
    out(bus, 0x3C8, 7)
    out(bus, 0x3C9, 1, 2, 0xFF)
    out(bus, 0x3C7, 7)
    assert bus.read(0x3C9, 1, 3) == b"\x01\x02\x3f"


def test_cursor_shape_scales_to_the_character(rig):
    vga, _, _ = rig
    vga.set_cursor_shape(6, 7, 16)
    assert tuple(vga.crtc.registers[0xA:0xC]) == (12, 15)
    vga.set_cursor_shape(0x20, 7, 16)
    assert not vga.cursor_visible
