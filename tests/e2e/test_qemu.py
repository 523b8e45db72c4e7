"""Real virtual machines: QEMU with the series of qemu-patches/, which hands vCPUs to the daemon.

``DM_QEMU`` names a patched qemu-system-x86_64 to use; otherwise qemu-patches/build.sh builds one, which takes minutes
the first time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import E1000_ROM, need
from qemu_machine import BUILD, FIRMWARE, Daemon, Qemu, assemble, expected, need_kvm, poll, ram

ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
MODULES = Path("/usr/lib/syslinux/modules/bios")
IPXE = Path("/usr/lib/ipxe/ipxe.iso")

pytestmark = pytest.mark.timeout(1800)  # building QEMU takes minutes

Boot = Callable[..., Qemu]


def refusal(qemu_binary: str, *words: str) -> str:
    """Start a QEMU that must give up, and return what it says."""
    command = [qemu_binary, *FIRMWARE, "-nodefaults", "-display", "none", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    return done.stderr


# ------------------------------------------------------------------------------------------ the build script


def test_build_script_names_the_binary_without_building() -> None:
    first, second = (subprocess.run([BUILD, "--path"], capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert first.stdout.endswith("/qemu-system-x86_64\n")


def test_build_script_names_missing_packages(tmp_path: Path) -> None:
    """`./run` asks this script what to install."""
    (tmp_path / "dpkg-query").write_text('#!/bin/sh\n[ "$4" != ninja-build ] && echo install ok installed\n')
    (tmp_path / "dpkg-query").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [BUILD, "--missing"], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout == "ninja-build\n"


def test_build_script_refuses_unknown_options() -> None:
    done = subprocess.run([BUILD, "--bogus"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--bogus" in done.stderr


# ------------------------------------------------------------------------------------------ TCG


@pytest.mark.parametrize("when", ["real", "unpaged", "legacy", "invalid"])
def test_grub_boots_and_obeys_the_keyboard(machine: Boot, daemon: Daemon, rescue: Path, when: str) -> None:
    daemon.start()
    vm = machine(when, "-cdrom", rescue)
    vm.wait_for("grub>")
    before = vm.total("instructions")
    vm.type("echo hello\n")
    vm.wait_for("\nhello")
    info = vm.info()
    assert info["state"] == "connected"
    assert info["when"] == when
    assert info["engine"].startswith("native")
    # The BIOS's keyboard services are real-mode code: even its narrowest policy runs them in the daemon.
    assert vm.total("instructions") > before > 100_000
    assert vm.total("io") > 1000
    assert vm.total("failures") == 0
    assert f"when={when}, connected" in vm.hmp("info x86-dm")


def test_firmware_reports_no_bootable_device(machine: Boot, daemon: Daemon) -> None:
    daemon.start()
    vm = machine("real")
    vm.wait_for("No bootable device.")
    assert "SeaBIOS" in vm.screen()
    assert vm.total("instructions") > 100_000


def test_ram_in_a_file(machine: Boot, daemon: Daemon, short_path: Path) -> None:
    folder = short_path / "ram"
    folder.mkdir()
    daemon.start("--memory-path", str(folder))
    backend = f"memory-backend-file,id=file,mem-path={folder / 'guest'},size=128M,share=on"
    vm = machine("real", "-object", backend, "-machine", "memory-backend=file")
    vm.wait_for("No bootable device.")
    assert vm.total("instructions") > 100_000


@pytest.mark.parametrize(("rules", "least", "most"), [("vmx", 1000, None), ("vmx-ug", 0, 0), ("svm", 0, 0)])
def test_rules_say_what_is_invalid(machine: Boot, daemon: Daemon, rules: str, least: int, most: int | None) -> None:
    """VMX alone cannot enter real mode; with unrestricted guest, and on SVM, firmware never leaves what can be."""
    daemon.start()
    vm = machine(f"invalid,rules={rules}")
    vm.wait_for("No bootable device.")
    assert vm.total("instructions") >= least
    assert most is None or vm.total("instructions") <= most


def test_trace_events(machine: Boot, daemon: Daemon) -> None:
    daemon.start()
    vm = machine("real", "-trace", "x86_dm_*")
    vm.wait_for("No bootable device.")
    vm.quit()
    for line in (
        r"x86_dm_map generation 1, \d+ regions",
        r"x86_dm_connected session \d+, x86-dm .*, engine native",
        r"x86_dm_run cpu 0 reason 1 base 0xffff0000 rip 0xfff0",
        r"x86_dm_port cpu 0 out port 0x70 size 1 count 1",
        r"x86_dm_mmio cpu 0 write 0xb8000 size 2 count 1",
        r"x86_dm_done cpu 0 \w+ after \d+ instructions, base 0x\w+ rip 0x\w+",
    ):
        assert re.search(rf"^(\d+@[\d.]+:)?{line}$", vm.stderr(), re.M), line


def test_two_vcpus(machine: Boot, daemon: Daemon, rescue: Path) -> None:
    daemon.start()
    vm = machine("real", "-smp", "2", "-cdrom", rescue)
    vm.wait_for("grub>")
    # SeaBIOS wakes the second one by INIT and SIPI; it begins in real mode.
    assert all(vcpu["instructions"] > 0 for vcpu in vm.info()["vcpus"])


def test_reset_in_the_middle_of_the_boot(machine: Boot, daemon: Daemon, rescue: Path) -> None:
    daemon.start()
    vm = machine("legacy", "-cdrom", rescue)
    # QEMU's i440FX keeps RAM at F0000h over a reset; SeaBIOS is lost while it has not yet copied itself there.
    vm.wait_for("SeaBIOS")
    for _ in range(3):
        before = vm.total("instructions")
        poll(lambda n=before: vm.total("instructions") > n + 10_000, 100)
        vm.command("system_reset")
    vm.wait_for("grub>")


HELLO = """
    .intel_syntax noprefix
    .code16
    mov si, offset text
