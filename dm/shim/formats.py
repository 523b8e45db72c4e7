"""Files that are not raw images: recognised by their first bytes, and named with the command that makes a raw image."""

from __future__ import annotations

import mmap
from typing import Final

_CONVERT: Final = "qemu-img convert -O raw FILE FILE.raw makes a raw image of it"

#: (offset, bytes there, what it is, what would be right), from each format's specification; QEMU's block drivers and
#: file(1) look at the same places.
_FOREIGN: Final = (
    (0, b"QFI\xfb\x00\x00\x00\x01", "a qcow image", _CONVERT),
    (0, b"QFI\xfb", "a qcow2 image", _CONVERT),
    (0, b"QED\x00", "a QED image", _CONVERT),
    (0, b"KDMV", "a VMDK image", _CONVERT),
    (0, b"COWD", "a VMDK image", _CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor", _CONVERT),
    (0, b"vhdxfile", "a VHDX image", _CONVERT),
    (0, b"conectix", "a dynamic VHD image", _CONVERT),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image", _CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", _CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", _CONVERT),
    (0, b"\x1f\x8b\x08", "compressed by gzip", "gunzip -k FILE unpacks it"),
    (0, b"\xfd7zXZ\x00", "compressed by xz", "xz -dk FILE unpacks it"),
    (0, b"BZh", "compressed by bzip2", "bunzip2 -k FILE unpacks it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -d FILE unpacks it"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -d FILE unpacks it"),
    (0, b"PK\x03\x04", "a zip archive", "unzip FILE unpacks it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x FILE unpacks it"),
    (257, b"ustar", "a tar archive", "tar -xf FILE unpacks it"),
)

_SIGNATURE: Final = b"\x55\xaa"


def foreign(image: bytes | bytearray | mmap.mmap, name: str) -> str | None:
    """Return what a file is and what would be right, when it is no image that can be booted; else None.

    A file with the signature of a boot record is an image, whatever its first bytes are: they are code.
    """
    if image[510:512] == _SIGNATURE:
        return None
    for offset, magic, what, right in _FOREIGN:
        if image[offset : offset + len(magic)] == magic:
            return f"{what}, which cannot be booted as it is; {right.replace('FILE', name)}"
    return None


def foreign_elf(image: bytes | bytearray | mmap.mmap) -> str | None:
    """Return why an ELF file without a Multiboot header cannot be booted, None when it is no ELF file."""
    if image[:4] != b"\x7fELF":
        return None
    kind = {b"\x01": "32-bit", b"\x02": "64-bit"}.get(bytes(image[4:5]), "damaged")
    return (
        f"a {kind} ELF file without a Multiboot header in its first 8192 bytes; a Multiboot kernel (32-bit) or a disk "
        "image with a boot loader is needed"
    )
