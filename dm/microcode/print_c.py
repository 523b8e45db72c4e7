"""Print microcode as C.

All arithmetic is unsigned with explicit masks; values below 32 bits live zero-extended in ``uint32_t``, those of 128 in
``uint128_t`` (GCC's and Clang's ``unsigned __int128``).  Primitives
are macros ``NAME(result, args…, BAIL)`` of the runtime, where BAIL is ``BAIL_HANDLER``, ``BAIL_PROCEDURE`` or
``BAIL_PROCEDURE_VALUE``: what to do when the instruction is abandoned.  The runtime also has, for 32, 64 and 128 bits,
popcount, SDIV and SREM, and clz128, ctz128 and bswap128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dm.microcode.builder import Microcode, Procedure
from dm.microcode.effects import effects
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


class CTarget:
    """How names of the machine are written in C.  The machine is ``cpu``, the instruction record ``i``."""

    def read(self, cell: Field, index: Value | None, index_text: str) -> str:
        """Expression that reads a cell."""
        if cell.view:
            return f"{cell.name.upper()}({index_text})"
        if "." in cell.name:
            array, part = cell.name.split(".", 1)
            return f"cpu->{array}[{index_text}].{part}"
        return f"cpu->{cell.name}[{index_text}]" if cell.count else f"cpu->{cell.name}"

    def write(self, cell: Field, index: Value | None, index_text: str, value: str) -> str:
        """Statement that writes a cell."""
        return f"{self.read(cell, index, index_text)} = {value};"

    def operand(self, name: str, width: int) -> str:
        """Expression for an operand of the instruction record."""
        return f"i->{name}"

    def label(self, label: str) -> str:
        """Constant for a label."""
        return f"LABEL_{label}"


@dataclass(frozen=True)
class Ending:
    """A place where printed code leaves through a terminator; ``args``: labels, operands, how to bail out."""

    indent: str
    terminator: str
    args: tuple[str, ...]

    def statement(self, macro: str = "") -> str:
        """Return the statement that does it: a macro of the runtime, by default the terminator's own."""
        return f"{self.indent}{macro or 'END_' + self.terminator.upper()}({', '.join(self.args)});"


#: The lines of a function between its braces.
Body = tuple[str | Ending, ...]


def text(body: Body, end: Callable[[Ending], str] = Ending.statement) -> str:
    """Return the text of a body; ``end`` gives the line for each ending."""
    return "".join(f"{line if isinstance(line, str) else end(line)}\n" for line in body)


def handler(name: str, lines: str) -> str:
    """Return the source of a handler of this name, from the text of its body."""
    return f"HANDLER({name})\n{{\n    HANDLER_PROLOGUE\n{lines}}}\n"


def ctype(width: int) -> str:
    """C type that holds a value of this width."""
    return {64: "uint64_t", 128: "uint128_t"}.get(width, "uint32_t")


def literal(value: int, width: int) -> str:
    """C literal."""
    if width == 128:
        low = literal(value & (1 << 64) - 1, 64)
        return f"((uint128_t){literal(value >> 64, 64)} << 64 | {low})" if value >> 64 else f"(uint128_t){low}"
    if value < 10:
        return f"{value}u" if width < 64 else f"UINT64_C({value})"
    return f"{value:#x}u" if width < 64 else f"UINT64_C({value:#x})"


_INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "ult": "<", "ule": "<="}


