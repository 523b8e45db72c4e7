"""The journal of one instruction: every input it has had, and the stores it wants to make.

An instruction that asks a question is abandoned, and started over once the answer is there; the journal gives it the
same inputs again.  Stores are withheld until the instruction is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from dm.engine.api import ExitReason, RegionKind
from dm.engine.python_engine.guest_memory import PAGE, GuestMemory
from dm.engine.python_engine.signals import Again, Hypervisor, Mismatch, Question, Unsupported

#: Most inputs and stores of one instruction; no guest can make it grow further.
MOST_INPUTS: Final = 1024
MOST_STORES: Final = 512


class Input(Enum):
    """Kinds of input."""

    TRANSLATE = auto()
    LOAD = auto()
    SWAP = auto()
    STORE = auto()
    PORT_IN = auto()
    PORT_OUT = auto()
    MSR_READ = auto()
    MSR_WRITE = auto()
    COPY = auto()
    TSC = auto()
    RANDOM = auto()
    COMMIT = auto()


REASONS: Final = {
    Input.LOAD: ExitReason.MMIO_READ,
    Input.STORE: ExitReason.MMIO_WRITE,
    Input.PORT_IN: ExitReason.PORT_IN,
    Input.PORT_OUT: ExitReason.PORT_OUT,
    Input.MSR_READ: ExitReason.MSR_READ,
    Input.MSR_WRITE: ExitReason.MSR_WRITE,
    Input.COPY: ExitReason.MEMORY_COPY,
}


@dataclass(slots=True)
class JournalEntry:
    """One input.  ``data`` is the answer as it came, for blocks; ``fault`` means it was refused.

    A copy reads from ``address`` on and writes from ``value`` on.
    """

    kind: Input
    address: int
    size: int
    value: int = 0
    count: int = 1
    data: bytes = b""
    fault: bool = False


@dataclass(slots=True)
class Withheld:
    """A store to come: ``data`` at ``physical``, in elements of ``element`` bytes, inside one page.

    ``locked``: the entry with the old value, which memory must still hold.
    """

    physical: int
    data: bytes
    element: int
    locked: JournalEntry | None = None


@dataclass(slots=True)
class Journal:
    """Inputs, the position of the replay, and the withheld stores.

    What needs an answer from outside raises Question, which abandons the instruction; a first access that is not the
    announced one raises Mismatch; memory that is the hypervisor's, Hypervisor; more inputs or stores than there is room
    for, or a replay that goes another way, Unsupported.
    """

    entries: list[JournalEntry] = field(default_factory=list)
    cursor: int = 0
    stores: list[Withheld] = field(default_factory=list)
    pending: JournalEntry | None = None
    #: Address that the first instruction must touch; None if it has touched it, or need not.
    mmio: int | None = None

    def clear(self) -> None:
        """Forget everything: the next instruction."""
        self.entries.clear()
        self.rewind()

    def rewind(self) -> None:
        """Start the instruction over."""
        self.cursor = 0
        self.stores.clear()
        self.pending = None

    def replay(self, kind: Input, address: int, size: int) -> JournalEntry | None:
        """Return the next known input, None when it is a new one.

        Raises:
            Unsupported: the instruction asks for something else than last time (a bug in the engine).
        """
        if self.cursor >= len(self.entries):
            return None
        known = self.entries[self.cursor]
        if (known.kind, known.address, known.size) != (kind, address, size):
            raise Unsupported("DIVERGED")
        self.cursor += 1
        return known

    @property
    def ahead(self) -> JournalEntry | None:
        """The input that comes next in a replay."""
        return self.entries[self.cursor] if self.cursor < len(self.entries) else None

    def record(self, kind: Input, address: int, size: int, value: int) -> JournalEntry:
        """Add an input."""
        if len(self.entries) >= MOST_INPUTS:
            raise Unsupported("TOO_MANY_ACCESSES")
        made = JournalEntry(kind, address, size, value)
        self.entries.append(made)
        self.cursor = len(self.entries)
        return made

    def ask(
        self,
        kind: Input,
        address: int,
        size: int,
        count: int = 1,
        data: bytes = b"",
        *,
        down: bool = False,
        target: int = 0,
    ) -> JournalEntry:
        """Return the outside's answer, replayed or, by abandoning the instruction, asked for."""
        known = self.replay(kind, address, size)
        if known is not None:
            return known
        if len(self.entries) >= MOST_INPUTS:
            raise Unsupported("TOO_MANY_ACCESSES")
        # A replay has no address to look for: the first question was the right one.
        if self.mmio is not None and kind in (Input.LOAD, Input.STORE, Input.COPY):
            if not address <= self.mmio < address + size:
                raise Mismatch(address)
            self.mmio = None
        self.pending = JournalEntry(kind, address, size, target, count)
        raise Question(REASONS[kind], address, size, count, data, down, target)

    def answer(self, data: bytes, fault: bool) -> None:
        """Add the answer to the question that :meth:`ask` raised."""
        assert self.pending is not None
        made = self.pending
        made.data, made.fault = data, fault
        if made.count == 1:
            made.value = int.from_bytes(data, "little")
        self.entries.append(made)

    def answer_copy(self, count: int) -> None:
        """Add that ``count`` elements have been copied; 0: none, so that the instruction asks again."""
        assert self.pending is not None
        if count:
            self.pending.count = count
            self.entries.append(self.pending)

    # memory

    def load(self, memory: GuestMemory, physical: int, size: int) -> int:
        """Return ``size`` bytes inside one page, from memory or a device, withheld stores included."""
        page = memory.page(physical // PAGE)
        ahead = self.ahead
        if size not in (1, 2, 4, 8) and (ahead.size == 1 if ahead else page is None):
            # A device sees the bytes of a split access one by one.
            return sum(self.load(memory, physical + n, 1) << (8 * n) for n in range(size))
        if ahead is not None:
            known = self.replay(Input.LOAD, physical, size)
            assert known is not None
            value = known.value
        elif page is not None:
            value = self.record(Input.LOAD, physical, size, memory.load(page, physical % PAGE, size)).value
        elif memory.kind(physical) is RegionKind.HYPERVISOR:
            raise Hypervisor(physical)
        else:
            value = self.ask(Input.LOAD, physical, size).value
        return self._forward(physical, size, value) if self.stores else value

    def _forward(self, physical: int, size: int, value: int) -> int:
        for made in self.stores:
            if made.physical < physical + size and physical < made.physical + len(made.data):
                image = bytearray(value.to_bytes(size, "little"))
                for n in range(size):
                    if 0 <= physical + n - made.physical < len(made.data):
                        image[n] = made.data[physical + n - made.physical]
                value = int.from_bytes(image, "little")
        return value

    def withhold(self, memory: GuestMemory, physical: int, data: bytes, element: int) -> Withheld:
        """Make a store to come."""
        if memory.kind(physical) is RegionKind.HYPERVISOR:
            raise Hypervisor(physical)
        if len(self.stores) >= MOST_STORES:
            raise Unsupported("TOO_MANY_ACCESSES")
        made = Withheld(physical, data, element)
        self.stores.append(made)
        return made

    def commit(self, memory: GuestMemory, written: set[int], posted: list[tuple[int, bytes]]) -> None:
        """Make all withheld stores, device writes first; pages and posted writes are noted.

        Raises:
            Question, Again, Mismatch: nothing in memory has changed.
        """
        for made in self.stores:
            kind = memory.kind(made.physical)
            if kind is RegionKind.COALESCED:
                self._touch(made)
            elif kind is not RegionKind.RAM:
                for n, piece in _pieces(made):
                    self.ask(Input.STORE, made.physical + n, len(piece), 1, piece)
        if self.mmio is not None:
            raise Mismatch
        for made in self.stores:
            self._compare(memory, made)
        for made in self.stores:
            page = memory.page(made.physical // PAGE)
            if page is not None and page.kind is RegionKind.RAM:
                written.add(made.physical // PAGE)
                at = made.physical % PAGE
                for n, piece in _pieces(made) if made.element in (1, 2, 4, 8) else [(0, made.data)]:
                    memory.store(page, at + n, len(piece), int.from_bytes(piece, "little"))
            elif memory.kind(made.physical) is RegionKind.COALESCED:
                posted += [(made.physical + n, piece) for n, piece in _pieces(made)]
        self.stores.clear()

    def _touch(self, made: Withheld) -> None:
        if self.mmio is not None and made.physical <= self.mmio < made.physical + len(made.data):
            self.mmio = None

    def _compare(self, memory: GuestMemory, made: Withheld) -> None:
        page = memory.page(made.physical // PAGE)
        if made.locked is None or page is None or page.kind is not RegionKind.RAM:
            return
        now = memory.load(page, made.physical % PAGE, len(made.data))
        if now != made.locked.value:
            made.locked.value = now
            raise Again


def _pieces(made: Withheld) -> list[tuple[int, bytes]]:
    """Cut a store into single accesses: elements, or bytes where its size is no power of two."""
    size = made.element if made.element in (1, 2, 4, 8) else 1
    return [(n, made.data[n : n + size]) for n in range(0, len(made.data), size)]
