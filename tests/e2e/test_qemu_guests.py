"""Bare-metal guests under patched QEMU: instructions and device effects that emulators refuse or get wrong.

Each guest of qemu_guests/ prints facts; what hardware makes it print is in the .txt file of its name.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu_machine import Daemon, Qemu, assemble, expected, poll

pytestmark = pytest.mark.timeout(1800)  # building QEMU takes minutes

Boot = Callable[..., Qemu]


def cases(*which: str) -> pytest.MarkDecorator:
    """Parametrize by accelerator and policy, as in "tcg-real"."""
    marks = {"tcg": (), "kvm": pytest.mark.kvm}
    rows = [pytest.param(*name.split("-"), id=name, marks=marks[name.split("-")[0]]) for name in which]
    return pytest.mark.parametrize(("accel", "when"), rows)


@pytest.mark.parametrize("name", ["families", "unseen", "work"])
def test_built_in_machine_agrees(name: str, tmp_path: Path) -> None:
    """The same guest on the daemon alone: what is expected of QEMU is what the engine does."""
    words = ["boot", "--engine", "native", "--bios", assemble(name, tmp_path), "--exit-port", "0xf4"]
    words += ["--post-port", "0x84", "--timeout", "200"]
    done = subprocess.run([sys.executable, "-P", "-m", "dm.cli", *words], capture_output=True, text=True, timeout=250)
    assert done.stdout == expected(name)
    assert done.returncode == 1, done.stderr  # twice the byte written, plus one


@cases("tcg-legacy", "kvm-legacy", "kvm-real", "kvm-failure")
def test_instructions_a_kernel_refuses(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    daemon.start()
    vm = machine(when, "-bios", assemble("families", tmp_path), accel=accel)
    assert vm.finish() == expected("families")
    assert accel != "kvm" or when == "legacy" or vm.total("failures") > 10
    assert vm.total("instructions") > (5000 if when == "legacy" else 20)


@cases("kvm-failure")
def test_slice_grows_while_failures_cluster(
    machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str
) -> None:
    """One instruction is not enough where the next fails too, wherever interrupt controllers are."""
    daemon.start()
    for irqchip in ("split", "on"):
        words = ("-machine", f"kernel-irqchip={irqchip}", "-bios", assemble("families", tmp_path))
        vm = machine(when, *words, accel=accel)
        assert vm.finish() == expected("families")
        assert vm.total("steps") / vm.total("failures") > 4


@cases(
    "tcg-real", "tcg-unpaged", "tcg-legacy", "kvm-real", "kvm-unpaged", "kvm-legacy", "kvm-failure", "kvm-failure_on"
)
def test_a_tss_and_what_needs_one(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """Interrupts out of ring 3 and of virtual-8086 mode, INT n, the I/O bitmap, and what kernels do not emulate."""
    daemon.start()
    when, _, irqchip = when.partition("_")
    words = ("-machine", f"kernel-irqchip={irqchip}") if irqchip else ()
    vm = machine(when, *words, "-bios", assemble("rings", tmp_path), accel=accel)
    assert vm.finish() == expected("rings")
    assert vm.status() == "running"


@cases("tcg-legacy", "kvm-legacy", "kvm-failure", "kvm-real")
def test_floating_point_in_ring_3_is_never_an_invalid_opcode(
    machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str
) -> None:
    """It is executed, or the guest stops and says why: what neither can run is not the guest's fault."""
    daemon.start()
    vm = machine(when, "-bios", assemble("fpu3", tmp_path), accel=accel)
    poll(lambda: vm.console().endswith("end\n") or vm.status() != "running", 100, lambda: vm.console() + vm.stderr())
    if vm.status() == "running":
        assert vm.console() == "fpu3 ffffffff 3f800000 \nend\n"
    else:
        assert accel == "kvm"
        assert vm.console() == "fpu3 "
        assert "X86_DM_STOPPED" in vm.events
        assert "neither KVM nor the daemon can run the instruction at 001b:" in vm.stderr()


