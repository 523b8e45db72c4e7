"""Every x87 instruction in every operand and address size, and what exceptions leave (SDM vol. 1, 8; SDM vol. 2A).

The arithmetic itself is tested in tests/isa/softfloat and against recorded hardware in tests/vectors.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from fractions import Fraction

import pytest
from encode import encode
from machine import Fault, Machine, Unsupported, forms

from dm.isa import features
from dm.isa.insn import Variant
from dm.isa.map import coverage
from dm.isa.map.coverage import form_name
from dm.isa.map.forms import ROWS, Row

NE = 0x20
IE, DE, ZE, OE, UE, PE, SF, ES, C0, C1, C2, C3, B = (
    1, 2, 4, 8, 16, 32, 64, 0x80, 0x100, 0x200, 0x400, 0x4000, 0x8000
)  # fmt: skip
CODES = C0 | C2 | C3
INDEFINITE = 0xFFFF << 64 | 0xC000000000000000
#: Intel's parts that note nothing of an instruction but FIP have these.
RECENT = ("fdp_excptn_only", "zero_fcs_fds", "sse2")


def real(value: float | Fraction) -> int:
    """Return a number in 80 bits; it must have one of at most 64 bits."""
    value = Fraction(value)
    if not value:
        return 0
    exponent = 0
    magnitude = abs(value)
    while magnitude >= 2:
        magnitude, exponent = magnitude / 2, exponent + 1
    while magnitude < 1:
        magnitude, exponent = magnitude * 2, exponent - 1
    significand = magnitude * (1 << 63)
    assert significand.denominator == 1
    return (int(value < 0) << 15 | 0x3FFF + exponent) << 64 | significand.numerator


class X87:
    """A machine with a stack, ST(0) first; None is an empty register.  TOP is 3, so that the stack turns round."""

    TOP = 3

    def __init__(self, *stack: int | None, control: int = 0x37F, code32: bool = False, status: int = 0) -> None:
        self.m = Machine(code32=code32)
        self.m.features, self.m.more_features = (1 << 64) - 1, (1 << 64) - 1
        self.m.cr0 = NE
        self.control, self.status = control, self.TOP << 11 | status
        self.m.fxsave16[0], self.m.fxsave16[2] = control, self.status
        for n, value in enumerate(stack):
            if value is not None:
                number = (self.TOP + n) & 7
                self.m.fxsave[4] |= 1 << number
                self.m.fxsave[32 + 16 * number : 42 + 16 * number] = value.to_bytes(10, "little")

    def without(self, *names: str) -> X87:
        """Take features away."""
        mask = ~features.bits(*names)
        self.m.features &= mask
        self.m.more_features &= mask >> 64
        return self

    @property
    def word(self) -> int:
        """The status word without TOP."""
        return self.m.fxsave16[2] & ~0x3800

    def stack(self) -> list[int | None]:
        """The registers from ST(0) on."""
        found: list[int | None] = []
        for n in range(8):
            number = ((self.m.fxsave16[2] >> 11) + n) & 7
            value = int.from_bytes(self.m.fxsave[32 + 16 * number : 42 + 16 * number], "little")
            found.append(value if self.m.fxsave[4] >> number & 1 else None)
        return found

    def run(self, code: str) -> X87:
        """Run one instruction."""
        self.m.run(bytes.fromhex(code.split(";")[0]) + bytes(15))
        return self


def expect(x: X87, *stack: int | None, status: int = 0) -> None:
    """Hold stack (the rest is empty) and status word, without TOP, against what they should be."""
    wanted = [*stack, *[None] * (8 - len(stack))]
    assert [v and hex(v) for v in x.stack()] == [v and hex(v) for v in wanted]
    assert hex(x.word) == hex(status)


# ------------------------------------------------------------------------------------------------ every form


def pack(form: str, value: float) -> bytes:
    """Return a number as a memory operand."""
    match form:
        case "Msr":
            return struct.pack("<f", value)
        case "Mdr":
            return struct.pack("<d", value)
        case "Mer":
            return real(value).to_bytes(10, "little")
        case "Mbcd":
            return int(str(abs(int(value))), 16).to_bytes(9, "little") + bytes([0x80 * (value < 0)])
        case _:
            return int(value).to_bytes({"Mwi": 2, "Mdi": 4, "Mqi": 8}[form], "little", signed=True)


def every(*names: str) -> list[object]:
    """Return the forms of instructions of D8-DF as parameters."""
    return [
        pytest.param(row, variant, id=f"{row.text} {form_name(variant, row)}")
        for row, variant in forms(*names)
        if row.map == 0 and coverage.reachable(row, variant)
    ]


def start(row: Row, variant: Variant, *stack: int | None, reg: int = 2, **kind: int) -> tuple[X87, bytes, int]:
    """Return a machine, the instruction's bytes, and where its memory operand is, or the register it names."""
    for seed in range(1000):
        rng = random.Random(seed)
        x = X87(*stack, code32=variant.osize == 32, **kind)
        x.m.gpr32[0:8] = [rng.randrange(0x80) for _ in range(8)]
        code = encode(row, variant, x.m.code32, rng, near=0x180)
        if code is None:
            continue  # of an undefined row: what was chosen has an instruction
        if not variant.memory:
            if row.third < 0 and "ST(i)" in row.operands:
                code = code[:-1] + bytes([code[-1] & 0xF8 | reg])
            return x, code, reg
        probe = Machine(code32=x.m.code32)
        probe.features, probe.gpr32[:] = x.m.features, x.m.gpr32
        address = address_of(x.m, code)
        if address + 128 < 0x7000:
            return x, code, address
    raise AssertionError(f"no operand found for {row.text}")


