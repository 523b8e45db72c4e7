"""Bit tests, scans and counts (SDM vol. 2, BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT CRC32)."""

from __future__ import annotations

from dm.isa import features, flags
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.machine.architecture import Eflags
from dm.microcode import Value


def _bit(x: Insn, base: Operand, index: Operand) -> tuple[Operand, Value]:
    """Return the operand that holds the bit, and the mask of the bit in it.

    A register index into memory is signed and reaches beyond the operand; an immediate one wraps in it.
    """
    width = base.width
    number = index.read()
    if isinstance(base, Memory) and x.row.operands[1] == "Gv":
        first = base.offset()
        # Whole operands between the one addressed and the one that holds the bit, in bytes.
        distance = number.sext(32).sar(width.bit_length() - 1) << (width // 8).bit_length() - 1
        base = Memory(x, width, base.segment, lambda: x.wrap(first + distance))
    return base, x.m.const(width, 1) << (number & (width - 1))


def _change(x: Insn, base: Operand, index: Operand, how: str) -> None:
    base, mask = _bit(x, base, index)
    old = base.read_modify()
    match how:
        case "set":
            new = old | mask
        case "reset":
            new = old & ~mask
        case _:
            new = old ^ mask
    base.write_back(new)
    flags.set_carry(x.m, (old & mask).nz())


@instruction()
def BT(x: Insn, base: Operand, index: Operand) -> None:
    """Copy a bit to CF; the other flags stay (undefined but for ZF, measured)."""
    base, mask = _bit(x, base, index)
    flags.set_carry(x.m, (base.read() & mask).nz())


@instruction()
def BTS(x: Insn, base: Operand, index: Operand) -> None:
    """Copy a bit to CF and set it."""
    _change(x, base, index, "set")


@instruction()
def BTR(x: Insn, base: Operand, index: Operand) -> None:
    """Copy a bit to CF and clear it."""
    _change(x, base, index, "reset")


@instruction()
def BTC(x: Insn, base: Operand, index: Operand) -> None:
    """Copy a bit to CF and turn it over."""
    _change(x, base, index, "complement")


def _scan(x: Insn, dst: Operand, value: Value, found: Value) -> None:
    m = x.m
    with m.If(value != 0):
        dst.write(found)
    # PF is the result's, also where that is 0; the others are cleared (undefined, measured).
    flags.logic(m, m.select(value == 0, m.const(value.width, 0), flags.nonzero(m, found)))


@instruction()
def BSF(x: Insn, dst: Operand, src: Operand) -> None:
    """Number of the lowest 1; of 0 the destination stays and ZF is set."""
    value = src.read()
    _scan(x, dst, value, value.ctz())


@instruction()
def BSR(x: Insn, dst: Operand, src: Operand) -> None:
    """Number of the highest 1; of 0 the destination stays and ZF is set."""
    value = src.read()
    _scan(x, dst, value, value.width - 1 - value.clz())


def _counted(x: Insn, dst: Operand, value: Value, count: Value) -> None:
    m = x.m
    dst.write(count)
    # OF, undefined as SF AF PF are, is cleared by Intel's parts and left alone by AMD's (measured).
    of = is_amd(m) & flags.overflow(m)
    word = (value == 0).at(Eflags.CF, 32) | (count == 0).at(Eflags.ZF, 32) | of.at(Eflags.OF, 32)
    flags.set_arithmetic(m, word)


@instruction()
def TZCNT(x: Insn, dst: Operand, src: Operand) -> None:
    """Count trailing zeros; without BMI1 the prefix is ignored and this is BSF."""
    value = src.read()
    with x.m.If(features.has(x.m, "bmi1")):
        _counted(x, dst, value, value.ctz())
    with x.m.Else():
        _scan(x, dst, value, value.ctz())


@instruction()
def LZCNT(x: Insn, dst: Operand, src: Operand) -> None:
    """Count leading zeros; without the feature the prefix is ignored and this is BSR."""
    value = src.read()
    with x.m.If(features.has(x.m, "lzcnt")):
        _counted(x, dst, value, value.clz())
    with x.m.Else():
        _scan(x, dst, value, value.width - 1 - value.clz())


@instruction()
def POPCNT(x: Insn, dst: Operand, src: Operand) -> None:
    """Count ones; ZF tells whether there was none, the other flags are cleared."""
    value = src.read()
    dst.write(value.popcount())
    flags.set_arithmetic(x.m, (value == 0).at(Eflags.ZF, 32))


#: The Castagnoli polynomial 11EDC6F41h, its bits mirrored.
_CASTAGNOLI = 0x82F63B78


@instruction()
def CRC32(x: Insn, dst: Operand, src: Operand) -> None:
    """Accumulate the CRC-32C of the source, lowest bit first; no flag changes."""
    remainder = dst.read() ^ src.read().zext(32)
    for _ in range(src.width):
        remainder = (remainder >> 1) ^ (-(remainder & 1) & _CASTAGNOLI)
    dst.write(remainder)
