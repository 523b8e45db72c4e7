"""BIOS data area at 40:0 and extended BIOS data area (IBM PC/AT Technical Reference, "BIOS data area")."""

from __future__ import annotations

from typing import Any, Final

from dm.shim.pc_memory import CONVENTIONAL_END, PcMemory

BASE: Final = 0x400
EBDA: Final = CONVENTIONAL_END - 0x400
KEY_BUFFER, KEY_BUFFER_END = 0x1E, 0x3E


class _Field:
    """One field of the area; reading and writing go to guest memory."""

    def __init__(self, offset: int, size: int) -> None:
        self.offset, self.size = offset, size

    def __get__(self, bda: Bda | None, owner: Any = None) -> int:
        assert bda is not None
        return bda.memory.read_int(BASE + self.offset, self.size)

    def __set__(self, bda: Bda, value: int) -> None:
        bda.memory.write_int(BASE + self.offset, self.size, value & (1 << 8 * self.size) - 1)


class Bda:
    """The data area by field name; offsets are from 40:0."""

    com1 = _Field(0x00, 2)
    ebda_segment = _Field(0x0E, 2)
    equipment = _Field(0x10, 2)
    base_memory = _Field(0x13, 2)
    shift_flags = _Field(0x17, 1)
    shift_flags2 = _Field(0x18, 1)
    alt_digits = _Field(0x19, 1)
    key_head = _Field(0x1A, 2)
    key_tail = _Field(0x1C, 2)
    motor_ticks = _Field(0x40, 1)
    floppy_status = _Field(0x41, 1)
    video_mode = _Field(0x49, 1)
    columns = _Field(0x4A, 2)
    page_size = _Field(0x4C, 2)
    page_start = _Field(0x4E, 2)
    cursor_shape = _Field(0x60, 2)
    page = _Field(0x62, 1)
    crtc_port = _Field(0x63, 2)
    mode_control = _Field(0x65, 1)
    palette = _Field(0x66, 1)
    ticks = _Field(0x6C, 4)
    midnight = _Field(0x70, 1)
    break_flag = _Field(0x71, 1)
    reset_flag = _Field(0x72, 2)
    disk_status = _Field(0x74, 1)
    disk_count = _Field(0x75, 1)
    serial_timeout = _Field(0x7C, 1)
    key_start = _Field(0x80, 2)
    key_end = _Field(0x82, 2)
    last_row = _Field(0x84, 1)
    character_height = _Field(0x85, 2)
    video_control = _Field(0x87, 1)
    video_switches = _Field(0x88, 1)
    video_flags = _Field(0x89, 1)
    display_code = _Field(0x8A, 1)
    keyboard_mode = _Field(0x96, 1)
    keyboard_leds = _Field(0x97, 1)

    def __init__(self, memory: PcMemory) -> None:
        self.memory = memory

    def reset(self) -> None:
        """Clear both areas and fill in what does not depend on the devices."""
        self.memory.write(BASE, bytes(0x100))
        self.memory.write(EBDA, b"\x01" + bytes(0x3FF))  # first byte: its size in KiB
        self.ebda_segment = EBDA >> 4
        self.base_memory = EBDA >> 10
        self.com1 = 0x3F8
        self.key_start, self.key_end = KEY_BUFFER, KEY_BUFFER_END
        self.key_head = self.key_tail = KEY_BUFFER
        self.serial_timeout = 1
        self.keyboard_mode = 0x10  # 101/102-key keyboard

    def cursor(self, page: int) -> tuple[int, int]:
        """Return (column, row) of the cursor on ``page`` (0-7)."""
        column, row = self.memory.read(BASE + 0x50 + 2 * (page & 7), 2)
        return column, row

    def set_cursor(self, page: int, column: int, row: int) -> None:
        """Store the cursor of ``page`` (0-7)."""
        self.memory.write(BASE + 0x50 + 2 * (page & 7), bytes((column & 0xFF, row & 0xFF)))

    # --- the type-ahead buffer, 15 words

    def _next(self, at: int) -> int:
        return self.key_start if at + 2 >= self.key_end else at + 2

    @property
    def keys_full(self) -> bool:
        """True when the type-ahead buffer has no room."""
        return self._next(self.key_tail) == self.key_head

    @property
    def keys_empty(self) -> bool:
        """True when no key is pending."""
        return self.key_head == self.key_tail

    def put_key(self, word: int) -> bool:
        """Append an INT 16h word; False when the buffer is full."""
        if self.keys_full:
            return False
        tail = self.key_tail
        self.memory.write_int(BASE + tail, 2, word)
        self.key_tail = self._next(tail)
        return True

    def peek_key(self) -> int | None:
        """Return the next INT 16h word without taking it, None if there is none."""
        return None if self.keys_empty else self.memory.read_int(BASE + self.key_head, 2)

    def take_key(self) -> int | None:
        """Take the next INT 16h word, None if there is none."""
        word = self.peek_key()
        if word is not None:
            self.key_head = self._next(self.key_head)
        return word
