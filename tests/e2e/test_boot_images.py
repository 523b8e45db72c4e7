"""Boot loaders and kernels that Debian ships boot through the built-in PC and a daemon: the project's real guests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from needs import need

from dm.shim.ends import Status

BOOT = [sys.executable, "-P", "-m", "dm.cli", "boot", "--engine", "native"]
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
MODULES = Path("/usr/lib/syslinux/modules/bios")
IPXE = Path("/usr/lib/ipxe/ipxe.iso")


def make(*words: object, folder: Path | None = None) -> str:
    """Run a command that must succeed; return what it prints."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def report(image: Path, *options: object, status: int = 0) -> dict[str, Any]:
    """Boot an image with ``--json`` and return the report."""
    words = [*BOOT, str(image), *map(str, options), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.returncode == status, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def isolinux(folder: Path, configuration: str, files: Sequence[Path] = ()) -> Path:
    """Make a CD that boots ISOLINUX; ``files`` go to its root."""
    need("xorriso", ISOLINUX, MODULES)
    root = folder / "cd"
    (root / "isolinux").mkdir(parents=True)
    shutil.copy(ISOLINUX, root / "isolinux")
    for name in ("ldlinux.c32", "libcom32.c32", "libutil.c32", "ls.c32"):
        shutil.copy(MODULES / name, root / "isolinux")
    (root / "isolinux" / "isolinux.cfg").write_text(configuration)
    for file in files:
        shutil.copy(file, root)
    image = folder / "cd.iso"
    make(
        "xorriso", "-as", "mkisofs", "-quiet", "-o", image, "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
        "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", root,
    )  # fmt: skip
    return image


PROMPT = "PROMPT 1\nTIMEOUT 0\nSAY ready to be told\n"


def test_isolinux_obeys_its_prompt(tmp_path: Path) -> None:
    image = isolinux(tmp_path, PROMPT)
    steps = ("--expect", "ready to be told", "--expect", "boot:", "--keys", r"ls.c32\n")
    result = report(image, *steps, "--expect", "libutil.c32", "--expect", "boot:", "--timeout", 200)
    assert result["outcome"] == "expected"
    assert any("ISOLINUX" in row for row in result["screen"])
    # The modules are relocated 32-bit code that calls the firmware through real mode.
    assert result["stats"]["firmware"]["0x13"] > 10


def test_syslinux_obeys_its_prompt_on_a_diskette(tmp_path: Path) -> None:
    need("syslinux", "mformat", "mcopy", MODULES)
    image, configuration = tmp_path / "floppy.img", tmp_path / "syslinux.cfg"
    configuration.write_text(PROMPT)
    make("mformat", "-C", "-f", 1440, "-i", image, "::")
    modules = [MODULES / name for name in ("ls.c32", "libutil.c32", "libcom32.c32")]
    make("mcopy", "-i", image, configuration, *modules, "::")
    make("syslinux", "--install", image)
    steps = ("--expect", "boot:", "--keys", r"nosuch\n", "--expect", "No such file or directory", "--expect", "boot:")
    result = report(image, *steps, "--keys", r"ls.c32\n", "--expect", "libcom32.c32", "--timeout", 200)
    assert any("SYSLINUX" in row for row in result["screen"])


def test_ipxe_starts_and_obeys_its_prompt(tmp_path: Path) -> None:
    """ISOLINUX loads it by the Linux boot protocol; it moves itself to the top of memory and saves the FPU's state."""
    need(IPXE)
    image = shutil.copy(IPXE, tmp_path / "ipxe.iso")
    steps = ("--expect", "iPXE initialising devices", "--expect", "Open Source Network Boot Firmware")
    prompt = ("--expect", "Ctrl-B", "--keys", "<ctrl-b>", "--expect", "iPXE>", "--keys", r"help\n")
    result = report(image, *steps, *prompt, "--expect", "Available commands", "--timeout", 200)
    assert any("Features:" in row for row in result["screen"])
    assert result["resets"] == 0


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bzImage of Debian's; the cloud flavour is the smallest."""
    for path in sorted(Path("/boot").glob("vmlinuz-*")):
        if os.access(path, os.R_OK) and path.read_bytes()[0x202:0x206] == b"HdrS":
            return path
    need("apt-get", "apt-cache", "dpkg-deb", "tar")
    folder = tmp_path_factory.mktemp("linux")
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, timeout=60
    ).stdout
    name = re.search(r"Depends: (linux-image-\S+)", depends)
    # As root apt reads and writes as another user, who may not enter the test's folder: that is only a warning.
    words = ["apt-get", "download", "-qq", name[1]] if name else ["false"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=200)
    packages = list(folder.glob("*.deb"))
    if not packages:
        pytest.skip(f"no kernel in /boot, and none to download: {done.stderr.strip() or depends or 'unknown package'}")
    unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -xf - --wildcards "./boot/vmlinuz-*"'
    make("sh", "-c", unpack, "sh", packages[0], folder=folder)
    (kernel,) = (folder / "boot").glob("vmlinuz-*")
    return Path(kernel)


def test_linux_runs_to_its_64_bit_entry(linux: Path, tmp_path: Path) -> None:
    """Its real-mode setup, its 32-bit entry, page tables and EFER.LME; 64-bit code is not this project's."""
    kernel = shutil.copy(linux, tmp_path / "vmlinuz")
    label = "LABEL linux\n LINUX /vmlinuz\n APPEND earlyprintk=serial,ttyS0 debug\n"
    image = isolinux(tmp_path, PROMPT + label, [kernel])
    steps = ("--expect", "boot:", "--keys", r"linux\n", "--expect", "early console in setup code", "--expect", "never")
    result = report(image, "--cpu", "x86-64", "--memory", 256, *steps, "--timeout", 200, status=Status.FAILED)
    assert result["outcome"] == "failed"
    assert "CODE_64_BIT" in result["detail"]
    address = re.search(r"linear 0x([0-9a-f]+)", result["detail"])
    assert address is not None
    assert int(address[1], 16) == 0x100200, "the kernel's 64-bit entry (its boot protocol)"


def test_linux_refuses_a_part_without_64_bits(linux: Path, tmp_path: Path) -> None:
    kernel = shutil.copy(linux, tmp_path / "vmlinuz")
    image = isolinux(tmp_path, PROMPT + "LABEL linux\n LINUX /vmlinuz\n", [kernel])
    steps = ("--expect", "boot:", "--keys", r"linux\n")
    report(image, *steps, "--expect", "requires an x86-64 CPU, but only detected an i686", "--timeout", 200)
