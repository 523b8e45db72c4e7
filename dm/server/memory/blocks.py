"""Guest RAM of a session: blocks that are mapped, and memory maps made of them."""

from __future__ import annotations

import mmap
import os
from typing import Final

from dm.engine import api
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass
from dm.server.memory import guard
from dm.server.memory.pages import CopiedBlock

PAGE: Final = 4096


def _refuse(text: str, expected: str, field: str = "") -> ProtocolError:
    return ProtocolError(ErrorClass.BAD_MEMORY, text, expected, field)


class RamBlocks:
    """The RAM blocks of one session, by the numbers its shim gave them."""

    def __init__(self, most: int = 1 << 64) -> None:
        """``most`` bytes in all."""
        self._blocks: dict[int, mmap.mmap | CopiedBlock] = {}
        self._most = most

    def add(self, number: int, fd: int, size: int) -> None:
        """Map ``size`` bytes of ``fd`` shared and writable; the caller keeps the descriptor.

        Raises:
            ProtocolError: number in use, too many blocks, wrong size, or it cannot be mapped.
        """
        self._check(number, size)
        there = os.fstat(fd).st_size
        if size == 0 or size % PAGE or size > there:
            raise _refuse(f"size is {size:#x}", f"a positive multiple of 4096, at most the file's {there:#x}", "size")
        try:
            block = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except (OSError, ValueError, OverflowError) as error:
            raise _refuse(f"ram {number} cannot be mapped: {error}", "a file that can be mapped", "ram") from None
        block.madvise(mmap.MADV_DONTDUMP)  # our core dumps must not contain the guest's secrets
        guard.watch(block, f"RAM block {number}")
        self._blocks[number] = block

    def add_by_messages(self, number: int, size: int) -> CopiedBlock:
        """Register a block that stays with the shim, and return it; its pages come in messages when needed.

        Raises:
            ProtocolError: number in use, too many blocks, or wrong size.
        """
        self._check(number, size)
        room = schema.MAX_MESSAGE_RAM - sum(
            len(block) for block in self._blocks.values() if isinstance(block, CopiedBlock)
        )
        if size == 0 or size % PAGE or size > room:
            raise _refuse(f"size is {size:#x}", f"a positive multiple of 4096, at most {room:#x}", "size")
        block = self._blocks[number] = CopiedBlock(number, size)
        return block

    def _check(self, number: int, size: int) -> None:
        if number == 0 or number in self._blocks:
            raise _refuse(f"ram {number} is {'reserved' if number == 0 else 'in use'}", "a new number, not 0", "ram")
        if len(self._blocks) >= schema.MAX_RAM_BLOCKS:
            raise ProtocolError(ErrorClass.LIMIT, "too many RAM blocks", f"at most {schema.MAX_RAM_BLOCKS}", "ram")
        used = sum(len(block) for block in self._blocks.values())
        if size > self._most - used:
            expected = f"at most {self._most - used:#x} more of {self._most:#x} in all (--max-ram)"
            raise ProtocolError(ErrorClass.LIMIT, f"size is {size:#x}", expected, "size")

    def remove(self, number: int, current: GuestMap) -> mmap.mmap | CopiedBlock:
        """Forget a block and return it.

        Raises:
            ProtocolError: unknown, or the current map uses it.
        """
        block = self._blocks.get(number)
        if block is None:
            raise _refuse(f"ram {number} is not known", "a number given in a ram message", "ram")
        if current.uses(block):
            raise _refuse(f"ram {number} is in use by the memory map", "a map without it first", "ram")
        del self._blocks[number]  # unmapped when the last vCPU has released its old map
        return block

    def build(self, wire: schema.Map) -> GuestMap:
        """Return a memory map of these blocks.

        Raises:
            ProtocolError: an unknown block, or the regions are not as :class:`dm.engine.api.MemoryMap` asks.
        """
        regions: list[tuple[api.Region, CopiedBlock | None]] = []
        for index, region in enumerate(wire.regions):
            kind = api.RegionKind[region.kind.name]
            backing: mmap.mmap | CopiedBlock | None = None
            if kind in (api.RegionKind.RAM, api.RegionKind.ROM, api.RegionKind.FIRMWARE):
                backing = self._blocks.get(region.ram)
                if backing is None:
                    raise _refuse(
                        f"ram {region.ram} is not known", "a number given in a ram message", f"regions[{index}].ram"
                    )
            offset = region.offset if backing is not None else 0
            block = backing if isinstance(backing, CopiedBlock) else None
            memory = backing.memory if isinstance(backing, CopiedBlock) else backing
            if block is not None and offset % PAGE:
                where = f"regions[{index}].offset"
                raise _refuse(f"offset {offset:#x} in a block by messages", "a multiple of 4096", where)
            regions.append((api.Region(region.gpa, region.size, kind, memory, offset), block))
        try:
            whole = api.MemoryMap(wire.generation, tuple(region for region, _ in regions), wire.a20)
        except ValueError as error:
            what, _, expected = str(error).partition(": ")
            raise _refuse(f"{what} is not acceptable", expected, "regions") from None
        return GuestMap(whole, regions)


class GuestMap:
    """A memory map as the shim sent it; ``engine`` is what engines get, without pages that have not arrived."""

    def __init__(self, whole: api.MemoryMap, regions: list[tuple[api.Region, CopiedBlock | None]]) -> None:
        """``regions`` are those of ``whole``, each with its block if that is carried in messages."""
        self._whole = whole
        self._regions = regions
        self.paged = [(region, block) for region, block in regions if block is not None]
        self.engine = whole
        self.renew()

    def renew(self) -> None:
        """Rebuild ``engine``: pages have come or gone."""
        if self.paged:
            seen = [
                part for region, block in self._regions for part in ([region] if block is None else block.parts(region))
            ]
            self.engine = api.MemoryMap(self._whole.generation, tuple(seen), self._whole.a20)

    def uses(self, block: mmap.mmap | CopiedBlock) -> bool:
        """Return whether a region is made of this block."""
        memory = block.memory if isinstance(block, CopiedBlock) else block
        return any(region.memory is memory for region, _ in self._regions)
