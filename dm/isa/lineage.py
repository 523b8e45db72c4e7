"""Lines of parts whose opcode maps differ: the models before the P6, and the two vendors' parts since.

Which line a vCPU is of follows from its model and vendor; decoders have tables for each, so that nothing asks at run
time.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dm.isa.features import INTEL


class Lineage(IntEnum):
    """A line of parts with an opcode map of its own."""

    I80286 = 0
    I80386 = 1
    #: P6 and later; parts of unknown vendors are decoded as these.
    INTEL = 2
    AMD = 3


#: Its model, as rows' ``since`` and ``until`` have it: last digit of the part's number (6: P6).
MODEL: Final = {Lineage.I80286: 2, Lineage.I80386: 3, Lineage.INTEL: 6, Lineage.AMD: 6}


def lineage(model: int, vendor: int) -> Lineage:
    """Return the line of a model and a vendor, as cells MODEL and VENDOR number them (dm.isa.features)."""
    if model < 6:
        return Lineage.I80286 if model < 3 else Lineage.I80386
    return Lineage.INTEL if vendor == INTEL else Lineage.AMD
