"""REP MOVS, STOS and LODS between memory and a device, and MOVS between devices: many elements in one question.

What is moved at once lies in one page on each side, inside the segments, the budget and the count, and nothing could
happen between the elements: the memory side is proven readable or writable, and a block ends with the element that
changes the instruction itself.  In all other cases the result is 0, and the instruction moves one element as usual.  On
replay the journal says what was decided, since the budget has changed.

From device to device the outside reads and writes element by element (if it can), so no data comes here.
"""

from __future__ import annotations

from typing import Final

from dm.engine.api import RegionKind
from dm.engine.python_engine.access import Span
from dm.engine.python_engine.guest_memory import PAGE
from dm.engine.python_engine.journal import Input
from dm.engine.python_engine.ports import Ports
from dm.engine.python_engine.signals import Unsupported
from dm.engine.python_engine.translate import RULES

_NO_DEVICE: Final = {
    0: (RegionKind.RAM, RegionKind.ROM, RegionKind.FIRMWARE, RegionKind.HYPERVISOR),
    1: (RegionKind.RAM, RegionKind.COALESCED, RegionKind.HYPERVISOR),
}


class Strings(Ports):
    """Block primitives of MOVS, STOS and LODS."""

    #: The outside copies from device to device itself.
    copies = False

    def _may_block(self, wanted: int) -> bool:
        return self.recording and wanted > 1 and bool(RULES.undisturbed(self))

    def _is_device(self, physical: int, write: int) -> bool:
        return self.memory.kind(physical) not in _NO_DEVICE[write]

    def _is_plain(self, physical: int, write: int) -> bool:
        page = self.memory.page(physical // PAGE)
        return page is not None and (not write or page.kind is RegionKind.RAM)

    def _is_outside(self, physical: int) -> bool:
        """Whether elements written there go to the outside anyway, posted or asked, so that it may copy them itself."""
        return self.memory.kind(physical) not in (RegionKind.RAM, RegionKind.HYPERVISOR)

    @property
    def _asked(self) -> int:
        """The question that this instruction has had here: its elements for a block, 0 for none yet, 1 for others."""
        ahead = self.journal.ahead
        return ahead.count if ahead is not None else 0

    def _replay_copy(self, source: int, target: int, size: int) -> int:
        """Return how many elements the outside has copied, 0 when it has not been asked here."""
        ahead = self.journal.ahead
        if ahead is None or ahead.kind is not Input.COPY:
            return 0
        if self.journal.ask(Input.COPY, source, size).value != target:
            raise Unsupported("DIVERGED")
        self.moved = ahead.count
        return ahead.count

    def move_block(
        self, to_seg: int, to: int, from_seg: int, offset: int, wanted: int, down: int, wide: int, size: int
    ) -> int:
        """MOVS: return how many elements have been moved, 0 when it is no block."""
        if not self._may_block(wanted):
            return 0
        source = self.data_span(from_seg, offset, size, 0)
        if len(source) > 1:
            return 0
        reads = self._is_device(source[0][0], 0)
        if not self._asked and not reads and not self._is_plain(source[0][0], 0):
            return 0
        target = self.data_span(to_seg, to, size, 1)
        if len(target) > 1:
            return 0
        if n := self._replay_copy(source[0][0], target[0][0], size):
            return n
        if self._asked == 1:
            return 0
        if n := self._asked:
            ahead = self.journal.ahead
            assert ahead is not None
            if ahead.kind is Input.STORE:
                self.journal.ask(Input.STORE, target[0][0], size)
            else:
                data = self.journal.ask(Input.LOAD, source[0][0], size).data
                self._withhold_block(target[0][0], data, down, size)
            self.moved = n
            return n
        copies = reads and self.copies and self._is_outside(target[0][0])
        if not (copies or (self._is_plain(target[0][0], 1) if reads else self._is_device(target[0][0], 1))):
            return 0
        most = self._room(target, to_seg, to, wanted, down, wide, size, 1)
        n = self._room(source, from_seg, offset, most, down, wide, size, 0)
        if reads and not copies:
            n = self._up_to_itself(target[0][0], n, down, size)
        if n < 2:
            return 0
        if copies:
            self.journal.ask(Input.COPY, source[0][0], size, n, down=bool(down), target=target[0][0])
        elif reads:
            self.journal.ask(Input.LOAD, source[0][0], size, n, down=bool(down))
        else:
            data = self._read_elements(source[0][0], n, down, size)
            self.journal.ask(Input.STORE, target[0][0], size, n, data, down=bool(down))
        raise AssertionError("a new question abandons the instruction")

    def fill_block(self, seg: int, offset: int, value: int, wanted: int, down: int, wide: int, size: int) -> int:
        """STOS: return how many elements have been written, 0 when it is no block."""
        n, target = self._one_side(seg, offset, wanted, down, wide, size, 1)
        if n:
            data = value.to_bytes(size, "little") * n
            self.journal.ask(Input.STORE, target[0][0], size, n, data, down=bool(down))
        return n

    def read_block(self, seg: int, offset: int, wanted: int, down: int, wide: int, size: int) -> int:
        """LODS: return how many elements have been read << 32 | the last one, 0 when it is no block."""
        n, source = self._one_side(seg, offset, wanted, down, wide, size, 0)
        if not n:
            return 0
        data = self.journal.ask(Input.LOAD, source[0][0], size, n, down=bool(down)).data
        return n << 32 | int.from_bytes(data[-size:], "little")

    def _one_side(
        self, seg: int, offset: int, wanted: int, down: int, wide: int, size: int, write: int
    ) -> tuple[int, Span]:
        """Return how many elements to ask for, or that were asked for, and where; 0 if it is not a block."""
        if not self._may_block(wanted):
            return 0, []
        span = self.data_span(seg, offset, size, write)
        n = self._asked
        if len(span) > 1 or n == 1:
            return 0, span
        if not n and self._is_device(span[0][0], write):
            n = self._room(span, seg, offset, wanted, down, wide, size, write)
        if n < 2:
            return 0, span
        self.moved = n
        return n, span
