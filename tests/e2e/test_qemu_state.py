"""What happens to a virtual machine in the middle of a boot: snapshots, migration, restarts of its daemon, resets.

The guest `work` computes for seconds and prints a dot now and then: an instruction, store or access to a device that
is lost or made twice changes what it prints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from needs import E1000_ROM, need
from qemu_machine import Daemon, Qemu, assemble, expected, poll

pytestmark = pytest.mark.timeout(1800)  # building QEMU takes minutes

Boot = Callable[..., Qemu]
ACCELERATORS = pytest.mark.parametrize("accel", ["tcg", pytest.param("kvm", marks=pytest.mark.kvm)])


def hard_disk(image: Path) -> list[str]:
    """Return the options for an image (a CD of GRUB's boots from either) on an IDE disk, whose writes are dropped.

    QEMU does not migrate all of a CD drive's state: in the middle of a transfer it ends with a division by zero.
    """
    return ["-drive", f"file={image},format=raw,if=ide,snapshot=on"]


def under_way(vm: Qemu, dots: int) -> None:
    """Wait until ``work`` has printed so many dots, and make sure that it is not done."""
    poll(lambda: vm.console().count(".") >= dots, 60, lambda: vm.console() + vm.stderr())
    assert "end" not in vm.console()


def add_disk(vm: Qemu, path: Path) -> None:
    """Add a qcow2 image, made when it is not there, as node "disk"."""
    new = not path.exists()
    if new:
        vm.job("blockdev-create", options={"driver": "file", "filename": str(path), "size": 0})
    vm.command("blockdev-add", **{"driver": "file", "filename": str(path), "node-name": "file"})
    if new:
        vm.job("blockdev-create", options={"driver": "qcow2", "file": "file", "size": 1 << 20})
    vm.command("blockdev-add", **{"driver": "qcow2", "file": "file", "node-name": "disk"})


SNAPSHOT = {"tag": "here", "vmstate": "disk", "devices": ["disk"]}


@ACCELERATORS
def test_snapshot_in_the_middle(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str) -> None:
    """Saved while it runs, gone on with, then loaded into the same and into a new machine."""
    daemon.start()
    rom, disk = assemble("work", tmp_path), tmp_path / "disk.qcow2"
    vm = machine("legacy", "-bios", rom, accel=accel)
    add_disk(vm, disk)
    under_way(vm, 10)
    vm.command("stop")
    first = vm.console()
    vm.job("snapshot-save", **SNAPSHOT)
    vm.command("cont")
    assert vm.finish() == expected("work")
    vm.command("stop")
    vm.job("snapshot-load", **SNAPSHOT)
    vm.command("cont")
    poll(lambda: vm.console().count("end\n") == 2, 60, vm.console)
    assert first + vm.console().removeprefix(expected("work")) == expected("work")
    vm.quit()

    other = machine("legacy", "-bios", rom, "-S", accel=accel)
    add_disk(other, disk)
    other.job("snapshot-load", **SNAPSHOT)
    other.command("cont")
    assert first + other.finish() == expected("work")
    assert other.total("instructions") > 1_000_000


@ACCELERATORS
def test_snapshot_in_the_middle_of_a_boot(
    machine: Boot, daemon: Daemon, rescue: Path, tmp_path: Path, accel: str
) -> None:
    daemon.start()
    vm = machine("legacy", *hard_disk(rescue), accel=accel)
    add_disk(vm, tmp_path / "disk.qcow2")
    poll(lambda: vm.total("instructions") > 1_000_000, 60, vm.stderr)
    vm.command("stop")
    assert "grub>" not in vm.screen()
    vm.job("snapshot-save", **SNAPSHOT)
    vm.quit()
    other = machine("legacy", *hard_disk(rescue), "-S", accel=accel)
    add_disk(other, tmp_path / "disk.qcow2")
    other.job("snapshot-load", **SNAPSHOT)
    other.command("cont")
    other.wait_for("grub>")
    other.type("echo hello\n")
    other.wait_for("\nhello")


def migrate(source: Qemu, destination: Qemu, path: Path) -> None:
    """Migrate over a socket while the guest runs, and wait for the end."""
    destination.command("migrate-incoming", uri=f"unix:{path}")
    source.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 1000})
    source.command("migrate", uri=f"unix:{path}")
    seen: list[str] = []

    def over() -> bool:
        seen.append(source.command("query-migrate").get("status", ""))
        assert seen[-1] != "failed", (source.stderr(), destination.stderr())
        return seen[-1] == "completed"

    poll(over, 60, lambda: f"{seen[-1]} {source.stderr()} {destination.stderr()}")
    assert source.status() == "postmigrate"
    poll(lambda: destination.status() == "running", 100, destination.stderr)


@ACCELERATORS
def test_migration_in_the_middle(machine: Boot, daemon: Daemon, tmp_path: Path, short_path: Path, accel: str) -> None:
    """Live: the guest goes on to write memory, in the daemon, while its memory is copied."""
    daemon.start()
    rom = assemble("work", tmp_path)
    source = machine("legacy", "-bios", rom, accel=accel)
    destination = machine("legacy", "-bios", rom, "-incoming", "defer", accel=accel)
    under_way(source, 10)
    migrate(source, destination, short_path / "migration")
    assert "end" not in source.console()
    destination.finish()
    assert source.console() + destination.console() == expected("work")
    assert destination.total("instructions") > 1_000_000


@ACCELERATORS
def test_migration_in_the_middle_of_a_boot(
    machine: Boot, daemon: Daemon, rescue: Path, short_path: Path, accel: str
) -> None:
    daemon.start()
    source = machine("legacy", *hard_disk(rescue), accel=accel)
    destination = machine("legacy", *hard_disk(rescue), "-incoming", "defer", accel=accel)
    poll(lambda: source.total("instructions") > 1_000_000, 60, source.stderr)
    migrate(source, destination, short_path / "migration")
    assert "grub>" not in source.screen()
    destination.wait_for("grub>")
    destination.type("echo hello\n")
    destination.wait_for("\nhello")


@ACCELERATORS
def test_ten_restarts_of_the_daemon(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str) -> None:
    """Each in order (SIGTERM), with the guest in the middle of its work: nothing is lost, nothing done twice."""
    daemon.start()
    vm = machine("legacy", "-bios", assemble("work", tmp_path), accel=accel)
    for restarts in range(1, 11):
        under_way(vm, 6 * restarts)
        daemon.stop()
        daemon.start()
        poll(lambda n=restarts: vm.info()["connects"] == n + 1, 100, lambda: f"{vm.info()} {vm.stderr()}")
    assert vm.finish() == expected("work")
    assert vm.events.count("X86_DM_LOST") == vm.events.count("X86_DM_REGAINED") == 10
    assert vm.status() == "running"


@ACCELERATORS
def test_resets_in_the_middle(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str) -> None:
    daemon.start()
    vm = machine("legacy", "-bios", assemble("work", tmp_path), accel=accel)
    for resets in range(1, 4):
        poll(lambda n=resets: vm.console().split("work ")[-1].count(".") >= 5 and vm.console().count("work ") == n, 60)
        vm.command("system_reset")
    vm.finish()
    runs = vm.console().split("work ")
    assert len(runs) == 5
    assert all(set(run) == {"."} for run in runs[1:4])
    # RAM outlives a reset: the last run starts from what the others left, so only its length is known.
    assert runs[4].count(".") == 320


def writable_rom(vm: Qemu) -> set[str]:
    """Where kvmvapic has made its ROM writable."""
    return {line.split(" (prio")[0].strip() for line in vm.hmp("info mtree").splitlines() if "kvmvapic-rom" in line}


@pytest.mark.parametrize("resets", [12, pytest.param(300, marks=pytest.mark.long)])
@ACCELERATORS
def test_resets_in_the_middle_of_a_boot(machine: Boot, daemon: Daemon, accel: str, resets: int) -> None:
    """At any moment of POST, which ends as without the daemon: kvmvapic has found its ROM, and nothing else."""
    daemon.start()
    plain = machine(None)
    plain.wait_for("No bootable device")
    vm = machine("legacy", accel=accel)
    for n in range(resets):
        ran = vm.total("instructions")
        poll(lambda n=n, ran=ran: vm.total("instructions") > ran + 40_000 * (n % 40), 60, vm.stderr)
        vm.command("system_reset")
        vm.command("query-status")
    vm.wait_for("No bootable device")
    assert vm.screen() == plain.screen()
    assert len(writable_rom(vm)) == 1
    assert writable_rom(vm) == writable_rom(plain)


@ACCELERATORS
def test_memory_of_a_device_that_is_unplugged(machine: Boot, daemon: Daemon, accel: str) -> None:
    """Its ROM was shared with the daemon; neither QEMU nor a new daemon is to touch that again."""
    need(E1000_ROM)
    daemon.start()
    device = ("-device", f"e1000,id=card,romfile={E1000_ROM}", "-boot", "c")
    vm = machine("legacy", *device, "-trace", "x86_dm_block_removed", accel=accel)
    vm.wait_for("No bootable device")
    vm.command("device_del", id="card")
    vm.command("system_reset")  # nobody in the guest agrees before
    poll(lambda: "block_removed block" in vm.stderr(), 60, lambda: vm.stderr() + vm.screen())
    daemon.stop()
    daemon.start()
    poll(lambda: vm.info()["connects"] == 2, 100, vm.stderr)
    ran = vm.total("instructions")
    vm.command("system_reset")
    poll(lambda: vm.total("instructions") > ran + 100_000, 60, vm.stderr)
    vm.wait_for("No bootable device")
    assert "DEVICE_DELETED" in vm.events


def test_object_that_is_added_later(machine: Boot, daemon: Daemon, tmp_path: Path) -> None:
    """A guest that makes no exit is taken at once all the same."""
    daemon.start()
    vm = machine(None, "-bios", assemble("work", tmp_path))
    under_way(vm, 3)
    vm.command("object-add", **{"qom-type": "x86-dm", "id": "dm0", "endpoint": daemon.endpoint, "when": "legacy"})
    assert vm.finish() == expected("work")
    assert vm.total("instructions") > 1_000_000


def test_stop_ends_the_run_under_way(machine: Boot, daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    vm = machine("legacy", "-bios", assemble("work", tmp_path))
    under_way(vm, 3)
    vm.command("stop")
    before = vm.total("instructions"), vm.hmp("info registers"), vm.memory(0x400000, 0x400000)
    assert vm.status() == "paused"
    assert (vm.total("instructions"), vm.hmp("info registers"), vm.memory(0x400000, 0x400000)) == before
    vm.command("cont")
    assert vm.finish() == expected("work")
