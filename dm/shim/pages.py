"""RAM carried in messages, the shim's side: RAM that the daemon cannot map, whose pages travel in messages."""

from __future__ import annotations

import mmap
from typing import Final

from dm.protocol.schema import PageRange

PAGE: Final = 4096


class Kept:
    """A block that stays here, and the copies that the daemon has.

    Anyone may change ``view`` at any time: :meth:`changed` finds changes by comparing, so nobody has to report them.
    """

    def __init__(self, view: mmap.mmap | bytearray) -> None:
        """Size must be a positive multiple of 4096, else ValueError."""
        if not len(view) or len(view) % PAGE:
            raise ValueError(f"RAM size is {len(view):#x}, a positive multiple of {PAGE} is needed")
        self.view = view
        self._known: dict[int, bytearray] = {}
        self._versions: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.view)

    def forget(self) -> None:
        """Forget what the daemon has, for a new daemon."""
        self._known.clear()
        self._versions.clear()

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes for the daemon, whole pages; ValueError when they do not lie in the block."""
        if offset % PAGE or size % PAGE or offset + size > len(self.view):
            raise ValueError(f"{size:#x} bytes from {offset:#x} on are not whole pages of a block of {len(self):#x}")
        data = bytes(self.view[offset : offset + size])
        for at in range(0, size, PAGE):
            self._known[(offset + at) // PAGE] = bytearray(data[at : at + PAGE])
        return data

    def patch(self, offset: int, data: bytes, version: int) -> None:
        """Apply bytes that the guest has changed, unless the page has had newer ones, which contain them.

        ValueError when they do not lie in one page of the block.
        """
        end = offset % PAGE + len(data)
        if end > PAGE or offset + len(data) > len(self.view):
            raise ValueError(f"{len(data)} bytes from {offset:#x} on do not lie in one page of the block")
        if version < self._versions.get(offset // PAGE, 0):
            return
        self._versions[offset // PAGE] = version
        self.view[offset : offset + len(data)] = data
        if offset // PAGE in self._known:
            self._known[offset // PAGE][offset % PAGE : end] = data

    def changed(self, number: int) -> list[PageRange]:
        """Return the pages of block ``number`` that have changed here since the daemon got them, for it to drop."""
        view = self.view
        found: list[PageRange] = []
        for page in sorted(self._known):
            if view[page * PAGE : (page + 1) * PAGE] != self._known[page]:
                del self._known[page]
                if found and found[-1].first + found[-1].count == page:
                    found[-1].count += 1
                else:
                    found.append(PageRange(number, page, 1))
        return found