1:  cs lodsb
    test al, al
    jz 2f
    mov ah, 0x0e
    mov bx, 7
    int 0x10
    jmp 1b
2:  cli
    hlt
    jmp 2b
text: .asciz "the sector runs"
    .org 510
    .word 0xaa55
"""


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    """A diskette image whose boot sector prints a line."""
    (tmp_path / "sector.s").write_text(HELLO)
    for words in (
        ["as", "--32", tmp_path / "sector.s", "-o", tmp_path / "sector.o"],
        [
            "ld",
            "-m",
            "elf_i386",
            "-e",
            "0",
            "-Ttext",
            "0x7c00",
            "--oformat",
            "binary",
            tmp_path / "sector.o",
            "-o",
            tmp_path / "sector.bin",
        ],
    ):
        subprocess.run(words, check=True)
    image = tmp_path / "diskette.img"
    image.write_bytes((tmp_path / "sector.bin").read_bytes().ljust(1474560, b"\0"))
    return image


@pytest.mark.parametrize("when", ["real", "legacy"])
@pytest.mark.parametrize("drive", ["floppy", "ide"])
def test_boot_sectors(machine: Boot, daemon: Daemon, sector: Path, when: str, drive: str) -> None:
    daemon.start()
    vm = machine(when, "-drive", f"file={sector},format=raw,if={drive},snapshot=on")
    vm.wait_for("the sector runs")
    assert vm.total("instructions") > 100_000


#: Where memory after POST may differ from one run of TCG to the next: what depends on time, and what is left on stacks.
PASSING = (
    (0x46C, 0x470),  # timer ticks
    (0x6000, 0x7C00),  # SeaBIOS's stack in low memory
    (0xC8000, 0xF0000),  # its variables, times among them, and its stack for calls from 16-bit code
    (0x6FE0000, 0x7000000),  # the stacks of its threads, and tables with times
)


def test_memory_and_registers_after_post(machine: Boot, daemon: Daemon, sector: Path) -> None:
    """POST ends in the boot sector with the same registers and memory, whoever has run the code."""
    daemon.start()

    def end_of_post(when: str | None) -> tuple[list[str], bytes]:
        drive = f"file={sector},format=raw,if=ide,snapshot=on"
        vm = machine(when, "-drive", drive, "-rtc", "base=2020-01-01T00:00:00,clock=vm")
        vm.wait_for("the sector runs")
        poll(lambda: "HLT=1" in vm.hmp("info registers"), 100)
        vm.command("stop")
        # TR is busy after a reset; TCG wants it available, and gets it so from the daemon.
        text = vm.hmp("info registers").replace("0000ffff 00008b00", "0000ffff 00008900")
        return text.splitlines(), vm.memory(0, 128 << 20)

    registers, memory = end_of_post(None)
    for when in ("real", "legacy"):
        others, other = end_of_post(when)
        assert others == registers, when
        rows = [at for at in range(0, len(memory), 4096) if memory[at : at + 4096] != other[at : at + 4096]]
        differing = [at for row in rows for at in range(row, row + 4096) if memory[at] != other[at]]
        strange = [hex(at) for at in differing if not any(low <= at < high for low, high in PASSING)]
        assert strange == [], when
        assert len(differing) < 4096, when


def isolinux(folder: Path, configuration: str, files: tuple[Path, ...] = ()) -> Path:
    """Make a CD that boots ISOLINUX; ``files`` go to its root."""
    need(ISOLINUX, MODULES)
    root = folder / "cd"
    (root / "isolinux").mkdir(parents=True)
    for file in (ISOLINUX, *(MODULES / name for name in ("ldlinux.c32", "libcom32.c32", "libutil.c32", "ls.c32"))):
        shutil.copy(file, root / "isolinux")
    (root / "isolinux" / "isolinux.cfg").write_text(configuration)
    for file in files:
        shutil.copy(file, root)
    words = ["xorriso", "-as", "mkisofs", "-quiet", "-o", folder / "cd.iso", "-b", "isolinux/isolinux.bin"]
    words += ["-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", root]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "cd.iso"


@pytest.mark.parametrize("when", ["real", "legacy"])
def test_isolinux(machine: Boot, daemon: Daemon, tmp_path: Path, when: str) -> None:
    daemon.start()
    vm = machine(when, "-cdrom", isolinux(tmp_path, "PROMPT 1\nTIMEOUT 0\nSAY ready to be told\n"))
    vm.wait_for("ready to be told")
    vm.wait_for("boot:")
    vm.type("ls.c32\n")
    vm.wait_for("libutil.c32")


@pytest.mark.parametrize("when", ["real", "legacy"])
def test_network_card_rom(machine: Boot, daemon: Daemon, when: str) -> None:
    """iPXE as an option ROM; the VGA card's ROM is in every test that looks at the screen."""
    need(E1000_ROM)
    daemon.start()
    vm = machine(when, "-device", f"e1000,romfile={E1000_ROM}", "-boot", "n")
    vm.wait_for("Open Source Network Boot Firmware")
    vm.wait_for("net0")
    assert vm.total("instructions") > 100_000


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bzImage of Debian's; the cloud flavour is the smallest."""
    folder = tmp_path_factory.mktemp("linux")
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, timeout=60
    ).stdout
    name = re.search(r"Depends: (linux-image-\S+)", depends)
    done = subprocess.run(
        ["apt-get", "download", "-qq", name[1]] if name else ["false"],
        cwd=folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    packages = list(folder.glob("*.deb"))
    if not packages:
        pytest.skip(f"no kernel to download: {done.stderr.strip() or depends or 'unknown package'}")
    unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -xf - --wildcards "./boot/vmlinuz-*"'
    subprocess.run(["sh", "-c", unpack, "sh", packages[0]], cwd=folder, check=True)
    return next((folder / "boot").glob("vmlinuz-*"))


@pytest.mark.parametrize("when", ["real", "legacy"])
def test_debian_kernel(machine: Boot, daemon: Daemon, linux: Path, tmp_path: Path, short_path: Path, when: str) -> None:
    """ISOLINUX, the kernel's real-mode setup and 32-bit entry in the daemon; 64-bit code is TCG's own again."""
    daemon.start()
    kernel = shutil.copy(linux, tmp_path / "vmlinuz")
    options = "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1 mitigations=off"
    configuration = f"DEFAULT linux\nLABEL linux\n LINUX /vmlinuz\n APPEND {options}\n"
    serial = short_path / "serial"
    image = isolinux(tmp_path, configuration, (Path(kernel),))
    vm = machine(when, "-no-reboot", "-serial", f"file:{serial}", "-cdrom", image, memory=256)
    poll(
        lambda: "Kernel panic - not syncing: VFS" in serial.read_text(errors="replace"),
        240,
        lambda: serial.read_text(errors="replace")[-2000:] + vm.stderr(),
    )
    assert "Linux version" in serial.read_text(errors="replace")


# ------------------------------------------------------------------------------------------ the daemon comes and goes


def test_guest_waits_for_an_absent_daemon(machine: Boot, daemon: Daemon, rescue: Path) -> None:
    vm = machine("real", "-cdrom", rescue)
    poll(lambda: "no daemon" in vm.info().get("error", ""), 100)
    assert vm.info()["state"] == "waiting"
    assert vm.status() == "running"
    daemon.start()
    vm.wait_for("grub>")
    assert vm.info()["connects"] == 1


def test_absent_daemon_does_not_hold_up_quit(machine: Boot) -> None:
    machine("real").quit()


def test_timeout_stops_the_guest_and_cont_tries_again(machine: Boot, daemon: Daemon, rescue: Path) -> None:
    vm = machine("real,timeout=1", "-cdrom", rescue)
    poll(lambda: vm.status() == "io-error", 100)
    assert "X86_DM_STOPPED" in vm.events
    assert vm.info()["state"] == "failed"
    assert "within 1 s" in vm.info()["error"]
    assert vm.total("runs") == 0
    daemon.start()
    poll(lambda: vm.info()["connects"] == 1, 100)
    vm.command("cont")
    vm.wait_for("grub>")
    assert vm.info()["state"] == "connected"


def test_killed_daemon_is_replaced(machine: Boot, daemon: Daemon, tmp_path: Path) -> None:
    """Its worker ends the run under way in order: not an instruction is lost."""
    daemon.start()
    vm = machine("legacy", "-bios", assemble("work", tmp_path))
    poll(lambda: "." in vm.console(), 100)
    daemon.stop(kill=True)
    poll(lambda: vm.info()["state"] == "waiting", 100)
    daemon.start()
    assert vm.finish() == expected("work")
    assert vm.status() == "running"
    assert vm.events.count("X86_DM_LOST") == vm.events.count("X86_DM_REGAINED") == 1


# ------------------------------------------------------------------------------------------ mistakes


def test_private_ram_is_refused(qemu_binary: str) -> None:
    said = refusal(qemu_binary, "-m", "64M", "-object", "x86-dm,id=dm0,endpoint=ipc:///nowhere")
    assert "-object memory-backend-memfd,id=ram,size=64M,share=on" in said


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("endpoint=tcp://localhost:1", "ipc:///path"),
        ("endpoint=ipc:///x,when=failure", "when=failure is for accelerator kvm"),
        ("endpoint=ipc:///x,when=never", "never"),
        ("when=real", "endpoint"),
        (f"endpoint=ipc:///{'x' * 107}", "108 bytes"),
    ],
)
def test_bad_options_are_named(qemu_binary: str, option: str, named: str) -> None:
    assert named in refusal(qemu_binary, *ram(), "-accel", "tcg", "-object", f"x86-dm,id=dm0,{option}")


