from datetime import datetime

import pytest

from dm.shim.bios.timer import TICKS_PER_DAY


def test_post_sets_ticks_from_the_clock(bench):
    result = bench.interrupt(0x1A, ax=0)
    assert result.cx << 16 | result.dx == (24 * 3600 - 2) * TICKS_PER_DAY // 86400
    assert result.al == 0


def test_tick_counts_and_rolls_over_at_midnight(bench):
    bench.interrupt(0x1A, ax=0x0100, cx=(TICKS_PER_DAY - 2) >> 16, dx=(TICKS_PER_DAY - 2) & 0xFFFF)
    assert bench.interrupt(0x08).returned
    assert bench.pc.bda.ticks == TICKS_PER_DAY - 1
    bench.interrupt(0x08)
    result = bench.interrupt(0x1A, ax=0)
    assert (result.cx, result.dx, result.al) == (0, 0, 1)
    assert bench.interrupt(0x1A, ax=0).al == 0, "the midnight flag reads once"


def test_tick_is_acknowledged(bench):
    bench.pc.pic.pulse(0)
    assert bench.pc.pic.acknowledge() == 8
    bench.interrupt(0x08)
    assert bench.pc.pic.master.isr == 0


def test_tick_calls_the_guests_own_handler(bench):
    bench.memory.write(0x20000, bytes.fromhex("2eff061000 cf"))  # inc word cs:[10h]; iret
    bench.memory.write_int(0x1C * 4, 4, 0x2000_0000)
    bench.pc.pic.pulse(0)
    bench.pc.pic.acknowledge()
    bench.pc.bda.motor_ticks = 3
    assert bench.interrupt(0x08, eax=0x12345678, edx=0x9ABCDEF0).returned
    assert bench.memory.read_int(0x20010, 2) == 1
    assert bench.pc.bda.motor_ticks == 2
    assert bench.pc.pic.master.isr == 0
    assert (bench.state.eax, bench.state.edx) == (0x12345678, 0x9ABCDEF0)


def test_reading_time_and_date(bench):
    result = bench.interrupt(0x1A, ax=0x0200)
    assert (result.cf, result.cx, result.dh) == (False, 0x2359, 0x58)
    result = bench.interrupt(0x1A, ax=0x0400)
    assert (result.cf, result.cx, result.dx) == (False, 0x1999, 0x1231)


def test_setting_time_and_date(bench):
    assert not bench.interrupt(0x1A, ax=0x0500, cx=0x2024, dx=0x0229).cf
    assert not bench.interrupt(0x1A, ax=0x0300, cx=0x1234, dx=0x5600).cf
    assert bench.pc.rtc.time == datetime(2024, 2, 29, 12, 34, 56)


@pytest.mark.parametrize(
    ("ax", "cx", "dx"), [(0x0500, 0x2023, 0x0229), (0x0500, 0x20AA, 0x0101), (0x0300, 0x2400, 0), (0x0300, 0x1A00, 0)]
)
def test_impossible_times_are_refused(bench, ax, cx, dx):
    before = bench.pc.rtc.time
    assert bench.interrupt(0x1A, ax=ax, cx=cx, dx=dx).cf
    assert bench.pc.rtc.time == before


def test_alarm_is_set_once(bench):
    assert not bench.interrupt(0x1A, ax=0x0600, cx=0x0000, dx=0x0000).cf
    assert bench.interrupt(0x1A, ax=0x0600, cx=0x0000, dx=0x0000).cf
    assert not bench.interrupt(0x1A, ax=0x0700).cf
    assert not bench.interrupt(0x1A, ax=0x0600, cx=0, dx=0).cf


def test_pci_bios_is_absent(bench):
    assert bench.interrupt(0x1A, ax=0xB101).cf
