"""Addition, subtraction, comparison (SDM vol. 2, ADD ADC SUB SBB CMP INC DEC NEG XADD CMPXCHG CMPXCHG8B ADCX BOUND)."""

from __future__ import annotations

from dm.isa import flags
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.machine.architecture import Eflags, Vector


@instruction()
def ADD(x: Insn, dst: Operand, src: Operand) -> None:
    """Add."""
    b = src.read()
    a = dst.read_modify()
    result = a + b
    dst.write_back(result)
    flags.add(x.m, a, b, result)


@instruction()
def ADC(x: Insn, dst: Operand, src: Operand) -> None:
    """Add with carry."""
    b = src.read()
    a = dst.read_modify()
    result = a + b + flags.carry(x.m).zext(a.width)
    dst.write_back(result)
    flags.add(x.m, a, b, result)


@instruction()
def SUB(x: Insn, dst: Operand, src: Operand) -> None:
    """Subtract."""
    b = src.read()
    a = dst.read_modify()
    result = a - b
    dst.write_back(result)
    flags.sub(x.m, a, b, result)


@instruction()
def SBB(x: Insn, dst: Operand, src: Operand) -> None:
    """Subtract with borrow."""
    b = src.read()
    a = dst.read_modify()
    result = a - b - flags.carry(x.m).zext(a.width)
    dst.write_back(result)
    flags.sub(x.m, a, b, result)


@instruction()
def CMP(x: Insn, dst: Operand, src: Operand) -> None:
    """Compare: subtract, keeping the flags only."""
    b = src.read()
    a = dst.read()
    flags.sub(x.m, a, b, a - b)


@instruction()
def INC(x: Insn, dst: Operand) -> None:
    """Add 1; CF stays."""
    a = dst.read_modify()
    result = a + 1
    dst.write_back(result)
    flags.add(x.m, a, x.m.const(a.width, 1), result, keep_carry=True)


@instruction()
def DEC(x: Insn, dst: Operand) -> None:
    """Subtract 1; CF stays."""
    a = dst.read_modify()
    result = a - 1
    dst.write_back(result)
    flags.sub(x.m, a, x.m.const(a.width, 1), result, keep_carry=True)


@instruction()
def NEG(x: Insn, dst: Operand) -> None:
    """Subtract from 0."""
    a = dst.read_modify()
    result = -a
    dst.write_back(result)
    flags.sub(x.m, x.m.const(a.width, 0), a, result)


@instruction()
def XADD(x: Insn, dst: Operand, src: Operand) -> None:
    """Exchange and add.  With one register as both operands the sum stays."""
    b = src.read()
    a = dst.read_modify()
    result = a + b
    # A locked write may have to start the instruction over, so memory is written before any register.
    if dst.memory:
        dst.write_back(result)
        src.write(a)
    else:
        src.write(a)
        dst.write(result)
    flags.add(x.m, a, b, result)


@instruction()
def CMPXCHG(x: Insn, dst: Operand, src: Operand) -> None:
    """Compare with the accumulator and exchange.  The destination is written in any case."""
    m = x.m
    accumulator = x.register(0, dst.width)
    a, b = accumulator.read(), src.read()
    old = dst.read_modify()
    equal = a == old
    dst.write_back(m.select(equal, b, old))
    with m.If(~equal):
        accumulator.write(old)
    flags.sub(m, a, old, a - old)


@instruction()
def CMPXCHG8B(x: Insn, dst: Operand) -> None:
    """Compare EDX:EAX with eight bytes and exchange them for ECX:EBX; of the flags only ZF changes."""
    m = x.m
    eax, ecx, edx, ebx = (x.register(number, 32) for number in range(4))
    expected = eax.read().zext(64) | (edx.read().zext(64) << 32)
    new = ebx.read().zext(64) | (ecx.read().zext(64) << 32)
    old = dst.read_modify()
    equal = expected == old
    dst.write_back(m.select(equal, new, old))
    with m.If(~equal):
        eax.write(old.trunc(32))
        edx.write((old >> 32).trunc(32))
    flags.set_arithmetic(m, (flags.eflags(m) & (Eflags.STATUS ^ Eflags.ZF)) | equal.at(Eflags.ZF, 32))


@instruction()
def ADCX(x: Insn, dst: Operand, src: Operand) -> None:
    """Add with CF, changing CF alone."""
    total = src.read().zext(64) + dst.read().zext(64) + flags.carry(x.m).zext(64)
    dst.write(total.trunc(32))
    flags.set_carry(x.m, total.bit(32))


@instruction()
def ADOX(x: Insn, dst: Operand, src: Operand) -> None:
    """Add with OF as the carry, changing OF alone."""
    total = src.read().zext(64) + dst.read().zext(64) + flags.overflow(x.m).zext(64)
    dst.write(total.trunc(32))
    flags.set_overflow(x.m, total.bit(32))


@instruction()
def BOUND(x: Insn, index: Operand, bounds: Memory) -> None:
    """Raise #BR when a signed index is outside the two bounds in memory.

    The bounds are accesses of their own: the second may wrap to offset 0.  Intel's parts look at the first before they
    read the second.
    """
    value = index.read()
    lower = bounds.load(x.osize)
    x.fault_if(~is_amd(x.m) & value.slt(lower), Vector.BR, 0, "BOUND", value.fit(32), lower.fit(32))
    upper = bounds.load(x.osize, plus=x.osize // 8)
    x.fault_if(value.slt(lower) | upper.slt(value), Vector.BR, 0, "BOUND", value.fit(32), lower.fit(32), upper.fit(32))
