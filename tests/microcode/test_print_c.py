"""What the C printer prints means what constants fold to, for every operation, width and compiler's own arithmetic."""

from __future__ import annotations

import ctypes
import os
import random
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dm.engine.native
from dm.microcode import Microcode, Procedure, Value
from dm.microcode.evaluate import evaluate
from dm.microcode.ir import WIDTHS
from dm.microcode.print_c import CPrinter, CTarget, ctype

BINARY = ("add", "sub", "mul", "and", "or", "xor", "udiv", "urem", "sdiv", "srem")
COMPARISONS = ("eq", "ne", "ult", "ule", "slt", "sle")
UNARY = ("not", "popcount", "clz", "ctz", "bswap")
SHIFTS = ("shl", "shr", "sar")

#: (operation, width of the operands, width of the result).
Operation = tuple[str, int, int]


def operations() -> Iterator[Operation]:
    """Every operation at every width that has it."""
    for width in WIDTHS:
        yield from ((op, width, width) for op in ("add", "sub", "mul", "and", "or", "xor", "not", "select"))
        yield from ((op, width, 1) for op in ("eq", "ne", "ult", "ule"))
        if width > 1:
            yield from ((op, width, width) for op in (*BINARY, *UNARY, *SHIFTS) if op not in ("add", "sub", "mul"))
            yield from ((op, width, 1) for op in COMPARISONS)
        for other in WIDTHS:
            if other > width:
                yield from (("zext", width, other), ("sext", width, other))
            elif other < width:
                yield "trunc", width, other


OPERATIONS = tuple(dict.fromkeys(operations()))


def name(operation: Operation) -> str:
    op, source, result = operation
    return f"{op}_{source}_{result}"


def procedure(operation: Operation) -> Procedure:
    """A procedure of one operation, its operands as parameters."""
    op, source, result = operation

    def describe(m: Microcode, a: Value, b: Value) -> None:
        if op in UNARY:
            made = m.unary(op, a, source)
        elif op in SHIFTS:
            made = m.shift(op, a, b)
        elif op in COMPARISONS:
            made = m.compare(op, a, b)
        elif op in ("zext", "sext", "trunc"):
            made = m.extend(op, a, result)
        elif op == "select":
            made = m.select(a.bit(0), a, b)
        else:
            made = m.binary(op, a, b)
        m.return_(made)

    return Procedure(name(operation), (("a", source), ("b", source)), result, describe)


def constants() -> Procedure:
    """Literals of every size, added up."""

    def describe(m: Microcode, a: Value, b: Value) -> None:
        for n in (9, 1 << 63, (1 << 64) - 1, 1 << 64, (1 << 128) - 1, 0x0123456789ABCDEF << 60):
            a = (a ^ n) * 3 + b
        m.return_(a)

    return Procedure("constants", (("a", 128), ("b", 128)), 128, describe)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], int]:
    """Call a compiled procedure by name; numbers go in and out as 16 bytes."""
    where = tmp_path_factory.mktemp("print_c")
    printer = CPrinter(CTarget())
    lines = ['#include "arithmetic.h"', "struct cpu;", "#define PROCEDURE_PROLOGUE (void)cpu;", ""]
    for made in (*map(procedure, OPERATIONS), constants()):
        t = ctype(made.params[0][1])
        lines.append(printer.function(made.code))
        lines.append(f"void call_{made.name}(const uint128_t *a, uint128_t *out)")
        lines.append(f"{{ *out = {made.name}((struct cpu *)0, ({t})a[0], ({t})a[1]); }}\n")
    source, library = where / "printed.c", where / "printed.so"
    source.write_text("\n".join(lines))
    native = Path(dm.engine.native.__file__).parent
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*compiler, *flags, f"-I{native}", str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))

    def call(name: str, a: int, b: int) -> int:
        given = ctypes.create_string_buffer(a.to_bytes(16, "little") + b.to_bytes(16, "little"), 48)
        at = ctypes.addressof(given) + -ctypes.addressof(given) % 16  # malloc aligns; do not rely on it
        ctypes.memmove(at, given.raw, 32)
        out = ctypes.create_string_buffer(32)
        to = ctypes.addressof(out) + -ctypes.addressof(out) % 16
        getattr(loaded, f"call_{name}")(ctypes.c_void_p(at), ctypes.c_void_p(to))
        return int.from_bytes(ctypes.string_at(to, 16), "little")

    return call


def numbers(width: int, chosen: random.Random) -> Iterator[int]:
    top = 1 << width
    yield from (n % top for n in (0, 1, 2, 3, 7, top - 1, top - 2, top >> 1, (top >> 1) - 1))
    yield from (chosen.getrandbits(chosen.randint(1, width)) for _ in range(8))


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
def test_operations_print_as_they_fold(operation: Operation, compiled: Callable[[str, int, int], int]) -> None:
    op, source, result = operation
    chosen = random.Random(name(operation))
    for a in numbers(source, chosen):
        seconds = [0, 1, source - 1, min(source, (1 << source) - 1)] if op in SHIFTS else numbers(source, chosen)
        for b in seconds:
            expected = (a if a & 1 else b) if op == "select" else evaluate(op, result, [a, b], source)
            assert compiled(name(operation), a, b) == expected, (hex(a), hex(b))


def test_literals(compiled: Callable[[str, int, int], int]) -> None:
    a, b = 0x1234 << 100 | 5, 7 << 64
    expected = a
    for n in (9, 1 << 63, (1 << 64) - 1, 1 << 64, (1 << 128) - 1, 0x0123456789ABCDEF << 60):
        expected = ((expected ^ n) * 3 + b) % (1 << 128)
    assert compiled("constants", a, b) == expected
