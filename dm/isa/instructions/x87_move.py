"""x87 loads, stores, exchanges, constants, and what only turns the stack (SDM vol. 1, 8.3.3, 8.3.4, 8.3.8)."""

from __future__ import annotations

from typing import Final

from dm.isa import flags
from dm.isa.insn import Insn, Memory, Operand, StackRegister, instruction
from dm.isa.instructions import x87_common
from dm.isa.mechanisms import x87
from dm.isa.softfloat import convert
from dm.isa.softfloat.formats import C1, F32, F64, INDEFINITE, STATUS_AT, UP, Format, with_status
from dm.machine.architecture import X87Control, X87Status
from dm.microcode import Microcode, Value, procedure

_FORMATS: Final[dict[str, Format]] = {"Msr": F32, "Mdr": F64}


def widened(memory: Memory, form: str) -> Value:
    """Read a real or integer operand in memory and return it in 80 bits."""
    m = memory.m
    if form in _FORMATS:
        return m.call(convert.WIDEN[_FORMATS[form]], memory.read())
    return m.call(convert.integer_to_f80, memory.read().sext(64))


@instruction()
def FLD(x: Insn, src: Operand) -> None:
    """Push a real: of memory, or a register."""
    m = x.m
    if isinstance(src, StackRegister):
        x87_common.ready(x)
        value = x87.operand(m, src.number)
        made = m.select(value.msb(), x87.underflow(m), value)
        x87_common.note(x, m.call(x87.x87_push, made))
        return
    assert isinstance(src, Memory)
    x87_common.ready(x, src)
    if x.row.operands == ("Mer",):
        value = src.load(64).zext(128) | (src.load(16, 8).zext(128) << 64)
    else:
        value = convert.loaded(m, widened(src, x.row.operands[0]))
    x87_common.note(x, m.call(x87.x87_push, value), src)


@instruction()
def FILD(x: Insn, src: Memory) -> None:
    """Push an integer."""
    x87_common.ready(x, src)
    x87_common.note(x, x.m.call(x87.x87_push, widened(src, x.row.operands[0])), src)


@instruction()
def FBLD(x: Insn, src: Memory) -> None:
    """Push a packed BCD integer."""
    m = x.m
    x87_common.ready(x, src)
    digits = src.load(64).zext(128) | (src.load(16, 8).zext(128) << 64)
    x87_common.note(x, m.call(x87.x87_push, m.call(convert.bcd_to_f80, digits)), src)


def _store(x: Insn, dst: Memory, made: Value, pops: int) -> None:
    """Store a result, unless an exception that is not masked keeps it, and commit."""
    m = x.m
    status = (made >> STATUS_AT).trunc(16)
    stops = X87Status.EXCEPTIONS & ~X87Status.PE
    with m.If((status & ~x87.control(m) & stops) == 0):
        if dst.width == 80:
            dst.store(made.trunc(64))
            dst.store((made >> 64).trunc(16), 8)
        else:
            dst.store(made.trunc(dst.width))
    x87_common.note(x, m.call(x87.x87_stored, status, pops), dst)


@procedure(result=128, narrow=8)
def x87_store_real(m: Microcode, narrow: Value) -> None:
    """ST(0) as FST stores it: in 32 bits (0), 64 bits (1), or as it is."""
    value = x87.operand(m, 0)
    empty = value.msb()
    with m.If(narrow == 0):
        with m.If(empty):
            m.return_(with_status(m.const(64, 0xFFC00000), x87.UNDERFLOW))
        m.return_(m.call(convert.NARROW[F32], value, x87.control(m)))
    with m.If(narrow == 1):
        with m.If(empty):
            m.return_(with_status(m.const(64, 0xFFF8 << 48), x87.UNDERFLOW))
        m.return_(m.call(convert.NARROW[F64], value, x87.control(m)))
    m.return_(m.select(empty, x87.underflow(m), value))


@instruction("FST", "FSTP")
def FST(x: Insn, dst: Operand) -> None:
    """Store ST(0) as a real in memory, or copy it to a register; FSTP pops."""
    m, pops = x.m, int(x.row.mnemonic == "FSTP")
    if isinstance(dst, StackRegister):
        x87_common.ready(x)
        value = x87.operand(m, 0)
        x87_common.note(x, x87.commit(m, m.select(value.msb(), x87.underflow(m), value), dst.number, pops))
        return
    assert isinstance(dst, Memory)
    x87_common.ready(x, dst)
    _store(x, dst, m.call(x87_store_real, ("Msr", "Mdr", "Mer").index(x.row.operands[0])), pops)


@instruction()
def FSTPNCE(x: Insn, dst: StackRegister) -> None:
    """D9 D8+i: FSTP without stack underflow; of an empty ST(0) nothing is stored (measured)."""
    m = x.m
    x87_common.ready(x)
    value = x87.operand(m, 0)
    with m.If(~value.msb()):
        number = x87.register(m, dst.number)
        x87.set_register(m, number, value)
        x87.set_tag(m, number, True)
    x87.set_status(m, x87.pop(m, x87.status(m) & ~C1))
    x87_common.note(x, m.const(1, 0))


