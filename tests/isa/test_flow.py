"""JMP Jcc CALL RET LOOP JCXZ."""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

from dm.isa.features import AMD
from dm.machine.state import Seg

CASES: list[tuple[str, Values, Values]] = [
    ("eb10 ; jmp short", {}, {"eip": 0x8012}),
    ("e9fdff ; jmp to itself", {}, {"eip": 0x8000}),
    ("e90080 ; the target wraps at 64 KiB", {}, {"eip": 3}),
    ("ffe3 ; jmp bx", {"ebx": 0x12349000}, {"eip": 0x9000}),
    ("ff260010 ; jmp [1000]", {0x1000: b"\x00\x90"}, {"eip": 0x9000}),
    ("0f840010 ; jz near", {"zf": 1}, {"eip": 0x9004}),
    ("e80010 ; call", {}, {"eip": 0x9003, "sp": 0x6FFE, 0x6FFE: b"\x03\x80"}),
    ("66e800100000 ; call with 32-bit operands", {}, {"eip": 0x9006, "sp": 0x6FFC, 0x6FFC: bytes.fromhex("06800000")}),
    ("ffd4 ; call sp takes the old one", {}, {"eip": 0x7000, "sp": 0x6FFE, 0x6FFE: b"\x02\x80"}),
    ("c3 ; ret", {0x7000: b"\x34\x12"}, {"eip": 0x1234, "sp": 0x7002}),
    ("c20800 ; ret 8", {0x7000: b"\x34\x12"}, {"eip": 0x1234, "sp": 0x700A}),
    ("66c3 ; ret with 32-bit operands", {0x7000: bytes.fromhex("34120000")}, {"eip": 0x1234, "sp": 0x7004}),
    ("e2fe ; loop", {"ecx": 0x10002}, {"cx": 1, "eip": 0x8000}),
    ("e2fe ; loop ends", {"ecx": 0x10001}, {"cx": 0}),
    ("67e2fd ; loop by ecx", {"ecx": 0x10000}, {"ecx": 0xFFFF, "eip": 0x8000}),
    ("e1fe ; loope", {"cx": 2, "zf": 1}, {"cx": 1, "eip": 0x8000}),
    ("e1fe ; loope", {"cx": 2, "zf": 0}, {"cx": 1}),
    ("e0fe ; loopne", {"cx": 2, "zf": 0}, {"cx": 1, "eip": 0x8000}),
    ("e0fe ; loopne", {"cx": 0, "zf": 1}, {"cx": 0xFFFF}),
    ("e310 ; jcxz", {"ecx": 0x10000}, {"eip": 0x8012}),
    ("67e310 ; jecxz", {"ecx": 0x10000}, {}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


@pytest.mark.parametrize(
    ("code", "before"),
    [
        ("eb7f", {}),
        ("747f", {"zf": 1}),
        ("ffe3", {"bx": 0x8050}),
        ("e80001", {}),
        ("c3", {0x7000: b"\x50\x80"}),
        ("e27f", {"cx": 5}),
        ("e37f", {"cx": 0}),
        ("66e900000100", {}),
    ],
)
def test_target_outside_the_code_segment(code: str, before: Values) -> None:
    m = Machine()
    m.seg.limit[Seg.CS] = 0x804F
    m.vendor = AMD  # Intel's CALL leaves its return address in memory (tests/isa/test_vendors.py)
    fails(code, 13, "CS_LIMIT", before, m)


def test_untaken_branch_needs_no_target() -> None:
    m = Machine()
    m.seg.limit[Seg.CS] = 0x804F
    execute("747f", {"zf": 0}, {}, m)


def test_call_checks_the_stack_before_the_target() -> None:
    m = Machine()
    m.seg.limit[Seg.CS] = 0x804F
    fails("e80001", 12, "SS_LIMIT", {"sp": 1}, m)
