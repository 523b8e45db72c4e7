"""AND OR XOR NOT TEST."""

from __future__ import annotations

import pytest
from machine import Values, execute

CLEAR: Values = {"cf": 0, "of": 0}

CASES: list[tuple[str, Values, Values]] = [
    ("20d8 ; and al,bl", {"al": 0xF0, "bl": 0x8F, "cf": 1, "of": 1}, {"al": 0x80, "sf": 1, "zf": 0, "pf": 0, **CLEAR}),
    ("21d8 ; and ax,bx", {"ax": 0xF0, "bx": 0xF}, {"ax": 0, "zf": 1, "sf": 0, "pf": 1, **CLEAR}),
    ("83e0f0 ; and ax,-16", {"ax": 0xABCD}, {"ax": 0xABC0, "sf": 1, "pf": 1, **CLEAR}),
    ("660d00000080 ; or eax,80000000", {"eax": 1}, {"eax": 0x80000001, "sf": 1, "pf": 0, **CLEAR}),
    ("30c0 ; xor al,al", {"al": 0x55, "cf": 1}, {"al": 0, "zf": 1, "pf": 1, **CLEAR}),
    ("80360010ff ; xor byte [1000],ff", {0x1000: b"\x0f"}, {0x1000: b"\xf0", "sf": 1, **CLEAR}),
    ("f7d0 ; not ax", {"ax": 0x00FF, "cf": 1, "zf": 1}, {"ax": 0xFF00, "cf": 1, "zf": 1}),
    ("84d8 ; test al,bl", {"al": 0x81, "bl": 0x80, "cf": 1}, {"sf": 1, "zf": 0, **CLEAR}),
    ("f6c801 ; test al,1 in its second encoding", {"al": 2}, {"zf": 1, **CLEAR}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)
