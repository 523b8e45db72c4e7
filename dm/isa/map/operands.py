"""Operand forms: what every operand of the opcode map's notation is (SDM vol. 2D, appendix A.2).

An operand form is a letter, which says where the operand is and what registers it may name, and a type, which says how
wide it is; ``Ry/Mw`` is a doubleword register or a word in memory.  :data:`LETTERS` and :data:`TYPES` are the one place
where that is said; descriptions (dm.isa.insn), decoders, disassembler, assembler and the native engine's generator read
it there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Final, NamedTuple


@dataclass(frozen=True, eq=False)
class RegisterClass:
    """Registers that instructions name by number; ``names``: width in bits -> their names, in encoding order."""

    name: str
    names: dict[int, tuple[str, ...]]

    def width(self, bits: int) -> int:
        """Return the width of the registers that hold an operand of ``bits``: XMM registers hold single-reals too."""
        return next(width for width in (*self.names, bits) if width >= bits)


def _numbered(start: str, count: int = 8, end: str = "") -> tuple[str, ...]:
    return tuple(f"{start}{n}{end}" for n in range(count))


GENERAL: Final = RegisterClass(
    "general",
    {
        8: ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh"),
        16: ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di"),
        32: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"),
    },
)
SEGMENT: Final = RegisterClass("segment", {16: ("es", "cs", "ss", "ds", "fs", "gs", "?", "?")})
#: CR8 to CR15 are those that AMD's parts name with LOCK outside 64-bit mode.
CONTROL: Final = RegisterClass("control", {32: _numbered("cr", 16)})
DEBUG: Final = RegisterClass("debug", {32: _numbered("dr")})
TEST: Final = RegisterClass("test", {32: _numbered("tr")})
#: Numbers count from the top of the stack.
X87: Final = RegisterClass("x87", {80: _numbered("st(", end=")")})
MMX: Final = RegisterClass("mmx", {64: _numbered("mm")})
#: XMM registers, and YMM registers, of which they are the lower halves.
VECTOR: Final = RegisterClass("vector", {128: _numbered("xmm"), 256: _numbered("ymm")})


class Place(Enum):
    """Where an operand is."""

    #: ModRM.rm: a register, or memory at the address that ModRM makes.
    RM = "ModRM.rm"
    #: ModRM.reg.
    REG = "ModRM.reg"
    #: The low three bits of the opcode.
    OPCODE = "opcode"
    #: VEX.vvvv.
    VVVV = "VEX.vvvv"
    #: An immediate.
    IMMEDIATE = "immediate"
    #: An immediate that is added to the address of the next instruction.
    RELATIVE = "relative"
    #: Offset and selector, both immediates.
    FAR = "far"
    #: Memory at an address in the instruction.
    OFFSET = "offset"
    #: Memory at DS:SI (the segment can be overridden), and at ES:DI.
    SOURCE = "DS:SI"
    DESTINATION = "ES:DI"
    #: No bits say it: the opcode does.
    IMPLIED = "implied"


#: Field of a decoded instruction (dm.isa.map.decode.Decoded) that holds the number of a register in such a place.
NUMBERS: Final = {Place.RM: "rm", Place.REG: "reg", Place.OPCODE: "rm", Place.VVVV: "imm2"}


@dataclass(frozen=True)
class Letter:
    """The first letter of an operand form.  ``memory``: it may be memory, without ``registers`` it must."""

    place: Place
    registers: RegisterClass | None = None
    memory: bool = False


LETTERS: Final[dict[str, Letter]] = {
    "A": Letter(Place.FAR),
    "B": Letter(Place.VVVV, GENERAL),
    "C": Letter(Place.REG, CONTROL),
    "D": Letter(Place.REG, DEBUG),
    "E": Letter(Place.RM, GENERAL, memory=True),
    "G": Letter(Place.REG, GENERAL),
    "H": Letter(Place.VVVV, VECTOR),
    "I": Letter(Place.IMMEDIATE),
    "J": Letter(Place.RELATIVE),
    "M": Letter(Place.RM, memory=True),
    "N": Letter(Place.RM, MMX),
    "O": Letter(Place.OFFSET, memory=True),
    "P": Letter(Place.REG, MMX),
    "Q": Letter(Place.RM, MMX, memory=True),
    "R": Letter(Place.RM, GENERAL),
    "S": Letter(Place.REG, SEGMENT),
    "T": Letter(Place.REG, TEST),
    "U": Letter(Place.RM, VECTOR),
    "V": Letter(Place.REG, VECTOR),
    "W": Letter(Place.RM, VECTOR, memory=True),
    "X": Letter(Place.SOURCE, memory=True),
    "Y": Letter(Place.DESTINATION, memory=True),
    "Z": Letter(Place.OPCODE, GENERAL),
}


@dataclass(frozen=True)
class Type:
    """What follows the letter: bits for 16- and 32-bit operand size.

    ``shown``: whether assemblers write the size of such a memory operand.
    """

    bits: tuple[int, int]
    shown: bool = True


def _fixed(bits: int, *, shown: bool = True) -> Type:
    return Type((bits, bits), shown)


TYPES: Final[dict[str, Type]] = {
    "": Type((16, 32), shown=False),  # an address, or what is not described in detail
    "a": Type((32, 64)),  # two words or doublewords: BOUND
    "b": _fixed(8),
    "d": _fixed(32),
    "dq": _fixed(128),
    "p": Type((32, 48)),  # far pointer
    "q": _fixed(64),
    "qq": _fixed(256),
    "s": _fixed(48, shown=False),  # limit and base of a descriptor table
    "v": Type((16, 32)),
    "w": _fixed(16),
    "y": _fixed(32),  # 64 bits in 64-bit mode
    "z": Type((16, 32)),
    # MMX and SSE: packed and scalar integers and reals
    "pd": _fixed(128),
    "pi": _fixed(64),
    "ps": _fixed(128),
    "sd": _fixed(64),
    "ss": _fixed(32),
    "x": _fixed(128),  # 256 bits with VEX.L
    # x87: single-, double-, extended-real; word, doubleword, quadword integer; BCD; environment; state; FXSAVE's area
    "sr": _fixed(32),
    "dr": _fixed(64),
    "er": _fixed(80),
    "wi": _fixed(16),
    "di": _fixed(32),
    "qi": _fixed(64),
    "bcd": _fixed(80),
    "e": Type((112, 224), shown=False),
    "st": Type((752, 864), shown=False),
    "stx": _fixed(4096, shown=False),
}
#: Operands that no bits of the instruction name: registers as (class, bits for both operand sizes, number).
_IMPLIED: Final[dict[str, tuple[RegisterClass, tuple[int, int], int]]] = {
    **{name.upper(): (GENERAL, (8, 8), n) for n, name in enumerate(GENERAL.names[8])},
    "AX": (GENERAL, (16, 16), 0),
    "DX": (GENERAL, (16, 16), 2),
    "eAX": (GENERAL, (16, 32), 0),
    **{name.upper(): (SEGMENT, (16, 16), n) for n, name in enumerate(SEGMENT.names[16][:6])},
    "ST(0)": (X87, (80, 80), 0),
    "XMM0": (VECTOR, (128, 128), 0),
}
#: Counts of shifts, and the vector of INT3.
_CONSTANTS: Final = ("1", "3")


class Immediate(NamedTuple):
    """Bytes at the end of an instruction: how many for 16- and 32-bit operand size; ``signed``: they are extended."""

    sizes: tuple[int, int]
    signed: bool = False


#: Immediates by type; ``s`` is a byte that is sign-extended to the operand size.
_IMMEDIATES: Final = {
    "b": Immediate((1, 1)),
    "w": Immediate((2, 2)),
    "z": Immediate((2, 4)),
    "s": Immediate((1, 1), signed=True),
}


@dataclass(frozen=True)
class OperandForm:
    """One operand form.

    Attributes:
        text: as the opcode map has it.
        place: where the operand is.
        registers: what its number means where it names a register; None: it never does.
        memory: whether it can be memory.
        bits: its width for 16- and 32-bit operand size; a register that holds it may be wider (:meth:`width`).
        register_bits: that of its register, where it is neither that nor what its class has (``Ry/Mw``).
        shown: whether assemblers write the size of such a memory operand.
        number: the register or constant that is implied.
        immediates: what it takes at the end of the instruction, at most two.
    """

    text: str
    place: Place
    registers: RegisterClass | None
    memory: bool
    bits: tuple[int, int]
    shown: bool = True
    number: int = 0
    immediates: tuple[Immediate, ...] = ()
    register_bits: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Return it as the opcode map has it."""
        return self.text

    def width(self, osize: int, *, memory: bool = False) -> int:
        """Return its width in bits for an operand size: as ``memory`` or an immediate, else as a register."""
        if memory or self.registers is None:
            return self.bits[osize == 32]
        return self.registers.width((self.register_bits or self.bits)[osize == 32])

    @property
    def is_byte_register(self) -> bool:
        """Whether its number names AL to BH, of which two are parts of one general register."""
        return self.registers is GENERAL and self.width(16) == self.width(32) == 8

    @property
    def must_be_memory(self) -> bool:
        """Whether ModRM.mod must not be 3."""
        return self.place is Place.RM and self.registers is None

    @property
    def must_be_register(self) -> bool:
        """Whether ModRM.mod must be 3."""
        return self.place is Place.RM and not self.memory