class CPrinter:
    """Prints one handler or procedure at a time.

    With ``registers`` the ``register`` cells are locals of that name in handlers, else members of ``cpu`` like others.
    """

    def __init__(self, target: CTarget, registers: bool = True) -> None:
        self.target, self.registers = target, registers

    def prototype(self, m: Microcode) -> str:
        """Return the declaration of a procedure."""
        assert m.procedure is not None
        params = ["struct cpu *cpu", *(f"{ctype(w)} {n}" for n, w in m.procedure.params)]
        result = ctype(m.procedure.result) if m.procedure.result else "void"
        return f"{result} {m.name}({', '.join(params)})"

    def function(self, m: Microcode) -> str:
        """Return the source of one function.

        A handler prints as ``HANDLER(name) {…}``.
        """
        lines = text(self.body(m))
        if m.procedure:
            return f"{self.prototype(m)}\n{{\n    PROCEDURE_PROLOGUE\n{lines}}}\n"
        return handler(m.name, lines)

    def body(self, m: Microcode) -> Body:
        """Return the lines of one function, whose endings can still be chosen."""
        self.lines: list[str | Ending] = []
        self.procedure = m.procedure
        self.bail = "BAIL_HANDLER"
        if m.procedure:
            self.bail = "BAIL_PROCEDURE_VALUE" if m.procedure.result else "BAIL_PROCEDURE"
        self._block(m.root, 1)
        return tuple(self.lines)

    @property
    def _locals(self) -> bool:
        return self.registers and self.procedure is None

    def _text(self, value: Value) -> str:
        if value.op == "const":
            return literal(value.const, value.width)
        if value.op == "arg":
            if self.procedure:
                return value.name
            return f"({ctype(value.width)}){self.target.operand(value.name, value.width)}"
        return f"t{value.number}"

    def _index(self, index: Value | None) -> str:
        return "" if index is None else str(index.const) if index.op == "const" else self._text(index)

    def _read(self, cell: Field, index: Value | None) -> str:
        if cell.register and self._locals:
            return cell.name
        return self.target.read(cell, index, self._index(index))

    def _write(self, cell: Field, index: Value | None, value: str) -> str:
        if cell.register and self._locals:
            return f"{cell.name} = {value};"
        return self.target.write(cell, index, self._index(index), value)

    def _block(self, block: Block, depth: int) -> None:
        pad = "    " * depth

        def emit(text: str) -> None:
            self.lines.append(pad + text)

        for s in block.body:
            match s:
                case Let(value):
                    emit(f"const {ctype(value.width)} t{value.number} = {self._pure(value)};")
                case Get(value, cell, index):
                    emit(f"const {ctype(value.width)} t{value.number} = {self._read(cell, index)};")
                case Set(cell, index, value):
                    emit(self._write(cell, index, self._text(value)))
                case Declare(var, value):
                    emit(f"{ctype(var.width)} v{var.number} = {self._text(value)};")
                case WriteVar(var, value):
                    emit(f"v{var.number} = {self._text(value)};")
                case ReadVar(value, var):
                    emit(f"const {ctype(value.width)} t{value.number} = v{var.number};")
                case Call(target, args, result):
                    self._call(emit, target, args, result)
                case If(condition, then, other):
                    if then.body:
                        emit(f"if ({self._text(condition)}) {{")
                        self._block(then, depth + 1)
                        if other.body:
                            emit("} else {")
                            self._block(other, depth + 1)
                    else:
                        emit(f"if (!{self._text(condition)}) {{")
                        self._block(other, depth + 1)
                    emit("}")
                case Loop(body):
                    emit("for (;;) {")
                    self._block(body, depth + 1)
                    emit("}")
                case Break():
                    emit("break;")
                case Return(returned):
                    emit("return;" if returned is None else f"return {self._text(returned)};")
                case End(terminator, args, labels):
                    given = (*(self.target.label(x) for x in labels), *(self._text(a) for a in args), self.bail)
                    self.lines.append(Ending(pad, terminator.name, given))

    def _call(
        self, emit: Callable[[str], None], target: Signature, args: tuple[Value, ...], result: Value | None
    ) -> None:
        name, given = target.name, [self._text(a) for a in args]
        if isinstance(target, Primitive):
            if result is not None:
                emit(f"{ctype(result.width)} t{result.number};")
                given.insert(0, f"t{result.number}")
            emit(f"{name.upper()}({', '.join([*given, self.bail])});")
            return
        if self._locals:
            emit("SPILL();")
        assign = f"const {ctype(result.width)} t{result.number} = " if result is not None else ""
        emit(f"{assign}{name}({', '.join(['cpu', *given])});")
        if isinstance(target, Procedure) and effects(target).aborts:
            emit(f"if (UNLIKELY(cpu->bail)) {self.bail};")
        if self._locals:
            emit("RELOAD();")

    def _pure(self, value: Value) -> str:
        op, width = value.op, value.width
        mask = f"{(1 << width) - 1:#x}u"
        a = self._text(value.args[0])
        b = self._text(value.args[1]) if len(value.args) > 1 else ""
        source = value.args[0].width
        narrow = width < 32

        def masked(text: str) -> str:
            return f"({text}) & {mask}" if narrow else text

        if op in ("and", "or", "xor"):
            return f"{a} {_INFIX[op]} {b}"
        if op in _INFIX:
            return masked(f"{a} {_INFIX[op]} {b}")
        if op in _COMPARE:
            return f"{a} {_COMPARE[op]} {b}"
        wide = ctype(width)
        container = max(width, 32)
        match op:
            case "not":
                return masked(f"~{a}")
            case "shl" | "shr":
                sign = "<<" if op == "shl" else ">>"
                text = f"{a} {sign} {b}"
                text = masked(text) if op == "shl" else text
                if value.args[1].upper >= container:
                    text = f"({b} < {container}u ? ({text}) : 0u)"
                return text
            case "sar":
                limit = f"({b} < {width}u ? {b} : {width - 1}u)" if value.args[1].upper >= width else b
                return masked(f"(({wide})({_signed(a, width)} >> {limit}))")
            case "udiv" | "urem":
                return f"({b} ? {a} {'/' if op == 'udiv' else '%'} {b} : 0u)"
            case "sdiv" | "srem":
                return masked(f"(({wide}){op.upper()}{container}({_signed(a, width)}, {_signed(b, width)}))")
            case "slt" | "sle":
                return f"{_signed(a, source)} {'<' if op == 'slt' else '<='} {_signed(b, source)}"
            case "zext":
                return f"({wide}){a}"
            case "trunc":
                return f"({wide}){a} & {mask}" if narrow else f"({wide}){a}"
            case "sext":
                return masked(f"({wide}){f'(int{width}_t)' if width >= 64 else ''}{_signed(a, source)}")
            case "popcount":
                return f"({wide})popcount{container}({a})"
            case "clz":
                if width == 128:
                    return f"({wide})clz128({a})"
                base = f"__builtin_clz{'ll' if width == 64 else ''}({a})"
                return f"({a} ? ({wide}){base} - {container - width}u : {width}u)"
            case "ctz":
                if width == 128:
                    return f"({wide})ctz128({a})"
                return f"({a} ? ({wide})__builtin_ctz{'ll' if width == 64 else ''}({a}) : {width}u)"
            case "bswap":
                if width == 128:
                    return f"bswap128({a})"
                return a if width == 8 else f"__builtin_bswap{width}({a})"
            case "select":
                return f"{a} ? {b} : {self._text(value.args[2])}"
        raise AssertionError(op)


def _signed(text: str, width: int) -> str:
    if width >= 64:
        return f"(int{width}_t){text}"
    if width == 1:
        return f"-(int32_t)({text})"
    return f"(int{width}_t){text}" if width == 32 else f"(int32_t)(int{width}_t){text}"
