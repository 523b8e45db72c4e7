"""INT 10h video services (IBM VGA Technical Reference, "BIOS").

What programs call for each character of a text mode is ROM code (:mod:`dm.shim.bios.services`); here are the rest, and
all that draws in graphics modes.
"""

from __future__ import annotations

from collections.abc import Callable

from dm.machine.state import Seg
from dm.shim.bios import modes, rom
from dm.shim.bios.bda import Bda
from dm.shim.bios.call import BiosCall
from dm.shim.bios.font import font
from dm.shim.bios.modes import MODES, Mode
from dm.shim.bios.raster import Raster
from dm.shim.devices.vga import Vga
from dm.shim.pc_memory import PcMemory

#: Vectors of the font of graphics modes, and of its upper half in the CGA's modes.
_FONT_VECTOR, _HIGH_VECTOR = 0x43, 0x1F
_FONTS = {8: rom.FONT_8X8, 14: rom.FONT_8X14, 16: rom.FONT_8X16}
_FONT_PLANE, _GLYPH = 2, 32


class Video:
    """A VGA in modes 0 to 7 and 0Dh to 13h.  Other modes are refused and change nothing."""

    def __init__(self, bda: Bda, memory: PcMemory, vga: Vga) -> None:
        self._bda, self._memory, self._vga = bda, memory, vga
        self._functions: dict[int, Callable[[BiosCall], None]] = {
            0x00: self._mode, 0x01: self._shape, 0x04: self._light_pen, 0x05: self._page, 0x06: self._scroll,
            0x07: self._scroll, 0x08: self._read, 0x09: self._write, 0x0A: self._write, 0x0B: self._cga_colours,
            0x0C: self._write_dot, 0x0D: self._read_dot, 0x10: self._colours, 0x11: self._fonts, 0x12: self._alternate,
            0x1A: self._display_code, 0x1B: self._state_info,
        }  # fmt: skip

    def service(self, call: BiosCall) -> None:
        """Answer one INT 10h; unknown functions (VBE among them) change nothing, so AX does not say 004Fh."""
        handler = self._functions.get(call.ah)
        if handler:
            handler(call)
        call.finish()

    def reset(self) -> None:
        """Set mode 3, clear the screen and fill the data area."""
        self._vga.reset()
        bda = self._bda
        bda.crtc_port = 0x3D4
        bda.mode_control, bda.palette = 0x29, 0x30
        bda.video_switches, bda.video_flags, bda.display_code = 0xF9, 0x51, 0x08
        self.set_mode(3)

    @property
    def mode(self) -> Mode:
        """The mode according to the data area; a program may have set another one itself."""
        return MODES.get(self._bda.video_mode, MODES[3])

    def set_mode(self, number: int) -> bool:
        """Set a mode; bit 7 keeps display memory.  False for an unknown mode, which changes nothing."""
        mode = MODES.get(number & 0x7F)
        if mode is None:
            return False
        bda, vga = self._bda, self._vga
        vga.load(mode.misc, mode.sequencer, mode.crtc, mode.attributes, mode.graphics)
        vga.palette[:] = modes.palette(mode.palette)
        if not number & 0x80:
            vga.memory.clear()
            if mode.text:
                self._memory.write(vga.window.start, b" \x07" * (vga.window.size // 2))
        bda.video_mode = mode.number
        bda.crtc_port = 0x3D4 if mode.misc & 1 else 0x3B4
        bda.columns, bda.page_size, bda.page_start, bda.page = mode.columns, mode.page, 0, 0
        bda.last_row, bda.character_height = mode.rows - 1, mode.height
        bda.video_control = 0x60 | number & 0x80
        for page in range(8):
            bda.set_cursor(page, 0, 0)
        self._set_vector(_FONT_VECTOR, _FONTS[mode.height])
        self._set_vector(_HIGH_VECTOR, rom.FONT_8X8 + 0x400)
        if mode.text:
            self._load_font(font(mode.height), mode.height)
            self._set_height(mode.height)
        return True

    def _set_vector(self, vector: int, offset: int) -> None:
        self._memory.write_int(vector * 4, 4, rom.SEGMENT << 16 | offset)

    def _load_font(self, glyphs: bytes, height: int, first: int = 0, block: int = 0) -> None:
        """Put glyphs where the character generator has them: plane 2, 32 bytes to each."""
        plane = self._vga.memory.planes[_FONT_PLANE]
        base = (block & 3) * 0x4000 + (block >> 2 & 1) * 0x2000
        for i in range(len(glyphs) // height):
            at = base + (first + i & 0xFF) * _GLYPH
            plane[at : at + _GLYPH] = glyphs[i * height : (i + 1) * height].ljust(_GLYPH, b"\0")[:_GLYPH]

    def _set_height(self, height: int) -> None:
        """Use characters ``height`` scan lines tall on 400 lines."""
        bda, rows = self._bda, 400 // height
        bda.character_height = height
        bda.last_row = rows - 1
        size = bda.columns * rows * 2
        bda.page_size = 0x1000 if size == 4000 else 0x800 if size == 2000 else size + 0xFF & ~0xFF
        self._vga.crtc.registers[9] = height - 1 | 0x40
        bda.cursor_shape = 0x0607
        self._vga.set_cursor_shape(6, 7, height)

    # --- functions by AH

    def _mode(self, call: BiosCall) -> None:
        if self.set_mode(call.al):
            number = self.mode.number
            call.al = 0x3F if number == 6 else 0x30 if number <= 7 else 0x20

    def _shape(self, call: BiosCall) -> None:
        self._bda.cursor_shape = call.state.cx
        self._vga.set_cursor_shape(call.ch, call.cl, self._bda.character_height)

    def _light_pen(self, call: BiosCall) -> None:
        call.ah = 0

    def _page(self, call: BiosCall) -> None:
        bda, page = self._bda, call.al
        if page >= 8:
            return
        bda.page, bda.page_start = page, page * bda.page_size & 0xFFFF
        text = self.mode.text
        self._vga.start = bda.page_start >> 1 if text else bda.page_start
        column, row = bda.cursor(page)
        self._vga.cursor = (bda.page_start >> 1) + row * bda.columns + column

    # --- graphics modes: in text modes the ROM does these

    def _raster(self, page: int) -> Raster:
        return Raster(self._vga.memory, self.mode, page)

    def _scroll(self, call: BiosCall) -> None:
        mode = self.mode
        top, left, bottom, right = call.ch, call.cl, min(call.dh, mode.rows - 1), min(call.dl, mode.columns - 1)
        if left <= right and top <= bottom:
            with self._raster(self._bda.page) as raster:
                raster.scroll(top, left, bottom, right, call.al if call.ah == 6 else -call.al, call.bh)

    def _glyph(self, call: BiosCall, char: int) -> bytes:
        """Return the shape of a character from the guest's font tables."""
        height = self.mode.height
        vector, index = _FONT_VECTOR, char
        if height == 8 and self.mode.number <= 6 and char >= 0x80:
            vector, index = _HIGH_VECTOR, char - 0x80
        pointer = int.from_bytes(call.space.read_linear(vector * 4, 4), "little")
        return call.space.read_linear((pointer >> 16 << 4) + (pointer & 0xFFFF) + index * height, height)

    def _read(self, call: BiosCall) -> None:
        page = call.bh & 7
        with self._raster(page) as raster:
            shape = raster.shape(*self._at(page))
        call.al = next((char for char in range(256) if self._glyph(call, char) == shape), 0)

    def _at(self, page: int) -> tuple[int, int]:
        """Return the cursor of a page; it may be beyond the screen."""
        column, row = self._bda.cursor(page)
        return min(column, self.mode.columns - 1), min(row, self.mode.rows - 1)

    def _write(self, call: BiosCall) -> None:
        mode, page = self.mode, call.bh & 7
        background = call.bh if mode.bits == 8 else 0
        column, row = self._at(0 if mode.bits == 8 else page)
        glyph = self._glyph(call, call.al)
        with self._raster(0 if mode.bits == 8 else page) as raster:
            for place in range(row * mode.columns + column, row * mode.columns + column + call.state.cx):
                row, column = divmod(place, mode.columns)
                if row >= mode.rows:
                    break
                raster.draw(column, row, glyph, call.bl, background)

    def _cga_colours(self, call: BiosCall) -> None:
        """AH=0Bh: BH=0 border and background (the intensity too), BH=1 one of the CGA's two palettes."""
        attributes = self._vga.attributes
        if call.bh == 0:
            attributes[0] = attributes[17] = call.bl & 7 | call.bl << 1 & 0x10
            for i in range(1, 4):
                attributes[i] = attributes[i] & ~0x10 | call.bl & 0x10
        else:
            for i in range(1, 4):
                attributes[i] = attributes[i] & 0x10 | 2 * i | call.bl & 1

    def _write_dot(self, call: BiosCall) -> None:
        mode, x, y = self.mode, call.state.cx, call.state.dx
        if not mode.text and x < mode.width and y < mode.lines:
            with self._raster(call.bh & 7 if mode.bits < 8 else 0) as raster:
                raster.set_dot(x, y, call.al)

    def _read_dot(self, call: BiosCall) -> None:
        mode, x, y = self.mode, call.state.cx, call.state.dx
        if not mode.text and x < mode.width and y < mode.lines:
            with self._raster(call.bh & 7 if mode.bits < 8 else 0) as raster:
                call.al = raster.dot(x, y)

    def _colours(self, call: BiosCall) -> None:
        vga, function = self._vga, call.al
        if function == 0x00 and call.bl < 21:
            vga.attributes[call.bl] = call.bh
        elif function == 0x01:
            vga.attributes[17] = call.bh
        elif function == 0x02:
            table = call.space.read(call.state.es, call.state.dx, 17)
            vga.attributes[0:16], vga.attributes[17] = table[:16], table[16]
        elif function == 0x03:
            vga.attributes[16] = vga.attributes[16] & ~8 | (8 if call.bl else 0)
        elif function == 0x07 and call.bl < 21:
            call.bh = vga.attributes[call.bl]
        elif function == 0x08:
            call.bh = vga.attributes[17]
        elif function == 0x09:
            call.space.write(call.state.es, call.state.dx, bytes(vga.attributes[:16]) + vga.attributes[17:18])
        elif function == 0x10:
            at = (call.state.bx & 0xFF) * 3
            vga.palette[at : at + 3] = bytes(v & 0x3F for v in (call.dh, call.ch, call.cl))
        elif function == 0x12:
            count = min(call.state.cx, 256 - call.bl)
            data = call.space.read(call.state.es, call.state.dx, count * 3)
            vga.palette[call.bl * 3 : (call.bl + count) * 3] = bytes(v & 0x3F for v in data)
        elif function == 0x15:
            at = call.bl * 3
            call.dh, call.ch, call.cl = vga.palette[at : at + 3]
        elif function == 0x17:
            count = min(call.state.cx, 256 - call.bl)
            data = bytes(vga.palette[call.bl * 3 : (call.bl + count) * 3])
            call.space.write(call.state.es, call.state.dx, data)
        elif function == 0x18:
            vga.palette_mask = call.bl
        elif function == 0x19:
            call.bl = vga.palette_mask

    def _fonts(self, call: BiosCall) -> None:
        function, state = call.al, call.state
        height = {1: 14, 2: 8, 4: 16}.get(function & 0x0F, 0)
        if function in (0x00, 0x10):  # the caller's, in text modes
            height, count = call.bh, min(state.cx, 256)
            if not 1 <= height <= _GLYPH:
                return
            self._load_font(call.space.read(state.es, state.bp, count * height), height, state.dx & 0xFF, call.bl)
        elif function in (0x01, 0x02, 0x04, 0x11, 0x12, 0x14):
            self._load_font(font(height), height, 0, call.bl)
        elif function == 0x20:
            self._memory.write_int(_HIGH_VECTOR * 4, 4, state.es.selector << 16 | state.bp)
            return
        elif function in (0x21, 0x22, 0x23, 0x24):
            self._graphics_font(call)
            return
        elif function == 0x30:
            self._font_pointer(call)
            return
        else:
            return
        if function >= 0x10:
            self._set_height(height)

    def _graphics_font(self, call: BiosCall) -> None:
        bda, state, height = self._bda, call.state, {0x22: 14, 0x23: 8, 0x24: 16}.get(call.al, 0)
        if height:
            self._set_vector(_FONT_VECTOR, _FONTS[height])
        else:
            height = state.cx & 0xFF
            self._memory.write_int(_FONT_VECTOR * 4, 4, state.es.selector << 16 | state.bp)
        bda.character_height = height
        bda.last_row = ({1: 14, 2: 25, 3: 43}.get(call.bl, call.dl) - 1) & 0xFF

    def _font_pointer(self, call: BiosCall) -> None:
        pointer = rom.SEGMENT << 16 | {
            3: rom.FONT_8X8,
            4: rom.FONT_8X8 + 0x400,
            2: rom.FONT_8X14,
            5: rom.FONT_8X14,
        }.get(call.bh, rom.FONT_8X16)
        if call.bh < 2:
            pointer = self._memory.read_int((_HIGH_VECTOR, _FONT_VECTOR)[call.bh] * 4, 4)
        call.set_segment(Seg.ES, pointer >> 16)
        call.state.bp = pointer & 0xFFFF
        call.state.cx = self._bda.character_height
        call.dl = self._bda.last_row

    def _alternate(self, call: BiosCall) -> None:
        if call.bl == 0x10:
            call.state.bx, call.state.cx = 0x0003, 0x0009  # colour, 256 KiB
        elif call.bl in (0x30, 0x31, 0x32, 0x33, 0x34, 0x36):
            call.al = 0x12

    def _display_code(self, call: BiosCall) -> None:
        if call.al == 0:
            call.state.bx = self._bda.display_code
        else:
            self._bda.display_code = call.bl
        call.al = 0x1A

    def _state_info(self, call: BiosCall) -> None:
        bda, memory = self._bda, self._memory
        rows = bda.last_row + 1
        info = (
            rom.VIDEO_STATE.to_bytes(2, "little") + rom.SEGMENT.to_bytes(2, "little")
            + memory.read(0x449, 0x1E)
            + bytes((rows, *bda.character_height.to_bytes(2, "little"), bda.display_code, 0, 16, 0, 8, 2, 0, 0, 0x21))
            + bytes((0, 0, 0, 3, 0))
        )  # fmt: skip
        call.space.write(call.state.es, call.state.di, info.ljust(64, b"\0"))
        call.al = 0x1B
