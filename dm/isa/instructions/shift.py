"""Shifts and rotates (SDM vol. 2, RCL/RCR/ROL/ROR, SAL/SAR/SHL/SHR, SHLD, SHRD).

Counts are taken modulo 32 on every part modelled; a count of 0 changes no flag.  OF is defined for a count of 1 only,
AF never: :mod:`dm.isa.undefined` says what becomes of them.
"""

from __future__ import annotations

from dm.isa import flags
from dm.isa.features import is_amd, is_amd_or_old
from dm.isa.insn import Insn, Operand, instruction
from dm.microcode import Value


def _count(src: Operand) -> Value:
    return src.read() & 31


def _second(result: Value) -> Value:
    """Return the bit below the highest."""
    return result.bit(result.width - 2)


def _rotated(x: Insn, dst: Operand, count: Value, result: Value, cf: Value, of: Value, by_one: Value) -> None:
    """End a rotation: ``of`` by the formula for 1 of its result, ``by_one`` what a rotation by 1 makes of it."""
    m = x.m
    dst.write_back(result)
    with m.If(count != 0):
        if x.row.mnemonic in ("RCL", "RCR") and result.width < 32:
            by_one = m.select(_turn(count, result.width) == 0, flags.overflow(m), by_one)
        if x.row.operands[1] == "Ib" and x.row.mnemonic in ("ROL", "ROR") and not x.variant.memory:
            by_one = m.select(count == 1, by_one, flags.overflow(m))
        flags.set_carry_overflow(m, cf, _overflow(x, of, by_one))


def _shifted(x: Insn, dst: Operand, count: Value, result: Value, cf: Value, of: Value, by_one: Value) -> None:
    """End a shift: see :func:`_rotated`."""
    m = x.m
    dst.write_back(result)
    with m.If(count != 0):
        flags.result_only(m, result, cf, _overflow(x, of, by_one), is_amd(m))


def _overflow(x: Insn, of: Value, by_one: Value) -> Value:
    if x.row.operands[1] == "1":
        return of
    return x.m.select(is_amd_or_old(x.m), of, by_one)


@instruction()
def ROL(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate left."""
    count = _count(src)
    a = dst.read_modify()
    turn = count & (a.width - 1)
    result = (a << turn) | (a >> (-turn & (a.width - 1)))
    cf = result.bit(0)
    _rotated(x, dst, count, result, cf, cf ^ result.msb(), a.msb() ^ _second(a))


@instruction()
def ROR(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate right."""
    count = _count(src)
    a = dst.read_modify()
    turn = count & (a.width - 1)
    result = (a >> turn) | (a << (-turn & (a.width - 1)))
    cf = result.msb()
    _rotated(x, dst, count, result, cf, cf ^ _second(result), a.msb() ^ a.bit(0))


def _turn(count: Value, width: int) -> Value:
    """Return the count modulo the width of the register and CF together."""
    return count if width == 32 else count.urem(width + 1)


@instruction()
def RCL(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate left through CF."""
    count = _count(src)
    a = dst.read_modify()
    turn = _turn(count, a.width)
    ring = a.zext(64) | (flags.carry(x.m).zext(64) << a.width)
    ring = (ring << turn) | (ring >> (a.width + 1 - turn))
    result, cf = ring.trunc(a.width), ring.bit(a.width)
    _rotated(x, dst, count, result, cf, cf ^ result.msb(), a.msb() ^ _second(a))


@instruction()
def RCR(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate right through CF."""
    count = _count(src)
    a = dst.read_modify()
    turn = _turn(count, a.width)
    carry = flags.carry(x.m)
    ring = a.zext(64) | (carry.zext(64) << a.width)
    ring = (ring >> turn) | (ring << (a.width + 1 - turn))
    result, cf = ring.trunc(a.width), ring.bit(a.width)
    _rotated(x, dst, count, result, cf, result.msb() ^ _second(result), carry ^ a.msb())


@instruction()
def SHL(x: Insn, dst: Operand, src: Operand) -> None:
    """Shift left (SAL is the same)."""
    count = _count(src)
    a = dst.read_modify()
    wide = a.zext(64) << count
    result, cf = wide.trunc(a.width), wide.bit(a.width)
    _shifted(x, dst, count, result, cf, cf ^ result.msb(), a.msb() ^ _second(a))


@instruction()
def SHR(x: Insn, dst: Operand, src: Operand) -> None:
    """Shift right, filling with zeros."""
    count = _count(src)
    a = dst.read_modify()
    wide = (a.zext(64) << 1) >> count  # bit 0: the last bit shifted out
    result = (wide >> 1).trunc(a.width)
    _shifted(x, dst, count, result, wide.bit(0), result.msb() ^ _second(result), a.msb())


@instruction()
def SAR(x: Insn, dst: Operand, src: Operand) -> None:
    """Shift right, filling with the sign."""
    count = _count(src)
    a = dst.read_modify()
    wide = (a.sext(64) << 1).sar(count)
    result = (wide >> 1).trunc(a.width)
    never = x.m.const(1, 0)
    _shifted(x, dst, count, result, wide.bit(0), never, never)


def _after_a_word(x: Insn, destination: Value, source: Value) -> Value:
    """Return what follows when both words are used up: the destination again, on AMD's parts the source (undefined)."""
    return x.m.select(is_amd(x.m), source, destination)


def _no_carry(x: Insn, count: Value) -> Value:
    """Return whether both words are used up on a part of AMD's, which then leaves CF clear (undefined)."""
    return is_amd(x.m) & (count > 16)


@instruction()
def SHLD(x: Insn, dst: Operand, src: Operand, by: Operand) -> None:
    """Shift left, filling from another register; beyond 16 bits of a word: :func:`_after_a_word`."""
    count = _count(by)
    b = src.read().zext(64)
    a = dst.read_modify()
    width = a.width
    wide = a.zext(64)
    if width == 16:
        string = (wide << 32) | (b << 16) | _after_a_word(x, wide, b)
        result = ((string << count) >> 32).trunc(16)
        cf = (string << count).bit(48) & ~_no_carry(x, count)
    else:
        result = ((((wide << 32) | b) << count) >> 32).trunc(32)
        cf = (wide << count).bit(32)
    _shifted(x, dst, count, result, cf, cf ^ result.msb(), a.msb() ^ _second(a))


@instruction()
def SHRD(x: Insn, dst: Operand, src: Operand, by: Operand) -> None:
    """Shift right, filling from another register; beyond 16 bits of a word: :func:`_after_a_word`."""
    count = _count(by)
    b = src.read().zext(64)
    a = dst.read_modify()
    wide = a.zext(64)
    string = wide | (b << a.width)
    if a.width == 16:
        string = string | (_after_a_word(x, wide, b) << 32)
        cf = ((string << 1) >> count).bit(0) & ~_no_carry(x, count)
    else:
        cf = ((wide << 1) >> count).bit(0)
    result = (string >> count).trunc(a.width)
    _shifted(x, dst, count, result, cf, result.msb() ^ _second(result), a.msb() ^ b.bit(0))
