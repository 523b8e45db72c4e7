"""The El Torito boot record of a CD-ROM image (El Torito Bootable CD-ROM Format Specification 1.0)."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Final

SECTOR: Final = 2048
_FIRST_DESCRIPTOR: Final = 16
_IDENTIFIER: Final = b"EL TORITO SPECIFICATION"

#: Media types of a boot entry (byte 1, bits 0-3).
NO_EMULATION, FLOPPY_1200, FLOPPY_1440, FLOPPY_2880, HARD_DISK = range(5)


#: An image: a mapping of the file, or its bytes.
Image = mmap.mmap | bytearray | bytes


@dataclass(frozen=True, slots=True)
class BootEntry:
    """What the boot catalog says to load.

    ``load_segment`` is a real-mode segment; ``sectors`` counts 512-byte units; ``start`` is a 2048-byte sector of
    the CD.
    """

    media: int
    load_segment: int
    sectors: int
    start: int


def is_iso9660(image: Image) -> bool:
    """Tell whether the image has an ISO 9660 volume descriptor."""
    at = _FIRST_DESCRIPTOR * SECTOR
    return image[at + 1 : at + 6] == b"CD001"


def boot_entry(image: Image) -> BootEntry | None:
    """Return the first bootable x86 entry of the boot catalog, None if the CD has no boot record or no such entry.

    Raises:
        ValueError: the boot catalog is damaged, with the reason.
    """
    catalog = _catalog(image)
    if catalog is None:
        return None
    validation = catalog[:32]
    if len(validation) < 32 or validation[0] != 1 or validation[30:32] != b"\x55\xaa":
        raise ValueError("El Torito boot catalog has no validation entry")
    if sum(int.from_bytes(validation[i : i + 2], "little") for i in range(0, 32, 2)) & 0xFFFF:
        raise ValueError("El Torito validation entry has a wrong checksum")
    platform, at = validation[1], 32
    remaining = 1  # the initial entry belongs to the validation entry's platform
    while at + 32 <= len(catalog):
        record = catalog[at : at + 32]
        at += 32
        if remaining == 0 and record[0] in (0x90, 0x91):
            platform, remaining = record[1], int.from_bytes(record[2:4], "little")
        elif record[0] == 0x44:
            continue  # extension of the entry before
        elif remaining == 0:
            return None
        else:
            remaining -= 1
            if record[0] == 0x88 and platform == 0:
                return _entry(record)
    return None


def _catalog(image: Image) -> bytes | None:
    for number in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + 64):
        descriptor = image[number * SECTOR : (number + 1) * SECTOR]
        if len(descriptor) < SECTOR or descriptor[1:6] != b"CD001" or descriptor[0] == 0xFF:
            return None
        if descriptor[0] == 0 and descriptor[7 : 7 + len(_IDENTIFIER)] == _IDENTIFIER:
            start = int.from_bytes(descriptor[0x47:0x4B], "little") * SECTOR
            return bytes(image[start : start + SECTOR])
    return None


def _entry(record: bytes) -> BootEntry:
    media = record[1] & 0x0F
    if media > HARD_DISK:
        raise ValueError(f"El Torito boot entry has media type {media}; 0 to {HARD_DISK} exist")
    return BootEntry(
        media,
        int.from_bytes(record[2:4], "little") or 0x7C0,
        int.from_bytes(record[6:8], "little") or 1,
        int.from_bytes(record[8:12], "little"),
    )
