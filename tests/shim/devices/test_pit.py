import pytest

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, ManualClock
from dm.shim.devices.pit import FREQUENCY, Pit


class Rig:
    def __init__(self):
        self.clock, self.bus, self.ticks = ManualClock(), PortBus(), 0
        self.pit = Pit(self.clock, self._tick)
        self.pit.connect(self.bus)

    def _tick(self):
        self.ticks += 1

    def out(self, port, *values):
        for value in values:
            self.bus.write(port, 1, bytes((value,)))

    def read(self, port):
        return self.bus.read(port, 1)[0]

    def at(self, clocks):
        """Go to the moment when exactly ``clocks`` input clocks have passed since the start."""
        target = -(-clocks * SECOND // FREQUENCY)
        self.clock.advance(target - self.clock.now())


@pytest.fixture
def rig():
    return Rig()


def test_rate_generator_ticks_once_a_period(rig):
    rig.out(0x43, 0x34)
    rig.out(0x40, 1000 & 0xFF, 1000 >> 8)
    rig.at(999)
    rig.pit.update()
    assert rig.ticks == 0
    rig.at(1000)
    rig.pit.update()
    rig.pit.update()
    assert rig.ticks == 1
    rig.at(2500)
    rig.pit.update()
    assert rig.ticks == 2


def test_next_event_is_the_time_to_the_next_edge(rig):
    assert rig.pit.next_event() is None
    rig.out(0x43, 0x36)
    rig.out(0x40, 0, 0)
    assert rig.pit.next_event() == -(-65536 * SECOND // FREQUENCY)
    rig.clock.advance(rig.pit.next_event())
    assert rig.pit.next_event() == 0
    rig.pit.update()
    assert rig.ticks == 1


def test_one_shot_fires_once(rig):
    rig.out(0x43, 0x30)
    rig.out(0x40, 100, 0)
    rig.at(100)
    rig.pit.update()
    rig.at(70000)
    rig.pit.update()
    assert rig.ticks == 1
    assert rig.pit.next_event() is None


def test_latched_count_stands_still_until_read(rig):
    rig.out(0x43, 0x34)
    rig.out(0x40, 0xE8, 0x03)
    rig.at(100)
    rig.out(0x43, 0x00)
    rig.at(200)
    rig.out(0x43, 0x00)
    assert rig.read(0x40) | rig.read(0x40) << 8 == 900
    assert rig.read(0x40) | rig.read(0x40) << 8 == 800


def test_square_wave_counts_by_two_and_halves_the_output(rig):
    rig.out(0x61, 1)
    rig.out(0x43, 0xB6)
    rig.out(0x42, 100, 0)
    rig.at(10)
    assert rig.read(0x42) == 80
    assert rig.read(0x61) & 0x20
    rig.at(60)
    assert not rig.read(0x61) & 0x20


def test_channel_2_waits_for_its_gate_and_shows_its_output(rig):
    rig.out(0x61, 0)
    rig.out(0x43, 0xB0)
    rig.out(0x42, 50, 0)
    assert not rig.read(0x61) & 0x20
    rig.at(49)
    assert not rig.read(0x61) & 0x20
    rig.at(50)
    assert rig.read(0x61) & 0x20


def test_gate_edge_starts_the_one_shot_mode(rig):
    rig.out(0x61, 0)
    rig.out(0x43, 0xB2)
    rig.out(0x42, 50, 0)
    rig.at(100)
    rig.out(0x61, 1)
    rig.at(149)
    assert not rig.read(0x61) & 0x20
    rig.at(151)
    assert rig.read(0x61) & 0x20


def test_refresh_bit_toggles(rig):
    first = rig.read(0x61) & 0x10
    rig.at(18)
    assert rig.read(0x61) & 0x10 != first


def test_read_back_gives_status_then_count(rig):
    rig.out(0x43, 0x34)
    rig.out(0x40, 0xE8, 0x03)
    rig.at(8)
    rig.out(0x43, 0xC2)
    assert rig.read(0x40) == 0x80 | 0x34
    assert rig.read(0x40) | rig.read(0x40) << 8 == 992


def test_bcd_counts_in_tens(rig):
    rig.out(0x43, 0x35)
    rig.out(0x40, 0x00, 0x10)
    rig.at(1)
    rig.out(0x43, 0x00)
    assert rig.read(0x40) | rig.read(0x40) << 8 == 0x0999


@pytest.mark.parametrize(("access", "data", "count"), [(0x14, (200,), 200), (0x24, (1,), 256)])
def test_single_byte_counts(rig, access, data, count):
    rig.out(0x43, access)
    rig.out(0x40, *data)
    rig.at(count)
    rig.pit.update()
    assert rig.ticks == 1
