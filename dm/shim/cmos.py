"""What CMOS says about the machine: memory, diskettes, boot order.  ROMs rely on it from the start.

IBM PC/AT Technical Reference, "Real-Time Clock/CMOS RAM Information"; bytes 34h, 35h, 38h, 3Dh and 5Bh to 5Fh are the
convention that Bochs, QEMU and SeaBIOS share.
"""

from __future__ import annotations

from collections.abc import Sequence

from dm.shim.disk import DiskKind, Drive
from dm.shim.pc_memory import CONVENTIONAL_END, EXTENDED, KIB, MIB

#: Offsets in CMOS.
FLOPPIES, DISKS, EQUIPMENT, BASE, EXTENDED_SIZE = 0x10, 0x12, 0x14, 0x15, 0x17
CHECKSUM, EXTENDED_FOUND, ABOVE_16M, BOOT_CHECK, BOOT_ORDER, ABOVE_4G = 0x2E, 0x30, 0x34, 0x38, 0x3D, 0x5B
_BOOT = {DiskKind.FLOPPY: 1, DiskKind.DISK: 2, DiskKind.CD: 3}


def equipment(drives: Sequence[Drive]) -> int:
    """Return the equipment word: VGA, a serial port, no mouse, no coprocessor to count on, and the diskette drives."""
    floppies = sum(d.kind is DiskKind.FLOPPY for d in drives)
    return 0x20 | 1 << 9 | (1 | (floppies - 1) << 6 if floppies else 0)


def fill(cmos: bytearray, memory: int, drives: Sequence[Drive], *, check_signature: bool = True) -> None:
    """Fill in the bytes that do not change by themselves.

    Args:
        cmos: the 128 bytes.
        memory: RAM in bytes, the hole below 1 MiB included.
        drives: the drives, the one to boot from first.
        check_signature: whether a diskette without 55AAh at its end is not to be booted.
    """
    floppies = [d for d in drives if d.kind is DiskKind.FLOPPY]
    cmos[FLOPPIES] = floppies[0].floppy_type << 4 if floppies else 0
    cmos[DISKS] = 0xF0 if any(d.kind is DiskKind.DISK for d in drives) else 0
    cmos[EQUIPMENT] = equipment(drives) & 0xFF
    extended = min((memory - EXTENDED) // KIB, 0xFFFF)
    above16 = min(max(memory - 16 * MIB, 0) // (64 * KIB), 0xFFFF)
    for at, value in (
        (BASE, CONVENTIONAL_END // KIB), (EXTENDED_SIZE, extended), (EXTENDED_FOUND, extended), (ABOVE_16M, above16),
    ):  # fmt: skip
        cmos[at : at + 2] = value.to_bytes(2, "little")
    cmos[ABOVE_4G : ABOVE_4G + 3] = bytes(3)
    order = [*[_BOOT[d.kind] for d in drives][:2], 0, 0]
    cmos[BOOT_ORDER] = order[0] | order[1] << 4
    cmos[BOOT_CHECK] = 0 if check_signature else 1
    cmos[CHECKSUM : CHECKSUM + 2] = (sum(cmos[0x10:CHECKSUM]) & 0xFFFF).to_bytes(2, "big")
