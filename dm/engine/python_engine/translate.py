"""Descriptions to Python functions: one per row and form, made on first use and kept for the process's life.

A handler is called with the machine and the instruction record and returns how the instruction ended: None (go on with
the next in line), a target EIP, CHECKPOINT, TRANSFER, REPEAT or NEXT_SEGMENT (next in line, a segment register having
been loaded).  Faults and the like are exceptions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from dm.engine.python_engine.signals import Fault, Hypervisor, Unsupported
from dm.isa.catalogue import DESCRIPTIONS
from dm.isa.entries import ENTRIES, INLINE
from dm.isa.insn import Variant, expand
from dm.isa.map.forms import Row
from dm.isa.primitives import SEGMENT_CHANGED
from dm.microcode import Field, Microcode, Primitive, Procedure
from dm.microcode.effects import is_transaction
from dm.microcode.ir import Block, Call, Get, Set, Signature, statements
from dm.microcode.print_python import RUNTIME, PythonPrinter, PythonTarget

#: Results of handlers that are neither None nor a target.
CHECKPOINT: Final = -1
REPEAT: Final = -2
NEXT_SEGMENT: Final = -3
TRANSFER: Final = -4


#: Families of primitives that the machine has a method for each width of, since they are hot; of the others it has one
#: method, which takes the size in bytes as its last argument.
PER_WIDTH: Final = frozenset({"load", "store", "rmw", "rmw_locked", "rmw_end"})


class _Target(PythonTarget):
    """Spells cells, operands and endings as the machine of this engine has them; ``g`` is its general registers.

    ``next_in_line``: what a handler returns that ends with NEXT.
    """

    def __init__(self, next_in_line: int | None) -> None:
        self.next_in_line = next_in_line

    def read(self, cell: Field, index: str) -> str:
        if cell.name == "gpr32":
            return f"g[{index}]"
        if cell.name == "gpr64":
            return f"(g[{index}] | cpu.gpr_high[{index}] << 32)"
        if cell.name == "gpr16":
            return f"g[{index}] & 0xffff"
        if cell.view == "fxsave":
            return f"int.from_bytes({_stretch(cell, index)}, 'little')"
        if cell.name == "gpr8":
            number, shift = _byte_register(index)
            return f"g[{number}] >> {shift} & 0xff"
        return super().read(cell, index).replace("seg.", "seg_")

    def write(self, cell: Field, index: str, value: str) -> str:
        if cell.name == "gpr64":
            return f"cpu.gpr_high[{index}], g[{index}] = divmod({value}, 1 << 32)"
        if cell.name == "gpr16":
            return f"g[{index}] = g[{index}] & 0xffff0000 | {value}"
        if cell.view == "fxsave":
            return f"{_stretch(cell, index)} = ({value}).to_bytes({cell.width // 8}, 'little')"
        if cell.name == "gpr8":
            number, shift = _byte_register(index)
            return f"g[{number}] = g[{number}] & ~(0xff << {shift}) | {value} << {shift}"
        return super().write(cell, index, value)

    def operand(self, name: str, width: int) -> str:
        return {"this_eip": "i.eip", "next_eip": "i.next_eip", "modrm": "i.rm"}.get(name, f"i.{name}")

    def call(self, target: Signature, args: list[str]) -> str:
        if isinstance(target, Primitive) and target.family and target.family not in PER_WIDTH:
            return f"cpu.{target.family}({', '.join([*args, str(target.size)])})"
        return super().call(target, args)

    def prologue(self, m: Microcode) -> list[str]:
        registers = any(isinstance(s, Get | Set) and s.cell.view for s in statements(m.root))
        return ["g = cpu.gpr32"] if registers else []

    def end(self, name: str, args: list[str], labels: tuple[str, ...]) -> list[str]:
        match name:
            case "next":
                return [f"return {self.next_in_line}"]
            case "jump" | "jump_indirect":
                return [f"return {args[0]}"]
            case "checkpoint":
                return [f"return {CHECKPOINT}"]
            case "transfer":
                return [f"return {TRANSFER}"]
            case "repeat":
                return [f"cpu.repeated = {args[0]}", f"return {REPEAT}"]
            case "fault":
                return [f"raise Fault({', '.join([repr(labels[0]), *args])})"]
            case "unsupported":
                return [f"raise Unsupported({labels[0]!r})"]
            case "hypervisor":
                return [f"raise Hypervisor(0, {labels[0]!r})"]
        raise AssertionError(name)


def _stretch(cell: Field, index: str) -> str:
    """Return the bytes that a view of the FXSAVE image shows at ``index`` (an expression)."""
    end = str(int(index, 0) + cell.width // 8) if index[0].isdigit() else f"({index}) + {cell.width // 8}"
    return f"cpu.fxsave[{index}:{end}]"


def _byte_register(index: str) -> tuple[str, str]:
    """Return where byte register ``index`` (an expression) is: number of the general register, and its shift."""
    if index.isdigit():
        number = int(index)
        return str(number & 3), str(number << 1 & 8)
    return f"{index} & 3", f"({index} << 1 & 8)"


Handler = Callable[[Any, Any], int | None]


@dataclass(frozen=True, slots=True)
class CompiledForm:
    """A compiled form.  ``exact``: it must run as a transaction (see :func:`dm.microcode.effects.is_transaction`)."""

    run: Handler
    exact: bool
    source: str


_printer: Final = PythonPrinter(_Target(None))
_segment_printer: Final = PythonPrinter(_Target(NEXT_SEGMENT))
#: vCPUs of several threads share printers, names and what has been compiled so far.
_lock: Final = threading.RLock()
#: What printed code sees: the runtime, and every procedure that has been needed so far.
_names: Final[dict[str, Any]] = {**RUNTIME, "Fault": Fault, "Unsupported": Unsupported, "Hypervisor": Hypervisor}


def _called(block: Block) -> Iterator[Signature]:
    return (s.target for s in statements(block) if isinstance(s, Call))


@cache
def _loads_segments(target: Signature) -> bool:
    """Whether it may load a segment register, which may change whether the state can be entered."""
    if isinstance(target, Procedure):
        return any(_loads_segments(one) for one in _called(target.code.root))
    return target is SEGMENT_CHANGED


def _compile(code: Microcode) -> tuple[Any, str]:
    called = list(_called(code.root))
    source = (_segment_printer if any(_loads_segments(one) for one in called) else _printer).function(code)
    for target in called:
        if isinstance(target, Procedure):
            procedure(target)
    exec(compile(source, f"<microcode {code.name}>", "exec"), _names)
    return _names[code.name], source


_known: Final[set[Procedure]] = set()


def procedure(target: Procedure) -> Any:
    """Return the Python function of a procedure: called with the machine and its parameters."""
    with _lock:
        if target not in _known:
            _known.add(target)  # before its body: procedures may call each other
            _compile(target.code)
        return _names[target.name]


@cache
def form(row: Row, variant: Variant) -> CompiledForm:
    """Return the handler of one form of a row of the opcode map."""
    if row.mnemonic not in DESCRIPTIONS:
        what = f"NOT_DESCRIBED {row.names[variant.osize == 32]}"

        def refuse(cpu: Any, i: Any) -> int | None:
            raise Unsupported(what)

        return CompiledForm(refuse, False, "")
    with _lock:
        code = expand(row, variant, "handler")
        run, source = _compile(code)
        return CompiledForm(run, is_transaction(code), source)


def invalid(cpu: Any, i: Any) -> int | None:
    """Handler of bytes that are no instruction.

    Raises:
        Fault: #UD.
    """
    RULES.no_such_opcode(cpu)
    raise AssertionError("it faults")


class Rules:
    """The procedures of :mod:`dm.isa.entries` by name, each called with the machine; compiled on first use."""

    def prepare(self) -> None:
        """Compile them all: as a vCPU is made, so that its first run does not wait for it."""
        for name in self._known:
            getattr(self, name)

    _known: Final = {entry.name: entry for entry in (*ENTRIES, *INLINE)}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self._known:
            raise AttributeError(name)
        made = procedure(self._known[name])
        setattr(self, name, made)
        return cast(Callable[..., Any], made)


RULES: Final = Rules()
