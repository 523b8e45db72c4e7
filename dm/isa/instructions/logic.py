"""Bitwise logic (SDM vol. 2, AND OR XOR NOT TEST)."""

from __future__ import annotations

from collections.abc import Callable
from operator import and_, or_, xor

from dm.isa import flags
from dm.isa.insn import Insn, Operand, instruction
from dm.microcode import Value


def _logic(x: Insn, dst: Operand, src: Operand, operation: Callable[[Value, Value], Value]) -> None:
    b = src.read()
    result = operation(dst.read_modify(), b)
    dst.write_back(result)
    flags.logic(x.m, result)


@instruction()
def AND(x: Insn, dst: Operand, src: Operand) -> None:
    """Bitwise and."""
    _logic(x, dst, src, and_)


@instruction()
def OR(x: Insn, dst: Operand, src: Operand) -> None:
    """Bitwise or."""
    _logic(x, dst, src, or_)


@instruction()
def XOR(x: Insn, dst: Operand, src: Operand) -> None:
    """Bitwise exclusive or."""
    _logic(x, dst, src, xor)


@instruction()
def NOT(x: Insn, dst: Operand) -> None:
    """Invert every bit; no flag changes."""
    dst.write_back(~dst.read_modify())


@instruction()
def TEST(x: Insn, dst: Operand, src: Operand) -> None:
    """And, keeping the flags only."""
    b = src.read()
    flags.logic(x.m, dst.read() & b)
