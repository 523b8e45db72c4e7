"""The decoding tables, and the Python decoder.

The native engine prints :func:`leaf_tables` as C arrays and follows the same steps; the Python engine, the disassembler
and tests use :func:`decode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from dm.isa.insn import Variant
from dm.isa.lineage import Lineage
from dm.isa.map.forms import MAPS, PREFIXES, ROWS, VEX_MAPS, Row, select
from dm.machine.state import Seg

#: Longest instruction in bytes; a longer one is #GP(0) (SDM vol. 3A, 6.15, interrupt 13).
LONGEST: Final = 15

SEGMENT_PREFIXES: Final = {0x26: Seg.ES, 0x2E: Seg.CS, 0x36: Seg.SS, 0x3E: Seg.DS, 0x64: Seg.FS, 0x65: Seg.GS}
#: Prefixes that came with the 80386: FS, GS, operand size, address size.
PREFIXES_386: Final = frozenset({0x64, 0x65, 0x66, 0x67})
#: Opcode after 0F -> the map it leads to.
ESCAPES: Final = {0x38: MAPS.index("0F38"), 0x3A: MAPS.index("0F3A")}
#: "No register" for base and index; it reads as zero.
NONE: Final = 8

#: 16-bit addressing: rm -> (base, index) (SDM vol. 2, table 2-1).
_BASE16: Final = ((3, 6), (3, 7), (5, 6), (5, 7), (6, NONE), (7, NONE), (5, NONE), (3, NONE))


class NeedMore(Exception):
    """The bytes given end inside an instruction."""


class TooLong(Exception):
    """The instruction is longer than 15 bytes."""


@dataclass(slots=True)
class Decoded:
    """One decoded instruction; ``row`` None means #UD.  Fields are the operands microcode asks for by name.

    ``opcode`` is the last opcode byte, ``imm2`` is a second immediate, or the register in VEX.vvvv.  Of a memory
    operand ``rm`` is the whole ModRM byte, which microcode asks for as ``modrm``.
    """

    row: Row | None
    variant: Variant
    length: int
    opcode: int = 0
    seg: int = Seg.DS
    reg: int = 0
    rm: int = 0
    base: int = NONE
    index: int = NONE
    scale: int = 0
    disp: int = 0
    imm: int = 0
    imm2: int = 0


@cache
def rows_at(opcode_map: int, opcode: int, lineage: Lineage) -> list[Row]:
    """Return the rows of an opcode on a lineage's processors."""
    return [row for row in ROWS if row.map == opcode_map and row.opcode <= opcode <= row.last and row.on(lineage)]


@cache
def has_modrm(opcode_map: int, opcode: int, lineage: Lineage = Lineage.INTEL) -> bool:
    """Return whether a ModRM byte follows the opcode."""
    return any(row.mod for row in rows_at(opcode_map, opcode, lineage))


@cache
def lookup(opcode_map: int, opcode: int, prefix: str, modrm: int, lineage: Lineage = Lineage.INTEL) -> Row | None:
    """Return the row of the map for an opcode, or None.

    Args:
        opcode_map: index into dm.isa.map.forms.MAPS.
        opcode: last opcode byte.
        prefix: NP, 66, F3 or F2, the mandatory-prefix class.
        modrm: the ModRM byte, any number without one.
        lineage: whose map it is.
    """
    return select(rows_at(opcode_map, opcode, lineage), prefix, modrm)


def variants(row: Row) -> list[Variant]:
    """Return every form of a row that decoding can ask for."""
    forms: list[tuple[int, bool]] = []
    if row.mod in ("rm", "r", "R"):
        forms.append((16, False))
    if row.mod in ("rm", "m"):
        forms += [(16, True), (32, True)]
    if not row.mod:
        forms += [(16, False), (32, False)] if row.addressed else [(16, False)]
    repeats = [""]
    if "rep" in row.attributes:
        repeats.append("rep")
    if "repz" in row.attributes:
        repeats += ["repe", "repne"]
    out = []
    for osize in (16, 32):
        for asize, memory in forms:
            for rep in repeats:
                out.append(Variant(osize, asize, memory, False, rep))
            if "lock" in row.attributes and (memory or row.mod == "R"):
                out.append(Variant(osize, asize, memory, True))
    return out


def leaf_tables() -> tuple[list[tuple[int, bool, bool]], list[int]]:
    """Return the decoder's tables: for each (lineage, map, opcode) ``(leaf, has ModRM, has prefixes)``, and leaves.

    A leaf is 1 + the index into ROWS, 0 for #UD.  With a ModRM byte an opcode has 256 leaves, else one; mandatory
    prefixes make it four times as many, in the order of dm.isa.map.forms.PREFIXES.  Equal stretches are shared.
    """
    number = {id(row): i + 1 for i, row in enumerate(ROWS)}
    tops: list[tuple[int, bool, bool]] = []
    leaves: list[int] = []
    known: dict[tuple[int, ...], int] = {}
    for lineage in Lineage:
        for opcode_map in range(len(MAPS)):
            for opcode in range(256):
                modrm = has_modrm(opcode_map, opcode, lineage)
                prefixed = any(row.prefix for row in rows_at(opcode_map, opcode, lineage))
                stretch: list[int] = []
                for prefix in PREFIXES if prefixed else ("NP",):
                    for byte in range(256 if modrm else 1):
                        row = lookup(opcode_map, opcode, prefix, byte, lineage)
                        stretch.append(number[id(row)] if row else 0)
                key = tuple(stretch)
                if key not in known:
                    known[key] = len(leaves)
                    leaves += stretch
                tops.append((known[key], modrm, prefixed))
    return tops, leaves