def address_of(m: Machine, code: bytes) -> int:
    """Return the offset of a memory operand, all bases being 0."""
    from dm.isa.map.decode import decode

    d = decode(code + bytes(15), m.code32)
    registers = [*m.gpr32[:8], 0]
    offset = registers[d.base] + (registers[d.index] << (d.scale if d.variant.asize == 32 else 0)) + d.disp
    return offset & (0xFFFF if d.variant.asize == 16 else 0xFFFFFFFF)


OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "ADD": lambda a, b: a + b,
    "MUL": lambda a, b: a * b,
    "SUB": lambda a, b: a - b,
    "SUBR": lambda a, b: b - a,
    "DIV": lambda a, b: a / b,
    "DIVR": lambda a, b: b / a,
}
ARITHMETIC = [f"F{i}{name}{p}" for name in OPERATIONS for i in ("", "I") for p in ("", "P") if not (i and p)]


@pytest.mark.parametrize(("row", "variant"), every(*ARITHMETIC))
def test_arithmetic(row: Row, variant: Variant) -> None:
    name = row.mnemonic.removeprefix("F").removeprefix("I") if row.mnemonic != "FI" else ""
    pops = name.endswith("P")
    operation = OPERATIONS[name.removesuffix("P")]
    x, code, place = start(row, variant, real(8), real(-3), real(2.0), status=C0 | C2 | C3 | C1)
    if variant.memory:
        operand = pack(row.operands[0], -4)
        x.m.memory[place : place + len(operand)] = operand
        x.m.run(code)
        expect(x, real(operation(8, -4)), real(-3), real(2.0), status=CODES)
    else:
        to_top = row.operands[0] == "ST(0)"
        result = real(operation(8, 2) if to_top else operation(2, 8))
        x.m.run(code)
        stack = [result, real(-3), real(2.0)] if to_top else [real(8), real(-3), result]
        expect(x, *stack[pops:], status=CODES)


@pytest.mark.parametrize(("row", "variant"), every("FLD", "FILD", "FBLD"))
def test_loads(row: Row, variant: Variant) -> None:
    x, code, place = start(row, variant, real(8), real(-3), real(2.0), status=C1)
    if variant.memory:
        operand = pack(row.operands[0], -1234)
        x.m.memory[place : place + len(operand)] = operand
    x.m.run(code)
    expect(x, real(-1234 if variant.memory else 2), real(8), real(-3), real(2.0))


