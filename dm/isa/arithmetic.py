"""Addition, subtraction, comparison (SDM vol. 2, ADD ADC SUB SBB CMP INC DEC NEG XADD CMPXCHG CMPXCHG8B)."""

from __future__ import annotations

from dm.isa import flags
from dm.isa.insn import Insn, Operand, instruction


@instruction()
def ADD(x: Insn, dst: Operand, src: Operand) -> None:
    """Add."""
    b = src.read()
    a = dst.read_modify()
    result = a + b
    dst.write_back(result)
    flags.add(x.m, a, b, result)


@instruction()
def ADC(x: Insn, dst: Operand, src: Operand) -> None:
    """Add with carry."""
    b = src.read()
    a = dst.read_modify()
    result = a + b + flags.carry(x.m).zext(a.width)
    dst.write_back(result)
    flags.add(x.m, a, b, result)
