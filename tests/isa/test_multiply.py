"""MUL IMUL DIV IDIV."""

from __future__ import annotations

import pytest
from machine import Values, execute, fails

CASES: list[tuple[str, Values, Values]] = [
    ("f6e3 ; mul bl", {"al": 0x10, "bl": 0x0F, "ah": 7}, {"ax": 0xF0, "cf": 0, "of": 0}),
    ("f6e3 ; mul bl", {"al": 0xFF, "bl": 0xFF}, {"ax": 0xFE01, "cf": 1, "of": 1}),
    ("f7e3 ; mul bx", {"ax": 0x8000, "bx": 2, "dx": 9}, {"ax": 0, "dx": 1, "cf": 1, "of": 1}),
    ("66f7e3 ; mul ebx", {"eax": 0xFFFFFFFF, "ebx": 0xFFFFFFFF}, {"eax": 1, "edx": 0xFFFFFFFE, "cf": 1}),
    ("f6eb ; imul bl", {"al": 0xFF, "bl": 0x02}, {"ax": 0xFFFE, "cf": 0, "of": 0}),
    ("f6eb ; imul bl", {"al": 0x40, "bl": 0x02}, {"ax": 0x80, "cf": 1, "of": 1}),
    ("f7eb ; imul bx", {"ax": 0x8000, "bx": 0x8000}, {"ax": 0, "dx": 0x4000, "cf": 1}),
    ("0fafc3 ; imul ax,bx", {"ax": 0xFFFD, "bx": 5}, {"ax": 0xFFF1, "cf": 0, "of": 0}),
    ("6bc3fe ; imul ax,bx,-2", {"ax": 9, "bx": 0x4001}, {"ax": 0x7FFE, "cf": 1, "of": 1}),
    ("6669c300000100 ; imul eax,ebx,65536", {"ebx": 0x7FFF}, {"eax": 0x7FFF0000, "cf": 0}),
    ("f6f3 ; div bl", {"ax": 0x1FF, "bl": 2}, {"al": 0xFF, "ah": 1}),
    ("f7f3 ; div bx", {"dx": 1, "ax": 3, "bx": 4}, {"ax": 0x4000, "dx": 3}),
    ("66f7f3 ; div ebx", {"edx": 1, "eax": 0, "ebx": 3}, {"eax": 0x55555555, "edx": 1}),
    ("f6fb ; idiv bl", {"ax": 0xFF80, "bl": 1}, {"al": 0x80, "ah": 0}),
    ("f6fb ; idiv bl rounds to zero", {"ax": 0xFFF9, "bl": 2}, {"al": 0xFD, "ah": 0xFF}),
    ("f7fb ; idiv bx", {"dx": 0, "ax": 7, "bx": 0xFFFE}, {"ax": 0xFFFD, "dx": 1}),
    ("66f7fb ; idiv ebx", {"edx": 0xFFFFFFFF, "eax": 0x80000000, "ebx": 1}, {"eax": 0x80000000, "edx": 0}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


@pytest.mark.parametrize(
    ("code", "before", "cause"),
    [
        ("f6f3", {"ax": 1, "bl": 0}, "DIVIDE_BY_ZERO"),
        ("f7fb", {"ax": 1, "bx": 0}, "DIVIDE_BY_ZERO"),
        ("f6f3", {"ax": 0x200, "bl": 2}, "DIVIDE_OVERFLOW"),
        ("66f7f3", {"edx": 3, "eax": 0, "ebx": 3}, "DIVIDE_OVERFLOW"),
        ("f6fb", {"ax": 0x80, "bl": 1}, "DIVIDE_OVERFLOW"),
        ("f6fb", {"ax": 0xFF7F, "bl": 1}, "DIVIDE_OVERFLOW"),
        ("66f7fb", {"edx": 0x80000000, "eax": 0, "ebx": 0xFFFFFFFF}, "DIVIDE_OVERFLOW"),
    ],
)
def test_divide_error(code: str, before: Values, cause: str) -> None:
    fails(code, 0, cause, before)