@pytest.mark.parametrize(("row", "variant"), every("FST", "FSTP", "FSTPNCE", "FIST", "FISTP", "FISTTP", "FBSTP"))
def test_stores(row: Row, variant: Variant) -> None:
    x, code, place = start(row, variant, real(-1234), real(-3), real(2.0), status=C1 | CODES)
    pops = row.mnemonic not in ("FST", "FIST")
    stack = [real(-1234), real(-3), real(2.0)]
    before = bytes(x.m.memory)
    x.m.run(code)
    if variant.memory:
        wanted = pack(row.operands[0], -1234)
        assert bytes(x.m.memory) == before[:place] + wanted + before[place + len(wanted) :]
    else:
        stack[2] = stack[0]
        assert bytes(x.m.memory) == before
    expect(x, *stack[pops:], status=CODES)


@pytest.mark.parametrize(("row", "variant"), every("FXCH", "FFREE", "FFREEP", "FNOP", "FINCSTP", "FDECSTP"))
def test_stack(row: Row, variant: Variant) -> None:
    a, b, c = real(1), real(2), real(3)
    x, code, _ = start(row, variant, a, b, c, status=C1)
    x.m.run(code)
    after: dict[str, tuple[list[int | None], int]] = {
        "FXCH": ([c, b, a], 0),
        "FFREE": ([a, b, None], 0),
        "FFREEP": ([b, None], 0),
        "FNOP": ([a, b, c], C1),
        "FINCSTP": ([b, c, None, None, None, None, None, a], 0),
        "FDECSTP": ([None, a, b, c], 0),
    }
    stack, status = after[row.mnemonic]
    expect(x, *stack, status=status)


@pytest.mark.parametrize(("row", "variant"), every("FCHS", "FABS", "FSQRT", "FRNDINT", "FSCALE", "FXTRACT"))
def test_of_the_top(row: Row, variant: Variant) -> None:
    value, more = {"FSQRT": 2.25, "FCHS": 2.25, "FABS": -2.25, "FRNDINT": -2.5}.get(row.mnemonic, -12.0), 3.75
    x, code, _ = start(row, variant, real(value), real(more), status=C1)
    x.m.run(code)
    results = {"FSQRT": 1.5, "FCHS": -2.25, "FABS": 2.25, "FRNDINT": -2.0, "FSCALE": -96.0, "FXTRACT": -1.5}
    rest = [real(3)] if row.mnemonic == "FXTRACT" else []
    expect(x, real(results[row.mnemonic]), *rest, real(more), status=PE if row.mnemonic == "FRNDINT" else 0)


@pytest.mark.parametrize(("row", "variant"), every("FPREM", "FPREM1"))
def test_remainders(row: Row, variant: Variant) -> None:
    x, code, _ = start(row, variant, real(17.5), real(-3), status=C2)
    x.m.run(code)
    # 5, or 6, threes: bits 2, 1, 0 go to C0, C3, C1.
    if row.mnemonic == "FPREM":
        expect(x, real(2.5), real(-3), status=C0 | C1)
    else:
        expect(x, real(-0.5), real(-3), status=C0 | C3)
    x, code, _ = start(row, variant, real(Fraction(2) ** 100), real(3))
    x.m.run(code)
    assert x.word & C2
    left = x.stack()[0]
    assert left is not None
    assert left >> 64 & 0x7FFF < 0x3FFF + 100 - 31


CONSTANTS = {
    "FLD1": [0x3FFF8000000000000000] * 4,
    "FLDZ": [0] * 4,
    "FLDL2T": [0x4000D49A784BCD1B8AFE, 0x4000D49A784BCD1B8AFE, 0x4000D49A784BCD1B8AFF, 0x4000D49A784BCD1B8AFE],
    "FLDL2E": [0x3FFFB8AA3B295C17F0BC, 0x3FFFB8AA3B295C17F0BB, 0x3FFFB8AA3B295C17F0BC, 0x3FFFB8AA3B295C17F0BB],
    "FLDPI": [0x4000C90FDAA22168C235, 0x4000C90FDAA22168C234, 0x4000C90FDAA22168C235, 0x4000C90FDAA22168C234],
    "FLDLG2": [0x3FFD9A209A84FBCFF799, 0x3FFD9A209A84FBCFF798, 0x3FFD9A209A84FBCFF799, 0x3FFD9A209A84FBCFF798],
    "FLDLN2": [0x3FFEB17217F7D1CF79AC, 0x3FFEB17217F7D1CF79AB, 0x3FFEB17217F7D1CF79AC, 0x3FFEB17217F7D1CF79AB],
}


