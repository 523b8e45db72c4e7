"""Ports and model-specific registers: always a question."""

from __future__ import annotations

import contextlib
from typing import Final

from dm.engine.api import RegionKind
from dm.engine.python_engine.access import MemoryAccess, Span
from dm.engine.python_engine.cells import M32
from dm.engine.python_engine.guest_memory import PAGE
from dm.engine.python_engine.journal import Input, JournalEntry
from dm.engine.python_engine.signals import NeedExact
from dm.engine.python_engine.translate import RULES

_ES: Final = 0


def _first_element(to: int, first: int, end: int, n: int, down: int, size: int) -> int:
    """Return the number of the first of ``n`` elements from ``to`` on that touches [first, end), ``n`` if none does."""
    if to >= end if down else to + size <= first:
        return min(n, (to - end) // size + 1 if down else (first - to) // size)
    return n if (to + size <= first if down else to >= end) else 0


class Ports(MemoryAccess):
    """Primitives for IN, OUT, INS, OUTS, RDMSR and WRMSR."""

    #: Steps left in the run: the limit of a block's length.
    left = 0
    #: Elements that the current instruction has moved as a block, else 1.
    moved = 1
    #: Address after the current instruction.
    insn_end = 0

    def _watch(self, port: int, size: int) -> None:
        if not self.recording:
            raise NeedExact
        RULES.port_breakpoints(self, port, size)

    def port_in(self, port: int, size: int) -> int:
        """IN."""
        self._watch(port, size)
        return self.journal.ask(Input.PORT_IN, port, size).value

    def port_out(self, port: int, value: int, size: int) -> None:
        """OUT."""
        self._watch(port, size)
        self.journal.ask(Input.PORT_OUT, port, size, 1, value.to_bytes(size, "little"))

    def _room(self, span: Span, seg: int, offset: int, wanted: int, down: int, wide: int, size: int, write: int) -> int:
        """How many elements from ``offset`` on can be moved at once, inside the budget; 1 at least."""
        n: int = RULES.elements_in_line(self, seg, offset, span[0][0], wanted, down, wide, size, write)
        return max(1, min(n, self.left))

    def _room_in_ram(
        self, span: Span, seg: int, offset: int, wanted: int, down: int, wide: int, size: int, write: int
    ) -> int:
        """The same for memory, 1 elsewhere."""
        if len(span) > 1 or self.memory.kind(span[0][0]) is not RegionKind.RAM:
            return 1
        return self._room(span, seg, offset, wanted, down, wide, size, write)

    def _up_to_itself(self, physical: int, n: int, down: int, size: int) -> int:
        """Cut a block of ``n`` elements to be written from ``physical`` on after the first that changes this code."""
        target = self.memory.page(physical // PAGE)
        if n < 2 or target is None:
            return n
        first = RULES.code_linear(self, self.eip)
        length = self.insn_end - self.eip & M32
        pieces = [(first, min(length, PAGE - first % PAGE))]
        if pieces[0][1] < length:
            pieces.append((first + pieces[0][1] & M32, length - pieces[0][1]))
        to = target.start + physical % PAGE
        for linear, count in pieces:
            with contextlib.suppress(NeedExact):  # code that is not in memory
                page = self.fetchable(linear)
                start = page.start + linear % PAGE
                if page.memory is target.memory:
                    n = min(n, 1 + _first_element(to, start, start + count, n, down, size))
        return n

    def port_in_block(self, port: int, offset: int, wanted: int, down: int, wide: int, size: int) -> int:
        """INS: return how many elements have been moved."""
        span = self.data_span(_ES, offset, size, 1)
        asked = self.journal.ahead
        n = asked.count if asked else self._room_in_ram(span, _ES, offset, wanted, down, wide, size, 1)
        if not asked:
            n = self._up_to_itself(span[0][0], n, down, size)
        if n <= 1:
            self.store_span(span, self.port_in(port, size))
            return 1
        self._withhold_block(span[0][0], self.journal.ask(Input.PORT_IN, port, size, n).data, down, size)
        return n

    def _withhold_block(self, physical: int, data: bytes, down: int, size: int) -> None:
        """Withhold what was read as a block, in the order of the reads."""
        self.moved = len(data) // size
        if down:
            data = b"".join(data[at : at + size] for at in range(len(data) - size, -1, -size))
            physical -= len(data) - size
        self.journal.withhold(self.memory, physical, data, size)

    def port_out_block(self, port: int, seg: int, offset: int, wanted: int, down: int, wide: int, size: int) -> int:
        """OUTS: return how many elements have been moved."""
        span = self.data_span(seg, offset, size, 0)
        asked = self.journal.ahead
        if asked is not None and asked.kind is Input.PORT_OUT:
            self.moved = self.journal.ask(Input.PORT_OUT, port, size).count
            return self.moved
        n = 1 if asked else self._room_in_ram(span, seg, offset, wanted, down, wide, size, 0)
        if n <= 1:
            self.port_out(port, self.load_span(span), size)
            return 1
        self.journal.ask(Input.PORT_OUT, port, size, n, self._read_elements(span[0][0], n, down, size))
        return n

    def _read_elements(self, physical: int, count: int, down: int, size: int) -> bytes:
        """Return elements of one page of memory, in the order of access."""
        page = self.memory.page(physical // PAGE)
        assert page is not None
        at = physical % PAGE
        elements = [self.memory.load(page, at + (-k if down else k) * size, size) for k in range(count)]
        return b"".join(element.to_bytes(size, "little") for element in elements)

    def _msr(self, kind: Input, number: int, data: bytes = b"") -> JournalEntry:
        if not self.recording:
            raise NeedExact
        answer = self.journal.ask(kind, number, 8, 1, data)
        if answer.fault:
            RULES.msr_refused(self, number)
        return answer

    def msr_read(self, number: int) -> int:
        """Ask for an MSR."""
        return self._msr(Input.MSR_READ, number).value

    def msr_write(self, number: int, value: int) -> None:
        """Ask for an MSR to be written."""
        self._msr(Input.MSR_WRITE, number, value.to_bytes(8, "little"))
