"""Three-operand bit manipulation with a VEX prefix, BMI1 and BMI2 (SDM vol. 2, ANDN to SHRX; AMD APM vol. 3).

Operands have 32 bits in 16-bit code too.  Flags that the manuals leave undefined: :mod:`dm.isa.undefined`.
"""

from __future__ import annotations

from dm.isa import flags
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Operand, instruction
from dm.machine.architecture import Eflags
from dm.microcode import Value


def _finish(x: Insn, dst: Operand, result: Value, cf: Value | None = None) -> None:
    """Write the result and set CF (default: clear), SF and ZF.  PF is clear on Intel's parts, the result's on AMD's."""
    m = x.m
    dst.write(result)
    cf = m.const(1, 0) if cf is None else cf
    flags.set_arithmetic(m, _zero(result) | _parity(x, result) | cf.zext(32) | result.msb().at(Eflags.SF, 32))


def _zero(result: Value) -> Value:
    return (result == 0).at(Eflags.ZF, 32)


def _parity(x: Insn, result: Value) -> Value:
    even = ~(result & 0xFF).popcount().bit(0)
    return (is_amd(x.m) & even).at(Eflags.PF, 32)


@instruction()
def ANDN(x: Insn, dst: Operand, inverted: Operand, src: Operand) -> None:
    """AND with the first source inverted."""
    _finish(x, dst, src.read() & ~inverted.read())


@instruction()
def BEXTR(x: Insn, dst: Operand, src: Operand, control: Operand) -> None:
    """Extract a field: bits 7:0 of the control are its first bit, 15:8 its length.

    Of what is undefined SF and, on Intel's parts, AF and PF are cleared; AMD's set AF, and PF by the result.
    """
    value, word = src.read(), control.read()
    start, length = word & 0xFF, (word >> 8) & 0xFF
    result = (value >> start) & _ones(x, length)
    dst.write(result)
    flags.set_arithmetic(x.m, _zero(result) | _parity(x, result) | is_amd(x.m).at(Eflags.AF, 32))


def _ones(x: Insn, count: Value) -> Value:
    """Return ``count`` ones, at most 32, from bit 0 on."""
    return ~(x.m.const(32, 0xFFFFFFFF) << count)


@instruction()
def BZHI(x: Insn, dst: Operand, src: Operand, index: Operand) -> None:
    """Clear the bits from a number (bits 7:0 of the index) on; CF says that the operand has no such bit."""
    value, count = src.read(), index.read() & 0xFF
    _finish(x, dst, value & _ones(x, count), count >= 32)


@instruction()
def BLSI(x: Insn, dst: Operand, src: Operand) -> None:
    """Isolate the lowest 1; CF says that there is one."""
    value = src.read()
    _finish(x, dst, value & -value, value.nz())


@instruction()
def BLSMSK(x: Insn, dst: Operand, src: Operand) -> None:
    """Ones up to and with the lowest 1; CF says that there is none."""
    value = src.read()
    _finish(x, dst, value ^ (value - 1), value == 0)


@instruction()
def BLSR(x: Insn, dst: Operand, src: Operand) -> None:
    """Reset the lowest 1; CF says that there is none."""
    value = src.read()
    _finish(x, dst, value & (value - 1), value == 0)


@instruction()
def MULX(x: Insn, high: Operand, low: Operand, src: Operand) -> None:
    """Unsigned multiplication by EDX; no flag changes.  The same register twice gets the high half."""
    product = src.read().zext(64) * x.register(2, 32).read().zext(64)
    low.write(product.trunc(32))
    high.write((product >> 32).trunc(32))


@instruction("PDEP", "PEXT")
def PDEP(x: Insn, dst: Operand, src: Operand, mask: Operand) -> None:
    """Deposit low bits at the mask's ones, or extract the bits there; no flag changes."""
    m = x.m
    deposit = x.row.mnemonic == "PDEP"
    ones, value = m.var(32, mask.read()), m.var(32, src.read())
    result, place = m.var(32, 0), m.var(32, 1)
    with m.Loop():  # once for each 1 of the mask
        m.break_if(ones.v == 0)
        lowest = ones.v & -ones.v
        source, target = (place.v, lowest) if deposit else (lowest, place.v)
        with m.If((value.v & source) != 0):
            result.v = result.v | target
        place.v = place.v << 1
        ones.v = ones.v ^ lowest
    dst.write(result.v)


@instruction()
def RORX(x: Insn, dst: Operand, src: Operand, count: Operand) -> None:
    """Rotate right; no flag changes."""
    value, by = src.read(), count.read().zext(32) & 31
    dst.write((value >> by) | (value << (-by & 31)))


@instruction("SARX", "SHLX", "SHRX")
def SHLX(x: Insn, dst: Operand, src: Operand, count: Operand) -> None:
    """Shift by the low five bits of a register; no flag changes."""
    value, by = src.read(), count.read() & 31
    match x.row.mnemonic:
        case "SARX":
            result = value.sar(by)
        case "SHLX":
            result = value << by
        case _:
            result = value >> by
    dst.write(result)
