"""VGA: registers, palette and display memory (IBM VGA Technical Reference)."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from dm.shim.bus import PortBus
from dm.shim.clock import SECOND, Clock
from dm.shim.devices.planes import Planes, Window, window

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


_START, _CURSOR = 0xC, 0xE


class Vga:
    """CRT controller, sequencer, graphics and attribute registers, palette, status and display memory.

    ``memory`` holds the planes and says where the CPU finds them.
    """

    def __init__(
        self,
        clock: Clock,
        ram: mmap.mmap | bytearray | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``ram`` has the window at its physical address; ``changed`` is called when the window changes."""
        self._clock, self._changed = clock, changed
        self.memory = Planes(bytearray(0xC0000) if ram is None else ram)
        self._location: tuple[mmap.mmap | bytearray, int] = (bytearray(2), 0)
        self.reset()

    def keep_cursor(self, memory: mmap.mmap | bytearray, offset: int) -> None:
        """Keep the cursor's location in two bytes of ``memory`` from now on: writing there moves the cursor."""
        location = self.cursor
        self._location = memory, offset
        self.cursor = location

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
        self.cursor = 0
        self.memory.clear()
        self.refresh()

    def load(self, misc: int, sequencer: bytes, crtc: bytes, attributes: bytes, graphics: bytes) -> None:
        """Set all registers at once, as a change of mode does."""
        self.misc = misc
        self.sequencer.registers[:] = sequencer
        self.crtc.registers[:] = crtc
        self.attributes[:] = attributes
        self.graphics.registers[:] = graphics
        self.palette_mask = 0xFF
        self.start = self.cursor = 0
        self.refresh()

    def refresh(self) -> None:
        """Recompute where and how the CPU sees display memory."""
        if self.memory.show(window(self.sequencer.registers, self.graphics.registers)):
            self._changed()

    @property
    def window(self) -> Window:
        """Where the CPU finds display memory, and how."""
        return self.memory.window

    @property
    def graphics_mode(self) -> bool:
        """Whether dots are shown, not characters."""
        return bool(self.graphics.registers[6] & 1)

    def read_memory(self, address: int) -> int:
        """Return the byte at physical ``address`` of the window, as the CPU reads it."""
        return self.memory.read(address, self.sequencer.registers, self.graphics.registers)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes from physical ``address`` of the window on, as the CPU does one by one."""
        sequencer, graphics = self.sequencer.registers, self.graphics.registers
        for i, value in enumerate(data):
            self.memory.write(address + i, value, sequencer, graphics)

    def connect(self, bus: PortBus) -> None:
        """Put the chip on ``bus``, at 3C0h and at 3D0h or 3B0h."""
        bus.add((0x3C0,), lambda _: self._attribute_index, lambda _, value: self._write_attribute(value))
        bus.add((0x3C1,), lambda _: self._read_attribute(), None)
        bus.add((0x3C2,), lambda _: 0x10, lambda _, value: setattr(self, "misc", value))
        bus.add((0x3CC,), lambda _: self.misc, None)
        bus.add((0x3C6,), lambda _: self.palette_mask, lambda _, value: setattr(self, "palette_mask", value))
        bus.add((0x3C7,), lambda _: 3, lambda _, value: setattr(self, "_dac_read", value * 3))
        bus.add((0x3C8,), lambda _: self._dac_write // 3, lambda _, value: setattr(self, "_dac_write", value * 3))
        bus.add((0x3C9,), lambda _: self._read_dac(), lambda _, value: self._write_dac(value))
        for port in (0x3C4, 0x3CE):
            bus.add((port,), lambda p: self._file(p).index, lambda p, v: setattr(self._file(p), "index", v))
            bus.add((port + 1,), lambda p: self._file(p - 1).read(), lambda p, v: self._write_file(p - 1, v))
        for port in (0x3B4, 0x3D4):
            bus.add((port,), lambda p: self._crtc_at(p, self._read_index), lambda p, v: self._select_crtc(p, v))
            bus.add((port + 1,), lambda p: self._crtc_at(p, self._read_crtc), lambda p, v: self._write_crtc(p, v))
        for port in (0x3BA, 0x3DA):
            bus.add((port,), lambda p: self._crtc_at(p, self._read_status), None)

    def _file(self, port: int) -> _Indexed:
        return {0x3C4: self.sequencer, 0x3CE: self.graphics}[port]

    def _write_file(self, port: int, value: int) -> None:
        self._file(port).write(value)
        self.refresh()

    def _decoded(self, port: int) -> bool:
        """Whether the CRT controller is at 3Dxh or at 3Bxh, as the miscellaneous output register says."""
        return bool(port & 0x40) == bool(self.misc & 1)

    def _crtc_at(self, port: int, read: Callable[[], int]) -> int:
        return read() if self._decoded(port) else 0xFF

    def _read_index(self) -> int:
        return self.crtc.index

    def _select_crtc(self, port: int, value: int) -> None:
        if self._decoded(port):
            self.crtc.index = value

    def _read_crtc(self) -> int:
        if self.crtc.index in (_CURSOR, _CURSOR + 1):
            return self.cursor >> (8 if self.crtc.index == _CURSOR else 0) & 0xFF
        return self.crtc.read()

    def _write_crtc(self, port: int, value: int) -> None:
        if not self._decoded(port):
            return
        if self.crtc.index == _CURSOR:
            self.cursor = self.cursor & 0xFF | value << 8
        elif self.crtc.index == _CURSOR + 1:
            self.cursor = self.cursor & 0xFF00 | value
        else:
            self.crtc.write(value)

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
        return self.crtc.registers[_START] << 8 | self.crtc.registers[_START + 1]

    @start.setter
    def start(self, value: int) -> None:
        self.crtc.registers[_START : _START + 2] = (value & 0xFFFF).to_bytes(2, "big")

    @property
    def cursor(self) -> int:
        """Position of the cursor in display memory, in characters."""
        memory, offset = self._location
        return int.from_bytes(memory[offset : offset + 2], "little")

    @cursor.setter
    def cursor(self, value: int) -> None:
        memory, offset = self._location
        memory[offset : offset + 2] = (value & 0xFFFF).to_bytes(2, "little")

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
