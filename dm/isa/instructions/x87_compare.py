"""x87 comparisons and classification (SDM vol. 1, 8.3.6)."""

from __future__ import annotations

from typing import Final

from dm.isa import flags
from dm.isa.insn import Insn, Memory, Operand, StackRegister, instruction
from dm.isa.instructions import x87_common
from dm.isa.instructions.x87_move import widened
from dm.isa.mechanisms import x87
from dm.isa.softfloat.compare import C0, C2, C3, UNORDERED, f80_class, f80_compare
from dm.isa.softfloat.formats import C1
from dm.machine.architecture import Eflags, X87Status
from dm.microcode import Microcode, Value, procedure

_CODES: Final = C0 | C1 | C2 | C3
#: Where FCOMI puts what FCOM has in condition codes.
_FLAGS: Final = ((C0, Eflags.CF), (C2, Eflags.PF), (C3, Eflags.ZF))


@procedure(result=16, a=128, b=128, quiet=1)
def x87_comparison(m: Microcode, a: Value, b: Value, quiet: Value) -> None:
    """Condition codes and flags; an empty register is unordered."""
    with m.If((a | b).msb()):
        m.return_(UNORDERED | x87.UNDERFLOW)
    m.return_(m.call(f80_compare, a, b, quiet))


def _compare(x: Insn, b: Value, quiet: bool, pops: int, memory: Memory | None = None) -> None:
    m = x.m
    made = m.call(x87_comparison, x87.operand(m, 0), b, int(quiet))
    x87_common.note(x, m.call(x87.x87_compared, made, pops, _CODES), memory)


@instruction("FCOM", "FCOMP", "FICOM", "FICOMP", "FUCOM", "FUCOMP")
def FCOM(x: Insn, src: Operand) -> None:
    """Compare ST(0) with a register or memory; FUCOM takes quiet NaNs."""
    name = x.row.mnemonic
    memory = src if isinstance(src, Memory) else None
    x87_common.ready(x, memory)
    if memory is not None:
        b = widened(memory, x.row.operands[0])
    else:
        assert isinstance(src, StackRegister)
        b = x87.operand(x.m, src.number)
    _compare(x, b, name.startswith("FU"), int(name.endswith("P")), memory)


@instruction("FCOMPP", "FUCOMPP")
def FCOMPP(x: Insn) -> None:
    """Compare ST(0) with ST(1) and pop both."""
    x87_common.ready(x)
    _compare(x, x87.operand(x.m, 1), x.row.mnemonic.startswith("FU"), 2)


@instruction()
def FTST(x: Insn) -> None:
    """Compare ST(0) with zero."""
    x87_common.ready(x)
    _compare(x, x.m.const(128, 0), False, 0)


@instruction("FCOMI", "FCOMIP", "FUCOMI", "FUCOMIP")
def FCOMI(x: Insn, dst: StackRegister, src: StackRegister) -> None:
    """Compare ST(0) with a register and set ZF PF CF; OF SF AF are cleared."""
    m, name = x.m, x.row.mnemonic
    x87_common.ready(x)
    quiet = int(name.startswith("FU"))
    made = m.call(x87_comparison, x87.operand(m, 0), x87.operand(m, src.number), quiet)
    codes = m.select(made.has(X87Status.SF), C1, 0, 16)
    carry, parity, zero = (made.has(code).at(flag, 32) for code, flag in _FLAGS)
    flags.set_arithmetic(m, carry | parity | zero)
    unmasked = m.call(x87.x87_compared, made & ~(C0 | C2 | C3), int(name.endswith("P")), codes)
    x87_common.note(x, unmasked)


@instruction()
def FXAM(x: Insn) -> None:
    """Classify ST(0); nothing is invalid."""
    m = x.m
    x87_common.ready(x)
    value = x87.operand(m, 0)
    made = m.select(value.msb(), m.const(16, C3 | C0) | (value.bit(79).zext(16) << 9), m.call(f80_class, value))
    x87.set_status(m, (x87.status(m) & ~_CODES) | made)
    x87_common.note(x, m.const(1, 0))
