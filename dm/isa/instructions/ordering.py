"""Memory ordering and caches (SDM vol. 2, LFENCE SFENCE MFENCE SERIALIZE CLFLUSH CLFLUSHOPT CLWB)."""

from __future__ import annotations

from dm.isa import primitives as p
from dm.isa.insn import Insn, Memory, Operand, instruction


@instruction()
def SERIALIZE(x: Insn) -> None:
    """Instructions are executed in order anyway; earlier stores become visible before later loads."""
    x.m.call(p.FENCE)


@instruction("LFENCE", "SFENCE")
def LFENCE(x: Insn, _: Operand) -> None:
    """Loads, and stores, are made in program order anyway."""


@instruction()
def MFENCE(x: Insn, _: Operand) -> None:
    """Make earlier stores visible before later loads."""
    x.m.call(p.FENCE)


@instruction("CLFLUSH", "CLFLUSHOPT", "CLWB")
def CLFLUSH(x: Insn, line: Memory) -> None:
    """Caches are not modelled; the address is checked as that of a byte read."""
    x.m.call(p.PROBE_READ, line.segment, line.offset(), 1)
