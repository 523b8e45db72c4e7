"""Moves, conversions and exchanges (SDM vol. 2, MOV MOVZX MOVSX MOVBE MOVNTI CMOVcc SETcc XCHG XLAT LEA BSWAP CBW)."""

from __future__ import annotations

from dm.isa import features, flags
from dm.isa import primitives as p
from dm.isa.insn import Insn, Memory, Operand, Register, Special, instruction
from dm.isa.instructions import control, segments
from dm.isa.map.operands import CONTROL, SEGMENT, TEST
from dm.machine.architecture import CONDITIONS, Vector
from dm.machine.state import Seg


@instruction()
def MOV(x: Insn, dst: Operand, src: Operand) -> None:
    """Copy; to and from segment, control and debug registers by their owners' rules."""
    if isinstance(dst, Special):
        if dst.registers is SEGMENT:
            segments.move_to_segment(x, dst.number, src)
        elif dst.registers is CONTROL:
            control.move_to_cr(x, dst, src)
        elif dst.registers is TEST:
            control.test_register(x, dst)
        else:
            control.move_to_dr(x, dst, src)
    elif isinstance(src, Special):
        if src.registers is SEGMENT:
            _store_segment(x, dst, src)
        elif src.registers is CONTROL:
            control.move_from_cr(x, dst, src)
        elif src.registers is TEST:
            control.test_register(x, src)
        else:
            control.move_from_dr(x, dst, src)
    else:
        dst.write(src.read())


def _store_segment(x: Insn, dst: Operand, src: Special) -> None:
    """MOV Rv/Mw,Sw: a register is zero-extended to the operand size, memory always takes a word."""
    m = x.m
    last = m.select(features.before_386(m), m.const(8, Seg.DS), m.const(8, Seg.GS))
    x.fault_if(src.number > last, Vector.UD, 0, "NO_SUCH_SEGMENT", src.number.zext(32))
    selector = src.read()
    if isinstance(dst, Memory):
        dst.store(selector)
    else:
        dst.write(selector.zext(dst.width))


@instruction("MOVNTI", "MOVDIRI")
def MOVNTI(x: Insn, dst: Operand, src: Operand) -> None:
    """Store around the caches, which are not modelled."""
    dst.write(src.read())


@instruction()
def MOVBE(x: Insn, dst: Operand, src: Operand) -> None:
    """Copy with the bytes in the opposite order."""
    dst.write(src.read().bswap())


@instruction()
def MOVZX(x: Insn, dst: Operand, src: Operand) -> None:
    """Widen with zeros."""
    dst.write(src.read().zext(dst.width))


@instruction()
def MOVSX(x: Insn, dst: Operand, src: Operand) -> None:
    """Widen with the sign."""
    dst.write(src.read().sext(dst.width))


@instruction(*(f"CMOV{name}" for name in CONDITIONS))
def CMOV(x: Insn, dst: Operand, src: Operand) -> None:
    """Copy where the condition holds; the source is read in any case."""
    value = src.read()
    with x.m.If(flags.condition(x.m, x.row.opcode & 15)):
        dst.write(value)


@instruction(*(f"SET{name}" for name in CONDITIONS))
def SET(x: Insn, dst: Operand) -> None:
    """Store 1 where the condition holds, else 0."""
    dst.write(flags.condition(x.m, x.row.opcode & 15).zext(8))


@instruction()
def XCHG(x: Insn, dst: Operand, src: Operand) -> None:
    """Exchange; with memory always atomically, LOCK or not."""
    b = src.read()
    if isinstance(dst, Memory):
        dst.locked = True
    a = dst.read_modify()
    dst.write_back(b)
    src.write(a)


@instruction()
def XLAT(x: Insn) -> None:
    """Replace AL by the byte at eBX + AL."""
    al = x.register(0, 8)
    offset = x.wrap(x.register(3, 32).read() + al.read().zext(32))
    al.write(x.m.call(p.LOAD[8], x.source_segment, offset))


@instruction()
def LEA(x: Insn, dst: Operand, src: Memory) -> None:
    """Compute an address."""
    dst.write(src.offset().fit(dst.width))


@instruction()
def BSWAP(x: Insn, dst: Register) -> None:
    """Reverse the bytes of a dword.  With a word operand (undefined) the word becomes 0."""
    dst.write(dst.read().bswap() if dst.width == 32 else x.m.const(16, 0))


@instruction()
def CBW(x: Insn) -> None:
    """CBW, CWDE: widen the accumulator's lower half with its sign."""
    x.register(0).write(x.register(0, x.osize // 2).read().sext(x.osize))


@instruction()
def CWD(x: Insn) -> None:
    """CWD, CDQ: fill (E)DX with the accumulator's sign."""
    x.register(2).write(x.register(0).read().sar(x.osize - 1))
