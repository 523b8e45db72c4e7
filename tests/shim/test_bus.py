import pytest

from dm.shim.bus import PortBus


def test_absent_ports_read_all_ones_and_ignore_writes():
    bus = PortBus()
    bus.write(0x300, 2, b"\x12\x34")
    assert bus.read(0x300, 4) == b"\xff" * 4


def test_wide_access_reaches_consecutive_byte_ports():
    bus, written = PortBus(), []
    bus.add((0x300, 0x301), lambda port: port & 0xFF, lambda port, value: written.append((port, value)))
    assert bus.read(0x300, 2) == b"\x00\x01"
    assert bus.read(0x301, 2) == b"\x01\xff"
    bus.write(0x300, 2, b"\xaa\xbb")
    assert written == [(0x300, 0xAA), (0x301, 0xBB)]


def test_string_access_repeats_the_same_port():
    bus, written = PortBus(), []
    values = iter(range(10))
    bus.add((0x60,), lambda _: next(values), lambda port, value: written.append((port, value)))
    assert bus.read(0x60, 1, 4) == bytes((0, 1, 2, 3))
    bus.write(0x60, 1, b"abc")
    assert written == [(0x60, 0x61), (0x60, 0x62), (0x60, 0x63)]


def test_access_wraps_at_the_last_port():
    bus = PortBus()
    bus.add((0xFFFF,), lambda _: 1, None)
    bus.add((0,), lambda _: 2, None)
    assert bus.read(0xFFFF, 2) == b"\x01\x02"


@pytest.mark.parametrize("ports", [(0x60,), (0x5F, 0x60)])
def test_a_taken_port_is_refused_and_nothing_is_connected(ports):
    bus = PortBus()
    bus.add((0x60,), lambda _: 0, None)
    with pytest.raises(ValueError, match="0x60 is taken"):
        bus.add(ports, lambda _: 1, None)
    assert bus.read(0x5F, 1) == b"\xff"


def test_port_number_is_checked():
    with pytest.raises(ValueError, match="0x10000"):
        PortBus().add((0x10000,), lambda _: 0, None)
