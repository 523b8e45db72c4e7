"""The stack (SDM vol. 2, PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE).

The stack pointer is SP or ESP by SS.B, whatever the operand size; the rest of ESP stays.
"""

from __future__ import annotations

from dm.isa import ends, flags
from dm.isa import primitives as p
from dm.isa.cells import CPL, GPR32, MODEL, STACK_MASK
from dm.isa.features import before_386, is_amd, is_amd_or_old
from dm.isa.insn import Insn, Memory, Operand, Special, instruction
from dm.isa.instructions import segments
from dm.isa.mechanisms import mode
from dm.machine.architecture import Cr4, Eflags, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value


def stack_offset(m: Microcode, pointer: Value) -> Value:
    """Return ``pointer`` as an offset in SS, 32 bits: wrapped to the size of the stack pointer."""
    return pointer & m.get(STACK_MASK)


def with_stack_pointer(m: Microcode, register: Value, pointer: Value) -> Value:
    """Return ``register`` with its SP, or all of it, replaced by that of ``pointer`` (32 bits all)."""
    mask = m.get(STACK_MASK)
    return (register & ~mask) | (pointer & mask)


def moved(m: Microcode, distance: Value | int) -> Value:
    """Return ESP as it is ``distance`` bytes further up (may be negative), 32 bits."""
    esp = m.get(GPR32, Gpr.SP)
    return with_stack_pointer(m, esp, esp + distance)


def set_esp(m: Microcode, esp: Value) -> None:
    """Set all of ESP."""
    m.set(GPR32, esp, Gpr.SP)


