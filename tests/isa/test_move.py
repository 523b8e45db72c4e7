"""MOV MOVZX MOVSX MOVBE CMOVcc SETcc XCHG XLAT LEA BSWAP CBW CWD."""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

from dm.machine.architecture import CONDITIONS

CASES: list[tuple[str, Values, Values]] = [
    ("88c4 ; mov ah,al", {"eax": 0x11223344}, {"ah": 0x44}),
    ("89c3 ; mov bx,ax keeps the upper half", {"eax": 0x11112222, "ebx": 0x33334444}, {"ebx": 0x33332222}),
    ("668b1e0010 ; mov ebx,[1000]", {0x1000: bytes.fromhex("78563412")}, {"ebx": 0x12345678}),
    ("a1fe0f ; mov ax,[0ffe]", {0xFFE: b"\x34\x12"}, {"ax": 0x1234}),
    ("26a20010 ; mov es:[1000],al", {"al": 0x5A, "es": 0x100}, {0x2000: b"\x5a"}),
    ("c7069f103412 ; mov word [109f],1234", {}, {0x109F: b"\x34\x12"}),
    ("66bb78563412 ; mov ebx,12345678", {}, {"ebx": 0x12345678}),
    ("8b4102 ; mov ax,[bx+di+2] wraps at 64 KiB", {"bx": 0xFFFF, "di": 3, 4: b"\x11\x22"}, {"ax": 0x2211}),
    ("678b448b04 ; mov ax,[ebx+ecx*4+4]", {"ebx": 0x1000, "ecx": 3, 0x1010: b"\x01\x02"}, {"ax": 0x201}),
    ("8cd8 ; mov ax,ds", {"eax": 0xFFFFFFFF, "ds": 0x1234}, {"ax": 0x1234}),
    ("668cd8 ; mov eax,ds zero-extends", {"eax": 0xFFFFFFFF, "ds": 0x1234}, {"eax": 0x1234}),
    ("668c1e0010 ; mov [1000],ds writes a word", {"es": 3, 0x1000: b"\xff" * 4}, {0x1000: b"\x00\x00\xff\xff"}),
    ("8ed8 ; mov ds,ax", {"ax": 0x1234}, {"ds": 0x1234}),
    ("0fb6c3 ; movzx ax,bl", {"ax": 0xFFFF, "bl": 0x80}, {"ax": 0x80}),
    ("660fb7c3 ; movzx eax,bx", {"eax": 0xFFFFFFFF, "bx": 0x8000}, {"eax": 0x8000}),
    ("660fbec3 ; movsx eax,bl", {"bl": 0x80}, {"eax": 0xFFFFFF80}),
    ("660fbf060010 ; movsx eax,word [1000]", {0x1000: b"\x00\x80"}, {"eax": 0xFFFF8000}),
    ("87d8 ; xchg ax,bx", {"ax": 1, "bx": 2}, {"ax": 2, "bx": 1}),
    ("86c4 ; xchg ah,al", {"ax": 0x1234}, {"ax": 0x3412}),
    ("93 ; xchg ax,bx", {"ax": 1, "bx": 2}, {"ax": 2, "bx": 1}),
    ("90 ; nop", {"eax": 1}, {}),
    ("d7 ; xlat", {"bx": 0xFFF0, "al": 0x20, 0x10: b"\x77"}, {"al": 0x77}),
    ("67d7 ; xlat by ebx", {"ebx": 0xFFF0, "al": 2, 0xFFF2: b"\x77"}, {"al": 0x77}),
    ("36d7 ; xlat ss:", {"ss": 0x100, "bx": 0x10, "al": 1, 0x1011: b"\x78"}, {"al": 0x78}),
    ("8d4001 ; lea ax,[bx+si+1]", {"bx": 0xFFFF, "si": 2}, {"ax": 2}),
    ("668d4001 ; lea eax,[bx+si+1] wraps to 16 bits first", {"eax": 0xFFFFFFFF, "bx": 0xFFFF, "si": 2}, {"eax": 2}),
    ("678d0443 ; lea ax,[ebx+eax*2] is cut", {"ebx": 0x20000, "eax": 4}, {"ax": 8}),
    ("660fcb ; bswap ebx", {"ebx": 0x12345678}, {"ebx": 0x78563412}),
    ("98 ; cbw", {"eax": 0x11112280}, {"ax": 0xFF80}),
    ("6698 ; cwde", {"eax": 0x11118000}, {"eax": 0xFFFF8000}),
    ("99 ; cwd", {"ax": 0x8000, "edx": 0x12340000}, {"dx": 0xFFFF}),
    ("6699 ; cdq", {"eax": 0x7FFFFFFF, "edx": 5}, {"edx": 0}),
]


@pytest.mark.parametrize(("code", "before", "after"), CASES, ids=[case[0] for case in CASES])
def test_case(code: str, before: Values, after: Values) -> None:
    execute(code, before, after)


#: Condition code -> the states of CF PF ZF SF OF in which it holds (SDM vol. 1, table B-1).
HOLDS = {
    "O": lambda f: f["of"], "B": lambda f: f["cf"], "Z": lambda f: f["zf"], "BE": lambda f: f["cf"] or f["zf"],
    "S": lambda f: f["sf"], "P": lambda f: f["pf"], "L": lambda f: f["sf"] != f["of"],
    "LE": lambda f: f["zf"] or f["sf"] != f["of"],
}  # fmt: skip


@pytest.mark.parametrize("code", range(16))
def test_conditions(code: int) -> None:
    positive = HOLDS[CONDITIONS[code & ~1]]
    for state in range(32):
        flags = {name: state >> i & 1 for i, name in enumerate(("cf", "pf", "zf", "sf", "of"))}
        holds = bool(positive(flags)) != bool(code & 1)
        before: Values = {"al": 0x55, "ebx": 1, "ecx": 2, **flags}
        execute(f"0f{0x90 + code:02x}c0", before, {"al": int(holds)})
        execute(f"660f{0x40 + code:02x}d9", before, {"ebx": 2} if holds else {})
        execute(f"{0x70 + code:02x}10", before, {"eip": 0x8012 if holds else 0x8002})


def test_xchg_with_memory_is_always_atomic() -> None:
    m = execute("871e0010 ; xchg [1000],bx", {"bx": 1, 0x1000: b"\x02\x00"}, {"bx": 2, 0x1000: b"\x01\x00"})
    assert ("locked", 2) in m.log


def test_cmov_reads_memory_even_when_it_does_not_move() -> None:
    fails("0f421effff ; cmovb bx,[ffff]", 13, "SEGMENT_LIMIT", {"cf": 0})


@pytest.mark.parametrize("code", ["8cf0", "8cf8", "8ec8", "8ef0", "8ef8"])
def test_segment_numbers_that_name_nothing(code: str) -> None:
    fails(code, 6, "NO_SUCH_SEGMENT")


def test_mov_ss_casts_a_shadow() -> None:
    m = execute("8ed0 ; mov ss,ax", {"ax": 0x100}, {"ss": 0x100})
    assert m.shadow_next == 2
    assert m.ended == ("checkpoint",)


def test_movbe() -> None:
    m = Machine()
    m.features = (1 << 64) - 1
    execute("0f38f0060010 ; movbe ax,[1000]", {0x1000: b"\x12\x34"}, {"ax": 0x1234}, m)
    m = Machine()
    m.features = (1 << 64) - 1
    execute("660f38f1060010 ; movbe [1000],eax", {"eax": 0x12345678}, {0x1000: bytes.fromhex("12345678")}, m)
    fails("0f38f0060010", 6, "NO_FEATURE")
