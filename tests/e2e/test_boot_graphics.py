"""Graphics on the small PC: GRUB draws a picture through the VGA's planes, and a picture of the screen has it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from needs import need

WIDTH, HEIGHT = 640, 480
CONFIGURATION = """
insmod vga
insmod gfxterm
insmod tga
insmod serial
loadfont unicode
set gfxmode=640x480x4
serial --unit=0
terminal_output gfxterm serial
background_image /picture.tga
echo the picture is up
"""


def targa() -> bytes:
    """Return a picture: the left half red, the right half blue."""
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 24, 0x20)
    row = b"\x00\x00\xaa" * (WIDTH // 2) + b"\xaa\x00\x00" * (WIDTH // 2)
    return header + row * HEIGHT


def pixels(png: bytes) -> list[bytes]:
    """Return the rows of a PNG as the small PC writes them."""
    at, data, stride = 8, b"", WIDTH * 3 + 1
    while at < len(png):
        size, name = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += size + 12
    rows = zlib.decompress(data)
    return [rows[y * stride + 1 : (y + 1) * stride] for y in range(HEIGHT)]


def test_grub_shows_a_picture(tmp_path: Path) -> None:
    need("grub-mkrescue", "xorriso", "mformat", "/usr/lib/grub/i386-pc")
    root, image, shot = tmp_path / "root", tmp_path / "picture.iso", tmp_path / "shot.png"
    (root / "boot" / "grub").mkdir(parents=True)
    (root / "boot" / "grub" / "grub.cfg").write_text(CONFIGURATION)
    (root / "picture.tga").write_bytes(targa())
    made = ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", str(image), str(root)]
    done = subprocess.run(made, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    words = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", "native", str(image), "--json"]
    # The serial line is faster than the screen.
    steps = ["--expect", "the picture is up", "--expect", "grub>", "--keys", r"sleep 2; echo sle${x}pt\n", "--expect"]
    steps += ["slept", "--screenshot", str(shot), "--timeout", "200"]
    done = subprocess.run(words + steps, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert "graphics, 640x480 dots, 16 colours" in report["screen"][0]
    rows = pixels(shot.read_bytes())
    left, right = rows[-10][30:33], rows[-10][-33:-30]
    assert (left, right) == (b"\xaa\x00\x00", b"\x00\x00\xaa")
    assert any(b"\xaa\xaa\xaa" in row for row in rows[:200]), "and GRUB's text over it"
    # Four planes of 38,400 bytes, and more than one frame: none of them waited for.
    assert report["stats"]["questions"].get("mmio-write", 0) < 100
