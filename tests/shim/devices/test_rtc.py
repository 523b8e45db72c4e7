from datetime import datetime

import pytest

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, ManualClock
from dm.shim.devices import rtc
from dm.shim.devices.rtc import Rtc


class Rig:
    def __init__(self):
        self.clock, self.bus, self.irq = ManualClock(), PortBus(), False
        self.rtc = Rtc(self.clock, self._irq, datetime(1999, 12, 31, 23, 59, 58))
        self.rtc.connect(self.bus)

    def _irq(self, level):
        self.irq = level

    def read(self, index):
        self.bus.write(0x70, 1, bytes((index,)))
        return self.bus.read(0x71, 1)[0]

    def write(self, index, value):
        self.bus.write(0x70, 1, bytes((index,)))
        self.bus.write(0x71, 1, bytes((value,)))

    def date(self):
        return tuple(self.read(i) for i in (rtc.CENTURY, rtc.YEAR, rtc.MONTH, rtc.DAY, 4, 2, 0))


@pytest.fixture
def rig():
    return Rig()


def test_time_is_bcd_and_rolls_over(rig):
    assert rig.date() == (0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58)
    rig.clock.advance(2 * SECOND)
    assert rig.date() == (0x20, 0x00, 0x01, 0x01, 0, 0, 0)
    assert rig.read(rtc.WEEKDAY) == 7, "1 January 2000 was a Saturday"


def test_binary_and_twelve_hour_modes(rig):
    rig.write(rtc.B, 0x04)
    assert rig.read(rtc.HOURS) == 0x80 | 11
    rig.write(rtc.B, 0x06)
    assert rig.read(rtc.HOURS) == 23


def test_setting_the_time_with_set_bit(rig):
    rig.write(rtc.B, 0x82)
    for index, value in ((rtc.CENTURY, 0x20), (rtc.YEAR, 0x26), (rtc.MONTH, 2), (rtc.DAY, 0x28), (rtc.HOURS, 0x12)):
        rig.write(index, value)
    rig.clock.advance(5 * SECOND)
    assert rig.date()[:5] == (0x20, 0x26, 0x02, 0x28, 0x12)
    rig.write(rtc.B, 0x02)
    rig.clock.advance(SECOND)
    assert rig.rtc.time == datetime(2026, 2, 28, 12, 59, 59)


def test_an_impossible_date_leaves_the_clock_alone(rig):
    rig.write(rtc.MONTH, 0x13)
    assert rig.read(rtc.MONTH) == 0x12


@pytest.mark.parametrize("century", [0x99, 0x00, 0x18, 0xFF])
def test_years_beyond_reckoning_are_refused(rig, century):
    rig.write(rtc.CENTURY, century)
    rig.clock.advance(3 * SECOND)
    assert rig.date()[:2] == (0x20, 0x00)


def test_update_in_progress_near_the_end_of_a_second(rig):
    assert not rig.read(rtc.A) & 0x80
    rig.clock.advance(SECOND - 100_000)
    assert rig.read(rtc.A) & 0x80


def test_periodic_interrupt_and_its_acknowledge(rig):
    rig.write(rtc.B, 0x42)
    assert rig.rtc.next_event() == pytest.approx(SECOND / 1024, abs=1)
    rig.clock.advance(rig.rtc.next_event())
    rig.rtc.update()
    assert rig.irq
    assert rig.read(rtc.C) == 0xC0
    assert not rig.irq
    assert rig.read(rtc.C) == 0


def test_update_ended_interrupt(rig):
    rig.write(rtc.B, 0x12)
    rig.clock.advance(SECOND)
    rig.rtc.update()
    assert rig.irq
    assert rig.read(rtc.C) & 0x90 == 0x90


def test_alarm_with_wildcards(rig):
    for index, value in ((1, 0x00), (3, 0xC0), (5, 0xFF)):
        rig.write(index, value)
    rig.write(rtc.B, 0x22)
    rig.clock.advance(SECOND)
    rig.rtc.update()
    assert not rig.irq
    rig.clock.advance(SECOND)
    rig.rtc.update()
    assert rig.irq
    assert rig.read(rtc.C) & 0x20


def test_disabled_sources_wait_for_nothing(rig):
    assert rig.rtc.next_event() is None
    rig.clock.advance(10 * SECOND)
    rig.rtc.update()
    assert not rig.irq


def test_cmos_keeps_bytes_over_reset(rig):
    rig.write(0x40, 0xA5)
    rig.write(rtc.B, 0x72)
    rig.rtc.reset()
    assert rig.read(0x40) == 0xA5
    assert rig.read(rtc.B) == 0x02


def test_register_d_says_the_battery_is_good_and_cannot_be_written(rig):
    rig.write(rtc.D, 0)
    assert rig.read(rtc.D) == 0x80


def test_nmi_mask_is_bit_7_of_the_index(rig):
    rig.bus.write(0x70, 1, b"\x8d")
    assert rig.rtc.nmi_masked
    assert rig.bus.read(0x71, 1) == b"\x80"
