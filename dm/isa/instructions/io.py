"""Input and output (SDM vol. 2, IN OUT; permission: SDM vol. 1, 18.5)."""

from __future__ import annotations

from dm.isa import flags
from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, CPL, LIMIT, UNUSABLE
from dm.isa.insn import Insn, Operand, instruction
from dm.isa.mechanisms import mode
from dm.isa.mechanisms.descriptor import linear_32
from dm.machine.architecture import Rights, System, Vector
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

#: Offset of the I/O map base in a 32-bit TSS, and the smallest limit of such a TSS.
_MAP_BASE, _TSS_LIMIT = 0x66, 0x67


@procedure(port=16, size=8)
def io_permission(m: Microcode, port: Value, size: Value) -> None:
    """Return when ``size`` (1, 2 or 4) ports from ``port`` on may be used, else #GP(0).

    In protected mode at CPL <= IOPL always; otherwise, and always in virtual-8086 mode, the I/O permission bit map in
    the 32-bit TSS has to have a 0 for each port.
    """
    trusted = ~mode.virtual_8086(m) & (m.get(CPL) <= flags.iopl(m))
    with m.If(~mode.pe(m) | trusted):
        m.return_()
    shown = port.zext(32)
    attributes = m.get(ATTRIBUTES, Seg.TR)
    limit = m.get(LIMIT, Seg.TR)
    # A 32-bit TSS, busy or not.
    looked_at = Rights.P | Rights.S | (Rights.TYPE ^ Rights.BUSY)
    suitable = ((attributes & looked_at) == Rights.P | System.TSS32) & ~m.get(UNUSABLE, Seg.TR)
    mode.fault_if(m, ~suitable | (limit < _TSS_LIMIT), Vector.GP, 0, "IO_NO_MAP", shown)
    base = m.get(BASE, Seg.TR)
    offset = m.call(p.LOAD_SYSTEM[16], linear_32(m, base + _MAP_BASE)).zext(32) + (shown >> 3)
    # Two bytes are read for every access, since its ports may lie in both.
    mode.fault_if(m, offset + 1 > limit, Vector.GP, 0, "IO_MAP_LIMIT", shown, offset, limit)
    word = m.call(p.LOAD_SYSTEM[16], linear_32(m, base + offset.zext(64)))
    ports = (m.const(16, 1) << size) - 1
    mode.fault_if(m, ((word >> (port & 7)) & ports) != 0, Vector.GP, 0, "IO_DENIED", shown)


def permit(x: Insn, port: Value, width: int) -> None:
    """Check the permission for an access of ``width`` bits to ``port`` (16 bits)."""
    x.m.call(io_permission, port, width // 8)


@instruction()
def IN(x: Insn, dst: Operand, port: Operand) -> None:
    """Read a port."""
    number = port.read().zext(16)
    permit(x, number, dst.width)
    dst.write(x.m.call(p.PORT_IN[dst.width], number))


@instruction()
def OUT(x: Insn, port: Operand, src: Operand) -> None:
    """Write a port."""
    number = port.read().zext(16)
    permit(x, number, src.width)
    x.m.call(p.PORT_OUT[src.width], number, src.read())
