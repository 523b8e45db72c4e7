"""x87 arithmetic (SDM vol. 1, 8.3.5)."""

from __future__ import annotations

from typing import Final

from dm.isa.insn import Insn, Memory, Operand, StackRegister, instruction
from dm.isa.instructions import x87_common
from dm.isa.instructions.x87_move import widened
from dm.isa.mechanisms import x87
from dm.isa.softfloat import arithmetic, convert, remainder
from dm.isa.softfloat.compare import C0, C2, C3
from dm.isa.softfloat.formats import C1, STATUS_AT, ZE, Extended
from dm.machine.architecture import X87Status
from dm.microcode import Microcode, Procedure, Value, procedure


def _result(m: Microcode, name: str, a: Value, b: Value) -> Value:
    control = x87.control(m)
    match name:
        case "add" | "sub":
            return m.call(arithmetic.f80_add, a, b, int(name == "sub"), control)
        case "mul":
            return m.call(arithmetic.f80_mul, a, b, control)
        case _:
            return m.call(arithmetic.f80_div, a, b, control)


def _operation(name: str) -> Procedure:
    def describe(m: Microcode, a: Value, b: Value, index: Value, pops: Value) -> None:
        made = m.var(128, x87.underflow(m))
        with m.If(~(a | b).msb()):
            made.v = _result(m, name, a, b)
        m.return_(m.call(x87.x87_commit, made.v, index, pops, C1))

    made = Procedure(f"x87_{name}", (("a", 128), ("b", 128), ("index", 8), ("pops", 8)), 1, describe)
    made.__doc__ = "Compute, put the result into ST(index), pop; returns whether an exception is not masked."
    return made


_OPERATIONS: Final = {name: _operation(name) for name in ("add", "sub", "mul", "div")}
_NAMES: Final = tuple(f"F{i}{name}" for name in ("ADD", "MUL", "SUB", "SUBR", "DIV", "DIVR") for i in ("", "I"))


@instruction(*_NAMES, *(f"{name}P" for name in _NAMES if name[1] != "I"))
def FADD(x: Insn, *operands: Operand) -> None:
    """Add, subtract, multiply, divide: ST(0) and memory, or ST(0) and a register, either of them the destination."""
    m = x.m
    name = x.row.mnemonic.removeprefix("FI").removeprefix("F").lower()
    pops = name.endswith("p")
    name = name.removesuffix("p")
    reverse = name.endswith("r")
    memory = operands[0] if isinstance(operands[0], Memory) else None
    x87_common.ready(x, memory)
    index: Value | int = 0
    if memory is not None:
        b = widened(memory, x.row.operands[0])
        a = x87.operand(m, 0)
    else:
        dst, src = operands
        assert isinstance(dst, StackRegister)
        assert isinstance(src, StackRegister)
        a, b, index = x87.operand(m, dst.number), x87.operand(m, src.number), dst.number
    if reverse:
        a, b = b, a
    unmasked = m.call(_OPERATIONS[name.removesuffix("r")], a, b, index, int(pops))
    x87_common.note(x, unmasked, memory)


def _unary(x: Insn, made: Value, value: Value, codes: int = C1) -> None:
    """Put a result into ST(0), or what an empty register gives."""
    m = x.m
    x87_common.note(x, x87.commit(m, m.select(value.msb(), x87.underflow(m), made), codes=codes))


@instruction("FCHS", "FABS")
def FCHS(x: Insn) -> None:
    """Change the sign, whatever ST(0) is."""
    x87_common.ready(x)
    value = x87.operand(x.m, 0)
    sign = 1 << 79
    _unary(x, value ^ sign if x.row.mnemonic == "FCHS" else value & ~sign, value)


@instruction()
def FSQRT(x: Insn) -> None:
    """Square root."""
    x87_common.ready(x)
    value = x87.operand(x.m, 0)
    _unary(x, x.m.call(arithmetic.f80_sqrt, value, x87.control(x.m)), value)


@instruction()
def FRNDINT(x: Insn) -> None:
    """Round to an integer."""
    x87_common.ready(x)
    value = x87.operand(x.m, 0)
    _unary(x, x.m.call(convert.f80_round_to_integer, value, x87.control(x.m)), value)


@instruction()
def FSCALE(x: Insn) -> None:
    """ST(0) times 2 to the power of ST(1)."""
    x87_common.ready(x)
    a, b = x87.operand(x.m, 0), x87.operand(x.m, 1)
    _unary(x, x.m.call(remainder.f80_scale, a, b, x87.control(x.m)), a | b)


@instruction("FPREM", "FPREM1")
def FPREM(x: Insn) -> None:
    """Partial remainder, with the quotient's low bits, or C2 where it is not yet complete."""
    m = x.m
    x87_common.ready(x)
    a, b = x87.operand(m, 0), x87.operand(m, 1)
    nearest = int(x.row.mnemonic == "FPREM1")
    made = m.call(remainder.f80_remainder, a, b, nearest, x87.control(m))
    made = m.select((a | b).msb(), x87.underflow(m), made)
    # C2 is cleared in any case; C0 and C3 stay where there is no quotient.
    x87.set_status(m, x87.status(m) & ~C2)
    codes = m.select(Extended(made).nan, C1, C0 | C1 | C2 | C3, 16)
    x87_common.note(x, m.call(x87.x87_commit, made, 0, 0, codes))


@procedure(result=1)
def x87_extract(m: Microcode) -> None:
    """FXTRACT: the exponent into ST(0), then the significand on top of it."""
    value = x87.operand(m, 0)
    with m.If(value.msb()):
        made = x87.underflow(m)
        with m.If(m.call(x87.x87_commit, made, 0, 0, C1)):
            m.return_(1)
        m.return_(m.call(x87.x87_push, made))
    exponent, significand = m.call(remainder.f80_exponent, value), m.call(remainder.f80_significand, value)
    with m.If(~x87.is_empty(m, x87.register(m, 7))):
        overflow = m.const(128, (1 << 80) - 1 & 0xFFFFC000000000000000 | x87.OVERFLOW << STATUS_AT)
        with m.If(m.call(x87.x87_commit, overflow, 0, 0, C1)):
            m.return_(1)
        m.return_(m.call(x87.x87_push, overflow))
    unmasked = m.call(x87.x87_commit, exponent, 0, 0, C1)
    made = (exponent >> STATUS_AT).trunc(16)
    stops = ~x87.control(m) & made & (X87Status.IE | X87Status.DE | ZE)
    with m.If(stops != 0):
        m.return_(1)
    m.call(x87.x87_push, significand)
    m.return_(unmasked)


@instruction()
def FXTRACT(x: Insn) -> None:
    """Exponent and significand."""
    x87_common.ready(x)
    x87_common.note(x, x.m.call(x87_extract))
