"""The fake machine of machine.py with what system descriptions need beside it: paging, rollback, events.

It follows the contract of dm.isa with an engine in the plainest way: every instruction and every delivery is a
transaction, translations are never cached.
"""

from __future__ import annotations

import copy
from typing import Any

from machine import Fault, Machine, function

from dm.isa.mechanisms import access, boundary, events, paging
from dm.machine.architecture import Access, Cr0, Dr6, Dr7, Eflags, PendingDebug, Rights, Vector
from dm.machine.state import Activity, EventType

NO_EVENT = int(EventType.NONE)

ES, CS, SS, DS, FS, GS, LDTR, TR = range(8)

#: Where :class:`System` keeps its tables in linear memory.
GDT, LDT, IDT, TSS, TSS2 = 0x1000, 0x1800, 0x2000, 0x3000, 0x3800


def descriptor(base: int, limit: int, access: int, upper: int = 0) -> int:
    """Return a segment descriptor: ``access`` is byte 5, ``upper`` the high nibble of byte 6 (G D L AVL)."""
    return (
        (limit & 0xFFFF)
        | (base & 0xFFFFFF) << 16
        | access << 40
        | (limit >> 16 & 15) << 48
        | upper << 52
        | (base >> 24) << 56
    )


def gate(selector: int, offset: int, access: int, count: int = 0) -> int:
    """Return a gate descriptor."""
    return (offset & 0xFFFF) | selector << 16 | count << 32 | access << 40 | (offset >> 16) << 48


