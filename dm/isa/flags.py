"""Lazy arithmetic flags: two words instead of six bits.

``FR`` is the result, sign-extended to 32 bits; ``FC`` a vector of carries::

    ZF = (FR == 0)          SF = FR[31] ^ FC[1]         PF = even parity of FR[7:0], flipped by FC[0]
    CF = FC[31]             OF = FC[31] ^ FC[30]        AF = FC[3]

FC[31] is the carry out of the top bit, FC[30] the carry into it, whatever the operand size; FC[3] the carry out of
bit 3.
FC[1:0] are zero except after flags were loaded as bits (POPF, SAHF), when SF and PF need not agree with any result.
"""

from __future__ import annotations

from dm.isa.cells import FC, FLAGS, FR
from dm.machine.architecture import Eflags
from dm.microcode import Microcode, Value, procedure


def add(m: Microcode, a: Value, b: Value, result: Value, keep_carry: bool = False) -> None:
    """Set all six flags after ``result = a + b (+ carry)``; with ``keep_carry`` CF stays (INC)."""
    _carries(m, (a & b) | ((a | b) & ~result), result, keep_carry)


def sub(m: Microcode, a: Value, b: Value, result: Value, keep_carry: bool = False) -> None:
    """Set all six flags after ``result = a - b (- borrow)``; with ``keep_carry`` CF stays (DEC)."""
    _carries(m, (~a & b) | ((~a | b) & result), result, keep_carry)


def _carries(m: Microcode, carries: Value, result: Value, keep_carry: bool) -> None:
    width = result.width
    if width == 32:
        vector = carries & 0xC0000008
    else:
        wide = carries.zext(32)
        vector = (wide << (32 - width)) & 0xC0000000 | wide & 8
    if keep_carry:
        # Both top bits turn together, so that OF, their difference, stays what it was computed to be.
        turn = (vector ^ m.get(FC)) & 0x80000000
        vector = vector ^ (turn | (turn >> 1))
    m.set(FR, result.sext(32))
    m.set(FC, vector)


def logic(m: Microcode, result: Value) -> None:
    """Set flags after AND, OR, XOR, TEST: CF and OF clear, AF clear (undefined; clear on all known parts)."""
    m.set(FR, result.sext(32))
    m.set(FC, 0)


def result_only(m: Microcode, result: Value, cf: Value, of: Value, af: Value | None = None) -> None:
    """Set SF ZF PF from ``result`` and the carries from given bits."""
    vector = (cf.zext(32) << 31) | ((cf ^ of).zext(32) << 30)
    if af is not None:
        vector = vector | (af.zext(32) << 3)
    m.set(FR, result.sext(32))
    m.set(FC, vector)


def nonzero(m: Microcode, result: Value) -> Value:
    """Return a value of the same sign and parity as ``result`` that is never 0: ZF is clear."""
    return m.select(result == 0, m.const(result.width, 3), result)


def carry(m: Microcode) -> Value:
    """Return CF, 1 bit."""
    return m.get(FC).bit(31)


def adjust(m: Microcode) -> Value:
    """Return AF, 1 bit."""
    return m.get(FC).bit(3)


def overflow(m: Microcode) -> Value:
    """Return OF, 1 bit."""
    fc = m.get(FC)
    return (fc ^ (fc << 1)).bit(31)


def zero(m: Microcode) -> Value:
    """Return ZF, 1 bit."""
    return m.get(FR) == 0


def sign(m: Microcode) -> Value:
    """Return SF, 1 bit."""
    return m.get(FR).bit(31) ^ m.get(FC).bit(1)


def parity(m: Microcode) -> Value:
    """Return PF, 1 bit."""
    return ~(m.get(FR) & 0xFF).popcount().bit(0) ^ m.get(FC).bit(0)


def set_carry(m: Microcode, cf: Value | int) -> None:
    """Change CF alone; OF and the rest stay."""
    cf = m.value(1, cf)
    fc = m.get(FC)
    keep = fc & 0x3FFFFFFF
    flip = fc.bit(31) ^ cf
    m.set(FC, keep | (cf.zext(32) << 31) | ((fc.bit(30) ^ flip).zext(32) << 30))


