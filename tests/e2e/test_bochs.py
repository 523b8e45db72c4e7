"""The guests in ``bochs/`` run under Bochs and under ``x86-dm boot``: the same ROM, and every line the same.

What a line shows is said in ``bochs/frame.inc``.  Bochs is a witness, not the judge: lines in which the two may differ
are listed with the manual's section that decides, and such a line has to differ.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUESTS = Path(__file__).parent / "bochs"

#: Guest -> {pattern for the beginning of a line: why it is not as in Bochs}.  SDM unless another manual is named.
DIFFERENCES: dict[str, dict[str, str]] = {
    "segments": {},
    "gates": {
        r"room on the inner stack(, event)? 000000(04|08|0C|10):": (
            "vol. 2, CALL and INT: room on the new stack is checked before the first push; Bochs pushes until it faults"
        ),
    },
    "vm86": {
        r".* 00000001 00000003 00180000:": (
            "vol. 3A, 2.3: VIP is recognized only with IOPL below 3; Bochs raises #GP(0) whatever IOPL is"
        ),
        r"pvi: (cli|sti|popf) 00000003 00000003:": "the same with CR4.PVI (vol. 3A, 2.3 and 20.4)",
        r"iret to virtual-8086 mode beyond 64 KiB:": (
            "vol. 2, IRET, return to virtual-8086 mode: EIP beyond the limit is #GP(0) of IRET itself; Bochs does "
            "not look"
        ),
    },
    "task": {
        r"(null cs of rpl 3|cs of level 0 with rpl 1):": (
            "vol. 3A, table 7-1: CS is checked before DS and ES, its level against its RPL before SS; Bochs has SS and "
            "the data segments first"
        ),
    },
    "debug": {
        r"(tf over rep|data breakpoint in rep|i/o breakpoint on rep outsb):": (
            "vol. 3B, 17.3.1.1: RF is set in the image of a trap between two iterations; Bochs leaves it clear"
        ),
        r"tf over mov ss twice:": (
            "vol. 3A, 6.8.3: only the first of several loads of SS is sure to hold back the trap, so both are right"
        ),
        r"tf and an instruction breakpoint:": (
            "vol. 3A, table 6-2: the trap of the last instruction (4) comes before the breakpoint of the next (7); "
            "Bochs reports both at once"
        ),
        r"match of a disabled one with an enabled one:": (
            "vol. 3B, 17.2.3: B0-B3 of breakpoints that are not enabled may be set or not"
        ),
        r"gd( is clear in the handler)?:": (
            "vol. 3B, 17.3.1.1 and 17.3.1.3: the general-detect exception is a fault, so RF is set in its image"
        ),
    },
}

BOCHSRC = """\
display_library: term
romimage: file=rom.bin
vgaromimage: file=vga.bin
megs: 32
cpu: model=p3_katmai, ips=50000000, reset_on_triple_fault=1
clock: sync=none
parport1: enabled=1, file=out.txt
log: bochs.log
panic: action=fatal
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ROM of each guest."""
    missing = [tool for tool in ("nasm", "bochs") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("guests")
    for name in DIFFERENCES:
        words = ["nasm", "-f", "bin", "-I", f"{GUESTS}/", "-o", folder / f"{name}.bin", GUESTS / f"{name}.asm"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    return folder


def run_bochs(rom: Path, folder: Path) -> list[str]:
    """Run a ROM under Bochs; return the lines it printed."""
    (folder / "rom.bin").write_bytes(rom.read_bytes())
    (folder / "vga.bin").write_bytes(b"\x55\xaa\x01".ljust(512, b"\0"))
    (folder / "bochsrc").write_text(BOCHSRC)
    # The debugger stops at the start and at every reset.
    (folder / "commands").write_text("c\n" * 100)
    done = subprocess.run(
        ["bochs", "-q", "-f", "bochsrc", "-rc", "commands"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env=os.environ | {"TERM": "xterm"},
    )
    log = (folder / "bochs.log").read_text(errors="replace") if (folder / "bochs.log").exists() else ""
    assert "Shutdown port: shutdown requested" in log, f"{done.stderr.decode(errors='replace')}\n{log[-2000:]}"
    return (folder / "out.txt").read_text("latin-1").splitlines()


def run_here(rom: Path, engine: str) -> list[str]:
    """Run a ROM under ``x86-dm boot``; return the lines it printed."""
    words = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", engine, "--bios", str(rom)]
    done = subprocess.run(
        [*words, "--debugcon", "0xe9", "--exit-port", "0xf4", "--timeout", "300"], capture_output=True, timeout=320
    )
    assert b"wrote 0x00 to the exit port" in done.stderr, done.stderr.decode()
    return done.stdout.decode("latin-1").splitlines()


@pytest.mark.parametrize("guest", DIFFERENCES)
def test_as_bochs(built: Path, tmp_path: Path, guest: str) -> None:
    rom = built / f"{guest}.bin"
    theirs, ours = run_bochs(rom, tmp_path), run_here(rom, "native")
    assert len(theirs) == len(ours) > 50
    known = DIFFERENCES[guest]
    unexplained = [
        f"Bochs  {a}\nx86-dm {b}"
        for a, b in zip(theirs, ours, strict=True)
        if a != b and not any(re.match(pattern, b) for pattern in known)
    ]
    assert not unexplained, "\n".join(unexplained[:20])
    for a, b in zip(theirs, ours, strict=True):
        for pattern in known:
            assert a != b or not re.match(pattern, b), f"listed as different from Bochs, but is the same: {b}"


@pytest.mark.parametrize(
    "guest", [name if name in ("vm86", "task") else pytest.param(name, marks=pytest.mark.long) for name in DIFFERENCES]
)
def test_python_engine_as_native(built: Path, guest: str) -> None:
    rom = built / f"{guest}.bin"
    assert run_here(rom, "python") == run_here(rom, "native")
