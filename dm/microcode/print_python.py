"""Print microcode as Python source.

Cells and primitives are spelled by a :class:`PythonTarget`; the engine subclasses it where its objects differ.
"""

from __future__ import annotations

from collections import Counter

from dm.microcode.builder import Microcode
from dm.microcode.evaluate import evaluate
from dm.microcode.ir import (
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
    Primitive,
    ReadVar,
    Return,
    Set,
    Signature,
    Value,
    WriteVar,
)


class PythonTarget:
    """How names of the machine are written in Python.  The machine is ``cpu``, the instruction record ``i``."""

    def read(self, cell: Field, index: str) -> str:
        """Expression that reads a cell."""
        return f"cpu.{cell.name}[{index}]" if cell.count else f"cpu.{cell.name}"

    def write(self, cell: Field, index: str, value: str) -> str:
        """Statement that writes a cell."""
        return f"{self.read(cell, index)} = {value}"

    def operand(self, name: str, width: int) -> str:
        """Expression for an operand of the instruction record."""
        return f"i.{name}"

    def call(self, target: Signature, args: list[str]) -> str:
        """Expression that calls a primitive or a procedure; faults are exceptions."""
        if isinstance(target, Primitive):
            return f"cpu.{target.name}({', '.join(args)})"
        return f"{target.name}({', '.join(['cpu', *args])})"

    def prologue(self, m: Microcode) -> list[str]:
        """Statements to put at the beginning of a function."""
        return []

    def end(self, name: str, args: list[str], labels: tuple[str, ...]) -> list[str]:
        """Statements that leave the handler."""
        given = [*(repr(label) for label in labels), *args]
        return [f"return cpu.{name}({', '.join(given)})"]


_INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "ult": "<", "ule": "<="}
_INVERSE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">"}


