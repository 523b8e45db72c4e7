"""Disk images: what kind an image is, its geometry, and its sectors."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from dm.shim import eltorito, multiboot

SECTOR: Final = 512
#: mmap(2); missing in Python's module.
_MAP_NORESERVE: Final = 0x4000
_NO_FILES: Final = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISBLK, "a block device"), (stat.S_ISCHR, "a character device"),
    (stat.S_ISFIFO, "a FIFO"),
)  # fmt: skip


class DiskKind(StrEnum):
    """How the firmware presents an image; a Multiboot kernel is no drive, it is started directly."""

    FLOPPY = "floppy"
    DISK = "disk"
    CD = "cd"
    MULTIBOOT = "multiboot"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Cylinders, heads and sectors per track as INT 13h counts them (sectors from 1)."""

    cylinders: int
    heads: int
    sectors: int

    def lba(self, cylinder: int, head: int, sector: int) -> int | None:
        """Return the sector number of an address, None if it does not exist."""
        if cylinder >= self.cylinders or head >= self.heads or not 1 <= sector <= self.sectors:
            return None
        return (cylinder * self.heads + head) * self.sectors + sector - 1


#: INT 13h AH=08h drive type and geometry of each diskette size in bytes.
FLOPPIES: Final[dict[int, tuple[int, Geometry]]] = {
    163840: (1, Geometry(40, 1, 8)),
    184320: (1, Geometry(40, 1, 9)),
    327680: (1, Geometry(40, 2, 8)),
    368640: (1, Geometry(40, 2, 9)),
    737280: (3, Geometry(80, 2, 9)),
    1228800: (2, Geometry(80, 2, 15)),
    1474560: (4, Geometry(80, 2, 18)),
    655360: (3, Geometry(80, 2, 8)),
    819200: (3, Geometry(80, 2, 10)),
    1638400: (4, Geometry(80, 2, 20)),
    1720320: (4, Geometry(80, 2, 21)),
    1763328: (4, Geometry(82, 2, 21)),
    2949120: (6, Geometry(80, 2, 36)),
}


