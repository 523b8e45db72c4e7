"""What code may do to the machine, and whether an engine must be ready to undo it.

This is not declared: it follows from the description.
"""

from __future__ import annotations

from dataclasses import dataclass

from dm.microcode.builder import Microcode, Procedure
from dm.microcode.ir import Block, Call, Does, End, If, Loop, Primitive, Set, Signature, ends


@dataclass
class Effects:
    """What code may do: abort, change state or memory, and whether it may abort *after* it has changed something."""

    aborts: bool = False
    changes: bool = False
    late_abort: bool = False


def is_transaction(code: Microcode) -> bool:
    """Return whether an engine has to be ready to undo this handler from its start.

    It has to with ``late_abort``, and if a primitive that needs it (UNDO) is called in any case.
    """
    whole = (does(s.target) for s in code.root.body if isinstance(s, Call))
    return effects(code).late_abort or any(done & Does.UNDO for done in whole)


def does(target: Signature) -> Does:
    """Return what a primitive may do; nothing for a procedure, whose effects are found from its code."""
    return target.does if isinstance(target, Primitive) else Does.NOTHING


_procedures: dict[Procedure, Effects] = {}


def effects(code: Microcode | Procedure) -> Effects:
    """Return the effects of a handler or procedure.

    Code with ``late_abort`` can be left half done by a fault or by an access that must wait for an answer, so an
    engine has to run it as a transaction (state saved, stores withheld).
    """
    if isinstance(code, Procedure):
        known = _procedures.get(code)
        if known is None:
            _procedures[code] = Effects(True, True, True)  # recursion: the worst
            known = _procedures[code] = effects(code.code)
        return known
    total = Effects()
    _walk(code.root, False, total)
    return total


def _walk(block: Block, changed: bool, total: Effects) -> bool:
    """Follow one block; return whether something may have changed at its end."""
    for statement in block.body:
        match statement:
            case Set(cell, _, _):
                if cell.architectural:
                    changed = total.changes = True
            case Call(target, _, _):
                e = effects(target) if isinstance(target, Procedure) else None
                done = does(target)
                if e.aborts if e else isinstance(target, Primitive) and target.aborts:
                    total.aborts = True
                    if changed or (e is not None and e.late_abort):
                        total.late_abort = True
                if done & Does.UNDO:
                    total.aborts = total.changes = True
                    return False  # whoever gets past here can undo everything
                if done & Does.COMMIT:
                    changed = False
                elif e.changes if e else done & (Does.STORE | Does.CHANGE):
                    changed = total.changes = True
            case If(_, then, other):
                a = _walk(then, changed, total)
                b = _walk(other, changed, total)
                # A side whose path has ended does not flow on.
                open_a = not (then.body and ends(then.body[-1]))
                open_b = not (other.body and ends(other.body[-1]))
                changed = (a and open_a) or (b and open_b) or (changed and (open_a or open_b))
            case Loop(body):
                changed = _walk(body, changed, total) or changed
                _walk(body, changed, total)
            case End(terminator, _, _):
                if terminator.aborts:
                    total.aborts = True
                    if changed:
                        total.late_abort = True
            case _:
                pass
    return changed
