"""The small PC's physical memory and how its firmware reaches it.

One shared mapping holds everything: RAM at its own address, the firmware image at F0000h within it, and after the end
of RAM a ROM that replaces this firmware.  Display memory is RAM as well where the VGA's
registers allow it (:mod:`dm.shim.devices.planes`), so that displaying something costs no exits.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Protocol

from dm.engine.api import MemoryMap, Region, RegionKind
from dm.machine.architecture import Cr0, Cr4, Entry, PageFault
from dm.machine.state import Segment, State
from dm.shim.devices.planes import Window

KIB, MIB = 1 << 10, 1 << 20
PAGE = 4096

CONVENTIONAL_END = 0xA0000
TEXT = 0xB8000
OPTION_ROMS = 0xC0000
BIOS = 0xF0000
#: A page of RAM in the firmware's segment.
WORK = 0xF8000
EXTENDED = 0x100000
#: The firmware page whose fetches end a run: every service's entry point is in it.
TRAPS = 0xFE000
RESET_ALIAS = 0xFFFF0000

#: Smallest and largest RAM in bytes; the top of the 4 GiB space belongs to devices.
MIN_RAM, MAX_RAM = 2 * MIB, 0xC0000000


#: A user's ROM: its size is a multiple of the first, at most the second; the third is how much of its end is visible
#: below 1 MiB.
ROM_UNIT, MAX_ROM, LOW_ROM = 64 * KIB, 16 * MIB, 128 * KIB


class Display(Protocol):
    """The device that owns display memory."""

    @property
    def window(self) -> Window:
        """Where the CPU finds display memory, and how."""
        ...

    def read_memory(self, address: int) -> int:
        """Return the byte at physical ``address`` of a window that is not direct."""
        ...

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes from ``address`` on into a window that is not direct."""
        ...


class PageFaultError(Exception):
    """The guest's page tables do not let its firmware reach ``linear``; ``error`` is the #PF error code."""

    def __init__(self, linear: int, error: int) -> None:
        super().__init__(f"page fault at linear {linear:#x}, error code {error:#x}")
        self.linear, self.error = linear, error


