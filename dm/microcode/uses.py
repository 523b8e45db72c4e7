"""What code makes use of: cells, primitives, terminators and procedures, through all that it calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dm.microcode.builder import Microcode, Procedure
from dm.microcode.ir import Call, Declare, End, Get, If, Let, Primitive, Set, Statement, Value, WriteVar, statements


@dataclass
class Uses:
    """What code and the procedures it calls make use of.

    ``operands``: those of the instruction that the code itself computes with, besides indexing views with them.
    """

    primitives: set[Primitive] = field(default_factory=set)
    terminators: set[str] = field(default_factory=set)
    procedures: set[Procedure] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    operands: set[str] = field(default_factory=set)


_uses: dict[Procedure, Uses] = {}


def uses(code: Microcode) -> Uses:
    """Return everything that ``code`` reaches."""
    total = Uses()
    for s in statements(code.root):
        total.operands |= {value.name for value in _values(s) if value.op == "arg"}
        match s:
            case Call(target, _, _) if isinstance(target, Primitive):
                total.primitives.add(target)
            case Call(target, _, _) if isinstance(target, Procedure):
                if target not in _uses:
                    _uses[target] = Uses()
                    _uses[target] = uses(target.code)
                inner = _uses[target]
                total.procedures |= inner.procedures | {target}
                total.primitives |= inner.primitives
                total.reads |= inner.reads
                total.writes |= inner.writes
            case End(terminator, _, _):
                total.terminators.add(terminator.name)
            case Get(_, cell, _):
                total.reads.add(cell.name)
            case Set(cell, _, _):
                total.writes.add(cell.view or cell.name)
            case _:
                pass
    return total


def _values(s: Statement) -> Iterator[Value]:
    """Yield the values that a statement uses, but for indexes of views."""
    match s:
        case Let(value):
            yield from value.args
        case Get(_, cell, index) if index is not None and not cell.view:
            yield index
        case Set(cell, index, value):
            yield value
            if index is not None and not cell.view:
                yield index
        case Declare(_, value) | WriteVar(_, value) | If(value, _, _):
            yield value
        case Call(_, args, _) | End(_, args, _):
            yield from args
        case _:
            pass
