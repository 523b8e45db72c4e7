"""Rounding and packing (SDM vol. 1, 4.8.4, 4.9.1.4 to 4.9.1.6, 8.1.5.2).

Tininess is found after rounding.  An unmasked overflow or underflow of 80 bits gives the result scaled by 2^-24576 or
2^24576 (SDM vol. 1, 8.5.4); of other formats there is no result.
"""

from __future__ import annotations

from typing import Final

from dm.isa.softfloat.formats import (
    C1,
    CHOP,
    DOWN,
    F32,
    F64,
    F80,
    INFINITY,
    NEAREST,
    OE,
    PE,
    UE,
    UP,
    Format,
    flag,
    pack,
    shift_right_jam,
    with_status,
)
from dm.machine.architecture import X87Control
from dm.microcode import Microcode, Procedure, Value

#: What the exponent is changed by where an unmasked overflow or underflow leaves a result.
SCALE: Final = 24576
#: Control bits that stand for 64-bit precision.
EXTENDED: Final = 0x300


def rounds_away(m: Microcode, control: Value, sign: Value, odd: Value, rest: Value, half: Value) -> Value:
    """Return whether a magnitude is rounded up, 1 bit.

    Args:
        m: builder.
        control: control word.
        sign: of the number.
        odd: lowest bit that is kept.
        rest: what is cut off.
        half: half of the lowest bit that is kept, as ``rest`` counts.
    """
    mode = (control >> 10) & 3
    nearest = (rest > half) | ((rest == half) & odd)
    directed = (rest != 0) & m.select(mode == CHOP, 0, m.select(mode == UP, ~sign, sign), 1)
    return m.select(mode == NEAREST, nearest, directed)


def _unit(m: Microcode, fmt: Format, control: Value) -> Value:
    """Return the lowest bit that is kept of a significand of 128 bits."""
    if fmt is not F80:
        return m.const(128, 1 << 128 - fmt.precision)
    precision = (control >> 8) & 3
    double = m.select(precision == 2, 1 << 128 - F64.precision, 1 << 64, 128)
    return m.select(precision == 0, m.const(128, 1 << 128 - F32.precision), double)


def _packed(m: Microcode, fmt: Format, sign: Value, exponent: Value, significand: Value) -> Value:
    """Return the number; ``exponent`` is 1 for denormals, whose leading bit is clear."""
    if fmt is F80:
        leading = significand.msb()
        return pack(m, sign, m.select(leading, exponent, m.const(32, 0)), (significand >> 64).trunc(64))
    whole = (significand >> 128 - fmt.precision).trunc(64)
    return (whole + ((exponent - 1).zext(64) << fmt.fraction)) | (sign.zext(64) << fmt.width - 1)


def round_and_pack(m: Microcode, fmt: Format, sign: Value, exponent: Value, significand: Value, control: Value) -> None:
    """Return, from the procedure at hand, the result for a number that may have any number of bits.

    Args:
        m: builder.
        fmt: format of the result.
        sign: 1 bit.
        exponent: 32 bits, signed, biased as ``fmt`` biases it; of bit 127 of the significand.
        significand: 128 bits, not normalized; bits lost before are ones at its lowest place.
        control: control word; precision counts for 80 bits only.
    """
    with m.If(significand == 0):
        m.return_(sign.zext(128) << fmt.width - 1)
    zeros = significand.clz()
    exponent = exponent - zeros.trunc(32)
    significand = significand << zeros
    unit = _unit(m, fmt, control)
    mask, half = unit - 1, unit >> 1

    def rounded(value: Value) -> tuple[Value, Value, Value]:
        """Return the value rounded (0: it has become 2^128), whether that was away from zero, whether it was exact."""
        rest = value & mask
        away = rounds_away(m, control, sign, (value & unit) != 0, rest, half)
        return (value & ~mask) + m.select(away, unit, m.const(128, 0)), away, rest == 0

    value, away, exact = rounded(significand)
    carry = value == 0
    status = flag(~exact, PE) | flag(away, C1)
    with m.If(exponent.sle(0)):
        tiny = ~(carry & (exponent == 0))
        with m.If(control.has(X87Control.UM) | ~tiny):
            value2, away2, exact2 = rounded(shift_right_jam(significand, m.const(32, 1) - exponent))
            status2 = flag(~exact2, PE) | flag(~exact2 & tiny, UE) | flag(away2, C1)
            m.return_(with_status(_packed(m, fmt, sign, m.const(32, 1), value2), status2))
        if fmt is not F80:
            m.return_(with_status(m.const(128, 0), UE))
    normal = m.select(carry, m.const(128, 1 << 127), value)
    above = exponent + carry.zext(32)
    if fmt is F80:
        with m.If(above.sle(0)):
            m.return_(with_status(_packed(m, fmt, sign, above + SCALE, normal), status | UE))
    with m.If(~above.slt(fmt.top)):
        with m.If(control.has(X87Control.OM)):
            mode = (control >> 10) & 3
            infinite = (mode == NEAREST) | ((mode == DOWN) & sign) | ((mode == UP) & ~sign)
            if fmt is F80:
                infinity = pack(m, sign, 0x7FFF, INFINITY & (1 << 64) - 1)
            else:
                infinity = m.const(64, fmt.top << fmt.fraction) | (sign.zext(64) << fmt.width - 1)
            largest = _packed(m, fmt, sign, m.const(32, fmt.top - 1), ~mask)
            made = m.select(infinite, infinity, largest)
            m.return_(with_status(made, flag(infinite, C1) | (OE | PE)))
        if fmt is F80:
            m.return_(with_status(_packed(m, fmt, sign, above - SCALE, normal), status | OE))
        else:
            m.return_(with_status(m.const(128, 0), OE))
    m.return_(with_status(_packed(m, fmt, sign, above, normal), status))


def _procedure(fmt: Format) -> Procedure:
    def describe(m: Microcode, sign: Value, exponent: Value, significand: Value, control: Value) -> None:
        round_and_pack(m, fmt, sign, exponent, significand, control)

    params = (("sign", 1), ("exponent", 32), ("significand", 128), ("control", 16))
    return Procedure(f"{fmt.name}_round", params, 128, describe)


#: :func:`round_and_pack` as procedures.
ROUND: Final = {fmt: _procedure(fmt) for fmt in (F32, F64, F80)}
f32_round, f64_round, f80_round = ROUND[F32], ROUND[F64], ROUND[F80]
