"""ROMs that Debian ships, started at the reset vector with no firmware of ours under them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from needs import need

BOCHS = Path("/usr/share/bochs/BIOS-bochs-legacy")
GRUB = Path("/usr/share/qemu/grub.bin")
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
    result = report(BOCHS, "--debugcon", "0x402", "--expect", "No bootable device", "--timeout", 200)
    assert result["post"][-1] == 0x77
    assert result["resets"] == 0


def test_grub_rom_obeys_its_prompt(tmp_path: Path) -> None:
    """It finds its memory in CMOS, loads a font through the planes, and reads the keyboard from its controller."""
    file = tmp_path / "prompt.png"
    steps = ("--expect", "Use the", "--keys", "c", "--expect", "grub>", "--keys", r"echo on $grub_platform\n")
    result = report(GRUB, *steps, "--expect", "on qemu", "--screenshot", file, "--timeout", 250)
    assert any("GNU GRUB" in row for row in result["screen"])
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
