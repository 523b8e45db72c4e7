"""ROMs that Debian ships, started at the reset vector with no firmware of ours under them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from needs import need

BOCHS = Path("/usr/share/bochs/BIOS-bochs-legacy")
BOCHS_32 = Path("/usr/share/bochs/BIOS-bochs-latest")
SEABIOS = Path("/usr/share/seabios/bios.bin")
SEABIOS_256 = Path("/usr/share/seabios/bios-256k.bin")
GRUB = Path("/usr/share/qemu/grub.bin")
U_BOOT = Path("/usr/lib/u-boot/qemu-x86/u-boot.rom")
BOOT = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", "native"]


def report(rom: Path, *options: object) -> dict[str, Any]:
    """Start a ROM and return the report in JSON; the last expected text has to appear."""
    need(rom)
    words = [*BOOT, "--bios", str(rom), *map(str, options), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_bochs_bios_finishes_its_post() -> None:
    """That of Bochs 3 wants a video ROM then, which the small PC has not."""
    need(BOCHS)
    wants_video = b"Legacy BIOS does not support PCI ROM" in BOCHS.read_bytes()
    last = "No VGABIOS ROM at C000:0000h" if wants_video else "No bootable device"
    result = report(BOCHS, "--debugcon", "0x402", "--expect", last, "--timeout", 200)
    assert result["post"][-1] == 0x77
    assert result["resets"] == 0


def test_bochs_bios_with_its_32_bit_half_finishes_its_post() -> None:
    """It looks for MTRRs and processors, and writes tables into shadow RAM."""
    result = report(BOCHS_32, "--debugcon", "0x402", "--expect", "No bootable device", "--timeout", 200)
    assert "ram_size=0x04000000" in result["serial"]
    assert "Found 1 cpu(s)" in result["serial"]


def test_seabios_finishes_its_post() -> None:
    """It moves its initialization to the top of memory, which CMOS tells it, and finds neither PCI nor drives."""
    need(SEABIOS, SEABIOS_256)
    # Since 1.16.3 Debian builds the ROM of 128 KiB without debug output.  That of 256 KiB resets a machine without a
    # chipset twice first, on QEMU's isapc as well.
    version = re.search(rb"(\d+)\.(\d+)\.(\d+)-debian", SEABIOS.read_bytes())
    small = version is None or tuple(map(int, version.groups())) < (1, 16, 3)
    rom = SEABIOS if small else SEABIOS_256
    result = report(rom, "--debugcon", "0x402", "--expect", "No bootable device", "--timeout", 200)
    assert "RamSize: 0x04000000 [cmos]" in result["serial"]
    assert "Detected non-PCI system" in result["serial"]
    assert result["resets"] == 0 or not small


def test_grub_rom_obeys_its_prompt(tmp_path: Path) -> None:
    """It finds its memory in CMOS, loads a font through the planes, and reads the keyboard from its controller."""
    file = tmp_path / "prompt.png"
    steps = ("--expect", "Use the", "--keys", "c", "--expect", "grub>", "--keys", r"echo on $grub_platform\n")
    result = report(GRUB, *steps, "--expect", "on qemu", "--screenshot", file, "--timeout", 250)
    assert any("GNU GRUB" in row for row in result["screen"])
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_u_boot_obeys_its_prompt() -> None:
    """It writes IA32_APIC_BASE without asking CPUID for an APIC, sets up MTRRs, and talks to the serial port."""
    steps = ("--expect", "stop autoboot", "--keys", " ", "--expect", "=>", "--keys", r"echo it ${nothing}runs\n")
    result = report(U_BOOT, *steps, "--expect", "it runs", "--timeout", 200)
    assert result["resets"] == 0
    assert result["stats"]["questions"]["msr-write"] == 1
