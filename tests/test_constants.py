"""Bits of architectural registers have one home, dm/machine/architecture.py: nobody else says them in numbers.

In Python the syntax tree is looked at, in C the text.  Both look for a number beside the name of a register (``cr0 &
0x80000000``, ``eflags | 1 << 17``, ``attributes >> 7``), for constants that are named like bits (``_TF = 1 << 8``,
``enum { TF = 0x100 }``), for vectors in numbers, and Python also for bits that microcode picks by number.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

from dm.machine import architecture as arch
from dm.machine.header import PRINTED

ROOT = Path(__file__).resolve().parents[1]
HOME = "dm/machine/architecture.py"
#: Helpers of tests that play a machine are held to it too.
HELPERS = ("tests/isa/machine.py", "tests/isa/system_machine.py")

#: Names of registers that are something else in a file.
FOREIGN = {
    ("dm/shim/bios/keyboard.py", "flags"): "the keyboard's flags in the BIOS data area",
    ("dm/shim/bios/video.py", "attributes"): "registers of the VGA's attribute controller",
    ("dm/shim/bios/video.py", "video_flags"): "a byte of the BIOS data area",
    ("dm/shim/picture.py", "attributes"): "registers of the VGA's attribute controller",
    ("dm/shim/devices/rtc.py", "_flags"): "register C of the clock",
    ("dm/shim/bios/system.py", "_SMAP"): "the signature of INT 15h, E820h",
}
#: Bits that microcode picks by number: no other code knows them.
PICKED = {
    ("dm/isa/flags.py", "FC"): "the lazy flags' vector of carries, whose layout stands there",
    ("dm/isa/flags.py", "fc"): "the same",
    ("dm/isa/flags.py", "FR"): "the lazy flags' result",
    ("dm/isa/softfloat/formats.py", "upper"): "sign and exponent of an 80-bit number",
    ("dm/isa/softfloat/remainder.py", "whole"): "the last bits of a quotient",
    ("dm/isa/mechanisms/descriptor.py", "raw"): "parameter count and stack number of gates",
}

#: Names of registers, whatever they are prefixed with (``s.cr0``, ``seg_attributes``, ``old_dr7``).
REGISTER = r"(?:\w*_)?(?:cr[034]|[er]?flags|efer|dr[67]|debugctl|pending_debug|attributes|access_rights|apic_base)"
VECTOR = r"(?:\w*_)?vector"
#: All the low bits of a register, which are none of them; its upper half is above 32.
WHOLE = {0, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
UPPER = 32
#: What a parameter of microcode may be wide.
WIDTHS = {1, 8, 16, 32, 64}
#: Enumerations whose members' names alone give a constant away; those of one letter do not.
NAMED = (arch.Eflags, arch.Cr0, arch.Cr4, arch.Efer, arch.Dr6, arch.Dr7, arch.DebugCtl)
BITS = {name for enum in NAMED for name in enum.__members__ if len(name) > 1} - {"ID", "B", "FIXED", "TR", "ALL", "DE"}
#: Where microcode is written.
MICROCODE = ("dm/isa/", "dm/machine/rules.py")


def number(node: ast.expr) -> int | None:
    """Return the value of an expression of literals, None for anything else."""
    if any(
        not isinstance(n, (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)) for n in ast.walk(node)
    ):
        return None
    try:
        value = eval(compile(ast.Expression(node), "literal", "eval"), {})
    except TypeError:
        return None
    return value if type(value) is int else None


def last_name(node: ast.expr) -> str:
    """Return the name that a value goes by: the attribute, the variable, or the key in a subscript."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Subscript(value, ast.Constant(value=str(key))):
            return key
        case ast.Subscript(value, _):
            return last_name(value)
        case ast.Call(ast.Attribute(attr="get"), [cell, *_]):
            return last_name(cell)
        case ast.Call(ast.Attribute(value, "trunc" | "zext"), _):
            return last_name(value)
        case ast.Call(ast.Name("cell"), [ast.Constant(value=str(name)), *_]):
            return name
        case _:
            return ""


def register(node: ast.expr, pattern: str) -> str:
    """Return the name of the register that an operand is, or is made of by further operations; empty: of none."""
    if isinstance(node, ast.BinOp):
        return register(node.left, pattern) or register(node.right, pattern)
    if isinstance(node, ast.UnaryOp):
        return register(node.operand, pattern)
    name = last_name(node)
    return name if re.fullmatch(pattern, name, re.IGNORECASE) else ""


def in_numbers(op: ast.operator, node: ast.expr) -> bool:
    """Whether an operand is a number that names bits."""
    value = number(node)
    if value is None or value in WHOLE or ~value in WHOLE:
        return False
    return not (isinstance(op, ast.RShift) and value >= UPPER)


