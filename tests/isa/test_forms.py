"""Every form of every user-level instruction expands, prints, and is a transaction only where it must be."""

from __future__ import annotations

import pytest
from machine import forms

from dm.isa import catalogue
from dm.isa.insn import expand
from dm.isa.map.forms import ROWS
from dm.machine.architecture import CONDITIONS
from dm.microcode.effects import is_transaction
from dm.microcode.print_c import CPrinter, CTarget
from dm.microcode.print_python import PythonPrinter, PythonTarget

#: Owned by the modules of user-level instructions.
MODULES = {
    f"dm.isa.instructions.{name}"
    for name in "arithmetic logic shift multiply bcd bits bmi move stack flow strings io flagops misc fpu".split()
}
NAMES = sorted(name for name, describe in catalogue.DESCRIPTIONS.items() if describe.__module__ in MODULES)

#: Several writes, or one before the last check: nothing else may need the slow way.
TRANSACTIONS = {"PUSHA", "POPA", "ENTER", "FXSAVE", "FXRSTOR"}
#: Loads of segment, control and debug registers decide for themselves.
SYSTEM = {("MOV", form) for form in ("Sw", "Cd", "Dd")} | {("POP", seg) for seg in ("ES", "SS", "DS", "FS", "GS")}


def test_every_row_is_described() -> None:
    assert {row.mnemonic for row in ROWS} - set(catalogue.DESCRIPTIONS) == set()


def test_no_description_without_a_row() -> None:
    assert set(NAMES) - {row.mnemonic for row in ROWS} == set()
    assert {f"{prefix}{cc}" for prefix in ("J", "SET", "CMOV") for cc in CONDITIONS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_forms(name: str) -> None:
    found = forms(name)
    assert found
    for row, variant in found:
        code = expand(row, variant, "form")
        assert CPrinter(CTarget()).function(code).startswith("HANDLER(form)")
        compile(PythonPrinter(PythonTarget()).function(code), row.text, "exec")
        if not any((name, operand) in SYSTEM for operand in row.operands):
            assert is_transaction(code) == (name in TRANSACTIONS), f"{row.text} {variant}"
