"""x87, MMX and SSE as far as described (SDM vol. 1, 8.1, 8.3.9 and 10.5).

Who may use them, the x87 control instructions without arithmetic, and saving and restoring everything.

Everything else the part has ends in exit ``unsupported``.
"""

from __future__ import annotations

from typing import Final

from dm.isa import ends, features
from dm.isa import primitives as p
from dm.isa.cells import FXSAVE
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.map.forms import ROWS, Row
from dm.isa.map.operands import MMX, VECTOR, RegisterClass
from dm.isa.mechanisms import mode
from dm.machine.architecture import Cr0, Cr4, Vector
from dm.microcode import Microcode, Value, procedure

#: Offsets in the FXSAVE image: control and status word, abridged tags, MXCSR and the mask of its valid bits.
FCW, FSW, FTW, MXCSR, MXCSR_MASK = 0, 2, 4, 24, 28
#: The eight x87 registers (16 bytes each), the eight XMM registers, and the size of the whole area.
_REGISTERS, _XMM, _XMM_END, _IMAGE_SIZE = 32, 160, 288, 512
#: Control word: the bits that can be changed, and the one that is always set.
_FCW_BITS, _FCW_ONE = 0x1F3F, 0x40
#: End of the part of the image that FNINIT resets: control, status, tags, opcode, instruction and data pointer.
_ENVIRONMENT_END: Final = 24
#: Status word: an unmasked exception is pending (ES), and its old name (B).
_ES, _B = 1 << 7, 1 << 15


def image_word(m: Microcode, offset: int) -> Value:
    """Return 16 bits of the FXSAVE image."""
    return m.get(FXSAVE, offset).zext(16) | (m.get(FXSAVE, offset + 1).zext(16) << 8)


def set_image_word(m: Microcode, offset: int, value: Value | int) -> None:
    """Change 16 bits of the FXSAVE image."""
    value = m.value(16, value)
    m.set(FXSAVE, value.trunc(8), offset)
    m.set(FXSAVE, (value >> 8).trunc(8), offset + 1)


def _image_doubleword(m: Microcode, offset: int) -> Value:
    return image_word(m, offset).zext(32) | (image_word(m, offset + 2).zext(32) << 16)


def _image_quadword(m: Microcode, offset: int) -> Value:
    return _image_doubleword(m, offset).zext(64) | (_image_doubleword(m, offset + 4).zext(64) << 32)


def _set_image_quadword(m: Microcode, offset: int, value: Value) -> None:
    for i in range(8):
        m.set(FXSAVE, (value >> (8 * i)).trunc(8), offset + i)


def _available(m: Microcode) -> None:
    """#NM when CR0.EM or CR0.TS keeps x87 instructions from running (SDM vol. 3A, 6.15, interrupt 7)."""
    mode.fault_if(m, mode.cr0_bit(m, Cr0.EM) | mode.cr0_bit(m, Cr0.TS), Vector.NM, 0, "NO_X87")


def _no_pending_exception(m: Microcode) -> None:
    """#MF for an unmasked exception that waits; without CR0.NE it goes out of the CPU as FERR#."""
    with m.If((image_word(m, FSW) & _ES) != 0):
        mode.fault_if(m, mode.cr0_bit(m, Cr0.NE), Vector.MF, 0, "X87_PENDING")
        ends.unsupported(m, "FERR")


@procedure()
def x87_available(m: Microcode) -> None:
    """Raise #NM where x87 instructions may not run."""
    _available(m)


@procedure()
def x87_no_pending_exception(m: Microcode) -> None:
    """Raise an x87 exception that waits."""
    _no_pending_exception(m)


def _register_classes(row: Row) -> set[RegisterClass]:
    return {form.registers for form in row.forms if form.registers}


@instruction()
def FWAIT(x: Insn) -> None:
    """Wait for the x87: its pending exception is raised here."""
    x.fault_if(mode.cr0_bit(x.m, Cr0.MP) & mode.cr0_bit(x.m, Cr0.TS), Vector.NM, 0, "NO_X87")
    _no_pending_exception(x.m)


