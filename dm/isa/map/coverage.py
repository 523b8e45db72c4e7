"""Which forms of instructions tests have executed: the record a test run makes, and the table kept from it.

A test that runs an instruction, and then looks at what it has done, calls :func:`executed`; the test run gathers the
calls (tests/conftest.py).  What deterministic tests have executed is kept in ``executed.txt`` beside this module,
written by ``pytest --write-executed``; every later run checks that its tests have executed what is claimed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

from dm.isa import ends
from dm.isa.catalogue import DESCRIPTIONS
from dm.isa.insn import Variant, expand
from dm.isa.lineage import Lineage
from dm.isa.map.decode import Decoded, rows_at, variants
from dm.isa.map.forms import MEMORY, ROWS, Row
from dm.machine.architecture import Cr0, Eflags
from dm.machine.state import Seg, State
from dm.microcode.ir import End, statements

#: The kept table.
TABLE: Final = Path(__file__).with_name("executed.txt")
#: Tests that compare the engines with each other.  They show that a form runs alike on both, not that it is right.
AGREEMENT: Final = frozenset({"oracle/test_every_form"})
#: Tests on the CPU of the host, which may lack what CPUID announces.
ON_HOST: Final = frozenset({"oracle/test_forms"})

_HEAD = """\
# Forms of instructions that tests have executed, written by pytest --write-executed; dm/isa/map/coverage.py explains.
# First the test modules with the modes they run forms in, numbered; then for each row of the opcode map its forms, and
# the numbers of what executes them.
"""


class Execution(NamedTuple):
    """A form executed by a test module (path under tests/, without .py) in a mode."""

    row: str
    form: str
    test: str
    mode: str


#: What this process has executed.
recorded: Final[set[Execution]] = set()


def form_name(variant: Variant, row: Row) -> str:
    """Return a form's short name: operand size, ``m`` and address size for a memory operand, LOCK, REP."""
    name = str(variant.osize)
    if variant.memory:
        name += f"m{variant.asize}"
    elif row.addressed:
        name += f"a{variant.asize}"
    return name + "+lock" * variant.lock + f"+{variant.rep}" * bool(variant.rep)


def mode_name(cr0: int, eflags: int, cpl: int, code32: bool, limits: Iterable[int]) -> str:
    """Return a mode's name: ``real``, ``unreal``, ``vm86``, or code size and ring as in ``p16.0``, ``p32.3``.

    ``limits`` are those of the data segments: one beyond 64 KiB, or 32-bit code, makes real mode unreal.  ``+paged``
    follows when paging is on.
    """
    paged = "+paged" if cr0 & Cr0.PG else ""
    if not cr0 & Cr0.PE:
        return ("unreal" if code32 or any(limit > 0xFFFF for limit in limits) else "real") + paged
    if eflags & Eflags.VM:
        return "vm86" + paged
    return f"p{32 if code32 else 16}.{cpl}{paged}"


def mode_of(state: State) -> str:
    """Return the name of a state's mode."""
    limits = (state.seg[n].limit for n in (Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS))
    return mode_name(state.cr0, state.eflags, state.cpl, state.cs.big, limits)


def executed(decoded: Decoded, mode: str, *, completed: bool) -> None:
    """Record that the running test has executed an instruction and checks what came of it.

    Args:
        decoded: the instruction; nothing is recorded for bytes that are none.
        mode: of :func:`mode_name`.
        completed: False when it faulted or left, which counts only for forms that cannot do anything else, or are not
            implemented.
    """
    row = decoded.row
    if row is None:
        return
    if completed or not completes(row, decoded.variant) or not implemented(row):
        recorded.add(Execution(row.text, form_name(decoded.variant, row), running_test(), mode))


def running_test() -> str:
    """Return the module of the test that pytest runs in this process or the one it was started from."""
    path = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    return path.removeprefix("tests/").removesuffix(".py")


@cache
def completes(row: Row, variant: Variant) -> bool:
    """Return whether a form has an end other than an exception or an exit to the hypervisor."""
    return row.mnemonic not in DESCRIPTIONS or any(not s.terminator.aborts for s in _ends(row, variant))


@cache
def implemented(row: Row) -> bool:
    """Return whether a row is executed.  What is not ends in exit ``unsupported`` by its name, or always in that."""
    variant = variants(row)[0]
    left = {s.labels for s in _ends(row, variant) if s.terminator is ends.UNSUPPORTED}
    return not left or ((row.mnemonic,) not in left and completes(row, variant))


