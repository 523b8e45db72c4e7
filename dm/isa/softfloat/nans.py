"""Operands that are no numbers (SDM vol. 1, 4.8.3.4 to 4.8.3.6 and table 4-7; 8.2.2)."""

from __future__ import annotations

from typing import Final

from dm.isa.softfloat.formats import IE, INDEFINITE, QUIET, STATUS_AT, Extended, flag, with_status
from dm.microcode import Microcode, Value, procedure

#: Set in what :data:`f80_nan` returns when that is the answer.
ANSWERED: Final = 127


def invalid(m: Microcode) -> Value:
    """Return the result of an invalid operation: the default NaN."""
    return m.const(128, INDEFINITE | IE << STATUS_AT)


@procedure(result=128, a=128, b=128)
def f80_nan(m: Microcode, a: Value, b: Value) -> None:
    """The result if an operand is a NaN or of an unsupported format, with bit 127 set; else 0.

    Of two NaNs x87 takes the quiet one, else that with the larger significand, else the positive one.
    """
    x, y = Extended(a), Extended(b)
    answered = m.const(128, 1 << ANSWERED)
    with m.If(x.unnormal | y.unnormal):
        m.return_(invalid(m) | answered)
    with m.If(~(x.nan | y.nan)):
        m.return_(0)
    bad = x.signaling | y.signaling
    larger = (x.significand > y.significand) | ((x.significand == y.significand) & ~x.sign)
    both = m.select(x.signaling == y.signaling, larger, y.signaling)
    first = x.nan & (both | ~y.nan)
    chosen = m.select(first, a, b) & ((1 << 80) - 1)
    m.return_(with_status(chosen | QUIET, flag(bad, IE)) | answered)


def answer_nan(m: Microcode, a: Value, b: Value) -> None:
    """Return, from the procedure at hand, what :data:`f80_nan` says if that is the answer."""
    found = m.call(f80_nan, a, b)
    with m.If(found.msb()):
        m.return_(found & ((1 << ANSWERED) - 1))
