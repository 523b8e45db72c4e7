"""How an instruction ends: the terminators of microcode, and the causes they carry.

A fault and the two exits carry a cause as their label, which engines number by its position in :data:`CAUSES`.
"""

from __future__ import annotations

from typing import Final

from dm.isa.cells import EIP
from dm.microcode import Microcode, Terminator, Value

#: Go on with the next instruction in line.
NEXT: Final = Terminator("next")
#: Near transfer to a target fixed by the instruction's own bytes.
JUMP: Final = Terminator("jump", (32,))
#: Near transfer to a computed target.
JUMP_INDIRECT: Final = Terminator("jump_indirect", (32,))
#: Go on at cell EIP after the run loop has checked everything (mode, flags, shadows, events, `until`).
CHECKPOINT: Final = Terminator("checkpoint")
#: The same after a far transfer of control, which IA32_DEBUGCTL.BTF counts as a branch.
TRANSFER: Final = Terminator("transfer")
#: A REP iteration is done (or ``n`` at once): run the same instruction again, as a boundary of its own.
REPEAT: Final = Terminator("repeat", (32,))
#: Raise an exception: (vector, error code, three operands of the cause); the label is the cause.
FAULT: Final = Terminator("fault", (8, 32, 32, 32, 32), aborts=True)
#: Leave before this instruction: the processor has it, this emulator does not.  The label names it.
UNSUPPORTED: Final = Terminator("unsupported", (), aborts=True)
#: Leave before this instruction, which is the hypervisor's to execute.  The label names it.
HYPERVISOR: Final = Terminator("hypervisor", (), aborts=True)

#: Every cause used by :func:`fault`, in order of first use; engines number them by position.
CAUSES: Final[list[str]] = []


def fault(m: Microcode, vector: int | Value, error: int | Value, cause: str, *operands: int | Value) -> None:
    """End this path with an exception.

    Args:
        m: builder.
        vector: exception vector, 8 bits when a Value.
        error: error code, 32 bits when a Value; 0 for vectors that push none.
        cause: stable upper-case name of the violated rule, e.g. ``SS_LIMIT``.
        operands: up to three 32-bit numbers that explain it (offset, size, limit).
    """
    if cause not in CAUSES:
        CAUSES.append(cause)
    given = [*operands, 0, 0, 0][:3]
    m.end(FAULT, vector, error, *given, labels=(cause,))


def unsupported(m: Microcode, what: str) -> None:
    """End this path with exit ``unsupported``; ``what`` is a stable upper-case name."""
    if what not in CAUSES:
        CAUSES.append(what)
    m.end(UNSUPPORTED, labels=(what,))


def hypervisor(m: Microcode, what: str) -> None:
    """End this path with exit ``hypervisor``; ``what`` is the name of the instruction, upper-case."""
    if what not in CAUSES:
        CAUSES.append(what)
    m.end(HYPERVISOR, labels=(what,))


def next_eip(m: Microcode) -> Value:
    """Return the address behind this instruction (32 bits, not wrapped at 64 KiB)."""
    return m.argument("next_eip", 32)


def this_eip(m: Microcode) -> Value:
    """Return the address of this instruction's first prefix or opcode byte (32 bits)."""
    return m.argument("this_eip", 32)


def checkpoint(m: Microcode) -> None:
    """End this path: the next instruction in line, after the run loop has checked everything."""
    m.set(EIP, next_eip(m))
    m.end(CHECKPOINT)
