"""BT BTS BTR BTC BSF BSR TZCNT LZCNT POPCNT CRC32."""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

CASES: list[tuple[str, Values, Values]] = [
    ("0fa3d8 ; bt ax,bx", {"ax": 0x8000, "bx": 0x1F, "zf": 1}, {"cf": 1, "zf": 1}),
    ("0fbae010 ; bt ax,16 is bit 0", {"ax": 2, "cf": 1}, {"cf": 0}),
    ("0fabd8 ; bts ax,bx", {"ax": 0, "bx": 4, "cf": 1}, {"ax": 16, "cf": 0}),
    ("660fbaf01f ; btr eax,31", {"eax": 0xFFFFFFFF}, {"eax": 0x7FFFFFFF, "cf": 1}),
    ("0fbaf801 ; btc ax,1", {"ax": 2}, {"ax": 0, "cf": 1}),
    # a register index reaches beyond the operand, in both directions
    ("0fa31e0010 ; bt [1000],bx", {"bx": 35, 0x1004: b"\x08"}, {"cf": 1}),
    ("0fab1e0010 ; bts [1000],bx", {"bx": 0xFFFF}, {0xFFF: b"\x80", "cf": 0}),
    ("660fab1e0010 ; bts [1000],ebx", {"ebx": 0xFFFFFFE0}, {0xFFC: b"\x01", "cf": 0}),
    ("0fbb1e0010 ; btc [1000],bx", {"bx": 0x7FFF, 0x1FFE: b"\x00\x80"}, {0x1FFE: b"\x00\x00", "cf": 1}),
    ("0fab1e0200 ; bts [2],bx wraps at 64 KiB", {"bx": 0xFFD0}, {0xFFFC: b"\x01", "cf": 0}),
    ("0fba2e001011 ; bts [1000],17 stays in the operand", {}, {0x1000: b"\x02", "cf": 0}),
    ("0fbcc3 ; bsf ax,bx", {"ax": 0, "bx": 0x50}, {"ax": 4, "zf": 0}),
    ("0fbcc3 ; bsf ax,bx of 0", {"ax": 7, "bx": 0}, {"zf": 1}),
    ("660fbdc3 ; bsr eax,ebx", {"ebx": 0x40000001}, {"eax": 30, "zf": 0}),
    ("f30fbcc3 ; tzcnt without BMI1 is bsf", {"ax": 7, "bx": 0}, {"zf": 1}),
    ("f30fbdc3 ; lzcnt without its feature is bsr", {"bx": 0x10}, {"ax": 4, "zf": 0}),
]

WITH_FEATURES: list[tuple[str, Values, Values]] = [
    ("f30fbcc3 ; tzcnt ax,bx", {"ax": 7, "bx": 0}, {"ax": 16, "cf": 1, "zf": 0}),
    ("f30fbcc3 ; tzcnt ax,bx", {"bx": 1}, {"ax": 0, "cf": 0, "zf": 1}),
    ("f30fbdc3 ; lzcnt ax,bx", {"bx": 0x10}, {"ax": 11, "cf": 0, "zf": 0}),
    ("f3660fbdc3 ; lzcnt eax,ebx", {"ebx": 0}, {"eax": 32, "cf": 1, "zf": 0}),
    ("f30fb8c3 ; popcnt ax,bx", {"bx": 0x8001, "cf": 1, "of": 1, "sf": 1},
     {"ax": 2, "cf": 0, "of": 0, "sf": 0, "zf": 0, "pf": 0}),
    ("f30fb8c3 ; popcnt ax,bx", {"bx": 0}, {"ax": 0, "zf": 1, "pf": 0}),
    ("f20f38f0c3 ; crc32 eax,bl", {"eax": 0xFFFFFFFF, "bl": 0x61}, {"eax": 0xC1D04330 ^ 0xFFFFFFFF}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


@pytest.mark.parametrize(("code", "before", "after"), WITH_FEATURES, ids=[case[0] for case in WITH_FEATURES])
def test_with_features(code: str, before: Values, after: Values) -> None:
    m = Machine()
    m.features = (1 << 64) - 1
    execute(code, before, after, m)


def test_crc32_check_value() -> None:
    """The check value of CRC-32C: of "123456789" it is E3069283h."""
    m = Machine()
    m.features = (1 << 64) - 1
    m["eax"] = 0xFFFFFFFF
    word, byte = "f20f38f1c3", "f20f38f0c3"
    for code, name, text in (
        ("66" + word, "ebx", b"1234"),
        (word, "bx", b"56"),
        (word, "bx", b"78"),
        (byte, "bl", b"9"),
    ):
        m[name] = int.from_bytes(text, "little")
        m.run(bytes.fromhex(code))
    assert m["eax"] ^ 0xFFFFFFFF == 0xE3069283


def test_popcnt_needs_its_feature() -> None:
    fails("f30fb8c3", 6, "NO_FEATURE")