@cache
def operand_form(text: str) -> OperandForm:
    """Return an operand form by its notation.

    Raises:
        ValueError: it is not in the tables.
    """
    if text in _IMPLIED:
        registers, bits, number = _IMPLIED[text]
        return OperandForm(text, Place.IMPLIED, registers, False, bits, number=number)
    if text in _CONSTANTS:
        return OperandForm(text, Place.IMPLIED, None, False, (8, 8), number=int(text))
    if text == "ST(i)":
        return OperandForm(text, Place.RM, X87, False, (80, 80))
    if "/" in text:
        register, memory = map(operand_form, text.split("/"))
        return replace(register, text=text, memory=True, bits=memory.bits, register_bits=register.bits)
    letter, of = LETTERS.get(text[:1]), text[1:]
    match letter:
        case Letter(Place.IMMEDIATE) if of in _IMMEDIATES:
            bits = (16, 32) if of == "s" else TYPES[of].bits
            return OperandForm(text, letter.place, None, False, bits, immediates=(_IMMEDIATES[of],))
        case Letter(Place.RELATIVE) if of in _IMMEDIATES:
            distance = Immediate(_IMMEDIATES[of].sizes, signed=True)
            return OperandForm(text, letter.place, None, False, (32, 32), immediates=(distance,))
        case Letter(Place.FAR) if of in TYPES:
            pair = (_IMMEDIATES["z"], _IMMEDIATES["w"])
            return OperandForm(text, letter.place, None, False, TYPES[of].bits, immediates=pair)
        case Letter(place) if of in TYPES and place not in (Place.IMMEDIATE, Place.RELATIVE):
            return OperandForm(text, place, letter.registers, letter.memory, TYPES[of].bits, TYPES[of].shown)
    raise ValueError(f"unknown operand form {text!r}: letters are {' '.join(LETTERS)}, types {' '.join(TYPES)}")
