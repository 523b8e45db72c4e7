"""The machine that compiled descriptions work on: cells, memory, ports, and everything else that primitives need."""

from __future__ import annotations

import os
from typing import Final

from dm.engine.api import CpuConfig, MemoryMap
from dm.engine.parts import identity
from dm.engine.python_engine.cells import Saved
from dm.engine.python_engine.guest_memory import GuestMemory
from dm.engine.python_engine.host_tsc import host_tsc
from dm.engine.python_engine.journal import Input, Journal
from dm.engine.python_engine.signals import NeedExact
from dm.engine.python_engine.strings import Strings
from dm.engine.python_engine.translate import RULES
from dm.machine.state import State

M64: Final = 0xFFFFFFFFFFFFFFFF


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
        part = identity(config)
        self._cpuid = part.cpuid
        self.features, self.more_features = part.features, part.more_features
        self.vendor, self.model, self.lineage = part.vendor, part.model, part.lineage
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
        for seg in range(len(self.seg_base)):
            RULES.derive_segment(self, seg)
        self.refresh()

    def refresh(self) -> None:
        """Recompute what follows from mode and privilege."""
        if (open_ := RULES.smap_suspended(self)) != self._smap_open:
            self._smap_open = open_
            self.forget_translations()
        if (checked := RULES.segments_checked(self)) != self._segments_checked:
            self._segments_checked = checked
            for seg in range(len(self.seg_base)):
                RULES.derive_segment(self, seg)
        self.use_tables()

    _segments_checked = 0
    _smap_open = 0

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
        RULES.derive_segment(self, seg)

    def tlb_flush(self) -> None:
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

    def random64(self) -> int:
        """Return 64 random bits."""
        if not self.recording:
            raise NeedExact
        known = self.journal.replay(Input.RANDOM, 0, 8)
        if known is None:
            known = self.journal.record(Input.RANDOM, 0, 8, int.from_bytes(os.urandom(8), "little"))
        return known.value

    def cpuid_entry(self, leaf: int, subleaf: int, which: int) -> int:
        """Return a register of a row of the guest's table with bit 32 set, 0 when there is no such row."""
        row = self._cpuid.get((leaf, subleaf))
        return row[which & 3] | 1 << 32 if row else 0
