"""Segment descriptors: format, fetching from GDT and LDT, filling descriptor caches (SDM vol. 3A, 3.4.5)."""

from __future__ import annotations

from typing import Final

from dm.isa import ends
from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, LIMIT, SELECTOR, UNUSABLE, cell
from dm.isa.features import before_386
from dm.isa.mechanisms import mode
from dm.machine.architecture import Rights, Selector, System
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

GDTR_BASE: Final = cell("gdtr_base")
GDTR_LIMIT: Final = cell("gdtr_limit")

#: System descriptors of one kind, 16- and 32-bit.
AVAILABLE_TSS: Final = (System.TSS16, System.TSS32)
BUSY_TSS: Final = (System.TSS16_BUSY, System.TSS32_BUSY)
ANY_TSS: Final = (*AVAILABLE_TSS, *BUSY_TSS)
CALL_GATES: Final = (System.CALL16, System.CALL32)
INTERRUPT_GATES: Final = (System.INT16, System.INT32)
TRAP_GATES: Final = (System.TRAP16, System.TRAP32)

#: The byte of a descriptor that begins with its type.
RIGHTS_BYTE: Final = 5


def in_descriptor(rights: int) -> int:
    """Return access rights as the bits of a descriptor that they are."""
    return rights << 8 * RIGHTS_BYTE


def one_of(value: Value, *numbers: int) -> Value:
    """Return whether a value below 16 is one of ``numbers``, 1 bit."""
    mask = sum(1 << n for n in numbers)
    return value.m.const(16, mask).bit(value)


def is_null(selector: Value) -> Value:
    """Return whether the selector is null (0-3)."""
    return (selector & Selector.NAME) == 0


def rpl(selector: Value) -> Value:
    """Return the requested privilege level, 8 bits."""
    return (selector & Selector.RPL).trunc(8)


def error_code(selector: Value) -> Value:
    """Return the error code that names a selector, 32 bits (SDM vol. 3A, 6.13)."""
    return (selector & Selector.NAME).zext(32)


class Descriptor:
    """The parts of an 8-byte descriptor, each as a value.  Gates have ``gate_*`` instead of base and limit."""

    def __init__(self, raw: Value) -> None:
        self.raw = raw

    def _has(self, right: int) -> Value:
        return self.raw.has(in_descriptor(right))

    @property
    def base(self) -> Value:
        """Base address, 64 bits."""
        return (self.raw >> 16) & 0xFFFFFF | (self.raw >> 32) & 0xFF000000

    @property
    def limit(self) -> Value:
        """Limit in bytes, scaled by G, 32 bits."""
        pages = (self.raw & 0xFFFF | (self.raw >> 32) & 0xF0000).trunc(32)
        return self.raw.m.select(self._has(Rights.G), (pages << 12) | 0xFFF, pages)

    @property
    def attributes(self) -> Value:
        """Attributes as a cache holds them, 16 bits."""
        return (self.raw >> 8 * RIGHTS_BYTE).trunc(16) & (0xFFFF ^ Rights.RESERVED)

    @property
    def type(self) -> Value:
        """Type, 8 bits, below 16."""
        return self.raw.field(in_descriptor(Rights.TYPE)).trunc(8)

    @property
    def is_segment(self) -> Value:
        """S: code or data, not a system descriptor."""
        return self._has(Rights.S)

    @property
    def is_code(self) -> Value:
        """A code segment."""
        return self._has(Rights.S) & self._has(Rights.CODE)

    @property
    def is_conforming(self) -> Value:
        """A conforming code segment."""
        return self.is_code & self._has(Rights.CONFORMING)

    @property
    def is_readable(self) -> Value:
        """Data, or readable code."""
        return self._has(Rights.S) & (~self._has(Rights.CODE) | self._has(Rights.READABLE))

    @property
    def is_writable(self) -> Value:
        """Writable data."""
        return self._has(Rights.S) & ~self._has(Rights.CODE) & self._has(Rights.WRITABLE)

    @property
    def dpl(self) -> Value:
        """Descriptor privilege level, 8 bits."""
        return self.raw.field(in_descriptor(Rights.DPL)).trunc(8)

    @property
    def present(self) -> Value:
        """P."""
        return self._has(Rights.P)

    @property
    def is_long(self) -> Value:
        """L: 64-bit code when EFER.LMA is set."""
        return self._has(Rights.L)

    @property
    def is_64_bit_code(self) -> Value:
        """L without D: the only code that gates lead to in IA-32e mode."""
        return self.raw.field(in_descriptor(Rights.L | Rights.DB)) == 1

    @property
    def gate_selector(self) -> Value:
        """Selector in a gate, 16 bits."""
        return (self.raw >> 16).trunc(16)

    @property
    def gate_stack(self) -> Value:
        """Number in the interrupt stack table, 0 for none, of a 16-byte interrupt or trap gate, 32 bits."""
        return self.raw.bits(32, 3).trunc(32)

    @property
    def gate_count(self) -> Value:
        """Parameter count in a call gate, 32 bits."""
        return self.raw.bits(32, 5).trunc(32)

    @property
    def is_wide(self) -> Value:
        """Whether a TSS, or a call, interrupt or trap gate, is a 32-bit one."""
        return self._has(Rights.WIDE)

    @property
    def gate_offset(self) -> Value:
        """Offset in a gate, 32 bits; a 16-bit gate's upper word is ignored."""
        whole = (self.raw & 0xFFFF | (self.raw >> 32) & 0xFFFF0000).trunc(32)
        return self.raw.m.select(self.is_wide, whole, whole & 0xFFFF)