def push(m: Microcode, value: Value) -> None:
    """Push 16 or 32 bits; ESP moves after the write has been accepted."""
    esp = moved(m, -(value.width // 8))
    m.call(p.STORE[value.width], Seg.SS, stack_offset(m, esp), value)
    set_esp(m, esp)


def top(m: Microcode, width: int, distance: int = 0) -> Value:
    """Return the value ``distance`` bytes above the stack pointer, without moving it."""
    return m.call(p.LOAD[width], Seg.SS, stack_offset(m, m.get(GPR32, Gpr.SP) + distance))


@instruction()
def PUSH(x: Insn, src: Operand) -> None:
    """Push.  SP itself is pushed as it was before, on every part from the 286 on."""
    if isinstance(src, Special):
        _push_segment(x, src)
    else:
        push(x.m, src.read())


def _push_segment(x: Insn, src: Special) -> None:
    """With a 32-bit operand Intel's parts write the lower half of the slot, AMD's zero-extend."""
    m = x.m
    selector = src.read()
    if x.osize == 16:
        push(m, selector)
        return
    esp = moved(m, -4)
    with m.If(is_amd(m)):
        m.call(p.STORE[32], Seg.SS, stack_offset(m, esp), selector.zext(32))
    with m.Else():
        m.call(p.STORE[16], Seg.SS, stack_offset(m, esp), selector)
    set_esp(m, esp)


@instruction()
def POP(x: Insn, dst: Operand) -> None:
    """Pop.  An address made of ESP uses the incremented one; POP ESP keeps the value popped."""
    m = x.m
    esp = moved(m, x.osize // 8)
    if isinstance(dst, Special):
        segments.load_register(x, dst.number, _segment_slot(x))
        set_esp(m, esp)
        segments.end_load(x, dst.number)
        return
    value = top(m, x.osize)
    if isinstance(dst, Memory):
        Memory(x, x.osize, x.source_segment, lambda: x.effective_offset(esp=esp)).write(value)
        set_esp(m, esp)
    else:
        set_esp(m, esp)
        dst.write(value)


def _segment_slot(x: Insn) -> Value:
    """Return the selector on top of the stack: of a doubleword's slot Intel's parts read the lower half only."""
    m = x.m
    if x.osize == 16:
        return top(m, 16)
    selector = m.var(16, 0)
    with m.If(is_amd(m)):
        selector.v = top(m, 32).trunc(16)
    with m.Else():
        selector.v = top(m, 16)
    return selector.v


class _Frame:
    """Pushes of one instruction that change ESP only at its end.  ``pointer`` is where the stack pointer would be.

    What has been pushed stays in memory when a later access of the instruction faults (measured, Intel's and AMD's).
    """

    def __init__(self, x: Insn) -> None:
        self.x = x
        x.m.call(p.KEEP)
        self.pointer = x.m.var(32, x.m.get(GPR32, Gpr.SP))

    def push(self, value: Value) -> None:
        """Push one element of the operand size."""
        m = self.x.m
        self.pointer.v = with_stack_pointer(m, self.pointer.v, self.pointer.v - value.width // 8)
        m.call(p.STORE[value.width], Seg.SS, stack_offset(m, self.pointer.v), value)


@instruction()
def PUSHA(x: Insn) -> None:
    """PUSHA, PUSHAD: push all eight registers, SP as it was at the start."""
    m = x.m
    stack = _Frame(x)
    for number in range(8):
        stack.push(x.register(number).read())
    set_esp(m, stack.pointer.v)


@instruction()
def POPA(x: Insn) -> None:
    """POPA, POPAD: pop all registers but SP, whose slot is read (a fault there is taken) and dropped.

    Registers popped before a fault keep what they have got (measured, Intel's and AMD's).
    """
    m = x.m
    m.call(p.KEEP)
    size = x.osize // 8
    for number in reversed(Gpr):
        value = top(m, x.osize, (7 - number) * size)
        if number != Gpr.SP:
            x.register(number).write(value)
    set_esp(m, moved(m, 8 * size))


@instruction()
def ENTER(x: Insn, size: Operand, level: Operand) -> None:
    """Make a stack frame: push the frame pointer, copy ``level`` - 1 outer ones, add its own, reserve ``size``."""
    m = x.m
    step = x.osize // 8
    frame_pointer = x.register(Gpr.BP)
    depth = level.read() & 31
    outer = m.var(32, m.get(GPR32, Gpr.BP))
    stack = _Frame(x)
    stack.push(frame_pointer.read())
    frame = stack.pointer.v.fit(x.osize)
    if x.osize == 32:
        # Of a 16-bit stack Intel's parts subtract from all of ESP (the push goes to SP), AMD's and the 80386 from SP.
        frame = m.select(is_amd_or_old(m), frame, m.get(GPR32, Gpr.SP) - step)
    with m.If(depth != 0):
        left = m.var(8, depth - 1)
        with m.Loop():
            m.break_if(left.v == 0)
            left.v = left.v - 1
            outer.v = outer.v - step
            stack.push(m.call(p.LOAD[x.osize], Seg.SS, stack_offset(m, outer.v)))
        stack.push(frame)
    esp = with_stack_pointer(m, stack.pointer.v, stack.pointer.v - size.read().zext(32))
    # The new top of the stack must be writable although nothing is written there yet.
    m.call(p.PROBE_WRITE, Seg.SS, stack_offset(m, esp), step)
    frame_pointer.write(frame)
    set_esp(m, esp)


@instruction()
def LEAVE(x: Insn) -> None:
    """Drop a stack frame: SP = BP, pop BP."""
    m = x.m
    ebp = m.get(GPR32, Gpr.BP)
    value = m.call(p.LOAD[x.osize], Seg.SS, stack_offset(m, ebp))
    set_esp(m, with_stack_pointer(m, m.get(GPR32, Gpr.SP), ebp + x.osize // 8))
    x.register(Gpr.BP).write(value)


#: What PUSHFD shows: all but RF and VM.
_SHOWN = 0xFFFFFFFF ^ (Eflags.RF | Eflags.VM)
#: What POPF and POPFD can change at CPL 0, beside the arithmetic flags.
_WORD = Eflags.TF | Eflags.IF | Eflags.DF | Eflags.IOPL | Eflags.NT
_DOUBLEWORD = _WORD | Eflags.AC | Eflags.ID


@instruction()
def PUSHF(x: Insn) -> None:
    """PUSHF, PUSHFD.  In virtual-8086 mode below IOPL 3: #GP, or with VME a word with VIF in the place of IF."""
    m = x.m
    word = flags.eflags(m)
    sensitive = mode.virtual_8086(m) & (flags.iopl(m) != 3)
    if x.osize == 32:
        x.fault_if(sensitive, Vector.GP, 0, "IOPL")
        push(m, word & _SHOWN)
        return
    x.fault_if(sensitive & ~mode.cr4_bit(m, Cr4.VME), Vector.GP, 0, "IOPL")
    virtual = (word & (0xFFFFFFFF ^ Eflags.IF)) | word.has(Eflags.VIF).at(Eflags.IF, 32) | Eflags.IOPL
    push(m, m.select(sensitive, virtual, word).trunc(16))


@instruction()
def POPF(x: Insn) -> None:
    """POPF, POPFD: what changes depends on CPL, IOPL and mode (SDM vol. 2, POPF, table 4-19)."""
    m = x.m
    iopl = flags.iopl(m)
    virtual = mode.virtual_8086(m)
    sensitive = virtual & (iopl != 3)
    if x.osize == 32:
        x.fault_if(sensitive, Vector.GP, 0, "IOPL")
    else:
        x.fault_if(sensitive & ~mode.cr4_bit(m, Cr4.VME), Vector.GP, 0, "IOPL")
    new = top(m, x.osize).zext(32)
    if x.osize == 16:
        with m.If(sensitive):
            _pop_virtual_flags(x, new)
    cpl = m.get(CPL)
    changeable = m.const(32, _WORD)
    if x.osize == 32:
        # AC came with the 486, ID with CPUID.
        changeable = m.select(m.get(MODEL) < 4, m.const(32, _WORD), m.const(32, _DOUBLEWORD))
    fixed = m.select(cpl != 0, m.const(32, Eflags.IOPL), m.const(32, 0))
    # A 80286 keeps IOPL and NT clear in real-address mode.
    clear = before_386(m) & ~mode.pe(m)
    fixed = fixed | m.select(clear, m.const(32, Eflags.IOPL | Eflags.NT), m.const(32, 0))
    fixed = fixed | m.select(cpl > iopl, m.const(32, Eflags.IF), m.const(32, 0))
    _replace_flags(x, new, changeable & ~fixed)


def _pop_virtual_flags(x: Insn, new: Value) -> None:
    """POPF in virtual-8086 mode with VME below IOPL 3: IF goes to VIF, IOPL and the real IF stay."""
    m = x.m
    waiting = flags.flag(m, Eflags.VIP) & new.has(Eflags.IF)
    x.fault_if(waiting | new.has(Eflags.TF), Vector.GP, 0, "VME_FLAGS")
    image = new | new.has(Eflags.IF).at(Eflags.VIF, 32)
    _replace_flags(x, image, m.const(32, Eflags.DF | Eflags.NT | Eflags.VIF))


def _replace_flags(x: Insn, new: Value, mask: Value) -> None:
    """Set the flags of ``mask`` and the arithmetic ones from ``new``, release its slot, end the instruction."""
    m = x.m
    old = flags.eflags(m)
    mask = mask | Eflags.STATUS
    flags.set_eflags(m, (old & ~mask) | (new & mask))
    set_esp(m, moved(m, x.osize // 8))
    ends.checkpoint(m)
