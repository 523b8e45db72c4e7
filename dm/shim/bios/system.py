"""INT 15h system services: memory sizes, block move, A20, waits.

IBM PC/AT Technical Reference; ACPI 6.5, section 15.1, for AX=E820h.
"""

from __future__ import annotations

from collections.abc import Callable

from dm.machine.state import Seg
from dm.shim.bios import rom
from dm.shim.bios.bda import EBDA, Bda
from dm.shim.bios.call import BiosCall
from dm.shim.clock import Clock
from dm.shim.devices import rtc
from dm.shim.devices.rtc import Rtc
from dm.shim.devices.system import SystemControl
from dm.shim.pc_memory import BIOS, CONVENTIONAL_END, EXTENDED, KIB, MIB, RESET_ALIAS, PcMemory

_SMAP = 0x534D4150
_USABLE, _RESERVED = 1, 2
_UNSUPPORTED = 0x86


class SystemServices:
    """INT 15h.  APM, the pointing device and the rest that this PC lacks return CF and AH=86h."""

    def __init__(
        self,
        bda: Bda,
        memory: PcMemory,
        system: SystemControl,
        real_time_clock: Rtc,
        clock: Clock,
        idle: Callable[[int], None],
    ) -> None:
        """``idle`` lets the host sleep up to that many nanoseconds, or until an interrupt is pending."""
        self._bda, self._memory, self._system, self._rtc = bda, memory, system, real_time_clock
        self._clock, self._idle = clock, idle
        self._deadline: int | None = None
        self._event: tuple[int, int] | None = None

    def reset(self) -> None:
        """Forget waits in progress and mask A20, as programs find it on a PC/AT."""
        self._deadline = self._event = None
        self._system.set_a20(False)

    def open_a20(self) -> None:
        """Open address line 20, as kernels in protected mode expect it."""
        self._system.set_a20(True)

    def service(self, call: BiosCall) -> None:
        """Answer one INT 15h."""
        handler = {
            0x24: self._a20, 0x4F: self._key_intercept, 0x83: self._event_wait, 0x87: self._block_move,
            0x88: self._extended_memory, 0x90: self._device_hook, 0x91: self._device_hook, 0x85: self._device_hook,
            0xC0: self._configuration, 0xC1: self._ebda, 0xE8: self._big_memory,
        }.get(call.ah)  # fmt: skip
        if call.ah == 0x86:
            self._wait(call)
            return
        if handler:
            handler(call)
        else:
            call.fail(_UNSUPPORTED)
        call.finish()

    def _a20(self, call: BiosCall) -> None:
        function = call.al
        if function in (0, 1):
            self._system.set_a20(bool(function))
        elif function == 2:
            call.al = int(self._system.a20)
        elif function == 3:
            call.state.bx = 3  # keyboard controller and port 92h
        else:
            call.fail(_UNSUPPORTED)
            return
        call.succeed()

    def _key_intercept(self, call: BiosCall) -> None:
        call.carry(True)  # process the scan code in AL

    def _device_hook(self, call: BiosCall) -> None:
        call.succeed()

    # --- waiting

    def _wait(self, call: BiosCall) -> None:
        """AH=86h: return after CX:DX microseconds, serving the guest's interrupts meanwhile."""
        now = self._clock.now()
        if self._deadline is None:
            self._deadline = now + (call.state.cx << 16 | call.state.dx) * 1000
        if now < self._deadline:
            self._idle(self._deadline - now)
        if self._clock.now() < self._deadline:
            call.go(rom.YIELD)
            return
        self._deadline = None
        call.succeed()
        call.finish()

    def _event_wait(self, call: BiosCall) -> None:
        """AH=83h: set bit 7 of the byte at ES:BX after CX:DX microseconds; AL=1 cancels."""
        if call.al == 1:
            self._end_event()
            call.succeed()
        elif self._event:
            call.fail(0x80)
        else:
            microseconds = call.state.cx << 16 | call.state.dx
            at = call.state.es.base + call.state.bx
            self._event = at, self._clock.now() + microseconds * 1000
            self._rtc.write(rtc.B, self._rtc.cmos[rtc.B] | 0x40)
            call.succeed()

    def _end_event(self) -> None:
        self._event = None
        self._rtc.write(rtc.B, self._rtc.cmos[rtc.B] & ~0x40)

    def clock_interrupt(self, call: BiosCall) -> None:
        """Let INT 70h end an event wait whose time has come."""
        if self._event and self._clock.now() >= self._event[1]:
            at = self._event[0]
            byte = call.space.read_linear(at, 1)[0]
            call.space.write_linear(at, bytes((byte | 0x80,)))
            self._end_event()

    # --- memory

    def _block_move(self, call: BiosCall) -> None:
        """AH=87h: copy CX words between the addresses of two descriptors in the table at ES:SI."""
        count = call.state.cx
        if count > 0x8000:
            call.fail(2)
            return
        table = call.space.read_linear(call.state.es.base + call.state.si, 0x30)
        source, target = (_descriptor_base(table[at : at + 8]) for at in (0x10, 0x18))
        a20, self._memory.a20 = self._memory.a20, True
        self._memory.write(target, self._memory.read(source, count * 2))
        self._memory.a20 = a20
        call.succeed()

    def _extended_memory(self, call: BiosCall) -> None:
        call.state.ax = min((self._memory.size - EXTENDED) // KIB, 0xFC00)
        call.carry(False)

    def _big_memory(self, call: BiosCall) -> None:
        if call.al == 0x20 and call.state.edx == _SMAP:
            self._memory_map(call)
        elif call.al in (0x01, 0x81):
            low = min(self._memory.size, 16 * MIB) - EXTENDED
            high = max(self._memory.size - 16 * MIB, 0)
            values = low // KIB, high // (64 * KIB)
            call.state.ax, call.state.bx = values
            call.state.cx, call.state.dx = values
            call.carry(False)
        else:
            call.fail(_UNSUPPORTED)

    def regions(self) -> list[tuple[int, int, int]]:
        """Return (start, end, type) of the memory map INT 15h AX=E820h shows, in order."""
        return [
            (0, EBDA, _USABLE),
            (EBDA, CONVENTIONAL_END, _RESERVED),
            (BIOS, EXTENDED, _RESERVED),
            (EXTENDED, self._memory.size, _USABLE),
            (RESET_ALIAS, 1 << 32, _RESERVED),
        ]

    def _memory_map(self, call: BiosCall) -> None:
        regions, index = self.regions(), call.state.ebx
        if index >= len(regions) or call.state.ecx < 20:
            call.fail(_UNSUPPORTED)
            return
        start, end, kind = regions[index]
        entry = start.to_bytes(8, "little") + (end - start).to_bytes(8, "little") + kind.to_bytes(4, "little")
        call.space.write(call.state.es, call.state.di, entry)
        call.state.eax, call.state.ecx = _SMAP, len(entry)
        call.state.ebx = index + 1 if index + 1 < len(regions) else 0
        call.carry(False)

    # --- configuration

    def _configuration(self, call: BiosCall) -> None:
        call.set_segment(Seg.ES, rom.SEGMENT)
        call.state.bx = rom.CONFIGURATION
        call.succeed()

    def _ebda(self, call: BiosCall) -> None:
        call.set_segment(Seg.ES, self._bda.ebda_segment)
        call.carry(False)


def _descriptor_base(descriptor: bytes) -> int:
    return int.from_bytes(descriptor[2:5], "little") | descriptor[7] << 24
