"""What a run has to report at its next exchange: posted writes, written pages, TLB flushes, work done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dm.engine.api import Exit
from dm.protocol import schema
from dm.protocol.schema import Patch, Posted

#: Longest run of posted writes that is put together, in bytes.
_MERGE: Final = 4096


class Report:
    """Collects what exits say until an exchange takes it along."""

    def __init__(self) -> None:
        self.steps = 0
        self.instructions = 0
        self.tlb_flush = False
        self._posted: list[tuple[int, int, bytearray]] = []  # (first gpa, size of each write, bytes)
        self._bytes = 0  # of all posted writes
        self._pages: set[int] = set()
        self._unread: set[int] = set()  # pages whose changes are still to be looked at
        self._patches: list[Patch] = []
        self._patched = 0  # bytes in all patches

    def add(self, result: Exit) -> None:
        """Take in what one return of the engine reports."""
        self.steps += result.steps
        self.instructions += result.instructions
        self.tlb_flush |= result.tlb_flush
        if result.pages:
            self.touch(result.pages)
        if result.posted:
            self._merge(result.posted)

    def touch(self, pages: Iterable[int]) -> None:
        """Note that these pages (gpa >> 12) have been written."""
        self._pages.update(pages)
        self._unread.update(pages)

    def patch(self, changes: Callable[[Iterable[int]], list[Patch]] | None) -> None:
        """Have looked up what is new in the pages written; None: no memory travels by messages."""
        if self._unread:
            if changes is not None:
                made = changes(sorted(self._unread))
                self._patches += made
                self._patched += sum(len(one.data) for one in made)
            self._unread.clear()

    def take_patches(self) -> list[Patch]:
        """Return and forget what fits into one exchange of what :meth:`patch` has found."""
        if not self._patches:
            return []
        fit = size = 0
        for one in self._patches[: schema.MAX_PATCHES]:
            if size + len(one.data) > schema.MAX_PATCH_DATA:
                break
            size += len(one.data)
            fit += 1
        taken, self._patches = self._patches[:fit], self._patches[fit:]
        self._patched -= size
        return taken

    def _merge(self, writes: Iterable[tuple[int, bytes]]) -> None:
        """Put consecutive writes of one size together: a scrolled text screen is one record, not two thousand."""
        posted = self._posted
        for gpa, data in writes:
            self._bytes += len(data)
            if posted:
                first, size, run = posted[-1]
                if size == len(data) and first + len(run) == gpa and len(run) + size <= _MERGE:
                    run += data
                    continue
            posted.append((gpa, len(data), bytearray(data)))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to deliver or look up: most runs touch few pages, and most exchanges none."""
        return not (self._unread or self._pages or self._posted or self._patches)

    @property
    def waiting(self) -> bool:
        """Whether posted writes or patches wait for an exchange."""
        return bool(self._posted or self._patches)

    @property
    def full(self) -> bool:
        """Whether more would not fit into one exchange."""
        return (
            len(self._posted) > schema.MAX_POSTED
            or self._bytes > schema.MAX_DATA
            or len(self._pages) > schema.MAX_PAGES
            or len(self._patches) > schema.MAX_PATCHES
            or self._patched > schema.MAX_PATCH_DATA
        )

    def take(self) -> tuple[list[Posted], list[int], bool]:
        """Return and forget what fits into one exchange: posted writes, pages in order, TLB flush."""
        flush, self.tlb_flush = self.tlb_flush, False
        if not (self._posted or self._pages):
            return [], [], flush
        fit = size = 0
        for _, _, data in self._posted[: schema.MAX_POSTED]:
            if size + len(data) > schema.MAX_DATA:
                break
            size += len(data)
            fit += 1
        posted, self._posted = self._posted[:fit], self._posted[fit:]
        self._bytes -= size
        pages = sorted(self._pages)
        pages, self._pages = pages[: schema.MAX_PAGES], set(pages[schema.MAX_PAGES :])
        return [Posted(gpa, bytes(data), size) for gpa, size, data in posted], pages, flush
