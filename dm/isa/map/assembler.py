"""A small assembler for 16-bit code, made from the same opcode map as decoders and disassembler.

The firmware of the small PC is written for it: no prefixes except segment overrides and REP, 16-bit addresses and
operands, labels, ``db`` and ``dw``.  The shortest encoding is taken, and jumps grow as far as they have to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from dm.isa.map.forms import ROWS, Row
from dm.isa.map.operands import GENERAL, SEGMENT, OperandForm, Place, RegisterClass

_OVERRIDES: Final = {"es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65}
_REPEATS: Final = {"rep": 0xF3, "repe": 0xF3, "repne": 0xF2}
#: ModRM.rm of the 16-bit address forms (SDM vol. 2A, table 2-1).
_ADDRESSES: Final = {
    ("bx", "si"): 0, ("bx", "di"): 1, ("bp", "si"): 2, ("bp", "di"): 3, ("si",): 4, ("di",): 5, ("bp",): 6, ("bx",): 7,
}  # fmt: skip
#: Their first operand is the accumulator, and is not written.
_ACCUMULATOR: Final = ("MUL", "IMUL", "DIV", "IDIV")

_LINE: Final = re.compile(r"(?:(?P<label>[a-z_]\w*):)?\s*(?P<text>[^;]*?)\s*(?:;.*)?$")
_MEMORY: Final = re.compile(
    r"(?:(?P<size>byte|word|dword) )?(?:(?P<segment>[c-g]s|es|ss):)?\[(?P<inside>[^\]]+)\]$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The code, and the address of each label."""

    code: bytes
    labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Register:
    registers: RegisterClass
    width: int
    number: int

    def fits(self, form: OperandForm) -> bool:
        """Whether the register can stand for an operand form."""
        return form.registers is self.registers and form.width(16) == self.width


@dataclass(frozen=True, slots=True)
class _Memory:
    """``width`` 0: not said."""

    width: int
    override: int | None
    registers: tuple[str, ...]
    displacement: int


_Operand = _Register | _Memory | int


def assemble(source: str, origin: int, symbols: Mapping[str, int] | None = None) -> Assembly:
    """Return the code of ``source``, one instruction a line, to stand at offset ``origin``.

    Args:
        source: ``label: mnemonic operand,operand ; comment``, all in lower case.
        origin: offset of the first byte in its segment, 16 bits.
        symbols: constants by name, besides the labels.

    Raises:
        ValueError: naming the line and what is wrong with it.
    """
    lines = list(enumerate(source.splitlines(), 1))
    known = dict(symbols or {})
    sizes: dict[int, int] = {}
    lenient = True  # the first time: no label is known yet
    while True:
        labels: dict[str, int] = {}
        code, final = bytearray(), not lenient
        for number, line in lines:
            try:
                match = _LINE.match(line.strip())
                if match is None:
                    raise ValueError("no label, instruction and comment")
                if name := match["label"]:
                    if name in labels or name in (symbols or {}):
                        raise ValueError(f"{name} is there already")
                    labels[name] = origin + len(code)
                    final &= known.get(name) == labels[name]
                at = origin + len(code)
                made = _line(match["text"], at, known, at if lenient else None, sizes.get(number, 0))
            except ValueError as error:
                raise ValueError(f"line {number}, {line.strip()!r}: {error}") from None
            sizes[number] = len(made)
            code += made
        known |= labels
        if final:
            return Assembly(bytes(code), labels)
        lenient = False


def _line(text: str, at: int, known: dict[str, int], unknown: int | None, least: int) -> bytes:
    """Return the bytes of one line, no fewer than ``least`` where there is a choice: so that sizes only grow."""
    name, _, rest = text.partition(" ")
    if not name:
        return b""
    if name in ("db", "dw"):
        width = 1 if name == "db" else 2
        values = [_value(word, known, unknown) & (1 << 8 * width) - 1 for word in _split(rest)]
        return b"".join(value.to_bytes(width, "little") for value in values)
    prefix = b""
    if name in _REPEATS:
        prefix = bytes((_REPEATS[name],))
        name, _, rest = rest.partition(" ")
    operands = [_operand(word, known, unknown) for word in _split(rest)]
    for operand in operands:
        if isinstance(operand, _Memory) and operand.override is not None:
            prefix = bytes((operand.override,)) + prefix
    made = [prefix + code for code in _encodings(name, operands, at + len(prefix))]
    if not made:
        raise ValueError("no such instruction with these operands")
    return min((code for code in made if len(code) >= least), key=len, default=max(made, key=len))


def _split(rest: str) -> list[str]:
    return [word.strip() for word in rest.split(",")] if rest.strip() else []


