"""Keyboard controller and keyboard (IBM PC/AT Technical Reference, "Keyboard Controller" and "Keyboard")."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dm.shim.bus import PortBus
from dm.shim.clock import Clock
from dm.shim.devices.system import SystemControl

# Set 2 to set 1, as the controller translates: index is the set 2 code.
_TRANSLATE = bytes.fromhex(
    """
    ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59
    65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b
    67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d
    69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f
    6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61
    6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76
    55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f
    52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54
    """
)
_TO_SET2 = {one: two for two, one in enumerate(_TRANSLATE)} | {0x41: 0x83, 0x54: 0x84}

#: Time between keys typed by the user, nanoseconds: no guest loses keys at this rate.
KEY_INTERVAL = 5_000_000
_BUFFER = 16


class I8042:
    """Ports 60h and 64h, IRQ 1, the keyboard behind them, and no mouse."""

    def __init__(self, clock: Clock, system: SystemControl, irq: Callable[[bool], None]) -> None:
        self._clock, self._system, self._irq = clock, system, irq
        self._typed: deque[bytes] = deque()
        self._next_key = 0
        self.ready_for_key: Callable[[], bool] = lambda: True
        self.reset()

    def reset(self) -> None:
        """Power-on state as the firmware leaves it: translation and IRQ 1 on."""
        self.command = 0x61
        self._out: deque[int] = deque()
        self._self_test = False
        self._last_was_command = False
        self._expects: Callable[[int], None] | None = None
        self._keyboard_expects: Callable[[int], None] | None = None
        self._scanning = True
        self._set = 2
        self.leds = 0
        self._data = 0
        self._full = False
        self._irq(False)

    def connect(self, bus: PortBus) -> None:
        """Put the controller on ``bus``."""
        bus.add((0x60,), lambda _: self.read_data(), lambda _, value: self._write_data(value))
        bus.add((0x64,), lambda _: self._status(), lambda _, value: self._write_command(value))

    # --- output buffer

    def _emit(self, data: bytes | list[int]) -> None:
        if len(self._out) + len(data) <= _BUFFER:  # a guest that never reads loses answers, as with the real chip
            self._out.extend(data)
        self._advance()

    def _advance(self) -> None:
        if not self._full and self._out:
            self._data = self._out.popleft()
            self._full = True
        self._irq(self._full and bool(self.command & 1))

    def read_data(self) -> int:
        """Return the byte in the output buffer and make room for the next."""
        value = self._data
        if self._full:
            self._full = False
            self._irq(False)  # the next byte's interrupt needs an edge of its own
            self._advance()
        return value

    def _status(self) -> int:
        return int(self._full) | self._self_test << 2 | self._last_was_command << 3 | 0x10

    # --- keys

    def type(self, keys: list[bytes]) -> None:
        """Queue keys (each the set 1 bytes of one key press) for typing at a speed every guest can follow."""
        self._typed.extend(keys)
        self.update()

    @property
    def typing(self) -> bool:
        """True while typed keys have not all been taken by the guest."""
        return bool(self._typed or self._out or self._full)

    def update(self) -> None:
        """Send the next typed key if it is time and the guest has taken the previous one."""
        if not self._typed or self._full or self._out or self._clock.now() < self._next_key:
            return
        if self.command & 0x10 or not self._scanning or not self.ready_for_key():
            return
        self._next_key = self._clock.now() + KEY_INTERVAL
        self._emit(self._encode(self._typed.popleft()))

    def next_event(self) -> int | None:
        """Return nanoseconds until the next typed key may be sent, None if none waits."""
        return max(KEY_INTERVAL // 5, self._next_key - self._clock.now()) if self._typed else None

    def _encode(self, set1: bytes) -> bytes:
        """Return a key's bytes as the guest sees them: set 1 when translated, else the keyboard's own set."""
        if self.command & 0x40 or self._set == 1:
            return set1
        out = bytearray()
        for byte in set1:
            if byte == 0xE0:
                out.append(byte)
            elif byte & 0x80:
                out += bytes((0xF0, _TO_SET2[byte & 0x7F]))
            else:
                out.append(_TO_SET2[byte])
        return bytes(out)

    # --- controller commands

    def _write_command(self, value: int) -> None:
        self._last_was_command = True
        self._expects = None
        if value == 0x20:
            self._emit([self.command])
        elif value == 0x60:
            self._expects = self._set_command
        elif value == 0xAA:
            self._self_test = True
            self._emit([0x55])
        elif value == 0xAB:
            self._emit([0x00])
        elif value == 0xA9:
            self._emit([0x02])  # auxiliary clock line stuck high: nothing is plugged in
        elif value in (0xAD, 0xAE):
            self._set_command(self.command & ~0x10 | (0x10 if value == 0xAD else 0))
        elif value in (0xA7, 0xA8):
            self._set_command(self.command & ~0x20 | (0x20 if value == 0xA7 else 0))
        elif value == 0xC0:
            self._emit([0x80])  # keyboard not locked
        elif value == 0xD0:
            self._emit([1 | self._system.a20 << 1 | self._full << 4])
        elif value == 0xD1:
            self._expects = self._set_output
        elif value == 0xD2:
            self._expects = lambda byte: self._emit([byte])
        elif value in (0xD3, 0xD4):
            self._expects = lambda byte: None  # auxiliary device: absent
        elif value >= 0xF0 and not value & 1:
            self._system.request_reset()  # pulse output bit 0

    def _set_command(self, value: int) -> None:
        self.command = value
        self._irq(False)
        self._advance()

    def _set_output(self, value: int) -> None:
        self._system.set_a20(bool(value & 2))
        if not value & 1:
            self._system.request_reset()

    # --- keyboard commands

    def _write_data(self, value: int) -> None:
        self._last_was_command = False
        if self._expects:
            handler, self._expects = self._expects, None
            handler(value)
        elif self._keyboard_expects:
            handler, self._keyboard_expects = self._keyboard_expects, None
            self._emit([0xFA])
            handler(value)
        else:
            self._keyboard_command(value)

    def _keyboard_command(self, value: int) -> None:
        if value == 0xEE:
            self._emit([0xEE])
            return
        if value not in (0xED, 0xF0, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFF):
            self._emit([0xFE])
            return
        self._emit([0xFA])
        if value == 0xED:
            self._keyboard_expects = self._set_leds
        elif value == 0xF0:
            self._keyboard_expects = self._set_scancodes
        elif value == 0xF3:
            self._keyboard_expects = lambda byte: None
        elif value == 0xF2:
            self._emit([0xAB, 0x41 if self.command & 0x40 else 0x83])
        elif value == 0xF4:
            self._scanning = True
        elif value == 0xF5:
            self._scanning = False
        else:
            self._scanning, self._set, self.leds = True, 2, 0
            if value == 0xFF:
                self._emit([0xAA])

    def _set_leds(self, value: int) -> None:
        self.leds = value & 7

    def _set_scancodes(self, value: int) -> None:
        if value == 0:
            self._emit([{1: 0x43, 2: 0x41, 3: 0x3F}[self._set] if self.command & 0x40 else self._set])
        elif value in (1, 2):
            self._set = value
