"""Operand forms and the rows they stand in: widths, places, and which of several rows takes which bytes."""

from __future__ import annotations

import pytest

from dm.isa.insn import Insn, Variant
from dm.isa.map import opcodes
from dm.isa.map.decode import decode, has_modrm, lookup
from dm.isa.map.forms import MAPS, PREFIXES, ROWS, parse, read, select
from dm.isa.map.operands import GENERAL, LETTERS, MMX, TYPES, VECTOR, X87, Place, operand_form
from dm.microcode import Value
from dm.microcode.uses import uses


@pytest.mark.parametrize(
    ("text", "place", "registers", "register", "memory"),
    [
        ("Eb", Place.RM, GENERAL, (8, 8), (8, 8)),
        ("Ev", Place.RM, GENERAL, (16, 32), (16, 32)),
        ("Gy", Place.REG, GENERAL, (32, 32), (32, 32)),
        ("Zv", Place.OPCODE, GENERAL, (16, 32), (16, 32)),
        ("Rv/Mw", Place.RM, GENERAL, (16, 32), (16, 16)),
        ("Ry/Mb", Place.RM, GENERAL, (32, 32), (8, 8)),
        ("Pq", Place.REG, MMX, (64, 64), (64, 64)),
        ("Qd", Place.RM, MMX, (64, 64), (32, 32)),
        ("Nq", Place.RM, MMX, (64, 64), (64, 64)),
        ("Vss", Place.REG, VECTOR, (128, 128), (32, 32)),
        ("Wsd", Place.RM, VECTOR, (128, 128), (64, 64)),
        ("Wdq", Place.RM, VECTOR, (128, 128), (128, 128)),
        ("Wqq", Place.RM, VECTOR, (256, 256), (256, 256)),
        ("Hx", Place.VVVV, VECTOR, (128, 128), (128, 128)),
        ("ST(i)", Place.RM, X87, (80, 80), (80, 80)),
        ("Msr", Place.RM, None, (32, 32), (32, 32)),
        ("Mer", Place.RM, None, (80, 80), (80, 80)),
        ("Mbcd", Place.RM, None, (80, 80), (80, 80)),
        ("Me", Place.RM, None, (14 * 8, 28 * 8), (14 * 8, 28 * 8)),
        ("Mst", Place.RM, None, (94 * 8, 108 * 8), (94 * 8, 108 * 8)),
        ("Mstx", Place.RM, None, (512 * 8, 512 * 8), (512 * 8, 512 * 8)),
        ("Mp", Place.RM, None, (32, 48), (32, 48)),
    ],
)
def test_widths(text: str, place: Place, registers: object, register: tuple[int, int], memory: tuple[int, int]) -> None:
    form = operand_form(text)
    assert (form.place, form.registers) == (place, registers)
    assert (form.width(16), form.width(32)) == register
    assert (form.width(16, memory=True), form.width(32, memory=True)) == memory


@pytest.mark.parametrize("text", ["K", "Kb", "Ef", "Jv", "Iq", "ST(1)", "", "Ev/", "eBX"])
def test_unknown_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unknown operand form"):
        operand_form(text)


def test_every_letter_and_type_is_used_or_of_avx() -> None:
    used = [text for row in ROWS for operand in row.operands for text in operand.split("/")]
    assert {text[0] for text in used} >= set(LETTERS) - {"H"}
    assert {text[1:] for text in used} >= set(TYPES) - {"qq", "x"}


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("C8         ENTER Iw,Ib", ("imm", "imm2")),
        ("9A         CALLF Ap", ("imm",)),
        ("A0         MOV AL,Ob", ("", "disp")),
        ("F2 0F 78 /r INSERTQ Vdq,Udq,Ib,Ib", ("reg", "rm", "imm", "imm2")),
        ("VEX NP 0F 38 F2 /r ANDN Gd,Bd,Ed", ("reg", "imm2", "rm")),
        ("DC /0      FADD ST(i),ST(0)", ("rm", "")),
        ("A4         MOVSB Yb,Xb", ("", "")),
        ("8D /r      LEA Gv,M", ("reg", "")),
    ],
)
def test_fields(line: str, fields: tuple[str, ...]) -> None:
    assert parse(line).fields == fields


