"""The machine's cells: every architectural field in the form microcode uses, and its conversion to and from State."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from dm.engine.python_engine.translate import RULES
from dm.machine import x87
from dm.machine.state import FIELDS, Segment, State

M32: Final = 0xFFFFFFFF

_SEGMENT_PARTS: Final = ("selector", "base", "limit", "attributes", "unusable")
_SPECIAL: Final = frozenset({"gpr", "rip", "rflags", "fxsave"})
_SCALARS: Final = tuple(row.name for row in FIELDS if row.count == 0 and row.name not in _SPECIAL)
_ARRAYS: Final = tuple(row.name for row in FIELDS if row.count and "." not in row.name and row.name not in _SPECIAL)
_OWN_SCALARS: Final = (*_SCALARS, "eip", "flags", "fr", "fc", "shadow_next")
_OWN_ARRAYS: Final = (*_ARRAYS, "gpr32", "gpr_high", "fxsave", *(f"seg_{part}" for part in _SEGMENT_PARTS))
_get_scalars: Final = attrgetter(*_OWN_SCALARS)
_get_arrays: Final = attrgetter(*_OWN_ARRAYS)

#: What :meth:`Cells.save` returns.
Saved = tuple[tuple[int, ...], list["list[int] | bytearray"]]


class Cells:
    """All cells.  A part of a segment register is an array: ``seg_base[2]`` is the base of SS."""

    # Those that this package names; the others come from the state table.
    gpr32: list[int]
    gpr_high: list[int]
    fxsave: bytearray
    seg_selector: list[int]
    seg_base: list[int]
    seg_limit: list[int]
    seg_attributes: list[int]
    seg_unusable: list[int]
    dr: list[int]
    eip: int
    flags: int
    fr: int
    fc: int
    shadow: int
    shadow_next: int
    cr0: int
    cr4: int
    efer: int
    cpl: int
    dr7: int
    activity: int
    nmi_blocked: int
    nmi_pending: int
    pending_debug: int
    debugctl: int
    inject_type: int
    inject_vector: int
    inject_has_error: int
    inject_error: int
    inject_length: int
    inject_payload: int
    inject_has_payload: int
    tsc: int
    tsc_host: int
    tsc_scale: int

    def load_state(self, state: State) -> None:
        """Take all cells from a state."""
        for name in _SCALARS:
            setattr(self, name, int(getattr(state, name)))  # an IntEnum's member as its number
        for name in _ARRAYS:
            setattr(self, name, list(map(int, getattr(state, name))))
        for part in _SEGMENT_PARTS:
            setattr(self, f"seg_{part}", [int(getattr(s, part)) for s in state.seg])
        # Number 8 is "no register" of address arithmetic.
        self.gpr32 = [*(value & M32 for value in state.gpr), 0]
        self.gpr_high = [*(value >> 32 for value in state.gpr), 0]
        self.fxsave = x87.from_image(state.fxsave)
        self.eip = int(state.rip) & M32
        RULES.split_eflags(self, int(state.rflags) & M32)
        self.shadow_next = 0
        # What the cells cannot hold is returned unchanged unless the register has changed.
        self._rip = int(state.rip), self.eip
        self._rflags = int(state.rflags), self.eflags()

    def store_state(self) -> State:
        """Return the cells as a state."""
        state = State()
        for name in _SCALARS:
            setattr(state, name, getattr(self, name))
        for name in _ARRAYS:
            setattr(state, name, list(getattr(self, name)))
        parts = [getattr(self, f"seg_{part}") for part in _SEGMENT_PARTS]
        state.seg = [Segment(*values) for values in zip(*parts, strict=True)]
        state.gpr = [low | high << 32 for low, high in zip(self.gpr32[:8], self.gpr_high, strict=False)]
        state.fxsave = x87.to_image(self.fxsave)
        state.rip = self._rip[0] if self.eip == self._rip[1] else self.eip
        eflags = self.eflags()
        state.rflags = self._rflags[0] if eflags == self._rflags[1] else eflags
        return state

    def eflags(self) -> int:
        """Return EFLAGS, bit 1 set."""
        return int(RULES.join_eflags(self))

    def save(self) -> Saved:
        """Return a copy of all cells for :meth:`restore`."""
        return _get_scalars(self), [array[:] for array in _get_arrays(self)]

    def with_registers(self, saved: Saved) -> Saved:
        """Return a saved copy with the general registers as they are now."""
        arrays = [*saved[1]]
        for name in ("gpr32", "gpr_high"):
            arrays[_OWN_ARRAYS.index(name)] = getattr(self, name)[:]
        return saved[0], arrays

    def restore(self, saved: Saved) -> None:
        """Restore all cells."""
        for name, value in zip(_OWN_SCALARS, saved[0], strict=True):
            setattr(self, name, value)
        for name, array in zip(_OWN_ARRAYS, saved[1], strict=True):
            setattr(self, name, array[:])
