"""The x87's registers and what all its instructions do: stack, tags, exceptions, pointers (SDM vol. 1, 8.1 and 8.5).

An instruction computes first, with procedures of :mod:`dm.isa.softfloat`, then stores to memory if it does, and commits
last: the commit raises exceptions, and leaves stack and destination alone where an unmasked one says so.
"""

from __future__ import annotations

from typing import Final

from dm.isa import features
from dm.isa.cells import FEATURES, FXSAVE, FXSAVE16, FXSAVE32, FXSAVE64, MORE_FEATURES, SELECTOR, cell
from dm.isa.softfloat.formats import C1, DE, IE, INDEFINITE, STATUS_AT, ZE
from dm.machine.architecture import X87Status
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

#: Offsets in the FXSAVE image (SDM vol. 1, table 10-2): control and status word, abridged tags, opcode, instruction and
#: data pointer with their selectors, registers.
FCW, FSW, FTW, FOP, FIP, FCS, FDP, FDS, REGISTERS = 0, 2, 4, 6, 8, 12, 16, 20, 32
#: Bits of the opcode register.
FOP_BITS: Final = 0x7FF
#: In an operand read from the stack: the register was empty.
EMPTY: Final = 1 << 127
#: The status of a stack underflow; an overflow sets C1 too.
UNDERFLOW: Final = IE | X87Status.SF
OVERFLOW: Final = UNDERFLOW | C1

_MISC_ENABLE: Final = cell("misc_enable")
#: IA32_MISC_ENABLE: the opcode register changes with every instruction, as before the Pentium 4 (SDM vol. 1, 8.1.9.1).
_FOPCODE_COMPATIBILITY: Final = 1 << 2


def control(m: Microcode) -> Value:
    """Return the control word."""
    return m.get(FXSAVE16, FCW)


def status(m: Microcode) -> Value:
    """Return the status word."""
    return m.get(FXSAVE16, FSW)


def set_status(m: Microcode, value: Value | int) -> None:
    """Replace the status word."""
    m.set(FXSAVE16, value, FSW)


def with_pending(m: Microcode, word: Value, masks: Value) -> Value:
    """Return a status word with ES and B as the exception flags in it and the masks of a control word say."""
    unmasked = (word & ~masks & X87Status.EXCEPTIONS) != 0
    return m.select(unmasked, word | X87Status.PENDING, word & ~X87Status.PENDING)


def register(m: Microcode, index: Value | int) -> Value:
    """Return the number of the register that is ST(index), 8 bits."""
    top = status(m).field(X87Status.TOP).trunc(8)
    return (top + index) & 7


def is_empty(m: Microcode, number: Value) -> Value:
    """Return whether a register is empty."""
    return ~m.get(FXSAVE, FTW).bit(number)


def set_tag(m: Microcode, number: Value, valid: bool) -> None:
    """Mark a register valid or empty."""
    bit = m.const(8, 1) << number
    tags = m.get(FXSAVE, FTW)
    m.set(FXSAVE, tags | bit if valid else tags & ~bit, FTW)


def _place(m: Microcode, number: Value) -> Value:
    return (number.zext(16) << 4) + REGISTERS


def get_register(m: Microcode, number: Value) -> Value:
    """Return the 80 bits of a register, in 128."""
    at = _place(m, number)
    return m.get(FXSAVE64, at).zext(128) | (m.get(FXSAVE16, at + 8).zext(128) << 64)


def set_register(m: Microcode, number: Value, value: Value) -> None:
    """Replace the 80 bits of a register."""
    at = _place(m, number)
    m.set(FXSAVE64, value.trunc(64), at)
    m.set(FXSAVE16, (value >> 64).trunc(16), at + 8)


@procedure(result=128, index=8)
def x87_operand(m: Microcode, index: Value) -> None:
    """ST(index), with :data:`EMPTY` where it is empty."""
    number = register(m, index)
    value = get_register(m, number)
    m.return_(m.select(is_empty(m, number), value | EMPTY, value))


def operand(m: Microcode, index: Value | int) -> Value:
    """Return ST(index), 128 bits, with :data:`EMPTY` where it is empty."""
    return m.call(x87_operand, index)


def underflow(m: Microcode) -> Value:
    """Return the result of an operation on an empty register."""
    return m.const(128, INDEFINITE | UNDERFLOW << STATUS_AT)


def pop(m: Microcode, word: Value) -> Value:
    """Mark ST(0) empty and return a status word with TOP one higher."""
    top = word.field(X87Status.TOP)
    set_tag(m, top.trunc(8), False)
    return (word & ~X87Status.TOP) | ((top + 1) & 7).at(X87Status.TOP, 16)


def _unmasked(m: Microcode, made: Value, of: int = X87Status.EXCEPTIONS) -> Value:
    return (made & ~control(m) & of) != 0


def _stopped(m: Microcode, made: Value) -> None:
    """Return 1 from the procedure at hand, with nothing done, for an unmasked exception found before the operation."""
    overflow = m.select(made.has(X87Status.SF), C1, 0, 16)
    kept = made & (overflow | (IE | DE | ZE | X87Status.SF))
    set_status(m, (status(m) & ~C1) | kept | X87Status.PENDING)
    m.return_(1)


