"""Flags and results that the manual leaves undefined: what processors do with them, and what is modelled.

This is the one list of them.  A row covers only its mask, and tests leave that mask out of comparisons
(:func:`flags`, :func:`result`): no processor promises what is listed here.  The model follows the measured processor
wherever that has a rule: Intel's (a Sapphire Rapids core) for vendors but AMD, AMD's (a Zen core) for AMD.  Where a
row's ``modelled`` says otherwise one vendor's rule is used for both.

Sections are those of the SDM, volume 2, "Flags Affected" of the instructions named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dm.isa.map.decode import Decoded
from dm.machine.architecture import Eflags

CF, PF, AF, ZF, SF, OF = Eflags.CF, Eflags.PF, Eflags.AF, Eflags.ZF, Eflags.SF, Eflags.OF
BOTH: Final = "both parts"
#: Bits 19:16 of what LAR gives.
_LAR: Final = 0x000F0000


@dataclass(frozen=True)
class Instruction:
    """What conditions look at: a decoded instruction and, of a shift, its count, masked to five bits."""

    decoded: Decoded
    count: int

    @property
    def mnemonic(self) -> str:
        """Name of the row, empty for what is no instruction."""
        return self.decoded.row.mnemonic if self.decoded.row else ""

    @property
    def width(self) -> int:
        """Bits of the operand that is shifted."""
        row = self.decoded.row
        return 8 if row and row.operands[:1] == ("Eb",) else self.decoded.variant.osize


@dataclass(frozen=True)
class Undefined:
    """One row.

    ``names``: mnemonics, the section.  ``flags``: bits of EFLAGS that are undefined when ``when`` holds; ``result``: so
    are these bits of the destination.  ``intel`` and ``amd``: what the parts were measured to do.  ``modelled``: whose
    rule is modelled.
    """

    names: tuple[str, ...]
    flags: int
    intel: str
    amd: str
    when: Callable[[Instruction], bool] = lambda i: True
    condition: str = ""
    result: int = 0
    modelled: str = BOTH


_SHIFTS: Final = ("SHL", "SHR", "SAR")
_DOUBLE: Final = ("SHLD", "SHRD")
_ROTATES: Final = ("ROL", "ROR", "RCL", "RCR")


def _some(i: Instruction) -> bool:
    return i.count > 0


def _several(i: Instruction) -> bool:
    return i.count > 1


def _all(i: Instruction) -> bool:
    return i.count >= i.width


def _beyond(i: Instruction) -> bool:
    return i.count > i.width


TABLE: Final = (
    Undefined(("AND", "OR", "XOR", "TEST"), AF, "AF = 0", "AF = 0"),
    Undefined(_SHIFTS, AF, "AF = 0", "AF = 1", _some, "count > 0"),
    Undefined(
        _SHIFTS, OF, "as a shift by 1 leaves it", "the formula for 1, of the result", _several, "count > 1"
    ),
    Undefined(("SHL", "SHR"), CF, "0 beyond the width", "0 beyond the width", _all, "count >= width"),
    Undefined(
        _ROTATES,
        OF,
        "as a rotation by 1 leaves it; unchanged after ROL and ROR of a register by an immediate, and where RCL and "
        "RCR come round",
        "the formula for 1, of the result",
        _several,
        "count > 1",
    ),
    Undefined(_DOUBLE, AF, "AF = 0", "AF = 1", _some, "count > 0"),
    Undefined(
        _DOUBLE,
        OF,
        "as a shift by 1 leaves it",
        "the formula for 1, of the result (but for a word by 16)",
        _several,
        "count > 1",
    ),
    Undefined(
        _DOUBLE,
        CF | PF | AF | ZF | SF | OF,
        "destination, source, destination as 48 bits, shifted by the whole count",
        "destination, source, source; CF = 0",
        _beyond,
        "word, count > 16",
        result=0xFFFF,
    ),
    Undefined(("MUL", "IMUL"), SF | ZF | AF | PF, "SF, PF of the low half; ZF = AF = 0", "unchanged"),
    Undefined(
        ("DIV", "IDIV"),
        CF | OF | SF | ZF | AF | PF,
        "unchanged",
        "CF and OF unchanged, the others by no rule that was found",
        modelled="Intel's",
    ),
    Undefined(("DAA", "DAS"), OF, "OF = 0", "OF of adding or subtracting the correction"),
    Undefined(
        ("AAA", "AAS"),
        OF | SF | ZF | PF,
        "OF = SF = 0; ZF, PF of AL",
        "PF of AL corrected before its upper half is cleared, the others by no rule that was found",
        modelled="Intel's",
    ),
    Undefined(("AAM",), OF | AF | CF, "OF = AF = CF = 0", "OF = AF = CF = 0"),
    Undefined(("AAD",), OF | AF | CF, "of the addition AL + AH * base (8 bits)", "the same"),
    Undefined(("BT", "BTS", "BTR", "BTC"), OF | SF | AF | PF, "unchanged", "unchanged"),
    Undefined(
        ("BSF", "BSR"),
        OF | SF | AF | PF | CF,
        "PF of the result, the others 0; source 0: ZF = PF = 1, the destination unchanged (all 32 bits)",
        "the same",
    ),
    Undefined(("TZCNT", "LZCNT"), OF | SF | AF | PF, "OF = SF = AF = PF = 0", "SF = AF = PF = 0, OF unchanged"),
    Undefined(("ANDN", "BLSI", "BLSR", "BLSMSK", "BZHI"), AF | PF, "AF = PF = 0", "AF = 0, PF of the result"),
    Undefined(("BEXTR",), AF | SF | PF, "AF = SF = PF = 0", "AF = 1, SF = 0, PF of the result"),
    Undefined(("LAR",), 0, "limit 19:16 as they stand", "limit 19:16 as they stand", result=_LAR),
    Undefined(("BSWAP",), 0, "0", "0", lambda i: i.decoded.variant.osize == 16, "word", result=0xFFFF),
)  # fmt: skip


def instruction(decoded: Decoded, cl: int) -> Instruction:
    """Return what conditions look at; ``cl`` is the value of CL before the instruction."""
    row = decoded.row
    by = row.operands[-1] if row and row.operands else ""
    return Instruction(decoded, 1 if by == "1" else (decoded.imm if by == "Ib" else cl) & 31)


def rows(decoded: Decoded, cl: int) -> list[Undefined]:
    """Return the rows that speak about an instruction."""
    what = instruction(decoded, cl)
    return [row for row in TABLE if what.mnemonic in row.names and row.when(what)]


def flags(decoded: Decoded, cl: int) -> int:
    """Return the EFLAGS bits that may be anything after this instruction."""
    mask = 0
    for row in rows(decoded, cl):
        mask |= row.flags
    return mask


def result(decoded: Decoded, cl: int) -> bool:
    """Return whether parts were seen to differ in the result itself: SHLD and SHRD of a word by more than 16."""
    return any(row.result and row.intel != row.amd for row in rows(decoded, cl))
