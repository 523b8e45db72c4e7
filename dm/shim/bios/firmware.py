"""The firmware as a whole: POST, bootstrap, and which service an entry point belongs to."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dm.machine.architecture import Eflags
from dm.machine.state import Seg, State
from dm.shim import cmos
from dm.shim.bios import rom, services
from dm.shim.bios.bda import Bda
from dm.shim.bios.call import BiosCall
from dm.shim.bios.disk import DiskServices
from dm.shim.bios.keyboard import Keyboard
from dm.shim.bios.ports import SerialServices, printer_service
from dm.shim.bios.rom import Trap
from dm.shim.bios.system import SystemServices
from dm.shim.bios.timer import Timer
from dm.shim.bios.video import Video
from dm.shim.bus import PortBus
from dm.shim.devices import rtc
from dm.shim.devices.pic import PicPair
from dm.shim.devices.rtc import Rtc
from dm.shim.disk import SECTOR, DiskKind, Drive
from dm.shim.multiboot import KernelImage
from dm.shim.pc_memory import BIOS, PageFaultError, PcMemory

log = logging.getLogger(__name__)

_BOOT_ADDRESS = 0x7C00
_WARM_START_POINTER = 0x467

#: Vectors whose table entry is data or nothing instead of a service.
_POINTERS = {0x1D: 0, 0x1E: rom.FLOPPY_TABLE}
_FREE = range(0x60, 0x68)  # left to user programs, zero
_HARDWARE = {**{0x08 + i: i for i in range(8)}, **{0x70 + i: 8 + i for i in range(8)}}


class Firmware:
    """Answers runs that ended at one of its entry points."""

    def __init__(
        self,
        memory: PcMemory,
        bus: PortBus,
        pic: PicPair,
        clock: Rtc,
        *,
        bda: Bda,
        video: Video,
        disks: DiskServices,
        keyboard: Keyboard,
        timer: Timer,
        system: SystemServices,
        serial: SerialServices,
        kernel: KernelImage | None = None,
        check_signature: bool = True,
    ) -> None:
        """``kernel`` is started instead of a drive; ``check_signature``: a diskette boots only with 55AAh at its end.

        Raises:
            ValueError: there is no memory where the kernel is to be loaded.
        """
        if kernel:
            kernel.check(system.regions())
        self._kernel, self._check_signature = kernel, check_signature
        self._memory, self._bus, self._pic, self._rtc = memory, bus, pic, clock
        self._bda, self._video, self._disks, self._keyboard = bda, video, disks, keyboard
        self._timer, self._system = timer, system
        #: Calls answered, by vector; entry points that are not vectors do not count.
        self.calls: dict[int, int] = {}
        #: Whether nothing was found to boot from since the last POST, the guest has halted then, and why in words.
        self.no_boot = False
        self.why = "no bootable device"
        self._complained: set[int] = set()
        self._vectors: dict[int, Callable[[BiosCall], None]] = {
            0x10: video.service, 0x13: disks.service, 0x14: serial.service, 0x15: system.service,
            0x16: keyboard.service, 0x17: printer_service, 0x18: self._no_boot, 0x19: self._bootstrap,
            0x1A: timer.service, 0x40: disks.service, 0x70: self._clock_interrupt,
        }  # fmt: skip
        self._traps: dict[int, Callable[[BiosCall], None]] = {
            Trap.POST: self._post, Trap.KEY: keyboard.key, Trap.REST: keyboard.rest,
        }  # fmt: skip

    def enter(self, address: int, state: State) -> None:
        """Answer the entry point at physical ``address``: ``state`` and guest memory are changed in place.

        Raises:
            PageFaultError: the guest's page tables deny the service its memory; the state is unchanged.
        """
        offset = address & 0xFFFF
        registers, es = state.gpr.copy(), (state.es.selector, state.es.base, state.es.unusable)
        call = BiosCall(self._memory, state)
        try:
            if offset in self._traps:
                self._traps[offset](call)
                return
            vector = rom.trapped_vector(offset)
            if vector is None:
                if offset not in self._complained:
                    self._complained.add(offset)
                    log.warning("the guest jumped to %#x, which is not an entry point of the firmware: halted", address)
                call.go(rom.HALT)
                return
            self.calls[vector] = self.calls.get(vector, 0) + 1
            handler = self._vectors.get(vector)
            if handler:
                handler(call)
            else:
                self._unexpected(vector, call)
        except PageFaultError:
            # The call is made again once the page is there; results go into general registers and ES only.
            state.gpr = registers
            state.es.selector, state.es.base, state.es.unusable = es
            raise

    # --- POST

    def _post(self, call: BiosCall) -> None:
        """Power-on or restart: initialise everything and boot, or resume at 40:67 as CMOS byte 0Fh asks."""
        shutdown = self._rtc.cmos[rtc.SHUTDOWN]
        self._rtc.cmos[rtc.SHUTDOWN] = 0
        if shutdown in (0x05, 0x0A):
            # The 80286's way back to real mode: data and controllers stay as the program left them.
            if shutdown == 0x05:
                self._pic.end_of_interrupt(8)
            target = self._memory.read_int(_WARM_START_POINTER, 4)
            call.set_segment(Seg.CS, target >> 16)
            call.state.rip = target & 0xFFFF
            return
        self.no_boot = False
        rom.install(self._memory)
        self._install_vectors()
        self._program_controllers()
        self._bda.reset()
        self._video.reset()
        self._disks.reset()
        self._system.reset()
        self._timer.reset()
        self._bda.equipment = cmos.equipment(self._disks.drives)
        self._bootstrap(call)

    def _install_vectors(self) -> None:
        iret = rom.SEGMENT << 16 | rom.IRET
        table = [iret] * 256
        for vector in (*self._vectors, *_HARDWARE, *range(0x08)):
            table[vector] = rom.SEGMENT << 16 | rom.vector_trap(vector)
        table[0x05] = iret  # print screen: no printer
        table[0x09] = rom.SEGMENT << 16 | rom.KEYBOARD_IRQ
        for vector, label in rom.SERVICES.items():
            table[vector] = rom.SEGMENT << 16 | rom.code().labels[label]
        for vector, offset in _POINTERS.items():
            table[vector] = rom.SEGMENT << 16 | offset if offset else 0
        for vector in _FREE:
            table[vector] = 0
        self._memory.write(0, b"".join(entry.to_bytes(4, "little") for entry in table))

    def _program_controllers(self) -> None:
        for port, values in (
            (0x20, (0x11,)), (0x21, (0x08, 0x04, 0x01, 0xB8)),
            (0xA0, (0x11,)), (0xA1, (0x70, 0x02, 0x01, 0xFE)),
            (0x43, (0x36,)), (0x40, (0, 0)), (0x43, (0x54,)), (0x41, (18,)),
        ):  # fmt: skip
            for value in values:
                self._bus.write(port, 1, bytes((value,)))

    # --- bootstrap

    def _bootstrap(self, call: BiosCall) -> None:
        """INT 19h: load the kernel, or the first drive's boot record, and jump to it."""
        if self._kernel:
            self._system.open_a20()
            self._kernel.start(self._memory, call.state, self._system.regions())
            return
        self.why = "no bootable device"
        drive = self._disks.drives[0] if self._disks.drives else None
        entry = self._load(drive) if drive else None
        if drive is None or entry is None:
            self._no_boot(call)
            return
        s = call.state
        for seg in (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS):
            call.set_segment(seg, 0)
        s.gpr = [0, 0, drive.number, 0, _BOOT_ADDRESS, 0, 0, 0]
        s.rflags = s.rflags & ~0xFFFF | Eflags.FIXED | Eflags.IF
        call.set_segment(Seg.CS, entry >> 4 & 0xF000)
        s.rip = entry & 0xFFFF

    def _load(self, drive: Drive) -> int | None:
        """Load the boot record of ``drive``; return its physical address, None if it has none."""
        if drive.kind is DiskKind.CD:
            assert drive.boot is not None
            address = drive.boot.load_segment << 4
            size = drive.boot.sectors * SECTOR
            data = drive.read(drive.boot.start, -(-size // drive.sector_size))
            if data is None:
                return None
            self._memory.write(address, data[:size])
            return address
        data = drive.read(0, 1)
        signed = data is not None and data[510:512] == b"\x55\xaa"
        if data is None or not (signed or (drive.kind is DiskKind.FLOPPY and not self._check_signature)):
            if data is not None and drive.kind is DiskKind.FLOPPY:
                self.why += ": the diskette's first sector does not end in 55 AA"
            return None
        address = drive.boot.load_segment << 4 if drive.boot else _BOOT_ADDRESS
        self._memory.write(address, data)
        return address

    def _no_boot(self, call: BiosCall) -> None:
        """Say so, in the guest's own code, and halt."""
        self.no_boot = True
        text = f"{self.why[:1].upper()}{self.why[1:]}.\r\n\0"
        self._memory.write(BIOS + services.MESSAGE, text.encode("cp437", "replace")[: services.MESSAGE_SIZE])
        call.go(rom.code().labels["print"])

    # --- small services

    def _clock_interrupt(self, call: BiosCall) -> None:
        self._system.clock_interrupt(call)
        self._timer.clock_interrupt(call)

    def _unexpected(self, vector: int, call: BiosCall) -> None:
        """An interrupt nobody handles: end it if it is the hardware's, else name the exception once."""
        irq = _HARDWARE.get(vector)
        if irq is not None and (self._pic.slave.isr if irq >= 8 else self._pic.master.isr) >> (irq & 7) & 1:
            self._pic.end_of_interrupt(irq)
        elif self.calls[vector] == 1:
            ip, cs = (call.space.read_word(call.state.ss, call.state.sp + i) for i in (0, 2))
            log.warning("unhandled interrupt %#04x, return address %04x:%04x", vector, cs, ip)
        call.finish()
