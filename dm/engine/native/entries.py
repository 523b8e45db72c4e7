"""Procedures of the descriptions that the runtime calls by name."""

from __future__ import annotations

from typing import Final

from dm.isa import catalogue
from dm.machine import rules
from dm.microcode import MicrocodeError, Procedure

#: Procedures that the runtime calls by name, with their prototypes' parameter widths and result.
ENTRIES: Final[dict[str, tuple[tuple[int, ...], int]]] = {
    "segment_check": ((8, 32, 32, 1), 0),
    "page_walk": ((32, 8), 64),
    "raise_exception": ((8, 32, 32), 0),
    "deliver": ((), 0),
    "boundary": ((1,), 8),
    "enterable": ((8,), 1),
}


def load_isa() -> dict[str, Procedure]:
    """Return the procedures of :data:`ENTRIES` by name.

    Raises:
        MicrocodeError: a procedure is missing or does not have the parameters the runtime passes.
    """
    found: dict[str, Procedure] = {}
    for module in [*catalogue.MODULES, rules]:
        for value in vars(module).values():
            if isinstance(value, Procedure) and value.name in ENTRIES:
                found[value.name] = value
    for name, (params, result) in ENTRIES.items():
        if name not in found:
            raise MicrocodeError(f"procedure {name} is not described in dm.isa or dm.machine.rules")
        made = found[name]
        if made.args != params or made.result != result:
            raise MicrocodeError(
                f"procedure {name} takes {made.args} and gives {made.result} bits, not {params}, {result}"
            )
    return found
