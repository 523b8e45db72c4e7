"""Checks on finished microcode: every value is defined where it is used, every path ends.

Widths are checked while the code is recorded (:mod:`dm.microcode.builder`).
"""

from __future__ import annotations

from dm.microcode.ir import (
    Block,
    Break,
    Call,
    Declare,
    End,
    Get,
    If,
    Let,
    Loop,
    MicrocodeError,
    ReadVar,
    Recorder,
    Return,
    Set,
    Value,
    Var,
    WriteVar,
    ends,
)


def verify(m: Recorder) -> None:
    """Check one handler or procedure.

    Raises:
        MicrocodeError: naming the code and what is wrong.
    """
    if not (m.root.body and ends(m.root.body[-1])):
        raise MicrocodeError(f"{m.name}: a path does not end")
    _check(m, m.root, set(), set())


def _check(m: Recorder, block: Block, temps: set[int], variables: set[int]) -> None:
    temps, variables = set(temps), set(variables)

    def use(value: Value | None) -> None:
        if value is None or value.op in ("const", "arg"):
            return
        if value.op == "none":
            raise MicrocodeError(f"{m.name}: a call that gives nothing is used as a value")
        if value.m is not m:
            raise MicrocodeError(f"{m.name}: a value of {value.m.name} is used")
        if value.number not in temps:
            raise MicrocodeError(f"{m.name}: t{value.number} ({value.op}) is used where it may be undefined")

    def use_var(var: Var) -> None:
        if var.number not in variables:
            raise MicrocodeError(f"{m.name}: local v{var.number} is used outside its scope")

    for position, statement in enumerate(block.body):
        if ends(statement) and position != len(block.body) - 1:
            raise MicrocodeError(f"{m.name}: code after the end of its path")
        match statement:
            case Let(value):
                for a in value.args:
                    use(a)
                temps.add(value.number)
            case Get(value, _, index):
                use(index)
                temps.add(value.number)
            case Set(_, index, value):
                use(index)
                use(value)
            case Declare(var, value):
                use(value)
                variables.add(var.number)
            case ReadVar(value, var):
                use_var(var)
                temps.add(value.number)
            case WriteVar(var, value):
                use_var(var)
                use(value)
            case Call(_, args, result):
                for a in args:
                    use(a)
                if result is not None:
                    temps.add(result.number)
            case If(condition, then, other):
                use(condition)
                _check(m, then, temps, variables)
                _check(m, other, temps, variables)
            case Loop(body):
                _check(m, body, temps, variables)
            case Return(returned):
                use(returned)
            case End(_, args, _):
                for a in args:
                    use(a)
            case Break():
                pass
