"""What several of these tests need: a daemon as its own process, a CD that boots, virtual machines of patched QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from needs import need
from qemu_machine import BUILD, Daemon, Qemu, need_kvm


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The control endpoint of a daemon that runs as long as this test process."""
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as folder:
        address = f"ipc://{Path(folder) / 'control'}"
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dm.cli", "serve", "--listen", address, "--engine", "native"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert daemon.stderr is not None
        ready = daemon.stderr.readline()
        assert f"serves {address}" in ready, ready + daemon.stderr.read()
        yield address
        daemon.terminate()
        assert daemon.wait(timeout=60) == 0
        daemon.stderr.close()


@pytest.fixture(scope="session")
def rescue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootable CD with nothing on it but GRUB."""
    need("grub-mkrescue", "xorriso", "mformat", "/usr/lib/grub/i386-pc")
    folder = tmp_path_factory.mktemp("grub")
    image = folder / "rescue.iso"
    (folder / "empty").mkdir()
    done = subprocess.run(
        ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", image, folder / "empty"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return image


# ------------------------------------------------------------------------------------------ QEMU


@pytest.fixture(scope="session")
def qemu_binary() -> str:
    """A patched qemu-system-x86_64: DM_QEMU, or what qemu-patches/build.sh builds; that takes minutes once."""
    if given := os.environ.get("DM_QEMU"):
        return given
    done = subprocess.run([BUILD], capture_output=True, text=True)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as path:
        yield Path(path)


@pytest.fixture
def daemon(short_path: Path) -> Iterator[Daemon]:
    """A daemon that has not been started."""
    one = Daemon(short_path)
    yield one
    one.stop()


@pytest.fixture
def machine(qemu_binary: str, short_path: Path, daemon: Daemon) -> Iterator[Callable[..., Qemu]]:
    """Return a function that starts a virtual machine: policy (None: no x86-dm), further options."""
    machines: list[Qemu] = []

    def start(when: str | None, *words: object, accel: str = "tcg", memory: int = 128) -> Qemu:
        if accel == "kvm":
            need_kvm()
        own = short_path / str(len(machines))
        own.mkdir()
        if accel == "kvm" and (when is None or not when.startswith("failure")):
            words = ("-machine", "kernel-irqchip=split", *words)
        machines.append(Qemu(qemu_binary, own, daemon.endpoint, when, *words, accel=accel, memory=memory))
        return machines[-1]

    yield start
    for one in machines:
        one.close()
