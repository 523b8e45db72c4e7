"""Add, subtract, multiply, divide, square root of 80 bits (SDM vol. 2A, FADD, FSUB, FMUL, FDIV, FSQRT)."""

from __future__ import annotations

from dm.isa.softfloat.formats import (
    DE,
    DOWN,
    F80,
    INFINITY,
    ZE,
    Extended,
    flag,
    pack,
    shift_right_jam,
    with_status,
)
from dm.isa.softfloat.nans import answer_nan, invalid
from dm.isa.softfloat.rounding import f80_round
from dm.microcode import Microcode, Value, procedure

_BIAS = F80.bias
_LEADING = INFINITY & (1 << 64) - 1


def _infinity(m: Microcode, sign: Value) -> Value:
    return pack(m, sign, 0x7FFF, _LEADING)


def _finish(m: Microcode, sign: Value, exponent: Value, significand: Value, control: Value, status: Value) -> None:
    """Round, pack and return with the flags that operands raised."""
    m.return_(with_status(m.call(f80_round, sign, exponent, significand, control), status))


@procedure(result=128, a=128, b=128, negate=1, control=16)
def f80_add(m: Microcode, a: Value, b: Value, negate: Value, control: Value) -> None:
    """Return a + b, or a - b where ``negate``."""
    x, y = Extended(a), Extended(b)
    y_sign = y.sign ^ negate
    with m.If(x.special | y.special):
        answer_nan(m, a, b)
        with m.If(x.infinite & y.infinite & (x.sign != y_sign)):
            m.return_(invalid(m))
        de = flag(x.denormal | y.denormal, DE)
        m.return_(with_status(_infinity(m, m.select(x.infinite, x.sign, y_sign)), de))
    status = flag(x.denormal | y.denormal, DE)
    # A denormal's leading bit counts as one of exponent 1.
    ex = x.exponent + (x.exponent == 0).zext(32)
    ey = y.exponent + (y.exponent == 0).zext(32)
    swap = ex < ey
    above = m.select(swap, ey, ex)
    apart = above - m.select(swap, ex, ey)
    larger = m.select(swap, y.significand, x.significand).zext(128) << 63
    smaller = shift_right_jam(m.select(swap, x.significand, y.significand).zext(128) << 63, apart)
    sign = m.select(swap, y_sign, x.sign)
    with m.If(x.sign == y_sign):
        _finish(m, sign, above + 1, larger + smaller, control, status)
    below = larger < smaller
    difference = m.select(below, smaller - larger, larger - smaller)
    # x - x is +0, or -0 when rounding down.
    sign = m.select(difference == 0, ((control >> 10) & 3) == DOWN, sign ^ below)
    _finish(m, sign, above + 1, difference, control, status)


@procedure(result=128, a=128, b=128, control=16)
def f80_mul(m: Microcode, a: Value, b: Value, control: Value) -> None:
    """Return a * b."""
    x, y = Extended(a), Extended(b)
    sign = x.sign ^ y.sign
    status = flag(x.denormal | y.denormal, DE)
    with m.If(x.special | y.special):
        answer_nan(m, a, b)
        with m.If(x.zero | y.zero):
            m.return_(invalid(m))
        m.return_(with_status(_infinity(m, sign), status))
    with m.If(x.zero | y.zero):
        m.return_(with_status(pack(m, sign, 0, 0), status))
    ex, sx = x.normalized()
    ey, sy = y.normalized()
    _finish(m, sign, ex + ey - (_BIAS - 1), sx.zext(128) * sy.zext(128), control, status)


@procedure(result=128, a=128, b=128, control=16)
def f80_div(m: Microcode, a: Value, b: Value, control: Value) -> None:
    """Return a / b."""
    x, y = Extended(a), Extended(b)
    sign = x.sign ^ y.sign
    status = flag(x.denormal | y.denormal, DE)
    with m.If(x.special | y.special):
        answer_nan(m, a, b)
        with m.If(x.infinite & y.infinite):
            m.return_(invalid(m))
        m.return_(with_status(m.select(x.infinite, _infinity(m, sign), pack(m, sign, 0, 0)), status))
    with m.If(y.zero):
        with m.If(x.zero):
            m.return_(invalid(m))
        m.return_(with_status(_infinity(m, sign), ZE))
    with m.If(x.zero):
        m.return_(with_status(pack(m, sign, 0, 0), status))
    ex, sx = x.normalized()
    ey, sy = y.normalized()
    # So that the quotient has 64 bits: one more where the dividend's significand is smaller.
    short = sx < sy
    dividend = sx.zext(128) << (m.const(32, 63) + short.zext(32))
    divisor = sy.zext(128)
    quotient = dividend.udiv(divisor)
    left = dividend - quotient * divisor
    half = (left << 1) >= divisor
    exact = (left == 0) | ((left << 1) == divisor)
    significand = (quotient << 64) | (half.zext(128) << 63) | (~exact).zext(128)
    _finish(m, sign, ex - ey + _BIAS - short.zext(32), significand, control, status)


def square_root(m: Microcode, radicand: Value) -> tuple[Value, Value]:
    """Return the root of 64 bits, rounded down, and what is left, 128 bits each; bit 127 or 126 has to be set.

    The root of the upper half digit by digit, the lower half by one division (P. Zimmermann, Karatsuba Square Root).
    """
    upper = (radicand >> 64).trunc(64)
    root, left, bit = m.var(64, 0), m.var(64, upper), m.var(64, 1 << 62)
    with m.Loop():
        trial = root.v + bit.v
        fits = left.v >= trial
        left.v = left.v - m.select(fits, trial, m.const(64, 0))
        root.v = (root.v >> 1) + m.select(fits, bit.v, m.const(64, 0))
        bit.v = bit.v >> 2
        m.break_if(bit.v == 0)
    high = root.v.zext(128)
    low = radicand & (1 << 64) - 1
    numerator = (left.v.zext(128) << 32) | (low >> 32)
    quotient = numerator.udiv(high << 1)
    rest = ((numerator - quotient * (high << 1)) << 32) | (low & 0xFFFFFFFF)
    whole = (high << 32) + quotient
    square = quotient * quotient
    beyond = rest < square
    answer = whole - beyond.zext(128)
    remainder = rest - square + m.select(beyond, (whole << 1) - 1, m.const(128, 0))
    return answer, remainder


@procedure(result=128, a=128, control=16)
def f80_sqrt(m: Microcode, a: Value, control: Value) -> None:
    """Return the square root."""
    x = Extended(a)
    with m.If(x.special):
        answer_nan(m, a, a)
        with m.If(x.sign):
            m.return_(invalid(m))
        m.return_(a)
    with m.If(x.zero):
        m.return_(a)
    with m.If(x.sign):
        m.return_(invalid(m))
    exponent, significand = x.normalized()
    # The exponent is made even: the bias is odd.
    even = ~exponent.bit(0)
    radicand = significand.zext(128) << (m.const(32, 63) + even.zext(32))
    root, left = square_root(m, radicand)
    halved = (exponent - _BIAS - even.zext(32)).sar(1) + _BIAS
    significand = (root << 64) | ((left > root).zext(128) << 63) | (left != 0).zext(128)
    _finish(m, m.const(1, 0), halved, significand, control, flag(x.denormal, DE))
