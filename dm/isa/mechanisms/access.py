"""Accesses to data: segment, wrap at 4 GiB, alignment, pages, breakpoints, in the order in which they are checked.

Engines keep memory, translation buffers and the journal.  What may be touched, where it lies and what an access has met
they ask here: a data access of theirs goes straight on only inside the ends that :func:`derive_segment` keeps, and by a
translation that :func:`dm.isa.mechanisms.paging.page_walk` made.
"""

from __future__ import annotations

from typing import Final

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import (
    ATTRIBUTES,
    BASE,
    CHANGE_END,
    CODE_END,
    CPL,
    LIMIT,
    REACHED,
    REACHED_FIRST,
    READ_END,
    STACK_MASK,
    UNUSABLE,
    WRITE_END,
)
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.debug import any_breakpoint, data_breakpoints
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.paging import page_walk
from dm.machine.architecture import Access, Cr4, Eflags, Rights, Vector
from dm.machine.state import Seg
from dm.microcode import Field, Microcode, Value, procedure

PAGE: Final = 4096


# Segments.


@procedure(seg=8, offset=32, size=32, write=1)
def segment_check(m: Microcode, seg: Value, offset: Value, size: Value, write: Value) -> None:
    """Check one data access of ``size`` bytes; return when it is allowed, else #SS(0) through SS, #GP(0) elsewhere.

    SDM vol. 3A, 5.3-5.5.  Code or data does not matter in real-address and virtual-8086 mode.
    """

    def refuse(condition: Value, cause: str, *operands: Value) -> None:
        with m.If(condition):
            with m.If(seg == Seg.SS):
                ends.fault(m, Vector.SS, 0, f"SS_{cause}", *operands)
            ends.fault(m, Vector.GP, 0, f"SEGMENT_{cause}", *operands)

    attributes = m.get(ATTRIBUTES, seg)
    limit = m.get(LIMIT, seg)
    refuse(m.get(UNUSABLE, seg), "NULL", offset, size)
    refuse(~attributes.has(Rights.P), "NOT_PRESENT", offset, size)
    code, bit1 = attributes.has(Rights.CODE), attributes.has(Rights.WRITABLE)
    checked = mode.protected(m)
    # Bit 1 of the type is W for data, R for code.
    refuse(write & ~code & ~bit1, "READ_ONLY", offset, size)
    refuse(write & code & checked, "WRITE_TO_CODE", offset, size)
    refuse(~write & code & ~bit1 & checked, "EXECUTE_ONLY", offset, size)
    last = size - 1
    with m.If(~code & attributes.has(Rights.EXPAND_DOWN)):
        top = m.select(attributes.has(Rights.DB), m.const(32, 0xFFFFFFFF), m.const(32, 0xFFFF))
        refuse((offset <= limit) | (offset > top) | (last > top - offset), "LIMIT", offset, size, limit)
    with m.Else():
        refuse((offset > limit) | (last > limit - offset), "LIMIT", offset, size, limit)


@procedure(seg=8)
def derive_segment(m: Microcode, seg: Value) -> None:
    """Recompute what follows from the hidden part of a segment register, which has changed, or the mode has.

    The ends say what :func:`segment_check` would allow; expand-down segments, and whatever else it has to look at, have
    ends of 0.
    """
    attributes, limit = m.get(ATTRIBUTES, seg), m.get(LIMIT, seg)
    code, bit1 = attributes.has(Rights.CODE), attributes.has(Rights.WRITABLE)
    checked = mode.protected(m)
    plain = ~m.get(UNUSABLE, seg) & attributes.has(Rights.P) & (code | ~attributes.has(Rights.EXPAND_DOWN))
    end, nothing = limit.zext(64) + 1, m.const(64, 0)
    read = m.select(plain & (~code | bit1 | ~checked), end, nothing)
    write = m.select(plain & m.select(code, ~checked, bit1), end, nothing)
    m.set(READ_END, read, seg)
    m.set(WRITE_END, write, seg)
    m.set(CHANGE_END, m.select(read < write, read, write), seg)
    with m.If(seg == Seg.SS):
        m.set(STACK_MASK, m.select(attributes.has(Rights.DB), m.const(32, 0xFFFFFFFF), m.const(32, 0xFFFF)))
    with m.If(seg == Seg.CS):
        m.set(CODE_END, end)


