"""The firmware image at F0000h: entry points, the code that runs in the guest, and data programs look for.

An entry point (trap) is an address in one page; fetching there ends the run and its offset names the service.  Code
that has to take interrupts or call the guest's own handlers (waiting, INT 15h AH=4Fh) is guest code in ROM, so that it
works in whatever mode the guest calls it from; so are the services of :mod:`dm.shim.bios.services`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dm.isa.map.assembler import Assembly
from dm.shim.bios import services
from dm.shim.bios.font import font
from dm.shim.pc_memory import BIOS, TRAPS, PcMemory

SEGMENT: Final = 0xF000
_PAGE = TRAPS - BIOS
_VECTOR_TRAPS = _PAGE + 0x100


class Trap(IntEnum):
    """Offsets in segment F000h of entry points that are not interrupt vectors."""

    POST = 0xE05B
    KEY = 0xE400
    REST = 0xE404


#: Code, data tables and vectors programs know by address (offsets in segment F000h).
KEYBOARD_IRQ: Final = 0xD010
KEY_DONE: Final = 0xD020
HALT: Final = 0xD030
YIELD: Final = 0xD040
FONT_8X14: Final = 0xA000
FONT_8X8: Final = 0xB000
FONT_8X16: Final = 0xC000
VIDEO_STATE: Final = 0xDA00
CONFIGURATION: Final = 0xE6F5
FLOPPY_TABLE: Final = 0xEFC7
#: The lower half of the 8 by 8 font where the PC/AT has it.
OLD_FONT: Final = 0xFA6E
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


def code() -> Assembly:
    """Return the services that the guest executes itself, and where they are."""
    return services.assembled(vector_trap(0x10), vector_trap(0x16), vector_trap(0x1A), Trap.REST)


#: Labels of the services that are vectors.
SERVICES: Final = {0x08: "int08", 0x10: "int10", 0x11: "int11", 0x12: "int12", 0x16: "int16", 0x1A: "int1a"}


def install(memory: PcMemory) -> None:
    """Write the image below 1 MiB."""
    image = bytearray(0x10000)

    def put(offset: int, data: bytes) -> None:
        image[offset : offset + len(data)] = data

    # Entry points hold IRET for those who disassemble them; they are never executed.
    put(_PAGE, b"\xcf" * 0x600)
    put(services.START, code().code)
    put(services.POLLS, services.PATIENCE.to_bytes(2, "little"))
    for offset, height in ((FONT_8X8, 8), (FONT_8X14, 14), (FONT_8X16, 16)):
        put(offset, font(height))
    put(OLD_FONT, font(8)[:0x400])
    put(YIELD, b"\xfb\x90" + _jump(YIELD + 2, vector_trap(0x15)))  # sti; nop; jmp INT 15h
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