@pytest.mark.parametrize(("row", "variant"), every(*CONSTANTS))
def test_constants_follow_rounding_control(row: Row, variant: Variant) -> None:
    for mode, value in enumerate(CONSTANTS[row.mnemonic]):
        x, code, _ = start(row, variant, real(1), control=0x37F | mode << 10, status=C1)
        x.m.run(code)
        expect(x, value, real(1))


COMPARISONS = ["FCOM", "FCOMP", "FCOMPP", "FICOM", "FICOMP", "FUCOM", "FUCOMP", "FUCOMPP", "FTST"]


@pytest.mark.parametrize(("row", "variant"), every(*COMPARISONS))
def test_comparisons(row: Row, variant: Variant) -> None:
    for top, codes in ((-4.0, C0), (0.0, 0), (-3.0, C3)):
        other = -3.0
        if row.mnemonic == "FTST":
            top, other = top + 3, 0.0
        x, code, place = start(row, variant, real(top), real(other), status=C1, reg=1)
        if variant.memory:
            operand = pack(row.operands[0], other)
            x.m.memory[place : place + len(operand)] = operand
        x.m.run(code)
        pops = 2 if row.mnemonic.endswith("PP") else int(row.mnemonic.endswith("P"))
        expect(x, *[real(top), real(other)][pops:], status=codes)


@pytest.mark.parametrize(("row", "variant"), every("FCOMI", "FCOMIP", "FUCOMI", "FUCOMIP"))
def test_comparisons_to_flags(row: Row, variant: Variant) -> None:
    for top, flags in ((-4.0, (1, 0, 0)), (0.0, (0, 0, 0)), (-3.0, (0, 0, 1))):
        x, code, _ = start(row, variant, real(top), real(-3), status=C1 | CODES, reg=1)
        for name in ("of", "sf", "af", "cf", "pf", "zf"):
            x.m[name] = 1
        x.m.run(code)
        assert (x.m["cf"], x.m["pf"], x.m["zf"]) == flags
        assert (x.m["of"], x.m["sf"], x.m["af"]) == (0, 0, 0)
        expect(x, *[real(top), real(-3)][row.mnemonic.endswith("P") :], status=C1 | CODES)


MOVES = ["FCMOVB", "FCMOVE", "FCMOVBE", "FCMOVU", "FCMOVNB", "FCMOVNE", "FCMOVNBE", "FCMOVNU"]


@pytest.mark.parametrize(("row", "variant"), every(*MOVES))
def test_conditional_moves(row: Row, variant: Variant) -> None:
    condition = row.mnemonic.removeprefix("FCMOV")
    for cf, zf, pf in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        holds = {"B": cf, "E": zf, "BE": cf | zf, "U": pf}[condition.removeprefix("N")] ^ condition.startswith("N")
        x, code, _ = start(row, variant, real(1), real(2), real(3), status=C1)
        x.m["cf"], x.m["zf"], x.m["pf"] = cf, zf, pf
        x.m.run(code)
        expect(x, real(3 if holds else 1), real(2), real(3), status=C1)


@pytest.mark.parametrize(("row", "variant"), every("FXAM"))
def test_classes(row: Row, variant: Variant) -> None:
    infinity = 0x7FFF << 64 | 1 << 63
    for value, codes in (
        (real(1), C2), (0, C3), (1, C3 | C2), (infinity, C2 | C0), (infinity | 1, C0), (infinity | 1 << 62, C0),
        (1 << 63, C3 | C2), (0x3FFF << 64 | 1, 0), (0x7FFF << 64, 0), (0x7FFF << 64 | 5, 0),
    ):  # fmt: skip
        for sign in (0, 1):
            x, code, _ = start(row, variant, value | sign << 79, status=CODES)
            x.m.run(code)
            expect(x, value | sign << 79, status=codes | C1 * sign)
    x, code, _ = start(row, variant)
    x.m.run(code)
    expect(x, status=C3 | C0)


