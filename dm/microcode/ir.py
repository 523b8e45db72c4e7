"""The language: typed values, statements and the builder that records them.

A description is an ordinary Python function that is given a :class:`Microcode` builder ``m``.  Python's own ``if`` and
``for`` run while the description is expanded; ``m.If`` and ``m.Loop`` become code.  Values are unsigned, 1, 8, 16, 32,
64 or 128 bits wide; an operation needs operands of one width (an ``int`` takes the width of the other side) and wraps.

    with m.If(a < b):
        m.set(field, a + 1)
    with m.Else():
        m.end(fault, 13, 0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

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


@dataclass(frozen=True)
class Primitive:
    """An operation that the engine supplies.

    ``aborts``: it may end the instruction (fault, outside access).  ``stores``: it changes memory.  ``commits``: what
    was done so far stays done whatever follows.  ``exact``: an engine that is not ready to undo what follows gives the
    instruction up here.  ``changes``: it changes architectural cells.
    """

    name: str
    args: tuple[int, ...]
    result: int = 0
    aborts: bool = False
    stores: bool = False
    commits: bool = False
    exact: bool = False
    changes: bool = False


@dataclass(frozen=True)
class Terminator:
    """A way to end a handler or, when ``aborts``, any procedure.  A fault takes its cause as label."""

    name: str
    args: tuple[int, ...] = ()
    aborts: bool = False


@dataclass(eq=False)
class Value:
    """A typed value.  ``op`` is ``const``, ``arg``, ``temp`` or the pure operation that made it."""

    m: Microcode
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
        """Shift right, filling with the sign; a count of the width or more gives the sign everywhere."""
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

    def __init__(self, m: Microcode, number: int, width: int, scope: Block) -> None:
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

    target: Primitive | Procedure
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


class Procedure:
    """A shared piece of microcode with parameters, expanded once and called.

    Args:
        name: unique, a C identifier.
        params: (name, width) of each parameter.
        result: width of the result in bits, 0 for none.
        describe: called with the builder and one Value per parameter, records the body.
    """

    def __init__(
        self,
        name: str,
        params: Sequence[tuple[str, int]],
        result: int,
        describe: Callable[..., None],
    ) -> None:
        self.name, self.params, self.result, self.describe = name, tuple(params), result, describe
        self._code: Microcode | None = None

    @property
    def args(self) -> tuple[int, ...]:
        """Widths of the parameters."""
        return tuple(width for _, width in self.params)

    @property
    def code(self) -> Microcode:
        """The expanded body."""
        if self._code is None:
            m = Microcode(self.name, procedure=self)
            self._code = m
            self.describe(m, *[m.argument(name, width) for name, width in self.params])
            m.finish()
        return self._code


def procedure(result: int = 0, **params: int) -> Callable[[Callable[..., None]], Procedure]:
    """Decorator: make a :class:`Procedure` named like the function; parameters are given as ``name=width``."""

    def make(describe: Callable[..., None]) -> Procedure:
        made = Procedure(describe.__name__, tuple(params.items()), result, describe)
        made.__doc__ = describe.__doc__
        return made

    return make


class Microcode:
    """Builder and container of one handler's or procedure's code."""

    def __init__(self, name: str, procedure: Procedure | None = None) -> None:
        self.name = name
        self.procedure = procedure
        self.root = Block()
        self.block = self.root
        self.temps = 0
        self.vars = 0
        self.loops = 0
        self._arguments: dict[str, Value] = {}
        self._pending_else: Block | None = None

    # values
    def const(self, width: int, value: int) -> Value:
        """Return a constant, wrapped to ``width`` bits."""
        if width not in WIDTHS:
            raise MicrocodeError(f"{self.name}: width {width}, one of {WIDTHS} is needed")
        value &= (1 << width) - 1
        return Value(self, width, "const", const=value, upper=value)

    def argument(self, name: str, width: int) -> Value:
        """Return a parameter of a procedure or an operand of the instruction at hand."""
        made = self._arguments.get(name)
        if made is None:
            made = self._arguments[name] = Value(self, width, "arg", name=name)
        if made.width != width:
            raise MicrocodeError(f"{self.name}: argument {name} is {made.width} bits wide, asked as {width}")
        return made

    def value(self, width: int, value: Value | int) -> Value:
        """Return ``value`` as a Value of exactly ``width`` bits."""
        if isinstance(value, int):
            return self.const(width, value)
        if value.width != width:
            raise MicrocodeError(f"{self.name}: value of {value.width} bits where {width} are needed")
        return value

    def _temp(self, width: int, op: str = "temp", args: tuple[Value, ...] = (), upper: int = -1) -> Value:
        if width not in WIDTHS:
            raise MicrocodeError(f"{self.name}: width {width}, one of {WIDTHS} is needed")
        made = Value(self, width, op, args, number=self.temps, upper=upper, scope=self.block)
        self.temps += 1
        return made

    def _add(self, statement: Statement) -> None:
        self._pending_else = None
        if self.block.body and ends(self.block.body[-1]):
            raise MicrocodeError(f"{self.name}: code after the end of its path")
        self.block.body.append(statement)

    def _pure(self, op: str, width: int, *args: Value, upper: int = -1) -> Value:
        if all(a.op == "const" for a in args):
            return self.const(width, evaluate(op, width, [a.const for a in args], args[-1].width))
        made = self._temp(width, op, args, upper)
        # A pure operation does not disturb a following Else.
        pending = self._pending_else
        self._add(Let(made))
        self._pending_else = pending
        return made

    def binary(self, op: str, a: Value, b: Value | int) -> Value:
        """Record a two-operand operation on one width."""
        right = self.value(a.width, b)
        full = (1 << a.width) - 1
        upper = -1
        if op == "and":
            upper = min(a.upper, right.upper)
        if right.op == "const":
            n = right.const
            if (
                (op in ("add", "sub", "or", "xor") and n == 0)
                or (op == "mul" and n == 1)
                or (op == "and" and n == full)
            ):
                return a
            if op in ("and", "mul") and n == 0:
                return right
            if op in ("urem",) and n:
                upper = n - 1
        if a.op == "const":
            n = a.const
            if (op in ("add", "or", "xor") and n == 0) or (op == "and" and n == full):
                return right
            if op == "and" and n == 0:
                return a
        return self._pure(op, a.width, a, right, upper=upper)

    def unary(self, op: str, a: Value, width: int) -> Value:
        """Record a one-operand operation."""
        upper = a.width if op in ("popcount", "clz", "ctz") else -1
        return self._pure(op, width, a, upper=upper)

    def shift(self, op: str, a: Value, count: Value | int) -> Value:
        """Record a shift; the count may have any width."""
        n = self.const(32, count) if isinstance(count, int) else count
        if isinstance(count, int) and count < 0:
            raise MicrocodeError(f"{self.name}: shift by {count}")
        if n.op == "const" and n.const == 0:
            return a
        upper = a.upper >> n.const if op == "shr" and n.op == "const" else a.upper if op == "shr" else -1
        return self._pure(op, a.width, a, n, upper=upper)

    def compare(self, op: str, a: Value, b: object) -> Value:
        """Record a comparison."""
        if not isinstance(b, Value | int):
            raise MicrocodeError(f"{self.name}: comparison with {b!r}")
        if isinstance(b, int) and not -(1 << a.width - 1) <= b < 1 << a.width:
            raise MicrocodeError(f"{self.name}: comparison of {a.width} bits with {b:#x}")
        return self._pure(op, 1, a, self.value(a.width, b))

    def extend(self, op: str, a: Value, width: int) -> Value:
        """Record a change of width."""
        if width == a.width:
            return a
        if (width < a.width) != (op == "trunc"):
            raise MicrocodeError(f"{self.name}: {op} from {a.width} to {width} bits")
        upper = a.upper if op == "zext" else min(a.upper, (1 << width) - 1) if op == "trunc" else -1
        return self._pure(op, width, a, upper=upper)

    def select(self, condition: Value, a: Value | int, b: Value | int, width: int = 0) -> Value:
        """Return ``a`` where ``condition`` holds, else ``b``; both are computed."""
        self.value(1, condition)
        width = width or (a.width if isinstance(a, Value) else b.width if isinstance(b, Value) else 0)
        left, right = self.value(width, a), self.value(width, b)
        if condition.op == "const":
            return left if condition.const else right
        made = self._temp(width, "select", (condition, left, right), upper=max(left.upper, right.upper))
        self._add(Let(made))
        return made

    # cells and locals
    def _index(self, cell: Field, index: Value | int | None) -> Value | None:
        if (index is None) != (cell.count == 0):
            raise MicrocodeError(f"{self.name}: {cell.name} {'needs' if cell.count else 'has no'} index")
        if isinstance(index, int):
            if not 0 <= index < cell.count:
                raise MicrocodeError(f"{self.name}: {cell.name}[{index}], below {cell.count} is needed")
            return self.const(8 if cell.count <= 256 else 16, index)
        return index

    def get(self, cell: Field, index: Value | int | None = None) -> Value:
        """Read a cell now."""
        made = self._temp(cell.width)
        self._add(Get(made, cell, self._index(cell, index)))
        return made

    def set(self, cell: Field, value: Value | int, index: Value | int | None = None) -> None:
        """Write a cell."""
        self._add(Set(cell, self._index(cell, index), self.value(cell.width, value)))

    def var(self, width: int, value: Value | int = 0) -> Var:
        """Make a mutable local."""
        made = Var(self, self.vars, width, self.block)
        self.vars += 1
        self._add(Declare(made, self.value(width, value)))
        return made

    def read_var(self, var: Var) -> Value:
        """Read a mutable local."""
        made = self._temp(var.width)
        self._add(ReadVar(made, var))
        return made

    def write_var(self, var: Var, value: Value | int) -> None:
        """Write a mutable local."""
        self._add(WriteVar(var, self.value(var.width, value)))

    def call(self, target: Primitive | Procedure, *args: Value | int) -> Value:
        """Call a primitive or procedure; the result of one that gives nothing must not be used."""
        if len(args) != len(target.args):
            raise MicrocodeError(f"{self.name}: {target.name} takes {len(target.args)} arguments, {len(args)} given")
        try:
            given = tuple(self.value(width, a) for width, a in zip(target.args, args, strict=True))
        except MicrocodeError as error:
            raise MicrocodeError(f"{error} (calling {target.name})") from None
        result = self._temp(target.result) if target.result else None
        self._add(Call(target, given, result))
        return result if result is not None else Value(self, 1, "none")

    # control
    @contextmanager
    def _inside(self, block: Block) -> Iterator[None]:
        outer, self.block = self.block, block
        try:
            yield
        finally:
            self.block = outer

    @contextmanager
    def If(self, condition: Value) -> Iterator[None]:
        """Run the body where the 1-bit ``condition`` holds."""
        self.value(1, condition)
        then, other = Block(self.block), Block(self.block)
        with self._inside(then):
            yield
        if condition.op == "const":
            # Decided while describing: splice the taken side, drop the other.
            if condition.const:
                self.block.body += then.body
                for statement in then.body:
                    _rescope(statement, then, self.block)
                self._pending_else = Block(self.block)
            else:
                self._pending_else = self.block
            return
        self._add(If(condition, then, other))
        self._pending_else = other

    @contextmanager
    def Else(self) -> Iterator[None]:
        """Run the body where the preceding If's condition does not hold."""
        block = self._pending_else
        if block is None:
            raise MicrocodeError(f"{self.name}: Else without If")
        self._pending_else = None
        with self._inside(block):
            yield
        self._pending_else = None

    @contextmanager
    def Elif(self, condition: Callable[[], Value]) -> Iterator[None]:
        """Else, and there an If on ``condition()``, which is computed inside."""
        block = self._pending_else
        if block is None:
            raise MicrocodeError(f"{self.name}: Elif without If")
        self._pending_else = None
        with self._inside(block):
            with self.If(condition()):
                yield
            pending = self._pending_else
        self._pending_else = pending

    @contextmanager
    def Loop(self) -> Iterator[None]:
        """Repeat the body until :meth:`break_` (or the path ends)."""
        body = Block(self.block)
        self.loops += 1
        with self._inside(body):
            yield
        self.loops -= 1
        self._add(Loop(body))

    def break_(self) -> None:
        """Leave the innermost loop."""
        if not self.loops:
            raise MicrocodeError(f"{self.name}: break outside a loop")
        self._add(Break())

    def break_if(self, condition: Value) -> None:
        """Leave the innermost loop where ``condition`` holds."""
        with self.If(condition):
            self.break_()

    def return_(self, value: Value | int | None = None) -> None:
        """Leave a procedure with its result."""
        if self.procedure is None:
            raise MicrocodeError(f"{self.name}: return in a handler")
        if (value is None) != (self.procedure.result == 0):
            raise MicrocodeError(f"{self.name}: result of {self.procedure.result} bits, returned {value!r}")
        self._add(Return(None if value is None else self.value(self.procedure.result, value)))

    def end(self, terminator: Terminator, *args: Value | int, labels: tuple[str, ...] = ()) -> None:
        """End this path through a terminator."""
        if self.procedure is not None and not terminator.aborts:
            raise MicrocodeError(f"{self.name}: a procedure cannot end an instruction with {terminator.name}")
        if len(args) != len(terminator.args):
            raise MicrocodeError(f"{self.name}: {terminator.name} takes {len(terminator.args)} arguments")
        given = tuple(self.value(width, a) for width, a in zip(terminator.args, args, strict=True))
        self._add(End(terminator, given, labels))

    @property
    def ended(self) -> bool:
        """Whether the current path has ended."""
        return bool(self.block.body) and ends(self.block.body[-1])

    def finish(self, default: Terminator | None = None) -> Microcode:
        """Close the code: end an open path with ``default`` (a procedure without result: return) and verify it."""
        from dm.microcode.verify import verify

        if not self.ended:
            if self.procedure is not None and self.procedure.result == 0:
                self.return_()
            elif default is not None:
                self.end(default)
        verify(self)
        return self


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