def decode(code: bytes, code32: bool, lineage: Lineage = Lineage.INTEL) -> Decoded:
    """Decode the instruction at the start of ``code``.

    Args:
        code: bytes from CS:EIP on, as many as can be fetched, up to 15.
        code32: CS.D, the default operand and address size.
        lineage: whose map it is; what later processors introduced, prefixes included, is #UD.

    Raises:
        NeedMore: ``code`` ends inside the instruction and is shorter than 15 bytes.
        TooLong: 15 bytes are not enough.
    """
    position = 0

    def take(count: int) -> int:
        nonlocal position
        if position + count > len(code):
            raise TooLong if len(code) >= LONGEST else NeedMore
        if position + count > LONGEST:
            raise TooLong
        value = int.from_bytes(code[position : position + count], "little")
        position += count
        return value

    osize66 = asize67 = lock = False
    repeat = 0
    override: int | None = None
    while True:
        byte = take(1)
        if lineage == Lineage.I80286 and byte in PREFIXES_386:
            return Decoded(None, Variant(16, 16, False), position)
        if byte in SEGMENT_PREFIXES:
            override = SEGMENT_PREFIXES[byte]
        elif byte == 0x66:
            osize66 = True
        elif byte == 0x67:
            asize67 = True
        elif byte == 0xF0:
            lock = True
        elif byte in (0xF2, 0xF3):
            repeat = byte
        else:
            break
    osize = 32 if code32 != osize66 else 16
    asize = 32 if code32 != asize67 else 16
    opcode_map, opcode = 0, byte
    if byte == 0x0F:
        opcode_map, opcode = 1, take(1)
        if opcode in ESCAPES and lineage >= Lineage.INTEL:
            opcode_map, opcode = ESCAPES[opcode], take(1)
    prefix = {0xF3: "F3", 0xF2: "F2"}.get(repeat, "66" if osize66 else "NP")
    vvvv = 0
    wrong = False
    if byte == 0xC4 and lineage >= Lineage.INTEL:
        # Outside 64-bit mode R and X are the top bits of what would be a register operand of LES; B and W are ignored,
        # and so is vvvv[3] where vvvv names a register (SDM vol. 2, 2.3; measured).
        first, behind = take(1), position
        selected = VEX_MAPS.get(first & 31, 0) if first >= 0xC0 else 0
        second, third = (take(1), take(1)) if selected else (0, 0)
        if has_modrm(selected, third, lineage) and selected:
            opcode_map, opcode = selected, third
            wrong = osize66 or repeat != 0 or lock or bool(second & 4)
            prefix, vvvv = PREFIXES[second & 3], ~second >> 3 & 15
        else:  # LES, or an instruction of AVX, whose prefix is all that is looked at
            position = behind - 1
    modrm = take(1) if has_modrm(opcode_map, opcode, lineage) else 0
    row = lookup(opcode_map, opcode, prefix, modrm, lineage)
    memory = bool(row and row.mod and row.mod != "R" and modrm < 0xC0)
    found = Decoded(row, Variant(osize, asize if memory or (row and row.addressed) else 16, memory), 0, opcode)
    if row is None:
        found.length = position
        return found
    found.reg, found.rm = modrm >> 3 & 7, modrm if memory else modrm & 7
    if row.plus:
        found.rm = opcode & 7
    if row.register("imm2"):
        found.imm2 = vvvv & 7
    else:
        wrong = wrong or vvvv != 0
    segment = Seg.DS
    if memory:
        mod, rm = modrm >> 6, modrm & 7
        if asize == 16:
            found.base, found.index = _BASE16[rm]
            if mod == 0 and rm == 6:
                found.base, found.disp = NONE, take(2)
            elif mod == 1:
                found.disp = _signed(take(1), 8)
            elif mod == 2:
                found.disp = take(2)
            segment = Seg.SS if found.base == 5 else Seg.DS
        else:
            found.base = rm
            if rm == 4:
                sib = take(1)
                found.base, found.scale = sib & 7, sib >> 6
                found.index = sib >> 3 & 7 if sib >> 3 & 7 != 4 else NONE
            if mod == 0 and found.base == 5:
                found.base, found.disp = NONE, take(4)
            elif mod == 1:
                found.disp = _signed(take(1), 8)
            elif mod == 2:
                found.disp = take(4)
            segment = Seg.SS if found.base in (4, 5) else Seg.DS
    found.seg = segment if override is None else override
    for name, immediate in zip(("imm", "imm2"), row.immediates, strict=False):
        size = immediate.sizes[osize == 32]
        value = take(size)
        setattr(found, name, _signed(value, 8 * size) if immediate.signed else value)
    if "disp" in row.fields:
        found.disp = take(asize // 8)
    found.length = position
    rep = ""
    if repeat and "rep" in row.attributes:
        rep = "rep"
    elif repeat and "repz" in row.attributes:
        rep = "repe" if repeat == 0xF3 else "repne"
    if lock and not ("lock" in row.attributes and (memory or row.mod == "R")):
        # The 80286 takes LOCK before everything (recorded).
        wrong, lock = wrong or lineage != Lineage.I80286, False
    if wrong:
        found.row = None
        return found
    v = found.variant
    found.variant = Variant(v.osize, v.asize, v.memory, lock, rep)
    return found


def _signed(value: int, width: int) -> int:
    """Sign-extend to 32 bits."""
    return (value - (1 << width) if value >> (width - 1) else value) & 0xFFFFFFFF