@pytest.mark.parametrize(("row", "variant"), every("FNENI", "FNDISI", "FNSETPM", "FNCLEX", "FNINIT", "FWAIT"))
def test_control_without_operands(row: Row, variant: Variant) -> None:
    pending = 0 if row.mnemonic == "FWAIT" else IE | SF | ES | B
    x, code, _ = start(row, variant, real(1), real(2), control=0x37E, status=pending | CODES)
    before = bytes(x.m.fxsave)
    x.m.run(code)
    if row.mnemonic == "FNINIT":
        assert x.m.fxsave[:24] == b"\x7f\x03" + bytes(22)
        assert x.m.fxsave[32:] == before[32:], "the registers stay where they are"
    else:
        expect(x, real(1), real(2), status=CODES if row.mnemonic == "FNCLEX" else pending | CODES)


@pytest.mark.parametrize(("row", "variant"), every("FLDCW", "FNSTCW", "FNSTSW"))
def test_words(row: Row, variant: Variant) -> None:
    x, code, place = start(row, variant, real(1), status=PE | CODES)
    x.m.memory[place : place + 2] = b"\x5e\xe3"
    x.m.gpr32[0] |= 0x55550000
    x.m.run(code)
    if row.mnemonic == "FLDCW":
        assert x.m.fxsave16[0] == 0x35E
        expect(x, real(1), status=PE | CODES | ES | B)
        return
    word = 0x37F if row.mnemonic == "FNSTCW" else 3 << 11 | PE | CODES
    found = int.from_bytes(x.m.memory[place : place + 2], "little") if variant.memory else x.m.gpr32[0] - 0x55550000
    assert found == word


ENVIRONMENT = {  # FCW FSW FTW FIP FCS FOP FDP FDS
    "FCW": 0x340, "FSW": 3 << 11 | CODES, "FTW": 0b11_11_01_00_11_11_11_11, "FOP": 0x5A5,
}  # fmt: skip


def environment(x: X87) -> None:
    """Give pointers, and a zero in ST(1)."""
    x.m.fxsave16[6], x.m.fxsave32[8], x.m.fxsave16[12] = 0x5A5, 0x12345, 0x8
    x.m.fxsave32[16], x.m.fxsave16[20] = 0x6789A, 0x10


def image(osize: int, protected: bool) -> bytes:
    """The environment of :func:`environment` (SDM vol. 1, figures 8-9 to 8-12)."""
    tags = 0xFFFF ^ 0b11 << 6 ^ 0b10 << 8  # R3 valid, R4 zero
    words = [0x37F, 3 << 11 | CODES, tags]
    ip, dp = 0x12345 + 0x80, 0x6789A + 0x100
    if osize == 16:
        if protected:
            words += [0x2345, 8, 0x789A, 0x10]
        else:
            words += [ip & 0xFFFF, ip >> 4 & 0xF000 | 0x5A5, dp & 0xFFFF, dp >> 4 & 0xF000]
        return struct.pack("<7H", *words)
    words = [word | 0xFFFF0000 for word in words]
    if protected:
        words += [0x12345, 0x5A5 << 16 | 8, 0x6789A, 0xFFFF0010]
    else:
        words += [0xFFFF0000 | ip & 0xFFFF, ip >> 16 << 12 | 0x5A5, 0xFFFF0000 | dp & 0xFFFF, dp >> 16 << 12]
    return struct.pack("<7I", *words)


