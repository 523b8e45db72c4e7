"""Who may use x87, MMX and SSE, and the x87 control instructions."""

from __future__ import annotations

import itertools

import pytest
from machine import Fault, Machine, Unsupported, execute, fails, forms

from dm.isa import features
from dm.isa.insn import Variant
from dm.isa.lineage import lineage
from dm.isa.map import coverage
from dm.isa.map.coverage import form_name
from dm.isa.map.decode import lookup
from dm.isa.map.forms import Row
from dm.machine.state import Seg

EM, TS, MP, NE = 4, 8, 2, 0x20


def machine(cr0: int = 0, cr4: int = 0, status: int = 0, control: int = 0x37F) -> Machine:
    m = Machine()
    m.cr0, m.cr4 = cr0, cr4
    m.features = ((1 << 64) - 1) & ~features.bits("zero_fcs_fds")
    m.fxsave[0:4] = control.to_bytes(2, "little") + status.to_bytes(2, "little")
    return m


@pytest.mark.parametrize("code", ["d8c0", "d93e0010", "dbe3", "dfe0"])
@pytest.mark.parametrize("cr0", [EM, TS])
def test_not_available(code: str, cr0: int) -> None:
    fails(code, 7, "NO_X87", m=machine(cr0))


def test_fwait() -> None:
    execute("9b", m=machine(TS))
    execute("9b", m=machine(MP))
    fails("9b", 7, "NO_X87", m=machine(MP | TS))
    fails("9b", 16, "X87_PENDING", m=machine(NE, status=0x80))
    with pytest.raises(Unsupported, match="FERR"):
        machine(status=0x80).run(b"\x9b")


def test_status_and_control_words() -> None:
    m = machine(status=0x3881, control=0x1234)
    execute("dfe0 ; fnstsw ax", {}, {"ax": 0x3881}, m)
    m = machine(status=0x3881, control=0x1234)
    execute("dd3e0010 ; fnstsw [1000]", {}, {0x1000: b"\x81\x38"}, m)
    m = machine(status=0x3881, control=0x1234)
    execute("d93e0010 ; fnstcw [1000]", {}, {0x1000: b"\x34\x12"}, m)


def run_on_image(m: Machine, code: str) -> tuple[int, int]:
    """Run an instruction; return the control and status word it leaves."""
    m.run(bytes.fromhex(code))
    return int.from_bytes(m.fxsave[0:2], "little"), int.from_bytes(m.fxsave[2:4], "little")


def test_fninit() -> None:
    m = machine(status=0xFFFF, control=0)
    m.fxsave[4:32] = b"\xff" * 28
    assert run_on_image(m, "dbe3") == (0x37F, 0)
    assert m.fxsave[4:24] == bytes(20)
    assert m.fxsave[24:32] == b"\xff" * 8  # MXCSR is not the x87's


def test_fnclex() -> None:
    assert run_on_image(machine(status=0xFFFF), "dbe2") == (0x37F, 0x7F00)


@pytest.mark.parametrize(
    ("word", "status", "left"),
    [
        (0x037F, 0x0000, (0x037F, 0x0000)),
        (0xFFBF, 0x0000, (0x1F7F, 0x0000)),  # reserved bits, and bit 6 that is always set
        (0x037E, 0x0001, (0x037E, 0x8081)),  # unmasks an exception that waits
        (0x037F, 0x0001, (0x037F, 0x0001)),
    ],
)
def test_fldcw(word: int, status: int, left: tuple[int, int]) -> None:
    m = machine(status=status)
    m.memory[0x1000:0x1002] = word.to_bytes(2, "little")
    assert run_on_image(m, "d92e0010") == left


def test_fldcw_waits() -> None:
    fails("d92e0010", 16, "X87_PENDING", m=machine(NE, status=0x80))


ESCAPES = [(row, variant) for row, variant in forms("X87") if coverage.reachable(row, variant)]


@pytest.mark.parametrize(("row", "variant"), ESCAPES, ids=[f"{row.text} {form_name(v, row)}" for row, v in ESCAPES])
def test_escapes_without_an_instruction_are_undefined(row: Row, variant: Variant) -> None:
    """With an exception pending too, as recorded; CR0 goes first, and a part without x87 passes them over."""
    code32 = variant.osize == 32
    model, opcode, modrm = next(
        (model, opcode, modrm)
        for model, opcode in itertools.product((6, 3), range(row.opcode, row.last + 1))
        for modrm in (range(0xC0) if variant.memory else range(0xC0, 0x100))
        if lookup(0, opcode, "NP", modrm, lineage(model, 0)) is row
    )
    code = (b"\x67" if variant.memory and code32 != (variant.asize == 32) else b"") + bytes([opcode, modrm])

    def part(cr0: int, status: int = 0) -> Machine:
        m = machine(cr0, status=status)
        m.code32, m.model = code32, model
        return m

    fails(code.hex(), 6, "UNDEFINED", m=part(NE, 0x80))
    fails(code.hex(), 7, "NO_X87", m=part(EM))
    fails(code.hex(), 7, "NO_X87", m=part(TS))
    m = part(0)
    m.features = 0
    execute(code.hex(), m=m)


