"""Where recorded hardware and the modelled CPU rightly differ.

Each row names the opcodes and the condition it holds for, what of the result it takes out of the comparison, and the
manual's section or the observation that makes it right.  A row must name a difference between *parts*; it is never a
place for a fault of an engine.  What the recorded sets say about themselves (undefined flags, a 386's other vector) is
in their own columns and not repeated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dm.vectors.case import Case

ALL: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Difference:
    """One reviewed difference.

    ``formats`` and ``opcodes`` (a regular expression on the whole group name) select cases, ``condition`` narrows them.
    ``registers`` maps names to the bits that are not compared; ``memory`` and ``fault`` take those out altogether.
    ``vendor`` is the vendor or part whose behaviour the modelled CPU has there.
    """

    formats: frozenset[str]
    opcodes: str
    condition: Callable[[Case], bool]
    vendor: str
    reason: str
    registers: Mapping[str, int] = field(default_factory=dict)
    memory: bool = False
    fault: bool = False

    def applies(self, form: str, case: Case) -> bool:
        """Tell whether this row speaks about ``case`` of format ``form``."""
        return form in self.formats and re.fullmatch(self.opcodes, case.opcode) is not None and self.condition(case)


#: The table, most specific rows first; the first that applies is used.
DIFFERENCES: Final[tuple[Difference, ...]] = ()


def find(form: str, case: Case) -> Difference | None:
    """Return the row that speaks about ``case``, if any."""
    return next((row for row in DIFFERENCES if row.applies(form, case)), None)