def modes(x: X87, protected: bool) -> None:
    if protected:
        wide = x.m.code32
        x.m.protect()
        x.m.code32 = wide
        x.m.cr0 |= NE


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(("row", "variant"), every("FNSTENV", "FNSAVE"))
def test_environment_is_stored(row: Row, variant: Variant, protected: bool) -> None:
    x, code, place = start(row, variant, real(5), 0, status=CODES)
    x.without("zero_fcs_fds")
    environment(x)
    modes(x, protected)
    before, fxsave = bytes(x.m.memory), bytes(x.m.fxsave)
    x.m.run(code)
    wanted = image(variant.osize, protected)
    if row.mnemonic == "FNSAVE":
        wanted += b"".join(fxsave[32 + 16 * ((3 + n) & 7) :][:10] for n in range(8))
    assert x.m.memory[place : place + len(wanted)] == wanted
    assert bytes(x.m.memory) == before[:place] + wanted + before[place + len(wanted) :]
    if row.mnemonic == "FNSAVE":
        assert x.m.fxsave[:24] == b"\x7f\x03" + bytes(22)
    else:
        assert x.m.fxsave16[0] == 0x37F


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(("row", "variant"), every("FLDENV", "FRSTOR"))
def test_environment_is_loaded(row: Row, variant: Variant, protected: bool) -> None:
    x, code, place = start(row, variant)
    x.without("zero_fcs_fds")
    modes(x, protected)
    data = image(variant.osize, protected)
    if row.mnemonic == "FRSTOR":
        data += b"".join(real(n + 1).to_bytes(10, "little") for n in range(8))
    x.m.memory[place : place + len(data)] = data
    x.m.run(code)
    assert x.m.fxsave16[0] == 0x37F
    if row.mnemonic == "FRSTOR":
        expect(x, real(1), real(2), status=CODES)
    else:
        expect(x, 0, 0, status=CODES)
    fop = 0 if variant.osize == 16 and protected else 0x5A5
    if protected:
        pointers = (0x2345, 8, 0x789A, 0x10) if variant.osize == 16 else (0x12345, 8, 0x6789A, 0x10)
    else:
        pointers = (0x12345 + 0x80, 0, 0x6789A + 0x100, 0)
    m = x.m
    assert (m.fxsave32[8], m.fxsave16[12], m.fxsave32[16], m.fxsave16[20]) == pointers
    assert m.fxsave16[6] == fop


TRANSCENDENTAL = ["F2XM1", "FYL2X", "FYL2XP1", "FPTAN", "FPATAN", "FSIN", "FCOS", "FSINCOS"]


@pytest.mark.parametrize(("row", "variant"), every(*TRANSCENDENTAL))
def test_transcendental_instructions_are_unsupported(row: Row, variant: Variant) -> None:
    x, code, _ = start(row, variant, real(0.5), real(1))
    with pytest.raises(Unsupported, match=f"^{row.mnemonic}$"):
        x.m.run(code)


def test_every_row_is_tested_here() -> None:
    names = {row.mnemonic for row in ROWS if row.map == 0 and 0xD8 <= row.opcode <= 0xDF}
    tested = {
        *ARITHMETIC, *CONSTANTS, *COMPARISONS, *MOVES, *TRANSCENDENTAL, "FLD", "FILD", "FBLD", "FST", "FSTP", "FSTPNCE",
        "FIST", "FISTP", "FISTTP", "FBSTP", "FXCH", "FFREE", "FFREEP", "FNOP", "FINCSTP", "FDECSTP", "FCHS", "FABS",
        "FSQRT", "FRNDINT", "FSCALE", "FXTRACT", "FPREM", "FPREM1", "FCOMI", "FCOMIP", "FUCOMI", "FUCOMIP", "FXAM",
        "FNENI", "FNDISI", "FNSETPM", "FNCLEX", "FNINIT", "FLDCW", "FNSTCW", "FNSTSW", "FNSTENV", "FNSAVE", "FLDENV",
        "FRSTOR",
    }  # fmt: skip
    assert names == tested | {"X87"}, "X87 is what no instruction has: tests/isa/test_fpu.py"


# ------------------------------------------------------------------------------------------------ exceptions


@pytest.mark.parametrize(
    ("code", "stack"),
    [("d8c1", [INDEFINITE, 1]), ("d9fa", [INDEFINITE]), ("dec1", [INDEFINITE]), ("d9e0", [INDEFINITE])],
)
def test_an_empty_register_gives_the_default_nan(code: str, stack: list[int | None]) -> None:
    after = X87(None, 1).run(code)
    expect(after, *(stack if code != "d9fa" else [*stack, 1]) if code != "d9e0" else [*stack, 1], status=IE | SF)


def test_an_empty_register_with_the_exception_unmasked() -> None:
    x = X87(None, real(2), control=0x37E).run("dec1 ; faddp")
    expect(x, None, real(2), status=IE | SF | ES | B)


def test_a_full_stack() -> None:
    full = [real(n + 1) for n in range(8)]
    expect(X87(*full).run("d9e8 ; fld1"), INDEFINITE, *full[:7], status=IE | SF | C1)
    expect(X87(*full, control=0x37E).run("d9e8"), *full, status=IE | SF | C1 | ES | B)


