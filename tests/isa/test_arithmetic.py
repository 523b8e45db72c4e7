"""ADD ADC SUB SBB CMP INC DEC NEG XADD CMPXCHG CMPXCHG8B ADCX ADOX BOUND."""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

CASES: list[tuple[str, Values, Values]] = [
    # ADD: carries out of bits 3, 7 and into 7
    ("00d8 ; add al,bl", {"al": 0x0F, "bl": 0x01}, {"al": 0x10, "af": 1, "cf": 0, "of": 0, "zf": 0, "sf": 0, "pf": 0}),
    ("00d8 ; add al,bl", {"al": 0xFF, "bl": 0x01}, {"al": 0, "af": 1, "cf": 1, "of": 0, "zf": 1, "sf": 0, "pf": 1}),
    ("00d8 ; add al,bl", {"al": 0x7F, "bl": 0x01}, {"al": 0x80, "af": 1, "cf": 0, "of": 1, "zf": 0, "sf": 1, "pf": 0}),
    ("00d8 ; add al,bl", {"al": 0x80, "bl": 0x80}, {"al": 0, "af": 0, "cf": 1, "of": 1, "zf": 1, "sf": 0, "pf": 1}),
    ("01d8 ; add ax,bx", {"ax": 0x7FFF, "bx": 1}, {"ax": 0x8000, "of": 1, "sf": 1, "cf": 0, "af": 1, "pf": 1}),
    ("6601d8 ; add eax,ebx", {"eax": 0xFFFFFFFF, "ebx": 2}, {"eax": 1, "cf": 1, "of": 0, "af": 1, "zf": 0, "pf": 0}),
    ("83c0ff ; add ax,-1 sign-extended", {"ax": 5}, {"ax": 4, "cf": 1, "af": 1, "of": 0}),
    ("00060010 ; add [1000],al", {"al": 3, 0x1000: b"\xfe"}, {0x1000: b"\x01", "cf": 1, "af": 1, "zf": 0}),
    # ADC, SBB use CF
    ("10d8 ; adc al,bl", {"al": 0xFF, "bl": 0, "cf": 1}, {"al": 0, "cf": 1, "zf": 1, "af": 1, "of": 0}),
    ("10d8 ; adc al,bl", {"al": 0x7F, "bl": 0x7F, "cf": 1}, {"al": 0xFF, "cf": 0, "of": 1, "sf": 1, "af": 1}),
    ("18d8 ; sbb al,bl", {"al": 0, "bl": 0xFF, "cf": 1}, {"al": 0, "cf": 1, "zf": 1, "af": 1, "of": 0}),
    ("18d8 ; sbb al,bl", {"al": 0x80, "bl": 0x7F, "cf": 1}, {"al": 0, "cf": 0, "of": 1, "zf": 1, "af": 1}),
    # SUB, CMP: borrows
    ("28d8 ; sub al,bl", {"al": 0x10, "bl": 0x01}, {"al": 0x0F, "af": 1, "cf": 0, "of": 0, "sf": 0, "pf": 1}),
    ("28d8 ; sub al,bl", {"al": 0, "bl": 1}, {"al": 0xFF, "af": 1, "cf": 1, "of": 0, "sf": 1, "pf": 1}),
    ("28d8 ; sub al,bl", {"al": 0x80, "bl": 1}, {"al": 0x7F, "of": 1, "cf": 0, "af": 1, "sf": 0}),
    ("38d8 ; cmp al,bl", {"al": 3, "bl": 3}, {"zf": 1, "cf": 0, "of": 0, "sf": 0, "pf": 1}),
    ("803e001004 ; cmp byte [1000],4", {0x1000: b"\x03"}, {"cf": 1, "zf": 0, "sf": 1}),
    # INC, DEC keep CF
    ("fec0 ; inc al", {"al": 0xFF, "cf": 0}, {"al": 0, "cf": 0, "zf": 1, "af": 1, "of": 0}),
    ("fec0 ; inc al", {"al": 0x7F, "cf": 1}, {"al": 0x80, "cf": 1, "of": 1, "sf": 1, "af": 1}),
    ("40 ; inc ax", {"eax": 0x1FFFF, "cf": 1}, {"eax": 0x10000, "cf": 1, "zf": 1, "of": 0}),
    ("48 ; dec ax", {"ax": 0x8000, "cf": 1}, {"ax": 0x7FFF, "cf": 1, "of": 1, "sf": 0, "af": 1}),
    ("48 ; dec ax", {"ax": 0, "cf": 0}, {"ax": 0xFFFF, "cf": 0, "of": 0, "sf": 1, "af": 1}),
    ("f6d8 ; neg al", {"al": 0x80}, {"al": 0x80, "cf": 1, "of": 1, "sf": 1, "af": 0}),
    ("f6d8 ; neg al", {"al": 0}, {"al": 0, "cf": 0, "of": 0, "zf": 1, "af": 0}),
    ("f6d8 ; neg al", {"al": 1}, {"al": 0xFF, "cf": 1, "of": 0, "af": 1}),
    # exchanging forms
    ("0fc0d8 ; xadd al,bl", {"al": 1, "bl": 2}, {"al": 3, "bl": 1}),
    ("0fc0c0 ; xadd al,al", {"al": 4}, {"al": 8}),
    ("0fc11e0010 ; xadd [1000],bx", {"bx": 2, 0x1000: b"\xff\xff"}, {"bx": 0xFFFF, 0x1000: b"\x01\x00", "cf": 1}),
    ("0fb0cb ; cmpxchg bl,cl", {"al": 5, "bl": 5, "cl": 9}, {"bl": 9, "zf": 1}),
    ("0fb0cb ; cmpxchg bl,cl", {"al": 4, "bl": 5, "cl": 9}, {"al": 5, "zf": 0, "cf": 1}),
    ("0fc70e0010 ; cmpxchg8b [1000]",
     {"edx": 0x11223344, "eax": 0x55667788, "ecx": 1, "ebx": 2, 0x1000: bytes.fromhex("8877665544332211"), "cf": 1},
     {0x1000: bytes.fromhex("0200000001000000"), "zf": 1, "cf": 1}),
    ("0fc70e0010 ; cmpxchg8b [1000]",
     {"edx": 0, "eax": 0, "zf": 1, "of": 1, "sf": 1, 0x1000: bytes.fromhex("0100000002000000")},
     {"eax": 1, "edx": 2, "zf": 0, "of": 1, "sf": 1}),
    ("62060010 ; bound ax,[1000]", {"ax": 0xFFFF, 0x1000: bytes.fromhex("feff0500")}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


@pytest.mark.parametrize("value", [0xFFFD, 6])
def test_bound_outside(value: int) -> None:
    fails("62060010", 5, "BOUND", {"ax": value, 0x1000: bytes.fromhex("feff0500")})


def test_bound_words_are_two_accesses_that_wrap() -> None:
    execute("6206feff", {"ax": 1, 0xFFFE: b"\x00\x00", 0: b"\x05\x00"})


def test_lock_is_atomic_and_undefined_on_registers() -> None:
    m = execute("f000060010 ; lock add [1000],al", {"al": 1}, {0x1000: b"\x01"})
    assert ("locked", 1) in m.log
    fails("f000d8 ; lock add al,bl", 6, "UNDEFINED")
    fails("f038060010 ; lock cmp [1000],al", 6, "UNDEFINED")


def test_mismatched_cmpxchg_writes_the_old_value_back() -> None:
    m = Machine()
    m.seg.attributes[3] = 0x91
    fails("0fb00e0010 ; cmpxchg [1000],cl", 13, "SEGMENT_READ_ONLY", {"al": 1}, m)


def test_cmpxchg8b_needs_its_feature() -> None:
    m = Machine()
    m.features = 0
    fails("0fc70e0010", 6, "NO_FEATURE", m=m)


def test_adcx_and_adox_have_a_carry_each() -> None:
    m = Machine()
    m.features = (1 << 64) - 1
    execute(
        "660f38f6c3 ; adcx eax,ebx", {"eax": 0xFFFFFFFF, "ebx": 0, "cf": 1, "of": 1}, {"eax": 0, "cf": 1, "of": 1}, m
    )
    m = Machine()
    m.features = (1 << 64) - 1
    after: Values = {"eax": 0xFFFFFFFF, "of": 0, "cf": 1}
    execute("f30f38f6c3 ; adox eax,ebx", {"eax": 0xFFFFFFFE, "ebx": 0, "of": 1, "cf": 1}, after, m)