def _operand(word: str, known: dict[str, int], unknown: int | None) -> _Operand:
    for registers, width in ((GENERAL, 8), (GENERAL, 16), (SEGMENT, 16)):
        if word in registers.names[width]:
            return _Register(registers, width, registers.names[width].index(word))
    match = _MEMORY.match(word)
    if match is None:
        return _value(word, known, unknown)
    width = {"byte": 8, "word": 16, "dword": 32, None: 0}[match["size"]]
    terms: list[str] = []
    displacement = 0
    for sign, term in re.findall(r"([+-]?)([^+-]+)", match["inside"]):
        if term in GENERAL.names[16]:
            terms.append(term)
        else:
            displacement += _value(term, known, unknown) * (-1 if sign == "-" else 1)
    address = tuple(terms)
    if address and address not in _ADDRESSES:
        raise ValueError(f"{'+'.join(address)} is no 16-bit address")
    override = _OVERRIDES[match["segment"]] if match["segment"] else None
    return _Memory(width, override, address, displacement)


def _value(word: str, known: dict[str, int], unknown: int | None) -> int:
    """Return a number, a symbol, or a sum of them; ``unknown`` stands for labels not seen yet (None: an error)."""
    total = 0
    for sign, term in re.findall(r"([+-]?)([^+-]+)", word):
        if re.fullmatch(r"[a-z_]\w*", term):
            found = known.get(term, unknown)
            if found is None:
                raise ValueError(f"no label {term}")
            value = found
        else:
            value = int(term, 0)
        total += -value if sign == "-" else value
    return total


@cache
def _rows() -> dict[str, list[Row]]:
    """Return the rows by 16-bit mnemonic: those that need no prefix."""
    found: dict[str, list[Row]] = {}
    for row in ROWS:
        if row.map < 2 and row.third < 0 and "NP" in row.prefixes and "undefined" not in row.attributes:
            found.setdefault(row.names[0].lower(), []).append(row)
    return found


def _encodings(name: str, operands: list[_Operand], at: int) -> Iterator[bytes]:
    if name not in _rows():
        raise ValueError(f"no instruction {name!r}")
    for row in _rows()[name]:
        forms = row.forms
        if row.mnemonic in _ACCUMULATOR and forms[0].place is Place.IMPLIED:
            forms = forms[1:]
        if any(form.place in (Place.SOURCE, Place.DESTINATION) for form in forms):
            forms = ()  # a string instruction: its operands are implied
        if len(forms) == len(operands) and (code := _encode(row, forms, operands, at)) is not None:
            yield code


def _encode(row: Row, forms: tuple[OperandForm, ...], operands: list[_Operand], at: int) -> bytes | None:
    """Return the instruction, None where an operand is of another form."""
    opcode, reg, rm, tail = row.opcode, max(row.reg, 0), b"", b""
    # The source has to give a memory operand's size unless a register beside it does.
    sized = any(form.place is Place.REG for form in forms)
    start = (b"\x0f" if row.map == 1 else b"") + bytes((opcode,))
    for form, operand in zip(forms, operands, strict=True):
        match form.place, operand:
            case Place.IMPLIED, _Register() if operand.fits(form) and operand.number == form.number:
                pass
            case Place.IMPLIED, int() if form.registers is None and operand == form.number:
                pass
            case Place.RM, _Memory() if form.memory:
                if form.registers and operand.width != form.width(16, memory=True) and (operand.width or not sized):
                    return None
                rm = _memory(operand)
            case Place.RM, _Register() if operand.fits(form):
                rm = bytes((0xC0 | operand.number,))
            case Place.REG, _Register() if operand.fits(form):
                reg = operand.number
            case Place.OPCODE, _Register() if operand.fits(form):
                start = start[:-1] + bytes((opcode + operand.number,))
            case Place.OFFSET, _Memory() if not operand.registers:
                tail += (operand.displacement & 0xFFFF).to_bytes(2, "little")
            case Place.IMMEDIATE | Place.RELATIVE, int():
                ((size, _), signed), value = form.immediates[0], operand
                if form.place is Place.RELATIVE:
                    value -= at + len(start) + size
                low, high = -(1 << 8 * size - 1), (1 << 8 * size - signed) - 1
                if not low <= value <= high and not (form.place is Place.RELATIVE and size == 2):
                    return None
                tail += (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            case _:
                return None
    if rm:
        rm = bytes((rm[0] | reg << 3,)) + rm[1:]
    return start + rm + tail


def _memory(operand: _Memory) -> bytes:
    """Return ModRM, its reg field still 0, and displacement."""
    displacement = operand.displacement & 0xFFFF
    word = displacement.to_bytes(2, "little")
    if not operand.registers:
        return b"\x06" + word
    rm = _ADDRESSES[operand.registers]
    if not displacement and rm != 6:
        return bytes((rm,))
    if displacement < 0x80 or displacement >= 0xFF80:
        return bytes((0x40 | rm, word[0]))
    return bytes((0x80 | rm,)) + word
