"""A small PC with its firmware up, and calls into that firmware as a guest makes them: the code in ROM is executed."""

from __future__ import annotations

import pathlib
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from dm import Emulator
from dm.engine.api import Exit, ExitReason
from dm.machine.architecture import Eflags
from dm.machine.state import Activity, State
from dm.protocol.schema import Io, IoKind
from dm.shim.bios import rom
from dm.shim.clock import ManualClock
from dm.shim.disk import FLOPPIES, DiskKind, Drive, drives
from dm.shim.pc import Pc
from dm.shim.pc_memory import TRAPS

RAM = 32 << 20
RETURN = 0x1234_5678  # segment:offset of the caller's next instruction, which halts
STACK = 0x7000


class Bench:
    """A PC on a clock that stands still; its guest is whatever the test says."""

    def __init__(self, image_drives: list[Drive], **options: Any) -> None:
        self.clock = ManualClock()
        self.sent = bytearray()
        self.debug = bytearray()
        self.idled: list[int] = []
        self.work = 0
        self._emulator: Emulator | None = None
        self.pc = Pc(
            bytearray(RAM),
            image_drives,
            self.clock,
            serial=self.sent.extend,
            debug=self.debug.extend,
            idle=self._idle,
            work=lambda: self.work,
            start=datetime(1999, 12, 31, 23, 59, 58),
            **options,
        )
        self.memory = self.pc.memory

    def _idle(self, nanoseconds: int) -> None:
        self.idled.append(nanoseconds)
        self.clock.advance(nanoseconds)

    @property
    def state(self) -> State:
        return self.pc.state

    def post(self) -> None:
        """Run POST: what the CPU does first after reset."""
        self.enter(rom.Trap.POST)

    def enter(self, offset: int) -> None:
        """Fetch from the firmware at F000:offset."""
        self.state.cs.selector, self.state.cs.base, self.state.rip = 0xF000, 0xF0000, offset
        self.pc.firmware_call(0xF0000 + offset)

    def interrupt(self, vector: int, **registers: int) -> SimpleNamespace:
        """Do ``INT vector`` with the given registers; return registers and flags as the caller finds them.

        A service of the shim's is answered once, and then ``returned`` when an IRET is next; ROM code runs until it
        has returned to the caller, or waits.
        """
        s = self.state
        for name, value in registers.items():
            if name in ("ds", "es"):
                segment = getattr(s, name)
                segment.selector, segment.base = value, value << 4
            else:
                setattr(s, name, value)
        s.ss.selector, s.ss.base, s.esp = 0, 0, STACK
        s.rflags |= 2
        frame = RETURN.to_bytes(4, "little") + (s.eflags & 0xFFFF).to_bytes(2, "little")
        self.memory.write(STACK, frame)
        target = self.memory.read_int(vector * 4, 4)
        s.cs.selector, s.cs.base, s.rip = target >> 16, target >> 16 << 4, target & 0xFFFF
        if (s.cs.base + s.eip) & ~0xFFF == TRAPS:
            self.pc.firmware_call(s.cs.base + s.eip)
            flags = self.memory.read_int(STACK + 4, 2)
            assert self.memory.read_int(STACK, 4) == RETURN
            returned = s.rip == rom.IRET and s.cs.selector == 0xF000
        else:
            self.memory.write((RETURN >> 16 << 4) + (RETURN & 0xFFFF), b"\xf4")
            self.run()
            s = self.state
            flags = s.eflags
            returned = (s.cs.selector, s.rip, s.sp) == (RETURN >> 16, (RETURN & 0xFFFF) + 1, STACK + 6)
        return SimpleNamespace(
            **{name: getattr(s, name) for name in ("eax", "ebx", "ecx", "edx", "ax", "bx", "cx", "dx", "di", "bp")},
            al=s.ax & 0xFF,
            ah=s.ax >> 8,
            bl=s.bx & 0xFF,
            bh=s.bx >> 8,
            cl=s.cx & 0xFF,
            ch=s.cx >> 8,
            dl=s.dx & 0xFF,
            dh=s.dx >> 8,
            es=s.es.selector,
            cf=bool(flags & Eflags.CF),
            zf=bool(flags & Eflags.ZF),
            returned=returned,
            rip=s.rip,
        )

    def run(self) -> None:
        """Let the guest run, and the firmware answer, until it halts."""
        if self._emulator is None:
            self._emulator = Emulator(self.pc.memory_map)
        vm, answer = self._emulator, b""
        self.state.activity = Activity.RUNNING
        vm.state = self.state
        for _ in range(100_000):
            vm.memory = self.pc.memory_map
            if vm.question is not None:
                vm.answer(answer)
            end = vm.run(budget=1 << 30)
            self.work += end.instructions
            for address, data in end.posted:
                self.pc.posted(address, data)
            if vm.question is not None:
                answer = self._answer(end)
                continue
            self.pc.state = vm.state
            if end.reason is not ExitReason.FIRMWARE:
                assert end.reason is ExitReason.HALT, end
                return
            self.pc.firmware_call(end.address)
            vm.state = self.state
        pytest.fail("the guest does not come to its end")

    def _answer(self, question: Exit) -> bytes:
        io = Io(
            session=1, vcpu=0, epoch=1, seq=1, io=1, kind=IoKind(question.reason), address=question.address,
            size=question.size, count=question.count, data=question.data, down=question.down, target=question.target,
        )  # fmt: skip
        return self.pc.answer(io).data

    def row(self, number: int, columns: int = 80) -> str:
        """Return one row of the screen."""
        cells = self.memory.read(0xB8000 + number * columns * 2, columns * 2)
        return cells[::2].decode("cp437").rstrip()

    def inb(self, port: int) -> int:
        return self.pc.bus.read(port, 1)[0]

    def outb(self, port: int, value: int) -> None:
        self.pc.bus.write(port, 1, bytes((value,)))


