"""Multiplication and division (SDM vol. 2, MUL IMUL DIV IDIV)."""

from __future__ import annotations

from dm.isa import flags
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Operand, instruction
from dm.machine.architecture import Vector
from dm.microcode import Value


def _read_double(x: Insn, width: int) -> Value:
    """Return AX, DX:AX or EDX:EAX as a value of twice ``width``."""
    if width == 8:
        return x.register(0, 16).read()
    low, high = x.register(0, width).read(), x.register(2, width).read()
    return low.zext(2 * width) | (high.zext(2 * width) << width)


def _write_double(x: Insn, low: Value, high: Value) -> None:
    """Set AH:AL, DX:AX or EDX:EAX."""
    x.register(0, low.width).write(low)
    x.register(4 if low.width == 8 else 2, low.width).write(high)


def _high(value: Value) -> Value:
    half = value.width // 2
    return (value >> half).trunc(half)


def _multiplied(x: Insn, low: Value, lost: Value) -> None:
    """Set CF and OF; of the rest Intel's parts set SF and PF by the low half and clear ZF, AMD's change nothing."""
    m = x.m
    with m.If(is_amd(m)):
        flags.set_carry_overflow(m, lost, lost)
    with m.Else():
        flags.result_only(m, flags.nonzero(m, low), lost, lost)


@instruction()
def MUL(x: Insn, accumulator: Operand, src: Operand) -> None:
    """Unsigned multiplication into the double-width accumulator."""
    width = src.width
    product = src.read().zext(2 * width) * accumulator.read().zext(2 * width)
    low, high = product.trunc(width), _high(product)
    _write_double(x, low, high)
    _multiplied(x, low, high.nz())


@instruction()
def IMUL(x: Insn, dst: Operand, src: Operand, factor: Operand | None = None) -> None:
    """Signed multiplication: into the double-width accumulator, or (Gv,Ev[,I]) into a register of single width."""
    width = src.width
    a = src.read()
    b = (factor or dst).read()
    product = a.sext(2 * width) * b.sext(2 * width)
    low = product.trunc(width)
    if x.row.operands[0] in ("AL", "eAX"):
        _write_double(x, low, _high(product))
    else:
        dst.write(low)
    _multiplied(x, low, low.sext(2 * width) != product)


def _divisor(x: Insn, src: Operand) -> Value:
    divisor = src.read()
    x.fault_if(divisor == 0, Vector.DE, 0, "DIVIDE_BY_ZERO")
    return divisor


@instruction()
def DIV(x: Insn, accumulator: Operand, src: Operand) -> None:
    """Unsigned division of the double-width accumulator; flags stay, as Intel's do (undefined)."""
    width = src.width
    divisor = _divisor(x, src).zext(2 * width)
    dividend = _read_double(x, width)
    quotient = dividend.udiv(divisor)
    x.fault_if(_high(quotient) != 0, Vector.DE, 0, "DIVIDE_OVERFLOW")
    _write_double(x, quotient.trunc(width), dividend.urem(divisor).trunc(width))


@instruction()
def IDIV(x: Insn, accumulator: Operand, src: Operand) -> None:
    """Signed division of the double-width accumulator; flags stay, as Intel's do (undefined)."""
    width = src.width
    divisor = _divisor(x, src).sext(2 * width)
    dividend = _read_double(x, width)
    quotient = dividend.sdiv(divisor)
    x.fault_if(quotient.trunc(width).sext(2 * width) != quotient, Vector.DE, 0, "DIVIDE_OVERFLOW")
    _write_double(x, quotient.trunc(width), dividend.srem(divisor).trunc(width))
