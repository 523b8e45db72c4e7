"""Conversions between 80 bits and other reals, integers and packed BCD; rounding to an integer.

SDM vol. 1, 4.8.3.5 and table 4-8; SDM vol. 2A, FLD, FST, FILD, FIST, FBLD, FBSTP, FRNDINT.
"""

from __future__ import annotations

from typing import Final

from dm.isa.softfloat.formats import (
    C1,
    DE,
    F32,
    F64,
    F80,
    IE,
    PE,
    QUIET,
    STATUS_AT,
    Extended,
    Format,
    flag,
    pack,
    shift_right_jam,
    with_status,
)
from dm.isa.softfloat.nans import answer_nan
from dm.isa.softfloat.rounding import ROUND, rounds_away
from dm.microcode import Microcode, Procedure, Value, procedure

#: The largest packed BCD number has 18 digits; and what stands for all that are larger.
BCD_DIGITS: Final = 18
BCD_INDEFINITE: Final = 0xFFFFC000000000000000
_INTEGER: Final = F80.bias + 63


def _widen(fmt: Format) -> Procedure:
    def describe(m: Microcode, a: Value) -> None:
        sign = a.msb()
        exponent = (a >> fmt.fraction).fit(32) & fmt.top
        fraction = a.zext(64) << 63 - fmt.fraction & (1 << 63) - 1
        with m.If(exponent == 0):
            with m.If(fraction == 0):
                m.return_(pack(m, sign, 0, 0))
            zeros = fraction.clz()
            lowest = m.const(32, F80.bias - fmt.bias + 1) - zeros.trunc(32)
            m.return_(with_status(pack(m, sign, lowest, fraction << zeros), DE))
        widened = m.select(exponent == fmt.top, m.const(32, 0x7FFF), exponent + (F80.bias - fmt.bias))
        m.return_(pack(m, sign, widened, fraction | 1 << 63))

    made = Procedure(f"{fmt.name}_widen", (("a", fmt.width),), 128, describe)
    made.__doc__ = "The same number in 80 bits; DE if it was a denormal.  A signaling NaN stays one."
    return made


def _narrow(fmt: Format) -> Procedure:
    def describe(m: Microcode, a: Value, control: Value) -> None:
        x = Extended(a)
        top = m.const(64, fmt.top << fmt.fraction)
        sign = x.sign.zext(64) << fmt.width - 1
        with m.If(x.special):
            with m.If(x.unnormal):
                m.return_(with_status(top | 1 << fmt.width - 1 | 1 << fmt.fraction - 1, IE))
            fraction = (x.significand << 1) >> 64 - fmt.fraction
            quiet = m.select(x.nan, m.const(64, 1 << fmt.fraction - 1), m.const(64, 0))
            m.return_(with_status(sign | top | fraction | quiet, flag(x.signaling, IE)))
        exponent = m.select(x.exponent == 0, 1, x.exponent) - (F80.bias - fmt.bias)
        m.return_(m.call(ROUND[fmt], x.sign, exponent, x.significand.zext(128) << 64, control))

    made = Procedure(f"f80_to_{fmt.name}", (("a", 128), ("control", 16)), 128, describe)
    made.__doc__ = "Round 80 bits to a narrower format; an unmasked overflow or underflow leaves no value."
    return made


WIDEN: Final = {fmt: _widen(fmt) for fmt in (F32, F64)}
NARROW: Final = {fmt: _narrow(fmt) for fmt in (F32, F64)}


def loaded(m: Microcode, value: Value) -> Value:
    """Return a widened number as FLD loads it: a signaling NaN is invalid and becomes quiet."""
    bad = Extended(value).signaling
    return m.select(bad, value | (QUIET | IE << STATUS_AT), value)


def _magnitude(m: Microcode, x: Extended, control: Value) -> tuple[Value, Value, Value]:
    """Return a magnitude below 2^64 rounded to an integer, 128 bits, whether it is inexact, and rounded up."""
    wide = shift_right_jam(x.significand.zext(128) << 64, m.const(32, _INTEGER) - x.exponent)
    whole, rest = wide >> 64, wide.trunc(64)
    away = rounds_away(m, control, x.sign, whole.bit(0), rest, m.const(64, 1 << 63))
    return whole + away.zext(128), rest != 0, away


