"""What code makes use of: cells, primitives, terminators and procedures, through all that it calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from dm.microcode.builder import Microcode, Procedure
from dm.microcode.ir import Call, End, Get, Primitive, Set, statements


@dataclass
class Uses:
    """What code and the procedures it calls make use of."""

    primitives: set[str] = field(default_factory=set)
    terminators: set[str] = field(default_factory=set)
    procedures: set[Procedure] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


_uses: dict[Procedure, Uses] = {}


def uses(code: Microcode) -> Uses:
    """Return everything that ``code`` reaches."""
    total = Uses()
    for s in statements(code.root):
        match s:
            case Call(target, _, _) if isinstance(target, Primitive):
                total.primitives.add(target.name)
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
                total.writes.add(cell.name)
            case _:
                pass
    return total