@cache
def _ends(row: Row, variant: Variant) -> list[End]:
    return [s for s in statements(expand(row, variant, "form").root) if isinstance(s, End)]


def load(path: Path = TABLE) -> set[Execution]:
    """Return what the kept table holds.

    Raises:
        ValueError: naming the line that is not in its notation.
    """
    found = set()
    legend: dict[str, tuple[str, list[str]]] = {}
    row = ""
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        try:
            if line.startswith("= "):
                _, key, text = line.split(" ")
                test, modes = text.removesuffix(")").split("(")
                legend[key] = test, modes.split(",")
            elif line.startswith("  "):
                forms, keys = line.strip().split(": ")
                for test, modes_of in (legend[key] for key in keys.split(" ")):
                    found |= {Execution(row, form, test, mode) for form in forms.split(" ") for mode in modes_of}
            elif not line.startswith("#"):
                row = line
        except (KeyError, ValueError):
            raise ValueError(
                f"{path.name}, line {number}: {line!r} is neither '= number test(mode,mode)' nor '  form form: numbers'"
            ) from None
    return found


def save(table: Iterable[Execution], path: Path = TABLE) -> None:
    """Write the table: rows in the map's order, forms that the same tests execute in one line."""
    by_form: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row, form, test, mode in table:
        by_form.setdefault((row, form), {}).setdefault(test, set()).add(mode)
    texts = {key: [f"{t}({','.join(sorted(modes))})" for t, modes in sorted(tests.items())]
             for key, tests in by_form.items()}  # fmt: skip
    legend = {text: str(n) for n, text in enumerate(sorted({text for some in texts.values() for text in some}))}
    lines = [f"= {number} {text}" for text, number in legend.items()]
    for entry in ROWS:
        groups: dict[str, list[str]] = {}
        for variant in variants(entry):
            name = form_name(variant, entry)
            if (entry.text, name) in texts:
                numbers = " ".join(legend[text] for text in texts[entry.text, name])
                groups.setdefault(numbers, []).append(name)
        if groups:
            lines.append(entry.text)
            lines += [f"  {' '.join(names)}: {numbers}" for numbers, names in groups.items()]
    path.write_text(_HEAD + "\n".join(lines) + "\n", encoding="ascii")


class FormTests(NamedTuple):
    """A form with what has executed it: test modules, agreement left out, and the modes of all."""

    row: Row
    variant: Variant
    tests: tuple[str, ...]
    modes: tuple[str, ...]


def reachable(row: Row, variant: Variant) -> bool:
    """Return whether there are bytes that mean this form: other rows may leave nothing of a group to its last one."""
    if not row.mod:
        return True
    for part, opcode, prefix in product(filter(row.on, Lineage), range(row.opcode, row.last + 1), row.prefixes):
        left = row.modrm & (MEMORY if variant.memory else ~MEMORY)
        for other in rows_at(row.map, opcode, part):
            if other.rank > row.rank and prefix in other.prefixes:
                left &= ~other.modrm
        if left:
            return True
    return False


def survey(table: Iterable[Execution]) -> Iterator[FormTests]:
    """Yield every form of every row that is an instruction, with its tests and modes."""
    tests: dict[tuple[str, str], set[str]] = {}
    modes: dict[tuple[str, str], set[str]] = {}
    for row, form, test, mode in table:
        modes.setdefault((row, form), set()).add(mode)
        if test not in AGREEMENT:
            tests.setdefault((row, form), set()).add(test)
    for entry in ROWS:
        for variant in filter(functools.partial(reachable, entry), variants(entry)):
            key = entry.text, form_name(variant, entry)
            yield FormTests(entry, variant, tuple(sorted(tests.get(key, ()))), tuple(sorted(modes.get(key, ()))))


def broken_claims(claimed: Iterable[Execution], done: set[Execution], modules: set[str]) -> list[Execution]:
    """Return what is claimed of ``modules``, all of whose tests have run, but was not executed."""
    optional = {row.text for row in ROWS if row.feature}
    broken = (claim for claim in claimed if claim.test in modules and claim not in done)
    return sorted(claim for claim in broken if not (claim.test in ON_HOST and claim.row in optional))
