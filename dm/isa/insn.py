"""What an instruction's description is given: the form to describe and its operands.

    @instruction()
    def ADD(x: Insn, dst: Operand, src: Operand) -> None:
        b = src.read()
        a = dst.read_modify()
        result = a + b
        dst.write_back(result)
        flags.add(x.m, a, b, result)

Reads and checks come first, memory is written next, registers and flags last: a fault or an access that must wait then
leaves nothing half done.  (Where that order is impossible the form is run as a transaction; that follows from the
description, :func:`dm.microcode.effects.effects`, and is not declared.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dm.isa import ends, features
from dm.isa import primitives as p
from dm.isa.cells import GPR8, GPR16, GPR32, SELECTOR
from dm.isa.map.forms import Row
from dm.isa.map.operands import GENERAL, SEGMENT, X87, OperandForm, Place, RegisterClass
from dm.isa.mechanisms import mode
from dm.machine.architecture import Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Field, Microcode, Value

#: Register class and width -> the cell that its numbers index.  Registers of other classes are read and written by
#: the instructions that have them (:class:`Special`).
CELLS: Final[dict[tuple[RegisterClass, int], Field]] = {
    (GENERAL, 8): GPR8,
    (GENERAL, 16): GPR16,
    (GENERAL, 32): GPR32,
}


@dataclass(frozen=True)
class Variant:
    """One form of a row: operand size, address size, memory or register rm, LOCK, REP.

    ``rep`` is ``""``, ``"rep"`` (F2 or F3 on a plain string instruction), ``"repe"`` or ``"repne"``.
    """

    osize: int
    asize: int
    memory: bool
    lock: bool = False
    rep: str = ""


class Operand:
    """An operand: ``width`` bits, read and written through microcode."""

    memory = False

    def __init__(self, x: Insn, width: int) -> None:
        self.x, self.m, self.width = x, x.m, width

    def read(self) -> Value:
        """Return its value."""
        raise NotImplementedError

    def write(self, value: Value) -> None:
        """Replace its value."""
        raise NotImplementedError

    def read_modify(self) -> Value:
        """Return its value as the first half of a read-modify-write (memory: checks for the write already)."""
        return self.read()

    def write_back(self, value: Value) -> None:
        """Second half of a read-modify-write."""
        self.write(value)


class Constant(Operand):
    """A constant or an immediate."""

    def __init__(self, x: Insn, width: int, value: Value) -> None:
        super().__init__(x, width)
        self.value = value

    def read(self) -> Value:
        """Return its value."""
        return self.value


class Register(Operand):
    """A register of a class that has a cell: ``number`` is a constant or an operand of the record."""

    def __init__(self, x: Insn, registers: RegisterClass, width: int, number: Value) -> None:
        super().__init__(x, width)
        self.cell, self.number = CELLS[registers, width], number

    def read(self) -> Value:
        """Return its value."""
        return self.m.get(self.cell, self.number)

    def write(self, value: Value) -> None:
        """Replace its value; the rest of the register stays."""
        self.m.set(self.cell, value, self.number)


class Special(Operand):
    """A register of another class, by number; reading gives the selector of a segment register."""

    def __init__(self, x: Insn, registers: RegisterClass, width: int, number: Value) -> None:
        super().__init__(x, width)
        self.registers, self.number = registers, number

    def read(self) -> Value:
        """Return the selector (segment registers only)."""
        assert self.registers is SEGMENT, "other registers are read by their instructions' descriptions"
        return self.m.get(SELECTOR, self.number)


class StackRegister(Operand):
    """An x87 register, ``number`` counted from the top of the stack."""

    def __init__(self, x: Insn, width: int, number: Value) -> None:
        super().__init__(x, width)
        self.number = number


class Memory(Operand):
    """A memory operand."""

    memory = True

    def __init__(self, x: Insn, width: int, segment: Value, offset: Callable[[], Value]) -> None:
        super().__init__(x, width)
        self.segment, self._offset = segment, offset
        self._address: Value | None = None
        #: Whether a read-modify-write is atomic against other CPUs.
        self.locked = x.variant.lock

    def offset(self, plus: int = 0) -> Value:
        """Return the offset, 32 bits, wrapped to the address size; ``plus`` bytes further on."""
        base = self._address if self._address is not None else self._offset()
        self._address = base
        return self.x.wrap(base + plus) if plus else base

    def read(self) -> Value:
        """Return its value."""
        return self.load(self.width)

    def load(self, width: int, plus: int = 0) -> Value:
        """Read ``width`` bits, ``plus`` bytes on (an access of its own)."""
        return self.m.call(p.LOAD[width], self.segment, self.offset(plus))

    def store(self, value: Value, plus: int = 0) -> None:
        """Write ``value``, ``plus`` bytes on (an access of its own)."""
        self.m.call(p.STORE[value.width], self.segment, self.offset(plus), value)

    def write(self, value: Value) -> None:
        """Replace its value."""
        self.store(value)

    def read_modify(self) -> Value:
        """Begin a read-modify-write."""
        table = p.RMW_LOCKED if self.locked else p.RMW
        return self.m.call(table[self.width], self.segment, self.offset())

    def write_back(self, value: Value) -> None:
        """End a read-modify-write."""
        table = p.RMW_LOCKED_END if self.locked else p.RMW_END
        self.m.call(table[self.width], value)


class FarPointer(Operand):
    """A selector:offset pair in the instruction."""

    def selector(self) -> Value:
        """Return the selector, 16 bits."""
        return self.m.argument("imm2", 16)

    def offset(self) -> Value:
        """Return the offset, 32 bits (zero-extended for 16-bit operands)."""
        return self.m.argument("imm", 32)


class Insn:
    """One form of one row being described.

    ``m`` is the builder, ``osize`` and ``asize`` the operand and address size in bits.
    """

    def __init__(self, row: Row, variant: Variant, name: str) -> None:
        self.row, self.variant = row, variant
        self.m = Microcode(name)
        self.osize, self.asize = variant.osize, variant.asize

    def wrap(self, offset: Value) -> Value:
        """Wrap a 32-bit offset to the address size."""
        return offset & 0xFFFF if self.asize == 16 else offset

    def register(self, number: int, width: int = 0) -> Register:
        """Return a general register by number (``width`` bits, default the operand size)."""
        return Register(self, GENERAL, width or self.osize, self.m.const(8, number))

    def count_register(self, number: int) -> Register:
        """Return a register in the address size (CX, SI, DI of string and loop instructions)."""
        return self.register(number, self.asize)

    def fault(self, vector: int | Value, error: int | Value, cause: str, *operands: int | Value) -> None:
        """End this path with an exception (see :func:`dm.isa.ends.fault`)."""
        ends.fault(self.m, vector, error, cause, *operands)

    def fault_if(self, condition: Value, vector: int, error: int | Value, cause: str, *operands: int | Value) -> None:
        """Raise an exception where ``condition`` holds."""
        with self.m.If(condition):
            self.fault(vector, error, cause, *operands)

    @property
    def source_segment(self) -> Value:
        """Number of the segment of the memory or source string operand, overrides included."""
        return self.m.argument("seg", 8)

    def effective_offset(self, esp: Value | None = None) -> Value:
        """Return base + index * scale + displacement of the ModRM operand, wrapped to the address size.

        ``esp``: what ESP as a base register is taken to be (POP uses the incremented one).
        """
        m = self.m
        number = m.argument("base", 8)
        if self.variant.asize == 16:  # ESP cannot be a base
            words = m.get(GPR16, number).zext(32) + m.get(GPR16, m.argument("index", 8)).zext(32)
            return self.wrap(words + m.argument("disp", 32))
        base = m.get(GPR32, number)
        if esp is not None:
            base = m.select(number == 4, esp, base)
        index = m.get(GPR32, m.argument("index", 8))
        scale = m.argument("scale", 8)
        scale.upper = 3
        return self.wrap(base + (index << scale) + m.argument("disp", 32))

    def operand(self, form: OperandForm, field: str) -> Operand:
        """Return the operand for a form; ``field`` of the decoded instruction is where it is (:attr:`Row.fields`)."""
        m, width = self.m, form.width(self.osize, memory=True)
        match form.place:
            case Place.RM if form.must_be_memory or (form.memory and self.variant.memory):
                return Memory(self, width, self.source_segment, self.effective_offset)
            case Place.OFFSET:
                return Memory(self, width, self.source_segment, lambda: m.argument("disp", 32))
            case Place.SOURCE:
                return Memory(self, width, self.source_segment, lambda: self.count_register(Gpr.SI).read().fit(32))
            case Place.DESTINATION:
                return Memory(self, width, m.const(8, Seg.ES), lambda: self.count_register(Gpr.DI).read().fit(32))
            case Place.FAR:
                return FarPointer(self, width)
            case Place.IMMEDIATE | Place.RELATIVE:
                return Constant(self, width, m.argument(field, 32 if field == "imm" else 16).trunc(width))
        number = m.argument(field, 8) if field else m.const(8, form.number)
        if form.registers is None:
            return Constant(self, width, number)
        width = form.width(self.osize)
        if form.registers is X87:
            return StackRegister(self, width, number)
        kind = Register if (form.registers, width) in CELLS else Special
        return kind(self, form.registers, width, number)


Description = Callable[..., None]
#: Mnemonic -> description.
DESCRIPTIONS: Final[dict[str, Description]] = {}


#: Those that are there until somebody describes the instruction itself.
_DEFAULTS: Final[set[str]] = set()


def instruction(*names: str, default: bool = False) -> Callable[[Description], Description]:
    """Decorator: this function describes the instruction of its own name, or those named.

    Args:
        names: their mnemonics in the opcode map.
        default: it holds for those that have no other description.

    Raises:
        ValueError: one of them is described already.
    """

    def register(describe: Description) -> Description:
        for name in names or (describe.__name__,):
            if name in DESCRIPTIONS and name not in _DEFAULTS:
                if default:
                    continue
                raise ValueError(f"{name} is described twice")
            DESCRIPTIONS[name] = describe
            (_DEFAULTS.add if default else _DEFAULTS.discard)(name)
        return describe

    return register


def expand(row: Row, variant: Variant, name: str) -> Microcode:
    """Describe one form: mode and feature tests, the instruction's own description, the default end."""
    x = Insn(row, variant, name)
    if row.vex:
        mode.require_protected(x.m)
    if row.feature and "optional" not in row.attributes:
        x.fault_if(~features.has(x.m, row.feature), Vector.UD, 0, "NO_FEATURE")
    DESCRIPTIONS[row.mnemonic](x, *map(x.operand, row.forms, row.fields))
    if not x.m.ended:
        x.m.end(ends.NEXT)
    return x.m.finish()
