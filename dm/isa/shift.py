"""Shifts and rotates (SDM vol. 2, RCL/RCR/ROL/ROR, SAL/SAR/SHL/SHR, SHLD, SHRD).

Counts are taken modulo 32 on every part modelled; a count of 0 changes no flag.  For counts other than 1, where OF is
undefined, it follows the same formula as for 1, as AMD's and the 286's hardware does.
"""

from __future__ import annotations

from dm.isa import flags
from dm.isa.insn import Insn, Operand, instruction
from dm.microcode import Value


def _count(src: Operand) -> Value:
    return src.read() & 31


def _second(result: Value) -> Value:
    """Return the bit below the highest."""
    return result.bit(result.width - 2)


def _rotated(x: Insn, dst: Operand, count: Value, result: Value, cf: Value, of: Value) -> None:
    dst.write_back(result)
    with x.m.If(count != 0):
        flags.set_carry_overflow(x.m, cf, of)


def _shifted(x: Insn, dst: Operand, count: Value, result: Value, cf: Value, of: Value) -> None:
    dst.write_back(result)
    with x.m.If(count != 0):
        flags.result_only(x.m, result, cf, of)


@instruction()
def ROL(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate left."""
    count = _count(src)
    a = dst.read_modify()
    turn = count & (a.width - 1)
    result = (a << turn) | (a >> (-turn & (a.width - 1)))
    cf = result.bit(0)
    _rotated(x, dst, count, result, cf, cf ^ result.msb())


@instruction()
def ROR(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate right."""
    count = _count(src)
    a = dst.read_modify()
    turn = count & (a.width - 1)
    result = (a >> turn) | (a << (-turn & (a.width - 1)))
    cf = result.msb()
    _rotated(x, dst, count, result, cf, cf ^ _second(result))


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
    _rotated(x, dst, count, result, cf, cf ^ result.msb())


@instruction()
def RCR(x: Insn, dst: Operand, src: Operand) -> None:
    """Rotate right through CF."""
    count = _count(src)
    a = dst.read_modify()
    turn = _turn(count, a.width)
    ring = a.zext(64) | (flags.carry(x.m).zext(64) << a.width)
    ring = (ring >> turn) | (ring << (a.width + 1 - turn))
    result, cf = ring.trunc(a.width), ring.bit(a.width)
    _rotated(x, dst, count, result, cf, result.msb() ^ _second(result))


@instruction()
def SHL(x: Insn, dst: Operand, src: Operand) -> None:
    """Shift left (SAL is the same)."""
    count = _count(src)
    a = dst.read_modify()
    wide = a.zext(64) << count
    result, cf = wide.trunc(a.width), wide.bit(a.width)
    _shifted(x, dst, count, result, cf, cf ^ result.msb())


@instruction()
def SHR(x: Insn, dst: Operand, src: Operand) -> None:
    """Shift right, filling with zeros."""
    count = _count(src)
    a = dst.read_modify()
    wide = (a.zext(64) << 1) >> count  # bit 0: the last bit shifted out
    result = (wide >> 1).trunc(a.width)
    _shifted(x, dst, count, result, wide.bit(0), result.msb() ^ _second(result))


@instruction()
def SAR(x: Insn, dst: Operand, src: Operand) -> None:
    """Shift right, filling with the sign."""
    count = _count(src)
    a = dst.read_modify()
    wide = (a.sext(64) << 1).sar(count)
    result = (wide >> 1).trunc(a.width)
    _shifted(x, dst, count, result, wide.bit(0), x.m.const(1, 0))


@instruction()
def SHLD(x: Insn, dst: Operand, src: Operand, by: Operand) -> None:
    """Shift left, filling from another register.  Beyond 16 bits of a word the destination itself follows."""
    count = _count(by)
    b = src.read().zext(64)
    a = dst.read_modify()
    width = a.width
    wide = a.zext(64)
    if width == 16:
        string = (wide << 32) | (b << 16) | wide
        result = ((string << count) >> 32).trunc(16)
        cf = (string << count).bit(48)
    else:
        result = ((((wide << 32) | b) << count) >> 32).trunc(32)
        cf = (wide << count).bit(32)
    _shifted(x, dst, count, result, cf, result.msb() ^ a.msb())


@instruction()
def SHRD(x: Insn, dst: Operand, src: Operand, by: Operand) -> None:
    """Shift right, filling from another register.  Beyond 16 bits of a word the destination itself follows."""
    count = _count(by)
    b = src.read().zext(64)
    a = dst.read_modify()
    wide = a.zext(64)
    string = wide | (b << a.width)
    if a.width == 16:
        string = string | (wide << 32)
        cf = ((string << 1) >> count).bit(0)
    else:
        cf = ((wide << 1) >> count).bit(0)
    result = (string >> count).trunc(a.width)
    _shifted(x, dst, count, result, cf, result.msb() ^ a.msb())
