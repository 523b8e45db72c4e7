"""The language: what it refuses, and that both meanings of an operation (constant folding, printed Python) agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm.microcode import Does, Field, Microcode, MicrocodeError, Procedure, Terminator, Value, primitive
from dm.microcode.effects import effects
from dm.microcode.evaluate import evaluate, signed
from dm.microcode.print_python import RUNTIME, PythonPrinter, PythonTarget

CELL = Field("cell", 32)
NEXT = Terminator("next")
FAULT = Terminator("fault", (8,), aborts=True)
LOAD = primitive("load", Does.FAULT, 32, at=32)
STORE = primitive("store", Does.FAULT | Does.STORE, at=32, value=32)
COMMIT = primitive("commit", Does.COMMIT)

BINARY = [
    "add",
    "sub",
    "mul",
    "and",
    "or",
    "xor",
    "udiv",
    "urem",
    "sdiv",
    "srem",
    "eq",
    "ne",
    "ult",
    "ule",
    "slt",
    "sle",
]
UNARY = ["not", "popcount", "clz", "ctz", "bswap"]


def printed(op: str, width: int, numbers: list[int]) -> int:
    """Evaluate through the Python printer, with operands the folder cannot see."""

    def describe(m: Microcode, *args: Value) -> None:
        if op in UNARY:
            made = m.unary(op, args[0], width)
        elif op in ("shl", "shr", "sar"):
            made = m.shift(op, args[0], args[1])
        elif op in ("eq", "ne", "ult", "ule", "slt", "sle"):
            made = m.compare(op, args[0], args[1]).zext(width) if width > 1 else m.compare(op, args[0], args[1])
        else:
            made = m.binary(op, args[0], args[1])
        m.return_(made)

    procedure = Procedure("f", [(f"a{i}", width) for i in range(len(numbers))], width, describe)
    names = dict(RUNTIME)
    exec(PythonPrinter(PythonTarget()).function(procedure.code), names)
    result = names["f"](None, *numbers)  # type: ignore[operator]
    assert isinstance(result, int)
    return result


@given(st.sampled_from(BINARY), st.sampled_from([8, 16, 32, 64, 128]), st.data())
def test_binary_operations_print_as_they_fold(op: str, width: int, data: st.DataObject) -> None:
    number = st.integers(0, (1 << width) - 1) | st.sampled_from([0, 1, (1 << width) - 1, 1 << (width - 1)])
    a, b = data.draw(number), data.draw(number)
    assert printed(op, width, [a, b]) == evaluate(op, width, [a, b], width)


@given(st.sampled_from(["shl", "shr", "sar"]), st.sampled_from([8, 16, 32, 64, 128]), st.data())
def test_shifts_print_as_they_fold(op: str, width: int, data: st.DataObject) -> None:
    a = data.draw(st.integers(0, (1 << width) - 1))
    b = data.draw(st.integers(0, min(255, (1 << width) - 1)))
    assert printed(op, width, [a, b]) == evaluate(op, width, [a, b], width)


@given(st.sampled_from(UNARY), st.sampled_from([8, 16, 32, 64, 128]), st.data())
def test_unary_operations_print_as_they_fold(op: str, width: int, data: st.DataObject) -> None:
    a = data.draw(st.integers(0, (1 << width) - 1))
    assert printed(op, width, [a]) == evaluate(op, width, [a], width)


@pytest.mark.parametrize(
    ("op", "width", "args", "result"),
    [
        ("sub", 8, [0, 1], 0xFF),
        ("sar", 8, [0x80, 9], 0xFF),
        ("shl", 32, [1, 32], 0),
        ("sdiv", 32, [0x80000000, 0xFFFFFFFF], 0x80000000),
        ("srem", 8, [0xF9, 2], 0xFF),
        ("sdiv", 16, [7, 0], 0),
        ("clz", 16, [1], 15),
        ("ctz", 8, [0], 8),
        ("bswap", 32, [0x12345678], 0x78563412),
        ("mul", 128, [(1 << 64) - 1, (1 << 64) - 1], (1 << 128) - (1 << 65) + 1),
        ("sar", 128, [1 << 127, 200], (1 << 128) - 1),
    ],
)
def test_definitions_at_the_edges(op: str, width: int, args: list[int], result: int) -> None:
    assert evaluate(op, width, args, width) == result


def test_signed_reads_twos_complement() -> None:
    assert signed(0xFF, 8) == -1
    assert signed(0x7F, 8) == 127


def test_widths_must_match() -> None:
    m = Microcode("x")
    a = m.get(CELL)
    with pytest.raises(MicrocodeError, match="16 bits where 32"):
        a + m.const(16, 1)
    with pytest.raises(MicrocodeError, match="zext from 32 to 16"):
        a.zext(16)
    with pytest.raises(MicrocodeError, match="32 bits where 1"), m.If(a):
        pass


def test_masks_name_bits_and_fields() -> None:
    m = Microcode("x")
    word = m.const(32, 0b1011_0100)
    assert word.has(1 << 2).const == 1
    assert word.has(1 << 3).const == 0
    assert word.field(0b111 << 4).const == 0b011
    assert m.const(1, 1).at(1 << 7, 32).const == 0x80
    assert m.const(8, 3).at(3 << 12, 64).const == 0x3000
    with pytest.raises(MicrocodeError, match="more than one bit"):
        word.has(0b11)
    with pytest.raises(MicrocodeError, match="gaps"):
        word.field(0b101)
    with pytest.raises(MicrocodeError, match="gaps"):
        word.field(0)


def test_a_value_has_no_truth_while_described() -> None:
    m = Microcode("x")
    with pytest.raises(MicrocodeError, match="no truth"):
        bool(m.get(CELL) == 1)


def test_a_value_made_in_one_branch_cannot_be_used_outside() -> None:
    m = Microcode("x")
    with m.If(m.get(CELL) == 0):
        inside = m.get(CELL) + 1
    m.set(CELL, inside)
    m.end(NEXT)
    with pytest.raises(MicrocodeError, match="may be undefined"):
        m.finish()


def test_every_path_must_end() -> None:
    procedure = Procedure("p", [], 32, lambda m: None)
    with pytest.raises(MicrocodeError, match="does not end"):
        _ = procedure.code


def test_nothing_follows_an_end() -> None:
    m = Microcode("x")
    m.end(NEXT)
    with pytest.raises(MicrocodeError, match="after the end"):
        m.set(CELL, 1)


def test_both_branches_ending_ends_the_path() -> None:
    m = Microcode("x")
    with m.If(m.get(CELL) == 0):
        m.end(FAULT, 13)
    with m.Else():
        m.end(NEXT)
    m.finish()
    assert m.ended


def test_constant_conditions_are_decided_while_described() -> None:
    m = Microcode("x")
    with m.If(m.const(1, 0)):
        m.end(FAULT, 13)
    with m.Else():
        m.set(CELL, 5)
    m.end(NEXT)
    m.finish()
    assert "fault" not in PythonPrinter(PythonTarget()).function(m)


def test_elif_chains() -> None:
    procedure = Procedure("pick", [("a", 8)], 8, _pick)
    names = dict(RUNTIME)
    exec(PythonPrinter(PythonTarget()).function(procedure.code), names)
    assert [names["pick"](None, n) for n in (1, 2, 3)] == [10, 20, 30]  # type: ignore[operator]


def test_a_choice_decides_another() -> None:
    def describe(m: Microcode, a: Value, b: Value) -> None:
        chosen = m.select(a == 1, b == 2, m.const(1, 0))
        m.return_(m.select(chosen, 10, 20, 8))

    procedure = Procedure("choose", [("a", 8), ("b", 8)], 8, describe)
    names = dict(RUNTIME)
    exec(PythonPrinter(PythonTarget()).function(procedure.code), names)
    assert [names["choose"](None, *pair) for pair in ((1, 2), (1, 3), (0, 2))] == [10, 20, 20]  # type: ignore[operator]


def _pick(m: Microcode, a: Value) -> None:
    out = m.var(8, 30)
    with m.If(a == 1):
        out.v = 10
    with m.Elif(lambda: a == 2):
        out.v = 20
    m.return_(out.v)


def test_loops_and_locals() -> None:
    def describe(m: Microcode, n: Value) -> None:
        total, left = m.var(32, 0), m.var(32, n)
        with m.Loop():
            m.break_if(left.v == 0)
            total.v = total.v + left.v
            left.v = left.v - 1
        m.return_(total.v)

    procedure = Procedure("triangle", [("n", 32)], 32, describe)
    names = dict(RUNTIME)
    exec(PythonPrinter(PythonTarget()).function(procedure.code), names)
    assert names["triangle"](None, 100) == 5050  # type: ignore[operator]


def code(*steps: str) -> Microcode:
    m = Microcode("x")
    for step in steps:
        match step:
            case "load":
                m.call(LOAD, 0)
            case "store":
                m.call(STORE, 0, 0)
            case "set":
                m.set(CELL, 1)
            case "commit":
                m.call(COMMIT)
            case "maybe fault":
                with m.If(m.get(CELL) == 7):
                    m.end(FAULT, 13)
    m.end(NEXT)
    return m.finish()


@pytest.mark.parametrize(
    ("steps", "late"),
    [
        (("load", "store", "set"), False),
        (("load", "set"), False),
        (("set", "load"), True),
        (("store", "store"), True),
        (("store", "maybe fault"), True),
        (("maybe fault", "store"), False),
        (("set", "commit", "load"), False),
    ],
)
def test_transactions_are_found_from_the_order_of_effects(steps: tuple[str, ...], late: bool) -> None:
    assert effects(code(*steps)).late_abort is late


def test_a_change_on_a_path_that_ends_does_not_count_after_it() -> None:
    m = Microcode("x")
    with m.If(m.get(CELL) == 1):
        m.set(CELL, 2)
        m.end(NEXT)
    m.call(LOAD, 0)
    m.end(NEXT)
    assert not effects(m.finish()).late_abort


def test_a_loop_that_stores_and_comes_back_is_late() -> None:
    m = Microcode("x")
    with m.Loop():
        m.break_if(m.get(CELL) == 0)
        m.call(STORE, 0, 0)
    m.end(NEXT)
    assert effects(m.finish()).late_abort
