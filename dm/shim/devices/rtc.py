"""MC146818 real-time clock with the PC/AT's CMOS memory (Motorola MC146818A data sheet)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, Clock

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
A, B, C, D = 10, 11, 12, 13
SHUTDOWN, CENTURY = 0x0F, 0x32

_PERIODIC, _ALARM, _UPDATE = 0x40, 0x20, 0x10
#: Years a guest may set: far enough from the limits of datetime.
_YEARS = range(1900, 9000)
_TIME = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY))


class Rtc:
    """Clock and 128 bytes of CMOS at 70h/71h; ``irq`` drives IRQ 8."""

    def __init__(self, clock: Clock, irq: Callable[[bool], None], start: datetime | None = None) -> None:
        """``start`` is the date and time shown at guest time 0; None: now, UTC."""
        self._clock, self._irq = clock, irq
        start = start or datetime.now(UTC).replace(tzinfo=None)
        self._epoch = start - timedelta(microseconds=clock.now() // 1000)
        self.cmos = bytearray(128)
        self.nmi_masked = False
        self.cmos[A], self.cmos[B], self.cmos[D] = 0x26, 0x02, 0x80
        self.reset()

    def reset(self) -> None:
        """System reset: interrupts off; time and CMOS keep."""
        self._index = 0
        self.cmos[B] &= ~(_PERIODIC | _ALARM | _UPDATE) & 0xFF
        self._flags = 0
        self._periods = self._period_count()
        self._second = self._clock.now() // SECOND
        self._irq(False)

    def connect(self, bus: PortBus) -> None:
        """Put the chip on ``bus``."""
        bus.add((0x70,), None, lambda _, value: self._select(value))
        bus.add((0x71,), lambda _: self.read(self._index), lambda _, value: self.write(self._index, value))

    def _select(self, value: int) -> None:
        self._index = value & 0x7F
        self.nmi_masked = bool(value & 0x80)

    @property
    def time(self) -> datetime:
        """Date and time now, without zone.  ValueError if it is set to a year that the clock cannot show."""
        return self._epoch + timedelta(microseconds=self._clock.now() // 1000)

    @time.setter
    def time(self, value: datetime) -> None:
        if value.year not in _YEARS:
            raise ValueError(f"the clock cannot show the year {value.year}")
        self._epoch = value - timedelta(microseconds=self._clock.now() // 1000)

    def _encode(self, value: int) -> int:
        return value if self.cmos[B] & 4 else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self.cmos[B] & 4 else (value >> 4) * 10 + (value & 15)

    def _encode_hour(self, hour: int) -> int:
        if self.cmos[B] & 2:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (0x80 if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self.cmos[B] & 2:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def read(self, index: int) -> int:
        """Return CMOS byte ``index`` (7 bits); reading register C clears the interrupt."""
        if index == C:
            self.update()
            value, self._flags = self._flags, 0
            self._irq(False)
            return value
        if index == A:
            # Update in progress during the last 244 us of each second.
            in_progress = self._clock.now() % SECOND > SECOND - 244_000
            return self.cmos[A] & 0x7F | in_progress << 7
        if index in _TIME:
            if self.cmos[B] & 0x80:
                return self.cmos[index]  # SET: the registers do not advance
            return self._time_registers()[index]
        return self.cmos[index]

    def _time_registers(self) -> dict[int, int]:
        t = self.time
        return {
            SECONDS: self._encode(t.second),
            MINUTES: self._encode(t.minute),
            HOURS: self._encode_hour(t.hour),
            WEEKDAY: t.isoweekday() % 7 + 1,
            DAY: self._encode(t.day),
            MONTH: self._encode(t.month),
            YEAR: self._encode(t.year % 100),
            CENTURY: self._encode(t.year // 100),
        }

    def write(self, index: int, value: int) -> None:
        """Write CMOS byte ``index`` (7 bits)."""
        if index in (C, D):
            return
        if index in _TIME:
            if not self.cmos[B] & 0x80:
                self._freeze()
            self.cmos[index] = value
            if not self.cmos[B] & 0x80:
                self._thaw()
            return
        if index == B:
            if value & 0x80 and not self.cmos[B] & 0x80:
                self._freeze()
                value &= ~_UPDATE  # SET clears the update-ended enable
            thaw = self.cmos[B] & 0x80 and not value & 0x80
            self.cmos[B] = value
            if thaw:
                self._thaw()
        elif index == A:
            self.cmos[A] = value & 0x7F
            self._periods = self._period_count()
        else:
            self.cmos[index] = value
        self.update()

    def _freeze(self) -> None:
        for index, value in self._time_registers().items():
            self.cmos[index] = value

    def _thaw(self) -> None:
        """Continue from the time in the registers; an impossible date changes nothing."""
        c = self.cmos
        with contextlib.suppress(ValueError):
            self.time = datetime(
                self._decode(c[CENTURY]) * 100 + self._decode(c[YEAR]),
                self._decode(c[MONTH]),
                self._decode(c[DAY]),
                self._decode_hour(c[HOURS]),
                self._decode(c[MINUTES]),
                self._decode(c[SECONDS]),
            )

    def _period(self) -> int:
        """Return the periodic rate's divider of the 32.768 kHz crystal, 0 when off."""
        rate = self.cmos[A] & 15
        return 0 if not rate else 1 << (rate + 6 if rate < 3 else rate - 1)

    def _period_count(self) -> int:
        period = self._period()
        return self._clock.now() * 32768 // SECOND // period if period else 0

    def _alarm_due(self) -> bool:
        t = self.time
        pairs = ((1, self._encode(t.second)), (3, self._encode(t.minute)), (5, self._encode_hour(t.hour)))
        return all(self.cmos[i] >= 0xC0 or self.cmos[i] == value for i, value in pairs)

    def update(self) -> None:
        """Set the flags whose time has come and drive the interrupt line."""
        periods = self._period_count()
        if periods != self._periods:
            self._periods = periods
            self._flags |= _PERIODIC
        second = self._clock.now() // SECOND
        if second != self._second:
            self._second = second
            if not self.cmos[B] & 0x80:
                self._flags |= _UPDATE | (_ALARM if self._alarm_due() else 0)
        if self._flags & self.cmos[B] & (_PERIODIC | _ALARM | _UPDATE):
            self._flags |= 0x80
            self._irq(True)

    def next_event(self) -> int | None:
        """Return nanoseconds until an enabled interrupt may come, None if none is enabled."""
        now = self._clock.now()
        times = []
        if self.cmos[B] & _PERIODIC and (period := self._period()):
            times.append(-(-(self._periods + 1) * period * SECOND // 32768) - now)
        if self.cmos[B] & (_ALARM | _UPDATE):
            times.append((self._second + 1) * SECOND - now)
        return max(0, min(times)) if times else None
