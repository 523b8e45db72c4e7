"""DAA DAS AAA AAS AAM AAD."""

from __future__ import annotations

import pytest
from machine import Values, execute, fails

CASES: list[tuple[str, Values, Values]] = [
    ("27 ; daa", {"al": 0xAE}, {"al": 0x14, "cf": 1, "af": 1, "zf": 0, "sf": 0, "pf": 1}),
    ("27 ; daa", {"al": 0x2E, "cf": 1}, {"al": 0x94, "cf": 1, "af": 1}),
    ("27 ; daa", {"al": 0x99, "af": 0, "cf": 0}, {"al": 0x99, "cf": 0, "af": 0}),
    ("27 ; daa", {"al": 0x9A}, {"al": 0, "cf": 1, "af": 1, "zf": 1}),
    ("2f ; das", {"al": 0x35 - 0x47 & 0xFF, "cf": 1, "af": 1}, {"al": 0x88, "cf": 1, "af": 1}),
    ("2f ; das borrows in its first step", {"al": 3, "af": 1, "cf": 0}, {"al": 0xFD, "cf": 1, "af": 1}),
    ("2f ; das", {"al": 0x28, "af": 0, "cf": 0}, {"al": 0x28, "cf": 0, "af": 0}),
    ("37 ; aaa", {"ax": 0x000B}, {"ax": 0x0101, "cf": 1, "af": 1}),
    ("37 ; aaa", {"ax": 0x0279, "af": 0}, {"ax": 0x0209, "cf": 0, "af": 0}),
    ("37 ; aaa carries from AL into AH", {"ax": 0x00FF}, {"ax": 0x0205, "cf": 1, "af": 1}),
    ("3f ; aas", {"ax": 0x02FF}, {"ax": 0x0109, "cf": 1, "af": 1}),
    ("3f ; aas borrows from AL out of AH", {"ax": 0x0203, "af": 1}, {"ax": 0x000D, "cf": 1, "af": 1}),
    ("d40a ; aam", {"ax": 0x003F}, {"ax": 0x0603, "zf": 0, "sf": 0, "pf": 1}),
    ("d410 ; aam 16", {"ax": 0x00F0}, {"ax": 0x0F00, "zf": 1}),
    ("d50a ; aad", {"ax": 0x0603}, {"ax": 0x003F, "zf": 0, "pf": 1}),
    ("d510 ; aad 16", {"ax": 0x1F80}, {"ax": 0x0070}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


def test_aam_zero_is_a_divide_error() -> None:
    fails("d400", 0, "DIVIDE_BY_ZERO", {"ax": 5})


def test_daa_after_every_sum_of_decimals() -> None:
    for a in range(0, 100, 7):
        for b in range(100):
            x, y = int(str(a), 16), int(str(b), 16)
            total = a + b
            af = int((x & 15) + (y & 15) > 15)
            cf = int(x + y > 255)
            execute("27", {"al": x + y & 0xFF, "af": af, "cf": cf}, {"al": int(str(total % 100), 16), "cf": total > 99})
