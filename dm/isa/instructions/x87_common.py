"""What x87 instructions begin and end with: who may use the x87, what waits, and what is noted of an instruction."""

from __future__ import annotations

from dm.isa import ends, features
from dm.isa import primitives as p
from dm.isa.cells import CR0, FXSAVE32
from dm.isa.insn import Insn, Memory
from dm.isa.mechanisms import mode, x87
from dm.machine.architecture import Cr0, Vector, X87Status
from dm.microcode import Microcode, Value


def available(m: Microcode) -> None:
    """#NM when CR0.EM or CR0.TS keeps x87 instructions from running (SDM vol. 3A, 6.15, interrupt 7)."""
    mode.fault_if(m, (m.get(CR0) & (Cr0.EM | Cr0.TS)) != 0, Vector.NM, 0, "NO_X87")


def no_pending_exception(m: Microcode) -> None:
    """#MF for an unmasked exception that waits; without CR0.NE it goes out of the CPU as FERR#."""
    with m.If(x87.status(m).has(X87Status.ES)):
        mode.fault_if(m, m.get(CR0).has(Cr0.NE), Vector.MF, 0, "X87_PENDING")
        ends.unsupported(m, "FERR")


def _no_coprocessor(x: Insn, memory: Memory | None) -> None:
    """A part without x87: nothing answers the escape, but the CPU checks the operand's address (80286 manual, 10.2)."""
    if memory is not None:
        x.m.call(p.PROBE_READ, memory.segment, memory.offset(), memory.width // 8)
    x.m.end(ends.NEXT)


def ready(x: Insn, memory: Memory | None = None, *, waits: bool = True) -> None:
    """Begin an instruction: who may use the x87, and whether there is one; ``waits``: what is pending is raised."""
    available(x.m)
    if memory is not None:
        memory.offset()  # once, before the paths part
    with x.m.If(~features.has(x.m, "fpu")):
        _no_coprocessor(x, memory)
    if waits:
        no_pending_exception(x.m)


def note(x: Insn, unmasked: Value, memory: Memory | None = None) -> None:
    """Note where an instruction that is no control instruction was, and its operand: the last thing it does."""
    m, row = x.m, x.row
    m.set(FXSAVE32, ends.this_eip(m), x87.FIP)
    if memory is not None:
        modrm = m.argument("modrm", 8).zext(16)
    elif row.third >= 0:
        modrm = m.const(16, row.third)
    else:
        modrm = m.argument("rm", 8).zext(16) | 0xC0 | row.reg << 3
    with m.If(unmasked | ~x87.notes_only_exceptions(m)):
        m.call(x87.x87_pointers, unmasked, modrm | (row.opcode & 7) << 8)
        if memory is not None:
            m.call(x87.x87_data_pointer, unmasked, memory.segment, memory.offset())
