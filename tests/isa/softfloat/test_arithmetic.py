"""Arithmetic against exact fractions: every rounding mode and precision, masked and unmasked results out of range."""

from __future__ import annotations

import random
from fractions import Fraction
from math import isqrt

import pytest
from exact import DE, DOWN, SHAPES, ZE, control, number, rounded, value
from printed import result

from dm.isa.softfloat import arithmetic

F80 = SHAPES["f80"]
NAN = 0xFFFF << 64 | 0xC000000000000000
INF = 0x7FFF << 64 | 1 << 63
ONE = 0x3FFF << 64 | 1 << 63
SIGN = 1 << 79


def _denormal(bits: int) -> bool:
    return not bits >> 64 & 0x7FFF and bool(bits & (1 << 64) - 1)


def _status(*operands: int) -> int:
    return DE if any(map(_denormal, operands)) else 0


def _pairs(name: str, count: int = 3000) -> list[tuple[int, int, int]]:
    chosen = random.Random(name)
    return [(number(chosen), number(chosen), control(chosen)) for _ in range(count)]


@pytest.mark.parametrize("negate", [0, 1])
def test_add_and_subtract(negate: int) -> None:
    for a, b, word in _pairs(f"add{negate}"):
        for other in (b, a ^ 1, a ^ SIGN, a):
            exact = value(a) - value(other) if negate else value(a) + value(other)
            sign = a >> 79 if a >> 79 == other >> 79 ^ negate else int(word >> 10 & 3 == DOWN)
            wanted, status = rounded(F80, exact, sign, word)
            found = result(arithmetic.f80_add, a, other, negate, word)
            assert found == (wanted, status | _status(a, other)), (hex(a), hex(other), hex(word))


def test_multiply() -> None:
    for a, b, word in _pairs("mul"):
        wanted, status = rounded(F80, value(a) * value(b), (a ^ b) >> 79, word)
        assert result(arithmetic.f80_mul, a, b, word) == (wanted, status | _status(a, b)), (hex(a), hex(b), hex(word))


def test_divide() -> None:
    for a, b, word in _pairs("div"):
        if value(b) == 0:
            continue
        wanted, status = rounded(F80, value(a) / value(b), (a ^ b) >> 79, word)
        assert result(arithmetic.f80_div, a, b, word) == (wanted, status | _status(a, b)), (hex(a), hex(b), hex(word))


def test_square_root() -> None:
    """The exact root is irrational or short: rounding sees the same in one that is cut off far below, and marked."""
    for a, _, word in _pairs("sqrt"):
        a &= SIGN - 1
        square = value(a)
        shift = 600 + square.denominator.bit_length() % 2
        scaled = square * Fraction(4) ** shift * Fraction(4) ** (square.denominator.bit_length())
        whole = scaled.numerator // scaled.denominator
        root = Fraction(isqrt(whole))
        if root * root != scaled:
            root += Fraction(1, 2)
        exact = root / Fraction(2) ** (shift + square.denominator.bit_length())
        wanted, status = rounded(F80, exact, 0, word)
        assert result(arithmetic.f80_sqrt, a, word) == (wanted, status | _status(a)), (hex(a), hex(word))


@pytest.mark.parametrize(
    ("procedure", "operands", "expected"),
    [
        (arithmetic.f80_add, (INF, INF, 0), (INF, 0)),
        (arithmetic.f80_add, (INF, INF, 1), (NAN, 1)),
        (arithmetic.f80_add, (INF, 1, 1), (INF, DE)),
        (arithmetic.f80_add, (ONE, INF, 1), (INF | SIGN, 0)),
        (arithmetic.f80_mul, (INF, 0), (NAN, 1)),
        (arithmetic.f80_mul, (INF, ONE | SIGN), (INF | SIGN, 0)),
        (arithmetic.f80_mul, (SIGN, ONE), (SIGN, 0)),
        (arithmetic.f80_div, (ONE, SIGN), (INF | SIGN, ZE)),
        (arithmetic.f80_div, (0, 0), (NAN, 1)),
        (arithmetic.f80_div, (INF, INF), (NAN, 1)),
        (arithmetic.f80_div, (INF, 0), (INF, 0)),
        (arithmetic.f80_div, (ONE, INF | SIGN), (SIGN, 0)),
        (arithmetic.f80_sqrt, (ONE | SIGN,), (NAN, 1)),
        (arithmetic.f80_sqrt, (SIGN,), (SIGN, 0)),
        (arithmetic.f80_sqrt, (INF,), (INF, 0)),
        (arithmetic.f80_sqrt, (INF | SIGN,), (NAN, 1)),
        # unnormal, pseudo-infinity, pseudo-NaN
        (arithmetic.f80_add, (0x3FFF << 64 | 1 << 62, ONE, 0), (NAN, 1)),
        (arithmetic.f80_mul, (ONE, 0x7FFF << 64), (NAN, 1)),
        (arithmetic.f80_sqrt, (0x7FFF << 64 | 1 << 61,), (NAN, 1)),
        # NaNs: a signaling one is made quiet; of two the quiet one, the larger, the positive one
        (arithmetic.f80_add, (INF | 5, ONE, 0), (INF | 1 << 62 | 5, 1)),
        (arithmetic.f80_add, (ONE, INF | SIGN | 1 << 62 | 5, 1), (INF | SIGN | 1 << 62 | 5, 0)),
        (arithmetic.f80_add, (INF | 7, INF | 1 << 62 | 5, 0), (INF | 1 << 62 | 5, 1)),
        (arithmetic.f80_add, (INF | 1 << 62 | 7, INF | 1 << 62 | 5, 0), (INF | 1 << 62 | 7, 0)),
        (arithmetic.f80_mul, (INF | SIGN | 1 << 62, INF | 1 << 62), (INF | 1 << 62, 0)),
        (arithmetic.f80_div, (INF | 1 << 62, 1), (INF | 1 << 62, 0)),
    ],
)
def test_what_is_no_number(procedure: object, operands: tuple[int, ...], expected: tuple[int, int]) -> None:
    from dm.microcode import Procedure

    assert isinstance(procedure, Procedure)
    assert result(procedure, *operands, 0x37F) == expected