def set_overflow(m: Microcode, of: Value) -> None:
    """Change OF alone; CF and the rest stay."""
    set_carry_overflow(m, carry(m), of)


def set_carry_overflow(m: Microcode, cf: Value, of: Value) -> None:
    """Change CF and OF; the rest stay."""
    m.set(FC, (m.get(FC) & 0x3FFFFFFF) | (cf.zext(32) << 31) | ((cf ^ of).zext(32) << 30))


def condition(m: Microcode, code: int) -> Value:
    """Return the condition with this 4-bit code (SDM vol. 1, table B-1), 1 bit."""
    match code >> 1:
        case 0:
            value = overflow(m)
        case 1:
            value = carry(m)
        case 2:
            value = zero(m)
        case 3:
            value = carry(m) | zero(m)
        case 4:
            value = sign(m)
        case 5:
            value = parity(m)
        case 6:
            value = sign(m) ^ overflow(m)
        case _:
            value = (sign(m) ^ overflow(m)) | zero(m)
    return ~value if code & 1 else value


def eflags(m: Microcode) -> Value:
    """Return the whole of EFLAGS, 32 bits, bit 1 set."""
    word = m.get(FLAGS) | Eflags.FIXED
    for flag, value in (
        (Eflags.CF, carry(m)),
        (Eflags.PF, parity(m)),
        (Eflags.AF, adjust(m)),
        (Eflags.ZF, zero(m)),
        (Eflags.SF, sign(m)),
        (Eflags.OF, overflow(m)),
    ):
        word = word | value.at(flag, 32)
    return word


def set_arithmetic(m: Microcode, word: Value) -> None:
    """Set the six arithmetic flags from the bits of ``word`` (32 bits, EFLAGS layout)."""
    zf = word.has(Eflags.ZF)
    cf, of = word.has(Eflags.CF), word.has(Eflags.OF)
    # FR = 0 when ZF else 1: then SF reads 0 and PF reads ZF before the two fixes.
    m.set(FR, m.select(zf, m.const(32, 0), m.const(32, 1)))
    m.set(
        FC,
        (cf.zext(32) << 31)
        | ((cf ^ of).zext(32) << 30)
        | (word.has(Eflags.AF).zext(32) << 3)
        | (word.has(Eflags.SF).zext(32) << 1)
        | (word.has(Eflags.PF) ^ zf).zext(32),
    )


def set_eflags(m: Microcode, word: Value) -> None:
    """Set the whole of EFLAGS; reserved bits must have been removed from ``word``."""
    set_arithmetic(m, word)
    m.set(FLAGS, word & (0xFFFFFFFF ^ Eflags.STATUS ^ Eflags.FIXED))


@procedure(result=32)
def join_eflags(m: Microcode) -> None:
    """Return EFLAGS; engines call it where a state leaves them."""
    m.return_(eflags(m))


@procedure(word=32)
def split_eflags(m: Microcode, word: Value) -> None:
    """Take EFLAGS; engines call it where a state enters them."""
    set_eflags(m, word)


def flag(m: Microcode, bit: Eflags) -> Value:
    """Return a flag that is not arithmetic (TF, IF, DF, NT, RF, VM, AC, VIF, VIP, ID) as 1 bit."""
    return m.get(FLAGS).has(bit)


def set_flag(m: Microcode, bit: Eflags, value: Value | int) -> None:
    """Change a flag that is not arithmetic."""
    m.set(FLAGS, m.get(FLAGS) & (0xFFFFFFFF ^ bit) | m.value(1, value).at(bit, 32))


def clear(m: Microcode, *bits: Eflags) -> None:
    """Clear flags that are not arithmetic."""
    m.set(FLAGS, m.get(FLAGS) & (0xFFFFFFFF ^ sum(bits)))


def iopl(m: Microcode) -> Value:
    """Return IOPL, 8 bits."""
    return m.get(FLAGS).field(Eflags.IOPL).trunc(8)
