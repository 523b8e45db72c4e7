"""Handlers: every form of every row of the opcode map as C functions, and pairs of them.

A form has an *exact* handler, which goes through function calls for everything, keeps a journal and works as a
transaction, and, where it can be a leaf, a *fast* one (fast.h).  Forms with the same text share one function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dm.engine.native import pairs
from dm.engine.native.structures import COLD
from dm.engine.native.target import Target
from dm.isa import catalogue, cells, ends, insn
from dm.isa.entries import ENTRIES, INLINE
from dm.isa.insn import Variant
from dm.isa.map import decode, forms
from dm.isa.map.forms import Row
from dm.isa.primitives import RMW_LOCKED_END, SEGMENT_CHANGED
from dm.microcode import Does, Microcode, MicrocodeError, Procedure
from dm.microcode.effects import is_transaction
from dm.microcode.ir import Block, Call, If, Loop, Set
from dm.microcode.print_c import Body, CPrinter, Ending, handler, text
from dm.microcode.uses import Uses, uses

_LEAVES_BLOCK: Final = frozenset(
    terminator.name for terminator in (ends.JUMP, ends.JUMP_INDIRECT, ends.CHECKPOINT, ends.TRANSFER)
)
#: What fast handlers leave to exact ones.
_LEAVES: Final = frozenset(terminator.name for terminator in (ends.FAULT, ends.UNSUPPORTED, ends.HYPERVISOR))
_STAYS: Final = frozenset({ends.NEXT.name, ends.REPEAT.name})


@dataclass(frozen=True, eq=False)
class Handler:
    """A printed handler.

    Args:
        name: of the C function.
        body: its lines.
        macros: terminators that it leaves through another macro than their own.
    """

    name: str
    body: Body
    macros: Mapping[str, str]

    def source(self) -> str:
        """Return its C text."""
        return handler(self.name, text(self.body, self.end))

    def end(self, ending: Ending) -> str:
        """Return the line for an ending."""
        return ending.statement(self.macros.get(ending.terminator, ""))

    @property
    def inlined(self) -> str:
        """Name of the function by which it is inlined behind another one."""
        return f"then_{self.name}"

    def inline(self) -> str:
        """Return its C text as it is inlined."""
        made = handler(self.inlined, text(self.body, self.end))
        return f"static inline __attribute__((always_inline)) {made}"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two fast handlers in one (see :mod:`dm.engine.native.pairs`)."""

    first: Handler
    second: Handler

    @property
    def name(self) -> str:
        """Name of the C function."""
        return f"{self.first.name}__{self.second.name.removeprefix('fast_')}"

    def source(self) -> str:
        """Return its C text: the first one's, going on with the second where it would go on with the next record.

        Raises:
            MicrocodeError: the first one does not do that in exactly one place.
        """
        nexts = [line for line in self.first.body if isinstance(line, Ending) and line.terminator == ends.NEXT.name]
        if len(nexts) != 1 or ends.NEXT.name in self.first.macros:
            raise MicrocodeError(f"{self.first.name} cannot come first in a pair")
        return handler(self.name, text(self.first.body, self._end))

    def _end(self, ending: Ending) -> str:
        if ending.terminator != ends.NEXT.name:
            return self.first.end(ending)
        return f"{ending.indent}return {self.second.inlined}(cpu, i + 1, fr, fc, budget, tlb);"


@dataclass
class PrintedForm:
    """One form of a row: its functions, and what the run loop has to know of it (struct variant).

    ``fast`` is None where it must run exactly.
    """

    row: int
    variant: Variant
    fast: Handler | None
    exact: Handler
    ends: bool
    falls: bool
    branches: bool
    cold: bool


def can_be_fast(code: Microcode, used: Uses) -> bool:
    """Whether the code can run as a leaf that is simply started over when something prevents it."""
    if is_transaction(code) or any(made.does & Does.OUTSIDE for made in used.primitives):
        return False
    if not used.terminators - _LEAVES:
        return False
    # Cell EIP is up to date only in exact mode; a lost compare-and-swap starts over.
    return cells.EIP.name not in used.reads and not _set_before_swap(code.root, False)[1]


def _set_before_swap(block: Block, changed: bool) -> tuple[bool, bool]:
    """Return (something architectural was set, that happened before a locked write)."""
    bad = False
    for s in block.body:
        match s:
            case Set(cell, _, _):
                changed = changed or cell.architectural
            case Call(target, _, _):
                bad = bad or (changed and target in RMW_LOCKED_END.values())
            case If(_, then, other):
                left, right = _set_before_swap(then, changed), _set_before_swap(other, changed)
                changed, bad = left[0] or right[0], bad or left[1] or right[1]
            case Loop(body):
                changed, inner = _set_before_swap(body, changed)
                bad = bad or inner
            case _:
                pass
    return changed, bad


