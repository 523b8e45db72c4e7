"""Prints what the native engine is compiled from: handlers, procedures, tables and structures, by file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from dm.engine.native.digest import digest
from dm.engine.native.handlers import Handlers
from dm.engine.native.macros import exact_macros, fast_macros, prototypes
from dm.engine.native.structures import fields_header, state_source
from dm.engine.native.tables import labels_header, tables_source
from dm.engine.native.target import Target
from dm.isa.entries import INLINE
from dm.machine.header import header, words_header
from dm.microcode import MicrocodeError, Procedure
from dm.microcode.print_c import CPrinter
from dm.microcode.uses import uses

_Item = TypeVar("_Item")
_LABELS = '#include "labels.h"\n#include "procedures.h"\n\n'


def files() -> dict[str, str]:
    """Return file names and texts.

    Raises:
        MicrocodeError: rows without a description, or a description that is wrong.
    """
    handlers = Handlers()
    procedures = sorted(handlers.procedures, key=lambda made: made.name)
    return {
        "architecture.h": header(),
        "words.h": words_header(),
        "fields.h": fields_header(),
        "primitives.h": prototypes(),
        "exact_primitives.h": exact_macros(),
        "fast_primitives.h": fast_macros(),
        "procedures.h": _procedures_header(procedures),
        **dict(_handler_files(handlers)),
        **dict(_pair_files(handlers)),
        **dict(_procedure_files(procedures)),
        "labels.h": labels_header(),
        "tables.c": tables_source(handlers),
        "state.c": state_source(),
        "digest.c": f'#include "cpu.h"\n\nconst char digest[] = DM_VARIANT "{digest()}";\n',
    }


def _handler_files(handlers: Handlers) -> Iterator[tuple[str, str]]:
    for (kind, group), made in handlers.groups.items():
        for part, chunk in enumerate(_split(made, lambda one: one.source(), 260_000)):
            prototypes = "".join(f"HANDLER({one.name});\n" for one, _ in chunk)
            text = f'#include "{kind}.h"\n{_LABELS}{prototypes}\n' + "\n".join(text for _, text in chunk)
            yield f"{kind}_{group}_{part}.c", text


def _pair_files(handlers: Handlers) -> Iterator[tuple[str, str]]:
    seconds = {pair.second.name: pair.second for pair in handlers.pairs}
    head = f'#include "fast.h"\n{_LABELS}' + "\n".join(seconds[name].inline() for name in sorted(seconds)) + "\n"
    for part, chunk in enumerate(_split(handlers.pairs, lambda pair: pair.source(), 200_000)):
        prototypes = "".join(f"HANDLER({pair.name});\n" for pair, _ in chunk)
        yield f"fast_pairs_{part}.c", head + prototypes + "\n" + "\n".join(text for _, text in chunk)


def _procedure_files(procedures: list[Procedure]) -> Iterator[tuple[str, str]]:
    printer = CPrinter(Target(), registers=False)
    called = [made for made in procedures if made not in INLINE]
    for part, chunk in enumerate(_split(called, lambda made: printer.function(made.code), 300_000)):
        yield f"procedures_{part}.c", f'#include "exact.h"\n{_LABELS}' + "\n".join(text for _, text in chunk)


def _procedures_header(procedures: list[Procedure]) -> str:
    """Return the prototypes of all procedures, and the bodies of those that are inlined.

    Raises:
        MicrocodeError: one to be inlined does more than compute.
    """
    printer = CPrinter(Target(), registers=False)
    inline = "static inline __attribute__((always_inline)) "
    for entry in INLINE:
        used = uses(entry.code)
        if used.primitives or used.terminators or used.procedures - set(INLINE):
            raise MicrocodeError(f"procedure {entry.name} stands in a header and may only compute")
    lines = ["#ifndef DM_PROCEDURES_H", "#define DM_PROCEDURES_H", "", "#define PROCEDURE_PROLOGUE", ""]
    for made in procedures:
        lines.append(f"{inline if made in INLINE else ''}{printer.prototype(made.code)};")
    bodies = [f"\n{inline}{printer.function(made.code)}" for made in procedures if made in INLINE]
    return "\n".join([*lines, *bodies, "#endif", ""])


def _split(items: list[_Item], print_one: Callable[[_Item], str], size: int) -> Iterator[list[tuple[_Item, str]]]:
    """Yield stretches of about ``size`` characters: items, each with its text."""
    chunk: list[tuple[_Item, str]] = []
    length = 0
    for item in items:
        text = print_one(item)
        chunk.append((item, text))
        length += len(text)
        if length >= size:
            yield chunk
            chunk, length = [], 0
    if chunk:
        yield chunk


def generate(out: Path) -> list[Path]:
    """Write all generated files into ``out``, touching only those whose text changed, and leaving other files alone.

    Returns:
        The C files among them, in a fixed order.

    Raises:
        MicrocodeError: rows without a description, or a description that is wrong.
    """
    made = files()
    out.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        path = out / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return [out / name for name in sorted(made) if name.endswith(".c")]
