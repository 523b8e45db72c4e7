"""Instructions that load a segment register (SDM vol. 2, MOV Sw, LDS LES LFS LGS LSS; POP uses them)."""

from __future__ import annotations

from dm.isa import ends
from dm.isa.cells import SHADOW, SHADOW_NEXT
from dm.isa.features import is_amd
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.segmentation import load_protected, load_real
from dm.machine.architecture import Vector
from dm.machine.state import Seg, Shadow
from dm.microcode import Value


def load_register(x: Insn, seg: Value | int, selector: Value, *, shadow: bool = True) -> None:
    """Load ES, SS, DS, FS or GS in whatever mode the CPU is in; use :func:`end_load` to end the path.

    Args:
        x: form being described.
        seg: number of the segment register, 8 bits when a Value; never CS.
        selector: 16 bits.
        shadow: whether loading SS blocks events for one instruction (MOV and POP do, LSS does not).

    Raises (in the guest):
        #GP, #NP or #SS(selector), #GP(0): see :func:`load_protected`.
    """
    m = x.m
    number = m.value(8, seg)
    with m.If(mode.protected(m)):
        m.call(load_protected, number, selector)
    with m.Else():
        load_real(m, number, selector)
    if shadow:
        # Of a row of such loads only the first holds events back (SDM vol. 2, MOV and POP); AMD's parts do so for each
        # (measured, both).
        again = (m.get(SHADOW) & int(Shadow.MOV_SS)).nz() & ~is_amd(m)
        with m.If((number == Seg.SS) & ~again):
            m.set(SHADOW_NEXT, int(Shadow.MOV_SS))


def end_load(x: Insn, seg: Value | int) -> None:
    """End an instruction that has loaded a segment register, all registers being written.

    SS (shadow, stack size) and every load in protected mode (whether the state can be given back may depend on it) end
    with a checkpoint; real-mode loads of the others go on in line.
    """
    m = x.m
    with m.If(mode.pe(m) | (m.value(8, seg) == Seg.SS)):
        ends.checkpoint(m)


def move_to_segment(x: Insn, seg: Value, src: Operand) -> None:
    """Describe MOV Sw,Ew: #UD for CS and the encodings that name nothing, before the operand is read."""
    x.fault_if((seg == Seg.CS) | (seg > Seg.GS), Vector.UD, 0, "NO_SUCH_SEGMENT", seg.zext(32))
    load_register(x, seg, src.read())
    end_load(x, seg)


def _load_far_pointer(x: Insn, seg: Seg, dst: Operand, src: Memory) -> None:
    offset = src.load(x.osize)
    selector = src.load(16, x.osize // 8)
    load_register(x, seg, selector, shadow=False)
    dst.write(offset)
    end_load(x, seg)


@instruction()
def LES(x: Insn, dst: Operand, src: Memory) -> None:
    """Load ES and a register from a far pointer."""
    _load_far_pointer(x, Seg.ES, dst, src)


@instruction()
def LDS(x: Insn, dst: Operand, src: Memory) -> None:
    """Load DS and a register from a far pointer."""
    _load_far_pointer(x, Seg.DS, dst, src)


@instruction()
def LSS(x: Insn, dst: Operand, src: Memory) -> None:
    """Load SS and a register from a far pointer."""
    _load_far_pointer(x, Seg.SS, dst, src)


@instruction()
def LFS(x: Insn, dst: Operand, src: Memory) -> None:
    """Load FS and a register from a far pointer."""
    _load_far_pointer(x, Seg.FS, dst, src)


@instruction()
def LGS(x: Insn, dst: Operand, src: Memory) -> None:
    """Load GS and a register from a far pointer."""
    _load_far_pointer(x, Seg.GS, dst, src)
