"""The VGA's memory: four planes of 64 KiB, and how the CPU sees them (IBM VGA Technical Reference, "Video Memory").

Where the registers make display memory plain memory for the CPU (text, CGA's modes, mode 13h), it is RAM, and
drawing costs no exit.  The window then holds the bytes as the CPU addresses them; they are moved to their planes when
the view changes.  Otherwise (latches, map mask, write modes) reads are questions, byte by byte, and writes are posted.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import Enum
from typing import Final

PLANE: Final = 0x10000
#: Start and size of the window by graphics register 6, bits 2 and 3.
WINDOWS: Final = ((0xA0000, 0x20000), (0xA0000, 0x10000), (0xB0000, 0x8000), (0xB8000, 0x8000))


class View(Enum):
    """How an address of the window finds its plane.

    ``CHAIN4``: by its low two bits.  ``ODD_EVEN``: by its lowest, characters and attributes of text.  ``PLANE``: plane
    0 alone.  ``LATCHED``: none of these, or not without side effects.
    """

    CHAIN4 = "chain4"
    ODD_EVEN = "odd-even"
    PLANE = "plane"
    LATCHED = "latched"


@dataclass(frozen=True, slots=True)
class Window:
    """Where the CPU finds display memory, and how; ``start`` and ``size`` in bytes."""

    view: View
    start: int
    size: int

    @property
    def direct(self) -> bool:
        """Whether it is plain memory."""
        return self.view is not View.LATCHED

    @property
    def end(self) -> int:
        """First address after it."""
        return self.start + self.size


def window(sequencer: bytes | bytearray, graphics: bytes | bytearray) -> Window:
    """Return the window as the registers make it.

    Bit 1 of the miscellaneous output register, which gives the CPU access to this memory, is ignored: no emulator looks
    at it, and GRUB's ROM for QEMU leaves it off.
    """
    start, size = WINDOWS[graphics[6] >> 2 & 3]
    view = View.LATCHED
    # Write mode 0, read mode 0, no set/reset, no function or rotation, every bit.
    plain = not (graphics[5] & 0x0B or graphics[1] & 15 or graphics[3] & 0x1F) and graphics[8] == 0xFF
    mask = sequencer[2] & 15
    if plain and size <= PLANE:
        if sequencer[4] & 8:
            view = View.CHAIN4 if mask == 15 else view
        elif not sequencer[4] & 4:
            view = View.ODD_EVEN if mask == 3 and graphics[5] & 0x10 and not graphics[4] & 2 else view
        elif mask == 1 and not graphics[4] & 3 and start >= 0xB0000:
            # At A0000h programs change planes far too often for that: a new map costs more than many writes.
            view = View.PLANE
    return Window(view, start, size)


class Planes:
    """The four planes, their latches, and the window, which lies in ``ram`` at its physical address."""

    def __init__(self, ram: mmap.mmap | bytearray) -> None:
        self._ram = ram
        self.planes = [bytearray(PLANE) for _ in range(4)]
        self._latches = [0, 0, 0, 0]
        self.window = Window(View.LATCHED, 0xA0000, 0)

    def show(self, new: Window) -> bool:
        """Change the window; True if it differs from the current one."""
        if new == self.window:
            return False
        self.save()
        self.window = new
        self.load()
        return True

    def save(self) -> None:
        """Bring the planes up to date with what has been written to a direct window."""
        w = self.window
        if w.view is View.CHAIN4:
            for i, plane in enumerate(self.planes):
                plane[0 : w.size : 4] = self._ram[w.start + i : w.end : 4]
        elif w.view is View.ODD_EVEN:
            for i in range(2):
                self.planes[i][0 : w.size : 2] = self._ram[w.start + i : w.end : 2]
        elif w.view is View.PLANE:
            self.planes[0][0 : w.size] = self._ram[w.start : w.end]

    def load(self) -> None:
        """Show what is in the planes in a direct window."""
        w = self.window
        if w.view is View.CHAIN4:
            for i, plane in enumerate(self.planes):
                self._ram[w.start + i : w.end : 4] = bytes(plane[0 : w.size : 4])
        elif w.view is View.ODD_EVEN:
            for i in range(2):
                self._ram[w.start + i : w.end : 2] = bytes(self.planes[i][0 : w.size : 2])
        elif w.view is View.PLANE:
            self._ram[w.start : w.end] = bytes(self.planes[0][0 : w.size])

    def clear(self) -> None:
        """Fill all planes with zeros."""
        for plane in self.planes:
            plane[:] = bytes(PLANE)
        self.load()

    # --- what the CPU does where the window is not plain memory

    def read(self, address: int, sequencer: bytearray, graphics: bytearray) -> int:
        """Return the byte at physical ``address``, and fill the latches."""
        w = self.window
        if w.view is not View.LATCHED or not w.start <= address < w.end:
            return 0xFF
        offset, only = self._place(address, sequencer, graphics)
        self._latches = latches = [plane[offset] for plane in self.planes]
        if graphics[5] & 8:  # read mode 1: which dots have the colour asked for
            unlike = 0
            for i, latch in enumerate(latches):
                if graphics[7] >> i & 1:
                    unlike |= latch ^ (0xFF if graphics[2] >> i & 1 else 0)
            return ~unlike & 0xFF
        selected = graphics[4] & 3
        if only is not None:
            selected = only if sequencer[4] & 8 else selected & 2 | only
        return latches[selected]

    def write(self, address: int, value: int, sequencer: bytearray, graphics: bytearray) -> None:
        """Write a byte at physical ``address``."""
        w = self.window
        if w.view is not View.LATCHED or not w.start <= address < w.end:
            return
        offset, only = self._place(address, sequencer, graphics)
        mask, mode = sequencer[2] & 15, graphics[5] & 3
        if only is not None:
            mask &= 1 << only if sequencer[4] & 8 else 5 << only
        bits, function, latches = graphics[8], graphics[3] >> 3 & 3, self._latches
        rotation = graphics[3] & 7
        if mode in (0, 3):
            value = (value >> rotation | value << 8 - rotation) & 0xFF
        if mode == 3:
            bits &= value
        for i in range(4):
            if not mask >> i & 1:
                continue
            latch = latches[i]
            if mode == 1:
                self.planes[i][offset] = latch
                continue
            if mode == 0:
                data = value
                if graphics[1] >> i & 1:
                    data = 0xFF if graphics[0] >> i & 1 else 0
            elif mode == 2:
                data = 0xFF if value >> i & 1 else 0
            else:
                data = 0xFF if graphics[0] >> i & 1 else 0
            if function == 1:
                data &= latch
            elif function == 2:
                data |= latch
            elif function == 3:
                data ^= latch
            self.planes[i][offset] = data & bits | latch & ~bits

    def _place(self, address: int, sequencer: bytearray, graphics: bytearray) -> tuple[int, int | None]:
        """Return the offset in the planes, and the plane (chain 4) or which half of them (odd/even) it is in."""
        offset = address - self.window.start & PLANE - 1
        if sequencer[4] & 8:
            return offset & ~3, offset & 3
        if not sequencer[4] & 4:
            return offset & ~1, offset & 1
        return offset, None
