"""MOVS CMPS SCAS LODS STOS INS OUTS."""

from __future__ import annotations

import pytest
from machine import Fault, Machine, Values, execute, fails

CASES: list[tuple[str, Values, Values]] = [
    ("a4 ; movsb", {"si": 0x1000, "di": 0x2000, 0x1000: b"A"}, {"si": 0x1001, "di": 0x2001, 0x2000: b"A"}),
    ("a5 ; movsw down", {"si": 0x1000, "di": 0x2000, "df": 1, 0x1000: b"AB"},
     {"si": 0xFFE, "di": 0x1FFE, 0x2000: b"AB"}),
    ("2ea4 ; movsb cs: overrides the source only",
     {"cs": 0x10, "es": 0x20, "si": 0x1000, "di": 0x2000, 0x1100: b"A"},
     {"si": 0x1001, "di": 0x2001, 0x2200: b"A"}),
    ("f3a4 ; rep movsb", {"ecx": 0x10003, "si": 0x1000, "di": 0x2000, 0x1000: b"ABC"},
     {"ecx": 0x10000, "si": 0x1003, "di": 0x2003, 0x2000: b"ABC"}),
    ("f2a4 ; repne on movs is rep", {"cx": 2, "si": 0x1000, "di": 0x2000, 0x1000: b"AB"},
     {"cx": 0, "si": 0x1002, "di": 0x2002, 0x2000: b"AB"}),
    ("f3a4 ; rep movsb, count 0", {"ecx": 0x10000, "si": 0x1000, "di": 0x2000, 0x1000: b"ABC"}, {}),
    ("f3a4 ; rep movsb overlapping fills", {"cx": 3, "si": 0x1000, "di": 0x1001, 0x1000: b"ABCD"},
     {"cx": 0, "si": 0x1003, "di": 0x1004, 0x1000: b"AAAA"}),
    ("67f3a4 ; by ecx, esi, edi", {"ecx": 2, "esi": 0xFFFE, "edi": 0x2000, 0xFFFE: b"AB"},
     {"ecx": 0, "esi": 0x10000, "edi": 0x2002, 0x2000: b"AB"}),
    ("a4 ; indexes wrap", {"esi": 0x1FFFF, "di": 0x2000, 0xFFFF: b"A"}, {"esi": 0x10000, "di": 0x2001, 0x2000: b"A"}),
    ("f366ab ; rep stosd", {"cx": 2, "eax": 0x44332211, "di": 0x2000},
     {"cx": 0, "di": 0x2008, 0x2000: bytes.fromhex("1122334411223344")}),
    ("ac ; lodsb", {"si": 0x1000, 0x1000: b"A"}, {"al": 0x41, "si": 0x1001}),
    ("a6 ; cmpsb", {"si": 0x1000, "di": 0x2000, 0x1000: b"A", 0x2000: b"B"},
     {"si": 0x1001, "di": 0x2001, "cf": 1, "zf": 0}),
    ("f3a6 ; repe cmpsb stops at the difference",
     {"cx": 4, "si": 0x1000, "di": 0x2000, 0x1000: b"ABCD", 0x2000: b"ABXD"},
     {"cx": 1, "si": 0x1003, "di": 0x2003, "zf": 0, "cf": 1}),
    ("f3a6 ; repe cmpsb, all equal", {"cx": 2, "si": 0x1000, "di": 0x2000, 0x1000: b"AB", 0x2000: b"AB"},
     {"cx": 0, "si": 0x1002, "di": 0x2002, "zf": 1}),
    ("f3a6 ; repe cmpsb, count 0 keeps the flags", {"cx": 0, "zf": 0, "cf": 1}, {"zf": 0, "cf": 1}),
    ("f2ae ; repne scasb finds", {"cx": 9, "al": 0x43, "di": 0x2000, 0x2000: b"ABCD"},
     {"cx": 6, "di": 0x2003, "zf": 1}),
    ("af ; scasw", {"ax": 0x4241, "di": 0x2000, 0x2000: b"AB"}, {"di": 0x2002, "zf": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


def test_a_fault_keeps_the_iterations_before_it() -> None:
    m = Machine()
    m["cx"], m["di"], m["al"] = 4, 0xFFFD, 0x41
    m.seg.limit[0] = 0xFFFE
    with pytest.raises(Fault, match="SEGMENT_LIMIT"):
        m.run(bytes.fromhex("f3aa"))
    assert (m["cx"], m["di"], m.memory[0xFFFD:0x10000]) == (2, 0xFFFF, b"AA\0")
    assert m.eip == 0x8000


def test_every_iteration_is_a_boundary() -> None:
    m = Machine()
    m["cx"], m["di"] = 2, 0x2000
    m.step(bytes.fromhex("f3aa"))
    assert (m.ended, m.eip, m["cx"]) == (("repeat", 1), 0x8000, 1)
    m.step(bytes.fromhex("f3aa"))
    assert (m.ended, m.eip, m["cx"]) == (("next",), 0x8002, 0)


def test_cmps_faults_on_the_destination_first() -> None:
    m = Machine()
    m.seg.limit[0] = m.seg.limit[2] = 0xFFF
    fails("36a6 ; cmpsb ss:", 13, "SEGMENT_LIMIT", {"si": 0x1000, "di": 0x1000}, m)


def test_ins_and_outs() -> None:
    m = Machine()
    m.ports = [0x41]
    execute("6c ; insb", {"dx": 0x60, "di": 0x2000}, {"di": 0x2001, 0x2000: b"A"}, m)
    m = Machine()
    m.ports = [0x4241, 0x4443, 0x4645]
    m = execute("f36d ; rep insw", {"dx": 0x1F0, "cx": 3, "di": 0x2000}, {"cx": 0, "di": 0x2006, 0x2000: b"ABCDEF"}, m)
    assert m.log == [("in", 0x1F0, 2, 2), ("in", 0x1F0, 2, 1)]
    m = execute("f32e6e ; rep outsb cs:", {"dx": 0x60, "cx": 3, "si": 0x1000, 0x1000: b"ABC"}, {"cx": 0, "si": 0x1003})
    assert m.log == [("out", 0x60, 1, value) for value in b"ABC"]
    m = execute("6f ; outsw, down", {"dx": 0x60, "si": 0x1000, "df": 1, 0x1000: b"AB"}, {"si": 0xFFE})
    assert m.log == [("out", 0x60, 2, 0x4241)]


def test_ins_does_not_ask_for_what_it_cannot_store() -> None:
    m = Machine()
    fails("6d ; insw", 13, "SEGMENT_LIMIT", {"dx": 0x60, "di": 0xFFFF}, m)
    assert m.log == []


def test_ins_needs_permission_even_for_nothing() -> None:
    fails("f36c ; rep insb", 13, "IO_MAP_LIMIT", {"dx": 0x60, "ecx": 0}, Machine().protect(3))
