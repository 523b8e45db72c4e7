"""Real virtual machines: QEMU with the series of qemu-patches/, which hands vCPUs to the daemon.

``DM_QEMU`` names a patched qemu-system-x86_64 to use; otherwise qemu-patches/build.sh builds one, which takes minutes
the first time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from qemu_machine import BUILD, FIRMWARE, RAM, Daemon, Qemu, poll

TOOLS = ("grub-mkrescue", "xorriso", "mformat")
IPXE = Path("/usr/lib/ipxe/ipxe.iso")
SPLIT = ("-machine", "kernel-irqchip=split")

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # building QEMU takes minutes

Boot = Callable[..., Qemu]


@pytest.fixture(scope="session")
def binary() -> str:
    """A patched qemu-system-x86_64."""
    if given := os.environ.get("DM_QEMU"):
        return given
    done = subprocess.run([BUILD], capture_output=True, text=True)
    if done.returncode == 2:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def grub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootable CD with nothing on it but GRUB."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or not Path("/usr/lib/grub/i386-pc").is_dir():
        pytest.skip(f"no GRUB for PC BIOS here: {', '.join(missing) or '/usr/lib/grub/i386-pc'}")
    folder = tmp_path_factory.mktemp("grub")
    (folder / "empty").mkdir()
    command = ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", folder / "grub.iso", folder / "empty"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "grub.iso"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as path:
        yield Path(path)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    """A daemon that has not been started."""
    one = Daemon(folder)
    yield one
    one.stop()


@pytest.fixture
def boot(binary: str, folder: Path, daemon: Daemon) -> Iterator[Boot]:
    """Start a virtual machine: policy and further options."""
    machines: list[Qemu] = []

    def start(when: str, *words: object, accel: str = "tcg") -> Qemu:
        machines.append(Qemu(binary, folder, daemon.endpoint, when, *words, accel=accel))
        return machines[-1]

    yield start
    for machine in machines:
        machine.close()


@pytest.fixture
def kvm() -> None:
    """Skip where there is no usable KVM."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm cannot be used")