def in_python(tree: ast.Module, microcode: bool) -> Iterator[tuple[int, str, str]]:
    """Yield (line, whose constant it is, what is there) for every architectural constant in numbers."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(left, ast.BitAnd() | ast.BitOr() | ast.BitXor() | ast.LShift() | ast.RShift() as op, right):
                for one, other in ((left, right), (right, left)):
                    if in_numbers(op, other) and (name := register(one, REGISTER)):
                        yield node.lineno, name, ast.unparse(node)
            case ast.AugAssign(target, ast.BitAnd() | ast.BitOr() | ast.BitXor() as op, value):
                if in_numbers(op, value) and (name := register(target, REGISTER)):
                    yield node.lineno, name, ast.unparse(node)
            case ast.Compare(left, [ast.Eq() | ast.NotEq()], [right]):
                for one, other in ((left, right), (right, left)):
                    if number(other) and (name := register(one, VECTOR)):
                        yield node.lineno, name, ast.unparse(node)
            case ast.Call(ast.Attribute(value, "bit" | "bits"), [first, *_]) if microcode:
                if 0 < (number(first) or 0) < UPPER or (number(first) and last_name(value) == "raw"):
                    yield node.lineno, register(value, r"\w+"), ast.unparse(node)
            case ast.Call(ast.Name("fault" | "fault_if") | ast.Attribute(_, "fault" | "fault_if"), arguments):
                if any(number(argument) for argument in arguments[:3]):
                    yield node.lineno, "vector", ast.unparse(node)
            case ast.keyword(arg=str(name), value=value) if re.fullmatch(REGISTER, name):
                if number(value) and number(value) not in WHOLE | WIDTHS:
                    yield node.lineno, name, f"{name}={ast.unparse(value)}"
            case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)):
                yield from named(targets, values)
            case ast.Assign(targets, value):
                yield from named(targets, [value] * len(targets))
            case ast.AnnAssign(target, _, value) if value is not None:
                yield from named([target], [value])


def named(targets: list[ast.expr], values: list[ast.expr]) -> Iterator[tuple[int, str, str]]:
    """Yield constants that are called like a bit of a register, and registers that are set to a number."""
    for target, value in zip(targets, values, strict=False):
        if number(value) and number(value) not in WHOLE and register(target, REGISTER):
            yield target.lineno, last_name(target), f"{ast.unparse(target)} = {ast.unparse(value)}"
        if last_name(target).lstrip("_") in BITS and number(value) is not None:
            yield target.lineno, last_name(target), f"{last_name(target)} = {ast.unparse(value)}"


NUMBER = r"~?\(?\s*(?:\(\w+\))?~?(?:UINT\d+_C\()?(?:0x[0-9a-f]+|[1-9]\d*)(?:u|ull?)?\b"
C_REGISTER = rf"\b({REGISTER})\b(?:\[\w+\])?"
C_BITS = rf"({'|'.join(sorted(BITS))})"
C_WHOLE = r"(?:0xffff(?:f{4}|f{12})?(?:u|ull)?|32|48)"
IN_C = [
    re.compile(
        rf"{C_REGISTER}\)*\s*(?:&|\||\^|>>|<<)=?(?!\s*(?:0xffff(?:f{{4}}|f{{12}})?(?:u|ull)?|32|48)\b)\s*{NUMBER}", re.I
    ),
    re.compile(rf"{C_REGISTER}\)*\s*>>\s*\(", re.I),
    re.compile(rf"(?<![\w.])(?:0x[0-9a-f]+|\d+)u?\s*[&|^]\s*(?:\w+(?:->|\.))*{C_REGISTER}", re.I),
    re.compile(rf"\b{C_BITS}\s*=\s*\(?(?:0x[0-9a-f]+|\d+)"),
    re.compile(rf"#define\s+{C_BITS}\s+\(?(?:0x[0-9a-f]+|\d+)"),
    re.compile(rf"\b({VECTOR})\s*[=!]=\s*[1-9]"),
    re.compile(r"\b(raise_fault)\(\w+,\s*\w+,\s*\d"),
]


def in_c(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, whose constant it is, what is there) for every architectural constant in numbers."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    text = re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", blank, text, flags=re.DOTALL)
    for at, line in enumerate(text.splitlines(), 1):
        for pattern in IN_C:
            if found := pattern.search(line):
                yield at, found[1], found[0].strip()
                break


def sources() -> Iterator[Path]:
    for top in ("dm", "protocol"):
        for path in sorted((ROOT / top).rglob("*")):
            inside = path.relative_to(ROOT).as_posix()
            if path.suffix in (".py", ".c", ".h") and inside != HOME and not inside.startswith("dm/protocol/"):
                yield path
    yield from (ROOT / name for name in HELPERS)


def findings() -> Iterator[tuple[str, str, str]]:
    """Yield (file, whose constant it is, line and what is there) of the whole tree."""
    for path in sources():
        inside, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        found = in_python(ast.parse(text), inside.startswith(MICROCODE)) if path.suffix == ".py" else in_c(text)
        for line, name, what in found:
            yield inside, name, f"{inside}:{line}: {what}"


def test_constants_have_one_home() -> None:
    found = list(findings())
    excused = FOREIGN.keys() | PICKED.keys()
    wrong = [what for inside, name, what in found if (inside, name) not in excused]
    assert not wrong, f"{HOME} has names for these:\n" + "\n".join(wrong)
    assert excused <= {(inside, name) for inside, name, _ in found}, "excuses that nothing needs any more"


@pytest.mark.parametrize(
    "text",
    [
        "x = cr0 & 0x80000000",
        "x = state.cr0 & 1",
        "x = s.cr0 >> 31 & 1",
        "x = 0x200 & flags",
        "x = eflags | 1 << 17",
        "s.rflags |= 0x202",
        "state.rflags &= ~0x200",
        "x = old['eflags'] ^ 0x8D5",
        "x = cpu.dr7 >> 2 * n & 3 | cpu.dr7 & 0xFF",
        "x = cpu.seg_attributes[2] & 0x4000",
        "x = self.efer & (1 << 10 | 1 << 8)",
        "_TF: Final = 1 << 8",
        "PE, PG = 0, 31",
        "x = fault.vector == 14",
        "p.fault(m, 13, 0, 'CAUSE')",
        "x = m.get(CR4) & 0x20",
        "state.cr0 = 0x11",
        "s.limit, s.attributes = 0xFFFF, 0x93",
        "State(rflags=0x202)",
    ],
)
def test_python_in_numbers_is_found(text: str) -> None:
    assert list(in_python(ast.parse(text), False))


@pytest.mark.parametrize("text", ["x = entry.bit(7)", "x = rights.bits(5, 2)"])
def test_microcode_in_numbers_is_found(text: str) -> None:
    assert list(in_python(ast.parse(text), True))


@pytest.mark.parametrize(
    "text",
    [
        "x = cr0 & Cr0.PG",
        "x = state.eflags & 0xFFFFFFFF",
        "x = state.rflags & ~0xFFFF",
        "x = cr4 == 0",
        "x = flags.iopl(m) != 3",
        "x = value.has(Eflags.TF)",
        "size = count & 7",
        "x = entry.bit(0)",
    ],
)
def test_python_by_name_is_not(text: str) -> None:
    assert not list(in_python(ast.parse(text), True))


@pytest.mark.parametrize(
    "text",
    [
        "if (cpu->a.cr0 & 0x80000000)",
        "if (!(cpu->a.cr0 >> 31 & 1))",
        "if (flags & 0x200)",
        "w = eflags | 1 << 17;",
        "if ((cr0 & (1u << 31 | 1)) == x)",
        "cpu->a.flags &= ~(uint32_t)0x100;",
        "cpu->a.flags |= UINT32_C(2);",
        "if (0x100 & cpu->a.flags)",
        "control = (unsigned)(cpu->a.dr7 >> (16 + 4 * n)) & 15;",
        "if ((cpu->a.dr7 & 0xff) && x)",
        "big = cpu->a.seg[1].attributes >> 14 & 1;",
        "enum { TF = 1 << 8, OTHER };",
        "#define PG 0x80000000",
        "raise_fault(cpu, LABEL_TOO_LONG, 13, 0, 0, 0, 0);",
        "if (cpu->fault.vector == 14)",
    ],
)
def test_c_in_numbers_is_found(text: str) -> None:
    assert list(in_c(text))


@pytest.mark.parametrize(
    "text",
    [
        "if (cpu->a.cr0 & CR0_PG)",
        "if (cpu->a.flags & EFLAGS_TF || x & 3)",
        "/* flags & 0x200 */",
        'say("cr0 & 1");',
        "high = cr0 >> 32;",
        "low = (uint32_t)(cpu->a.dr7 & 0xffffffff);",
        "cpu->a.flags &= ~EFLAGS_RF;",
        "raise_fault(cpu, LABEL_TOO_LONG, VECTOR_GP, 0, 0, 0, 0);",
    ],
)
def test_c_by_name_is_not(text: str) -> None:
    assert not list(in_c(text))


def test_names_of_bits_are_looked_for() -> None:
    assert {"TF", "IOPL", "PG", "OSXSAVE", "LMA"} <= BITS
    assert all(issubclass(enum, IntEnum) for enum in PRINTED.values())
