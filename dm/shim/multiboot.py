"""Multiboot kernels: finding and checking the header, what is loaded where, and the state a kernel starts in.

Multiboot Specification 0.6.96, sections 3.1 (header), 3.2 (machine state), 3.3 (boot information); ELF-32 from the
Tool Interface Standard, version 1.2.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dm.machine.architecture import Cr0, Eflags, Rights
from dm.machine.state import Seg, State
from dm.shim.pc_memory import TEXT, PcMemory

HEADER_MAGIC: Final = 0x1BADB002
LOADER_MAGIC: Final = 0x2BADB002
#: The header lies in the first bytes of the file, on a multiple of 4.
_SEARCH: Final = 8192

_PAGE_ALIGN, _MEMORY_INFO, _VIDEO_MODE, _ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16
_KNOWN: Final = _PAGE_ALIGN | _MEMORY_INFO | _VIDEO_MODE
_MUST: Final = 0xFFFF

#: Boot information: which parts are valid, and the size of the structure.
_HAS_MEMORY, _HAS_COMMAND, _HAS_MAP, _HAS_NAME, _HAS_FRAMEBUFFER = 1 << 0, 1 << 2, 1 << 6, 1 << 9, 1 << 12
_INFO_SIZE: Final = 116
_LOADER_NAME: Final = b"x86-dm\0"
_EGA_TEXT: Final = 2

_CODE32, _DATA32 = Rights.FLAT | Rights.TEXT, Rights.FLAT | Rights.DATA
_CODE_SELECTOR, _DATA_SELECTOR = 0x08, 0x10


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that go to physical ``address``, followed by zeros up to ``size`` bytes in all."""

    address: int
    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel ready to be loaded.  ``entry`` is a physical address, ``command`` its command line."""

    pieces: tuple[Piece, ...]
    entry: int
    command: str = ""

    def check(self, regions: Iterable[tuple[int, int, int]]) -> None:
        """Check that every piece is in usable memory.

        Args:
            regions: (start, end, type) as INT 15h AX=E820h lists them.

        Raises:
            ValueError: naming the piece that does not.
        """
        usable = [(start, end) for start, end, kind in regions if kind == 1]
        for piece in self.pieces:
            end = piece.address + piece.size
            if not any(low <= piece.address and end <= high for low, high in usable):
                places = ", ".join(f"{low:#x} to {high - 1:#x}" for low, high in usable)
                raise ValueError(
                    f"the kernel wants to be loaded at {piece.address:#x} to {end - 1:#x}; there is memory at {places}"
                )

    def start(self, memory: PcMemory, state: State, regions: Sequence[tuple[int, int, int]]) -> None:
        """Load the kernel and its boot information, and set ``state`` to its entry; A20 must be open.

        Args:
            memory: where it goes.
            state: changed to 32-bit protected mode at the entry: flat segments, no paging, interrupts off.
            regions: (start, end, type) of the memory map, as INT 15h AX=E820h lists it.
        """
        for piece in self.pieces:
            memory.write(piece.address, piece.data + bytes(piece.size - len(piece.data)))
        info = _information(0, self.command, regions, memory.size)
        at = self._place(len(info))
        memory.write(at, _information(at, self.command, regions, memory.size))
        for seg in (Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
            s = state.seg[seg]
            s.selector, s.attributes = (_CODE_SELECTOR, _CODE32) if seg is Seg.CS else (_DATA_SELECTOR, _DATA32)
            s.base, s.limit, s.unusable = 0, 0xFFFFFFFF, 0
        state.gpr = [0] * len(state.gpr)
        state.eax, state.ebx = LOADER_MAGIC, at
        state.rip, state.cr0 = self.entry, state.cr0 | Cr0.PE
        state.rflags &= ~Eflags.IF

    def _place(self, size: int) -> int:
        """Return a page in low memory that the kernel leaves free, above vectors and BIOS data."""
        at = 0x1000
        while any(p.address < at + size and at < p.address + p.size for p in self.pieces):
            at += 0x1000
        return at


def _information(at: int, command: str, regions: Sequence[tuple[int, int, int]], memory: int) -> bytes:
    """Return the boot information structure and all it points to, for physical address ``at``."""
    table = b"".join(struct.pack("<IQQI", 20, start, end - start, kind) for start, end, kind in regions)
    line = command.encode() + b"\0"
    name_at = at + _INFO_SIZE
    line_at = name_at + len(_LOADER_NAME)
    table_at = line_at + len(line)
    flags = _HAS_MEMORY | _HAS_COMMAND | _HAS_MAP | _HAS_NAME | _HAS_FRAMEBUFFER
    info = bytearray(_INFO_SIZE)
    low = next(end for start, end, kind in regions if start == 0 and kind == 1)
    struct.pack_into("<III", info, 0, flags, low >> 10, (memory - 0x100000) >> 10)
    struct.pack_into("<I", info, 16, line_at)
    struct.pack_into("<II", info, 44, len(table), table_at)
    struct.pack_into("<I", info, 64, name_at)
    struct.pack_into("<QIIIBB", info, 88, TEXT, 160, 80, 25, 16, _EGA_TEXT)
    return bytes(info) + _LOADER_NAME + line + table


def find_header(image: bytes | bytearray | mmap.mmap) -> int | None:
    """Return the offset of the Multiboot header in a file, None if it has none."""
    head = bytes(image[:_SEARCH])
    for at in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, at)
        if magic == HEADER_MAGIC and magic + flags + checksum & 0xFFFFFFFF == 0:
            return at
    return None


def parse(image: bytes | mmap.mmap, command: str = "") -> KernelImage:
    """Return the kernel in a file.

    Args:
        image: the file.
        command: its command line.

    Raises:
        ValueError: there is no header, it asks for what this loader cannot do, or the file is damaged.
    """
    at = find_header(image)
    if at is None:
        raise ValueError(f"there is no Multiboot header in the first {_SEARCH} bytes")
    (flags,) = struct.unpack_from("<I", image, at + 4)
    if unknown := flags & _MUST & ~_KNOWN:
        raise ValueError(f"the Multiboot header asks for what this loader cannot do: flags {unknown:#x}")
    if flags & _ADDRESSES:
        pieces, entry = _by_addresses(image, at)
    elif image[:4] == b"\x7fELF":
        pieces, entry = _by_elf(image)
    else:
        raise ValueError("the Multiboot header gives no addresses (flag 16), and the file is no ELF file either")
    return KernelImage(pieces, entry, command)


def _by_addresses(image: bytes | mmap.mmap, at: int) -> tuple[tuple[Piece, ...], int]:
    """Load as the header's address fields say (the "a.out kludge")."""
    if at + 32 > len(image):
        raise ValueError("the file ends inside the Multiboot header's address fields")
    header, load, load_end, bss_end, entry = struct.unpack_from("<5I", image, at + 12)
    offset = at - (header - load)
    length = load_end - load if load_end else len(image) - offset
    if header < load or offset < 0 or length <= 0 or offset + length > len(image):
        raise ValueError(
            f"the Multiboot header at {at:#x} says it is loaded at {header:#x} and the image at {load:#x} to "
            f"{load_end:#x}, which the file of {len(image)} bytes does not contain"
        )
    size = max(length, bss_end - load) if bss_end else length
    return (Piece(load, image[offset : offset + length], size),), entry


