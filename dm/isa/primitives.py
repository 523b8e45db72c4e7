"""What microcode asks of an engine: memory, ports, MSRs, time, and what it derives from segments and paging.

Each is declared here once.  What engines have for it is printed or checked from here: prototypes and macros of the
native engine (dm.engine.native.macros), calls in the Python engine (dm.engine.python_engine.translate), its machine and
that of the tests.

Addresses are (segment number, 32-bit offset), never linear, except for the ``*_system`` accesses, which are supervisor
accesses to a linear address whatever CPL is (descriptor tables, TSS; SDM vol. 3A, 4.6.1), and the ``*_physical`` ones
of the page walk.  An access that must ask a question abandons the instruction, which is run again with the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dm.microcode import EACH, Does, Primitive, family, primitive

_WIDTHS = (8, 16, 32, 64)
_ACCESS = Does.FAULT | Does.ASK

#: Read: all segment and page checks.
LOAD: Final = family("load", _WIDTHS, _ACCESS, EACH, seg=8, offset=32)
#: Write: all checks before the first byte.
STORE: Final = family("store", _WIDTHS, _ACCESS | Does.STORE, seg=8, offset=32, value=EACH)
#: Begin a read-modify-write: checks as for a write, gives the old value.
RMW: Final = family("rmw", _WIDTHS, _ACCESS, EACH, seg=8, offset=32)
#: End it with the new value; cannot fault.
RMW_END: Final = family("rmw_end", _WIDTHS, Does.STORE, value=EACH)
#: The same, atomic against other CPUs: the end compares and swaps, and on failure the instruction starts over.
RMW_LOCKED: Final = family("rmw_locked", _WIDTHS, _ACCESS, EACH, seg=8, offset=32)
RMW_LOCKED_END: Final = family("rmw_locked_end", _WIDTHS, Does.STORE, value=EACH)
#: Check that a write of ``size`` bytes would succeed.
PROBE_WRITE: Final = primitive("probe_write", _ACCESS, seg=8, offset=32, size=32)
#: Check that a read of ``size`` bytes would succeed.
PROBE_READ: Final = primitive("probe_read", _ACCESS, seg=8, offset=32, size=32)

LOAD_SYSTEM: Final = family("load_system", _WIDTHS, _ACCESS, EACH, linear=32)
STORE_SYSTEM: Final = family("store_system", _WIDTHS, _ACCESS | Does.STORE, linear=32, value=EACH)
#: Atomic OR / AND of a byte at a linear address (accessed and busy bits).
OR_SYSTEM8: Final = primitive("or_system8", _ACCESS | Does.STORE, linear=32, mask=8)
AND_SYSTEM8: Final = primitive("and_system8", _ACCESS | Does.STORE, linear=32, mask=8)

#: Guest-physical address of a linear one, paging on or off; ``access`` as dm.isa.mechanisms.paging has it.
TRANSLATE: Final = primitive("translate", _ACCESS, 64, linear=32, access=8)
#: Page walk: read an entry; replace it if unchanged (1 when done).
LOAD_PHYSICAL: Final = family("load_physical", (32, 64), Does.ASK, EACH, physical=64)
SWAP_PHYSICAL: Final = family("swap_physical", (32, 64), Does.ASK, 1, physical=64, old=EACH, new=EACH)

PORT_IN: Final = family("port_in", (8, 16, 32), Does.OUTSIDE, EACH, port=16)
PORT_OUT: Final = family("port_out", (8, 16, 32), Does.OUTSIDE, port=16, value=EACH)
#: Block INS to ES:offset: ``wanted`` elements, ``down`` when DF is set, ``wide`` with 32-bit addresses.  Gives how many
#: it has moved, at least 1.  Asks the port only for elements whose destination is proven writable; the caller updates
#: the registers.
PORT_IN_BLOCK: Final = family(
    "port_in_block",
    (8, 16, 32),
    Does.FAULT | Does.OUTSIDE | Does.STORE,
    32,
    port=16,
    offset=32,
    wanted=32,
    down=1,
    wide=1,
)
#: Block OUTS, likewise.
PORT_OUT_BLOCK: Final = family(
    "port_out_block",
    (8, 16, 32),
    Does.FAULT | Does.OUTSIDE,
    32,
    port=16,
    seg=8,
    offset=32,
    wanted=32,
    down=1,
    wide=1,
)

#: REP MOVS, STOS and LODS between memory and a device: as many elements at once as can be moved, 0 where that is not
#: possible or one side is no device; the caller then moves a single one.  They never fault after having done something.
MOVE_BLOCK: Final = family(
    "move_block", (8, 16, 32), _ACCESS, 32, to_seg=8, to=32, from_seg=8, offset=32, wanted=32, down=1, wide=1
)
FILL_BLOCK: Final = family(
    "fill_block", (8, 16, 32), _ACCESS, 32, seg=8, offset=32, value=EACH, wanted=32, down=1, wide=1
)
#: Gives elements read << 32 | the last one.
READ_BLOCK: Final = family("read_block", (8, 16, 32), _ACCESS, 64, seg=8, offset=32, wanted=32, down=1, wide=1)

#: MSRs that are not in the state table: asked of the hypervisor; its refusal is #GP(0).
MSR_READ: Final = primitive("msr_read", Does.FAULT | Does.OUTSIDE, 64, number=32)
MSR_WRITE: Final = primitive("msr_write", Does.FAULT | Does.OUTSIDE, number=32, value=64)
#: Guest time-stamp counter.
TSC_READ: Final = primitive("tsc_read", Does.OUTSIDE, 64)
#: The guest wrote its TSC.
TSC_WRITE: Final = primitive("tsc_write", Does.CHANGE, value=64)
#: A row of the guest's CPUID table, ``which`` being 0-3 for EAX EBX ECX EDX: the register with bit 32 set,
#: 0 where there is no such row.
CPUID_ENTRY: Final = primitive("cpuid_entry", Does.NOTHING, 64, leaf=32, subleaf=32, which=8)
#: 64 random bits.
RANDOM: Final = primitive("random64", Does.OUTSIDE, 64)

#: MFENCE: earlier stores become visible to other CPUs before later loads are made.
FENCE: Final = primitive("fence")

#: The hidden part of a segment register changed: recompute what is derived from it.
SEGMENT_CHANGED: Final = primitive("segment_changed", Does.CHANGE, seg=8)
#: Paging, or a bit that the TLB depends on, changed (CR0, CR3, CR4, EFER): drop all translations.  Those of global
#: pages too: a processor may drop any at any time (SDM vol. 3A, 4.10.2.4 and 4.10.4.2), so no guest can tell.
TLB_FLUSH: Final = primitive("tlb_flush", Does.CHANGE)
#: INVLPG of a linear address.
TLB_FLUSH_PAGE: Final = primitive("tlb_flush_page", Does.CHANGE, linear=32)
#: What has been done so far stays done, whatever follows (task switch past its commit point).
COMMIT: Final = primitive("commit", Does.COMMIT)
#: If this instruction faults from here on, what it has stored by then and the general registers it has set are kept;
#: the rest of the state is restored.
KEEP: Final = primitive("keep", Does.UNDO)


def primitives() -> Iterator[Primitive]:
    """Yield every primitive, families member by member, in the order of their declarations."""
    for value in globals().values():
        if isinstance(value, Primitive):
            yield value
        elif isinstance(value, dict) and value and all(isinstance(one, Primitive) for one in value.values()):
            yield from value.values()
