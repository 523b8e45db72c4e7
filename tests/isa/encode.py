"""Instruction bytes for any form of any row of the opcode map, with random operands."""

from __future__ import annotations

import random

from dm.isa.insn import Variant
from dm.isa.lineage import Lineage
from dm.isa.map.decode import NeedMore, TooLong, decode, lookup
from dm.isa.map.forms import MAPS, PREFIXES, VEX_MAPS, Row
from dm.isa.map.operands import Place

_MANDATORY = {"66": b"\x66", "F3": b"\xf3", "F2": b"\xf2"}
_REPEAT = {"rep": b"\xf3", "repe": b"\xf3", "repne": b"\xf2", "": b""}
#: Segment registers that can be loaded without a change of stack or code.
_SEGMENTS = (0, 3, 4, 5)


def home(row: Row) -> Lineage:
    """Return a part that has the row, Intel's newest if it can be."""
    return next(part for part in (Lineage.INTEL, Lineage.AMD, Lineage.I80386, Lineage.I80286) if row.on(part))


def encode(
    row: Row, variant: Variant, code32: bool, rng: random.Random, near: int = 0x200, part: Lineage | None = None
) -> bytes | None:
    """Return an instruction of this form; None when code of this size, or the part, has no such form.

    Displacements and addresses in the instruction are mostly below ``near``; branches go a few bytes on.
    """
    part = home(row) if part is None else part
    mandatory = b"" if row.vex else _MANDATORY.get(row.prefix, b"")
    if "undefined" in row.attributes:
        mandatory = rng.choice((b"", b"", b"\x66", b"\xf3", b"\xf2"))
    prefixes = mandatory + _REPEAT[variant.rep] + b"\xf0" * variant.lock
    if variant.osize != (32 if code32 else 16) and b"\x66" not in prefixes:
        prefixes = b"\x66" + prefixes
    if (variant.memory or row.addressed) and variant.asize != (32 if code32 else 16):
        prefixes = b"\x67" + prefixes
    opcode = row.opcode
    if row.last > opcode:
        choices = [n for n in range(opcode, row.last + 1) if _means(row, n, part)]
        opcode = rng.choice(choices or [opcode])
    escape = vex(row, rng.getrandbits(8)) if row.vex else bytes.fromhex(MAPS[row.map])
    code = prefixes + escape + bytes([opcode])
    if row.third >= 0:
        code += bytes([row.third])
    elif row.mod:
        code += _operand(row, variant, rng, near, opcode, part)
    for form in row.forms:
        if form.immediates or form.place is Place.OFFSET:
            code += _immediate(form.text, variant, rng, near)
    try:
        found = decode(code, code32, part)
    except (NeedMore, TooLong):
        return None
    return code if found.row is row and found.variant == variant and found.length == len(code) else None


def vex(row: Row, ignored: int) -> bytes:
    """Return a VEX prefix; ``ignored`` gives the bits that are, and the register in vvvv where the row has one."""
    vvvv = ignored & 0x78 if row.register("imm2") else 0x78
    first = 0xC0 | ignored << 3 & 0x20 | next(n for n, number in VEX_MAPS.items() if number == row.map)
    return bytes([0xC4, first, ignored & 0x80 | vvvv | PREFIXES.index(row.prefix)])


def _means(row: Row, opcode: int, part: Lineage) -> bool:
    """Whether an opcode, with some prefix and operand, means the row."""
    operands = range(256) if row.mod else (0,)
    return any(lookup(row.map, opcode, prefix, n, part) is row for prefix in PREFIXES for n in operands)


def _operand(row: Row, variant: Variant, rng: random.Random, near: int, opcode: int, part: Lineage) -> bytes:
    """ModRM, SIB and displacement."""
    reg, rm = row.reg, rng.randrange(8)
    if reg < 0:
        reg = rng.randrange(8)
        if "undefined" in row.attributes:
            free = [n for n in range(64) if _falls_to(row, variant, n, opcode, part)]
            reg, rm = divmod(rng.choice(free or [0]), 8)
        elif "Sw" in row.operands:
            reg = rng.choice(_SEGMENTS)
        elif "Cd" in row.operands:
            reg = 0 if variant.lock else rng.choice((0, 2, 3, 4))
        elif "Dd" in row.operands:
            reg = rng.choice((0, 1, 2, 3, 6, 7))
    if not variant.memory:
        return bytes([0xC0 | reg << 3 | rm])
    size = 4 if variant.asize == 32 else 2
    if rng.random() < 0.5:
        return bytes([reg << 3 | (5 if size == 4 else 6)]) + rng.randrange(near).to_bytes(size, "little")
    mod = rng.randrange(3)
    out = bytes([mod << 6 | reg << 3 | rm])
    base = rm
    if size == 4 and rm == 4:
        sib = rng.randrange(256)
        out += bytes([sib])
        base = sib & 7
    if mod == 0 and base == (5 if size == 4 else 6) and (size == 4 or rm == 6):
        return out + rng.randrange(near).to_bytes(size, "little")
    return out + rng.randrange(near).to_bytes(size, "little")[: (0, 1, size)[mod]]


def _falls_to(row: Row, variant: Variant, reg_and_rm: int, opcode: int, part: Lineage) -> bool:
    modrm = (0 if variant.memory else 0xC0) | reg_and_rm
    return any(lookup(row.map, opcode, prefix, modrm, part) is row for prefix in PREFIXES)


def _immediate(form: str, variant: Variant, rng: random.Random, near: int) -> bytes:
    size = variant.osize // 8
    match form:
        case "Ib":
            return bytes([rng.choice((rng.randrange(256), rng.randrange(32), 0, 1, 10))])
        case "Is" | "Jb":
            return bytes([rng.randrange(0x20) if form == "Jb" else rng.randrange(256)])
        case "Iw":
            return rng.randrange(0x40).to_bytes(2, "little")
        case "Iz":
            return rng.randbytes(size)
        case "Jz":
            return rng.randrange(0x40).to_bytes(size, "little")
        case "Ap":
            return rng.randrange(near).to_bytes(size, "little") + rng.choice((15, 23, 0, 8)).to_bytes(2, "little")
        case _:
            return rng.randrange(near).to_bytes(4 if variant.asize == 32 else 2, "little")
