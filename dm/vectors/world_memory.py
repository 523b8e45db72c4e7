"""Guest memory for recorded tests: patched for a case, compared as a whole, restored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dm.engine.api import MemoryMap, Region, RegionKind

#: Bytes at a guest-physical address.
Patch = tuple[int, bytes]

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class MemoryPiece:
    """RAM at a guest-physical address with its content before any case; ``compared`` after one, or not."""

    gpa: int
    content: bytes
    compared: bool = True


class _Ram:
    """One piece: what the guest sees, what it should become, and the background that both are restored to."""

    def __init__(self, piece: MemoryPiece) -> None:
        self.piece = piece
        self.end = piece.gpa + len(piece.content)
        self.live = bytearray(piece.content)
        self.wanted = bytearray(piece.content)


class WorldMemory:
    """All pieces of one world.

    The whole of every compared piece is checked after a case, not only where a change is expected: a stray store is
    found wherever it went.
    """

    def __init__(self, pieces: Iterable[MemoryPiece]) -> None:
        self._pieces = [_Ram(p) for p in sorted(pieces, key=lambda p: p.gpa)]
        self._touched: list[tuple[_Ram, int, int]] = []
        self._as_wanted: list[_Ram] = []

    def map(self) -> MemoryMap:
        """Return the map an engine is given; it stays valid as long as this object."""
        return MemoryMap(
            1, tuple(Region(p.piece.gpa, len(p.live), RegionKind.RAM, memory=p.live) for p in self._pieces)
        )

    def _find(self, address: int, size: int) -> _Ram:
        for ram in self._pieces:
            if ram.piece.gpa <= address and address + size <= ram.end:
                return ram
        raise ValueError(f"{size} bytes at {address:#x} lie outside of the test's memory")

    def _write(self, patches: Iterable[Patch], live: bool) -> None:
        for address, data in patches:
            ram = self._find(address, len(data))
            start = address - ram.piece.gpa
            stop = start + len(data)
            self._touched.append((ram, start, stop))
            ram.wanted[start:stop] = data
            if live:
                ram.live[start:stop] = data

    def load(self, patches: Iterable[Patch]) -> None:
        """Write a case's initial memory.

        Raises:
            ValueError: an address outside of the pieces.
        """
        self._write(patches, live=True)

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes as the guest has them now.

        Raises:
            ValueError: an address outside of the pieces.
        """
        ram = self._find(address, size)
        start = address - ram.piece.gpa
        return bytes(ram.live[start : start + size])

    def differences(self, changes: Iterable[Patch], masks: Mapping[int, int]) -> list[tuple[int, int, int]]:
        """Return (address, byte found, byte expected) wherever memory is not as loaded plus ``changes``.

        ``masks`` gives the bits that count for single addresses; all bits count elsewhere.

        Raises:
            ValueError: an address outside of the pieces.
        """
        self._write(changes, live=False)
        found = []
        for ram in self._pieces:
            if not ram.piece.compared:
                continue
            if ram.live == ram.wanted:
                self._as_wanted.append(ram)
                continue
            for page in range(0, len(ram.live), _PAGE):
                live, wanted = ram.live[page : page + _PAGE], ram.wanted[page : page + _PAGE]
                if live != wanted:
                    start = ram.piece.gpa + page
                    found += [
                        (start + i, a, b)
                        for i, (a, b) in enumerate(zip(live, wanted, strict=True))
                        if (a ^ b) & masks.get(start + i, 0xFF)
                    ]
        return found

    def reset(self) -> None:
        """Restore the background: what was written here, and all of a piece not found to be as expected."""
        for ram, start, stop in self._touched:
            ram.wanted[start:stop] = ram.live[start:stop] = ram.piece.content[start:stop]
        for ram in self._pieces:
            if ram not in self._as_wanted:
                ram.live[:] = ram.piece.content
        self._touched.clear()
        self._as_wanted.clear()
