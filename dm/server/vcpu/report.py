"""What a run has to report at its next exchange: posted writes, written pages, TLB flushes, work done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dm.engine.api import Exit
from dm.protocol import schema
from dm.protocol.schema import Posted
from dm.server.memory.pages import PageAddress

#: Most bytes of posted writes that are merged into one record.
MERGE: Final = 4096


class RunReport:
    """Collects what exits report until an exchange carries it."""

    def __init__(self) -> None:
        self.steps = 0
        self.instructions = 0
        self.tlb_flush = False
        self._posted: list[tuple[int, int, bytearray]] = []  # (first gpa, size of each write, bytes)
        self._bytes = 0  # of all posted writes
        self.pages: set[int] = set()  # written
        self._unread: set[int] = set()  # pages that are still to be looked up
        self.places: set[PageAddress] = set()  # pages of RAM carried in messages to search for changes

    def add(self, result: Exit) -> None:
        """Add what one return of the engine reports."""
        self.steps += result.steps
        self.instructions += result.instructions
        self.tlb_flush |= result.tlb_flush
        if result.pages:
            self.touch(result.pages)
        if result.posted:
            self._merge(result.posted)

    def touch(self, pages: Iterable[int]) -> None:
        """Record that these pages (gpa >> 12) have been written."""
        self.pages.update(pages)
        self._unread.update(pages)

    def note(self, places: Callable[[Iterable[int]], set[PageAddress]] | None) -> None:
        """Look up where the written pages are in RAM carried in messages; None: there is none."""
        if self._unread:
            if places is not None:
                self.places |= places(self._unread)
            self._unread.clear()

    def _merge(self, writes: Iterable[tuple[int, bytes]]) -> None:
        """Merge consecutive writes of one size: a scrolled text screen is one record, not two thousand."""
        posted = self._posted
        for gpa, data in writes:
            self._bytes += len(data)
            if posted:
                first, size, run = posted[-1]
                if size == len(data) and first + len(run) == gpa and len(run) + size <= MERGE:
                    run += data
                    continue
            posted.append((gpa, len(data), bytearray(data)))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to deliver or look up: most runs touch few pages, and most exchanges none."""
        return not (self._unread or self.pages or self._posted or self.places)

    @property
    def waiting(self) -> bool:
        """Whether posted writes or changed memory wait for an exchange."""
        return bool(self._posted or self.places)

    @property
    def full(self) -> bool:
        """Whether more would not fit into one exchange."""
        return (
            len(self._posted) > schema.MAX_POSTED or self._bytes > schema.MAX_DATA or len(self.pages) > schema.MAX_PAGES
        )

    def take(self) -> tuple[list[Posted], list[int], bool]:
        """Return and forget what fits into one exchange: posted writes, pages in order, TLB flush."""
        flush, self.tlb_flush = self.tlb_flush, False
        if not (self._posted or self.pages):
            return [], [], flush
        fit = size = 0
        for _, _, data in self._posted[: schema.MAX_POSTED]:
            if size + len(data) > schema.MAX_DATA:
                break
            size += len(data)
            fit += 1
        posted, self._posted = self._posted[:fit], self._posted[fit:]
        self._bytes -= size
        pages = sorted(self.pages)
        pages, self.pages = pages[: schema.MAX_PAGES], set(pages[schema.MAX_PAGES :])
        return [Posted(gpa, bytes(data), size) for gpa, size, data in posted], pages, flush
