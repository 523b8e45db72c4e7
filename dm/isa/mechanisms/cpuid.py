"""Which row of the guest's CPUID table answers (SDM vol. 2, CPUID)."""

from __future__ import annotations

from dm.isa import primitives as p
from dm.microcode import Microcode, Value, procedure


def _has_subleaves(leaf: Value) -> Value:
    """Return whether ECX chooses among rows of this leaf, 1 bit."""
    range_ = (leaf >= 0xD) & (leaf <= 0x1F)
    return (leaf == 4) | (leaf == 7) | (leaf == 0xB) | range_ | (leaf == 0x8000001D)


@procedure(result=32, leaf=32, subleaf=32, which=8)
def cpuid_register(m: Microcode, leaf: Value, subleaf: Value, which: Value) -> None:
    """Return a register of CPUID (0-3 for EAX EBX ECX EDX); zero where the table says nothing.

    Leaves without subleaves stand in the table once, for every ECX; those with them answer unknown ones with zeros.
    """
    entry = m.var(64, m.call(p.CPUID_ENTRY, leaf, subleaf, which))
    with m.If(~entry.v.bit(32) & ~_has_subleaves(leaf)):
        entry.v = m.call(p.CPUID_ENTRY, leaf, 0, which)
    m.return_(entry.v.trunc(32))
