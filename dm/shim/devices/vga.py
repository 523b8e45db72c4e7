"""VGA registers as far as text mode needs them (IBM VGA Technical Reference)."""

from __future__ import annotations

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, Clock

_FRAME = SECOND // 70  # 720x400 text refreshes at 70 Hz, 449 lines of which 400 show
_LINE = _FRAME // 449


class _Indexed:
    """A register file behind an index and a data port."""

    def __init__(self, size: int) -> None:
        self.index = 0
        self.registers = bytearray(size)

    def read(self) -> int:
        return self.registers[self.index] if self.index < len(self.registers) else 0xFF

    def write(self, value: int) -> None:
        if self.index < len(self.registers):
            self.registers[self.index] = value


class Vga:
    """CRT controller, sequencer, graphics and attribute registers, palette and status.

    The text itself is in guest memory at B8000h; this chip only says where the page and the cursor are.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Registers of mode 3 (80x25 text) as the video firmware leaves them."""
        self.crtc, self.sequencer, self.graphics = _Indexed(0x19), _Indexed(5), _Indexed(9)
        self.crtc.registers[0:10] = bytes((0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F))
        self.crtc.registers[0x10:0x19] = bytes((0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF))
        self.sequencer.registers[:] = bytes((3, 0, 3, 0, 2))
        self.graphics.registers[:] = bytes((0, 0, 0, 0, 0, 0x10, 0x0E, 0, 0xFF))
        self.attributes = bytearray(
            (0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x0C, 0, 0x0F, 8, 0)
        )
        self.misc = 0x67
        self.palette = bytearray(256 * 3)
        self.palette_mask = 0xFF
        self._attribute_index = 0x20
        self._attribute_data = False
        self._dac_read = self._dac_write = 0
        self.set_cursor_shape(6, 7, 16)

    def connect(self, bus: PortBus) -> None:
        """Put the chip on ``bus``, in its colour decoding (3D0h) with the monochrome status left absent."""
        bus.add((0x3C0,), lambda _: self._attribute_index, lambda _, value: self._write_attribute(value))
        bus.add((0x3C1,), lambda _: self._read_attribute(), None)
        bus.add((0x3C2,), lambda _: 0x10, lambda _, value: setattr(self, "misc", value))
        bus.add((0x3CC,), lambda _: self.misc, None)
        bus.add((0x3C6,), lambda _: self.palette_mask, lambda _, value: setattr(self, "palette_mask", value))
        bus.add((0x3C7,), lambda _: 3, lambda _, value: setattr(self, "_dac_read", value * 3))
        bus.add((0x3C8,), lambda _: self._dac_write // 3, lambda _, value: setattr(self, "_dac_write", value * 3))
        bus.add((0x3C9,), lambda _: self._read_dac(), lambda _, value: self._write_dac(value))
        for port in (0x3C4, 0x3CE, 0x3D4):
            bus.add((port,), lambda p: self._file(p).index, lambda p, v: setattr(self._file(p), "index", v))
            bus.add((port + 1,), lambda p: self._file(p - 1).read(), lambda p, v: self._file(p - 1).write(v))
        bus.add((0x3DA,), lambda _: self._read_status(), None)

    def _file(self, port: int) -> _Indexed:
        return {0x3C4: self.sequencer, 0x3CE: self.graphics, 0x3D4: self.crtc}[port]

    def _write_attribute(self, value: int) -> None:
        if self._attribute_data:
            index = self._attribute_index & 0x1F
            if index < len(self.attributes):
                self.attributes[index] = value
        else:
            self._attribute_index = value & 0x3F
        self._attribute_data = not self._attribute_data

    def _read_attribute(self) -> int:
        index = self._attribute_index & 0x1F
        return self.attributes[index] if index < len(self.attributes) else 0xFF

    def _read_dac(self) -> int:
        value = self.palette[self._dac_read]
        self._dac_read = (self._dac_read + 1) % len(self.palette)
        return value

    def _write_dac(self, value: int) -> None:
        self.palette[self._dac_write] = value & 0x3F
        self._dac_write = (self._dac_write + 1) % len(self.palette)

    def _read_status(self) -> int:
        """Input status 1: bit 3 vertical retrace, bit 0 no picture; reading it resets the attribute flip-flop."""
        self._attribute_data = False
        at = self._clock.now() % _FRAME
        vertical = at >= _LINE * 412
        blank = at >= _LINE * 400 or at % _LINE >= _LINE * 4 // 5
        return vertical << 3 | int(blank)

    @property
    def start(self) -> int:
        """Offset of the visible page in display memory, in characters."""
        return self.crtc.registers[0xC] << 8 | self.crtc.registers[0xD]

    @start.setter
    def start(self, value: int) -> None:
        self.crtc.registers[0xC:0xE] = (value & 0xFFFF).to_bytes(2, "big")

    @property
    def cursor(self) -> int:
        """Position of the cursor in display memory, in characters."""
        return self.crtc.registers[0xE] << 8 | self.crtc.registers[0xF]

    @cursor.setter
    def cursor(self, value: int) -> None:
        self.crtc.registers[0xE:0x10] = (value & 0xFFFF).to_bytes(2, "big")

    @property
    def cursor_visible(self) -> bool:
        """False when CRTC register 0Ah bit 5 switches the cursor off."""
        return not self.crtc.registers[0xA] & 0x20

    def set_cursor_shape(self, first: int, last: int, height: int) -> None:
        """Set first and last scan line as INT 10h AH=01h takes them, scaled from 8 lines to ``height``."""
        hidden = first & 0x20
        if height > 8 and first & 0x1F < 8 and last & 0x1F < 8:
            first, last = (first & 0x1F) * height // 8, ((last & 0x1F) + 1) * height // 8 - 1
        self.crtc.registers[0xA] = first & 0x1F | hidden
        self.crtc.registers[0xB] = last & 0x1F
