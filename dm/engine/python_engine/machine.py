"""The machine that compiled descriptions work on: cells, memory, ports, and everything else that primitives need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from dm.engine.api import CpuConfig, MemoryMap
from dm.engine.python_engine.cells import Saved
from dm.engine.python_engine.host_tsc import host_tsc
from dm.engine.python_engine.journal import Input, Journal
from dm.engine.python_engine.memory import GuestMemory
from dm.engine.python_engine.signals import NeedExact
from dm.engine.python_engine.strings import Strings
from dm.isa import features
from dm.isa.lineage import lineage
from dm.isa.parts import DEFAULT_CPUID
from dm.machine.state import State

M64: Final = 0xFFFFFFFFFFFFFFFF
_PE, _AM, _AC, _VM = 1, 1 << 18, 1 << 18, 1 << 17
_SMAP: Final = 1 << 21
_SS: Final = 2

Cpuid = Mapping[tuple[int, int], tuple[int, int, int, int]]


def cpuid_table(config: CpuConfig) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """Return the guest's CPUID table: (leaf, subleaf) -> EAX EBX ECX EDX."""
    if not config.cpuid:
        return dict(DEFAULT_CPUID)
    return {(row.leaf, row.subleaf): (row.eax, row.ebx, row.ecx, row.edx) for row in config.cpuid}


def _has_subleaves(leaf: int) -> bool:
    return leaf in (4, 7, 0xB, 0x8000001D) or 0xD <= leaf <= 0x1F


class Machine(Strings):
    """One virtual CPU's cells and what surrounds it.  Handlers are called with it.

    A configuration with an unknown model raises ValueError.  Primitives that need the journal raise NeedExact outside a
    transaction, so that the instruction is started over as one.
    """

    #: REP iterations that the last handler made.
    repeated = 0
    delivering = 0
    #: A fault from now on keeps stores and general registers.
    keeping = False

    def __init__(self, config: CpuConfig) -> None:
        super().__init__()
        if config.model not in features.MODELS:
            raise ValueError(f"CPU model {config.model!r}, one of {sorted(features.MODELS)} is needed")
        table = cpuid_table(config)
        self._cpuid = table
        mask = features.feature_mask(table)
        self.features, self.more_features = mask & M64, mask >> 64
        self.vendor = features.vendor(table)
        self.model = features.MODELS[config.model]
        self.lineage = lineage(self.model, self.vendor)
        self.copies = config.copies
        self.memory = GuestMemory(MemoryMap(0, ()))
        self.journal = Journal()
        self.written = set()
        self.posted = []
        #: The guest flushed or changed paging since the last report.
        self.flushed = False
        self.saved: Saved
        self.load_state(State.reset())
        self.derive()

    # modes

    def derive(self) -> None:
        """Recompute everything that follows from the cells."""
        self.read_top = [-1] * 8
        self.write_top = [-1] * 8
        for seg in range(8):
            self._set_tops(seg)
        self.stack_mask = 0xFFFFFFFF if self.seg_attributes[_SS] & 0x4000 else 0xFFFF
        self.refresh()

    def refresh(self) -> None:
        """Recompute what follows from mode and privilege."""
        mode = self.cr0 & _PE, self.flags & _VM
        open_ = self.flags & _AC if self.cr4 & _SMAP else 0
        if open_ != self._open_users:  # EFLAGS.AC decides whether the supervisor may touch user pages
            self._open_users = open_
            self.forget_translations()
        if mode != self._mode:
            self._mode = mode
            for seg in range(8):
                self._set_tops(seg)
        self.align_check = self.cpl == 3 and bool(self.cr0 & _AM and self.flags & _AC)
        self.use_tables()

    _mode = (0, 0)
    _open_users = 0

    def _set_tops(self, seg: int) -> None:
        # What these do not allow is checked again by segment_check.
        attributes = self.seg_attributes[seg]
        code, bit1 = attributes & 8, attributes & 2
        is_protected = self.cr0 & _PE and not self.flags & _VM
        usable = not self.seg_unusable[seg] and attributes & 0x80 and (code or not attributes & 4)
        limit = self.seg_limit[seg]
        self.read_top[seg] = limit if usable and (not code or bit1 or not is_protected) else -1
        self.write_top[seg] = limit if usable and (not is_protected if code else bit1) else -1

    def begin_exact(self) -> None:
        """Enter exact mode; a replay starts at the journal's beginning."""
        self.journal.rewind()
        self.recording = True
        self.keeping = False
        self.use_tables()

    def end_exact(self) -> None:
        """Leave it."""
        self.recording = False
        self.use_tables()

    # primitives

    def segment_changed(self, seg: int) -> None:
        """The hidden part of a segment register changed."""
        self._set_tops(seg)
        if seg == _SS:
            self.stack_mask = 0xFFFFFFFF if self.seg_attributes[_SS] & 0x4000 else 0xFFFF

    def tlb_flush(self, everything: int) -> None:
        """Paging, or what the TLB depends on, changed."""
        self.flushed = True
        self.forget_translations()

    def tlb_flush_page(self, linear: int) -> None:
        """INVLPG."""
        self.flushed = True
        self.forget_translation(linear)

    def fence(self) -> None:
        """Earlier stores are visible before later loads: they are, always."""

    def commit(self) -> None:
        """Make what was done so far final: a later fault returns to here.  On replay it has been done before."""
        if not self.recording:
            raise NeedExact
        journal = self.journal
        done = next((n for n, e in enumerate(journal.entries) if n >= journal.cursor and e.kind is Input.COMMIT), None)
        if done is None:
            journal.commit(self.memory, self.written, self.posted)
            journal.record(Input.COMMIT, 0, 0, 0)
        else:
            journal.cursor = done + 1
            journal.stores.clear()
        self.saved = self.save()

    def keep(self) -> None:
        """Keep stores made so far, and general registers, if the instruction faults from here on."""
        if not self.recording:
            raise NeedExact
        self.keeping = True

    def tsc_read(self) -> int:
        """Return the guest's time; virtual time (tsc_host 0) advances by one tick per reading."""
        if not self.recording:
            raise NeedExact
        known = self.journal.replay(Input.TSC, 0, 8)
        if known is None:
            if self.tsc_host:
                past = host_tsc() - self.tsc_host & M64
                if past >> 63:  # the hypervisor's clock is ahead of ours: guest time does not go backwards
                    past = 0
                now = self.tsc + (past * self.tsc_scale >> 32) & M64
            else:
                now = self.tsc + 1 & M64
            known = self.journal.record(Input.TSC, 0, 8, now)
        if not self.tsc_host:
            self.tsc = known.value
        return known.value

    def tsc_write(self, value: int) -> None:
        """The guest set its time."""
        self.tsc = value
        if self.tsc_host:
            self.tsc_host = host_tsc()

    def random(self) -> int:
        """Return 64 random bits."""
        if not self.recording:
            raise NeedExact
        known = self.journal.replay(Input.RANDOM, 0, 8)
        if known is None:
            known = self.journal.record(Input.RANDOM, 0, 8, int.from_bytes(os.urandom(8), "little"))
        return known.value

    def cpuid_read(self, leaf: int, subleaf: int, which: int) -> int:
        """Return a register of CPUID."""
        table = self._cpuid
        row = table.get((leaf, subleaf))
        if row is None and not _has_subleaves(leaf):
            row = table.get((leaf, 0))
        return row[which & 3] if row else 0
