"""MMX and SSE as far as described (SDM vol. 1, 10.5): who may use them, and saving and restoring everything.

Everything else the part has ends in exit ``unsupported``.
"""

from __future__ import annotations

from dm.isa import ends, features
from dm.isa import primitives as p
from dm.isa.cells import BASE, FXSAVE, FXSAVE16, FXSAVE32, FXSAVE64
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.instructions import x87_common
from dm.isa.map.forms import ROWS, Row
from dm.isa.map.operands import MMX, VECTOR, RegisterClass
from dm.isa.mechanisms import mode, x87
from dm.machine.architecture import Cr0, Cr4, Vector, X87Control, X87Status
from dm.microcode import Microcode, Value, procedure

#: Offsets in the FXSAVE image: MXCSR and the mask of its valid bits.
MXCSR, MXCSR_MASK = 24, 28
#: The eight XMM registers (16 bytes each), and the size of the whole area.
_XMM, _XMM_END, _IMAGE_SIZE = 160, 288, 512


def _register_classes(row: Row) -> set[RegisterClass]:
    return {form.registers for form in row.forms if form.registers}


def _mmx(m: Microcode) -> None:
    """#UD with CR0.EM, #NM with CR0.TS, then a pending x87 exception (SDM vol. 3A, 12.1)."""
    mode.fault_if(m, mode.cr0_bit(m, Cr0.EM), Vector.UD, 0, "NO_MMX")
    x87_common.available(m)
    x87_common.no_pending_exception(m)


@instruction()
def EMMS(x: Insn) -> None:
    """Mark all registers empty; R0 is ST(0) then, as after any MMX instruction (recorded on Intel's, live on AMD's)."""
    m = x.m
    _mmx(m)
    m.set(FXSAVE, 0, x87.FTW)
    x87.set_status(m, x87.status(m) & ~X87Status.TOP)


@instruction("FXSAVE", "FXRSTOR")
def FXSAVE_AREA(x: Insn, area: Memory) -> None:
    """Save or restore x87 state, and with CR4.OSFXSR that of SSE; software's part of the area is left alone."""
    m = x.m
    x87_common.available(x.m)
    linear = m.get(BASE, area.segment).trunc(32) + area.offset()  # "regardless of segment" (vol. 2A, FXSAVE)
    x.fault_if((linear & 15) != 0, Vector.GP, 0, "NOT_ALIGNED", linear)
    save = x.row.mnemonic == "FXSAVE"
    m.call(p.PROBE_WRITE if save else p.PROBE_READ, area.segment, area.offset(), _IMAGE_SIZE)
    sse = features.has(m, "sse") & mode.cr4_bit(m, Cr4.OSFXSR)
    if save:
        _save_x87(x, area)
        with m.If(sse):
            for at in (MXCSR, *range(_XMM, _XMM_END, 8)):
                area.store(m.get(FXSAVE64, at), at)
        return
    with m.If(sse):
        mxcsr = area.load(32, MXCSR)
        _check_mxcsr(x, mxcsr)
        m.set(FXSAVE32, mxcsr, MXCSR)
        for at in range(_XMM, _XMM_END, 8):
            m.set(FXSAVE64, area.load(64, at), at)
    _restore_x87(x, area)


def _save_x87(x: Insn, area: Memory) -> None:
    """Control and status word, tags, pointers, registers.

    AMD's parts have pointers only for an exception that waits: others are stored as zeros, or not at all by parts
    without CPUID 8000_0008.EBX[2] (AMD APM vol. 2, 11.4.4; measured).
    """
    m = x.m
    area.store(m.get(FXSAVE32, x87.FCW), x87.FCW)
    tags = m.get(FXSAVE, x87.FTW)
    pending = x87.status(m).has(X87Status.ES) | ~features.is_amd(m)
    area.store(tags.zext(16), x87.FTW)
    with m.If(pending | features.has(m, "rstr_fp_err_ptrs")):
        none = m.const(64, 0)
        area.store(m.select(pending, m.get(FXSAVE16, x87.FOP), m.const(16, 0)), x87.FOP)
        area.store(m.select(pending, m.get(FXSAVE64, x87.FIP), none), x87.FIP)
        area.store(m.select(pending, m.get(FXSAVE64, x87.FDP), none), x87.FDP)
    for index in range(8):
        value = x87.get_register(m, x87.register(m, index))
        area.store(value.trunc(64), x87.REGISTERS + 16 * index)
        area.store((value >> 64).trunc(64), x87.REGISTERS + 16 * index + 8)


