"""What microcode consists of: cells, primitives, terminators, values and statements.

Values are unsigned, 1, 8, 16, 32, 64 or 128 bits wide, immutable, and used only where they are defined.  Operations
on them are recorded by whoever made them (:class:`dm.microcode.builder.Microcode`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Final, Protocol

WIDTHS: Final = (1, 8, 16, 32, 64, 128)


class MicrocodeError(Exception):
    """A description is wrong: widths differ, a value is used where it may be undefined, a path does not end."""


@dataclass(frozen=True)
class Field:
    """A named cell of the machine: a scalar, or an array when ``count`` is above 0.

    ``register`` cells travel in arguments of native handlers.  ``architectural`` cells are what a fault must leave
    alone.  ``view`` names the array that this one shows in another width.
    """

    name: str
    width: int
    count: int = 0
    register: bool = False
    architectural: bool = True
    view: str = ""


class Does(Flag):
    """What a primitive may do beside giving a result."""

    NOTHING = 0
    #: It may end the instruction with an exception.
    FAULT = auto()
    #: It may have to ask the outside, or to be recorded: the instruction is abandoned, and started over later.
    ASK = auto()
    #: It takes an input from the outside in any case, so an engine had better be ready to record it.
    OUTSIDE = auto()
    #: It changes memory.
    STORE = auto()
    #: It changes architectural cells.
    CHANGE = auto()
    #: What was done so far stays done whatever follows.
    COMMIT = auto()
    #: An engine that is not ready to undo what follows abandons the instruction here.
    UNDO = auto()


#: In a declaration of a family: the width of the member at hand.
EACH: Final = -1


@dataclass(frozen=True)
class Primitive:
    """An operation that the engine supplies, as :func:`primitive` or :func:`family` declare it.

    Args:
        name: a C identifier, unique among primitives and procedures.
        params: (name, width in bits) of each parameter.
        result: width of the result in bits, 0 for none.
        does: what else it may do.
        family: its name without the width, "" where it has no siblings of other widths.
        size: bytes that this member of the family moves.
    """

    name: str
    params: tuple[tuple[str, int], ...] = ()
    result: int = 0
    does: Does = Does.NOTHING
    family: str = ""
    size: int = 0

    @property
    def args(self) -> tuple[int, ...]:
        """Widths of the parameters."""
        return tuple(width for _, width in self.params)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(name for name, _ in self.params)

    @property
    def aborts(self) -> bool:
        """Whether it may end the instruction: by a fault, or since the outside must be asked."""
        return bool(self.does & (Does.FAULT | Does.ASK | Does.OUTSIDE))


def primitive(name: str, does: Does = Does.NOTHING, result: int = 0, **params: int) -> Primitive:
    """Declare a primitive; parameters are given as ``name=width``."""
    return Primitive(name, tuple(params.items()), result, does)


def family(name: str, widths: Iterable[int], does: Does, result: int = 0, **params: int) -> dict[int, Primitive]:
    """Declare primitives that differ in the width of what they move, by that width; :data:`EACH` stands for it."""

    def wide(given: int, width: int) -> int:
        return width if given == EACH else given

    return {
        width: Primitive(
            f"{name}{width}",
            tuple((param, wide(given, width)) for param, given in params.items()),
            wide(result, width),
            does,
            name,
            width // 8,
        )
        for width in widths
    }


@dataclass(frozen=True)
class Terminator:
    """A way to end a handler or, when ``aborts``, any procedure.  A fault takes its cause as label."""

    name: str
    args: tuple[int, ...] = ()
    aborts: bool = False


class Signature(Protocol):
    """What can be called: a primitive or a procedure."""

    def __hash__(self) -> int:
        """Callees are told apart by what they are."""

    @property
    def name(self) -> str:
        """Its name, a C identifier."""

    @property
    def args(self) -> tuple[int, ...]:
        """Widths of its parameters."""

    @property
    def result(self) -> int:
        """Width of its result, 0 for none."""


class Recorder(Protocol):
    """Who records what is done with values: the builder (:class:`dm.microcode.builder.Microcode`)."""

    name: str
    root: Block

    @property
    def is_handler(self) -> bool:
        """Whether it is an instruction's code, and no procedure's."""

    def const(self, width: int, value: int) -> Value:
        """Return a constant."""

    def binary(self, op: str, a: Value, b: Value | int) -> Value:
        """Record a two-operand operation."""

    def unary(self, op: str, a: Value, width: int) -> Value:
        """Record a one-operand operation."""

    def shift(self, op: str, a: Value, count: Value | int) -> Value:
        """Record a shift."""

    def compare(self, op: str, a: Value, b: object) -> Value:
        """Record a comparison."""

    def extend(self, op: str, a: Value, width: int) -> Value:
        """Record a change of width."""

    def select(self, condition: Value, a: Value | int, b: Value | int, width: int = 0) -> Value:
        """Return one of two values."""

    def read_var(self, var: Var) -> Value:
        """Read a mutable local."""

    def write_var(self, var: Var, value: Value | int) -> None:
        """Write a mutable local."""


def _extent(mask: int) -> tuple[int, int]:
    """Return the lowest bit of a mask, and how many it has.

    Raises:
        MicrocodeError: it has none, or gaps.
    """
    low = (mask & -mask).bit_length() - 1
    count = mask.bit_count()
    if mask <= 0 or mask >> low != (1 << count) - 1:
        raise MicrocodeError(f"{mask:#x} is not a mask without gaps")
    return low, count


@dataclass(eq=False)
class Value:
    """A typed value.  ``op`` is ``const``, ``arg``, ``temp`` or the pure operation that made it."""

    m: Recorder
    width: int
    op: str
    args: tuple[Value, ...] = ()
    const: int = 0
    name: str = ""
    number: int = -1
    upper: int = -1  # largest value it can hold
    scope: Block | None = None

    def __post_init__(self) -> None:
        if self.upper < 0:
            self.upper = (1 << self.width) - 1

    def __bool__(self) -> bool:
        raise MicrocodeError("a microcode value has no truth while it is described: use m.If or m.select")

    # arithmetic
    def __add__(self, other: Value | int) -> Value:
        return self.m.binary("add", self, other)

    def __sub__(self, other: Value | int) -> Value:
        return self.m.binary("sub", self, other)

    def __mul__(self, other: Value | int) -> Value:
        return self.m.binary("mul", self, other)

    def __and__(self, other: Value | int) -> Value:
        return self.m.binary("and", self, other)

    def __or__(self, other: Value | int) -> Value:
        return self.m.binary("or", self, other)

    def __xor__(self, other: Value | int) -> Value:
        return self.m.binary("xor", self, other)

    def __radd__(self, other: int) -> Value:
        return self.m.const(self.width, other) + self

    def __rsub__(self, other: int) -> Value:
        return self.m.const(self.width, other) - self

    def __invert__(self) -> Value:
        return self.m.unary("not", self, self.width)

    def __neg__(self) -> Value:
        return self.m.const(self.width, 0) - self

    def __lshift__(self, count: Value | int) -> Value:
        """Shift left; a count of the width or more gives 0."""
        return self.m.shift("shl", self, count)

    def __rshift__(self, count: Value | int) -> Value:
        """Shift right, filling with zeros; a count of the width or more gives 0."""
        return self.m.shift("shr", self, count)

    def sar(self, count: Value | int) -> Value:
        """Shift right, filling with the sign; a count of the width or more gives copies of the sign."""
        return self.m.shift("sar", self, count)

    def udiv(self, other: Value | int) -> Value:
        """Unsigned quotient; 0 when the divisor is 0."""
        return self.m.binary("udiv", self, other)

    def urem(self, other: Value | int) -> Value:
        """Unsigned remainder; 0 when the divisor is 0."""
        return self.m.binary("urem", self, other)

    def sdiv(self, other: Value | int) -> Value:
        """Signed quotient rounded to zero; 0 when the divisor is 0; the lowest value over -1 is itself."""
        return self.m.binary("sdiv", self, other)

    def srem(self, other: Value | int) -> Value:
        """Signed remainder with the dividend's sign; 0 when the divisor is 0 or -1."""
        return self.m.binary("srem", self, other)

    # comparisons give 1 bit
    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return self.m.compare("eq", self, other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return self.m.compare("ne", self, other)

    __hash__ = object.__hash__

    def __lt__(self, other: Value | int) -> Value:
        return self.m.compare("ult", self, other)

    def __le__(self, other: Value | int) -> Value:
        return self.m.compare("ule", self, other)

    def __gt__(self, other: Value | int) -> Value:
        return ~(self <= other)

    def __ge__(self, other: Value | int) -> Value:
        return ~(self < other)

    def slt(self, other: Value | int) -> Value:
        """Signed less than."""
        return self.m.compare("slt", self, other)

    def sle(self, other: Value | int) -> Value:
        """Signed less or equal."""
        return self.m.compare("sle", self, other)

    def nz(self) -> Value:
        """1 when not zero."""
        return self != 0

    # widths and bits
    def zext(self, width: int) -> Value:
        """Widen with zeros (the same width is allowed)."""
        return self.m.extend("zext", self, width)

    def sext(self, width: int) -> Value:
        """Widen with the sign."""
        return self.m.extend("sext", self, width)

    def trunc(self, width: int) -> Value:
        """Keep the low bits."""
        return self.m.extend("trunc", self, width)

    def fit(self, width: int) -> Value:
        """Widen with zeros or keep the low bits, as needed."""
        return self.trunc(width) if width < self.width else self.zext(width)

    def bit(self, index: Value | int) -> Value:
        """One bit as a 1-bit value."""
        return (self >> index).trunc(1)

    def msb(self) -> Value:
        """The highest bit."""
        return self.bit(self.width - 1)

    def bits(self, low: int, count: int) -> Value:
        """``count`` bits from ``low`` on, in this value's width."""
        return (self >> low) & ((1 << count) - 1)

    def field(self, mask: int) -> Value:
        """Return the bits of a mask without gaps, moved down, in this value's width."""
        low, count = _extent(mask)
        return self.bits(low, count)

    def has(self, flag: int) -> Value:
        """Whether the one bit of a mask is set, as a 1-bit value; MicrocodeError if the mask has several."""
        low, count = _extent(flag)
        if count != 1:
            raise MicrocodeError(f"{self.m.name}: {flag:#x} has more than one bit; field() takes such a mask")
        return self.bit(low)

    def at(self, flag: int, width: int) -> Value:
        """Return this value, in ``width`` bits, moved up to the place of a mask."""
        return self.zext(width) << _extent(flag)[0]

    def popcount(self) -> Value:
        """Number of ones, in this value's width."""
        return self.m.unary("popcount", self, self.width)

    def clz(self) -> Value:
        """Leading zeros; the width when zero."""
        return self.m.unary("clz", self, self.width)

    def ctz(self) -> Value:
        """Trailing zeros; the width when zero."""
        return self.m.unary("ctz", self, self.width)

    def bswap(self) -> Value:
        """Bytes in the opposite order."""
        return self.m.unary("bswap", self, self.width)


class Var:
    """A mutable local.  Reading ``v`` takes its value now; assigning ``v`` changes it."""

    def __init__(self, m: Recorder, number: int, width: int, scope: Block) -> None:
        self.m, self.number, self.width, self.scope = m, number, width, scope

    @property
    def v(self) -> Value:
        """Its value now."""
        return self.m.read_var(self)

    @v.setter
    def v(self, value: Value | int) -> None:
        self.m.write_var(self, value)


# Statements.  A block is a list of them; it ends when its last statement does.


@dataclass
class Block:
    """Statements in order."""

    parent: Block | None = None
    body: list[Statement] = field(default_factory=list)


@dataclass
class Let:
    """Name a pure operation (``value.op`` and ``value.args`` say which)."""

    value: Value


@dataclass
class Get:
    """Read a cell into a temporary."""

    value: Value
    cell: Field
    index: Value | None


@dataclass
class Set:
    """Write a cell."""

    cell: Field
    index: Value | None
    value: Value


@dataclass
class Declare:
    """Make a mutable local."""

    var: Var
    value: Value


@dataclass
class ReadVar:
    """Read a mutable local into a temporary."""

    value: Value
    var: Var


@dataclass
class WriteVar:
    """Write a mutable local."""

    var: Var
    value: Value


@dataclass
class Call:
    """Call a primitive or a procedure; ``result`` is None when it gives nothing."""

    target: Signature
    args: tuple[Value, ...]
    result: Value | None


@dataclass
class If:
    """Two-way branch."""

    condition: Value
    then: Block
    other: Block


@dataclass
class Loop:
    """Repeat until a break."""

    body: Block


@dataclass
class Break:
    """Leave the innermost loop."""


@dataclass
class Return:
    """Leave a procedure."""

    value: Value | None


@dataclass
class End:
    """Leave the handler through a terminator."""

    terminator: Terminator
    args: tuple[Value, ...]
    labels: tuple[str, ...]


Statement = Let | Get | Set | Declare | ReadVar | WriteVar | Call | If | Loop | Break | Return | End


def ends(statement: Statement) -> bool:
    """Whether nothing can follow this statement."""
    if isinstance(statement, End | Return | Break):
        return True
    if isinstance(statement, If):
        return all(block.body and ends(block.body[-1]) for block in (statement.then, statement.other))
    if isinstance(statement, Loop):
        return not _breaks(statement.body)
    return False


def statements(block: Block) -> Iterator[Statement]:
    """Yield all statements of a block, nested ones too."""
    for s in block.body:
        yield s
        if isinstance(s, If):
            yield from statements(s.then)
            yield from statements(s.other)
        elif isinstance(s, Loop):
            yield from statements(s.body)


def _breaks(block: Block) -> bool:
    for statement in block.body:
        if isinstance(statement, Break):
            return True
        if isinstance(statement, If) and (_breaks(statement.then) or _breaks(statement.other)):
            return True
    return False
