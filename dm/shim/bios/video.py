"""INT 10h video services in text mode (IBM VGA Technical Reference, "BIOS")."""

from __future__ import annotations

from collections.abc import Callable

from dm.machine.state import Seg
from dm.shim.bios import rom
from dm.shim.bios.bda import Bda
from dm.shim.bios.call import Call
from dm.shim.devices.vga import Vga
from dm.shim.memory import TEXT, GuestMemory

_COLUMNS = {0: 40, 1: 40, 2: 80, 3: 80}
_BELL, _BS, _LF, _CR = 7, 8, 10, 13


class Video:
    """A VGA in modes 0 to 3.  Graphics modes are refused: the mode stays what it was."""

    def __init__(self, bda: Bda, memory: GuestMemory, vga: Vga) -> None:
        self._bda, self._memory, self._vga = bda, memory, vga
        self._functions: dict[int, Callable[[Call], None]] = {
            0x00: self._mode, 0x01: self._shape, 0x02: self._put_cursor, 0x03: self._get_cursor, 0x04: self._light_pen,
            0x05: self._page, 0x06: self._scroll, 0x07: self._scroll, 0x08: self._read, 0x09: self._write,
            0x0A: self._write, 0x0E: self._tty, 0x0F: self._get_mode, 0x10: self._colours, 0x11: self._fonts,
            0x12: self._alternate, 0x13: self._string, 0x1A: self._display_code, 0x1B: self._state_info,
        }  # fmt: skip

    def service(self, call: Call) -> None:
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

    def set_mode(self, mode: int) -> None:
        """Set a text mode; bit 7 keeps what is in display memory.  Other modes are ignored."""
        number = mode & 0x7F
        if number not in _COLUMNS:
            return
        bda, vga = self._bda, self._vga
        bda.video_mode = number
        bda.columns = _COLUMNS[number]
        bda.page = 0
        bda.video_control = 0x60 | mode & 0x80
        vga.crtc.registers[1] = _COLUMNS[number] - 1
        vga.crtc.registers[0x13] = _COLUMNS[number] // 2
        self._set_height(16)
        for page in range(8):
            bda.set_cursor(page, 0, 0)
        self._show_page(0)
        if not mode & 0x80:
            self._memory.write(TEXT, b" \x07" * 0x4000)

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

    # --- cells

    def _cell(self, page: int, column: int, row: int) -> int:
        """Return the physical address of a cell."""
        return TEXT + (page * self._bda.page_size + (row * self._bda.columns + column) * 2) % 0x8000

    def _move(self, page: int, column: int, row: int) -> None:
        self._bda.set_cursor(page, column, row)
        if page == self._bda.page:
            self._vga.cursor = (self._bda.page_start >> 1) + row * self._bda.columns + column

    def _show_page(self, page: int) -> None:
        bda = self._bda
        bda.page, bda.page_start = page, page * bda.page_size
        self._vga.start = bda.page_start >> 1
        self._move(page, *bda.cursor(page))

    def _scroll_window(
        self, page: int, top: int, left: int, bottom: int, right: int, lines: int, attribute: int
    ) -> None:
        """Scroll a window up (``lines`` > 0) or down (< 0); 0, or more than its height, clears it."""
        bda = self._bda
        right, bottom = min(right, bda.columns - 1), min(bottom, bda.last_row)
        if left > right or top > bottom:
            return
        width = (right - left + 1) * 2
        rows = list(range(top, bottom + 1))
        old = [self._memory.read(self._cell(page, left, row), width) for row in rows]
        blank = bytes((0x20, attribute)) * (width // 2)
        if not lines or abs(lines) >= len(rows):
            new = [blank] * len(rows)
        elif lines > 0:
            new = old[lines:] + [blank] * lines
        else:
            new = [blank] * -lines + old[:lines]
        for row, cells in zip(rows, new, strict=True):
            self._memory.write(self._cell(page, left, row), cells)

    def teletype(self, char: int, page: int, attribute: int | None = None) -> None:
        """Write one character (8 bits) at the cursor of ``page`` and move on, scrolling at the end of the screen."""
        bda = self._bda
        column, row = bda.cursor(page)
        if char == _BELL:
            return
        if char == _BS:
            column = max(0, column - 1)
        elif char == _CR:
            column = 0
        elif char == _LF:
            row += 1
        else:
            at = self._cell(page, column, row)
            self._memory.write(at, bytes((char,)) if attribute is None else bytes((char, attribute)))
            column += 1
            if column >= bda.columns:
                column, row = 0, row + 1
        if row > bda.last_row:
            row = bda.last_row
            fill = self._memory.read(self._cell(page, 0, row) + 1, 1)[0]
            self._scroll_window(page, 0, 0, row, bda.columns - 1, 1, fill)
        self._move(page, column, row)

    def print(self, text: str) -> None:
        """Write the firmware's own message."""
        for byte in text.replace("\n", "\r\n").encode("cp437"):
            self.teletype(byte, self._bda.page)

    # --- functions by AH

    def _mode(self, call: Call) -> None:
        self.set_mode(call.al)
        call.al = 0x30 if self._bda.video_mode <= 3 else 0x20

    def _shape(self, call: Call) -> None:
        self._bda.cursor_shape = call.state.cx
        self._vga.set_cursor_shape(call.ch, call.cl, self._bda.character_height)

    def _put_cursor(self, call: Call) -> None:
        self._move(call.bh & 7, call.dl, call.dh)

    def _get_cursor(self, call: Call) -> None:
        call.dl, call.dh = self._bda.cursor(call.bh)
        call.state.cx = self._bda.cursor_shape
        call.state.ax = 0

    def _light_pen(self, call: Call) -> None:
        call.ah = 0

    def _page(self, call: Call) -> None:
        if call.al < 8:
            self._show_page(call.al)

    def _scroll(self, call: Call) -> None:
        lines = call.al if call.ah == 6 else -call.al
        self._scroll_window(self._bda.page, call.ch, call.cl, call.dh, call.dl, lines, call.bh)

    def _read(self, call: Call) -> None:
        call.state.ax = self._memory.read_int(self._cell(call.bh & 7, *self._bda.cursor(call.bh)), 2)

    def _write(self, call: Call) -> None:
        at = self._cell(call.bh & 7, *self._bda.cursor(call.bh))
        end = TEXT + 0x8000
        for address in range(at, min(at + call.state.cx * 2, end), 2):
            self._memory.write(address, bytes((call.al, call.bl)) if call.ah == 9 else bytes((call.al,)))

    def _tty(self, call: Call) -> None:
        self.teletype(call.al, self._bda.page)

    def _get_mode(self, call: Call) -> None:
        call.al, call.ah = self._bda.video_mode | self._bda.video_control & 0x80, self._bda.columns
        call.bh = self._bda.page

    def _colours(self, call: Call) -> None:
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

    def _fonts(self, call: Call) -> None:
        heights = {0x11: 14, 0x12: 8, 0x14: 16, 0x01: 14, 0x02: 8, 0x04: 16}
        if call.al in heights and call.al >= 0x10:
            self._set_height(heights[call.al])
        elif call.al == 0x30:
            font = rom.FONT_8X8 if call.bh in (0, 1, 3, 4) else rom.FONT_8X16
            if call.bh == 4:
                font += 0x400
            call.set_segment(Seg.ES, rom.SEGMENT)
            call.state.bp = font
            call.state.cx = self._bda.character_height
            call.dl = self._bda.last_row

    def _alternate(self, call: Call) -> None:
        if call.bl == 0x10:
            call.state.bx, call.state.cx = 0x0003, 0x0009  # colour, 256 KiB
        elif call.bl in (0x30, 0x31, 0x32, 0x33, 0x34, 0x36):
            call.al = 0x12

    def _string(self, call: Call) -> None:
        page, mode = call.bh & 7, call.al
        width = 2 if mode & 2 else 1
        data = call.space.read(call.state.es, call.state.bp, call.state.cx * width)
        saved = self._bda.cursor(page)
        self._move(page, call.dl, call.dh)
        for i in range(0, len(data), width):
            self.teletype(data[i], page, data[i + 1] if mode & 2 else call.bl)
        if not mode & 1:
            self._move(page, *saved)

    def _display_code(self, call: Call) -> None:
        if call.al == 0:
            call.state.bx = self._bda.display_code
        else:
            self._bda.display_code = call.bl
        call.al = 0x1A

    def _state_info(self, call: Call) -> None:
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
