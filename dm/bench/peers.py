"""Other emulators and hypervisors that kernels are compared with.  They are found, never required.

Each runs an image (:mod:`dm.bench.image`) in a process of its own and gives what the guest writes to port E9h on its
standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dm.bench import image
from dm.bench.engines import BenchError
from dm.bench.kernels import Kernel

_PR_SET_PDEATHSIG: Final = 1
_HERE: Final = Path(__file__).parent
UNICORN: Final = "unicorn==2.1.4"


@dataclass(frozen=True)
class Peer:
    """One peer: how it is started on an image, given its path and a scratch directory.

    ``devices``: it has the device register of kernel rmw-mmio.
    """

    name: str
    version: str
    command: Callable[[Path, Path], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    devices: bool = False

    def run(self, kernel: Kernel, rounds: int, timeout: float) -> tuple[float, int]:
        """Run a kernel; returns (seconds between its marks, checksum).

        Raises:
            BenchError: it ended or took longer than ``timeout`` seconds before the kernel's checksum came.
        """
        with tempfile.TemporaryDirectory(prefix="x86-dm-peer-") as name:
            folder = Path(name)
            rom = folder / "image.rom"
            rom.write_bytes(image.build(kernel, rounds))
            errors = folder / "errors"
            with (
                errors.open("wb") as log,
                subprocess.Popen(
                    self.command(rom, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **self.environment},
                    process_group=0,
                    preexec_fn=_die_with(os.getpid()),
                ) as process,
            ):
                try:
                    return self._read(process, kernel, timeout, errors)
                finally:
                    # A peer owes us nothing after its checksum, and Bochs does not heed SIGTERM.
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)

    def _read(
        self, process: subprocess.Popen[bytes], kernel: Kernel, timeout: float, errors: Path
    ) -> tuple[float, int]:
        assert process.stdout is not None
        reader = image.Reader()
        deadline = time.monotonic() + timeout
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            now = time.perf_counter()
            if not ready:
                raise BenchError(f"{self.name} did not end kernel {kernel.name} in {timeout:.0f} s")
            data = os.read(process.stdout.fileno(), 4096)
            if not data:
                raise BenchError(f"{self.name} gave up on kernel {kernel.name}: {_reason(errors)}")
            if reader.feed(data, now):
                assert reader.checksum is not None
                return reader.seconds, reader.checksum


@dataclass(frozen=True)
class Missing:
    """A peer that is not here, and what brings it."""

    name: str
    remedy: str


def _tcg() -> Peer | Missing:
    wanted = os.environ.get("DM_PEER_QEMU")
    # The 64-bit one is the faster of the two on 32-bit code.
    names = [wanted] if wanted else ["qemu-system-x86_64", "qemu-system-i386"]
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if wanted:
            return Missing("TCG", f"DM_PEER_QEMU names {wanted}, which is not a program")
        return Missing("TCG", "apt-get install --no-install-recommends qemu-system-x86, or DM_PEER_QEMU=PROGRAM")

    def command(rom: Path, _folder: Path) -> list[str]:
        machine = "-accel tcg -machine pc -m 16 -nodefaults -no-user-config -display none -monitor none"
        return [program, *machine.split(), "-debugcon", "stdio", "-bios", str(rom)]

    return Peer("TCG", _first_line(program, "--version"), command)


_BOCHSRC: Final = """\
config_interface: textconfig
display_library: term
romimage: file={rom}, address=0xffff0000
vgaromimage: file={folder}/vga.rom
memory: guest=16, host=16
cpu: count=1, ips=100000000
clock: sync=none
port_e9_hack: enabled=1
log: {folder}/log
boot: disk
sound: driver=dummy
"""


def _bochs() -> Peer | Missing:
    # Debian's `bochs` is a script around this program; elsewhere there is no script.
    program = shutil.which("bochs-bin") or shutil.which("bochs")
    if program is None:
        return Missing("Bochs", "apt-get install --no-install-recommends bochs bochs-term bochsbios")

    def command(rom: Path, folder: Path) -> list[str]:
        # Bochs insists on a video ROM; this one, whose bytes sum up to 0, only returns.
        rom_bytes = b"\x55\xaa\x01\xcb".ljust(511, b"\0")
        (folder / "vga.rom").write_bytes(rom_bytes + bytes([-sum(rom_bytes) & 0xFF]))
        (folder / "bochsrc").write_text(_BOCHSRC.format(rom=rom, folder=folder))
        (folder / "rc").write_text("c\n")  # for a build with the debugger: continue
        return [program, "-q", "-f", str(folder / "bochsrc"), "-rc", str(folder / "rc")]

    found = re.search(r"Bochs x86 Emulator [\d.]+", _output(program, "--help"))
    return Peer("Bochs", found[0] if found else program, command, {"TERM": "dumb"})


def _unicorn() -> Peer | Missing:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "x86-dm" / "peers"
    paths = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
    version = _output(
        sys.executable, "-c", "import unicorn; print('Unicorn', unicorn.__version__)", environment={"PYTHONPATH": paths}
    )
    if not version.startswith("Unicorn "):
        return Missing("Unicorn", f"pip install --target {place} {UNICORN}")

    def command(rom: Path, _folder: Path) -> list[str]:
        return [sys.executable, str(_HERE / "peer_unicorn.py"), str(rom)]

    return Peer("Unicorn", version.strip(), command, {"PYTHONPATH": paths}, devices=True)


def _kvm() -> Peer | Missing:
    try:
        with open("/dev/kvm", "r+b", buffering=0):
            pass
    except OSError as error:
        return Missing("KVM", f"/dev/kvm: {error.strerror}; modprobe kvm_intel or kvm_amd, and be in group kvm")

    def command(rom: Path, _folder: Path) -> list[str]:
        return [sys.executable, str(_HERE / "peer_kvm.py"), str(rom)]

    flags = set(re.findall(r"\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text()))
    how = f"hardware ({flags.pop()})" if flags else "software: this CPU shows neither VMX nor SVM"
    return Peer("KVM", f"KVM of Linux {os.uname().release}, {how}", command, devices=True)


def _reason(errors: Path) -> str:
    """Return the last line that says something; Bochs puts rules and log lines around it."""
    lines = [
        line.strip()
        for line in errors.read_text(errors="replace").splitlines()
        if line.strip("= ") and not re.match(r"\d{11}[a-z]\[", line)
    ]
    return lines[-1] if lines else "no reason given"


def _output(*command: str, environment: dict[str, str] | None = None) -> str:
    """Return what a program prints, nothing when it fails or hangs."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=20,
            env={**os.environ, **(environment or {})},
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _first_line(*command: str) -> str:
    lines = _output(*command).splitlines()
    return lines[0] if lines else command[0]


def _die_with(parent: int) -> Callable[[], None]:
    """Return a function that has the calling process killed when ``parent`` dies (prctl(2))."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


_FINDERS: Final[dict[str, Callable[[], Peer | Missing]]] = {
    "TCG": _tcg,
    "Bochs": _bochs,
    "Unicorn": _unicorn,
    "KVM": _kvm,
}
PEERS: Final = tuple(_FINDERS)


def find(name: str) -> Peer | Missing:
    """Look for a peer, one of :data:`PEERS`, on this machine."""
    return _FINDERS[name]()