def _escape(x: Insn, *operands: Operand) -> None:
    """#NM by CR0.  A part without x87 goes on: nothing answers, but its CPU checks the operand's address.

    (80286 programmer's reference manual, 10.2.)
    """
    m = x.m
    m.call(x87_available)
    memory = next((operand for operand in operands if isinstance(operand, Memory)), None)
    if memory:
        memory.offset()  # once, before the paths part
    with m.If(~features.has(m, "fpu")):
        if memory:
            m.call(p.PROBE_READ, memory.segment, memory.offset(), memory.width // 8)
        m.end(ends.NEXT)


@instruction()
def X87(x: Insn, operand: Operand) -> None:
    """What no instruction is made of: #UD, whether or not an exception is pending (recorded)."""
    _escape(x, operand)
    x.fault(Vector.UD, 0, "UNDEFINED")


@instruction(*{row.mnemonic for row in ROWS if row.map == 0 and 0xD8 <= row.opcode <= 0xDF}, default=True)
def X87_UNSUPPORTED(x: Insn, *operands: Operand) -> None:
    """What is not executed."""
    _escape(x, *operands)
    x.m.call(x87_no_pending_exception)
    ends.unsupported(x.m, x.row.mnemonic)


@instruction()
def FLDCW(x: Insn, operand: Memory) -> None:
    """Load the control word; unmasking an exception that waits makes it pending."""
    _escape(x, operand)
    m = x.m
    _no_pending_exception(x.m)
    control = (operand.load(16) & _FCW_BITS) | _FCW_ONE
    status = image_word(m, FSW)
    unmasked = (status & ~control & 0x3F) != 0
    set_image_word(m, FCW, control)
    set_image_word(m, FSW, m.select(unmasked, status | (_ES | _B), status & (0xFFFF ^ (_ES | _B))))


@instruction("FNSTCW", "FNSTSW")
def FNSTCW(x: Insn, dst: Operand) -> None:
    """Store the control or the status word."""
    _escape(x, dst)
    dst.write(image_word(x.m, FCW if x.row.mnemonic == "FNSTCW" else FSW))


@instruction("FNENI", "FNDISI", "FNSETPM")
def FNENI(x: Insn) -> None:
    """Nothing, since the 387."""
    _escape(x)


@instruction()
def FNCLEX(x: Insn) -> None:
    """Clear the exception flags, stack fault, ES and B."""
    _escape(x)
    set_image_word(x.m, FSW, image_word(x.m, FSW) & 0x7F00)


@instruction()
def FNINIT(x: Insn) -> None:
    """Initialize what the environment holds."""
    _escape(x)
    for offset in range(_ENVIRONMENT_END):
        x.m.set(FXSAVE, 0, offset)
    set_image_word(x.m, FCW, 0x37F)


def _mmx(m: Microcode) -> None:
    """#UD with CR0.EM, #NM with CR0.TS, then a pending x87 exception (SDM vol. 3A, 12.1)."""
    mode.fault_if(m, mode.cr0_bit(m, Cr0.EM), Vector.UD, 0, "NO_MMX")
    _available(m)
    _no_pending_exception(m)


@instruction()
def EMMS(x: Insn) -> None:
    """Mark all registers empty."""
    _mmx(x.m)
    x.m.set(FXSAVE, 0, FTW)


@instruction("FXSAVE", "FXRSTOR")
def FXSAVE_AREA(x: Insn, area: Memory) -> None:
    """Save or restore x87 state, and with CR4.OSFXSR that of SSE; software's part of the area is left alone."""
    m = x.m
    _available(x.m)
    x.fault_if((area.offset() & 15) != 0, Vector.GP, 0, "NOT_ALIGNED", area.offset())
    save = x.row.mnemonic == "FXSAVE"
    m.call(p.PROBE_WRITE if save else p.PROBE_READ, area.segment, area.offset(), _IMAGE_SIZE)
    sse = features.has(m, "sse") & mode.cr4_bit(m, Cr4.OSFXSR)
    if save:
        for at in (*range(0, MXCSR, 8), *range(_REGISTERS, _XMM, 8)):
            area.store(_image_quadword(m, at), at)
        with m.If(sse):
            for at in (MXCSR, *range(_XMM, _XMM_END, 8)):
                area.store(_image_quadword(m, at), at)
        return
    with m.If(sse):
        mxcsr = area.load(32, MXCSR)
        _check_mxcsr(x, mxcsr)
        _set_mxcsr(m, mxcsr)
        for at in range(_XMM, _XMM_END, 8):
            _set_image_quadword(m, at, area.load(64, at))
    for at in (*range(0, MXCSR, 8), *range(_REGISTERS, _XMM, 8)):
        _set_image_quadword(m, at, area.load(64, at))
    set_image_word(m, FCW, (image_word(m, FCW) & _FCW_BITS) | _FCW_ONE)


def _check_mxcsr(x: Insn, value: Value) -> None:
    """#GP(0) for reserved bits; a mask of 0 stands for the parts before it was introduced."""
    m = x.m
    mask = _image_doubleword(m, MXCSR_MASK)
    x.fault_if((value & ~m.select(mask == 0, m.const(32, 0xFFBF), mask)) != 0, Vector.GP, 0, "MXCSR_RESERVED", value)


def _set_mxcsr(m: Microcode, value: Value) -> None:
    set_image_word(m, MXCSR, value.trunc(16))
    set_image_word(m, MXCSR + 2, (value >> 16).trunc(16))


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
    _set_mxcsr(x.m, value)


@instruction()
def STMXCSR(x: Insn, dst: Operand) -> None:
    """Store the SSE control and status register."""
    _sse(x.m)
    dst.write(_image_doubleword(x.m, MXCSR))


@procedure(xmm=1, mmx=1)
def simd_available(m: Microcode, xmm: Value, mmx: Value) -> None:
    """Raise what keeps an instruction from running that works on XMM registers, MMX registers, or both."""
    with m.If(xmm):
        _sse(m)
        with m.If(mmx):
            _no_pending_exception(m)
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
