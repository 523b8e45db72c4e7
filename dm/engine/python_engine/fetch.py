"""Instruction fetch: decoded instructions, kept per code segment and address and compared with memory each time.

Comparing the few bytes costs less than tracking stores would, and makes self-modifying code and writes by others exact.
"""

from __future__ import annotations

import mmap
from typing import Final

from dm.engine.api import RegionKind
from dm.engine.python_engine.cells import M32
from dm.engine.python_engine.guest_memory import PAGE
from dm.engine.python_engine.journal import Input
from dm.engine.python_engine.machine import Machine
from dm.engine.python_engine.signals import FirmwareReached, NeedExact
from dm.engine.python_engine.translate import RULES, Handler, form, invalid
from dm.isa.map.decode import Decoded, NeedMore, TooLong, decode
from dm.machine.architecture import Cr0

_CS: Final = 1
_CODE32: Final = 0x4000
#: Instructions kept per code segment, code segments kept.
_MOST: Final = 1 << 16
_MOST_SEGMENTS: Final = 64


class InsnRecord:
    """One decoded instruction at one EIP; the operands have the names that microcode uses."""

    __slots__ = (
        "base", "disp", "eip", "end", "exact", "imm", "imm2", "index", "memory", "next_eip", "raw", "reg", "rm", "run",
        "scale", "seg", "start",
    )  # fmt: skip

    def __init__(self, d: Decoded, eip: int, raw: bytes) -> None:
        self.seg, self.reg, self.rm = d.seg, d.reg, d.rm
        self.base, self.index, self.scale, self.disp = d.base, d.index, d.scale, d.disp
        self.imm, self.imm2 = d.imm, d.imm2
        self.eip, self.next_eip = eip, eip + d.length & M32
        self.raw = raw
        self.run: Handler = invalid
        self.exact = False
        if d.row is not None:
            found = form(d.row, d.variant)
            self.run, self.exact = found.run, found.exact
        # Where it was fetched from; the engine fills these in when it is plain memory.
        self.memory: mmap.mmap | bytearray = bytearray()
        self.start = self.end = 0


#: Base and limit of CS, code size, user: where EIP means the same.
Context = tuple[int, int, int, bool]


def _drop(contexts: dict[Context, dict[int, InsnRecord]]) -> None:
    for context in contexts.values():
        context.clear()  # the run loop may be using it
    contexts.clear()


class Fetcher:
    """Finds the instruction at CS:EIP."""

    def __init__(self, cpu: Machine) -> None:
        self._cpu = cpu
        # Without and with paging: only the latter depend on translations.
        self._contexts: tuple[dict[Context, dict[int, InsnRecord]], dict[Context, dict[int, InsnRecord]]] = ({}, {})
        # (raw bytes, decoded) by guest-physical page, offset and code size: survives TLB flushes.
        self._decoded: dict[tuple[int, int, int], tuple[bytes, Decoded]] = {}

    def forget(self) -> None:
        """Translations have changed."""
        _drop(self._contexts[True])

    def forget_decoded(self) -> None:
        """The memory map has changed."""
        for contexts in self._contexts:
            _drop(contexts)
        self._decoded.clear()

    def context(self) -> dict[int, InsnRecord]:
        """Return the instructions of the current code segment by EIP."""
        cpu = self._cpu
        key = (cpu.seg_base[_CS] & M32, cpu.seg_limit[_CS], cpu.seg_attributes[_CS] & _CODE32, cpu.cpl == 3)
        contexts = self._contexts[bool(cpu.cr0 & Cr0.PG)]
        found = contexts.get(key)
        if found is None:
            if len(contexts) >= _MOST_SEGMENTS:
                _drop(contexts)
            found = contexts[key] = {}
        return found

    def fetch(self, eip: int) -> InsnRecord:
        """Decode the instruction at ``eip``, which is cell EIP, from plain memory and keep it.

        Raises:
            NeedExact: it is not all in one page of plain memory inside CS, or no whole instruction.
        """
        cpu = self._cpu
        room = RULES.fetch_room(cpu, 0)
        if not room:
            raise NeedExact
        linear = RULES.code_linear(cpu, eip)
        page = cpu.fetchable(linear)
        at = page.start + linear % PAGE
        code = bytes(page.memory[at : at + room])
        code32 = cpu.seg_attributes[_CS] & _CODE32
        key = (id(page.memory), at, code32)
        known = self._decoded.get(key)
        if known is None or not code.startswith(known[0]):
            try:
                d = decode(code, bool(code32), cpu.lineage)
            except (NeedMore, TooLong):
                raise NeedExact from None
            if len(self._decoded) >= _MOST:
                self._decoded.clear()
            known = self._decoded[key] = code[: d.length], d
        made = InsnRecord(known[1], eip, known[0])
        made.memory, made.start, made.end = page.memory, at, at + len(known[0])
        context = self.context()
        if len(context) >= _MOST:
            context.clear()
        context[eip] = made
        return made

    def fetch_exact(self, eip: int, override: bytes) -> InsnRecord:
        """Exact mode: fetch with every check; bytes of ``override`` take precedence over memory.

        Raises:
            Fault, Firmware, Hypervisor, Question: at the first byte that cannot be read.
        """
        cpu = self._cpu
        code = bytearray(override)
        code32 = bool(cpu.seg_attributes[_CS] & _CODE32)
        # Its own bytes are not what an instruction touches.
        expected, cpu.journal.mmio = cpu.journal.mmio, None
        while True:
            try:
                d = decode(bytes(code), code32, cpu.lineage)
                cpu.journal.mmio = expected
                return InsnRecord(d, eip, bytes(code))
            except NeedMore:
                code += self._more(len(code))
            except TooLong:
                RULES.too_long(cpu)

    def _more(self, count: int) -> bytes:
        """Return bytes behind the first ``count``: of memory as many as one translation gives, of a device one."""
        cpu = self._cpu
        physical = RULES.fetch_address(cpu, count)
        if cpu.memory.kind(physical) is RegionKind.FIRMWARE:
            raise FirmwareReached(physical)
        page, journal = cpu.memory.page(physical // PAGE), cpu.journal
        room = journal.ahead.size if journal.ahead else RULES.fetch_room(cpu, count) if page else 1
        known = journal.replay(Input.LOAD, physical, room)
        if known is None and page is not None:
            at = page.start + physical % PAGE
            data = bytes(page.memory[at : at + room])
            journal.record(Input.LOAD, physical, room, int.from_bytes(data, "little"))
            return data
        value = known.value if known is not None else journal.load(cpu.memory, physical, 1)
        return value.to_bytes(room, "little")
