"""What microcode asks of an engine: memory, ports, MSRs, time, and what it derives from segments and paging.

Addresses are (segment number, 32-bit offset), never linear, except for the ``*_system`` accesses, which are supervisor
accesses to a linear address whatever CPL is (descriptor tables, TSS; SDM vol. 3A, 4.6.1), and the ``*_physical`` ones
of the page walk.  An access that must ask a question abandons the instruction, which is run again with the answer.
"""

from __future__ import annotations

from typing import Final

from dm.microcode import Primitive

_WIDTHS = (8, 16, 32, 64)

#: Read ``width`` bits: all segment and page checks, (seg, offset).
LOAD: Final = {w: Primitive(f"load{w}", (8, 32), w, aborts=True) for w in _WIDTHS}
#: Write: all checks before the first byte, (seg, offset, value).
STORE: Final = {w: Primitive(f"store{w}", (8, 32, w), aborts=True, stores=True) for w in _WIDTHS}
#: Begin a read-modify-write: checks as for a write, gives the old value, (seg, offset).
RMW: Final = {w: Primitive(f"rmw{w}", (8, 32), w, aborts=True) for w in _WIDTHS}
#: End it with the new value; cannot fault.
RMW_END: Final = {w: Primitive(f"rmw_end{w}", (w,), stores=True) for w in _WIDTHS}
#: The same, atomic against other CPUs: the end compares and swaps, and on failure the instruction starts over.
RMW_LOCKED: Final = {w: Primitive(f"rmw_locked{w}", (8, 32), w, aborts=True) for w in _WIDTHS}
RMW_LOCKED_END: Final = {w: Primitive(f"rmw_locked_end{w}", (w,), stores=True) for w in _WIDTHS}
#: Check that a write of ``size`` bytes would succeed (seg, offset, size).
PROBE_WRITE: Final = Primitive("probe_write", (8, 32, 32), aborts=True)
#: Check that a read of ``size`` bytes would succeed (seg, offset, size).
PROBE_READ: Final = Primitive("probe_read", (8, 32, 32), aborts=True)

LOAD_SYSTEM: Final = {w: Primitive(f"load_system{w}", (32,), w, aborts=True) for w in _WIDTHS}
STORE_SYSTEM: Final = {w: Primitive(f"store_system{w}", (32, w), aborts=True, stores=True) for w in _WIDTHS}
#: Atomic OR / AND of a byte at a linear address (accessed and busy bits), (linear, mask).
OR_SYSTEM8: Final = Primitive("or_system8", (32, 8), aborts=True, stores=True)
AND_SYSTEM8: Final = Primitive("and_system8", (32, 8), aborts=True, stores=True)

#: Guest-physical address of a linear one, paging on or off: (linear, access as dm.isa.mechanisms.paging has it).
TRANSLATE: Final = Primitive("translate", (32, 8), 64, aborts=True)
#: Page walk: read an entry; replace it if unchanged (1 when done).
LOAD_PHYSICAL: Final = {w: Primitive(f"load_physical{w}", (64,), w, aborts=True) for w in (32, 64)}
SWAP_PHYSICAL: Final = {w: Primitive(f"swap_physical{w}", (64, w, w), 1, aborts=True) for w in (32, 64)}

PORT_IN: Final = {w: Primitive(f"port_in{w}", (16,), w, aborts=True) for w in (8, 16, 32)}
PORT_OUT: Final = {w: Primitive(f"port_out{w}", (16, w), aborts=True) for w in (8, 16, 32)}
#: Block INS: (port, offset in ES, wanted elements, 1 when DF, 1 when 32-bit addresses) -> elements moved, at least 1.
#: Asks the port only for elements whose destination is proven writable; the caller updates the registers.
PORT_IN_BLOCK: Final = {
    w: Primitive(f"port_in_block{w}", (16, 32, 32, 1, 1), 32, aborts=True, stores=True) for w in (8, 16, 32)
}
#: Block OUTS: (port, seg, offset, wanted elements, DF, 32-bit addresses) -> elements moved, at least 1.
PORT_OUT_BLOCK: Final = {
    w: Primitive(f"port_out_block{w}", (16, 8, 32, 32, 1, 1), 32, aborts=True) for w in (8, 16, 32)
}

#: REP MOVS, STOS and LODS between memory and a device: as many elements at once as can be moved, 0 where that is not
#: possible or one side is no device; the caller then moves a single one.  They never fault after having done something.
#: (seg and offset of the destination, seg and offset of the source, wanted elements, DF, 32-bit addresses)
MOVE_BLOCK: Final = {w: Primitive(f"move_block{w}", (8, 32, 8, 32, 32, 1, 1), 32, aborts=True) for w in (8, 16, 32)}
#: (seg, offset, value, wanted elements, DF, 32-bit addresses)
FILL_BLOCK: Final = {w: Primitive(f"fill_block{w}", (8, 32, w, 32, 1, 1), 32, aborts=True) for w in (8, 16, 32)}
#: (seg, offset, wanted elements, DF, 32-bit addresses) -> elements read << 32 | the last one
READ_BLOCK: Final = {w: Primitive(f"read_block{w}", (8, 32, 32, 1, 1), 64, aborts=True) for w in (8, 16, 32)}

#: MSRs that are not in the state table: asked of the hypervisor; its refusal is #GP(0).
MSR_READ: Final = Primitive("msr_read", (32,), 64, aborts=True)
MSR_WRITE: Final = Primitive("msr_write", (32, 64), aborts=True)
#: Guest time-stamp counter.
TSC_READ: Final = Primitive("tsc_read", (), 64, aborts=True)
#: The guest wrote its TSC.
TSC_WRITE: Final = Primitive("tsc_write", (64,), changes=True)
#: A row of the guest's CPUID table: (leaf, subleaf, 0-3 for EAX EBX ECX EDX) -> the register, and bit 32 set; 0 where
#: there is no such row.
CPUID_ENTRY: Final = Primitive("cpuid_entry", (32, 32, 8), 64)
#: 64 random bits.
RANDOM: Final = Primitive("random", (), 64, aborts=True)

#: MFENCE: earlier stores become visible to other CPUs before later loads are made.
FENCE: Final = Primitive("fence", ())

#: The hidden part of a segment register changed: recompute what is derived from it (seg).
SEGMENT_CHANGED: Final = Primitive("segment_changed", (8,), changes=True)
#: Paging, or a bit that the TLB depends on, changed (CR0, CR3, CR4, EFER): drop all translations.  Those of global
#: pages too: a processor may drop any at any time (SDM vol. 3A, 4.10.2.4 and 4.10.4.2), so no guest can tell.
TLB_FLUSH: Final = Primitive("tlb_flush", (), changes=True)
#: INVLPG of a linear address.
TLB_FLUSH_PAGE: Final = Primitive("tlb_flush_page", (32,), changes=True)
#: What has been done so far stays done, whatever follows (task switch past its commit point).
COMMIT: Final = Primitive("commit", (), commits=True)
#: If this instruction faults from here on, what it has stored by then and the general registers it has set are kept;
#: the rest of the state is restored.
KEEP: Final = Primitive("keep", (), exact=True)