def boot_sector(*, size: int = 1474560) -> bytearray:
    """Return an image whose every sector says its number, with a boot signature."""
    image = bytearray(size)
    for sector in range(size // 512):
        image[sector * 512 : sector * 512 + 4] = sector.to_bytes(4, "little")
    image[510:512] = b"\x55\xaa"
    return image


@pytest.fixture
def floppy_image() -> bytearray:
    return boot_sector()


@pytest.fixture
def bench(floppy_image: bytearray) -> Bench:
    """A PC with a bootable diskette, after POST."""
    assert len(floppy_image) in FLOPPIES
    machine = Bench(drives(floppy_image, DiskKind.FLOPPY))
    machine.post()
    return machine


@pytest.fixture
def disk_bench() -> Bench:
    """A PC with a bootable hard disk of 8 MiB, after POST."""
    machine = Bench(drives(boot_sector(size=8 << 20), DiskKind.DISK))
    machine.post()
    return machine


@pytest.fixture
def make_bench():  # type: ignore[no-untyped-def]
    return Bench


def make_cd(media: int = 0, *, boot: bytes = b"CDBOOT", sectors: int = 4, segment: int = 0) -> bytearray:
    """Return a CD-ROM image with a boot catalog at sector 19 and the boot image at sector 20."""
    image = bytearray(2048 * 2000)
    image[16 * 2048 : 16 * 2048 + 7] = b"\x01CD001\x01"
    record = bytearray(2048)
    record[0:7] = b"\x00CD001\x01"
    record[7:30] = b"EL TORITO SPECIFICATION"
    record[0x47:0x4B] = (19).to_bytes(4, "little")
    image[17 * 2048 : 18 * 2048] = record
    image[18 * 2048 : 18 * 2048 + 7] = b"\xffCD001\x01"
    validation = bytearray(32)
    validation[0], validation[30:32] = 1, b"\x55\xaa"
    total = sum(int.from_bytes(validation[i : i + 2], "little") for i in range(0, 32, 2))
    validation[28:30] = (-total & 0xFFFF).to_bytes(2, "little")
    entry = bytearray(32)
    entry[0], entry[1] = 0x88, media
    entry[2:4] = segment.to_bytes(2, "little")
    entry[6:8] = sectors.to_bytes(2, "little")
    entry[8:12] = (20).to_bytes(4, "little")
    image[19 * 2048 : 19 * 2048 + 64] = validation + entry
    image[20 * 2048 : 20 * 2048 + len(boot)] = boot
    return image


@pytest.fixture
def cd_image():  # type: ignore[no-untyped-def]
    return make_cd


@pytest.fixture
def write_image(tmp_path: pathlib.Path):  # type: ignore[no-untyped-def]
    """Return a function that writes an image file and returns its path."""

    def write(data: bytes, name: str = "image") -> pathlib.Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write
