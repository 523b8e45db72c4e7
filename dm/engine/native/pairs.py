"""Which instructions are worth running two at a time.

A pair is not a description of its own: it is the fast handler of its first form, with the handler of the second one
inlined where the first would continue with the next record.  Both records stay in the block.  Whatever stops between
or inside the two (a fault, a TLB miss, a store into code, the end of the budget) finds its record, as if the two had
run one after the other.

The forms are the frequent ones of boot code: GRUB, iPXE, SeaBIOS, Memtest86+ and, for 16-bit code, the code of
compilers and assemblers of that time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

from dm.machine.architecture import CONDITIONS

#: Conditions that are tested after a comparison, after a logical operation (CF and OF clear), after a count.
_ORDER: Final = "B NB Z NZ BE NBE S NS L NL LE NLE".split()
_SIGNS: Final = "Z NZ S NS P NP L NL LE NLE".split()
_COUNTS: Final = "Z NZ S NS".split()
_SHIFTS: Final = "B NB Z NZ".split()

#: Forms in the notation of the opcode map, `r` register, `m` memory.  They come first in a pair, or second.
_MOVES: Final = (
    "89 /r MOV Ev,Gv r",
    "89 /r MOV Ev,Gv m",
    "8B /r MOV Gv,Ev m",
    "8A /r MOV Gb,Eb m",
    "88 /r MOV Eb,Gb m",
    "B8+r MOV Zv,Iz r",
    "C7 /0 MOV Ev,Iz m",
    "8D /r LEA Gv,M m",
    "50+r PUSH Zv r",
    "58+r POP Zv r",
    "01 /r ADD Ev,Gv r",
    "29 /r SUB Ev,Gv r",
    "31 /r XOR Ev,Gv r",
    "09 /r OR Ev,Gv r",
    "81 /0 ADD Ev,Iz r",
    "81 /5 SUB Ev,Iz r",
    "40+r INC Zv r",
    "48+r DEC Zv r",
    "C1 /4 SHL Ev,Ib r",
    "C1 /5 SHR Ev,Ib r",
)
_MOVES_16: Final = (
    "8B /r MOV Gv,Ev r",
    "03 /r ADD Gv,Ev r",
    "2B /r SUB Gv,Ev r",
    "33 /r XOR Gv,Ev r",
    "05 ADD eAX,Iz r",
    "11 /r ADC Ev,Gv r",
    "D1 /0 ROL Ev,1 r",
    "D1 /4 SHL Ev,1 r",
    "D1 /5 SHR Ev,1 r",
)
#: Second in a pair only.
_TESTS: Final = (
    "39 /r CMP Ev,Gv r",
    "39 /r CMP Ev,Gv m",
    "3B /r CMP Gv,Ev m",
    "81 /7 CMP Ev,Iz r",
    "81 /7 CMP Ev,Iz m",
    "85 /r TEST Ev,Gv r",
    "A8 TEST AL,Ib r",
)
_JUMPS: Final = ("E9 JMP Jz r", "E8 CALL Jz r")
#: Setters of flags, and the conditions that pair with them.
_SETTERS: Final = (
    ("39 /r CMP Ev,Gv r", _ORDER),
    ("39 /r CMP Ev,Gv m", _ORDER),
    ("3B /r CMP Gv,Ev r", _ORDER),
    ("3B /r CMP Gv,Ev m", _ORDER),
    ("81 /7 CMP Ev,Iz r", _ORDER),
    ("81 /7 CMP Ev,Iz m", _ORDER),
    ("3D CMP eAX,Iz r", _ORDER),
    ("3C CMP AL,Ib r", _ORDER),
    ("80 /7 CMP Eb,Ib r", _ORDER),
    ("80 /7 CMP Eb,Ib m", _ORDER),
    ("38 /r CMP Eb,Gb r", _ORDER),
    ("3A /r CMP Gb,Eb m", _ORDER),
    ("85 /r TEST Ev,Gv r", _SIGNS),
    ("84 /r TEST Eb,Gb r", _SIGNS),
    ("A8 TEST AL,Ib r", _SIGNS),
    ("F6 /0 TEST Eb,Ib r", _COUNTS),
    ("F6 /0 TEST Eb,Ib m", _COUNTS),
    ("81 /4 AND Ev,Iz r", _COUNTS),
    ("21 /r AND Ev,Gv r", _COUNTS),
    ("09 /r OR Ev,Gv r", _COUNTS),
    ("0B /r OR Gv,Ev r", _COUNTS),
    ("40+r INC Zv r", _COUNTS),
    ("48+r DEC Zv r", _COUNTS),
    ("FE /1 DEC Eb r", _COUNTS),
    ("01 /r ADD Ev,Gv r", _SHIFTS),
    ("81 /0 ADD Ev,Iz r", _SHIFTS),
    ("81 /5 SUB Ev,Iz r", _ORDER),
    ("29 /r SUB Ev,Gv r", _ORDER),
    ("D1 /4 SHL Ev,1 r", _SHIFTS),
    ("D1 /5 SHR Ev,1 r", _SHIFTS),
)
#: 32-bit setters that 16-bit code uses.
_WIDE: Final = ("39 /r CMP Ev,Gv r", "81 /7 CMP Ev,Iz r", "85 /r TEST Ev,Gv r", "48+r DEC Zv r", "D1 /5 SHR Ev,1 r")


class PairedForm(NamedTuple):
    """A form without LOCK or REP: its text in the opcode map, whether rm is memory, operand and address size."""

    text: str
    memory: bool
    osize: int
    asize: int


def pairs() -> Iterator[tuple[PairedForm, PairedForm]]:
    """Yield the forms that are paired, for 16-bit code, then for 32-bit code."""

    def form(text: str, osize: int, mode: int) -> PairedForm:
        return PairedForm(text[:-2], text.endswith("m"), osize, mode)

    for mode in (16, 32):
        moves = [form(text, mode, mode) for text in (*_MOVES, *(_MOVES_16 if mode == 16 else ()))]
        after = [*moves, *(form(text, mode, mode) for text in (*_TESTS, *_JUMPS))]
        yield from itertools.product(moves, after)
        for text, conditions in _SETTERS:
            sizes = (16, 32) if mode == 16 and text in _WIDE else (mode,)
            for osize, condition in itertools.product(sizes, conditions):
                jump = f"{0x70 + CONDITIONS.index(condition):02X} J{condition} Jb"
                yield form(text, osize, mode), PairedForm(jump, False, mode, mode)
        yield form("58+r POP Zv r", mode, mode), form("C3 RET r", mode, mode)