def linear_32(m: Microcode, address: Value) -> Value:
    """Return the linear address (64 bits) of a table entry of up to 16 bytes as 32 bits.

    In IA-32e mode a table may lie beyond 4 GiB, where the engines do not reach: exit ``unsupported``.
    """
    with m.If(mode.long_mode(m) & ((address + 15) >> 32).nz()):
        ends.unsupported(m, "TABLE_ABOVE_4_GIB")
    return address.trunc(32)


@procedure(result=1, selector=16, size=32)
def in_table(m: Microcode, selector: Value, size: Value) -> None:
    """Return whether ``size`` bytes of descriptor lie within the GDT or LDT."""
    last = (selector & Selector.INDEX).zext(32) + size - 1
    with m.If(selector.has(Selector.TI)):
        m.return_(~m.get(UNUSABLE, Seg.LDTR) & (last <= m.get(LIMIT, Seg.LDTR)))
    m.return_(last <= m.get(GDTR_LIMIT).zext(32))


@procedure(result=32, selector=16)
def descriptor_address(m: Microcode, selector: Value) -> None:
    """Return the linear address of a selector's descriptor."""
    table = m.select(selector.has(Selector.TI), m.get(BASE, Seg.LDTR), m.get(GDTR_BASE))
    m.return_(linear_32(m, table + (selector & Selector.INDEX).zext(64)))


def of_part(m: Microcode, raw: Value) -> Value:
    """Return a descriptor as the part modelled sees it.

    The 80286 takes no notice of the last word, and system types with bit 3 (those of the 80386) are none to it.
    """
    lower = raw & 0x0000FFFFFFFFFFFF
    newer = ~raw.has(in_descriptor(Rights.S)) & raw.has(in_descriptor(Rights.WIDE))
    old = m.select(newer, lower & (0x0000FFFFFFFFFFFF ^ in_descriptor(Rights.TYPE)), lower)
    return m.select(before_386(m), old, raw)


@procedure(result=64, selector=16, vector=8)
def fetch_descriptor(m: Microcode, selector: Value, vector: Value) -> None:
    """Return the descriptor a selector names; outside its table: ``vector``(selector)."""
    mode.fault_if(
        m, ~m.call(in_table, selector, 8), vector, error_code(selector), "DESCRIPTOR_TABLE_LIMIT", selector.zext(32)
    )
    m.return_(of_part(m, m.call(p.LOAD_SYSTEM[64], m.call(descriptor_address, selector))))


@procedure(result=64, selector=16, raw=64)
def mark_accessed(m: Microcode, selector: Value, raw: Value) -> None:
    """Set the accessed bit in memory unless it is set; return the descriptor with it."""
    accessed = in_descriptor(Rights.ACCESSED)
    with m.If(~raw.has(accessed)):
        m.call(p.OR_SYSTEM8, m.call(descriptor_address, selector) + RIGHTS_BYTE, Rights.ACCESSED)
    m.return_(raw | accessed)


@procedure(seg=8, selector=16, raw=64)
def load_cache(m: Microcode, seg: Value, selector: Value, raw: Value) -> None:
    """Fill a segment register, hidden part included, from a descriptor."""
    d = Descriptor(raw)
    m.set(SELECTOR, selector, seg)
    m.set(BASE, d.base, seg)
    m.set(LIMIT, d.limit, seg)
    m.set(ATTRIBUTES, d.attributes, seg)
    m.set(UNUSABLE, 0, seg)
    m.call(p.SEGMENT_CHANGED, seg)