@procedure(result=128, a=128, control=16, largest=64, indefinite=64)
def f80_to_integer(m: Microcode, a: Value, control: Value, largest: Value, indefinite: Value) -> None:
    """Return the integer in two's complement, 64 bits; ``indefinite`` with IE beyond ``largest`` (-largest - 1)."""
    x = Extended(a)
    invalid = with_status(indefinite, IE)
    with m.If(x.special | (x.exponent > _INTEGER)):
        m.return_(invalid)
    whole, inexact, away = _magnitude(m, x, control)
    with m.If(whole > largest.zext(128) + x.sign.zext(128)):
        m.return_(invalid)
    number = whole.trunc(64)
    m.return_(with_status(m.select(x.sign, -number, number), flag(inexact, PE) | flag(away, C1)))


@procedure(result=128, a=64)
def integer_to_f80(m: Microcode, a: Value) -> None:
    """Return a signed integer in 80 bits: always exact."""
    sign = a.msb()
    magnitude = m.select(sign, -a, a)
    zeros = magnitude.clz()
    exponent = m.select(a == 0, m.const(32, 0), m.const(32, _INTEGER) - zeros.trunc(32))
    m.return_(pack(m, sign, exponent, magnitude << zeros))


@procedure(result=128, a=128, control=16)
def f80_to_bcd(m: Microcode, a: Value, control: Value) -> None:
    """Return 18 decimal digits and a sign in 80 bits; the indefinite with IE beyond."""
    x = Extended(a)
    invalid = m.const(128, BCD_INDEFINITE | IE << STATUS_AT)
    with m.If(x.special | (x.exponent > _INTEGER)):
        m.return_(invalid)
    whole, inexact, away = _magnitude(m, x, control)
    with m.If(whole >= 10**BCD_DIGITS):
        m.return_(invalid)
    left, digits, at = m.var(64, whole.trunc(64)), m.var(128, 0), m.var(8, 0)
    with m.Loop():
        m.break_if(left.v == 0)
        digits.v = digits.v | (left.v.urem(10).zext(128) << at.v)
        left.v = left.v.udiv(10)
        at.v = at.v + 4
    value = digits.v | (x.sign.zext(128) << 79)
    m.return_(with_status(value, flag(inexact, PE) | flag(away, C1)))


@procedure(result=128, a=128)
def bcd_to_f80(m: Microcode, a: Value) -> None:
    """Return packed BCD in 80 bits: always exact.  What is no digit counts as its value."""
    number, at = m.var(64, 0), m.var(8, 4 * BCD_DIGITS)
    with m.Loop():
        m.break_if(at.v == 0)
        at.v = at.v - 4
        number.v = number.v * 10 + ((a >> at.v).trunc(64) & 15)
    whole = m.call(integer_to_f80, number.v)
    m.return_(whole | (a.bit(79).zext(128) << 79))


@procedure(result=128, a=128, control=16)
def f80_round_to_integer(m: Microcode, a: Value, control: Value) -> None:
    """Return the nearest integer in the sense of rounding control, in 80 bits."""
    x = Extended(a)
    with m.If(x.special):
        answer_nan(m, a, a)
    with m.If((x.exponent >= _INTEGER) | x.zero):
        m.return_(a)
    lowest = m.select(x.exponent == 0, 1, x.exponent)
    wide = shift_right_jam(x.significand.zext(128) << 64, m.const(32, _INTEGER) - lowest)
    whole, rest = (wide >> 64).trunc(64), wide.trunc(64)
    away = rounds_away(m, control, x.sign, whole.bit(0), rest, m.const(64, 1 << 63))
    status = flag(rest != 0, PE) | flag(away, C1) | flag(x.denormal, DE)
    magnitude = whole + away.zext(64)
    zeros = magnitude.clz()
    exponent = m.select(magnitude == 0, m.const(32, 0), m.const(32, _INTEGER) - zeros.trunc(32))
    m.return_(with_status(pack(m, x.sign, exponent, magnitude << zeros), status))
