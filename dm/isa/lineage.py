"""Lineages: families of processors whose opcode maps differ.  The models before the P6, and the two vendors' since.

A vCPU's lineage follows from its model and vendor; decoders have tables for each, so that nothing is tested at run
time.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dm.isa.features import INTEL


class Lineage(IntEnum):
    """A family of processors with an opcode map of its own."""

    I80286 = 0
    I80386 = 1
    #: P6 and later; processors of unknown vendors are decoded as these.
    INTEL = 2
    AMD = 3


#: Its model, as rows' ``since`` and ``until`` have it: last digit of the processor's number (6: P6).
MODEL: Final = {Lineage.I80286: 2, Lineage.I80386: 3, Lineage.INTEL: 6, Lineage.AMD: 6}


def lineage(model: int, vendor: int) -> Lineage:
    """Return the lineage of a model and a vendor, as cells MODEL and VENDOR number them (dm.isa.features)."""
    if model < 6:
        return Lineage.I80286 if model < 3 else Lineage.I80386
    return Lineage.INTEL if vendor == INTEL else Lineage.AMD
