"""Architectural cells as microcode sees them: the state table (:data:`dm.machine.state.FIELDS`) in the engines' form.

RIP and RFLAGS are the two that differ: engines keep EIP, and EFLAGS without its arithmetic bits (dm.isa.flags).
"""

from __future__ import annotations

from typing import Final

from dm.machine.state import FIELDS
from dm.microcode import Field

_STATE: Final = {
    row.name: Field(row.name, row.width if row.width in (1, 8, 16, 32, 64) else 8, row.count)
    for row in FIELDS
    if row.name not in ("gpr", "rip", "rflags", "fxsave")
}


def cell(name: str) -> Field:
    """Return the cell of a state-table row, ``seg.base`` and the like for parts of a segment.

    Widths that are not a power of two (CPL, shadow) are held in 8 bits.
    """
    return _STATE[name]


#: EFLAGS without the six arithmetic flags (those bits are zero here).
FLAGS: Final = Field("flags", 32)
#: EIP; at the start of an instruction its own address, set by whatever transfers control through CHECKPOINT.
EIP: Final = Field("eip", 32)