class Handlers:
    """All handlers, and the procedures that they and the runtime need."""

    def __init__(self) -> None:
        self.forms: list[PrintedForm] = []
        self.pairs: list[Pair] = []
        self.procedures: set[Procedure] = set()
        #: Handlers by kind (fast, exact) and family of instructions, which is a C file.
        self.groups: dict[tuple[str, str], list[Handler]] = {}
        self._made: dict[tuple[str, str], Handler] = {}  # by kind and text
        self._expand()

    def _expand(self) -> None:
        """Expand every form of every row.

        Raises:
            MicrocodeError: rows without a description, or a description that is wrong.
        """
        missing = sorted({row.mnemonic for row in forms.ROWS if row.mnemonic not in catalogue.DESCRIPTIONS})
        if missing:
            raise MicrocodeError(f"not described in dm.isa: {' '.join(missing)}")
        by_text: dict[str, list[PrintedForm]] = {}
        for number, row in enumerate(forms.ROWS):
            made = [self._form(number, row, variant) for variant in decode.variants(row)]
            self.forms += made
            by_text.setdefault(row.text, []).extend(made)
        found = {(_find(by_text, first), _find(by_text, second)) for first, second in pairs.pairs()}
        self.pairs = [Pair(*both) for both in sorted(found, key=lambda both: (both[0].name, both[1].name))]
        for entry in (*ENTRIES, *INLINE):
            self.procedures |= uses(entry.code).procedures | {entry}

    def _form(self, number: int, row: Row, variant: Variant) -> PrintedForm:
        code = insn.expand(row, variant, row.text)
        used = uses(code)
        self.procedures |= used.procedures
        if ends.JUMP.name in used.terminators and len(row.immediates) > 1:
            raise MicrocodeError(f"{row.text}: a direct jump needs the place of the second immediate")
        for name in used.operands:
            if (operand := row.register(name)) and operand.is_byte_register:
                raise MicrocodeError(f"{row.text}: records do not hold the number of byte register {name}")
        leaves = used.terminators & _LEAVES_BLOCK
        branches = leaves == {ends.JUMP.name} and ends.NEXT.name in used.terminators
        macros = {}
        if SEGMENT_CHANGED in used.primitives:
            macros[ends.NEXT.name] = "END_NEXT_SEGMENT"
        if branches:
            macros[ends.JUMP.name] = "END_BRANCH"
        return PrintedForm(
            number,
            variant,
            self._handler("fast", row, code, macros) if can_be_fast(code, used) else None,
            self._handler("exact", row, code, macros),
            ends=bool(leaves) and not branches,
            falls=bool(used.terminators & _STAYS),
            branches=branches,
            cold=bool(used.writes & COLD),
        )

    def _handler(self, kind: str, row: Row, code: Microcode, macros: Mapping[str, str]) -> Handler:
        """Return the handler with this code's text, a new one where there is none yet."""
        body = CPrinter(Target(row), registers=kind == "fast").body(code)
        unnamed = Handler("HANDLER_NAME", body, macros).source()
        made = self._made.get((kind, unnamed))
        if made is None:
            # Named by content, so that a change elsewhere leaves this file's text alone.
            mark = hashlib.sha256(unnamed.encode()).hexdigest()[:8]
            made = self._made[kind, unnamed] = Handler(f"{kind}_{row.mnemonic.lower()}_{mark}", body, macros)
            family = catalogue.DESCRIPTIONS[row.mnemonic].__module__.rpartition(".")[2]
            self.groups.setdefault((kind, family), []).append(made)
        return made


def _find(by_text: Mapping[str, list[PrintedForm]], form: pairs.PairedForm) -> Handler:
    """Return the fast handler of a form; if the operand size makes no difference, there is only the 16-bit one.

    Raises:
        MicrocodeError: there is no such form, or it cannot be fast.
    """
    found = {
        (f.variant.osize, f.variant.asize): f.fast
        for f in by_text[form.text]
        if f.variant.memory == form.memory and not f.variant.lock and not f.variant.rep
    }
    sizes = {asize: fast for (osize, asize), fast in found.items() if osize == form.osize} or {
        asize: fast for (_, asize), fast in found.items()
    }
    fast = sizes.get(form.asize) or (None if form.memory else next(iter(sizes.values()), None))
    if fast is None:
        raise MicrocodeError(f"no fast handler to pair: {form}")
    return fast
