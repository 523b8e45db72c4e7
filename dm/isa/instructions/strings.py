"""String instructions (SDM vol. 2, MOVS CMPS SCAS LODS STOS INS OUTS, REP).

Every iteration is an instruction boundary: registers are right after each, and a fault leaves them as the iteration
found them.
"""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.features import is_amd, is_amd_1a
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.instructions.io import permit
from dm.machine.architecture import Eflags
from dm.machine.state import Gpr
from dm.microcode import Value


def _begin(x: Insn) -> None:
    """With REP and a count of 0 nothing happens."""
    if x.variant.rep:
        with x.m.If(x.count_register(Gpr.CX).read() == 0):
            x.m.end(ends.NEXT)


def _advance(x: Insn, width: int, *indexes: int, by: Value | None = None) -> None:
    """Move SI or DI past one element, or ``by`` elements (32 bits), in the direction of DF."""
    m = x.m
    distance = m.const(32, width // 8) if by is None else by << (width // 8).bit_length() - 1
    distance = m.select(flags.flag(m, Eflags.DF), -distance, distance).fit(x.asize)
    for index in indexes:
        register = x.count_register(index)
        register.write(register.read() + distance)


def _end(x: Insn, done: Value | None = None, by: Value | None = None) -> None:
    """Count one iteration, or ``by`` (32 bits); go on unless the count has run out or ``done`` holds.

    RF is set after every iteration but the last: an event that comes there pushes it, and a breakpoint on the
    instruction does not strike again (SDM vol. 3B, 17.3.1.1).
    """
    if not x.variant.rep:
        return
    m = x.m
    count = x.count_register(Gpr.CX)
    left = count.read() - (1 if by is None else by.fit(x.asize))
    count.write(left)
    over = left == 0
    with m.If(over if done is None else over | done):
        flags.set_flag(m, Eflags.RF, 0)
        m.end(ends.NEXT)
    flags.set_flag(m, Eflags.RF, 1)
    m.end(ends.REPEAT, 1 if by is None else by)


def _count(x: Insn) -> tuple[Value, Value, Value]:
    """Return what block primitives need: elements wanted, DF, and whether addresses have 32 bits."""
    return x.count_register(Gpr.CX).read().fit(32), flags.flag(x.m, Eflags.DF), x.m.const(1, x.asize == 32)


def _end_of_block(x: Insn, width: int, moved: Value, *indexes: int) -> None:
    """End the instruction here when a block was ``moved``."""
    with x.m.If(moved != 0):
        _advance(x, width, *indexes, by=moved)
        _end(x, by=moved)


@instruction("MOVSB", "MOVSW")
def MOVS(x: Insn, dst: Memory, src: Memory) -> None:
    """Copy an element from DS:SI (or another segment) to ES:DI; from or to a device under REP many at once."""
    _begin(x)
    if x.variant.rep:
        places = dst.segment, dst.offset(), src.segment, src.offset()
        moved = x.m.call(p.MOVE_BLOCK[src.width], *places, *_count(x))
        _end_of_block(x, src.width, moved, Gpr.SI, Gpr.DI)
    dst.write(src.read())
    _advance(x, src.width, Gpr.SI, Gpr.DI)
    _end(x)


@instruction("STOSB", "STOSW")
def STOS(x: Insn, dst: Memory, src: Operand) -> None:
    """Store the accumulator at ES:DI; to a device under REP many times at once."""
    _begin(x)
    if x.variant.rep:
        moved = x.m.call(p.FILL_BLOCK[src.width], dst.segment, dst.offset(), src.read(), *_count(x))
        _end_of_block(x, src.width, moved, Gpr.DI)
    dst.write(src.read())
    _advance(x, src.width, Gpr.DI)
    _end(x)


@instruction("LODSB", "LODSW")
def LODS(x: Insn, dst: Operand, src: Memory) -> None:
    """Load the accumulator from DS:SI; from a device under REP many times at once."""
    _begin(x)
    if x.variant.rep:
        m = x.m
        read = m.call(p.READ_BLOCK[src.width], src.segment, src.offset(), *_count(x))
        moved = (read >> 32).trunc(32)
        with m.If(moved != 0):
            dst.write(read.trunc(src.width))
            _advance(x, src.width, Gpr.SI, by=moved)
            _end(x, by=moved)
    dst.write(src.read())
    _advance(x, src.width, Gpr.SI)
    _end(x)


def _compare(x: Insn, a: Value, b: Value, *indexes: int) -> None:
    """Set the flags of a comparison; under REP Intel's parts do it at the end of the whole instruction only."""
    m = x.m
    result = a - b

    def set_flags() -> None:
        flags.sub(m, a, b, result)

    if not x.variant.rep:
        set_flags()
        _advance(x, a.width, *indexes)
        return
    # REPE goes on while equal, REPNE while not.
    done = result != 0 if x.variant.rep == "repe" else result == 0
    over = done | (x.count_register(Gpr.CX).read() == 1)
    with m.If(over | is_amd(m)):
        set_flags()
    _advance(x, a.width, *indexes)
    _end(x, done)


@instruction("CMPSB", "CMPSW")
def CMPS(x: Insn, first: Memory, second: Memory) -> None:
    """Compare the element at DS:SI with that at ES:DI.

    Which is read first shows when both fault, and to devices: Intel's parts begin with ES:DI.  AMD's do so up to family
    19h, but for REPE CMPSB; later ones, and that form, begin with DS:SI (measured).
    """
    m = x.m
    _begin(x)
    first.offset(), second.offset()  # known on both paths
    a, b = m.var(first.width, 0), m.var(first.width, 0)
    with m.If(is_amd(m) if x.variant.rep == "repe" and first.width == 8 else is_amd_1a(m)):
        a.v = first.read()
        b.v = second.read()
    with m.Else():
        b.v = second.read()
        a.v = first.read()
    _compare(x, a.v, b.v, Gpr.SI, Gpr.DI)


@instruction("SCASB", "SCASW")
def SCAS(x: Insn, accumulator: Operand, element: Operand) -> None:
    """Compare the accumulator with the element at ES:DI."""
    _begin(x)
    _compare(x, accumulator.read(), element.read(), Gpr.DI)


@instruction("INSB", "INSW")
def INS(x: Insn, dst: Memory, port: Operand) -> None:
    """Read port DX into ES:DI; under REP as many elements at once as can be moved.

    The permission is needed even when the count is 0 (AMD hardware).
    """
    m = x.m
    number = port.read()
    permit(x, number, dst.width)
    _begin(x)
    if not x.variant.rep:
        # The port must not be asked for what cannot be stored.
        m.call(p.PROBE_WRITE, dst.segment, dst.offset(), dst.width // 8)
        dst.write(m.call(p.PORT_IN[dst.width], number))
        _advance(x, dst.width, Gpr.DI)
        return
    wanted = x.count_register(Gpr.CX).read().fit(32)
    down, wide = flags.flag(m, Eflags.DF), m.const(1, x.asize == 32)
    moved = m.call(p.PORT_IN_BLOCK[dst.width], number, dst.offset(), wanted, down, wide)
    _advance(x, dst.width, Gpr.DI, by=moved)
    _end(x, by=moved)


@instruction("OUTSB", "OUTSW")
def OUTS(x: Insn, port: Operand, src: Memory) -> None:
    """Write the element at DS:SI to port DX; under REP as many at once as can be moved."""
    m = x.m
    number = port.read()
    permit(x, number, src.width)
    _begin(x)
    if not x.variant.rep:
        m.call(p.PORT_OUT[src.width], number, src.read())
        _advance(x, src.width, Gpr.SI)
        return
    wanted = x.count_register(Gpr.CX).read().fit(32)
    down, wide = flags.flag(m, Eflags.DF), m.const(1, x.asize == 32)
    moved = m.call(p.PORT_OUT_BLOCK[src.width], number, src.segment, src.offset(), wanted, down, wide)
    _advance(x, src.width, Gpr.SI, by=moved)
    _end(x, by=moved)
