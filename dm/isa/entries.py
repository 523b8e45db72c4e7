"""The procedures that engines call by name.

They are whatever is x86 in what surrounds an instruction, so that no engine has rules of its own.
"""

from __future__ import annotations

from typing import Final

from dm.isa import flags
from dm.isa.instructions import msr
from dm.isa.mechanisms import access, boundary, debug, events, fetch
from dm.machine import rules
from dm.microcode import Procedure

#: Called between instructions, at the engine's border, or where the fast path ends.
ENTRIES: Final[tuple[Procedure, ...]] = (
    # accesses
    access.derive_segment,
    access.check_segment,
    access.data_access,
    access.change_access,
    access.probe_access,
    access.system_access,
    access.physical_address,
    access.elements_in_line,
    debug.port_breakpoints,
    msr.msr_refused,
    # fetching
    fetch.fetch_address,
    fetch.fetch_room,
    fetch.too_long,
    fetch.no_such_opcode,
    # events
    events.raise_exception,
    events.deliver,
    boundary.boundary,
    # the state
    flags.join_eflags,
    flags.split_eflags,
    rules.enterable,
)
#: Called so often that the native engine has them in a header: they compute, and call only each other.
INLINE: Final[tuple[Procedure, ...]] = (
    access.beyond_read,
    access.beyond_write,
    access.beyond_change,
    access.linear_address,
    access.privilege,
    access.translated,
    access.undisturbed,
    access.segments_checked,
    access.smap_suspended,
    fetch.beyond_code,
    fetch.code_linear,
    debug.watched,
    debug.begin_instruction,
    debug.branch_taken,
    boundary.retire,
    events.is_hypervisors,
)