@procedure(result=1, outcome=128, index=8, pops=8, codes=16)
def x87_commit(m: Microcode, outcome: Value, index: Value, pops: Value, codes: Value) -> None:
    """Put a result into ST(index), pop, and raise its exceptions; returns whether one is not masked.

    ``codes``: the condition codes that the result's status replaces.
    """
    made = (outcome >> STATUS_AT).trunc(16)
    with m.If(_unmasked(m, made, IE | DE | ZE)):
        _stopped(m, made)
    number = register(m, index)
    set_register(m, number, outcome)
    set_tag(m, number, True)
    word = m.var(16, (status(m) & ~codes) | made)
    with m.If(pops != 0):
        word.v = pop(m, word.v)
    unmasked = _unmasked(m, made)
    set_status(m, m.select(unmasked, word.v | X87Status.PENDING, word.v))
    m.return_(unmasked)


def commit(m: Microcode, outcome: Value, index: Value | int = 0, pops: int = 0, codes: int = C1) -> Value:
    """See :data:`x87_commit`."""
    return m.call(x87_commit, outcome, index, pops, codes)


@procedure(result=1, outcome=128)
def x87_push(m: Microcode, outcome: Value) -> None:
    """Push a result; returns whether an exception is not masked.  A denormal that was loaded is there all the same."""
    number = register(m, 7)
    # A result of an empty register stays that.
    full = ~is_empty(m, number) & ~outcome.bit(STATUS_AT + 6)
    value = m.select(full, m.const(128, INDEFINITE | OVERFLOW << STATUS_AT), outcome)
    made = (value >> STATUS_AT).trunc(16)
    with m.If(_unmasked(m, made, IE | ZE)):
        _stopped(m, made)
    set_register(m, number, value)
    set_tag(m, number, True)
    word = (status(m) & ~(X87Status.TOP | C1)) | number.at(X87Status.TOP, 16) | made
    unmasked = _unmasked(m, made)
    set_status(m, m.select(unmasked, word | X87Status.PENDING, word))
    m.return_(unmasked)


@procedure(result=1, made=16, pops=8, codes=16)
def x87_compared(m: Microcode, made: Value, pops: Value, codes: Value) -> None:
    """Set condition codes and raise the exceptions of a comparison; pop, unless one of them is not masked.

    ``codes``: the condition codes that are replaced, which they are whatever is masked.  Returns whether one is not.
    """
    unmasked = _unmasked(m, made)
    word = m.var(16, (status(m) & ~codes) | made)
    left = m.var(8, m.select(unmasked, m.const(8, 0), pops))
    with m.Loop():
        m.break_if(left.v == 0)
        word.v = pop(m, word.v)
        left.v = left.v - 1
    set_status(m, m.select(unmasked, word.v | X87Status.PENDING, word.v))
    m.return_(unmasked)


@procedure(result=1, made=16, pops=8)
def x87_stored(m: Microcode, made: Value, pops: Value) -> None:
    """Raise the exceptions of a store and pop, unless one that is not masked kept it from storing."""
    unmasked = _unmasked(m, made)
    word = m.var(16, (status(m) & ~C1) | made)
    with m.If((pops != 0) & ~_unmasked(m, made, X87Status.EXCEPTIONS & ~X87Status.PE)):
        word.v = pop(m, word.v)
    set_status(m, m.select(unmasked, word.v | X87Status.PENDING, word.v))
    m.return_(unmasked)


@procedure(unmasked=1, opcode=16)
def x87_pointers(m: Microcode, unmasked: Value, opcode: Value) -> None:
    """Note the opcode and the code segment of an instruction, as the part does (SDM vol. 1, 8.1.8 and 8.1.9)."""
    seldom = ~features.is_amd(m) & features.has(m, "sse2") & ~m.get(_MISC_ENABLE).has(_FOPCODE_COMPATIBILITY)
    with m.If(unmasked | ~seldom):
        m.set(FXSAVE16, opcode, FOP)
    none = features.has(m, "zero_fcs_fds")
    m.set(FXSAVE16, m.select(none, m.const(16, 0), m.get(SELECTOR, Seg.CS)), FCS)


@procedure(unmasked=1, segment=8, offset=32)
def x87_data_pointer(m: Microcode, unmasked: Value, segment: Value, offset: Value) -> None:
    """Note the memory operand of an instruction."""
    with m.If(unmasked | ~features.has(m, "fdp_excptn_only")):
        m.set(FXSAVE32, offset, FDP)
        none = features.has(m, "zero_fcs_fds")
        m.set(FXSAVE16, m.select(none, m.const(16, 0), m.get(SELECTOR, segment)), FDS)


def notes_only_exceptions(m: Microcode) -> Value:
    """Whether the part notes nothing but FIP of instructions without an unmasked exception: recent ones of Intel's."""
    names = ("fdp_excptn_only", "zero_fcs_fds")
    mask = features.bits(*names)
    if mask >> 64:
        return (m.get(MORE_FEATURES) & (mask >> 64)) == mask >> 64
    return (m.get(FEATURES) & mask) == mask


def set_pointers(m: Microcode, fop: Value, fip: Value, fcs: Value, fdp: Value, fds: Value) -> None:
    """Replace opcode, instruction and data pointer."""
    none = features.has(m, "zero_fcs_fds")
    m.set(FXSAVE16, fop, FOP)
    m.set(FXSAVE32, fip, FIP)
    m.set(FXSAVE32, fdp, FDP)
    m.set(FXSAVE16, m.select(none, m.const(16, 0), fcs), FCS)
    m.set(FXSAVE16, m.select(none, m.const(16, 0), fds), FDS)
