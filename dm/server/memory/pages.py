"""RAM carried in messages: blocks that stay with the shim, and the daemon's copies of their pages.

A page is fetched when the guest first touches it.  What the guest has changed goes back byte by byte with the next
exchange, so that two sides that write to different bytes of one page do not disturb each other.  Pages that the shim
reports as changed on its side are fetched again.

The engines know nothing of this: a missing page is a hole in their map, and the access a question, which is answered
from the page once it has arrived.
"""

from __future__ import annotations

import mmap
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from dm.engine import api
from dm.protocol import schema
from dm.protocol.schema import Patch

PAGE: Final = 4096
#: A page of a block: the block's number and the page's offset in it.
PageAddress: TypeAlias = tuple[int, int]
#: Most bytes of consecutive pages to fetch at once.
WINDOW: Final = 16 * PAGE
#: Most messages with patches to remember until the shim has applied them; what is forgotten is sent again.
_MOST_IN_FLIGHT: Final = 2 * schema.MAX_VCPUS

_THERE: Final = re.compile(rb"\x01+", re.DOTALL)
_DIFFERENT: Final = re.compile(rb"[^\x00]+", re.DOTALL)


def differences(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the bytes of ``new`` that differ from ``old``; both have the same length."""
    if old != new:
        both = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
        yield from (found.span() for found in _DIFFERENT.finditer(both.to_bytes(len(old), "little")))


class CopiedBlock:
    """The daemon's copy of one block.

    ``memory`` is what the guest uses.  Beside it there are two images: what has been sent to the shim, and what the
    shim is known to have; they differ while patches are on their way.
    """

    def __init__(self, number: int, size: int) -> None:
        """Create it without any page.  ``number`` is the shim's; ``size`` in bytes, a multiple of 4096."""
        self.number = number
        self.memory, self._sent, self._known = (mmap.mmap(-1, size) for _ in range(3))
        for image in (self.memory, self._sent, self._known):
            image.madvise(mmap.MADV_DONTDUMP)
        self._there = bytearray(size // PAGE)
        self._came = bytearray(size // PAGE)  # has been here once: the images are valid
        self._version: dict[int, int] = {}  # of the newest patches that are known to be applied, by page

    def __len__(self) -> int:
        return len(self.memory)

    def has(self, offset: int) -> bool:
        """Return whether the page of this byte is here."""
        return bool(self._there[offset // PAGE])

    def parts(self, region: api.Region) -> Iterator[api.Region]:
        """Yield the parts of a region of this block that are here."""
        first, count = region.offset // PAGE, region.size // PAGE
        for found in _THERE.finditer(self._there, first, first + count):
            at = (found.start() - first) * PAGE
            size = (found.end() - found.start()) * PAGE
            yield replace(region, gpa=region.gpa + at, size=size, memory=self.memory, offset=region.offset + at)

    def missing(self, offset: int, low: int, high: int) -> tuple[int, int]:
        """Return (start, end) of the pages around ``offset`` to fetch, within ``low`` and ``high``."""
        low = max(low, offset // WINDOW * WINDOW) // PAGE
        high = min(high, offset // WINDOW * WINDOW + WINDOW) // PAGE
        start = self._there.rfind(b"\x01", low, offset // PAGE) + 1 or low
        end = self._there.find(b"\x01", offset // PAGE, high)
        return start * PAGE, (high if end < 0 else end) * PAGE

    def _own(self, at: int) -> list[tuple[int, bytes]]:
        """Return (offset in the page, bytes) the guest has changed that the shim is not known to have."""
        end = at + PAGE
        now, sent, known = self.memory[at:end], self._sent[at:end], self._known[at:end]
        if now == sent == known:
            return []
        number = int.from_bytes(now, "little")
        both = (number ^ int.from_bytes(sent, "little")) | (number ^ int.from_bytes(known, "little"))
        spans = (found.span() for found in _DIFFERENT.finditer(both.to_bytes(PAGE, "little")))
        return [(start, now[start:end]) for start, end in spans]

    def fill(self, at: int, page: bytes) -> None:
        """Take a page from the shim; bytes that the guest has changed and the shim does not have yet are kept."""
        end = at + PAGE
        image, sent = bytearray(page), bytearray(page)
        if self._came[at // PAGE]:
            before = self._sent[at:end]
            for start, own in self._own(at):
                image[start : start + len(own)] = own
                sent[start : start + len(own)] = before[start : start + len(own)]
        # Other vCPUs may be storing here: touch nothing but what has changed.
        for start, stop in differences(self.memory[at:end], bytes(image)):
            self.memory[at + start : at + stop] = image[start:stop]
        self._known[at:end], self._sent[at:end] = page, bytes(sent)
        self._came[at // PAGE] = self._there[at // PAGE] = 1

    def drop(self, offset: int, end: int) -> bool:
        """Have pages fetched again; return whether one of them was here."""
        first, last = offset // PAGE, end // PAGE
        there = self._there.find(b"\x01", first, last) >= 0
        self._there[first:last] = bytes(last - first)
        return there

    def changes(self, at: int) -> list[Patch]:
        """Return what the shim is not known to have of a page."""
        if not self._came[at // PAGE]:
            return []
        return [Patch(self.number, at + start, data) for start, data in self._own(at)]

    def sent(self, patches: Iterable[Patch]) -> None:
        """Record that these changes are on their way."""
        for patch in patches:
            self._sent[patch.offset : patch.offset + len(patch.data)] = patch.data

    def dirty(self) -> Iterator[int]:
        """Yield the offsets of all pages of which the shim may lack something."""
        for found in _THERE.finditer(self._came):
            for low in range(found.start() * PAGE, found.end() * PAGE, WINDOW):
                high = min(low + WINDOW, found.end() * PAGE)
                if self.memory[low:high] != self._known[low:high] or self._sent[low:high] != self._known[low:high]:
                    yield from range(low, high, PAGE)

    def applied(self, patch: Patch, version: int) -> None:
        """Record that the shim has applied a patch, or a newer one."""
        page = patch.offset // PAGE
        if version >= self._version.get(page, 0):
            self._version[page] = version
            self._known[patch.offset : patch.offset + len(patch.data)] = patch.data


@dataclass(frozen=True, slots=True)
class Want:
    """Pages to ask the shim for: ``size`` bytes from ``offset`` in ``block`` on."""

    block: CopiedBlock
    offset: int
    size: int


class PageCache:
    """A session's blocks that are carried in messages, as in its newest map.  Callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[int, CopiedBlock] = {}  # by number
        self._starts: list[int] = []
        self._regions: list[tuple[api.Region, CopiedBlock]] = []
        self._version = 0
        self._flight: dict[int, list[Patch]] = {}  # patches not known to be applied, by version

    def add(self, block: CopiedBlock) -> None:
        """Make a block known."""
        with self._lock:
            self._blocks[block.number] = block

    def use(self, regions: Iterable[tuple[api.Region, CopiedBlock]]) -> None:
        """Install a new map: its regions of blocks carried in messages, in order."""
        with self._lock:
            self._regions = list(regions)
            self._starts = [region.gpa for region, _ in self._regions]

    @property
    def used(self) -> bool:
        """Whether there are such blocks."""
        return bool(self._blocks)

    def forget(self, block: CopiedBlock) -> None:
        """Release a block that is in no map."""
        with self._lock:
            self._blocks.pop(block.number, None)

    def _at(self, gpa: int) -> tuple[api.Region, CopiedBlock] | None:
        at = bisect_right(self._starts, gpa) - 1
        if at < 0:
            return None
        region, block = self._regions[at]
        return (region, block) if gpa < region.gpa + region.size else None

    def want(self, gpa: int, write: bool) -> Want | None:
        """Return what to ask for so that ``gpa`` can be read or written; None if it is in no such region.

        ``size`` is 0 if its page is here.  A write to ROM is the shim's business like any other.
        """
        with self._lock:
            found = self._at(gpa)
            if found is None or (write and found[0].kind is not api.RegionKind.RAM):
                return None
            region, block = found
            offset = region.offset + gpa - region.gpa
            if block.has(offset):
                return Want(block, offset, 0)
            start, end = block.missing(offset, region.offset, region.offset + region.size)
            return Want(block, start, end - start)

    def firmware(self) -> Want | None:
        """Return pages of firmware regions that have to be fetched before anything runs: executing them ends a run."""
        with self._lock:
            for region, block in self._regions:
                if region.kind is api.RegionKind.FIRMWARE:
                    for offset in range(region.offset, region.offset + region.size, PAGE):
                        if not block.has(offset):
                            start, end = block.missing(offset, region.offset, region.offset + region.size)
                            return Want(block, start, end - start)
        return None

    def fill(self, want: Want, data: bytes) -> None:
        """Take the pages that were asked for; those that another vCPU has fetched meanwhile are left alone."""
        with self._lock:
            for at in range(0, want.size, PAGE):
                if not want.block.has(want.offset + at):
                    want.block.fill(want.offset + at, data[at : at + PAGE])

    def drop(self, ranges: Iterable[schema.PageRange]) -> bool:
        """Have changed pages fetched again; return whether one of them was here.  Unknown ones are ignored."""
        dropped = False
        with self._lock:
            for pages in ranges:
                block = self._blocks.get(pages.ram)
                if block is not None:
                    end = min((pages.first + pages.count) * PAGE, len(block))
                    dropped |= block.drop(min(pages.first * PAGE, end), end)
        return dropped

    def places(self, used: api.MemoryMap, pages: Iterable[int]) -> set[PageAddress]:
        """Return where these pages (gpa >> 12) of the ``used`` map are in blocks carried in messages."""
        found: set[PageAddress] = set()
        starts = [region.gpa for region in used.regions]
        with self._lock:
            blocks = {id(block.memory): block for block in self._blocks.values()}
            for page in pages:
                gpa = page * PAGE
                at = bisect_right(starts, gpa) - 1
                if at < 0:
                    continue
                region = used.regions[at]
                block = blocks.get(id(region.memory))
                if block is not None and gpa < region.gpa + region.size:
                    found.add((block.number, region.offset + gpa - region.gpa))
        return found

    def dirty(self) -> set[PageAddress]:
        """Return all pages of which the shim may lack something, whoever has written them."""
        with self._lock:
            return {(block.number, at) for block in self._blocks.values() for at in block.dirty()}

    def collect(self, places: Iterable[PageAddress]) -> tuple[list[Patch], int, set[PageAddress]]:
        """Return what the shim lacks of these pages, as much as fits into a message, its version, and what is left."""
        made: list[Patch] = []
        left = sorted(places)
        size = taken = 0
        with self._lock:
            for number, at in left:
                block = self._blocks.get(number)
                if block is not None:
                    new = block.changes(at)
                    size += sum(len(patch.data) for patch in new)
                    if len(made) + len(new) > schema.MAX_PATCHES or size > schema.MAX_PATCH_DATA:
                        break
                    block.sent(new)
                    made += new
                taken += 1
            if made:
                self._version += 1
                self._flight[self._version] = made
                if len(self._flight) > _MOST_IN_FLIGHT:  # a shim that never reports what it has applied
                    del self._flight[next(iter(self._flight))]
            return made, self._version if made else 0, set(left[taken:])

    def applied(self, version: int) -> None:
        """The shim has applied all patches up to this version."""
        with self._lock:
            for done in [number for number in self._flight if number <= version]:
                for patch in self._flight.pop(done):
                    block = self._blocks.get(patch.ram)
                    if block is not None:
                        block.applied(patch, done)
