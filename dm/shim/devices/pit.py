"""8254 interval timer and the PC's port 61h (Intel 8254 data sheet; IBM PC/AT Technical Reference)."""

from __future__ import annotations

from collections.abc import Callable

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, Clock

#: Input clock in Hz.
FREQUENCY = 1_193_182


class Channel:
    """One counter.  Time is in input clocks; the counter is computed, never stepped."""

    def __init__(self) -> None:
        self.mode, self.access, self.bcd = 3, 3, False
        self.gate = True
        self.start: int | None = None
        self._reload = 0x10000
        self._low: int | None = None
        self._latch: list[int] = []
        self._status: int | None = None
        self._read_high = False

    @property
    def _modulus(self) -> int:
        return 10000 if self.bcd else 0x10000

    def control(self, value: int) -> None:
        """Take a control word's access, mode and BCD bits (not a latch command)."""
        self.access = value >> 4 & 3
        mode = value >> 1 & 7
        self.mode = mode & 3 if mode > 5 else mode
        self.bcd = bool(value & 1)
        self.start = None
        self._low = None
        self._latch.clear()
        self._status = None
        self._read_high = False

    def write(self, value: int, now: int) -> None:
        """Take one byte of the count."""
        if self.access == 3 and self._low is None:
            self._low = value
            if self.mode == 0:
                self.start = None  # mode 0 stops counting when the first byte is written
            return
        count = value if self.access == 1 else value << 8 | (self._low or 0)
        self._low = None
        if self.bcd:
            count = int(f"{count:x}") if f"{count:x}".isdigit() else count % 10000
        self._reload = count or self._modulus
        # Modes 1 and 5 wait for a gate edge; a new count does not disturb a running period of modes 2 and 3, which
        # is approximated here by starting anew: no software can tell within one period.
        if self.mode in (1, 5):
            return
        self.start = now if self.gate or self.mode in (0, 4) else None

    def set_gate(self, level: bool, now: int) -> None:
        """Drive GATE: a rising edge starts modes 1, 2, 3 and 5, low stops 2 and 3."""
        if level and not self.gate and self.mode in (1, 2, 3, 5):
            self.start = now
        elif not level and self.mode in (2, 3):
            self.start = None
        self.gate = level

    def count(self, now: int) -> int:
        """Return the counting element at ``now``."""
        if self.start is None:
            return self._reload % self._modulus
        elapsed = now - self.start
        if self.mode == 2:
            return self._reload - elapsed % self._reload
        if self.mode == 3:
            return (self._reload - elapsed * 2 % self._reload) & ~1
        return (self._reload - elapsed) % self._modulus

    def output(self, now: int) -> bool:
        """Return the level of OUT at ``now``."""
        if self.start is None:
            return self.mode != 0
        elapsed = now - self.start
        if self.mode in (0, 1):
            return elapsed >= self._reload
        if self.mode == 2:
            return elapsed % self._reload != self._reload - 1
        if self.mode == 3:
            return elapsed % self._reload < (self._reload + 1) // 2
        return elapsed != self._reload

    def next_edge(self, now: int) -> int | None:
        """Return the time of the first rising edge of OUT after ``now``, None if none will come by itself."""
        if self.start is None:
            return None
        elapsed = now - self.start
        if self.mode in (2, 3):
            return self.start + (elapsed // self._reload + 1) * self._reload
        edge = self.start + self._reload + (self.mode >= 4)
        return edge if edge > now else None

    def latch_count(self, now: int) -> None:
        """Latch the count until it is read; a second latch before that is ignored."""
        if not self._latch:
            value = self.count(now) % self._modulus
            if self.bcd:
                value = int(str(value), 16)
            low, high = value & 0xFF, value >> 8
            self._latch = {1: [low], 2: [high]}.get(self.access, [low, high])

    def latch_status(self, now: int) -> None:
        """Latch the status byte (read-back command)."""
        if self._status is None:
            null_count = self.start is None
            self._status = self.output(now) << 7 | null_count << 6 | self.access << 4 | self.mode << 1 | int(self.bcd)

    def read(self, now: int) -> int:
        """Return the next byte of status, latched count or live count."""
        if self._status is not None:
            status, self._status = self._status, None
            return status
        if self._latch:
            return self._latch.pop(0)
        value = self.count(now) % self._modulus
        if self.bcd:
            value = int(str(value), 16)
        if self.access == 3:
            self._read_high = not self._read_high
            return value & 0xFF if self._read_high else value >> 8
        return value >> 8 if self.access == 2 else value & 0xFF


class Pit:
    """Three channels at 40h-43h and the system control port 61h that gates channel 2.

    ``tick`` is called for the rising edge of channel 0, which is IRQ 0.
    """

    def __init__(self, clock: Clock, tick: Callable[[], None]) -> None:
        self._clock, self._tick = clock, tick
        self.reset()

    def reset(self) -> None:
        """Power-on state: nothing counts until it is programmed."""
        self.channels = [Channel(), Channel(), Channel()]
        self.channels[2].gate = False
        self._port61 = 0
        self._seen = self._now()

    def _now(self) -> int:
        return self._clock.now() * FREQUENCY // SECOND

    def connect(self, bus: PortBus) -> None:
        """Put the chip on ``bus``."""
        bus.add(range(0x40, 0x43), self._read, self._write)
        bus.add((0x43,), None, lambda _, value: self._control(value))
        bus.add((0x61,), lambda _: self._read61(), lambda _, value: self._write61(value))

    def _read(self, port: int) -> int:
        return self.channels[port & 3].read(self._now())

    def _write(self, port: int, value: int) -> None:
        self.update()
        self.channels[port & 3].write(value, self._now())

    def _control(self, value: int) -> None:
        self.update()
        now, select = self._now(), value >> 6
        if select == 3:  # read-back
            for i, channel in enumerate(self.channels):
                if value >> (i + 1) & 1:
                    if not value & 0x20:
                        channel.latch_count(now)
                    if not value & 0x10:
                        channel.latch_status(now)
        elif value & 0x30:
            self.channels[select].control(value)
        else:
            self.channels[select].latch_count(now)

    def _read61(self) -> int:
        now = self._now()
        # Bit 4 toggles with each memory refresh, every 15 us (18 input clocks).
        return self._port61 & 0xF | (now // 18 & 1) << 4 | self.channels[2].output(now) << 5

    def _write61(self, value: int) -> None:
        self._port61 = value & 0xF
        self.channels[2].set_gate(bool(value & 1), self._now())

    def update(self) -> None:
        """Call ``tick`` if channel 0 has had a rising edge since the last call; several count as one."""
        now = self._now()
        edge = self.channels[0].next_edge(self._seen)
        self._seen = now
        if edge is not None and edge <= now:
            self._tick()

    def next_event(self) -> int | None:
        """Return nanoseconds until the next rising edge of channel 0, None if none will come."""
        edge = self.channels[0].next_edge(self._seen)
        if edge is None:
            return None
        return max(0, -(-edge * SECOND // FREQUENCY) - self._clock.now())
