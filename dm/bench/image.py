"""Kernels as ROM images: the same bytes for every engine, emulator and hypervisor, with no firmware in between.

An image is 64 KiB that end at 4 GiB and, once more, at 1 MiB, as a PC's firmware does.  From the reset vector on it
clears the first 64 KiB, copies the kernel to its place, runs it twice, and tells what happened on the debug port (E9h):
02h before the second time, 03h after it, then eight hexadecimal digits (``0`` to ``?``, one per four bits) of a
checksum over its registers and its data, and 04h.  What stands between the first two is the kernel alone; the clock is
the reader's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dm.bench.kernels import DATA, DEVICE, ORIGIN, REGISTERS, TABLES, Kernel, listing

SIZE: Final = 0x10000
DEBUG_PORT: Final = 0xE9
STARTED: Final = 2
ENDED: Final = 3
DONE: Final = 4
DIGITS: Final = 8
#: Rounds before the clock runs, so that who translates code has done so: speed is measured, not compilation.
WARM_UP: Final = 2

_RESET: Final = 0xFFF0
_TRAMPOLINE: Final = 0x600
_GDT: Final = 0x700


def build(kernel: Kernel, rounds: int) -> bytes:
    """Return the image that runs ``kernel`` for ``rounds`` rounds (1 to 2^32-1).

    Raises:
        ValueError: ``rounds`` does not fit, or the kernel is too large.
    """
    if not 0 < rounds < 1 << 32:
        raise ValueError(f"{rounds} rounds: 1 to {(1 << 32) - 1} are possible")
    blocks = [(_TRAMPOLINE, _trampoline(kernel, rounds)), (ORIGIN, kernel.code), *kernel.memory]
    if kernel.paged:
        blocks.append((_GDT, _DESCRIPTORS))
    image = bytearray(SIZE)
    code = bytearray(listing(_CLEAR))
    source = 0x400
    for address, data in blocks:
        if source + len(data) > _RESET:
            raise ValueError(f"kernel {kernel.name}: {source + len(data):#x} bytes, an image holds {_RESET:#x}")
        image[source : source + len(data)] = data
        code += b"\xb8" + _word(address >> 4) + b"\x8e\xc0"  # mov ax, segment; mov es, ax
        code += b"\xbf" + _word(address & 15) + b"\xbe" + _word(source)  # mov di, offset; mov si, source
        code += b"\xb9" + _word(len(data)) + b"\xf3\xa4"  # mov cx, length; rep movsb
        source += len(data)
    code += listing(_SEGMENTS)
    code += b"\xb8" + _word(DEVICE >> 4 if kernel.device else 0) + b"\x8e\xc0"  # mov ax, segment; mov es, ax
    code += b"\x66\xbc" + _long(kernel.stack)  # mov esp, stack
    code += b"\xea" + _word(_TRAMPOLINE) + b"\0\0"  # jmp 0:trampoline
    assert len(code) <= 0x400
    image[: len(code)] = code
    image[_RESET : _RESET + 5] = b"\xea\0\0\0\xf0"  # jmp f000:0
    return bytes(image)


@dataclass
class Reader:
    """Takes the bytes of the debug port, whatever else stands between them, and keeps when they came.

    ``started`` and ``ended`` are on the caller's clock, in seconds; ``checksum`` is None until all of it has come.
    """

    started: float | None = None
    ended: float | None = None
    checksum: int | None = None
    _digits: bytes = b""

    def feed(self, data: bytes, now: float) -> bool:
        """Take bytes that came at ``now``; returns True once the kernel is done and its checksum known."""
        for byte in data:
            if self.started is None:
                self.started = now if byte == STARTED else None
            elif self.ended is None:
                self.ended = now if byte == ENDED else None
            elif byte == DONE and len(self._digits) == DIGITS:
                self.checksum = int.from_bytes(self._packed(), "big")
            elif self.checksum is None and 0x30 <= byte <= 0x3F:
                self._digits += bytes([byte])
        return self.checksum is not None

    @property
    def seconds(self) -> float:
        """Seconds between the two marks; ValueError before the second."""
        if self.started is None or self.ended is None:
            raise ValueError("the kernel has not ended")
        return self.ended - self.started

    def _packed(self) -> bytes:
        return bytes.fromhex("".join(f"{digit & 15:x}" for digit in self._digits))


def _word(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _long(value: int) -> bytes:
    return value.to_bytes(4, "little")


_CLEAR: Final = """
    fa          ; cli
    fc          ; cld
    6631c0      ; xor eax, eax
    8ec0        ; mov es, ax
    31ff        ; xor di, di
    b90040      ; mov cx, 4000h
    f366ab      ; rep stosd
    b800f0      ; mov ax, f000h
    8ed8        ; mov ds, ax
