"""Decimal adjustment (SDM vol. 2, DAA DAS AAA AAS AAM AAD)."""

from __future__ import annotations

from dm.isa import flags
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Operand, instruction
from dm.machine.architecture import Vector


def _packed(x: Insn, subtract: bool) -> None:
    m = x.m
    register = x.register(0, 8)
    al, cf = register.read(), flags.carry(m)
    low = (al & 15) > 9
    adjust = low | flags.adjust(m)
    high = (al > 0x99) | cf
    correction = m.select(adjust, m.const(8, 6), m.const(8, 0)) + m.select(high, m.const(8, 0x60), m.const(8, 0))
    result = al - correction if subtract else al + correction
    # DAS alone can also borrow in its first step: from AL below 6 with AF set.
    carry = high | (adjust & (al < 6)) if subtract else high
    register.write(result)
    # OF is undefined: that of the correction on AMD's parts, clear on Intel's.
    turned = (al ^ correction) & (al ^ result) if subtract else (al ^ result) & (correction ^ result)
    flags.result_only(m, result, carry, is_amd(m) & turned.msb(), adjust)


@instruction()
def DAA(x: Insn) -> None:
    """Adjust AL after the addition of packed decimals."""
    _packed(x, subtract=False)


@instruction()
def DAS(x: Insn) -> None:
    """Adjust AL after the subtraction of packed decimals."""
    _packed(x, subtract=True)


def _unpacked(x: Insn, subtract: bool) -> None:
    m = x.m
    register = x.register(0, 16)
    ax = register.read()
    adjust = ((ax & 15) > 9) | flags.adjust(m)
    correction = m.select(adjust, m.const(16, 0x106), m.const(16, 0))
    if subtract:
        # AL borrows from AH, and AH loses one more.
        result = ax - correction
    else:
        result = ax + correction
    register.write(result & 0xFF0F)
    flags.result_only(m, (result & 15).trunc(8), adjust, m.const(1, 0), adjust)


@instruction()
def AAA(x: Insn) -> None:
    """Adjust AX after the addition of unpacked decimals."""
    _unpacked(x, subtract=False)


@instruction()
def AAS(x: Insn) -> None:
    """Adjust AX after the subtraction of unpacked decimals."""
    _unpacked(x, subtract=True)


@instruction()
def AAM(x: Insn, base: Operand) -> None:
    """Split AL into AH (quotient by the base, 10 usually) and AL (remainder)."""
    m = x.m
    divisor = base.read()
    x.fault_if(divisor == 0, Vector.DE, 0, "DIVIDE_BY_ZERO")
    al = x.register(0, 8).read()
    remainder = al.urem(divisor)
    x.register(4, 8).write(al.udiv(divisor))
    x.register(0, 8).write(remainder)
    flags.result_only(m, remainder, m.const(1, 0), m.const(1, 0))


@instruction()
def AAD(x: Insn, base: Operand) -> None:
    """Join AH and AL into AL = AH * base + AL; AH = 0.  Flags are the addition's (CF OF AF undefined, measured)."""
    al, product = x.register(0, 8).read(), x.register(4, 8).read() * base.read()
    result = al + product
    x.register(0, 16).write(result.zext(16))
    flags.add(x.m, al, product, result)
