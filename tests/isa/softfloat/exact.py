"""Floating point by exact rational arithmetic: what the procedures of dm.isa.softfloat are held against.

Written from the manual's definitions and sharing nothing with what it checks: values are fractions, rounding looks for
the neighbours of a value.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction

IE, DE, ZE, OE, UE, PE, C1 = 1, 2, 4, 8, 16, 32, 0x200
NEAREST, DOWN, UP, CHOP = range(4)
SCALE = 24576


@dataclass(frozen=True)
class Shape:
    """A format: bits of exponent and of significand (with the leading one)."""

    exponent: int
    precision: int
    explicit: bool = False

    @property
    def bias(self) -> int:
        return (1 << self.exponent - 1) - 1

    @property
    def width(self) -> int:
        return self.exponent + self.precision + self.explicit


SHAPES = {"f32": Shape(8, 24), "f64": Shape(11, 53), "f80": Shape(15, 64, True)}


def encode(shape: Shape, sign: int, exponent: int, significand: int) -> int:
    """Bits of ``significand * 2**(exponent - precision + 1)``, exponent biased; 0 or 1 for denormals."""
    if shape.explicit:
        return (sign << 15 | exponent) << 64 | significand
    if significand >> shape.precision - 1:
        significand &= (1 << shape.precision - 1) - 1
    else:
        exponent = 0
    return sign << shape.width - 1 | exponent << shape.precision - 1 | significand


def value(bits: int) -> Fraction:
    """The number that 80 bits stand for (denormals and pseudo-denormals too)."""
    exponent = max(bits >> 64 & 0x7FFF, 1)
    number = Fraction(bits & (1 << 64) - 1) * Fraction(2) ** (exponent - 16383 - 63)
    return -number if bits >> 79 & 1 else number


def _whole(number: Fraction, sign: int, mode: int) -> int:
    """Round a magnitude to an integer."""
    low = number.numerator // number.denominator
    rest = number - low
    if mode == NEAREST:
        return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low & 1))
    away = (mode == UP and not sign) or (mode == DOWN and sign)
    return low + (1 if away and rest else 0)


def _exponent(number: Fraction) -> int:
    """The unbiased exponent of a magnitude above 0."""
    guess = number.numerator.bit_length() - number.denominator.bit_length()
    return guess if number >= Fraction(2) ** guess else guess - 1


def rounded(shape: Shape, number: Fraction, zero_sign: int, control: int) -> tuple[int, int]:
    """Return bits and status of an exact number."""
    mode = control >> 10 & 3
    keep = {0: 24, 2: 53}.get(control >> 8 & 3, 64) if shape.explicit else shape.precision
    drop = shape.precision - keep
    sign = zero_sign if number == 0 else int(number < 0)
    if number == 0:
        return encode(shape, sign, 0, 0), 0
    number = abs(number)
    exponent = _exponent(number)
    scaled = number / Fraction(2) ** (exponent - keep + 1)
    whole = _whole(scaled, sign, mode)
    status = (PE if whole != scaled else 0) | (C1 if whole > scaled else 0)
    if whole >> keep:
        whole, exponent = whole >> 1, exponent + 1
    biased = exponent + shape.bias
    if biased <= 0:
        if control & UE:
            unit = Fraction(2) ** (1 - shape.bias - keep + 1)
            whole = _whole(number / unit, sign, mode)
            status = (PE | UE if whole * unit != number else 0) | (C1 if whole * unit > number else 0)
            biased = whole >> keep - 1
            return encode(shape, sign, biased, whole << drop), status
        return (encode(shape, sign, biased + SCALE, whole << drop) if shape.explicit else 0), status | UE
    # Tininess is found after rounding, but what is stored has a denormal's precision below the least normal number.
    if biased > (1 << shape.exponent) - 2:
        if control & OE:
            infinite = mode == NEAREST or mode == (DOWN if sign else UP)
            top = (1 << shape.exponent) - 1
            if infinite:
                return encode(shape, sign, top, 1 << shape.precision - 1), OE | PE | C1
            return encode(shape, sign, top - 1, (1 << keep) - 1 << drop), OE | PE
        return (encode(shape, sign, biased - SCALE, whole << drop) if shape.explicit else 0), status | OE
    return encode(shape, sign, biased, whole << drop), status


def number(chosen: random.Random) -> int:
    """80 bits that are a number: of all sizes, often near another's edges."""
    exponent = chosen.choice(
        (0, 1, 2, 0x3FFE, 0x3FFF, 0x4000, 0x3FFF + chosen.randint(-70, 70), 0x7FFE, 0x7FFD, chosen.randint(0, 0x7FFE))
    )
    significand = (
        chosen.choice(
            (
                1 << 63,
                (1 << 64) - 1,
                1 << 63 | 1,
                chosen.getrandbits(64) | 1 << 63,
                (chosen.getrandbits(24) | 1 << 23) << 40,
                (chosen.getrandbits(53) | 1 << 52) << 11,
                (chosen.getrandbits(25) | 1 << 24) << 39,
                ((1 << chosen.randint(1, 63)) - 1) << chosen.randint(0, 20) | 1 << 63,
            )
        )
        & (1 << 64) - 1
    )
    if exponent == 0 and chosen.random() < 0.8:
        significand >>= chosen.randint(0, 64)
    return (chosen.getrandbits(1) << 15 | exponent) << 64 | significand


def control(chosen: random.Random) -> int:
    """A control word: every rounding and precision, overflow and underflow masked or not."""
    return chosen.getrandbits(2) << 10 | chosen.choice((0, 2, 3)) << 8 | chosen.choice((0x3F, 0x27, 0x2F, 0x37))