def _rescope(statement: Statement, old: Block, new: Block) -> None:
    for name in ("value", "result", "var"):
        made = getattr(statement, name, None)
        if isinstance(made, Value | Var) and made.scope is old:
            made.scope = new
    for name in ("then", "other", "body"):
        block = getattr(statement, name, None)
        if isinstance(block, Block) and block.parent is old:
            block.parent = new


def signed(value: int, width: int) -> int:
    """Return the two's-complement reading of ``value``."""
    return value - (1 << width) if value >> (width - 1) & 1 else value


def evaluate(op: str, width: int, args: list[int], source: int) -> int:
    """Return the result of a pure operation on constants; ``source`` is the operands' width (see the Value methods)."""
    mask = (1 << width) - 1
    a = args[0]
    b = args[1] if len(args) > 1 else 0
    match op:
        case "add":
            return (a + b) & mask
        case "sub":
            return (a - b) & mask
        case "mul":
            return (a * b) & mask
        case "and":
            return a & b
        case "or":
            return a | b
        case "xor":
            return a ^ b
        case "not":
            return ~a & mask
        case "shl":
            return (a << b) & mask if b < width else 0
        case "shr":
            return a >> b if b < width else 0
        case "sar":
            return (signed(a, width) >> min(b, width - 1)) & mask
        case "udiv":
            return a // b if b else 0
        case "urem":
            return a % b if b else 0
        case "sdiv" | "srem":
            if b == 0:
                return 0
            x, y = signed(a, width), signed(b, width)
            quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
            return (quotient if op == "sdiv" else x - quotient * y) & mask
        case "eq":
            return int(a == b)
        case "ne":
            return int(a != b)
        case "ult":
            return int(a < b)
        case "ule":
            return int(a <= b)
        case "slt":
            return int(signed(a, source) < signed(b, source))
        case "sle":
            return int(signed(a, source) <= signed(b, source))
        case "zext" | "trunc":
            return a & mask
        case "sext":
            return signed(a, source) & mask
        case "popcount":
            return a.bit_count()
        case "clz":
            return width - a.bit_length()
        case "ctz":
            return (a & -a).bit_length() - 1 if a else width
        case "bswap":
            return int.from_bytes(a.to_bytes(width // 8, "little"), "big")
    raise MicrocodeError(f"unknown operation {op}")