class System(Machine):
    """Protected mode, ring 0, flat 32-bit segments; GDT, LDT, IDT and a 32-bit TSS in place.

    GDT selectors: 08 code 0, 10 data 0, 18 code 3, 20 data 3, 28 LDT, 30 TSS (busy), 38 TSS2 (available).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # A list, so that the roll-back of Machine.step leaves what it holds.
        self.committed: list[dict[str, Any]] = []
        self.inject_type = NO_EVENT
        self.dr6, self.dr7 = int(Dr6.ONES), int(Dr7.FIXED)
        self.flushed = 0
        self.cpuid: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.msrs: dict[int, int] = {}
        self.cr0 = Cr0.CD | Cr0.NW | Cr0.ET | Cr0.PE
        self.code32 = True
        self.gdtr_base, self.gdtr_limit = GDT, 0x1FF
        self.idtr_base, self.idtr_limit = IDT, 0x7FF
        for selector, raw in (
            (0x08, descriptor(0, 0xFFFFF, 0x9B, 0xC)),
            (0x10, descriptor(0, 0xFFFFF, 0x93, 0xC)),
            (0x18, descriptor(0, 0xFFFFF, 0xFB, 0xC)),
            (0x20, descriptor(0, 0xFFFFF, 0xF3, 0xC)),
            (0x28, descriptor(LDT, 0xFF, 0x82)),
            (0x30, descriptor(TSS, 0x67, 0x8B)),
            (0x38, descriptor(TSS2, 0x67, 0x89)),
        ):
            self.set_gdt(selector, raw)
        self.load(CS, 0x08, 0, 0xFFFFFFFF, 0xC09B)
        for seg in (ES, SS, DS, FS, GS):
            self.load(seg, 0x10, 0, 0xFFFFFFFF, 0xC093)
        self.load(LDTR, 0x28, LDT, 0xFF, 0x82)
        self.load(TR, 0x30, TSS, 0x67, 0x8B)
        # Stacks of levels 0 to 2.
        for level, selector in ((0, 0x10), (1, 0x49), (2, 0x52)):
            self.put(TSS + 4 + 8 * level, 0x6000 - 0x400 * level, 4)
            self.put(TSS + 8 + 8 * level, selector, 2)

    # set-up
    def load(self, seg: int, selector: int, base: int, limit: int, attributes: int, unusable: int = 0) -> None:
        """Set a segment register, hidden part included."""
        s = self.seg
        s.selector[seg], s.base[seg], s.limit[seg] = selector, base, limit
        s.attributes[seg], s.unusable[seg] = attributes, unusable
        self.segment_changed(seg)

    def set_gdt(self, selector: int, raw: int) -> None:
        """Write a GDT entry."""
        self.put(GDT + (selector & 0xFFF8), raw, 8)

    def set_ldt(self, selector: int, raw: int) -> None:
        """Write an LDT entry."""
        self.put(LDT + (selector & 0xFFF8), raw, 8)

    def set_idt(self, vector: int, raw: int) -> None:
        """Write an IDT entry."""
        self.put(IDT + 8 * vector, raw, 8)

    def put(self, physical: int, value: int, size: int) -> None:
        """Write physical memory."""
        self.memory[physical : physical + size] = value.to_bytes(size, "little")

    def at(self, physical: int, size: int = 4) -> int:
        """Read physical memory."""
        return int.from_bytes(self.memory[physical : physical + size], "little")

    def real_mode(self) -> System:
        """Leave protected mode for 16-bit real mode: all segments 0, stack at 7000h."""
        self.cr0 &= ~Cr0.PE
        self.code32 = False
        for seg in range(6):
            self.load(seg, 0, 0, 0xFFFF, Rights.TEXT if seg == CS else Rights.DATA)
        self.idtr_base, self.idtr_limit = 0, 0x3FF
        return self

    def ring3(self) -> System:
        """Run at level 3 with flat segments."""
        self.cpl = 3
        self.load(CS, 0x1B, 0, 0xFFFFFFFF, 0xC0FB)
        for seg in (ES, SS, DS, FS, GS):
            self.load(seg, 0x23, 0, 0xFFFFFFFF, 0xC0F3)
        return self

    def vm86(self, iopl: int = 3) -> System:
        """Run in virtual-8086 mode at 0:8000h."""
        self.cpl, self.code32 = 3, False
        self.set_eflags(0x20002 | iopl << 12)
        for seg in range(6):
            self.load(seg, 0, 0, 0xFFFF, 0xF3)
        return self

    @property
    def esp(self) -> int:
        """ESP."""
        return self.gpr32[4]

    def stack(self, count: int, size: int = 4) -> list[int]:
        """Return the ``count`` values on top of the stack (no paging)."""
        top = self.seg.base[SS] + (self.esp & self.stack_mask)
        return [self.at(top + i * size, size) for i in range(count)]

    # memory with paging
    def _physical(self, linear: int, access: int) -> int:
        linear &= 0xFFFFFFFF
        if not self.cr0 & Cr0.PG:
            return linear
        return int(function("page_walk", paging.page_walk)(self, linear, access))

    def _bytes(self, linear: int, size: int, access: int) -> list[int]:
        return [self._physical(linear + i, access) for i in range(size)]

    def _user(self) -> int:
        return 2 if self.cpl == 3 else 0

    def _get(self, linear: int, size: int, access: int) -> int:
        return int.from_bytes(bytes(self.memory[a] for a in self._bytes(linear, size, access)), "little")

    def _put(self, linear: int, size: int, value: int, access: int) -> None:
        places = self._bytes(linear, size, access | 1)
        for a, byte in zip(places, value.to_bytes(size, "little"), strict=True):
            self.memory[a] = byte

    def any_load(self, size: int, seg: int, offset: int) -> int:
        return self._get(self._at(seg, offset, size, 0), size, self._user())

    def any_store(self, size: int, seg: int, offset: int, value: int) -> None:
        self._put(self._at(seg, offset, size, 1), size, value, self._user())

    def any_rmw(self, size: int, seg: int, offset: int) -> int:
        linear = self._at(seg, offset, size, 1)
        self._rmw = linear, size
        return self._get(linear, size, self._user() | 1)

    def any_rmw_end(self, size: int, value: int) -> None:
        self._put(*self._rmw, value, self._user())

    any_rmw_locked_end = any_rmw_end

    def probe_read(self, seg: int, offset: int, size: int) -> None:
        self._bytes(self._at(seg, offset, size, 0), size, self._user())

    def probe_write(self, seg: int, offset: int, size: int) -> None:
        self._bytes(self._at(seg, offset, size, 1), size, self._user() | 1)

    def any_load_system(self, size: int, linear: int) -> int:
        return self._get(linear, size, Access.IMPLICIT)

    def any_store_system(self, size: int, linear: int, value: int) -> None:
        self._put(linear, size, value, Access.IMPLICIT)

    def or_system8(self, linear: int, mask: int) -> None:
        self._put(linear, 1, self._get(linear, 1, Access.IMPLICIT) | mask, Access.IMPLICIT)

    def and_system8(self, linear: int, mask: int) -> None:
        self._put(linear, 1, self._get(linear, 1, Access.IMPLICIT) & mask, Access.IMPLICIT)

    def translate(self, linear: int, access: int) -> int:
        return self._physical(linear, access)

    def any_load_physical(self, size: int, physical: int) -> int:
        return self.at(physical, size)

    def any_swap_physical(self, size: int, physical: int, old: int, new: int) -> int:
        if self.at(physical, size) != old:
            return 0
        self.put(physical, new, size)
        return 1

    def cpuid_entry(self, leaf: int, subleaf: int, which: int) -> int:
        row = self.cpuid.get((leaf, subleaf))
        return row[which] | 1 << 32 if row else 0

    def msr_read(self, number: int) -> int:
        if number not in self.msrs:
            raise Fault("MSR_REFUSED", 13, 0)
        return self.msrs[number]

    def msr_write(self, number: int, value: int) -> None:
        if number not in self.msrs:
            raise Fault("MSR_REFUSED", 13, 0)
        self.msrs[number] = value

    def tsc_write(self, value: int) -> None:
        self.log.append(("tsc", value))

    def tlb_flush(self) -> None:
        self.flushed += 1

    def tlb_flush_page(self, linear: int) -> None:
        self.log.append(("invlpg", linear))

    # transactions
    def _save(self) -> dict[str, Any]:
        return copy.deepcopy({k: v for k, v in self.__dict__.items() if k != "committed"})

    def _restore(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(copy.deepcopy(saved))

    def commit(self) -> None:
        self.committed[:] = [self._save()]

    def fault(self, cause: str, vector: int, error: int, *operands: int) -> None:
        raise SystemFault(cause, vector, error, *operands)

    def attempt(self, code: bytes) -> SystemFault | None:
        """Execute one instruction as a transaction; return the fault, after rolling back, or None."""
        self.committed[:] = [self._save()]
        self.flags &= ~Eflags.RF
        self.code32 = bool(self.seg.attributes[CS] & Rights.DB)
        try:
            self.run(code)
        except Fault as fault:
            self._restore(self.committed[0])
            return fault if isinstance(fault, SystemFault) else SystemFault(fault.cause, fault.vector, fault.error)
        self.shadow, self.shadow_next = self.shadow_next, 0
        return None

    def handle(self, vector: int, error: int = 0, info: int = 0) -> System:
        """Raise an exception and deliver until nothing is left to deliver or the CPU shuts down."""
        function("raise_exception", events.raise_exception)(self, vector, error, info)
        return self.deliver()

    def deliver(self) -> System:
        """Deliver what is in ``INJECT_*``, with whatever faults that brings."""
        for _ in range(4):
            if self.inject_type == NO_EVENT or self.activity == Activity.SHUTDOWN:
                return self
            self.committed[:] = [self._save()]
            self.delivering = 1
            try:
                function("deliver", events.deliver)(self)
            except SystemFault as fault:
                self._restore(self.committed[0])
                self.delivering = 1
                function("raise_exception", events.raise_exception)(
                    self, fault.vector, fault.error, fault.operands[0] if fault.vector == Vector.PF else 0
                )
            self.delivering = 0
        raise AssertionError("events without end")

    def boundary(self, window: int = 0) -> int:
        """Call the procedure ``boundary``."""
        return int(function("boundary", boundary.boundary)(self, window))

    def go(self, code: bytes) -> System:
        """Execute one instruction and deliver its fault, if any."""
        self.pending_debug |= PendingDebug.BS if self.flags & Eflags.TF else 0
        fault = self.attempt(code)
        if fault:
            self.handle(fault.vector, fault.error, fault.operands[0])
        return self

    def check(self, seg: int, offset: int, size: int, write: int = 0) -> tuple[int, str] | None:
        """Call ``segment_check``; return (vector, cause) of its fault or None."""
        try:
            function("segment_check", access.segment_check)(self, seg, offset, size, write)
        except SystemFault as fault:
            return fault.vector, fault.cause
        return None


class SystemFault(Fault):
    """A fault with the operands of its cause."""

    def __init__(self, cause: str, vector: int, error: int, *operands: int) -> None:
        super().__init__(cause, vector, error, *operands)
        self.operands = operands or (0,)