def _beyond(m: Microcode, end: Field, seg: Value, offset: Value, size: Value) -> Value:
    return offset.zext(64) + (size - 1).zext(64) >= m.get(end, seg)


@procedure(result=1, seg=8, offset=32, size=32)
def beyond_read(m: Microcode, seg: Value, offset: Value, size: Value) -> None:
    """Return whether a read has to be looked at by :func:`segment_check`."""
    m.return_(_beyond(m, READ_END, seg, offset, size))


@procedure(result=1, seg=8, offset=32, size=32)
def beyond_write(m: Microcode, seg: Value, offset: Value, size: Value) -> None:
    """Return whether a write has to be looked at by :func:`segment_check`."""
    m.return_(_beyond(m, WRITE_END, seg, offset, size))


@procedure(result=1, seg=8, offset=32, size=32)
def beyond_change(m: Microcode, seg: Value, offset: Value, size: Value) -> None:
    """Return whether reading and then writing has to be looked at by :func:`segment_check`."""
    m.return_(_beyond(m, CHANGE_END, seg, offset, size))


@procedure(result=32, seg=8, offset=32)
def linear_address(m: Microcode, seg: Value, offset: Value) -> None:
    """Return a linear address, which wraps at 4 GiB (SDM vol. 3A, 3.4)."""
    m.return_(m.get(BASE, seg).trunc(32) + offset)


@procedure(seg=8, offset=32, size=32, write=1)
def check_segment(m: Microcode, seg: Value, offset: Value, size: Value, write: Value) -> None:
    """The same as :func:`segment_check`, sooner."""
    beyond = m.select(write, m.call(beyond_write, seg, offset, size), m.call(beyond_read, seg, offset, size))
    with m.If(beyond):
        m.call(segment_check, seg, offset, size, write)


# Alignment and pages.


@procedure(linear=32, size=32)
def check_alignment(m: Microcode, linear: Value, size: Value) -> None:
    """#AC(0) for a misaligned operand of up to 8 bytes where alignment is checked; tables are not operands."""
    misaligned = (linear & (size - 1)).nz() & (size <= 8)
    fault_if(m, mode.alignment_checked(m) & misaligned, Vector.AC, 0, "ALIGNMENT", linear, size)


@procedure(result=8)
def privilege(m: Microcode) -> None:
    """Return what CPL adds to the kind of an access: USER at level 3 (SDM vol. 3A, 4.6)."""
    m.return_(m.select(m.get(CPL) == 3, m.const(8, Access.USER), m.const(8, 0)))


@procedure(result=1)
def segments_checked(m: Microcode) -> None:
    """Return whether the kind of a segment matters; the ends of all depend on it."""
    m.return_(mode.protected(m))


@procedure(result=1)
def smap_suspended(m: Microcode) -> None:
    """Return whether EFLAGS.AC suspends SMAP; translations depend on it (SDM vol. 3A, 4.6)."""
    m.return_(mode.cr4_bit(m, Cr4.SMAP) & flags.flag(m, Eflags.AC))


@procedure(result=1)
def translated(m: Microcode) -> None:
    """Return whether linear addresses are translated: CR0.PG."""
    m.return_(mode.paging(m))


@procedure(result=64, linear=32, access=8)
def physical_address(m: Microcode, linear: Value, access: Value) -> None:
    """Return the guest-physical address of a linear one, by a page walk where paging is on."""
    with m.If(mode.paging(m)):
        m.return_(m.call(page_walk, linear, access))
    m.return_(linear.zext(64))


@procedure(linear=32, size=32, access=8)
def reach(m: Microcode, linear: Value, size: Value, access: Value) -> None:
    """Translate every byte of an access before any is touched: REACHED.  Behind the last page comes the first."""
    room = PAGE - (linear & (PAGE - 1))
    first = m.select(size < room, size, room)
    m.set(REACHED_FIRST, first)
    m.set(REACHED, m.call(p.TRANSLATE, linear, access), 0)
    with m.If(first < size):
        m.set(REACHED, m.call(p.TRANSLATE, linear + first, access), 1)


