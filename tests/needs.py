"""What the tests need of a machine beside Python packages: programs and files, each with its Debian package.

``./run`` installs those packages; tests/test_needs.py holds that it does, and that no test uses what is not listed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def first(*paths: str) -> Path:
    """Return the first of ``paths`` that is here: Debian's releases differ in where a file is."""
    return next(filter(Path.exists, map(Path, paths)), Path(paths[0]))


#: Network boot ROM of QEMU's e1000: Debian 12's place, Debian 13's.
E1000_ROM = first("/usr/lib/ipxe/qemu/pxe-e1000.rom", "/usr/share/qemu/pxe-e1000.rom")

#: Programs (names, looked up on PATH) and files (absolute paths) to the packages that ``./run`` installs them with.
PACKAGES = {
    "as": "gcc",  # by way of binutils
    "bochs": "bochs",
    "cc": "gcc",
    "flock": "util-linux",
    "gcc": "gcc",
    "grub-mkrescue": "grub-common",
    "ld": "gcc",
    "mcopy": "mtools",
    "mformat": "mtools",
    "mmd": "mtools",
    "nasm": "nasm",
    "objdump": "gcc",
    "shellcheck": "shellcheck",
    "syslinux": "syslinux",
    "xorriso": "xorriso",
    "/usr/lib/ISOLINUX/isolinux.bin": "isolinux",
    "/usr/lib/grub/i386-pc": "grub-pc-bin",
    str(E1000_ROM): "ipxe-qemu",
    "/usr/lib/ipxe/ipxe.iso": "ipxe",
    "/usr/lib/syslinux/modules/bios": "syslinux-common",
    "/usr/share/bochs/BIOS-bochs-latest": "bochsbios",
    "/usr/share/bochs/BIOS-bochs-legacy": "bochsbios",
    "/usr/share/qemu": "qemu-system-data",
    "/usr/lib/u-boot/qemu-x86/u-boot.rom": "u-boot-qemu",
    "/usr/share/qemu/grub.bin": "grub-firmware-qemu",
    "/usr/share/seabios": "seabios",
    "/usr/share/seabios/bios-256k.bin": "seabios",
    "/usr/share/seabios/bios.bin": "seabios",
}

#: Programs of every Debian system (Essential: yes, or apt).
ALWAYS = frozenset(
    "apt-cache apt-get awk bash cat chmod cp cut date dirname dpkg-deb env false find grep head id kill ln ls mkdir "
    "mktemp mv rm sed sh sha256sum sleep sort tail tar test touch tr true uname wc xargs".split()
)


def missing(*things: str | Path) -> list[str]:
    """Return those of ``things`` that are not here, each with its package."""
    absent = []
    for thing in map(str, things):
        if not (Path(thing).exists() if thing.startswith("/") else shutil.which(thing)):
            absent.append(f"{thing} (package {PACKAGES.get(thing, 'unknown')})")
    return absent


def need(*things: str | Path) -> None:
    """Skip the test without these programs and files."""
    if absent := missing(*things):
        pytest.skip(f"not here: {', '.join(absent)}")