def test_two_immediates_are_decoded_apart() -> None:
    code = bytes.fromhex("f20f78ca1122")
    found = decode(code, False)
    assert found.row is not None
    assert (found.row.mnemonic, found.imm, found.imm2, found.length) == ("INSERTQ", 0x11, 0x22, 6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("D8 /0      FADD Msr", "D8 /0      FADD E"),
        ("0F BC /r   BSF Gv,Ev", "F3 0F BC /r TZCNT Gv,Ev"),
        ("90         NOP", "90+r       XCHG Zv,eAX"),
        ("NP 0F 60-6B /r PUNPCKLBW Pq,Qd", "NFx 0F 62 /r PUNPCKLDQ Pq,Qd"),
        ("0F 01 C8   MONITOR", "0F 01 /1   SIDT E"),
        ("0F 05      LOADALL ; since:2 until:2", "0F 05      SYSCALL ; since:2"),
        ("62 /r      UD E ; undefined", "62 /0      UD E ; undefined"),
    ],
)
def test_two_rows_for_the_same_bytes_are_refused_with_both_named(first: str, second: str) -> None:
    with pytest.raises(ValueError, match="take the same bytes") as refused:
        read(f"{first}\n{second}\n")
    for line in (first, second):
        assert f"'{parse(line)}'" in str(refused.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("D8 /0      FADD Msr", "D8 /0      FADD ST(0),ST(i)"),
        ("0F BC /r   BSF Gv,Ev ; fallback", "F3 0F BC /r TZCNT Gv,Ev"),
        ("NP 0F 60 /r PUNPCKLBW Pq,Qd", "66 0F 60 /r PUNPCKLBW Vdq,Wdq"),
        ("0F 05      LOADALL ; since:2 until:2", "0F 05      SYSCALL"),
        ("0F FF /r   UD0 Gv,Ev ; intel", "0F FF      UD0 ; amd"),
        ("62 /r      BOUND Gv,Ma", "62 /r      UD E ; undefined"),
    ],
)
def test_rows_that_part_their_bytes_are_taken(first: str, second: str) -> None:
    assert len(read(f"{first}\n{second}\n")) == 2


def test_a_row_with_a_modrm_byte_and_one_without_are_refused() -> None:
    with pytest.raises(ValueError, match="'0F 77 EMMS' or '66 0F 77 /r PMADDWD Pq,Qq' has a ModRM byte"):
        read("0F 77      EMMS\n66 0F 77 /r PMADDWD Pq,Qq\n")


def test_a_listed_prefix_hides_nothing() -> None:
    """With any one row left out, bytes that it does not take mean what they meant."""
    checked = 0
    for number in range(len(MAPS)):
        for opcode in range(256):
            rows = [row for row in ROWS if row.map == number and row.opcode <= opcode <= row.last]
            for row in (row for row in rows if row.prefix):
                rest = [other for other in rows if other is not row]
                for prefix in set(PREFIXES) - set(row.prefixes):
                    for modrm in (0x00, 0x3F, 0xC0, 0xD1, 0xE8, 0xFF) if has_modrm(number, opcode) else (0,):
                        checked += 1
                        assert select(rest, prefix, modrm) is select(rows, prefix, modrm), (row, prefix, hex(modrm))
    assert checked > 5000


def test_every_simd_opcode_has_a_row_for_each_prefix_of_the_manual() -> None:
    for line in opcodes.SIMD.splitlines():
        row = parse(line) if line else None
        assert row is None or row.prefix or "amd" in row.attributes, line
    names = {prefix: getattr(lookup(1, 0x58, prefix, 0xC0), "mnemonic", "") for prefix in PREFIXES}
    assert names == {"NP": "ADDPS", "66": "ADDPD", "F3": "ADDSS", "F2": "ADDSD"}


def test_what_code_computes_with_is_known_apart_from_the_registers_it_indexes() -> None:
    """Native records hold the byte of a byte register, not its number: nothing may compute with that."""
    x = Insn(parse("88 /r      MOV Eb,Gb"), Variant(16, 16, memory=False), "form")
    dst, src = (x.operand(form, field) for form, field in zip(x.row.forms, x.row.fields, strict=True))
    dst.write(src.read())
    assert uses(x.m).operands == set()
    number: Value = x.m.argument("rm", 8)
    dst.write(number)
    assert uses(x.m).operands == {"rm"}
