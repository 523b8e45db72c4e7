"""Prints what the native engine has of the primitives, from their declarations (dm.isa.primitives).

A primitive is a function of the runtime, ``name(cpu, its parameters)``, and for a family ``name(cpu, its parameters,
size)`` with the size in bytes.  Handlers call it through a macro ``NAME(result, parameters, bail)``, where ``bail`` is
what to do when the instruction is abandoned.  Exact handlers and procedures go through the function always; fast ones
where that cannot abandon the instruction.  Those of :data:`HOT` have a fast path written by hand in fast.h, a macro
``FAST_NAME(bits, result, parameters, bail)``; whatever else could abandon the instruction makes a fast handler do so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters, digits
from typing import Final

from dm.isa.primitives import primitives
from dm.microcode import Does, MicrocodeError, Primitive
from dm.microcode.print_c import ctype

#: Families that fast.h has a fast path for.
HOT: Final = frozenset(
    {
        "load",
        "store",
        "rmw",
        "rmw_end",
        "rmw_locked",
        "rmw_locked_end",
        "move_block",
        "fill_block",
        "read_block",
    }
)
_FAST: Final = re.compile(r"^[ \t]*#define FAST_(\w+)\(([^)]*)\)", re.MULTILINE)
_DEFINITION: Final = re.compile(r"^(void|uint\d+_t) (\w+)\(([^()]*)\)\n\{", re.MULTILINE)
_HERE: Final = Path(__file__).resolve().parent


def _families() -> Iterator[list[Primitive]]:
    """Yield the members of each family, and each primitive without one on its own."""
    found: dict[str, list[Primitive]] = {}
    for made in primitives():
        found.setdefault(made.family or made.name, []).append(made)
    yield from found.values()


def _function(made: Primitive) -> str:
    return made.family or made.name


def _shape(made: Primitive) -> tuple[str, list[str]]:
    """Return the type of a function's result, and its parameters with their types."""
    params = ["struct cpu *cpu", *(f"{ctype(width)} {name}" for name, width in made.params)]
    if made.family:
        params.append("unsigned size")
    return ctype(made.result) if made.result else "void", params


def prototypes() -> str:
    """Return the header with the prototypes of all functions.

    Raises:
        MicrocodeError: the runtime lacks a function, or has one of another shape; it names the primitive.
    """
    check_functions("\n".join(path.read_text() for path in sorted(_HERE.glob("*.c"))))
    lines = []
    for members in _families():
        result, params = _shape(members[-1])
        lines.append(f"{result} {_function(members[-1])}({', '.join(params)});")
    return _guarded("primitives.h", lines)


def check_functions(source: str) -> None:
    """Hold the functions that C source defines against the declarations.

    Raises:
        MicrocodeError: one is missing, or has other types than the primitive; it names the primitive.
    """
    found = {name: (result, _types(params.split(","))) for result, name, params in _DEFINITION.findall(source)}
    for members in _families():
        name = _function(members[-1])
        result, params = _shape(members[-1])
        if name not in found:
            raise MicrocodeError(f"primitive {name}: no function {name} in dm/engine/native/*.c")
        if found[name] != (result, _types(params)):
            given = f"{found[name][0]} {name}({', '.join(found[name][1])})"
            raise MicrocodeError(
                f"primitive {name}: the runtime has {given}, {result} {name}({', '.join(params)}) is needed"
            )


def _types(params: list[str]) -> list[str]:
    """Return the types of parameters that are written with their names."""
    return [param.strip().removeprefix("const ").rstrip("_" + ascii_letters + digits).strip() for param in params]


def _macro(made: Primitive, expansion: str) -> str:
    given = [*(["result"] if made.result else []), *made.names, "bail"]
    return f"#define {made.name.upper()}({', '.join(given)}) {expansion}"


def _call(made: Primitive) -> str:
    call = f"{_function(made)}({', '.join(['cpu', *made.names, *([str(made.size)] if made.family else [])])})"
    return f"result = {call}" if made.result else call


def _may_leave(made: Primitive) -> bool:
    return made.aborts or bool(made.does & (Does.COMMIT | Does.UNDO | Does.STORE))


def exact_macros() -> str:
    """Return the header with the macros of exact handlers and procedures."""
    return _guarded(
        "exact_primitives.h",
        [_macro(made, f"TRY_({_call(made)}, bail)" if _may_leave(made) else _call(made)) for made in primitives()],
    )


def fast_macros() -> str:
    """Return the header with the macros of fast handlers.

    Raises:
        MicrocodeError: fast.h lacks a fast path, has one too many, or one of another shape; it names the primitive.
    """
    check_fast_paths((_HERE / "fast.h").read_text())
    lines = []
    for made in primitives():
        if made.family in HOT:
            given = [*([str(8 * made.size)]), *(["result"] if made.result else []), *made.names, "bail"]
            lines.append(_macro(made, f"FAST_{made.family.upper()}({', '.join(given)})"))
        elif not made.does & Does.OUTSIDE:  # those are in no fast handler
            lines.append(_macro(made, "bail" if _may_leave(made) else _call(made)))
    return _guarded("fast_primitives.h", lines)


def check_fast_paths(header: str) -> None:
    """Hold the macros FAST_NAME of a header against the declarations.

    Raises:
        MicrocodeError: one is missing, too many, or has other parameters than the primitive; it names the primitive.
    """
    found = {name.lower(): [param.strip() for param in params.split(",")] for name, params in _FAST.findall(header)}
    for members in _families():
        made = members[-1]
        if made.family not in HOT:
            continue
        wanted = ["bits", *(["result"] if made.result else []), *made.names, "bail"]
        given = found.pop(made.family, None)
        if given != wanted:
            has = f"has ({', '.join(given)})" if given else "is missing"
            raise MicrocodeError(
                f"primitive {made.family}: FAST_{made.family.upper()} in fast.h {has}, ({', '.join(wanted)}) is needed"
            )
    for name in found:
        raise MicrocodeError(f"FAST_{name.upper()} in fast.h: no primitive {name} has a fast path in macros.HOT")


def _guarded(name: str, lines: list[str]) -> str:
    guard = "DM_" + name.upper().replace(".", "_")
    head = f"/* Printed from dm.isa.primitives. */\n#ifndef {guard}\n#define {guard}\n\n"
    return head + "\n".join([*lines, "", "#endif", ""])