@dataclass
class PcMemory:
    """RAM, ROM and holes below 4 GiB; ``ram`` holds ``size`` bytes from physical address 0 on, then room for ``rom``.

    ``rom`` replaces the built-in firmware: it ends at 4 GiB, and below 1 MiB its last 128 KiB and the option ROM area
    are in RAM, as in QEMU's isapc: there is no chipset with registers that unlock shadow RAM.  ``display`` owns the
    addresses from A0000h to BFFFFh; without it they are empty.
    """

    ram: mmap.mmap | bytearray
    a20: bool = False
    rom: bytes = b""
    display: Display | None = None

    def __post_init__(self) -> None:
        """Fill the option ROM area with ones: scanning it finds nothing.  Copy the ROM.

        Raises:
            ValueError: RAM is not a multiple of 4 KiB between 2 MiB and 3 GiB, or the ROM has no possible size.
        """
        check_rom(self.rom)
        if not MIN_RAM <= self.size <= MAX_RAM or self.size % PAGE:
            raise ValueError(f"RAM of {self.size:#x} bytes: a multiple of 4 KiB from 2 MiB to 3 GiB is needed")
        self.ram[OPTION_ROMS:BIOS] = b"\xff" * (BIOS - OPTION_ROMS)
        if self.rom:
            self.ram[self.size :] = self.rom
        self.reset()

    def reset(self) -> None:
        """Restore the copy of the ROM below 1 MiB."""
        if self.rom:
            low = self.rom[-LOW_ROM:]
            self.ram[EXTENDED - len(low) : EXTENDED] = low

    @property
    def size(self) -> int:
        """Bytes of RAM, the hole below 1 MiB included."""
        return len(self.ram) - len(self.rom)

    def memory_map(self, generation: int) -> MemoryMap:
        """Return the map for the daemon, with the current state of A20."""
        ram = self.ram

        def backed(start: int, end: int, kind: RegionKind) -> Region:
            return Region(start, end - start, kind, ram, start)

        if self.rom:
            low = [backed(OPTION_ROMS, EXTENDED, RegionKind.RAM)]
            high = Region((1 << 32) - len(self.rom), len(self.rom), RegionKind.ROM, ram, self.size)
        else:
            low = [
                backed(OPTION_ROMS, WORK, RegionKind.ROM),
                backed(WORK, WORK + PAGE, RegionKind.RAM),
                backed(WORK + PAGE, TRAPS, RegionKind.ROM),
                backed(TRAPS, TRAPS + PAGE, RegionKind.FIRMWARE),
                backed(TRAPS + PAGE, EXTENDED, RegionKind.ROM),
            ]
            high = Region(RESET_ALIAS, EXTENDED - BIOS, RegionKind.ROM, ram, BIOS)
        return MemoryMap(
            generation,
            (
                backed(0, CONVENTIONAL_END, RegionKind.RAM),
                *self._display_region(),
                *low,
                backed(EXTENDED, self.size, RegionKind.RAM),
                high,
            ),
            self.a20,
        )

    def _display_region(self) -> list[Region]:
        if self.display is None:
            return []
        w = self.display.window
        if w.direct:
            return [Region(w.start, w.size, RegionKind.RAM, self.ram, w.start)]
        return [Region(w.start, w.size, RegionKind.COALESCED)]

    def _at_display(self, at: int) -> bool:
        """Whether an address is the display's, without plain memory behind it."""
        if not CONVENTIONAL_END <= at < OPTION_ROMS:
            return False
        w = self.display.window if self.display else None
        return w is None or not (w.direct and w.start <= at < w.end)

    def _writable(self, at: int, size: int) -> bool:
        """Whether there is RAM at an address, the display's addresses aside."""
        if at >= EXTENDED:
            return at <= self.size - size
        return at < OPTION_ROMS or bool(self.rom) or at & ~(PAGE - 1) == WORK

    def _pieces(self, address: int, length: int) -> list[tuple[int, int]]:
        """Split a range at page ends into (physical address after A20, length)."""
        out = []
        while length:
            at = address & 0xFFFFFFFF
            if not self.a20:
                at &= ~0x100000
            step = min(length, PAGE - at % PAGE)
            out.append((at, step))
            address, length = address + step, length - step
        return out

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at physical ``address``; holes read all ones."""
        out = bytearray()
        for at, step in self._pieces(address, length):
            if at >= RESET_ALIAS:
                at -= RESET_ALIAS - BIOS
            if self._at_display(at):
                out += bytes(self.display.read_memory(at + i) if self.display else 0xFF for i in range(step))
            else:
                out += b"\xff" * step if at >= self.size else self.ram[at : at + step]
        return bytes(out)

    def write(self, address: int, data: bytes) -> None:
        """Write ``data`` at physical ``address``; ROM and holes ignore it."""
        done = 0
        for at, step in self._pieces(address, len(data)):
            if self._at_display(at):
                if self.display:
                    self.display.write_memory(at, data[done : done + step])
            elif self._writable(at, step):
                self.ram[at : at + step] = data[done : done + step]
            done += step

    def read_int(self, address: int, size: int) -> int:
        """Return the little-endian integer of ``size`` bytes at physical ``address``."""
        return int.from_bytes(self.read(address, size), "little")

    def write_int(self, address: int, size: int, value: int) -> None:
        """Write ``value`` as ``size`` little-endian bytes at physical ``address``."""
        self.write(address, value.to_bytes(size, "little"))


def check_rom(rom: bytes) -> None:
    """Check that a ROM (empty: none) has a valid size.

    Raises:
        ValueError: saying which sizes are valid.
    """
    if len(rom) % ROM_UNIT or len(rom) > MAX_ROM:
        raise ValueError(f"a ROM of {len(rom)} bytes: a multiple of 64 KiB up to 16 MiB is needed")


class AddressSpace:
    """Guest memory as the guest itself sees it: through its segments and, if it pages, its page tables.

    The firmware may be called from virtual-8086 mode, where a buffer's linear address is not its physical one
    (SDM vol. 3A, chapter 4; 2-level and PAE paging).
    """

    def __init__(self, memory: PcMemory, state: State) -> None:
        self._memory, self._state = memory, state

    def read_linear(self, linear: int, length: int) -> bytes:
        """Return ``length`` bytes at a linear address.

        Raises:
            PageFaultError: a page is not there.
        """
        return b"".join(self._memory.read(at, step) for at, step in self._split_linear(linear, length, False))

    def write_linear(self, linear: int, data: bytes) -> None:
        """Write ``data`` at a linear address; nothing is written if a page is missing.

        Raises:
            PageFaultError: a page is not there or read-only.
        """
        done = 0
        for at, step in self._split_linear(linear, len(data), True):
            self._memory.write(at, data[done : done + step])
            done += step

    def read(self, segment: Segment, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``segment:offset``; the 16-bit offset wraps.

        Raises:
            PageFaultError: a page is not there.
        """
        return b"".join(self._memory.read(at, step) for at, step in self._split(segment, offset, length, False))

    def write(self, segment: Segment, offset: int, data: bytes) -> None:
        """Write ``data`` at ``segment:offset``; nothing is written if a page is missing.

        Raises:
            PageFaultError: a page is not there or read-only.
        """
        done = 0
        for at, step in self._split(segment, offset, len(data), True):
            self._memory.write(at, data[done : done + step])
            done += step

    def read_word(self, segment: Segment, offset: int) -> int:
        """Return 16 bits at ``segment:offset``."""
        return int.from_bytes(self.read(segment, offset, 2), "little")

    def write_word(self, segment: Segment, offset: int, value: int) -> None:
        """Write 16 bits at ``segment:offset``."""
        self.write(segment, offset, (value & 0xFFFF).to_bytes(2, "little"))

    def _split(self, segment: Segment, offset: int, length: int, write: bool) -> list[tuple[int, int]]:
        out = []
        while length:
            offset &= 0xFFFF
            step = min(length, 0x10000 - offset)
            out += self._split_linear(segment.base + offset, step, write)
            offset, length = offset + step, length - step
        return out

    def _split_linear(self, linear: int, length: int, write: bool) -> list[tuple[int, int]]:
        out = []
        while length:
            linear &= 0xFFFFFFFF
            step = min(length, PAGE - linear % PAGE)
            out.append((self._translate(linear, write), step))
            linear, length = linear + step, length - step
        return out

    def _translate(self, linear: int, write: bool) -> int:
        s = self._state
        if not s.cr0 & Cr0.PG:
            return linear
        user = s.cpl == 3
        error = (PageFault.WR if write else 0) | (PageFault.US if user else 0)
        if s.cr4 & Cr4.PAE:
            entry, levels, size = s.pdpte[linear >> 30], (21, 12), 8
            if not entry & Entry.P:
                raise PageFaultError(linear, error)
        else:
            entry, levels, size = s.cr3, (22, 12), 4
        for shift in levels:
            index = linear >> shift & (0x1FF if size == 8 else 0x3FF)
            entry = self._memory.read_int((entry & 0xFFFFFF000) + index * size, size)
            if not entry & Entry.P:
                raise PageFaultError(linear, error)
            if (user and not entry & Entry.US) or (write and not entry & Entry.RW and (user or s.cr0 & Cr0.WP)):
                raise PageFaultError(linear, error | PageFault.P)
            if shift != 12 and entry & Entry.PS and (size == 8 or s.cr4 & Cr4.PSE):
                mask = (1 << shift) - 1
                return entry & 0xFFFFFFFFF & ~mask | linear & mask
        return entry & 0xFFFFFF000 | linear & 0xFFF