def test_second_object_is_refused(qemu_binary: str) -> None:
    objects = [word for name in "ab" for word in ("-object", f"x86-dm,id={name},endpoint=ipc:///x")]
    assert "only one" in refusal(qemu_binary, *ram(), *objects)


def test_icount_is_refused(qemu_binary: str) -> None:
    assert "-icount" in refusal(qemu_binary, *ram(), "-icount", "1", "-object", "x86-dm,id=a,endpoint=ipc:///x")


# ------------------------------------------------------------------------------------------ KVM


@pytest.mark.kvm
def test_early_policies_need_a_split_irqchip(qemu_binary: str) -> None:
    need_kvm()
    said = refusal(qemu_binary, *ram(), "-accel", "kvm", "-object", "x86-dm,id=a,endpoint=ipc:///x,when=legacy")
    assert "kernel-irqchip=split" in said


SLOW_POLICIES = pytest.mark.parametrize(
    "when",
    ["legacy", pytest.param("real", marks=pytest.mark.long), pytest.param("failure", marks=pytest.mark.long)],
)


@pytest.mark.kvm
@SLOW_POLICIES
def test_kvm_grub(machine: Boot, daemon: Daemon, rescue: Path, when: str) -> None:
    daemon.start()
    vm = machine(when, "-cdrom", rescue, accel="kvm")
    vm.wait_for("grub>", 280)
    before = vm.total("instructions")
    for n, letter in enumerate("echo hello", 1):  # KVM is too slow here for the keyboard's buffer
        vm.type(letter)
        vm.wait_for(f"grub> {'echo hello'[:n].rstrip()}", 120)
    vm.type("\n")
    vm.wait_for("\nhello", 120)
    if when == "failure":  # a kernel whose emulator knows all of it hands nothing over
        assert vm.total("runs") == vm.total("failures")
    else:
        assert vm.total("instructions") > before > {"legacy": 1_000_000, "real": 100_000}[when]


@pytest.mark.kvm
@SLOW_POLICIES
def test_kvm_ipxe(machine: Boot, daemon: Daemon, when: str) -> None:
    need(IPXE)
    daemon.start()
    vm = machine(when, "-cdrom", IPXE, accel="kvm")
    vm.wait_for("Open Source Network Boot Firmware", 280)
    assert vm.total("runs") >= vm.total("failures")
    assert when == "failure" or vm.total("instructions") > 100_000
