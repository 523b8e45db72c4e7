"""Guest-physical memory of the Python engine: regions, and pages seen as arrays of 1, 2, 4 and 8 byte cells."""

from __future__ import annotations

import mmap
import sys
from bisect import bisect_right
from typing import Final, NamedTuple

from dm.engine.api import MemoryMap, Region, RegionKind

PAGE: Final = 4096

#: One page four times, as unsigned cells of 1, 2, 4 and 8 bytes.  A read or write of one cell is a single host access.
Views = tuple["memoryview[int]", "memoryview[int]", "memoryview[int]", "memoryview[int]"]

if sys.byteorder != "little":  # cells of memoryviews have the host's byte order
    raise ImportError("the Python engine needs a little-endian host")


class Page(NamedTuple):
    """A page that has backing memory (RAM, ROM, FIRMWARE): its views, and where its bytes are in that memory."""

    kind: RegionKind
    views: Views
    memory: mmap.mmap | bytearray
    start: int


class GuestMemory:
    """The regions of one :class:`MemoryMap`."""

    def __init__(self, memory: MemoryMap) -> None:
        self.regions = memory.regions
        self.a20_mask = -1 if memory.a20 else ~(1 << 20)
        self._starts = [r.gpa for r in memory.regions]
        self._pages: dict[int, Page | None] = {}
        self._exported: list[memoryview[int]] = []

    def region(self, physical: int) -> Region | None:
        """Return the region that covers a guest-physical address, None for a hole."""
        i = bisect_right(self._starts, physical) - 1
        if i < 0:
            return None
        found = self.regions[i]
        return found if physical < found.gpa + found.size else None

    def kind(self, physical: int) -> RegionKind:
        """Return how an address answers."""
        found = self.region(physical)
        return found.kind if found else RegionKind.HOLE

    def page(self, number: int) -> Page | None:
        """Return the page with this number (address >> 12) if it has backing memory."""
        try:
            return self._pages[number]
        except KeyError:
            page = self._pages[number] = self._open(number)
            return page

    def _open(self, number: int) -> Page | None:
        region = self.region(number * PAGE)
        if region is None or region.memory is None:
            return None
        start = region.offset + number * PAGE - region.gpa
        whole = memoryview(region.memory)
        part = whole[start : start + PAGE]
        views: Views = (part, part.cast("H"), part.cast("I"), part.cast("Q"))
        self._exported += (*views, whole)
        return Page(region.kind, views, region.memory, start)

    def load(self, page: Page, offset: int, size: int) -> int:
        """Return ``size`` bytes inside a page; one host access when aligned."""
        if size in (1, 2, 4, 8) and offset % size == 0:
            return page.views[size.bit_length() - 1][offset // size]
        return int.from_bytes(page.views[0][offset : offset + size], "little")

    def store(self, page: Page, offset: int, size: int, value: int) -> None:
        """Store ``size`` bytes inside a page; one host access when aligned."""
        if size in (1, 2, 4, 8) and offset % size == 0:
            page.views[size.bit_length() - 1][offset // size] = value
        else:
            page.views[0][offset : offset + size] = value.to_bytes(size, "little")

    def close(self) -> None:
        """Release all backing memory, so that its owner can unmap it."""
        self._pages.clear()
        for view in self._exported:
            view.release()
        self._exported.clear()
