"""Formats, and operands taken apart (IEEE 754; SDM vol. 1, 4.2.2 and 8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dm.machine.architecture import X87Status
from dm.microcode import Microcode, Value

#: Exception flags, and the bit for "rounded away from zero", as in the x87 status word.
IE, DE, ZE = X87Status.IE, X87Status.DE, X87Status.ZE
OE, UE, PE, C1 = X87Status.OE, X87Status.UE, X87Status.PE, X87Status.C1
#: Where the status begins in a result.
STATUS_AT: Final = 96
#: Rounding control.
NEAREST, DOWN, UP, CHOP = range(4)


@dataclass(frozen=True)
class Format:
    """A binary format: a sign, an exponent of ``exponent`` bits, ``fraction`` bits behind the leading one.

    ``explicit``: the leading bit of the significand is there too (80 bits).
    """

    name: str
    exponent: int
    fraction: int
    explicit: bool = False

    @property
    def width(self) -> int:
        """Bits of all of it."""
        return 1 + self.exponent + self.fraction + self.explicit

    @property
    def precision(self) -> int:
        """Bits of the significand, the leading one included."""
        return self.fraction + 1

    @property
    def bias(self) -> int:
        """What is added to the exponent."""
        return (1 << self.exponent - 1) - 1

    @property
    def top(self) -> int:
        """The exponent field of infinities and NaNs."""
        return (1 << self.exponent) - 1


F32: Final = Format("f32", 8, 23)
F64: Final = Format("f64", 11, 52)
F80: Final = Format("f80", 15, 63, explicit=True)

_SIGN_AND_EXPONENT: Final = 0xFFFF
#: The default NaN ("indefinite") and infinity of 80 bits.
INDEFINITE: Final = 0xFFFF << 64 | 0xC000000000000000
INFINITY: Final = 0x7FFF << 64 | 0x8000000000000000
QUIET: Final = 1 << 62


class Extended:
    """An 80-bit operand taken apart: ``sign`` 1, ``exponent`` 32 (biased), ``significand`` 64 bits."""

    def __init__(self, bits: Value) -> None:
        self.m, self.bits = bits.m, bits
        self.significand = bits.trunc(64)
        upper = (bits >> 64).trunc(16)
        self.sign = upper.bit(15)
        self.exponent = (upper & 0x7FFF).zext(32)

    @property
    def special(self) -> Value:
        """Whether it is an infinity, a NaN or of an unsupported format."""
        return (self.exponent == 0x7FFF) | self.unnormal

    @property
    def unnormal(self) -> Value:
        """Whether the leading bit is clear where it must be set: unnormals, pseudo-NaNs, pseudo-infinities."""
        return (self.exponent != 0) & ~self.significand.msb()

    @property
    def nan(self) -> Value:
        """Whether it is a NaN (of those with exponent 7FFFh and the leading bit set)."""
        return (self.exponent == 0x7FFF) & ((self.significand << 1) != 0)

    @property
    def signaling(self) -> Value:
        """Whether it is a signaling NaN."""
        return self.nan & ~self.significand.bit(62)

    @property
    def infinite(self) -> Value:
        """Whether it is an infinity."""
        return (self.exponent == 0x7FFF) & ((self.significand << 1) == 0)

    @property
    def zero(self) -> Value:
        """Whether it is a zero."""
        return (self.significand == 0) & (self.exponent == 0)

    @property
    def denormal(self) -> Value:
        """Whether it is a denormal or pseudo-denormal, or was a denormal before it was widened."""
        return ((self.exponent == 0) & (self.significand != 0)) | self.bits.bit(STATUS_AT + 1)

    def normalized(self) -> tuple[Value, Value]:
        """Return exponent and significand with the leading bit set, of any number but zero."""
        lowest = self.m.select(self.exponent == 0, 1, self.exponent)
        shift = self.significand.clz()
        return lowest - shift.trunc(32), self.significand << shift


def pack(m: Microcode, sign: Value, exponent: Value | int, significand: Value | int) -> Value:
    """Return an 80-bit value, 128 bits wide, from a sign, a biased exponent of 32 bits and a significand of 64."""
    exponent, significand = m.value(32, exponent), m.value(64, significand)
    upper = (exponent & 0x7FFF) | (sign.zext(32) << 15)
    return (upper.zext(128) << 64) | significand.zext(128)


def with_status(value: Value, status: Value | int) -> Value:
    """Return a value of up to 128 bits with a status of 16 bits."""
    upper = status << STATUS_AT if isinstance(status, int) else status.zext(128) << STATUS_AT
    return value.zext(128) | upper


def flag(condition: Value, bits: int) -> Value:
    """Return a status, 16 bits: ``bits`` where the condition holds, else 0."""
    return condition.m.select(condition, bits, 0, 16)


def shift_right_jam(value: Value, count: Value) -> Value:
    """Shift right; what is lost leaves a one in the lowest bit."""
    shifted = value >> count
    return shifted | ((shifted << count) != value).zext(value.width)
