"""CLC STC CMC CLD STD CLI STI LAHF SAHF SALC."""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

CASES: list[tuple[str, Values, Values]] = [
    ("f8 ; clc", {"cf": 1, "of": 1, "sf": 1}, {"cf": 0, "of": 1, "sf": 1}),
    ("f9 ; stc", {"cf": 0, "of": 1, "zf": 1}, {"cf": 1, "of": 1, "zf": 1}),
    ("f9 ; stc", {"cf": 0, "of": 0, "af": 1}, {"cf": 1, "of": 0, "af": 1}),
    ("f5 ; cmc", {"cf": 1, "of": 0, "pf": 1}, {"cf": 0, "of": 0, "pf": 1}),
    ("fd ; std", {"df": 0}, {"df": 1}),
    ("fc ; cld", {"df": 1}, {"df": 0}),
    ("9f ; lahf", {"cf": 1, "sf": 1, "zf": 0, "pf": 0, "af": 1}, {"ah": 0x93}),
    ("9e ; sahf", {"ah": 0xFF, "of": 1}, {"sf": 1, "zf": 1, "af": 1, "pf": 1, "cf": 1, "of": 1}),
    ("9e ; sahf", {"ah": 0x2A, "of": 1, "cf": 1}, {"sf": 0, "zf": 0, "af": 0, "pf": 0, "cf": 0, "of": 1}),
    ("d6 ; salc", {"cf": 1}, {"al": 0xFF}),
    ("d6 ; salc", {"cf": 0, "ax": 0x1234}, {"al": 0}),
    ("fa ; cli", {"if": 1}, {"if": 0}),
    ("fb ; sti", {"if": 0}, {"if": 1}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


def test_sti_shadows_only_where_it_opens() -> None:
    assert execute("fb", {"if": 0}, {"if": 1}).shadow_next == 1
    assert execute("fb", {"if": 1}, {"if": 1}).shadow_next == 0
    assert execute("fa", {"if": 1}, {"if": 0}).ended == ("checkpoint",)


@pytest.mark.parametrize("code", ["fa", "fb"])
def test_privilege(code: str) -> None:
    fails(code, 13, "IOPL", m=Machine().protect(3))
    fails(code, 13, "IOPL", m=Machine().virtual_8086())
    value = int(code == "fb")
    execute(code, {"if": 1 - value}, {"if": value}, Machine().protect(3, iopl=3))
    execute(code, {"if": 1 - value}, {"if": value}, Machine().virtual_8086(iopl=3))


@pytest.mark.parametrize("mode", ["vme", "pvi"])
def test_virtual_interrupt_flag(mode: str) -> None:
    def machine() -> Machine:
        m = Machine().virtual_8086() if mode == "vme" else Machine().protect(3)
        m.cr4 = 1 if mode == "vme" else 2
        return m

    assert execute("fb", {"if": 0}, {"vif": 1, "if": 0}, machine()).shadow_next == 0
    execute("fa", {"if": 1, "vif": 1}, {"vif": 0, "if": 1}, machine())
    fails("fb", 13, "VIP", {"vip": 1}, machine())
    execute("fa", {"vip": 1, "vif": 1}, {"vif": 0, "vip": 1}, machine())
