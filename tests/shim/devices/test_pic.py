import pytest

from dm.shim.bus import PortBus
from dm.shim.devices.pic import PicPair


@pytest.fixture
def pics():
    pair, bus = PicPair(), PortBus()
    pair.connect(bus)
    pair.bus = bus
    for port, values in ((0x20, (0x11,)), (0x21, (0x08, 4, 1)), (0xA0, (0x11,)), (0xA1, (0x70, 2, 1))):
        for value in values:
            bus.write(port, 1, bytes((value,)))
    out(pair, 0x21, 0)
    out(pair, 0xA1, 0)
    return pair


def out(pair, port, value):
    pair.bus.write(port, 1, bytes((value,)))


def read(pair, port):
    return pair.bus.read(port, 1)[0]


def test_master_and_slave_vectors(pics):
    pics.set_irq(1, True)
    assert pics.pending
    assert pics.acknowledge() == 0x09
    pics.set_irq(1, False)
    assert not pics.pending
    pics.set_irq(12, True)
    assert not pics.pending, "IRQ 2's line is below IRQ 1, which is in service"
    out(pics, 0x20, 0x20)
    assert pics.acknowledge() == 0x74


def test_masked_request_waits_for_unmask(pics):
    out(pics, 0x21, 0x02)
    pics.set_irq(1, True)
    assert not pics.pending
    out(pics, 0x21, 0)
    assert pics.acknowledge() == 9


def test_higher_priority_interrupts_lower_but_not_the_other_way(pics):
    pics.set_irq(4, True)
    assert pics.acknowledge() == 0x0C
    pics.set_irq(5, True)
    assert not pics.pending
    pics.set_irq(0, True)
    assert pics.acknowledge() == 0x08
    out(pics, 0x20, 0x20)
    assert not pics.pending
    out(pics, 0x20, 0x20)
    assert pics.acknowledge() == 0x0D


def test_edge_triggered_line_requests_once(pics):
    pics.set_irq(3, True)
    assert pics.acknowledge() == 0x0B
    out(pics, 0x20, 0x20)
    assert not pics.pending
    pics.pulse(3)
    assert pics.pending


def test_level_triggered_line_requests_again_after_eoi(pics):
    out(pics, 0x4D0, 0xFF)
    assert read(pics, 0x4D0) == 0xF8, "lines 0 to 2 are always edge triggered"
    pics.set_irq(5, True)
    pics.acknowledge()
    out(pics, 0x20, 0x20)
    assert pics.pending
    pics.set_irq(5, False)
    assert not pics.pending


def test_request_withdrawn_before_acknowledge_is_spurious(pics):
    pics.set_irq(4, True)
    pics.set_irq(4, False)
    assert pics.acknowledge() == 0x0F
    out(pics, 0x20, 0x0B)
    assert read(pics, 0x20) == 0, "a spurious interrupt is not in service"


def test_irr_and_isr_read_back(pics):
    pics.set_irq(6, True)
    out(pics, 0x20, 0x0A)
    assert read(pics, 0x20) == 0x40
    pics.acknowledge()
    assert read(pics, 0x20) == 0
    out(pics, 0x20, 0x0B)
    assert read(pics, 0x20) == 0x40
    out(pics, 0x20, 0x60 | 6)
    assert read(pics, 0x20) == 0


def test_automatic_eoi(pics):
    for port, value in ((0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 3)):
        out(pics, port, value)
    pics.set_irq(0, True)
    assert pics.acknowledge() == 8
    pics.pulse(0)
    assert pics.pending


def test_rotation_gives_the_served_line_lowest_priority(pics):
    pics.set_irq(0, True)
    pics.acknowledge()
    pics.pulse(0)
    pics.set_irq(7, True)
    out(pics, 0x20, 0xA0)
    assert pics.acknowledge() == 0x0F, "line 0 is now behind line 7"


def test_special_mask_mode_lets_lower_lines_through(pics):
    pics.set_irq(1, True)
    pics.acknowledge()
    out(pics, 0x21, 0x02)
    pics.set_irq(5, True)
    assert not pics.pending
    out(pics, 0x20, 0x68)
    assert pics.acknowledge() == 0x0D


def test_poll_command_acknowledges(pics):
    pics.set_irq(5, True)
    out(pics, 0x20, 0x0C)
    assert read(pics, 0x20) == 0x85
    assert not pics.pending


def test_initialisation_drops_requests_and_mask(pics):
    pics.set_irq(3, True)
    out(pics, 0x21, 0xFF)
    out(pics, 0x20, 0x11)
    assert not pics.pending
    for value in (0x20, 4, 1):
        out(pics, 0x21, value)
    assert read(pics, 0x21) == 0
    pics.pulse(3)
    assert pics.acknowledge() == 0x23


def test_firmware_eoi_ends_both(pics):
    pics.set_irq(8, True)
    assert pics.acknowledge() == 0x70
    pics.end_of_interrupt(8)
    assert pics.slave.isr == pics.master.isr == 0
