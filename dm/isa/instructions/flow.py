"""Near transfers of control (SDM vol. 2, JMP Jcc CALL RET LOOP JCXZ).

The target must lie within CS before anything is changed.  With a 16-bit operand size EIP is cut to 16 bits.
"""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import LIMIT
from dm.isa.features import is_amd
from dm.isa.insn import Constant, Insn, Operand, instruction
from dm.isa.instructions.stack import moved, push, set_esp, stack_offset, top
from dm.machine.architecture import CONDITIONS, Eflags, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Value


def _cut(x: Insn, target: Value) -> Value:
    """Return a target cut to the operand size, 32 bits."""
    return target.fit(x.osize).fit(32)


def _checked(x: Insn, target: Value) -> Value:
    """Return a target cut to the operand size; #GP(0) beyond the limit of CS."""
    target = _cut(x, target)
    limit = x.m.get(LIMIT, Seg.CS)
    x.fault_if(target > limit, Vector.GP, 0, "CS_LIMIT", target, limit)
    return target


def _relative(x: Insn, distance: Operand) -> Value:
    return _checked(x, ends.next_eip(x.m) + distance.read())


@instruction()
def JMP(x: Insn, where: Operand) -> None:
    """Jump."""
    if isinstance(where, Constant):
        x.m.end(ends.JUMP, _relative(x, where))
    else:
        x.m.end(ends.JUMP_INDIRECT, _checked(x, where.read()))


@instruction()
def XBEGIN(x: Insn, where: Operand) -> None:
    """Begin a transaction, which every part may abort at once: EAX = 0 (no reason given), and on at the fallback."""
    target = _relative(x, where)
    x.register(Gpr.AX, 32).write(x.m.const(32, 0))
    x.m.end(ends.JUMP, target)


@instruction()
def XABORT(x: Insn, _: Operand) -> None:
    """Abort the transaction: nothing, since none is ever running."""


@instruction()
def XEND(x: Insn) -> None:
    """End the transaction: #GP(0) outside one."""
    x.fault(Vector.GP, 0, "NO_TRANSACTION")


@instruction()
def XTEST(x: Insn) -> None:
    """ZF says that no transaction is running; the other arithmetic flags are cleared."""
    flags.set_arithmetic(x.m, x.m.const(32, Eflags.ZF))


@instruction(*(f"J{name}" for name in CONDITIONS))
def J(x: Insn, where: Operand) -> None:
    """Jump where the condition holds."""
    with x.m.If(flags.condition(x.m, x.row.opcode & 15)):
        x.m.end(ends.JUMP, _relative(x, where))


@instruction()
def CALL(x: Insn, where: Operand) -> None:
    """Push the address of the next instruction and jump."""
    m = x.m
    direct = isinstance(where, Constant)
    target = _cut(x, ends.next_eip(m) + where.read() if direct else where.read())
    limit = m.get(LIMIT, Seg.CS)
    back = ends.next_eip(m).fit(x.osize)
    with m.If(target > limit):
        # Hardware looks at the stack first (the manual has it the other way round); Intel's parts have pushed by then,
        # although ESP stays.
        at = stack_offset(m, moved(m, -(x.osize // 8)))
        with m.If(is_amd(m)):
            m.call(p.PROBE_WRITE, Seg.SS, at, x.osize // 8)
        with m.Else():
            m.call(p.KEEP)
            m.call(p.STORE[x.osize], Seg.SS, at, back)
        x.fault(Vector.GP, 0, "CS_LIMIT", target, limit)
    push(m, back)
    m.end(ends.JUMP if direct else ends.JUMP_INDIRECT, target)


@instruction()
def RET(x: Insn, parameters: Operand | None = None) -> None:
    """Pop the address of the next instruction, release the parameters."""
    m = x.m
    target = _checked(x, top(m, x.osize))
    size = x.osize // 8
    released = m.const(32, size) if parameters is None else parameters.read().zext(32) + size
    set_esp(m, moved(m, released))
    m.end(ends.JUMP_INDIRECT, target)


def _loop(x: Insn, where: Operand, also: Value | None = None) -> None:
    """Count down; jump where the count is not 0 and ``also`` holds.  A fault leaves the count alone."""
    m = x.m
    count = x.count_register(Gpr.CX)
    left = count.read() - 1
    again = left != 0
    with m.If(again if also is None else again & also):
        target = _relative(x, where)
        count.write(left)
        m.end(ends.JUMP, target)
    count.write(left)


@instruction()
def LOOP(x: Insn, where: Operand) -> None:
    """Count down (E)CX and jump while it is not 0."""
    _loop(x, where)


@instruction()
def LOOPE(x: Insn, where: Operand) -> None:
    """The same while ZF is set."""
    _loop(x, where, _zero_or_by_prefix(x, "repe"))


@instruction()
def LOOPNE(x: Insn, where: Operand) -> None:
    """The same while ZF is clear."""
    _loop(x, where, ~_zero_or_by_prefix(x, "repne"))


def _zero_or_by_prefix(x: Insn, own: str) -> Value:
    """Return ZF; on AMD's parts the opposite REP prefix turns the condition round (measured)."""
    zero = flags.zero(x.m)
    return zero ^ is_amd(x.m) if x.variant.rep not in ("", own) else zero


@instruction()
def JCXZ(x: Insn, where: Operand) -> None:
    """JCXZ, JECXZ: jump where (E)CX, by address size, is 0."""
    with x.m.If(x.count_register(Gpr.CX).read() == 0):
        x.m.end(ends.JUMP, _relative(x, where))
