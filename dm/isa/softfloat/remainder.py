"""Remainders, exponents taken apart and put together (SDM vol. 2A, FPREM, FPREM1, FSCALE, FXTRACT)."""

from __future__ import annotations

from typing import Final

from dm.isa.softfloat.compare import C0, C2, C3
from dm.isa.softfloat.convert import integer_to_f80
from dm.isa.softfloat.formats import C1, DE, F80, INFINITY, OE, PE, STATUS_AT, UE, ZE, Extended, flag, pack, with_status
from dm.isa.softfloat.nans import answer_nan, invalid
from dm.isa.softfloat.rounding import EXTENDED, SCALE, f80_round
from dm.machine.architecture import X87Control
from dm.microcode import Microcode, Value, procedure

_LEADING: Final = INFINITY & (1 << 64) - 1


@procedure(result=128, a=128, b=128, nearest=1, control=16)
def f80_remainder(m: Microcode, a: Value, b: Value, nearest: Value, control: Value) -> None:
    """Return a - b * q with q = a / b rounded to zero, or to the ``nearest`` integer.

    Where the exponents are 64 or more apart, q has only as many leading bits as leave the exponents 32 to 63 closer,
    and C2 is set.  Else C0, C3, C1 are bits 2, 1 and 0 of q.
    """
    x, y = Extended(a), Extended(b)
    with m.If(x.special | y.special):
        answer_nan(m, a, b)
        with m.If(x.infinite):
            m.return_(invalid(m))
        # By infinity: unchanged.
        m.return_(with_status(a & ((1 << 80) - 1), flag(x.denormal, DE)))
    with m.If(y.zero):
        m.return_(invalid(m))
    status = flag(x.denormal | y.denormal, DE)
    with m.If(x.zero):
        m.return_(with_status(a & ((1 << 80) - 1), status))
    ex, sx = x.normalized()
    ey, sy = y.normalized()
    apart = ex - ey
    dividend, divisor = sx.zext(128), sy.zext(128)

    with m.If(~apart.slt(64)):
        closer = (apart & 31) | 32
        left = (dividend << closer).urem(divisor)
        made = m.call(f80_round, x.sign, ex - closer, left << 64, control | EXTENDED)
        m.return_(with_status(made, status | C2))
    with m.If(apart.slt(m.const(32, 0) - nearest.zext(32))):
        # Smaller than the divisor (than half of it): the quotient is 0.
        m.return_(with_status(m.call(f80_round, x.sign, ex, dividend << 64, control | EXTENDED), status))
    below = apart.slt(0)
    scaled = dividend << m.select(below, m.const(32, 0), apart)
    by = divisor << below.zext(8)  # one place where the dividend's exponent is one less
    quotient = scaled.udiv(by)
    left = scaled - quotient * by
    exponent = m.select(below, ex, ey)
    twice = left << 1
    up = nearest & ((twice > by) | ((twice == by) & quotient.bit(0)))
    whole = quotient + up.zext(128)
    magnitude = m.select(up, by - left, left)
    bits = flag(whole.bit(0), C1) | flag(whole.bit(1), C3) | flag(whole.bit(2), C0)
    with m.If(magnitude == 0):
        m.return_(with_status(pack(m, x.sign, 0, 0), status | bits))
    made = m.call(f80_round, x.sign ^ up, exponent, magnitude << 64, control | EXTENDED)
    m.return_(with_status(made, status | bits))


@procedure(result=128, a=128, b=128, control=16)
def f80_scale(m: Microcode, a: Value, b: Value, control: Value) -> None:
    """Return a * 2^b, b rounded to zero."""
    x, y = Extended(a), Extended(b)
    status = flag(x.denormal | y.denormal, DE)
    bits = a & ((1 << 80) - 1)
    with m.If(x.special | y.special):
        answer_nan(m, a, b)
        with m.If(y.infinite):
            with m.If(m.select(y.sign, x.infinite, x.zero)):
                m.return_(invalid(m))
            m.return_(with_status(m.select(y.sign, pack(m, x.sign, 0, 0), pack(m, x.sign, 0x7FFF, _LEADING)), status))
        m.return_(with_status(bits, status))
    with m.If(x.zero | y.zero):
        m.return_(with_status(bits, status))
    # Beyond 2^16 every number overflows or underflows, also where that is not masked.
    large = y.exponent > F80.bias + 16
    kept = m.select(large, m.const(32, 1 << 17), (y.significand >> (m.const(32, F80.bias + 63) - y.exponent)).trunc(32))
    by = m.select(y.sign, -kept, kept)
    ex, sx = x.normalized()
    exponent = ex + by
    with m.If(~control.has(X87Control.OM) & ~exponent.slt(0x7FFF + SCALE)):
        m.return_(with_status(pack(m, x.sign, 0x7FFF, _LEADING), status | (OE | PE | C1)))
    with m.If(~control.has(X87Control.UM) & exponent.sle(-SCALE)):
        m.return_(with_status(pack(m, x.sign, 0, 0), status | (UE | PE)))
    m.return_(with_status(m.call(f80_round, x.sign, exponent, sx.zext(128) << 64, control | EXTENDED), status))


@procedure(result=128, a=128)
def f80_exponent(m: Microcode, a: Value) -> None:
    """Return the unbiased exponent as a number; minus infinity with ZE for a zero."""
    x = Extended(a)
    with m.If(x.special):
        answer_nan(m, a, a)
        m.return_(INFINITY)
    with m.If(x.zero):
        m.return_(m.const(128, INFINITY | 1 << 79 | ZE << STATUS_AT))
    exponent, _ = x.normalized()
    m.return_(with_status(m.call(integer_to_f80, (exponent - F80.bias).sext(64)), flag(x.denormal, DE)))


@procedure(result=128, a=128)
def f80_significand(m: Microcode, a: Value) -> None:
    """Return the significand with the sign and exponent 0; zeros and infinities are themselves."""
    x = Extended(a)
    with m.If(x.special):
        answer_nan(m, a, a)
        m.return_(a)
    with m.If(x.zero):
        m.return_(a)
    _, significand = x.normalized()
    m.return_(pack(m, x.sign, F80.bias, significand))