def test_mmx_and_sse() -> None:
    fails("0f6fc0 ; movq mm0,mm0", 6, "NO_MMX", m=machine(EM))
    fails("0f6fc0", 7, "NO_X87", m=machine(TS))
    fails("0f6fc0", 16, "X87_PENDING", m=machine(NE, status=0x80))
    with pytest.raises(Unsupported, match=r"^MOVQ$"):
        machine().run(bytes.fromhex("0f6fc0"))
    m = machine()
    m.fxsave[2:5] = b"\x41\x38\xff"  # ST(0) is R7
    m.run(bytes.fromhex("0f77"))
    assert m.fxsave[2:5] == b"\x41\0\0"
    fails("0f77 ; emms", 6, "NO_MMX", m=machine(EM))
    fails("0f77 ; emms", 7, "NO_X87", m=machine(TS))


def test_mxcsr() -> None:
    fails("0fae160010 ; ldmxcsr [1000]", 6, "NO_SSE", m=machine())
    fails("0fae160010", 7, "NO_SSE", m=machine(TS, cr4=0x200))
    fails("0fae160010", 13, "MXCSR_RESERVED", {0x1000: bytes.fromhex("40000000")}, machine(cr4=0x200))
    m = machine(cr4=0x200)
    m.memory[0x1000:0x1004] = bytes.fromhex("a01f0000")
    m.run(bytes.fromhex("0fae160010"))
    assert m.fxsave[24:28] == bytes.fromhex("a01f0000")
    execute("0fae1e0010 ; stmxcsr [1000]", {0x1000: b"\xff" * 4}, {0x1000: bytes.fromhex("a01f0000")}, m)


AREA = 0x1000
CR4_OSFXSR = 0x200


def image() -> bytes:
    """A FXSAVE image whose bytes differ from their neighbours, with a control word and MXCSR that can be loaded."""
    data = bytearray(i * 7 & 0xFF for i in range(512))
    data[0:2], data[24:28] = b"\x7f\x13", b"\xa0\x1f\0\0"
    data[2:4] = b"\x2d\x47"  # ST(0) is R0, nothing is pending
    data[5], data[7] = 0, 5  # reserved, and the opcode's upper bits
    for reserved in ((14, 16), (22, 24), *((at + 10, at + 16) for at in range(32, 160, 16))):
        data[slice(*reserved)] = bytes(reserved[1] - reserved[0])
    return bytes(data)


@pytest.mark.parametrize("code", ["0fae060810 ; fxsave [1008]", "0fae0e0810 ; fxrstor [1008]"])
def test_fxsave_area_must_be_aligned(code: str) -> None:
    fails(code, 13, "NOT_ALIGNED", m=machine())
    fails(code, 7, "NO_X87", m=machine(TS))


def test_alignment_is_that_of_the_linear_address() -> None:
    """SDM vol. 2A, FXSAVE: "regardless of segment"."""
    m = machine()
    m.seg.base[Seg.DS] = 8
    fails("0fae060010 ; fxsave [1000]", 13, "NOT_ALIGNED", m=m)
    m = machine()
    m.seg.base[Seg.DS] = 8
    m.fxsave[:] = image()
    execute("0fae06f80f ; fxsave [0ff8]", {AREA: b"\xee" * 512}, {AREA: image()[:24], AREA + 32: image()[32:160]}, m)


@pytest.mark.parametrize(("cr4", "parts"), [(0, [(0, 24), (32, 160)]), (CR4_OSFXSR, [(0, 288)])])
def test_fxsave(cr4: int, parts: list[tuple[int, int]]) -> None:
    """Without CR4.OSFXSR only x87 state is saved; bytes from 288 on are left alone."""
    m = machine(cr4=cr4)
    m.fxsave[:] = image()
    saved = {AREA + start: image()[start:end] for start, end in parts}
    execute("0fae060010 ; fxsave [1000]", {AREA: b"\xee" * 512}, saved, m)


@pytest.mark.parametrize(("cr4", "parts"), [(0, [(0, 24), (32, 160)]), (CR4_OSFXSR, [(0, 28), (32, 288)])])
def test_fxrstor(cr4: int, parts: list[tuple[int, int]]) -> None:
    m = machine(cr4=cr4)
    expected = bytearray(m.fxsave)
    for start, end in parts:
        expected[start:end] = image()[start:end]
    m.memory[AREA : AREA + 512] = image()
    m.run(bytes.fromhex("0fae0e0010"))
    assert m.fxsave == expected


def test_fxrstor_refuses_reserved_mxcsr_bits() -> None:
    area = bytearray(image())
    area[26] = 1
    m = machine(cr4=CR4_OSFXSR)
    before = bytes(m.fxsave)
    fails("0fae0e0010 ; fxrstor [1000]", 13, "MXCSR_RESERVED", {AREA: bytes(area)}, m)
    assert m.fxsave == before


def test_fxsave_beyond_the_limit_writes_nothing() -> None:
    m = machine()
    m.seg.limit[3] = AREA + 400
    with pytest.raises(Fault) as failure:
        m.run(bytes.fromhex("0fae060010"))
    assert failure.value.vector == 13
    assert m.memory[AREA : AREA + 512] == bytes(512)
