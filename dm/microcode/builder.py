"""The builder that records descriptions.

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

from dm.microcode.evaluate import evaluate
from dm.microcode.ir import (
    WIDTHS,
    Block,
    Break,
    Call,
    Declare,
    End,
    Field,
    Get,
    If,
    Let,
    Loop,
    MicrocodeError,
    Primitive,
    ReadVar,
    Return,
    Set,
    Statement,
    Terminator,
    Value,
    Var,
    WriteVar,
    ends,
)
from dm.microcode.verify import verify


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
    """Builder and container of one handler's or procedure's code.

    Every method raises MicrocodeError, naming the description, for what does not fit: a width, a number of arguments, a
    place outside a loop or a procedure.
    """

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
    def is_handler(self) -> bool:
        """Whether it is an instruction's code, and no procedure's."""
        return self.procedure is None

    @property
    def ended(self) -> bool:
        """Whether the current path has ended."""
        return bool(self.block.body) and ends(self.block.body[-1])

    def finish(self) -> Microcode:
        """Close the code: end an open path of a procedure without result with a return, and verify it.

        Raises:
            MicrocodeError: naming the code and what is wrong.
        """
        if not self.ended and self.procedure is not None and self.procedure.result == 0:
            self.return_()
        verify(self)
        return self


def _rescope(statement: Statement, old: Block, new: Block) -> None:
    for name in ("value", "result", "var"):
        made = getattr(statement, name, None)
        if isinstance(made, Value | Var) and made.scope is old:
            made.scope = new
    for name in ("then", "other", "body"):
        block = getattr(statement, name, None)
        if isinstance(block, Block) and block.parent is old:
            block.parent = new
