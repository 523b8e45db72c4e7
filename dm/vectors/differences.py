"""Where recorded hardware and the modelled CPU rightly differ.

Each row names the opcodes and the condition it holds for, what part of the result it excludes from the comparison, and
the manual's section or the observation that makes it right.  A row must name a difference between
*processors*; it is never a place for an engine's bug.  What the recorded sets say about themselves (undefined flags, a
386's other vector) is in their own columns and not repeated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dm.isa.map.decode import LONGEST, decode
from dm.isa.parts import INTEL
from dm.machine.architecture import Eflags
from dm.machine.state import Seg
from dm.vectors.case import Case, prefix_count


@dataclass(frozen=True, slots=True)
class Difference:
    """One reviewed difference.

    ``formats`` and ``opcodes`` (a regular expression on the whole group name) select cases, ``condition`` narrows them.
    ``flags`` are bits of the flags register, also as pushed by an exception, that are not compared; ``memory`` and
    ``fault`` exclude those altogether, ``everything`` all of the result.  ``vendor`` names the processor whose
    behaviour the row excludes.  ``held``: only where the set is checked against a part of this vendor (the characters
    of CPUID).
    """

    formats: frozenset[str]
    opcodes: str
    condition: Callable[[Case], bool]
    vendor: str
    reason: str
    flags: int = 0
    memory: bool = False
    fault: bool = False
    everything: bool = False
    held: str = ""

    def applies(self, form: str, case: Case, part: str = "") -> bool:
        """Tell whether this row applies to ``case`` of format ``form``, checked against a ``part``."""
        if form not in self.formats or (self.held and self.held != part):
            return False
        return re.fullmatch(self.opcodes, case.opcode) is not None and self.condition(case)


def _reg(case: Case) -> int:
    """Return the reg field of the ModRM byte behind a one-byte opcode."""
    return case.code[prefix_count(case.code) + 1] >> 3 & 7


def _long_for_a_286(case: Case) -> bool:
    """Tell whether C7 with a 16-bit displacement and its immediate is longer than the 80286's ten bytes."""
    return _reg(case) != 0 and prefix_count(case.code) + 6 > 10


def _count_above_1(case: Case) -> bool:
    """Tell whether a shift's count, taken modulo 32, is above 1: the last byte before HLT, or CL."""
    opcode = case.code[prefix_count(case.code)]
    return ((case.code[-2] if opcode < 0xD0 else case.state.ecx) & 31) > 1


def _ten_bytes(case: Case) -> bool:
    """Tell whether an instruction, without the HLT behind it, is longer than the 80286's ten bytes."""
    return len(case.code) - 1 > 10


def _faults(case: Case) -> bool:
    return case.faults


def _faults_through_ss(case: Case) -> bool:
    """Tell whether a case faults and its memory operand, or the stack, is in SS."""
    if not case.faults:
        return False
    decoded = decode(case.code + bytes(LONGEST), False)
    implicit = decoded.row is not None and decoded.row.mnemonic in _STACK
    return implicit or (decoded.variant.memory and decoded.seg == Seg.SS)


#: Instructions that use the stack without naming it.
_STACK: Final = frozenset("CALL CALLF ENTER IRET LEAVE POP POPA POPF PUSH PUSHA PUSHF RET RETF".split())
_MOO: Final = frozenset({"moo"})
#: A MOO set of the 80286, checked against that model: it refuses what later parts brought, and is else as these.
_MODEL_286: Final = f"{INTEL} 80286"
_REAL_286: Final = frozenset({"hw286"})

#: The table, most specific rows first; the first that applies is used.
DIFFERENCES: Final[tuple[Difference, ...]] = (
    Difference(
        _REAL_286 | _MOO,
        "8C|8E",
        lambda case: _reg(case) in (4, 5),
        "80286",
        "the 80286 has no FS and GS and raises #UD (80386 and later: SDM 3B, 23.2)",
        everything=True,
    ),
    Difference(
        _REAL_286,
        "C7",
        _long_for_a_286,
        "80286",
        "11 bytes are #GP on the 80286, the undefined /1-/7 comes later; all others raise #UD for it",
        everything=True,
    ),
    Difference(
        _REAL_286 | _MOO,
        "D4",
        lambda case: case.code[prefix_count(case.code) + 1] == 0,
        "80286",
        "AAM 0 changes SF ZF PF before #DE on the 80286; a fault leaves them on later parts (SDM 3A, 6.5)",
        flags=Eflags.SF | Eflags.ZF | Eflags.PF,
    ),
    Difference(
        _REAL_286,
        "C[01].[0-7]|D[23].[0-7]",
        _count_above_1,
        "80286",
        "OF of a shift or rotation by more than 1 is undefined (SDM 2): the 80286 and AMD's parts make it of the "
        "result, Intel's of the operand",
        flags=Eflags.OF,
        held=INTEL,
    ),
    Difference(
        _MOO,
        ".*",
        _ten_bytes,
        "80286",
        "more than 10 bytes are #GP on the 80286; the limit of later parts, and of the model, is 15 (SDM 2, 2.3.11)",
        everything=True,
        held=_MODEL_286,
    ),
    Difference(
        _MOO,
        "6[C-F]|A[4-7A-F]|8F",
        _faults,
        "80286",
        "a string instruction or POP m that faults leaves its registers advanced on the 80286 only",
        everything=True,
        held=_MODEL_286,
    ),
    Difference(
        _MOO,
        ".*",
        _faults_through_ss,
        "80286",
        "a word at offset FFFF of SS is #GP on the 80286, #SS on later parts and the model (SDM 3A, 6.15)",
        everything=True,
        held=_MODEL_286,
    ),
    Difference(
        _REAL_286,
        "CE",
        lambda case: case.index == 1193,
        "recording",
        "the recorded frame of this one INTO holds SS where CS belongs",
        memory=True,
    ),
)


def find(form: str, case: Case, part: str = "") -> Difference | None:
    """Return the row that applies to ``case``, checked against a ``part`` (vendor and model), if any."""
    return next((row for row in DIFFERENCES if row.applies(form, case, part)), None)
