"""Every form of the system families expands, verifies and prints to both languages; so do the engines' procedures."""

from __future__ import annotations

import pytest
from machine import forms

from dm.isa.entries import ENTRIES, INLINE
from dm.isa.insn import expand
from dm.isa.mechanisms import access, boundary, events
from dm.microcode import Procedure
from dm.microcode.effects import effects
from dm.microcode.ir import Block, Call, statements
from dm.microcode.print_c import CPrinter, CTarget
from dm.microcode.print_python import PythonPrinter, PythonTarget

FAMILIES = (
    "MOV LES LDS LSS LFS LGS JMPF CALLF RETF INT INT3 INTO ICEBP IRET LGDT LIDT SGDT SIDT LLDT LTR SLDT STR LAR LSL "
    "VERR VERW ARPL SMSW LMSW CLTS INVLPG HLT INVD WBINVD CLAC STAC XGETBV XSETBV RDMSR WRMSR SYSENTER SYSEXIT "
    "SYSCALL SYSRET"
).split()

ENTRY_POINTS = (*ENTRIES, *INLINE)


def prints(code) -> None:
    text = PythonPrinter(PythonTarget()).function(code)
    compile(text, code.name, "exec")
    c = CPrinter(CTarget()).function(code)
    assert c.count("{") == c.count("}")
    assert c.count("(") == c.count(")")


@pytest.mark.parametrize("name", FAMILIES)
def test_instruction(name):
    found = forms(name)
    assert found
    for row, variant in found:
        prints(expand(row, variant, "insn"))


def called(block: Block) -> set[Procedure]:
    return {s.target for s in statements(block) if isinstance(s, Call) and isinstance(s.target, Procedure)}


@pytest.mark.parametrize("procedure", ENTRY_POINTS, ids=lambda procedure: procedure.name)
def test_procedure(procedure):
    todo, done = {procedure}, set()
    while todo:
        one = todo.pop()
        done.add(one)
        prints(one.code)
        todo |= called(one.code.root) - done


def test_the_engines_find_each_by_one_name():
    assert len({entry.name for entry in ENTRY_POINTS}) == len(ENTRY_POINTS)


@pytest.mark.parametrize("procedure", INLINE, ids=lambda procedure: procedure.name)
def test_what_stands_in_a_header_only_computes(procedure):
    assert not effects(procedure).aborts
    assert called(procedure.code.root) <= set(INLINE)


@pytest.mark.parametrize("name", ["LES", "LDS", "LLDT", "LTR", "MOV"])
def test_check_then_commit(name):
    """Segment loads need no transaction: everything that can fail comes before the first change."""
    for row, variant in forms(name):
        assert not effects(expand(row, variant, "insn")).late_abort, (row.text, variant)


@pytest.mark.parametrize("procedure", [access.segment_check, events.raise_exception, boundary.boundary])
def test_no_late_abort(procedure):
    assert not effects(procedure).late_abort
