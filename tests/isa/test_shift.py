"""ROL ROR RCL RCR SHL SHR SAR SHLD SHRD."""

from __future__ import annotations

import pytest
from machine import Values, execute

CASES: list[tuple[str, Values, Values]] = [
    ("d0c0 ; rol al,1", {"al": 0x80, "zf": 1, "sf": 1}, {"al": 1, "cf": 1, "of": 1, "zf": 1, "sf": 1}),
    ("d2c0 ; rol al,cl: a whole turn still sets CF", {"al": 1, "cl": 8, "cf": 0}, {"al": 1, "cf": 1}),
    ("c0c004 ; rol al,4", {"al": 0x1F}, {"al": 0xF1, "cf": 1}),
    ("d0c8 ; ror al,1", {"al": 1}, {"al": 0x80, "cf": 1, "of": 1}),
    ("66c1c808 ; ror eax,8", {"eax": 0x12345678}, {"eax": 0x78123456, "cf": 0}),
    ("d0d0 ; rcl al,1", {"al": 0x80, "cf": 0}, {"al": 0, "cf": 1, "of": 1}),
    ("d0d0 ; rcl al,1", {"al": 0x80, "cf": 1}, {"al": 1, "cf": 1, "of": 1}),
    ("c0d009 ; rcl al,9: a whole turn", {"al": 0x5A, "cf": 1}, {"al": 0x5A, "cf": 1}),
    ("c1d011 ; rcl ax,17: a whole turn", {"ax": 0x1234, "cf": 0}, {"ax": 0x1234, "cf": 0}),
    ("c1d012 ; rcl ax,18", {"ax": 0x8000, "cf": 1}, {"ax": 1, "cf": 1}),
    ("66c1d01f ; rcl eax,31", {"eax": 2, "cf": 1}, {"eax": 0x40000000, "cf": 1}),
    ("d0d8 ; rcr al,1", {"al": 1, "cf": 1}, {"al": 0x80, "cf": 1, "of": 1}),
    ("66c1d81f ; rcr eax,31", {"eax": 0x40000000, "cf": 1}, {"eax": 2, "cf": 1}),
    ("d0e0 ; shl al,1", {"al": 0x41}, {"al": 0x82, "cf": 0, "of": 1, "sf": 1, "zf": 0}),
    ("c0e008 ; shl al,8", {"al": 1}, {"al": 0, "cf": 1, "zf": 1}),
    ("c0e009 ; shl al,9", {"al": 0xFF}, {"al": 0, "cf": 0, "zf": 1}),
    ("c0f001 ; the other encoding of shl", {"al": 0x81}, {"al": 2, "cf": 1, "of": 1}),
    ("66c1e01f ; shl eax,31", {"eax": 3}, {"eax": 0x80000000, "cf": 1, "of": 0}),
    ("d0e8 ; shr al,1", {"al": 0x81}, {"al": 0x40, "cf": 1, "of": 1, "sf": 0}),
    ("c1e810 ; shr ax,16", {"ax": 0x8000}, {"ax": 0, "cf": 1, "zf": 1}),
    ("d0f8 ; sar al,1", {"al": 0x81}, {"al": 0xC0, "cf": 1, "of": 0, "sf": 1}),
    ("c1f81f ; sar ax,31", {"ax": 0x8000}, {"ax": 0xFFFF, "cf": 1, "sf": 1}),
    ("0fa4d804 ; shld ax,bx,4", {"ax": 0x1234, "bx": 0xF000}, {"ax": 0x234F, "cf": 1}),
    ("660fa4d81f ; shld eax,ebx,31", {"eax": 3, "ebx": 2}, {"eax": 0x80000001, "cf": 1}),
    ("0facd804 ; shrd ax,bx,4", {"ax": 0x1234, "bx": 0xF}, {"ax": 0xF123, "cf": 0, "of": 1}),
    ("660fadd8 ; shrd eax,ebx,cl", {"eax": 0x18, "ebx": 1, "cl": 4}, {"eax": 0x10000001, "cf": 1}),
    ("d126 0010 ; shl word [1000],1", {0x1000: b"\x00\x80"}, {0x1000: b"\x00\x00", "cf": 1, "zf": 1}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


@pytest.mark.parametrize("group", range(8))
@pytest.mark.parametrize("count", [0, 32, 64])
def test_count_of_zero_changes_no_flag(group: int, count: int) -> None:
    for word in (0, 0x8D5):
        flags: Values = {name: word >> bit & 1 for name, bit in
                         {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "of": 11}.items()}  # fmt: skip
        execute(f"d2{0xC3 | group << 3:02x}", {"bl": 0x85, "cl": count, **flags}, flags)


def rotate_through_carry(value: int, carry: int, width: int, count: int, left: bool) -> tuple[int, int]:
    """One step at a time, as the manual's loop does."""
    for _ in range(count):
        if left:
            value, carry = (value << 1 | carry) & (1 << width) - 1, value >> width - 1
        else:
            value, carry = value >> 1 | carry << width - 1, value & 1
    return value, carry


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(("width", "code"), [(8, "c0{}"), (16, "c1{}"), (32, "66c1{}")])
def test_rotating_through_carry_is_exact_for_every_count(width: int, code: str, left: bool) -> None:
    pattern = 0x9E3779B1 & (1 << width) - 1
    for count in range(1, 32):
        turns = count % (width + 1) if width < 32 else count
        value, carry = rotate_through_carry(pattern, 1, width, turns, left)
        text = code.format("d3" if left else "db") + f"{count:02x}"
        name = {8: "bl", 16: "bx", 32: "ebx"}[width]
        expected: Values = {name: value, "cf": carry}
        if count == 1:
            expected["of"] = (value >> width - 1 ^ (carry if left else value >> width - 2)) & 1
        execute(text, {name: pattern, "cf": 1}, expected)
