"""The engine's table of undefined flags and results (dm.isa.undefined), as masks for cases of the live oracle."""

from __future__ import annotations

from generate import Request

from dm.isa import undefined
from dm.isa.insn import Variant
from dm.isa.map.decode import Decoded, NeedMore, TooLong, decode

_NOTHING = Decoded(None, Variant(16, 16, False), 0)


def _decoded(r: Request) -> Decoded:
    try:
        return decode(r.code, bool(r.code32))
    except (NeedMore, TooLong):
        return _NOTHING


def flags(r: Request) -> int:
    """Return the EFLAGS bits that may be anything after this instruction."""
    return undefined.flags(_decoded(r), r.gpr[1] & 0xFF)


def result(r: Request) -> bool:
    """Return whether the result itself is undefined, and differs by part: SHLD and SHRD of a word by more than 16."""
    return undefined.result(_decoded(r), r.gpr[1] & 0xFF)
