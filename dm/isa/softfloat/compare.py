"""Comparison and classification (SDM vol. 1, 8.3.6; SDM vol. 2A, FCOM, FUCOM, FXAM)."""

from __future__ import annotations

from typing import Final

from dm.isa.softfloat.formats import DE, IE, Extended, flag
from dm.machine.architecture import X87Status
from dm.microcode import Microcode, Value, procedure

#: Condition codes in the status word.
C0, C2, C3 = X87Status.C0, X87Status.C2, X87Status.C3
UNORDERED: Final = C0 | C2 | C3


@procedure(result=16, a=128, b=128, quiet=1)
def f80_compare(m: Microcode, a: Value, b: Value, quiet: Value) -> None:
    """Return condition codes (C0 less, C3 equal, all three unordered) and flags; ``quiet``: a quiet NaN is valid."""
    x, y = Extended(a), Extended(b)
    with m.If(x.special | y.special):
        bad = x.unnormal | y.unnormal | x.signaling | y.signaling
        unordered = bad | x.nan | y.nan
        with m.If(unordered):
            m.return_(flag(bad | ~quiet, IE) | UNORDERED)
    status = flag(x.denormal | y.denormal, DE)
    ex, ey = x.exponent + (x.exponent == 0).zext(32), y.exponent + (y.exponent == 0).zext(32)
    both_zero = (x.significand | y.significand) == 0
    same = both_zero | ((ex == ey) & (x.significand == y.significand) & (x.sign == y.sign))
    with m.If(same):
        m.return_(status | C3)
    smaller = (ex < ey) | ((ex == ey) & (x.significand < y.significand))
    # Of different signs the negative one is less; a zero beside another number has the smallest magnitude.
    smaller = (smaller | (x.significand == 0)) & (y.significand != 0)
    less = m.select(x.sign == y.sign, smaller ^ x.sign, x.sign)
    m.return_(status | flag(less, C0))


@procedure(result=16, a=128)
def f80_class(m: Microcode, a: Value) -> None:
    """Return C3, C2, C0 as FXAM sets them for what is not empty, and C1, the sign."""
    x = Extended(a)
    sign = x.sign.zext(16) << 9
    with m.If(x.unnormal):
        m.return_(sign)
    with m.If(x.exponent == 0x7FFF):
        m.return_(sign | m.select(x.nan, C0, C0 | C2, 16))
    with m.If(x.exponent == 0):
        m.return_(sign | m.select(x.significand == 0, C3, C3 | C2, 16))
    m.return_(sign | C2)
