"""Miscellaneous instructions (SDM vol. 1, 5.1.15): NOP, PAUSE and UD."""

from __future__ import annotations

from dm.isa.insn import Insn, Operand, instruction
from dm.machine.architecture import Vector


@instruction("NOP", "PAUSE")
def NOP(x: Insn, _: Operand | None = None) -> None:
    """Nothing; the operand of the long forms is not accessed."""


@instruction("UD0", "UD1", "UD2", "UD")
def UD(x: Insn, *_: Operand) -> None:
    """Always #UD."""
    x.fault(Vector.UD, 0, "UNDEFINED")
