"""The small PC: memory, devices and firmware wired together.  It runs no guest code itself."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from dm.engine.api import MemoryMap
from dm.machine.architecture import ApicBase, Eflags, Msr, Vector
from dm.machine.state import Activity, EventType, State
from dm.protocol.schema import Io, IoKind
from dm.shim import cmos
from dm.shim.bios import rom, services
from dm.shim.bios.bda import Bda
from dm.shim.bios.disk import DiskServices
from dm.shim.bios.firmware import Firmware
from dm.shim.bios.keyboard import Keyboard
from dm.shim.bios.ports import SerialServices
from dm.shim.bios.system import SystemServices
from dm.shim.bios.timer import Timer
from dm.shim.bios.video import Video
from dm.shim.bus import PortBus
from dm.shim.clock import Clock
from dm.shim.devices.debugcon import DebugConsole, ExitPort, PostCodes
from dm.shim.devices.i8042 import I8042
from dm.shim.devices.pic import PicPair
from dm.shim.devices.pit import Pit
from dm.shim.devices.rtc import Rtc
from dm.shim.devices.serial import Serial
from dm.shim.devices.system import SystemControl
from dm.shim.devices.vga import Vga
from dm.shim.disk import Drive
from dm.shim.multiboot import KernelImage
from dm.shim.pc_memory import BIOS, PageFaultError, PcMemory
from dm.shim.remote import MachineAnswer

#: IA32_APIC_BASE where there is no local APIC: the usual base, BSP, not enabled.  Writing it adds none
#: (SDM vol. 3A, 10.4.3: a P6's APIC that is turned off stays so until a reset).
_APIC_OFF: Final = 0xFEE00000 | ApicBase.BSP


def _discard(data: bytes) -> None:
    """Throw output away."""


class Pc:
    """A PC/AT-like machine whose CPU is a :class:`~dm.machine.state.State`, run by somebody else.

    ``state`` is the CPU between runs.  :meth:`answer` answers the questions of a run, :meth:`firmware_call` a run that
    ended in the firmware; :meth:`update` and :meth:`wake` come before each run.  ``interrupts`` counts external
    interrupts delivered, ``resets`` resets after power-on.
    """

    def __init__(
        self,
        ram: mmap.mmap | bytearray,
        drives: Sequence[Drive],
        clock: Clock,
        *,
        serial: Callable[[bytes], None] = _discard,
        debug: Callable[[bytes], None] = _discard,
        debug_port: int = 0xE9,
        post_port: int = 0x80,
        post: Callable[[int], None] | None = None,
        exit_port: int | None = None,
        kernel: KernelImage | None = None,
        bios: bytes = b"",
        idle: Callable[[int], None] = lambda nanoseconds: None,
        work: Callable[[], int] = lambda: 0,
        start: datetime | None = None,
        check_signature: bool = True,
    ) -> None:
        """Build the machine, powered on.

        Args:
            ram: all of RAM, shared with whoever runs the CPU.
            drives: the drives; the first is booted from.
            clock: guest time.
            serial: takes what the guest sends to COM1.
            debug: takes what the guest writes to the debug console.
            debug_port: the debug console's port, 16 bits.
            post_port: the POST code display's port, 16 bits.
            post: takes each new POST code.
            exit_port: port whose first write ends the machine; None: there is none.
            kernel: started by the firmware instead of booting a drive.
            bios: a ROM in place of the built-in firmware; ``ram`` has room for it at its end.
            idle: lets the host sleep up to that many nanoseconds while the firmware waits.
            work: returns how many instructions the guest has executed.
            start: date and time of the real-time clock at guest time 0; None: now, UTC.
            check_signature: boot a diskette only if its first sector ends in 55AAh.

        Raises:
            ValueError: the size of RAM or the debug port is impossible.
        """
        self.resets = -1
        self._map: MemoryMap | None = None
        self.vga = Vga(clock, ram, self._map_changed)
        self.memory = PcMemory(ram, rom=bios, display=self.vga)
        self.state = State.reset()
        self.interrupts = 0
        self._generation = 0
        self.bus = PortBus()
        self.system = SystemControl(self._system_changed)
        self.pic = PicPair()
        self.pit = Pit(clock, lambda: self.pic.pulse(0))
        self.rtc = Rtc(clock, lambda level: self.pic.set_irq(8, level), start)
        self.keyboard = I8042(clock, self.system, lambda level: self.pic.set_irq(1, level))
        self.serial = Serial(0x3F8, serial, lambda level: self.pic.set_irq(4, level))
        self.post = PostCodes(post_port, post)
        self._exit = None if exit_port is None else ExitPort(exit_port)
        for device in (
            self.system, self.pic, self.pit, self.rtc, self.keyboard, self.serial, self.vga, self.post,
            DebugConsole(debug_port, debug),
        ):  # fmt: skip
            device.connect(self.bus)
        if self._exit:
            self._exit.connect(self.bus)

        self.bda = Bda(self.memory)
        self.disks = DiskServices(self.bda, drives)
        self.keys = Keyboard(self.bda, self.pic.end_of_interrupt, self.system.request_reset, idle, work)
        self.keyboard.ready_for_key = lambda: self.bda.keys_empty
        self.firmware = Firmware(
            self.memory,
            self.bus,
            self.pic,
            self.rtc,
            bda=self.bda,
            video=Video(self.bda, self.memory, self.vga),
            disks=self.disks,
            keyboard=self.keys,
            timer=Timer(self.bda, self.rtc, self.pic.end_of_interrupt),
            system=SystemServices(self.bda, self.memory, self.system, self.rtc, clock, idle),
            serial=SerialServices(self.serial),
            kernel=kernel,
            check_signature=check_signature,
        )
        cmos.fill(self.rtc.cmos, self.memory.size, drives, check_signature=check_signature)
        if not bios:
            rom.install(self.memory)
            self.vga.keep_cursor(ram, BIOS + services.CURSOR)
        self.reset()

    def reset(self, *, full: bool = True) -> None:
        """Reset the CPU, and with ``full`` the devices; memory and CMOS are kept."""
        self.resets += 1
        self.system.reset()
        if full:
            for device in (self.pic, self.pit, self.rtc, self.keyboard, self.serial):
                device.reset()
            self.memory.reset()
        self._system_changed()
        self.state = State.reset()
        self.state.apic_base = _APIC_OFF
        # Host time: the guest's counter is the host's own (offset 0, scale 1).
        self.state.tsc = self.state.tsc_host = 1

    def _system_changed(self) -> None:
        if self._map is None or self.memory.a20 != self.system.a20:
            self.memory.a20 = self.system.a20
            self._map_changed()

    def _map_changed(self) -> None:
        """Make the next map; before the first reset there is none."""
        if self.resets >= 0:
            self._generation += 1
            self._map = self.memory.memory_map(self._generation)

    @property
    def memory_map(self) -> MemoryMap:
        """The present memory map."""
        assert self._map is not None
        return self._map

    # --- time and interrupts

    def update(self) -> None:
        """Bring the devices up to the current time."""
        self.pit.update()
        self.rtc.update()
        self.keyboard.update()

    def next_event(self) -> int | None:
        """Return nanoseconds until a device may raise an interrupt by itself, None if none will."""
        times = [t for t in (self.pit.next_event(), self.rtc.next_event(), self.keyboard.next_event()) if t is not None]
        return min(times) if times else None

    def wake(self) -> None:
        """Let a pending interrupt end the CPU's halt."""
        if self.interrupt_waits and self.state.rflags & Eflags.IF and self.state.activity == Activity.HALTED:
            self.state.activity = int(Activity.RUNNING)

    def deliver(self) -> None:
        """Let the next run begin with a pending interrupt if the CPU can take it now: then it needs no question."""
        s = self.state
        free = s.inject_type == EventType.NONE and not (s.shadow or s.nmi_pending or s.pending_debug)
        if free and self.interrupt_waits and s.rflags & Eflags.IF and s.activity == Activity.RUNNING:
            s.inject_type, s.inject_vector = int(EventType.EXTERNAL), self.pic.acknowledge()
            s.inject_has_error = s.inject_length = 0
            self.interrupts += 1

    @property
    def interrupt_waits(self) -> bool:
        """True while the interrupt controller has an interrupt for the CPU."""
        return self.pic.pending

    @property
    def exit_value(self) -> int | None:
        """The byte the guest wrote to the exit port, None as long as it has not."""
        return self._exit.value if self._exit else None

    @property
    def waits(self) -> bool:
        """True while the CPU is halted and nothing can be delivered yet."""
        return self.state.activity == Activity.HALTED

    @property
    def stuck(self) -> bool:
        """True when the CPU is halted with interrupts off: only a reset could wake it."""
        return self.waits and not self.state.rflags & Eflags.IF and not self.system.reset_requested

    # --- exits

    def answer(self, io: Io) -> MachineAnswer:
        """Answer a port, MMIO or MSR access, or an interrupt acknowledge.

        Absent memory reads all ones, display memory is the VGA's; every MSR that the daemon does not keep faults; of
        those it keeps, only a write of IA32_APIC_BASE is a question.
        """
        generation = self._generation
        data, fault = b"", False
        match io.kind:
            case IoKind.PORT_IN:
                self.update()
                data = self.bus.read(io.address, io.size, io.count)
            case IoKind.PORT_OUT:
                self.bus.write(io.address, io.size, io.data)
            case IoKind.MMIO_READ:
                data = self._read_memory(io)
            case IoKind.MMIO_WRITE:
                for i in range(io.count):
                    at = i * io.size
                    self.vga.write_memory(io.address + (-at if io.down else at), io.data[at : at + io.size])
            case IoKind.MEMORY_COPY:
                step = -io.size if io.down else io.size
                for i in range(io.count):
                    element = self.memory.read(io.address + i * step, io.size)
                    self.memory.write(io.target + i * step, element)
            case IoKind.MSR_WRITE if io.address == Msr.APIC_BASE:
                pass
            case IoKind.MSR_READ | IoKind.MSR_WRITE:
                fault = True
            case IoKind.INTERRUPT_ACK:
                data = bytes((self.pic.acknowledge(),))
                self.interrupts += 1
        return MachineAnswer(
            data,
            fault,
            self._map if generation != self._generation else None,
            self.interrupt_waits,
            self.system.reset_requested or self.exit_value is not None,
        )

    def posted(self, address: int, data: bytes) -> None:
        """Take a write that the guest has not waited for, to display memory."""
        self.vga.write_memory(address, data)

    def _read_memory(self, io: Io) -> bytes:
        out = bytearray()
        for i in range(io.count):
            at = io.address + (-i if io.down else i) * io.size
            out += bytes(self.vga.read_memory(at + j) for j in range(io.size))
        return bytes(out)

    def firmware_call(self, address: int) -> None:
        """Answer a run that ended at the firmware's entry point ``address`` (physical)."""
        try:
            self.firmware.enter(address, self.state)
        except PageFaultError as fault:
            s = self.state
            s.inject_type, s.inject_vector = int(EventType.EXCEPTION), Vector.PF
            s.inject_has_error, s.inject_error, s.inject_length = 1, fault.error, 0
            s.cr2 = fault.linear
