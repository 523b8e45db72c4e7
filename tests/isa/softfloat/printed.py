"""Runs a procedure of dm.isa.softfloat: what the Python printer makes of it, called without a machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from dm.microcode import Procedure
from dm.microcode.ir import Block, Call, If, Loop
from dm.microcode.print_python import RUNTIME, PythonPrinter, PythonTarget

_names: dict[str, Any] = dict(RUNTIME)


def _load(block: Block) -> None:
    for s in block.body:
        match s:
            case Call(target) if isinstance(target, Procedure):
                printed(target)
            case If(_, then, other):
                _load(then)
                _load(other)
            case Loop(body):
                _load(body)


@cache
def printed(procedure: Procedure) -> Callable[..., int]:
    """Return a procedure as a Python function of its parameters."""
    _load(procedure.code.root)
    exec(PythonPrinter(PythonTarget()).function(procedure.code), _names)
    made = _names[procedure.name]
    return lambda *args: made(None, *args)


def result(procedure: Procedure, *args: int) -> tuple[int, int]:
    """Return value and status."""
    whole = printed(procedure)(*args)
    return whole & (1 << 80) - 1, whole >> 96
