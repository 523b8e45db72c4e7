"""Memory accesses of microcode.

The fast path is a dictionary from linear pages to their views; it holds what has been proven to be plain memory.
An access that misses it takes the slow path, which fills the dictionary, or has the instruction started over in exact
mode.  There the dictionaries are empty, every access is checked, walked and journaled, and stores are withheld.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dm.engine.api import RegionKind
from dm.engine.python_engine.cells import M32, Cells
from dm.engine.python_engine.guest_memory import PAGE, GuestMemory, Page, Views
from dm.engine.python_engine.journal import Input, Journal, JournalEntry, Withheld
from dm.engine.python_engine.signals import Abandon, NeedExact
from dm.engine.python_engine.translate import PER_WIDTH, RULES
from dm.isa.primitives import primitives
from dm.machine.architecture import Access as Kind
from dm.machine.architecture import Efer

#: Where an access goes: (guest-physical address, size) of one piece, or of two when it crosses a page.
Span = list[tuple[int, int]]

_NOTHING: Final[dict[int, Views]] = {}


class MemoryAccess(Cells):
    """Loads, stores and page walks.

    What has to run as a transaction raises NeedExact outside one; accesses raise Fault, and what the journal raises.
    """

    memory: GuestMemory
    journal: Journal
    # What follows from segments, and where the access just checked goes: see dm.isa.cells.
    seg_read_end: list[int]
    seg_write_end: list[int]
    seg_change_end: list[int]
    code_end: int
    stack_mask: int
    reached: list[int]
    reached_first: int
    #: Pages written since the last report, posted writes since then.
    written: set[int]
    posted: list[tuple[int, bytes]]
    recording = False
    # Read-modify-write in progress: a cell of a page, or a span.
    _rmw_view: memoryview[int] | None = None
    _rmw_at = 0
    _rmw_page: Views
    _rmw_span: Span
    _rmw_input: JournalEntry

    def __init__(self) -> None:
        self.seg_read_end, self.seg_write_end, self.seg_change_end = [0] * 8, [0] * 8, [0] * 8
        self.reached = [0, 0]
        self._filling = False
        #: Called when translations are forgotten.
        self.on_flush: Callable[[], None] = lambda: None
        # By privilege: supervisor, user.
        self._readable: tuple[dict[int, Views], dict[int, Views]] = ({}, {})
        self._writable: tuple[dict[int, Views], dict[int, Views]] = ({}, {})
        self._fetchable: tuple[dict[int, Page], dict[int, Page]] = ({}, {})
        self.reads: dict[int, Views] = {}
        self.writes: dict[int, Views] = {}

    # translations

    def use_tables(self) -> None:
        """Select the dictionaries for the current mode."""
        user = self.cpl == 3
        self.reads = _NOTHING if self.recording else self._readable[user]
        self.writes = _NOTHING if self.recording else self._writable[user]

    def forget_translations(self) -> None:
        """Drop everything that depends on paging or the memory map."""
        for table in (*self._readable, *self._writable, *self._fetchable):
            table.clear()
        self.on_flush()

    def forget_translation(self, linear: int) -> None:
        """Drop what is known about a page, all pieces of it however large it is (SDM vol. 3A, 4.10.4.1)."""
        largest = 1 << 30 if self.efer & Efer.LMA else 1 << 22
        for table in (*self._readable, *self._writable, *self._fetchable):
            for page in [page for page in table if (page * PAGE ^ linear) < largest]:
                del table[page]
        self.on_flush()

    def forget_writable(self) -> None:
        """Make the next store to each page take the slow path, so that it is reported."""
        for table in self._writable:
            table.clear()

    def _walk(self, linear: int, access: int) -> int:
        """Return the physical address for the fast path; failures are left to exact mode."""
        self._filling = True
        try:
            found = RULES.physical_address(self, linear, access | RULES.privilege(self))
        except Abandon:
            raise NeedExact from None
        finally:
            self._filling = False
        return int(found) & self.memory.a20_mask

    def fetchable(self, linear: int) -> Page:
        """Return the page that instructions at ``linear`` come from.

        Raises:
            NeedExact: it is not plain memory.
        """
        table = self._fetchable[self.cpl == 3]
        page = table.get(linear // PAGE)
        if page is None:
            page = self.memory.page(self._walk(linear, Kind.FETCH) // PAGE)
            if page is None or page.kind is RegionKind.FIRMWARE:
                raise NeedExact
            table[linear // PAGE] = page
        return page

    def _fill_read(self, linear: int) -> Views:
        page = self.memory.page(self._walk(linear, 0) // PAGE)
        if page is None:
            raise NeedExact
        self.reads[linear // PAGE] = page.views
        return page.views

    def _fill_write(self, linear: int) -> Views:
        physical = self._walk(linear, Kind.WRITE)
        page = self.memory.page(physical // PAGE)
        if page is None or page.kind is not RegionKind.RAM:
            raise NeedExact
        # The one place that notices the first store to a page since the last report.
        self.written.add(physical // PAGE)
        self.writes[linear // PAGE] = page.views
        return page.views

    def translate(self, linear: int, access: int) -> int:
        """Exact mode: return the physical address of one byte."""
        if not self.recording:
            raise NeedExact
        if not RULES.translated(self):
            return linear & self.memory.a20_mask
        journal = self.journal
        if journal.ahead is not None and journal.ahead.kind is Input.TRANSLATE:
            known = journal.replay(Input.TRANSLATE, linear, access)
            assert known is not None
            return known.value & self.memory.a20_mask
        # A finished walk is one entry, an unfinished one its loads.
        start = journal.cursor
        found = int(RULES.physical_address(self, linear, access))
        del journal.entries[start:]
        journal.record(Input.TRANSLATE, linear, access, found)
        return found & self.memory.a20_mask

    def _span(self, size: int) -> Span:
        """Return where the access just checked goes."""
        first = self.reached_first
        span = [(self.reached[0], first)]
        if first < size:
            span.append((self.reached[1], size - first))
        return span

    def data_span(self, seg: int, offset: int, size: int, write: int) -> Span:
        """Exact mode: check a data access in everything and return where it goes.

        Raises:
            Fault, Question: as the checks and the page walk have it.
            NeedExact: not in exact mode.
        """
        if not self.recording:
            raise NeedExact
        RULES.data_access(self, seg, offset, size, write)
        return self._span(size)

    def _system_span(self, linear: int, size: int, write: int) -> Span:
        if not self.recording:
            raise NeedExact
        RULES.system_access(self, linear, size, write)
        return self._span(size)

    def load_span(self, span: Span) -> int:
        """Exact mode: read."""
        value = shift = 0
        for physical, size in span:
            value |= self.journal.load(self.memory, physical, size) << shift
            shift += 8 * size
        return value

    def store_span(self, span: Span, value: int) -> Withheld:
        """Exact mode: withhold a store; returns its last piece."""
        for physical, size in span:
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            made = self.journal.withhold(self.memory, physical, data, size)
            value >>= 8 * size
        return made

    # slow paths of the data accesses below

    def _inside(self, linear: int, size: int) -> None:
        if linear % PAGE + size > PAGE:
            raise NeedExact

    def _load(self, seg: int, offset: int, size: int) -> int:
        if self.recording:
            return self.load_span(self.data_span(seg, offset, size, 0))
        RULES.check_segment(self, seg, offset, size, 0)
        linear = RULES.linear_address(self, seg, offset)
        self._inside(linear, size)
        views = self.reads.get(linear // PAGE) or self._fill_read(linear)
        at = linear % PAGE
        return int.from_bytes(views[0][at : at + size], "little")

    def _store(self, seg: int, offset: int, size: int, value: int) -> None:
        if self.recording:
            self.store_span(self.data_span(seg, offset, size, 1), value)
            return
        RULES.check_segment(self, seg, offset, size, 1)
        linear = RULES.linear_address(self, seg, offset)
        self._inside(linear, size)
        views = self.writes.get(linear // PAGE) or self._fill_write(linear)
        at = linear % PAGE
        if at & (size - 1):
            views[0][at : at + size] = value.to_bytes(size, "little")
        else:
            views[size.bit_length() - 1][at // size] = value

    def _rmw(self, seg: int, offset: int, size: int) -> int:
        self._rmw_view = None
        if self.recording:
            RULES.change_access(self, seg, offset, size)
            self._rmw_span = self._span(size)
            value = self.load_span(self._rmw_span)
            self._rmw_input = self.journal.entries[self.journal.cursor - 1]
            return value
        RULES.check_segment(self, seg, offset, size, 0)
        RULES.check_segment(self, seg, offset, size, 1)
        linear = RULES.linear_address(self, seg, offset)
        self._inside(linear, size)
        views = self.writes.get(linear // PAGE) or self._fill_write(linear)
        self._rmw_at = linear % PAGE
        if self._rmw_at & (size - 1):
            self._rmw_page = views
            return int.from_bytes(views[0][self._rmw_at : self._rmw_at + size], "little")
        self._rmw_at //= size
        self._rmw_view = views[size.bit_length() - 1]
        return self._rmw_view[self._rmw_at]

    def _rmw_end(self, size: int, value: int) -> None:
        if self.recording:
            self.store_span(self._rmw_span, value)
        elif self._rmw_view is not None:
            self._rmw_view[self._rmw_at] = value
        else:
            views = self._rmw_page
            views[0][self._rmw_at : self._rmw_at + size] = value.to_bytes(size, "little")

    def rmw_locked_end(self, value: int, size: int) -> None:
        """End a locked read-modify-write."""
        # Outside exact mode the interpreter's lock makes it atomic enough: nothing runs between the two halves.
        if not self.recording:
            self._rmw_end(size, value)
            return
        made = self.store_span(self._rmw_span, value)
        if len(self._rmw_span) == 1 and self._rmw_span[0][0] & (size - 1) == 0:
            made.locked = self._rmw_input

    # other primitives

    def _probe(self, seg: int, offset: int, size: int, write: int) -> None:
        if not self.recording:
            raise NeedExact
        RULES.probe_access(self, seg, offset, size, write)

    def probe_write(self, seg: int, offset: int, size: int) -> None:
        """Check that a write would succeed."""
        self._probe(seg, offset, size, 1)

    def probe_read(self, seg: int, offset: int, size: int) -> None:
        """Check that a read would succeed."""
        self._probe(seg, offset, size, 0)

    def load_system(self, linear: int, size: int) -> int:
        """Supervisor read of a linear address."""
        return self.load_span(self._system_span(linear, size, 0))

    def store_system(self, linear: int, value: int, size: int) -> None:
        """Supervisor write to a linear address."""
        self.store_span(self._system_span(linear, size, 1), value)

    def _change_system8(self, linear: int, keep: int, change: int) -> None:
        span = self._system_span(linear, 1, 1)
        old = self.load_span(span)
        entry = self.journal.entries[self.journal.cursor - 1]
        self.store_span(span, old & keep | change).locked = entry

    def or_system8(self, linear: int, mask: int) -> None:
        """Set bits of a byte, atomically."""
        self._change_system8(linear, 0xFF, mask)

    def and_system8(self, linear: int, mask: int) -> None:
        """Clear bits of a byte, atomically."""
        self._change_system8(linear, mask, 0)

    def load_physical(self, physical: int, size: int) -> int:
        """Read an entry of a paging structure."""
        physical &= self.memory.a20_mask
        if self.recording:
            return self.journal.load(self.memory, physical, size)
        page = self.memory.page(physical // PAGE)
        if not self._filling or page is None:
            raise NeedExact
        return self.memory.load(page, physical % PAGE, size)

    def swap_physical(self, physical: int, old: int, new: int, size: int) -> int:
        """Replace an entry of a paging structure if it is unchanged: 1 when done."""
        # At once: accessed and dirty bits stay set whatever happens to the access.
        physical &= self.memory.a20_mask
        if self.recording:
            known = self.journal.replay(Input.SWAP, physical, size)
            if known is not None:
                return known.value
        elif not self._filling:
            raise NeedExact
        done = 1  # entries in ROM or on a device keep their bits
        page = self.memory.page(physical // PAGE)
        if page is not None and page.kind is RegionKind.RAM:
            done = int(self.memory.load(page, physical % PAGE, size) == old)
            if done:
                self.memory.store(page, physical % PAGE, size, new)
                self.written.add(physical // PAGE)
        if self.recording:
            self.journal.record(Input.SWAP, physical, size, done)
        return done


# The hot primitives, one function per width: inside the segment's end, aligned, in a page that is known.


def _loader(size: int) -> Callable[[MemoryAccess, int, int], int]:
    last, shift = size - 1, size.bit_length() - 1

    def load(self: MemoryAccess, seg: int, offset: int) -> int:
        linear = self.seg_base[seg] + offset & M32
        views = self.reads.get(linear >> 12)
        if views is None or linear & last or offset + last >= self.seg_read_end[seg]:
            return self._load(seg, offset, size)
        return views[shift][(linear & 0xFFF) >> shift]

    return load


def _storer(size: int) -> Callable[[MemoryAccess, int, int, int], None]:
    last, shift = size - 1, size.bit_length() - 1

    def store(self: MemoryAccess, seg: int, offset: int, value: int) -> None:
        linear = self.seg_base[seg] + offset & M32
        views = self.writes.get(linear >> 12)
        if views is None or linear & last or offset + last >= self.seg_write_end[seg]:
            self._store(seg, offset, size, value)
        else:
            views[shift][(linear & 0xFFF) >> shift] = value

    return store


def _changer(size: int) -> Callable[[MemoryAccess, int, int], int]:
    last, shift = size - 1, size.bit_length() - 1

    def rmw(self: MemoryAccess, seg: int, offset: int) -> int:
        linear = self.seg_base[seg] + offset & M32
        views = self.writes.get(linear >> 12)
        if views is None or linear & last or offset + last >= self.seg_change_end[seg]:
            return self._rmw(seg, offset, size)
        view = self._rmw_view = views[shift]
        at = self._rmw_at = (linear & 0xFFF) >> shift
        return view[at]

    return rmw


def _ender(size: int) -> Callable[[MemoryAccess, int], None]:
    def rmw_end(self: MemoryAccess, value: int) -> None:
        view = self._rmw_view
        if view is not None:
            view[self._rmw_at] = value
        else:
            self._rmw_end(size, value)

    return rmw_end


_MAKERS: Final = {"load": _loader, "store": _storer, "rmw": _changer, "rmw_locked": _changer, "rmw_end": _ender}

for _made in primitives():
    if _made.family in PER_WIDTH:
        setattr(MemoryAccess, _made.name, _MAKERS[_made.family](_made.size))