def test_division_by_zero_unmasked_changes_nothing_but_flags() -> None:
    x = X87(real(1), 0, control=0x37B).run("d8f1 ; fdiv st,st(1)")
    expect(x, real(1), 0, status=ZE | ES | B)
    expect(X87(real(1), 0).run("d8f1"), 0x7FFF8000000000000000, 0, status=ZE)


def test_an_unmasked_overflow_is_scaled_and_popped() -> None:
    large = 0x7FFE << 64 | 1 << 63
    x = X87(large, large, control=0x377).run("dec9 ; fmulp")
    expect(x, (0x7FFE + 0x7FFE - 0x3FFF - 24576) << 64 | 1 << 63, status=OE | ES | B)


def test_an_unmasked_overflow_of_a_store_keeps_stack_and_memory() -> None:
    large = 0x7FFE << 64 | 1 << 63
    x = X87(large, control=0x377)
    x.m.memory[0x1000:0x1004] = b"\xee" * 4
    x.run("d91e0010 ; fstp dword [1000]")
    expect(x, large, status=OE | ES | B)
    assert x.m.memory[0x1000:0x1004] == b"\xee" * 4


def test_an_unmasked_inexact_result_is_stored() -> None:
    x = X87(real(1), real(3), control=0x35F).run("d8f1")
    expect(x, 0x3FFDAAAAAAAAAAAAAAAB, real(3), status=PE | ES | B | C1)


def test_a_denormal_is_loaded_even_with_the_exception_unmasked() -> None:
    x = X87(control=0x37D)
    x.m.memory[0x1000:0x1004] = (1).to_bytes(4, "little")
    x.run("d9060010 ; fld dword [1000]")
    expect(x, (0x3FFF - 149) << 64 | 1 << 63, status=DE | ES | B)


def test_precision_control_is_for_arithmetic_alone() -> None:
    third = 0x3FFDAAAAAAAAAAAAAAAB
    x = X87(third, real(1), control=0x7F).run("d9c0 ; fld st")
    expect(x, third, third, real(1))
    expect(X87(third, 0, control=0x7F).run("d8c1 ; fadd"), 0x3FFDAAAAAB0000000000, 0, status=PE | C1)


def test_a_pending_exception_is_raised_at_the_next_waiting_instruction() -> None:
    x = X87(real(1), 0, control=0x37B).run("d8f1")
    for waiting in ("9b", "d9e8", "d92e0010", "dd260010"):
        with pytest.raises(Fault) as raised:
            x.run(waiting)
        assert (raised.value.vector, raised.value.cause) == (16, "X87_PENDING")
    x.run("dfe0 ; fnstsw ax")
    assert x.m["ax"] == 3 << 11 | ZE | ES | B
    x.m.cr0 = 0
    with pytest.raises(Unsupported, match="FERR"):
        x.run("d9e8")
    x.run("dbe2 ; fnclex")
    x.run("d9e8 ; fld1")
    expect(x, real(1), real(1), 0)


# ------------------------------------------------------------------------------------------------ pointers


def pointers(x: X87) -> tuple[int, ...]:
    """FOP, FIP, FCS, FDP, FDS."""
    m = x.m
    return m.fxsave16[6], m.fxsave32[8], m.fxsave16[12], m.fxsave32[16], m.fxsave16[20]


def with_selectors(*missing: str, control: int = 0x37F) -> X87:
    x = X87(real(1), control=control).without(*missing)
    x.m.seg.selector[1], x.m.seg.selector[3] = 0x1234, 0x5678
    x.m.memory[0x1000:0x1004] = bytes(4)
    return x


@pytest.mark.parametrize("vendor", [0, 1])
def test_parts_that_note_every_instruction(vendor: int) -> None:
    x = with_selectors(*RECENT)
    x.m.vendor = vendor
    x.run("d8360010 ; fdiv dword [1000]")
    assert pointers(x) == (0x036, 0x8000, 0x1234, 0x1000, 0x5678)
    x.run("d9d0 ; fnop")
    assert pointers(x) == (0x1D0, 0x8004, 0x1234, 0x1000, 0x5678)
    x.run("d9eb")
    assert pointers(x) == (0x1EB, 0x8006, 0x1234, 0x1000, 0x5678)
    for control in ("9b", "dbe2", "d92e0010", "d93e0010", "dfe0"):
        x.run(control)
    assert pointers(x) == (0x1EB, 0x8006, 0x1234, 0x1000, 0x5678), "control instructions are not noted"


