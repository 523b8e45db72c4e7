"""The firmware image at F0000h: entry points, the little code that must run in the guest, and data programs look for.

An entry point (trap) is an address in one page; fetching there ends the run and its offset names the service.  Code
that has to take interrupts or call the guest's own handlers (waiting, INT 1Ch, INT 15h AH=4Fh) is real code here, so
that it works in whatever mode the guest calls it from.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dm.shim.memory import BIOS, TRAPS, GuestMemory

SEGMENT: Final = 0xF000
_PAGE = TRAPS - BIOS
_VECTOR_TRAPS = _PAGE + 0x100


class Trap(IntEnum):
    """Offsets in segment F000h of entry points that are not interrupt vectors."""

    POST = 0xE05B
    KEY = 0xE400
    TICK_DONE = 0xE402


#: Code, data tables and vectors programs know by address (offsets in segment F000h).
TICK_CHAIN: Final = 0xD000
KEYBOARD_IRQ: Final = 0xD010
KEY_DONE: Final = 0xD020
HALT: Final = 0xD030
WAIT_KEY: Final = 0xD038
YIELD: Final = 0xD040
FONT_8X16: Final = 0xC000
VIDEO_STATE: Final = 0xDA00
CONFIGURATION: Final = 0xE6F5
FLOPPY_TABLE: Final = 0xEFC7
FONT_8X8: Final = 0xFA6E
IRET: Final = 0xFF53
RESET: Final = 0xFFF0


def vector_trap(vector: int) -> int:
    """Return the offset of the entry point of interrupt ``vector`` (0-FFh)."""
    return _VECTOR_TRAPS + 2 * vector


def trapped_vector(offset: int) -> int | None:
    """Return the vector whose entry point ``offset`` is, None if it is none."""
    index, odd = divmod(offset - _VECTOR_TRAPS, 2)
    return index if not odd and 0 <= index < 256 else None


def _jump(at: int, target: int) -> bytes:
    return b"\xe9" + (target - at - 3 & 0xFFFF).to_bytes(2, "little")


def install(memory: GuestMemory) -> None:
    """Write the image below 1 MiB."""
    image = bytearray(0x10000)

    def put(offset: int, data: bytes) -> None:
        image[offset : offset + len(data)] = data

    # Entry points hold IRET for whoever disassembles them; they are never executed.
    put(_PAGE, b"\xcf" * 0x600)
    put(WAIT_KEY, b"\xfb\xf4" + _jump(WAIT_KEY + 2, vector_trap(0x16)))  # sti; hlt; jmp INT 16h
    put(YIELD, b"\xfb\x90" + _jump(YIELD + 2, vector_trap(0x15)))  # sti; nop; jmp INT 15h
    # push ax; push dx; push ds; int 1Ch; pop ds; pop dx; pop ax; jmp done
    put(TICK_CHAIN, b"\x50\x52\x1e\xcd\x1c\x1f\x5a\x58" + _jump(TICK_CHAIN + 8, Trap.TICK_DONE))
    # push ax; in al,60h; mov ah,4Fh; stc; int 15h; jmp key
    put(KEYBOARD_IRQ, b"\x50\xe4\x60\xb4\x4f\xf9\xcd\x15" + _jump(KEYBOARD_IRQ + 8, Trap.KEY))
    put(KEY_DONE, b"\x58\xcf")  # pop ax; iret
    put(HALT, b"\xfa\xf4\xeb\xfc")  # cli; hlt; jmp $-2
    put(IRET, b"\xcf")
    put(RESET, b"\xea" + Trap.POST.to_bytes(2, "little") + SEGMENT.to_bytes(2, "little"))
    put(0xFFF5, b"01/01/99\x00\xfc\x00")  # date, model byte FCh: PC/AT
    # INT 15h AH=C0h: length, model, submodel, revision, features (second PIC, RTC, INT 15h AH=4Fh, EBDA).
    put(CONFIGURATION, bytes((8, 0, 0xFC, 0, 0, 0x74, 0, 0, 0, 0)))
    # Diskette parameters, 1.44M: step/unload, load/DMA, motor-off ticks, sector size code, sectors per track, gap,
    # data length, format gap, filler, settle, motor start.
    put(FLOPPY_TABLE, bytes((0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08)))
    # INT 10h AH=1Bh: every text and VGA mode number, 200/350/400 lines, the functions this firmware has.
    put(VIDEO_STATE, bytes((0x8F, 0, 0, 0, 0, 0, 0, 7, 2, 8, 0x0D, 0x02, 0, 0, 0, 0)))
    memory.ram[BIOS : BIOS + len(image)] = bytes(image)