@procedure(linear=32, size=32, write=1)
def system_access(m: Microcode, linear: Value, size: Value, write: Value) -> None:
    """Check an access of the processor's own to a table or TSS, a supervisor's whatever CPL is (SDM vol. 3A, 4.6.1)."""
    m.call(reach, linear, size, write.zext(8) | Access.IMPLICIT)


@procedure(seg=8, offset=32, size=32, write=1)
def data_access(m: Microcode, seg: Value, offset: Value, size: Value, write: Value) -> None:
    """Check an access to data in everything; where it goes is in REACHED then, and its breakpoints are pending."""
    m.call(check_segment, seg, offset, size, write)
    linear = m.call(linear_address, seg, offset)
    m.call(check_alignment, linear, size)
    m.call(reach, linear, size, write.zext(8) | m.call(privilege))
    m.call(data_breakpoints, linear, size, write)


@procedure(seg=8, offset=32, size=32)
def change_access(m: Microcode, seg: Value, offset: Value, size: Value) -> None:
    """Check a read-modify-write: the segment for both, the page for the write, which implies the read."""
    m.call(check_segment, seg, offset, size, 0)
    m.call(data_access, seg, offset, size, 1)


@procedure(seg=8, offset=32, size=32, write=1)
def probe_access(m: Microcode, seg: Value, offset: Value, size: Value, write: Value) -> None:
    """Check that an access would succeed, without making it; breakpoints are not met."""
    with m.If(size == 0):
        m.return_()
    m.call(check_segment, seg, offset, size, write)
    linear = m.call(linear_address, seg, offset)
    m.call(check_alignment, linear, size)
    access = write.zext(8) | m.call(privilege)
    at = m.var(32, linear)
    left = m.var(32, ((linear & (PAGE - 1)) + (size - 1)) >> 12)
    with m.Loop():
        m.call(p.TRANSLATE, at.v, access)
        m.break_if(left.v == 0)
        left.v = left.v - 1
        at.v = (at.v & (0xFFFFFFFF ^ (PAGE - 1))) + PAGE


# Strings.


@procedure(result=1)
def undisturbed(m: Microcode) -> None:
    """Return whether nothing can happen between two elements of a string: no trap, no breakpoint, no #AC."""
    m.return_(~(flags.flag(m, Eflags.TF) | any_breakpoint(m) | mode.alignment_checked(m)))


@procedure(result=32, seg=8, offset=32, physical=64, wanted=32, down=1, wide=1, size=32, write=1)
def elements_in_line(
    m: Microcode,
    seg: Value,
    offset: Value,
    physical: Value,
    wanted: Value,
    down: Value,
    wide: Value,
    size: Value,
    write: Value,
) -> None:
    """Return how many of ``wanted`` elements need no further check, the first at ``physical`` having been; 1 at least.

    They lie in its page and inside the segment, before the address wraps (``wide``: at 4 GiB, else at 64 KiB), and
    nothing can happen in between.
    """
    end = m.select(write, m.get(WRITE_END, seg), m.get(READ_END, seg))
    with m.If((end == 0) | ~m.call(undisturbed)):
        m.return_(1)
    in_page = physical & (PAGE - 1)
    at, width = offset.zext(64), size.zext(64)
    wrap = m.select(wide, m.const(64, 1 << 32), m.const(64, 1 << 16))

    def least(*values: Value) -> Value:
        found = values[0]
        for value in values[1:]:
            found = m.select(value < found, value, found)
        return found

    below = least(in_page.udiv(width) + 1, at.udiv(width) + 1)
    above = least((PAGE - in_page).udiv(width), (wrap - at).udiv(width), (end - at).udiv(width))
    count = least(wanted.zext(64), m.select(down, below, above)).trunc(32)
    m.return_(m.select(count == 0, m.const(32, 1), count))