@procedure(result=128, width=8, chop=1)
def x87_store_integer(m: Microcode, width: Value, chop: Value) -> None:
    """ST(0) as FIST stores it, or FISTTP, which rounds to zero."""
    value = x87.operand(m, 0)
    largest = (m.const(64, 1) << (width - 1)) - 1
    with m.If(value.msb()):
        m.return_(with_status(largest + 1, x87.UNDERFLOW))
    control = x87.control(m) | m.select(chop, X87Control.RC, 0, 16)
    m.return_(m.call(convert.f80_to_integer, value, control, largest, largest + 1))


@instruction("FIST", "FISTP", "FISTTP")
def FIST(x: Insn, dst: Memory) -> None:
    """Store ST(0) as an integer; FISTP and FISTTP pop."""
    name = x.row.mnemonic
    x87_common.ready(x, dst)
    _store(x, dst, x.m.call(x87_store_integer, dst.width, int(name == "FISTTP")), int(name != "FIST"))


@instruction()
def FBSTP(x: Insn, dst: Memory) -> None:
    """Store ST(0) as packed BCD and pop."""
    m = x.m
    x87_common.ready(x, dst)
    value = x87.operand(m, 0)
    digits = m.call(convert.f80_to_bcd, value, x87.control(m))
    empty = m.const(128, convert.BCD_INDEFINITE | x87.UNDERFLOW << STATUS_AT)
    _store(x, dst, m.select(value.msb(), empty, digits), 1)


@procedure(result=1, index=8)
def x87_exchange(m: Microcode, index: Value) -> None:
    """Exchange ST(0) and ST(index); what is empty of them takes part as the default NaN."""
    a, b = x87.operand(m, 0), x87.operand(m, index)
    default = m.const(128, INDEFINITE)
    made = m.select((a | b).msb(), x87.UNDERFLOW, 0, 16)
    first, second = m.select(b.msb(), default, b), m.select(a.msb(), default, a)
    m.call(x87.x87_commit, with_status(first, made), 0, 0, C1)
    m.return_(m.call(x87.x87_commit, with_status(second, made), index, 0, C1))


@instruction()
def FXCH(x: Insn, other: StackRegister) -> None:
    """Exchange ST(0) and a register."""
    x87_common.ready(x)
    x87_common.note(x, x.m.call(x87_exchange, other.number))


#: D9 E8-EE: the constant rounded down, and whether the nearest number, and that above, is the next one.
_CONSTANTS: Final = {
    "FLD1": (0x3FFF8000000000000000, False, False),
    "FLDL2T": (0x4000D49A784BCD1B8AFE, False, True),
    "FLDL2E": (0x3FFFB8AA3B295C17F0BB, True, True),
    "FLDPI": (0x4000C90FDAA22168C234, True, True),
    "FLDLG2": (0x3FFD9A209A84FBCFF798, True, True),
    "FLDLN2": (0x3FFEB17217F7D1CF79AB, True, True),
    "FLDZ": (0, False, False),
}


@instruction(*_CONSTANTS)
def CONSTANT(x: Insn) -> None:
    """Push a constant, rounded as rounding control says (SDM vol. 2A, FLD1)."""
    m = x.m
    x87_common.ready(x)
    below, nearest, above = _CONSTANTS[x.row.mnemonic]
    value = m.const(128, below)
    if above:
        mode = x87.control(m).field(X87Control.RC)
        up = (mode == UP) | ((mode == 0) if nearest else m.const(1, 0))
        value = value + up.zext(128)
    x87_common.note(x, m.call(x87.x87_push, value))


@instruction(*(f"FCMOV{cc}" for cc in ("B", "E", "BE", "U", "NB", "NE", "NBE", "NU")))
def FCMOV(x: Insn, dst: StackRegister, src: StackRegister) -> None:
    """Move a register to ST(0) where a condition holds; the other condition codes stay."""
    m = x.m
    x87_common.ready(x)
    name = x.row.mnemonic.removeprefix("FCMOV")
    code = {"B": 2, "E": 4, "BE": 6, "U": 10}[name.removeprefix("N")]
    moves = flags.condition(m, code + name.startswith("N"))
    old, new = x87.operand(m, 0), x87.operand(m, src.number)
    empty = (old | new).msb()
    made = m.select(empty, x87.underflow(m), m.select(moves, new, old))
    x87_common.note(x, m.call(x87.x87_commit, made, 0, 0, m.select(empty, C1, 0, 16)))


@instruction("FFREE", "FFREEP")
def FFREE(x: Insn, dst: StackRegister) -> None:
    """Mark a register empty; FFREEP pops."""
    m = x.m
    x87_common.ready(x)
    x87.set_tag(m, x87.register(m, dst.number), False)
    status = x87.status(m) & ~C1
    x87.set_status(m, x87.pop(m, status) if x.row.mnemonic == "FFREEP" else status)
    x87_common.note(x, m.const(1, 0))


@instruction("FINCSTP", "FDECSTP")
def FINCSTP(x: Insn) -> None:
    """Turn the stack; tags stay."""
    m = x.m
    x87_common.ready(x)
    status = x87.status(m)
    top = (status.field(X87Status.TOP) + (1 if x.row.mnemonic == "FINCSTP" else 7)) & 7
    x87.set_status(m, (status & ~(X87Status.TOP | C1)) | top.at(X87Status.TOP, 16))
    x87_common.note(x, m.const(1, 0))


@instruction()
def FNOP(x: Insn) -> None:
    """Nothing but what every instruction does."""
    x87_common.ready(x)
    x87_common.note(x, x.m.const(1, 0))