def _by_elf(image: bytes | mmap.mmap) -> tuple[tuple[Piece, ...], int]:
    """Load the segments of an ELF-32 executable at their physical addresses."""
    if image[4:5] == b"\x02":
        raise ValueError(
            "a 64-bit ELF file; Multiboot kernels are loaded from 32-bit ones (objcopy -O elf32-i386 makes one of "
            "32-bit code), or by address fields in the header (flag 16)"
        )
    if len(image) < 52 or image[4:6] != b"\x01\x01" or struct.unpack_from("<H", image, 18)[0] != 3:
        raise ValueError("the ELF file is not for 32-bit x86")
    entry, table = struct.unpack_from("<II", image, 24)
    entry_size, count = struct.unpack_from("<HH", image, 42)
    if entry_size < 32 or table + count * entry_size > len(image):
        raise ValueError("the ELF file ends inside its program headers")
    pieces, physical_entry = [], entry
    for index in range(count):
        kind, offset, virtual, physical, size, total = struct.unpack_from("<6I", image, table + index * entry_size)
        if kind != 1 or not total:
            continue
        if offset + size > len(image) or size > total:
            raise ValueError(f"segment {index} of the ELF file has {size:#x} bytes at {offset:#x}, beyond its end")
        pieces.append(Piece(physical, image[offset : offset + size], total))
        if virtual <= entry < virtual + total:
            physical_entry = entry - virtual + physical
    if not pieces:
        raise ValueError("the ELF file has nothing to load")
    return tuple(pieces), physical_entry