@dataclass
class Drive:
    """One drive of the firmware: a window of an image in sectors of ``sector_size`` bytes.

    ``number`` is the INT 13h drive number; ``floppy_type`` is nonzero for diskettes (INT 13h AH=08h, BL).
    """

    number: int
    kind: DiskKind
    data: mmap.mmap | bytearray
    geometry: Geometry
    start: int = 0
    length: int | None = None
    sector_size: int = SECTOR
    floppy_type: int = 0
    read_only: bool = False
    boot: eltorito.BootEntry | None = None

    @property
    def sectors(self) -> int:
        """Number of sectors; a last partial one counts."""
        length = len(self.data) - self.start if self.length is None else self.length
        return -(-length // self.sector_size)

    def read(self, sector: int, count: int) -> bytes | None:
        """Return ``count`` sectors from ``sector`` on, None if one does not exist; a partial last one ends in zeros."""
        if sector + count > self.sectors:
            return None
        at = self.start + sector * self.sector_size
        size = count * self.sector_size
        return bytes(self.data[at : at + size]).ljust(size, b"\0")

    def write(self, sector: int, data: bytes) -> bool:
        """Write whole sectors from ``sector`` on; False if one does not exist."""
        if sector + len(data) // self.sector_size > self.sectors:
            return False
        at = self.start + sector * self.sector_size
        room = len(self.data) - at
        self.data[at : at + min(room, len(data))] = data[:room]
        return True


def open_image(path: Path, *, write: bool = False) -> mmap.mmap:
    """Map an image; without ``write`` the guest's writes stay in memory and are discarded at the end.

    Raises:
        ValueError: the image is empty or no regular file.
        OSError: it cannot be opened or mapped, with its path.
    """
    # Do not wait for a writer of a FIFO.
    fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory, an image file is needed", str(path))
        if not stat.S_ISREG(found.st_mode):
            kind = next((name for test, name in _NO_FILES if test(found.st_mode)), "no regular file")
            raise ValueError(f"{kind}, an image file is needed")
        if found.st_size == 0:
            raise ValueError("the image is empty")
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        # Only what the guest writes takes memory; the kernel need not reserve the size of the image.
        flags = mmap.MAP_SHARED if write else mmap.MAP_PRIVATE | _MAP_NORESERVE
        try:
            return mmap.mmap(fd, 0, flags=flags, prot=protection)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(fd)


def detect(image: mmap.mmap | bytearray) -> DiskKind:
    """Return what an image is: an ISO 9660 CD, a diskette by its size or BPB, a Multiboot kernel, else a hard disk.

    A hybrid image, both CD and disk, counts as CD.
    """
    if eltorito.is_iso9660(image):
        return DiskKind.CD
    if floppy(image) is not None:
        return DiskKind.FLOPPY
    bootable = bytes(image[510:512]) == b"\x55\xaa"
    return DiskKind.DISK if bootable or multiboot.find_header(image) is None else DiskKind.MULTIBOOT


def floppy(image: mmap.mmap | bytearray) -> tuple[int, Geometry] | None:
    """Return drive type and geometry of a diskette, None if the image looks like none.

    Its size decides, or a BIOS parameter block that describes an image of just this size with a diskette's media byte
    and geometry (Microsoft, "FAT: General Overview of On-Disk Format", 1.03).
    """
    if len(image) in FLOPPIES:
        return FLOPPIES[len(image)]
    bpb = bytes(image[:36])
    if len(bpb) < 36 or bpb[0] not in (0xEB, 0xE9) or bpb[11:13] != SECTOR.to_bytes(2, "little"):
        return None
    total = int.from_bytes(bpb[19:21], "little")
    sectors, heads = int.from_bytes(bpb[24:26], "little"), int.from_bytes(bpb[26:28], "little")
    if bpb[21] != 0xF0 and bpb[21] < 0xF9:
        return None
    if total * SECTOR != len(image) or heads not in (1, 2) or not 8 <= sectors <= 36 or total % (sectors * heads):
        return None
    cylinders = total // (sectors * heads)
    if not 40 <= cylinders <= 84:
        return None
    kind = 1 if cylinders < 70 else 3 if sectors < 12 else 2 if sectors < 18 else 4 if sectors < 30 else 6
    return kind, Geometry(cylinders, heads, sectors)


def _cut_short(image: mmap.mmap | bytearray) -> tuple[int, Geometry] | None:
    """Return the type of a truncated diskette image, such as a boot sector alone: 1.44M if it fits, or larger."""
    return next((FLOPPIES[size] for size in (1474560, *sorted(FLOPPIES)) if size >= len(image)), None)


def drives(image: mmap.mmap | bytearray, kind: DiskKind) -> list[Drive]:
    """Return the drives for an image, the one to boot from first; a Multiboot kernel has none.

    Raises:
        ValueError: the image cannot be of this kind, with the reason.
    """
    if kind is DiskKind.MULTIBOOT:
        return []
    if kind is DiskKind.CD:
        return _cd_drives(image)
    if kind is DiskKind.FLOPPY:
        known = floppy(image) or _cut_short(image)
        if known is None:
            sizes = ", ".join(str(size) for size in sorted(FLOPPIES))
            raise ValueError(f"an image of {len(image)} bytes is no diskette; diskettes have up to {sizes} bytes")
        floppy_type, geometry = known
        size = geometry.cylinders * geometry.heads * geometry.sectors * SECTOR
        return [Drive(0, DiskKind.FLOPPY, image, geometry, length=size, floppy_type=floppy_type)]
    return [Drive(0x80, DiskKind.DISK, image, disk_geometry(-(-len(image) // SECTOR)))]


def disk_geometry(sectors: int) -> Geometry:
    """Return the translated geometry of a hard disk (at most 1024 x 255 x 63), by the usual doubling of heads."""
    heads = 16
    while heads < 255 and sectors > 1024 * heads * 63:
        heads = min(heads * 2, 255)
    return Geometry(max(1, min(1024, sectors // (heads * 63))), heads, 63)


def _cd_drives(image: mmap.mmap | bytearray) -> list[Drive]:
    if not eltorito.is_iso9660(image):
        raise ValueError("the image has no ISO 9660 volume descriptor, so it is no CD-ROM")
    entry = eltorito.boot_entry(image)
    if entry is None:
        raise ValueError("the CD-ROM has no El Torito boot entry for x86")
    none = Geometry(0, 0, 0)
    cd = Drive(0xE0, DiskKind.CD, image, none, sector_size=eltorito.SECTOR, read_only=True, boot=entry)
    start = entry.start * eltorito.SECTOR
    if start >= len(image):
        raise ValueError(f"the El Torito boot image starts at sector {entry.start}, beyond the end of the CD-ROM")
    if entry.media == eltorito.NO_EMULATION:
        return [cd]
    if entry.media == eltorito.HARD_DISK:
        geometry = _partition_geometry(bytes(image[start : start + SECTOR]))
        length = geometry.cylinders * geometry.heads * geometry.sectors * SECTOR
        emulated = Drive(0x80, DiskKind.DISK, image, geometry, start, length, read_only=True, boot=entry)
    else:
        size = {1: 1228800, 2: 1474560, 3: 2949120}[entry.media]
        floppy_type, geometry = FLOPPIES[size]
        emulated = Drive(
            0, DiskKind.FLOPPY, image, geometry, start, size, floppy_type=floppy_type, read_only=True, boot=entry
        )
    return [emulated, cd]


def _partition_geometry(mbr: bytes) -> Geometry:
    """Return the geometry of an emulated hard disk: its first partition's last address."""
    head, sector, cylinder = mbr[0x1BE + 5 : 0x1BE + 8]
    if not sector & 0x3F:
        raise ValueError("the El Torito hard-disk image has no first partition")
    return Geometry(((sector & 0xC0) << 2 | cylinder) + 1, head + 1, sector & 0x3F)