def test_parts_that_note_the_opcode_of_exceptions_alone() -> None:
    """Intel's from the Pentium 4 on; IA32_MISC_ENABLE brings the old way back (SDM vol. 1, 8.1.9.1)."""
    x = with_selectors("fdp_excptn_only", "zero_fcs_fds").run("d8360010")
    assert pointers(x) == (0, 0x8000, 0x1234, 0x1000, 0x5678)
    x = with_selectors("fdp_excptn_only", "zero_fcs_fds")
    x.m.misc_enable = 4
    assert pointers(x.run("d8360010")) == (0x036, 0x8000, 0x1234, 0x1000, 0x5678)


def test_parts_that_note_operands_of_exceptions_alone() -> None:
    """CPUID.(7,0):EBX[6] and EBX[13]."""
    assert pointers(with_selectors().run("d8360010")) == (0, 0x8000, 0, 0, 0)
    assert pointers(with_selectors(control=0x37B).run("d8360010")) == (0x036, 0x8000, 0, 0x1000, 0)
    assert pointers(with_selectors("zero_fcs_fds").run("d8360010")) == (0, 0x8000, 0x1234, 0, 0)
    assert pointers(with_selectors("fdp_excptn_only").run("d8360010")) == (0, 0x8000, 0, 0x1000, 0)


@pytest.mark.parametrize(
    ("vendor", "missing", "control", "saved"),
    [
        (0, (), 0x37F, (0x036, 0x8000, 0x1234, 0x1000, 0x5678)),
        (1, (), 0x37F, (0, 0, 0, 0, 0)),
        (1, (), 0x37B, (0x036, 0x8000, 0x1234, 0x1000, 0x5678)),
        (1, ("rstr_fp_err_ptrs",), 0x37F, (0xEEEE, 0xEEEEEEEE, 0xEEEE, 0xEEEEEEEE, 0xEEEE)),
    ],
)
def test_amd_saves_pointers_of_pending_exceptions(
    vendor: int, missing: tuple[str, ...], control: int, saved: tuple[int, ...]
) -> None:
    """AMD APM vol. 2, 11.4.4, and measured: FXSAVE, but not FNSTENV; older parts leave the bytes alone."""
    x = with_selectors(*RECENT, *missing, control=control)
    x.m.vendor = vendor
    x.m.memory[0x2000:0x2200] = b"\xee" * 512
    x.run("d8360010")
    x.run("0fae060020 ; fxsave [2000]")
    area = x.m.memory[0x2000:0x2200]
    assert struct.unpack_from("<6xHIHxxIHxx", area) == saved
    x.run("66d9360030 ; fnstenv [3000]")
    fip = int.from_bytes(x.m.memory[0x300C:0x300E], "little")
    assert fip == (0x8000 + (0x1234 << 4)) & 0xFFFF


def test_fxrstor_of_older_amd_parts_keeps_pointers() -> None:
    """Without CPUID 8000_0008.EBX[2] they are loaded for a pending exception alone."""
    for name, kept in (("rstr_fp_err_ptrs", True), ("sse2", False)):
        x = with_selectors(name, "zero_fcs_fds")
        x.m.vendor = 1
        environment(x)
        before = pointers(x)
        x.m.memory[0x2000:0x2200] = bytes(512)
        x.m.memory[0x2000:0x2002] = b"\x7f\x03"
        x.run("0fae0e0020 ; fxrstor [2000]")
        assert pointers(x) == (before if kept else (0, 0, 0, 0, 0))


def test_fxsave_and_fxrstor_have_the_stack_from_its_top() -> None:
    x = X87(real(1), real(2))
    x.run("0fae060020 ; fxsave [2000]")
    assert x.m.memory[0x2020:0x202A] == real(1).to_bytes(10, "little")
    assert x.m.memory[0x2030:0x203A] == real(2).to_bytes(10, "little")
    x.run("dbe3")
    x.run("0fae0e0020 ; fxrstor [2000]")
    expect(x, real(1), real(2))