"""

_SEGMENTS: Final = """
    31c0        ; xor ax, ax
    8ed8        ; mov ds, ax
    8ed0        ; mov ss, ax
    8ee0        ; mov fs, ax
    8ee8        ; mov gs, ax
"""

# Null, flat code and flat data, both accessed already; then what LGDT loads.
_DESCRIPTORS: Final = bytes.fromhex("0000000000000000 ffff0000009bcf00 ffff00000093cf00 1700") + _long(_GDT)


def _trampoline(kernel: Kernel, rounds: int) -> bytes:
    """Return what stands at 600h: enter the kernel's mode, mark, call, mark, sum up, halt."""
    size = 4 if kernel.paged else 2
    wide = "" if kernel.paged else "66"
    code = listing(_PROTECT) if kernel.paged else b""

    def near(target: int) -> bytes:
        """CALL ``target`` from the end of the code so far."""
        return b"\xe8" + ((target - _TRAMPOLINE - len(code) - 1 - size) & (1 << 8 * size) - 1).to_bytes(size, "little")

    def number(value: int) -> str:
        return value.to_bytes(size, "little").hex()

    for count, mark in ((WARM_UP, b""), (rounds, listing(f"b0{STARTED:02x} e6{DEBUG_PORT:02x}"))):
        code += mark  # mov al, 2; out e9h, al
        for register, value in {**REGISTERS, 1: count}.items():
            code += listing(f"{wide} {0xB8 + register:02x}") + _long(value)  # mov register, value
        code += near(ORIGIN)
    add_up = listing(
        f"""
        {wide} ad       ; sum: lodsd
        {wide} d1c3     ; rol ebx, 1
        {wide} 01c3     ; add ebx, eax
        e2{"f9" if kernel.paged else "f6"}  ; loop sum
        c3              ; ret
        """
    )
    # The sum stands before its callers, so that they know where it is.
    code += listing(
        f"""
        50                          ; push eax
        b0{ENDED:02x}               ; mov al, 3
        e6{DEBUG_PORT:02x}          ; out e9h, al
        58                          ; pop eax
        {wide} 60                   ; pushad
        {wide} 31db                 ; xor ebx, ebx
        89e6                        ; mov esi, esp
        b9{number(8)}               ; mov ecx, 8
        eb{len(add_up):02x}         ; jmp behind the sum
        """
    )
    sum_at = _TRAMPOLINE + len(code)
    code += add_up
    code += near(sum_at)
    code += listing(f"be{number(DATA)} b9{number(0x2000)}")  # mov esi, data; mov ecx, 2000h
    code += near(sum_at)
    code += listing(
        f"""
        b9{number(DIGITS)}          ; mov ecx, 8
        {wide} c1c304               ; digit: rol ebx, 4
        88d8                        ; mov al, bl
        240f                        ; and al, 15
        0430                        ; add al, '0'
        e6{DEBUG_PORT:02x}          ; out e9h, al
        e2{"f3" if kernel.paged else "f2"}  ; loop digit
        b0{DONE:02x}                ; mov al, 4
        e6{DEBUG_PORT:02x}          ; out e9h, al
        f4                          ; halt: hlt
        ebfd                        ; jmp halt
        """
    )
    assert _TRAMPOLINE + len(code) <= _GDT
    return code


# Ends in a far jump to what stands behind it, 22 bytes on, where 32-bit code begins.
_PROTECT: Final = f"""
    660f0116{_word(_GDT + 24).hex()}        ; lgdt [gdt+24]
    0f20c0                                  ; mov eax, cr0
    0c01                                    ; or al, 1
    0f22c0                                  ; mov cr0, eax
    66ea{_long(_TRAMPOLINE + 22).hex()}0800 ; jmp 8:next
    b810000000                              ; next: mov eax, 10h
    8ed8 8ec0 8ed0 8ee0 8ee8                ; mov ds, ax; and es, ss, fs, gs
    b8{_long(TABLES).hex()}                 ; mov eax, tables
    0f22d8                                  ; mov cr3, eax
    0f20c0                                  ; mov eax, cr0
    0d00000080                              ; or eax, 80000000h
    0f22c0                                  ; mov cr0, eax
    eb00                                    ; jmp short next
"""