class PythonPrinter:
    """Prints one handler or procedure at a time.

    A pure value that is used once is written where it is used: all it refers to is immutable, so the place does not
    matter.  Values that a loop uses are computed outside it.
    """

    #: An expression longer than this gets a name, used once or not.
    LONGEST = 300

    def __init__(self, target: PythonTarget) -> None:
        self.target = target

    def function(self, m: Microcode) -> str:
        """Return the source of one function: ``def name(cpu, i)`` or, for a procedure, ``def name(cpu, params…)``."""
        self.lines: list[str] = []
        self.uses: Counter[int] = Counter()
        self.inline: dict[int, Value] = {}
        self.alias: dict[int, str] = {}
        self.is_procedure = m.procedure is not None
        self._count(m.root)
        params = ["cpu", *(name for name, _ in m.procedure.params)] if m.procedure else ["cpu", "i"]
        self._block(m.root, 1)
        head = [f"def {m.name}({', '.join(params)}):"]
        head += [f"    {line}" for line in self.target.prologue(m)]
        return "\n".join([*head, *self.lines]) + "\n"

    def _count(self, block: Block) -> None:
        def use(value: Value | None) -> None:
            if value is not None and value.number >= 0:
                self.uses[value.number] += 1

        for s in block.body:
            match s:
                case Let(value):
                    for a in value.args:
                        use(a)
                case Get(_, _, index):
                    use(index)
                case Set(_, index, value):
                    use(index)
                    use(value)
                case Declare(_, value) | WriteVar(_, value):
                    use(value)
                case Call(_, args, _) | End(_, args, _):
                    for a in args:
                        use(a)
                case If(condition, then, other):
                    use(condition)
                    self._count(then)
                    self._count(other)
                case Loop(body):
                    # Used in a loop: computed once outside, so never pulled inside.
                    before = Counter(self.uses)
                    self._count(body)
                    for number in self.uses:
                        if self.uses[number] != before[number]:
                            self.uses[number] += 1
                case Return(returned):
                    use(returned)
                case _:
                    pass

    def _text(self, value: Value) -> str:
        """An expression that needs no parentheses around it."""
        if value.op == "const":
            return str(value.const) if value.const < 10 else hex(value.const)
        if value.op == "arg":
            return value.name if self.is_procedure else self.target.operand(value.name, value.width)
        if value.number in self.alias:
            return self.alias[value.number]
        if value.number in self.inline:
            return f"({self._pure(value)})"
        return f"t{value.number}"

    def _truth(self, value: Value) -> str:
        """An expression with the truth of a 1-bit value, for use behind ``if``."""
        if value.number in self.inline:
            if value.op in _COMPARE:
                return self._comparison(value)
            if value.op in ("slt", "sle"):
                return self._signed_comparison(value)
            if value.op == "not":
                return self._falsehood(value.args[0])
            if value.op in ("and", "or"):
                a, b = value.args
                return f"({self._truth(a)}) {value.op} ({self._truth(b)})"
            return f"({self._pure(value)})"  # it may be a conditional expression
        return self._text(value)

    def _falsehood(self, value: Value) -> str:
        if value.number in self.inline:
            if value.op in _COMPARE:
                a, b = value.args
                return f"{self._text(a)} {_INVERSE[_COMPARE[value.op]]} {self._text(b)}"
            if value.op == "not":
                return self._truth(value.args[0])
        return f"not {self._text(value)}"

    def _comparison(self, value: Value) -> str:
        a, b = value.args
        return f"{self._text(a)} {_COMPARE[value.op]} {self._text(b)}"

    def _signed_comparison(self, value: Value) -> str:
        a, b = value.args
        flip = hex(1 << (a.width - 1))
        return f"({self._text(a)} ^ {flip}) {'<' if value.op == 'slt' else '<='} ({self._text(b)} ^ {flip})"

    def _index(self, index: Value | None) -> str:
        return "" if index is None else self._text(index)

    def _let(self, value: Value) -> str | None:
        """Return the assignment that names a pure value, or None when it is not needed."""
        uses = self.uses[value.number]
        if not uses:
            return None
        if value.op == "zext":
            source = value.args[0]
            if source.number < 0 or source.number not in self.inline:
                self.alias[value.number] = self._text(source)
                return None
        if uses == 1:
            self.inline[value.number] = value
            if len(self._pure(value)) <= self.LONGEST:
                return None
            del self.inline[value.number]
        return f"t{value.number} = {self._pure(value)}"

    def _block(self, block: Block, depth: int) -> None:
        pad = "    " * depth
        start = len(self.lines)

        def emit(text: str) -> None:
            self.lines.append(pad + text)

        for s in block.body:
            match s:
                case Let(value):
                    text = self._let(value)
                    if text is not None:
                        emit(text)
                case Get(value, cell, index):
                    if self.uses[value.number]:
                        emit(f"t{value.number} = {self.target.read(cell, self._index(index))}")
                case Set(cell, index, value):
                    emit(self.target.write(cell, self._index(index), self._text(value)))
                case Declare(var, new) | WriteVar(var, new):
                    emit(f"v{var.number} = {self._text(new)}")
                case ReadVar(value, var):
                    if self.uses[value.number]:
                        emit(f"t{value.number} = v{var.number}")
                case Call(target, args, result):
                    call = self.target.call(target, [self._text(a) for a in args])
                    emit(call if result is None else f"t{result.number} = {call}")
                case If(condition, then, other):
                    if not then.body:
                        emit(f"if {self._falsehood(condition)}:")
                        self._block(other, depth + 1)
                    else:
                        emit(f"if {self._truth(condition)}:")
                        self._block(then, depth + 1)
                        if other.body:
                            emit("else:")
                            self._block(other, depth + 1)
                case Loop(body):
                    emit("while True:")
                    self._block(body, depth + 1)
                case Break():
                    emit("break")
                case Return(returned):
                    emit("return" if returned is None else f"return {self._text(returned)}")
                case End(terminator, args, labels):
                    for line in self.target.end(terminator.name, [self._text(a) for a in args], labels):
                        emit(line)
        if len(self.lines) == start:
            emit("pass")

    def _pure(self, value: Value) -> str:
        op, width = value.op, value.width
        full = (1 << width) - 1
        mask = hex(full)
        a = self._text(value.args[0])
        b = self._text(value.args[1]) if len(value.args) > 1 else ""
        source = value.args[0].width
        if op in ("and", "or", "xor"):
            return f"{a} {_INFIX[op]} {b}"
        if op in _INFIX:
            return f"{a} {_INFIX[op]} {b} & {mask}"
        if op in _COMPARE:
            return f"1 if {self._comparison(value)} else 0"
        match op:
            case "not":
                return f"{a} ^ {mask}"
            case "shl":
                # Python would build a number of that many bits.
                if value.args[1].upper >= 2 * width:
                    return f"{a} << {b} & {mask} if {b} < {width} else 0"
                return f"{a} << {b} & {mask}"
            case "shr":
                return f"{a} >> {b}"
            case "sar":
                sign = hex(1 << (width - 1))
                return f"({a} ^ {sign}) - {sign} >> {b} & {mask}"
            case "udiv":
                return f"{a} // {b} if {b} else 0"
            case "urem":
                return f"{a} % {b} if {b} else 0"
            case "sdiv" | "srem":
                return f"{op}({a}, {b}, {width})"
            case "slt" | "sle":
                return f"1 if {self._signed_comparison(value)} else 0"
            case "zext":
                return a
            case "trunc":
                return a if value.args[0].upper <= full else f"{a} & {mask}"
            case "sext":
                sign = hex(1 << (source - 1))
                return f"({a} ^ {sign}) - {sign} & {mask}"
            case "popcount":
                return f"({a}).bit_count()"
            case "clz":
                return f"{width} - ({a}).bit_length()"
            case "ctz":
                return f"({a} & -{a}).bit_length() - 1 if {a} else {width}"
            case "bswap":
                return f"int.from_bytes(({a}).to_bytes({width // 8}, 'little'), 'big')"
            case "select":
                return f"{b} if {self._truth(value.args[0])} else {self._text(value.args[2])}"
        raise AssertionError(op)


def sdiv(a: int, b: int, width: int) -> int:
    """Signed quotient as :meth:`Value.sdiv` defines it; printed code calls it."""
    return evaluate("sdiv", width, [a, b], width)


def srem(a: int, b: int, width: int) -> int:
    """Signed remainder as :meth:`Value.srem` defines it; printed code calls it."""
    return evaluate("srem", width, [a, b], width)


#: Names that printed code needs beside the target's.
RUNTIME = {"sdiv": sdiv, "srem": srem}