def _restore_x87(x: Insn, area: Memory) -> None:
    """The same back; ES and B follow from flags and masks, whatever the area says."""
    m = x.m
    fcw, fsw, ftw = area.load(16, x87.FCW), area.load(16, x87.FSW), area.load(8, x87.FTW)
    fop, fip, fdp = area.load(16, x87.FOP), area.load(64, x87.FIP), area.load(64, x87.FDP)
    places = [x87.REGISTERS + 16 * index for index in range(8)]
    values = [area.load(64, at).zext(128) | (area.load(16, at + 8).zext(128) << 64) for at in places]
    control = (fcw & X87Control.ALL) | X87Control.FIXED
    status = x87.with_pending(m, fsw, control)
    m.set(FXSAVE16, control, x87.FCW)
    x87.set_status(m, status)
    m.set(FXSAVE16, ftw.zext(16), x87.FTW)
    for index, value in enumerate(values):
        x87.set_register(m, x87.register(m, index), value)
    with m.If(~features.is_amd(m) | features.has(m, "rstr_fp_err_ptrs") | status.has(X87Status.ES)):
        fcs, fds = ((pointer >> 32).trunc(16) for pointer in (fip, fdp))
        x87.set_pointers(m, fop & x87.FOP_BITS, fip.trunc(32), fcs, fdp.trunc(32), fds)


def _check_mxcsr(x: Insn, value: Value) -> None:
    """#GP(0) for reserved bits; a mask of 0 stands for the parts before it was introduced."""
    m = x.m
    mask = m.get(FXSAVE32, MXCSR_MASK)
    x.fault_if((value & ~m.select(mask == 0, m.const(32, 0xFFBF), mask)) != 0, Vector.GP, 0, "MXCSR_RESERVED", value)


def _sse(m: Microcode) -> None:
    """#UD with CR0.EM or without CR4.OSFXSR; #NM with CR0.TS."""
    mode.fault_if(m, mode.cr0_bit(m, Cr0.EM) | ~mode.cr4_bit(m, Cr4.OSFXSR), Vector.UD, 0, "NO_SSE")
    mode.fault_if(m, mode.cr0_bit(m, Cr0.TS), Vector.NM, 0, "NO_SSE")


@instruction()
def LDMXCSR(x: Insn, src: Operand) -> None:
    """Load the SSE control and status register; #GP(0) for reserved bits."""
    _sse(x.m)
    value = src.read()
    _check_mxcsr(x, value)
    x.m.set(FXSAVE32, value, MXCSR)


@instruction()
def STMXCSR(x: Insn, dst: Operand) -> None:
    """Store the SSE control and status register."""
    _sse(x.m)
    dst.write(x.m.get(FXSAVE32, MXCSR))


@procedure(xmm=1, mmx=1)
def simd_available(m: Microcode, xmm: Value, mmx: Value) -> None:
    """Raise what keeps an instruction from running that works on XMM registers, MMX registers, or both."""
    with m.If(xmm):
        _sse(m)
        with m.If(mmx):
            x87_common.no_pending_exception(m)
    with m.Else():
        _mmx(m)


@instruction("FEMMS", *{row.mnemonic for row in ROWS if {MMX, VECTOR} & _register_classes(row)}, default=True)
def SIMD(x: Insn, *_: Operand) -> None:
    """MMX, SSE and their successors: who may use them; then unsupported.

    XMM registers depend on the control bits of SSE, MMX registers on those of the x87 and on its
    pending exception, but for CVTPI2PD from memory (measured).
    """
    classes = _register_classes(x.row)
    pending = MMX in classes and not (x.row.mnemonic == "CVTPI2PD" and x.variant.memory)
    x.m.call(simd_available, int(VECTOR in classes), int(pending))
    ends.unsupported(x.m, x.row.mnemonic)


@instruction()
def AVX(x: Insn, *_: Operand) -> None:
    """What has a VEX or EVEX prefix: #UD outside protected mode and without CR4.OSXSAVE, else unsupported."""
    mode.require_protected(x.m)
    mode.require_osxsave(x.m)
    ends.unsupported(x.m, "AVX")


@instruction()
def XOP(x: Insn, *_: Operand) -> None:
    """AMD's XOP prefix.  The general-register instructions behind it need no OSXSAVE: that is not looked at here."""
    mode.require_protected(x.m)
    ends.unsupported(x.m, "XOP")
