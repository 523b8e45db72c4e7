"""INT 70h, and INT 1Ah time of day except for the ticks, which are ROM code (IBM PC/AT Technical Reference)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from dm.shim.bios.bda import Bda
from dm.shim.bios.call import BiosCall
from dm.shim.devices import rtc
from dm.shim.devices.rtc import Rtc

#: Ticks of 65,536/1,193,182 s in a day, as the BIOS counts them.
TICKS_PER_DAY = 0x1800B0


class Timer:
    """Time of day and the clock's own interrupt."""

    def __init__(self, bda: Bda, clock: Rtc, end_of_interrupt: Callable[[int], None]) -> None:
        self._bda, self._rtc, self._eoi = bda, clock, end_of_interrupt

    def reset(self) -> None:
        """Set the tick count from the clock, as POST does."""
        t = self._rtc.time
        seconds = t.hour * 3600 + t.minute * 60 + t.second
        self._bda.ticks = seconds * TICKS_PER_DAY // 86400

    def clock_interrupt(self, call: BiosCall) -> None:
        """Answer INT 70h: acknowledge the clock; alarm and periodic users poll or hook it themselves."""
        self._rtc.read(rtc.C)
        self._eoi(8)
        call.finish()

    def service(self, call: BiosCall) -> None:
        """Answer one INT 1Ah that is not about ticks; unknown ones, the PCI BIOS (AH=B1h) among them, return CF."""
        function = call.ah
        handler = {
            2: self._get_time, 3: self._set_time, 4: self._get_date,
            5: self._set_date, 6: self._set_alarm, 7: self._clear_alarm,
        }.get(function)  # fmt: skip
        if handler:
            handler(call)
        else:
            call.carry(True)
        call.finish()

    def _get_time(self, call: BiosCall) -> None:
        t = self._rtc.time
        call.ch, call.cl, call.dh, call.dl = _bcd(t.hour), _bcd(t.minute), _bcd(t.second), 0
        call.succeed()

    def _set_time(self, call: BiosCall) -> None:
        self._change(call, hour=call.ch, minute=call.cl, second=call.dh)

    def _get_date(self, call: BiosCall) -> None:
        t = self._rtc.time
        call.ch, call.cl, call.dh, call.dl = _bcd(t.year // 100), _bcd(t.year % 100), _bcd(t.month), _bcd(t.day)
        call.succeed()

    def _set_date(self, call: BiosCall) -> None:
        century, year = _binary(call.ch), _binary(call.cl)
        if century is None or year is None:
            call.fail(0)
            return
        self._change(call, year=century * 100 + year, month=call.dh, day=call.dl)

    def _change(self, call: BiosCall, *, year: int | None = None, **parts: int) -> None:
        values = {name: _binary(value) for name, value in parts.items()}
        try:
            if None in values.values():
                raise ValueError("not BCD")
            new = {name: value for name, value in values.items() if value is not None}
            if year is not None:
                new["year"] = year
            self._rtc.time = _replaced(self._rtc.time, new)
            call.succeed()
        except ValueError:
            call.carry(True)

    def _set_alarm(self, call: BiosCall) -> None:
        if self._rtc.cmos[rtc.B] & 0x20:
            call.fail(0)
            return
        for register, value in ((1, call.dh), (3, call.cl), (5, call.ch)):
            self._rtc.write(register, value)
        self._rtc.write(rtc.B, self._rtc.cmos[rtc.B] | 0x20)
        call.succeed()

    def _clear_alarm(self, call: BiosCall) -> None:
        self._rtc.write(rtc.B, self._rtc.cmos[rtc.B] & ~0x20)
        call.succeed()


def _replaced(time: datetime, parts: dict[str, int]) -> datetime:
    fields = {name: getattr(time, name) for name in ("year", "month", "day", "hour", "minute", "second")}
    return datetime(**(fields | parts))


def _bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def _binary(bcd: int) -> int | None:
    """Return the value of a BCD byte, None if it is not BCD."""
    high, low = bcd >> 4, bcd & 15
    return high * 10 + low if high < 10 and low < 10 else None