@cases("tcg-real", "tcg-legacy", "kvm-legacy")
def test_events_of_the_local_apic(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """Priorities, NMIs that nest, interrupts by task gates, x2APIC mode and what its MSRs refuse."""
    daemon.start()
    words = ("-cpu", "qemu64,+x2apic") if accel == "tcg" else ()
    vm = machine(when, *words, "-bios", assemble("apic", tmp_path), accel=accel)
    assert vm.finish() == expected("apic")


@cases("tcg-none", "tcg-legacy", "tcg-unpaged", "kvm-legacy")
def test_devices_that_look_at_the_processor(
    machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str
) -> None:
    """They see it as it is, and a guest cannot end QEMU by where it accesses them from."""
    daemon.start()
    vm = machine(None if when == "none" else when, "-bios", assemble("processor", tmp_path), accel=accel)
    assert vm.finish() == expected("processor")
    aliases = {line.split(" (prio")[0].strip() for line in vm.hmp("info mtree").splitlines() if "kvmvapic-rom" in line}
    assert aliases == {"0000000000011000-0000000000020fff"}


@cases("tcg-legacy", "kvm-legacy")
def test_what_a_kernel_gets_wrong_unseen(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    daemon.start()
    vm = machine(when, "-bios", assemble("unseen", tmp_path), accel=accel)
    assert vm.finish() == expected("unseen")
    assert vm.total("failures") == 0


@cases("tcg-legacy", "tcg-unpaged", "tcg-real", "kvm-legacy")
def test_devices_and_the_vcpu(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """A20, PAM, SMRAM, HLT, interrupts of the PIC and the local APIC, NMI, SMI."""
    daemon.start()
    vm = machine(when, "-bios", assemble("devices", tmp_path), accel=accel)
    for prompt in ("nmi? ", "nmi-in-halt? "):
        poll(lambda text=prompt: vm.console().endswith(text), 60, lambda: vm.console() + vm.stderr())
        vm.command("inject-nmi")
    want = expected("devices")
    if "SMI lost" in vm.finish() + vm.stderr():  # a KVM without system management mode
        want = want.replace("smi 534d4d21", "smi 00000000")
    assert vm.console() == want
    assert vm.total("instructions") > (5000 if when != "real" else 10)


@cases("tcg-real", "kvm-real", "kvm-invalid")
def test_taken_early_at_a_device_access(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """A kernel's IN, INS or MMIO read is finished first: no access is lost or made twice, no register stays behind."""
    daemon.start()
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    words = ["-drive", f"file={disk},format=raw,if=ide", "-device", "e1000,addr=3,romfile="]
    words += ["-trace", "kvm_complete_exit", "-bios", assemble("takeover", tmp_path)]
    vm = machine(when, *words, accel=accel)
    assert vm.finish() == expected("takeover")
    assert vm.total("runs") > 8 * 64
    assert accel != "kvm" or vm.stderr().count("kvm_complete_exit ") > 8 * 64


@cases("tcg-legacy", "tcg-real", "kvm-legacy", "kvm-real")
def test_two_processors(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """INIT and SIPI, additions to one word by both, an interrupt from one to the other in HLT."""
    daemon.start()
    vm = machine(when, "-smp", 2, "-bios", assemble("smp", tmp_path), "-trace", "x86_dm_run", accel=accel)
    assert vm.finish() == expected("smp")
    counts = [vcpu["instructions"] for vcpu in vm.info()["vcpus"]]
    assert len(counts) == 2
    assert min(counts) > (10000 if when == "legacy" else 5)
    if when == "legacy":  # from its first instruction on, also out of HLT
        starts = int(expected("smp").split("again ")[1][:8], 16)
        assert vm.stderr().count("cpu 1 reason 1 base 0x6000 rip 0x0\n") >= starts


@cases("tcg-legacy", "tcg-real")
def test_processor_plugged_in_later(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """It is the accelerator's alone."""
    daemon.start()
    rom = assemble("smp", tmp_path)
    vm = machine(when, "-smp", "1,sockets=2,maxcpus=2", "-bios", rom, "-S", accel=accel)
    vm.command("device_add", driver="qemu64-x86_64-cpu", **{"socket-id": 1, "core-id": 0, "thread-id": 0})
    vm.command("cont")
    assert vm.finish() == expected("smp")
    assert [vcpu["cpu-index"] for vcpu in vm.info()["vcpus"]] == [0]
    assert vm.total("instructions") > (10000 if when == "legacy" else 5)


@cases("tcg-legacy", "tcg-unpaged", "kvm-legacy")
def test_copies_within_vga_memory(machine: Boot, daemon: Daemon, tmp_path: Path, accel: str, when: str) -> None:
    """REP MOVS from VGA memory to VGA memory, latches and all, leaves what plain TCG leaves, in few exchanges."""
    daemon.start()
    rom = assemble("vga", tmp_path)
    plain = machine(None, "-bios", rom)
    vm = machine(when, "-bios", rom, "-trace", "x86_dm_copy", accel=accel)
    assert vm.finish() == plain.finish()
    assert "x86_dm_copy cpu 0 to 0xb8000 from 0xb80a0 size 4 count 64" in vm.stderr()
    assert len(set(vm.console().split())) > 20  # the planes differ
    # The text screen's scroll alone makes 1,920 accesses, filling it and the planes 12,000.
    assert 0 < vm.total("io") < 1500