def refusal(binary: str, *words: str) -> str:
    """Start a QEMU that must give up, and return what it says."""
    command = [binary, *FIRMWARE, "-nodefaults", "-display", "none", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    return done.stderr


# ------------------------------------------------------------------------------------------ the build script


def test_build_script_names_the_binary_without_building() -> None:
    first, second = (subprocess.run([BUILD, "--path"], capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert first.stdout.endswith("/qemu-system-x86_64\n")


def test_build_script_refuses_unknown_options() -> None:
    done = subprocess.run([BUILD, "--bogus"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--bogus" in done.stderr


# ------------------------------------------------------------------------------------------ TCG


@pytest.mark.parametrize("when", ["real", "unpaged", "legacy", "invalid"])
def test_grub_boots_and_obeys_the_keyboard(boot: Boot, daemon: Daemon, grub: Path, when: str) -> None:
    daemon.start()
    machine = boot(when, "-cdrom", grub)
    machine.wait_for("grub>")
    before = machine.total("instructions")
    machine.type("echo hello\n")
    machine.wait_for("\nhello")
    info = machine.info()
    assert info["state"] == "connected"
    assert info["when"] == when
    assert info["engine"].startswith("native")
    # The BIOS's keyboard services are real-mode code: even its narrowest policy runs them in the daemon.
    assert machine.total("instructions") > before > 100_000
    assert machine.total("io") > 1000
    assert machine.total("failures") == 0
    assert f"when={when}, connected" in machine.hmp("info x86-dm")


def test_firmware_reports_no_bootable_device(boot: Boot, daemon: Daemon) -> None:
    daemon.start()
    machine = boot("real")
    machine.wait_for("No bootable device.")
    assert "SeaBIOS" in machine.screen()
    assert machine.total("instructions") > 100_000


def test_two_vcpus(boot: Boot, daemon: Daemon, grub: Path) -> None:
    daemon.start()
    machine = boot("real", "-smp", "2", "-cdrom", grub)
    machine.wait_for("grub>")
    # SeaBIOS wakes the second one by INIT and SIPI; it begins in real mode.
    assert all(vcpu["instructions"] > 0 for vcpu in machine.info()["vcpus"])


def test_reset_and_stop_in_the_middle_of_the_boot(boot: Boot, daemon: Daemon, grub: Path) -> None:
    daemon.start()
    machine = boot("legacy", "-cdrom", grub)
    for _ in range(3):
        poll(lambda: machine.total("instructions") > 10_000, 30)
        machine.command("system_reset")
    machine.command("stop")
    before = machine.total("instructions")
    assert machine.status() == "paused"
    assert machine.total("instructions") == before
    machine.command("cont")
    machine.wait_for("grub>")


# ------------------------------------------------------------------------------------------ the daemon comes and goes


def test_guest_waits_for_an_absent_daemon(boot: Boot, daemon: Daemon, grub: Path) -> None:
    machine = boot("real", "-cdrom", grub)
    poll(lambda: "no daemon" in machine.info().get("error", ""), 10)
    assert machine.info()["state"] == "waiting"
    assert machine.status() == "running"
    daemon.start()
    machine.wait_for("grub>")
    assert machine.info()["connects"] == 1


def test_absent_daemon_does_not_hold_up_quit(boot: Boot) -> None:
    assert boot("real").quit() < 3


def test_timeout_stops_the_guest_and_cont_tries_again(boot: Boot, daemon: Daemon, grub: Path) -> None:
    machine = boot("real,timeout=1", "-cdrom", grub)
    poll(lambda: machine.status() == "io-error", 10)
    assert "X86_DM_STOPPED" in machine.events
    assert machine.info()["state"] == "failed"
    assert "within 1 s" in machine.info()["error"]
    assert machine.total("runs") == 0
    daemon.start()
    machine.command("cont")
    machine.wait_for("grub>")
    assert machine.info()["state"] == "connected"


def test_daemon_is_restarted_under_a_running_guest(boot: Boot, daemon: Daemon, grub: Path) -> None:
    daemon.start()
    machine = boot("legacy", "-cdrom", grub)
    for restarts in range(1, 4):
        poll(
            lambda n=restarts: machine.info()["state"] == "connected" and machine.info()["connects"] == n,
            30,
            lambda: f"{machine.info()} {machine.events} {machine.stderr()}",
        )
        daemon.stop()
        daemon.start()
    machine.wait_for("grub>")
    assert machine.info()["connects"] == 4
    assert machine.events.count("X86_DM_LOST") == machine.events.count("X86_DM_REGAINED") == 3
    assert machine.status() == "running"


def test_killed_daemon_stops_the_guest(boot: Boot, daemon: Daemon, grub: Path) -> None:
    daemon.start()
    machine = boot("legacy", "-cdrom", grub)
    poll(lambda: machine.total("instructions") > 10_000, 30)
    daemon.stop(kill=True)
    poll(lambda: machine.status() == "io-error", 30)
    assert "X86_DM_STOPPED" in machine.events
    assert "lost in the middle" in machine.info()["error"]
    daemon.start()
    machine.command("system_reset")
    machine.command("cont")
    machine.wait_for("grub>")


# ------------------------------------------------------------------------------------------ mistakes


def test_private_ram_is_refused(binary: str) -> None:
    said = refusal(binary, "-m", "64M", "-object", "x86-dm,id=dm0,endpoint=ipc:///nowhere")
    assert "-object memory-backend-memfd,id=ram,size=64M,share=on" in said


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("endpoint=tcp://localhost:1", "ipc:///path"),
        ("endpoint=ipc:///x,when=failure", "when=failure is for accelerator kvm"),
        ("endpoint=ipc:///x,when=never", "never"),
        ("when=real", "endpoint"),
    ],
)
def test_bad_options_are_named(binary: str, option: str, named: str) -> None:
    assert named in refusal(binary, *RAM, "-accel", "tcg", "-object", f"x86-dm,id=dm0,{option}")


def test_second_object_is_refused(binary: str) -> None:
    objects = [word for name in "ab" for word in ("-object", f"x86-dm,id={name},endpoint=ipc:///x")]
    assert "only one" in refusal(binary, *RAM, *objects)


def test_icount_is_refused(binary: str) -> None:
    assert "-icount" in refusal(binary, *RAM, "-icount", "1", "-object", "x86-dm,id=a,endpoint=ipc:///x")


# ------------------------------------------------------------------------------------------ KVM


@pytest.mark.kvm
def test_early_policies_need_a_split_irqchip(kvm: None, binary: str) -> None:
    said = refusal(binary, *RAM, "-accel", "kvm", "-object", "x86-dm,id=a,endpoint=ipc:///x,when=legacy")
    assert "kernel-irqchip=split" in said


@pytest.mark.kvm
def test_kvm_grub(kvm: None, boot: Boot, daemon: Daemon, grub: Path) -> None:
    daemon.start()
    machine = boot("legacy", *SPLIT, "-cdrom", grub, accel="kvm")
    machine.wait_for("grub>")
    before = machine.total("instructions")
    machine.type("echo hello\n")
    machine.wait_for("\nhello")
    assert machine.total("instructions") > before > 1_000_000


@pytest.mark.kvm
@pytest.mark.parametrize(
    "when",
    [
        "legacy",
        pytest.param("real", marks=pytest.mark.long),
        pytest.param("failure", marks=pytest.mark.long),
    ],
)
def test_kvm_ipxe(kvm: None, boot: Boot, daemon: Daemon, when: str) -> None:
    if not IPXE.exists():
        pytest.skip(f"no {IPXE} (package ipxe)")
    daemon.start()
    machine = boot(when, *SPLIT, "-cdrom", IPXE, accel="kvm")
    machine.wait_for("Open Source Network Boot Firmware", 280)
    assert machine.total("runs") >= machine.total("failures")
    assert when == "failure" or machine.total("instructions") > 100_000
