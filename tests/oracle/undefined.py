"""Flags that the manual leaves undefined: opcode, condition, mask, section.  An entry covers only its mask.

Sections are of the SDM, volume 2, "Flags Affected" of the instruction named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from generate import Request, prefix_length

CF, PF, AF, ZF, SF, OF = 0x001, 0x004, 0x010, 0x040, 0x080, 0x800


@dataclass(frozen=True)
class Instruction:
    """The parts of a case that conditions look at: ``opcode`` is 0Fxx for two-byte ones."""

    opcode: int
    reg: int
    osize: int
    count: int  # of a shift, masked to 5 bits

    @classmethod
    def of(cls, r: Request) -> Instruction:
        """Take a request apart."""
        n = prefix_length(r.code)
        osize = 32 if bool(r.code32) != (0x66 in r.code[:n]) else 16
        asize = 32 if bool(r.code32) != (0x67 in r.code[:n]) else 16
        opcode = r.code[n]
        if opcode == 0x0F and n + 1 < len(r.code):
            n += 1
            opcode = 0x0F00 | r.code[n]
        rest = r.code[n + 1 :] + bytes(8)
        modrm = rest[0]
        count = r.gpr[1] & 31
        if opcode in (0xC0, 0xC1, 0x0FA4, 0x0FAC):
            count = rest[_modrm_length(rest, asize)] & 31
        elif opcode in (0xD0, 0xD1):
            count = 1
        return cls(opcode, modrm >> 3 & 7, osize, count)


def _modrm_length(code: bytes, asize: int) -> int:
    mod, rm = code[0] >> 6, code[0] & 7
    if mod == 3:
        return 1
    if asize == 16:
        return 1 + (2 if mod == 2 or (mod == 0 and rm == 6) else mod)
    sib = int(rm == 4)
    if mod == 0:
        return 1 + sib + (4 if rm == 5 or (sib and code[1] & 7 == 5) else 0)
    return 1 + sib + (1 if mod == 1 else 4)


@dataclass(frozen=True)
class Undefined:
    """One entry of the table."""

    section: str
    applies: Callable[[Instruction], bool]
    mask: int


_SHIFTS = (0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3)


def _logic(i: Instruction) -> bool:
    if i.opcode in (0x80, 0x81, 0x82, 0x83):
        return i.reg in (1, 4, 6)
    if i.opcode in (0xF6, 0xF7):
        return i.reg in (0, 1)
    return i.opcode in (0x84, 0x85, 0xA8, 0xA9) or (i.opcode & ~7 in (0x08, 0x20, 0x30) and i.opcode & 7 < 6)


def _width(i: Instruction) -> int:
    return 8 if i.opcode in (0xC0, 0xD0, 0xD2) else i.osize


TABLE: Final = (
    Undefined("AND, OR, XOR, TEST", _logic, AF),
    Undefined("SHL, SHR, SAR", lambda i: i.opcode in _SHIFTS and i.reg >= 4 and i.count > 0, AF),
    Undefined("SHL, SHR, SAR", lambda i: i.opcode in _SHIFTS and i.reg >= 4 and i.count > 1, OF),
    Undefined("SHL, SHR, SAR", lambda i: i.opcode in _SHIFTS and i.reg in (4, 5, 6) and i.count >= _width(i), CF),
    Undefined("RCL, RCR, ROL, ROR", lambda i: i.opcode in _SHIFTS and i.reg < 4 and i.count > 1, OF),
    Undefined("SHLD, SHRD", lambda i: i.opcode in (0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD) and i.count > 0, AF),
    Undefined("SHLD, SHRD", lambda i: i.opcode in (0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD) and i.count > 1, OF),
    Undefined("MUL, IMUL", lambda i: i.opcode in (0xF6, 0xF7) and i.reg in (4, 5), SF | ZF | AF | PF),
    Undefined("IMUL", lambda i: i.opcode in (0x69, 0x6B, 0x0FAF), SF | ZF | AF | PF),
    Undefined("DIV, IDIV", lambda i: i.opcode in (0xF6, 0xF7) and i.reg >= 6, OF | SF | ZF | AF | PF | CF),
    Undefined("DAA, DAS", lambda i: i.opcode in (0x27, 0x2F), OF),
    Undefined("AAA, AAS", lambda i: i.opcode in (0x37, 0x3F), OF | SF | ZF | PF),
    Undefined("AAM, AAD", lambda i: i.opcode in (0xD4, 0xD5), OF | AF | CF),
    Undefined("BT, BTS, BTR, BTC", lambda i: i.opcode in (0x0FA3, 0x0FAB, 0x0FB3, 0x0FBA, 0x0FBB), OF | SF | AF | PF),
    Undefined("BSF, BSR", lambda i: i.opcode in (0x0FBC, 0x0FBD), OF | SF | AF | PF | CF),
)  # fmt: skip


def flags(r: Request) -> int:
    """Return the EFLAGS bits that may be anything after this instruction."""
    instruction = Instruction.of(r)
    mask = 0
    for entry in TABLE:
        if entry.applies(instruction):
            mask |= entry.mask
    return mask


def result(r: Request) -> bool:
    """Return whether the result itself is undefined: SHLD and SHRD of a word by more than 16."""
    i = Instruction.of(r)
    return i.opcode in (0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD) and i.osize == 16 and i.count > 16
