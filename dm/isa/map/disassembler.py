"""Instructions as text, from the same opcode map and decoder that the engines use.

Mnemonics are those of the map, operands are written as Intel's assemblers do: ``add byte ptr es:[bx+si+0x10],al``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dm.isa.map.decode import LONGEST, NONE, Decoded, NeedMore, TooLong, decode
from dm.isa.map.forms import Row
from dm.isa.map.operands import CONTROL, GENERAL, SEGMENT, OperandForm, Place
from dm.machine.state import Seg

#: How assemblers write the size of a memory operand, by its bits.
_POINTERS: Final = {
    0: "", 8: "byte ptr ", 16: "word ptr ", 32: "dword ptr ", 48: "fword ptr ", 64: "qword ptr ", 80: "tbyte ptr ",
    128: "xmmword ptr ", 256: "ymmword ptr ",
}  # fmt: skip
_SEGMENTS: Final = SEGMENT.names[16]
_SI, _DI, _BX = 6, 7, 3


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction: its bytes, and its text; ``row`` None means that the bytes are none (#UD)."""

    code: bytes
    text: str
    row: Row | None


def disassemble(code: bytes, code32: bool, eip: int = 0) -> Line:
    """Return the instruction at the start of ``code``.

    Args:
        code: bytes, up to 15 of them are looked at.
        code32: default operand and address size (CS.D).
        eip: address of the first byte, for relative targets.

    Raises:
        NeedMore: the bytes end inside the instruction.
    """
    try:
        d = decode(code[:LONGEST], code32)
    except TooLong:
        return Line(bytes(code[:LONGEST]), "(too long)", None)
    raw = bytes(code[: d.length])
    if d.row is None:
        return Line(raw, "(bad)", None)
    return Line(raw, text(d, eip), d.row)


def listing(code: bytes, code32: bool, eip: int = 0) -> list[Line]:
    """Return all instructions in ``code``; bytes that end inside one come last as ``(incomplete)``."""
    lines = []
    at = 0
    while at < len(code):
        try:
            line = disassemble(code[at : at + LONGEST], code32, eip + at & 0xFFFFFFFF)
        except NeedMore:
            line = Line(bytes(code[at:]), "(incomplete)", None)
        lines.append(line)
        at += len(line.code)
    return lines


def text(d: Decoded, eip: int = 0) -> str:
    """Return a decoded instruction as text; ``eip`` is where it was decoded."""
    row, variant = d.row, d.variant
    if row is None:
        return "(bad)"
    name = row.names[variant.osize == 32].lower()
    prefix = f"{'lock ' if variant.lock else ''}{variant.rep + ' ' if variant.rep else ''}"
    writer = _Operands(d, row, eip)
    if row.operands[:1] == ("E",) or row.mnemonic == "AVX":
        # Not described one by one: the opcode byte and the register field stand for the mnemonic.
        words = [f"{d.opcode:02x}/{d.reg}", writer.memory(0) if variant.memory else str(d.rm)]
        given = [writer.operand(*one) for one in zip(row.forms, row.fields, strict=True) if one[0].immediates]
        return f"{prefix}{name} {','.join([*words, *given])}"
    # The accumulator of MUL and DIV is not written, nor the register number that fences ignore.
    implied = row.mnemonic in ("MUL", "IMUL", "DIV", "IDIV") and row.forms[0].place is Place.IMPLIED
    shown = list(zip(row.forms, row.fields, strict=True))[implied:]
    operands = [writer.operand(*one) for one in shown if one[0].text != "R"]
    if row.mnemonic == "XLAT":
        operands = [writer.string(8, d.seg, _BX)]
    elif row.mnemonic == "JCXZ" and variant.asize == 32:
        name = "jecxz"
    return f"{prefix}{name} {','.join(operands)}".rstrip()


class _Operands:
    """Writes the operands of one instruction."""

    def __init__(self, d: Decoded, row: Row, eip: int) -> None:
        self.d, self.row, self.eip = d, row, eip
        self.osize, self.asize = d.variant.osize, d.variant.asize

    def operand(self, form: OperandForm, field: str) -> str:
        """Return the text for an operand form; ``field`` of the decoded instruction is where the operand is."""
        d, osize = self.d, self.osize
        width = form.width(osize, memory=True)
        match form.place:
            case Place.RM if d.variant.memory:
                return self.memory(width if form.shown else 0)
            case Place.IMMEDIATE:
                return hex(getattr(d, field) & (0xFFFF if osize == 16 else 0xFFFFFFFF))
            case Place.RELATIVE:
                return hex(self.eip + d.length + d.imm & (0xFFFF if osize == 16 else 0xFFFFFFFF))
            case Place.OFFSET:
                return f"{_SEGMENTS[d.seg]}:{d.disp:#x}"
            case Place.FAR:
                return f"{d.imm2:#x}:{d.imm:#x}"
            case Place.SOURCE:
                return self.string(width, d.seg, _SI)
            case Place.DESTINATION:
                return self.string(width, Seg.ES, _DI)
        number = getattr(d, field) if field else form.number
        if form.registers is None:
            return str(number)
        if form.text == "ST(0)":
            return "st"
        if form.registers is CONTROL:
            number += 8 * d.variant.lock  # which is how AMD's parts name CR8 outside 64-bit mode
        return form.registers.names[form.width(osize)][number]

    def string(self, width: int, seg: int, register: int) -> str:
        """The element a string instruction is at."""
        return f"{_POINTERS[width]}{_SEGMENTS[seg]}:[{GENERAL.names[self.asize][register]}]"

    def memory(self, width: int) -> str:
        """A ModRM memory operand of ``width`` bits (0: of no size)."""
        d, names = self.d, GENERAL.names[self.asize]
        size = _POINTERS[width]
        if d.base == NONE and d.index == NONE:
            return f"{size}{_SEGMENTS[d.seg]}:{d.disp:#x}"
        parts = [] if d.base == NONE else [names[d.base]]
        if d.index != NONE:
            parts.append(names[d.index] + (f"*{1 << d.scale}" if self.asize == 32 else ""))
        default = Seg.SS if d.base == 5 or (d.base == 4 and self.asize == 32) else Seg.DS
        segment = "" if d.seg == default else f"{_SEGMENTS[d.seg]}:"
        return f"{size}{segment}[{'+'.join(parts)}{self._displacement()}]"

    def _displacement(self) -> str:
        disp, width = self.d.disp, self.asize
        disp &= (1 << width) - 1
        if not disp:
            return ""
        negative = disp >> (width - 1)
        return f"-{(1 << width) - disp:#x}" if negative else f"+{disp:#x}"
