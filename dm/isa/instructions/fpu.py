"""x87, MMX and SSE as far as described (SDM vol. 1, 8.1, 8.3.9 and 10.5).

Who may use them, the x87 control instructions without arithmetic, and saving and restoring everything.

Everything else the part has ends in exit ``unsupported``.
"""

from __future__ import annotations

from typing import Final

from dm.isa import ends, features
from dm.isa import primitives as p
from dm.isa.cells import FXSAVE
from dm.isa.insn import Insn, Memory, Operand, Register, instruction
from dm.isa.mechanisms import mode
from dm.machine.architecture import Cr0, Cr4, Vector
from dm.microcode import Microcode, Value

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


def _available(x: Insn) -> None:
    """#NM when CR0.EM or CR0.TS keeps x87 instructions from running (SDM vol. 3A, 6.15, interrupt 7)."""
    x.fault_if(mode.cr0_bit(x.m, Cr0.EM) | mode.cr0_bit(x.m, Cr0.TS), Vector.NM, 0, "NO_X87")


def _no_pending_exception(x: Insn) -> None:
    """#MF for an unmasked exception that waits; without CR0.NE it goes out of the CPU as FERR#."""
    m = x.m
    with m.If((image_word(m, FSW) & _ES) != 0):
        x.fault_if(mode.cr0_bit(m, Cr0.NE), Vector.MF, 0, "X87_PENDING")
        ends.unsupported(m, "FERR")


@instruction()
def FWAIT(x: Insn) -> None:
    """Wait for the x87: its pending exception is raised here."""
    x.fault_if(mode.cr0_bit(x.m, Cr0.MP) & mode.cr0_bit(x.m, Cr0.TS), Vector.NM, 0, "NO_X87")
    _no_pending_exception(x)


@instruction()
def X87(x: Insn, operand: Operand) -> None:
    """D8-DF: the control instructions without arithmetic; the rest is unsupported."""
    _available(x)
    m = x.m
    reg = m.argument("reg", 8)
    if isinstance(operand, Memory):
        operand.offset()  # once, before the paths part
    with m.If(~features.has(m, "fpu")):
        _no_coprocessor(x, operand, reg)
    if isinstance(operand, Memory):
        if x.row.opcode == 0xD9:
            with m.If(reg == 5):
                _fldcw(x, operand)
            with m.If(reg == 7):
                operand.store(image_word(m, FCW))
                m.end(ends.NEXT)
        elif x.row.opcode == 0xDD:
            with m.If(reg == 7):
                operand.store(image_word(m, FSW))
                m.end(ends.NEXT)
    elif isinstance(operand, Register) and x.row.opcode in (0xDB, 0xDF):
        with m.If(reg == 4):
            if x.row.opcode == 0xDB:
                _control(x, operand.number)
            else:
                _fnstsw_ax(x, operand.number)
    _no_pending_exception(x)
    ends.unsupported(m, "X87")


#: Bytes of the memory operand by opcode and ModRM.reg (SDM vol. 2, appendix A.5; environments in their 16-bit form).
_OPERAND_BYTES: Final = {
    0xD8: (4,) * 8,
    0xD9: (4, 4, 4, 4, 14, 2, 14, 2),
    0xDA: (4,) * 8,
    0xDB: (4, 4, 4, 4, 4, 10, 4, 10),
    0xDC: (8,) * 8,
    0xDD: (8, 8, 8, 8, 94, 2, 94, 2),
    0xDE: (2,) * 8,
    0xDF: (2, 2, 2, 2, 10, 8, 10, 8),
}


def _no_coprocessor(x: Insn, operand: Operand, reg: Value) -> None:
    """A part without x87: nothing answers the escape, but the CPU checks the operand's address (80286 manual, 10.2)."""
    m = x.m
    if isinstance(operand, Memory):
        sizes = _OPERAND_BYTES[x.row.opcode]
        size = m.const(32, sizes[0])
        for number in range(1, 8):
            if sizes[number] != sizes[0]:
                size = m.select(reg == number, m.const(32, sizes[number]), size)
        m.call(p.PROBE_READ, operand.segment, operand.offset(), size)
    m.end(ends.NEXT)


def _fldcw(x: Insn, operand: Memory) -> None:
    """Load the control word; unmasking an exception that waits makes it pending."""
    m = x.m
    _no_pending_exception(x)
    control = (operand.load(16) & _FCW_BITS) | _FCW_ONE
    status = image_word(m, FSW)
    unmasked = (status & ~control & 0x3F) != 0
    set_image_word(m, FCW, control)
    set_image_word(m, FSW, m.select(unmasked, status | (_ES | _B), status & (0xFFFF ^ (_ES | _B))))
    m.end(ends.NEXT)


def _control(x: Insn, number: Value) -> None:
    """DB E0-E4: FNENI, FNDISI and FNSETPM do nothing since the 387; FNCLEX; FNINIT."""
    m = x.m
    with m.If(number == 2):
        # The exception flags, stack fault, ES and B.
        set_image_word(m, FSW, image_word(m, FSW) & 0x7F00)
        m.end(ends.NEXT)
    with m.If(number == 3):
        for offset in range(_ENVIRONMENT_END):
            m.set(FXSAVE, 0, offset)
        set_image_word(m, FCW, 0x37F)
        m.end(ends.NEXT)
    with m.If(number <= 4):
        m.end(ends.NEXT)
    x.fault(Vector.UD, 0, "UNDEFINED")


def _fnstsw_ax(x: Insn, number: Value) -> None:
    """DF E0."""
    with x.m.If(number == 0):
        x.register(0, 16).write(image_word(x.m, FSW))
        x.m.end(ends.NEXT)


def _mmx(x: Insn) -> None:
    """#UD with CR0.EM, #NM with CR0.TS, then a pending x87 exception (SDM vol. 3A, 12.1)."""
    x.fault_if(mode.cr0_bit(x.m, Cr0.EM), Vector.UD, 0, "NO_MMX")
    _available(x)
    _no_pending_exception(x)


@instruction()
def EMMS(x: Insn) -> None:
    """Mark all registers empty."""
    _mmx(x)
    x.m.set(FXSAVE, 0, FTW)


@instruction("FXSAVE", "FXRSTOR")
def FXSAVE_AREA(x: Insn, area: Memory) -> None:
    """Save or restore x87 state, and with CR4.OSFXSR that of SSE; software's part of the area is left alone."""
    m = x.m
    _available(x)
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


def _sse(x: Insn) -> None:
    """#UD with CR0.EM or without CR4.OSFXSR; #NM with CR0.TS."""
    m = x.m
    missing = mode.cr0_bit(m, Cr0.EM) | ~mode.cr4_bit(m, Cr4.OSFXSR)
    x.fault_if(missing, Vector.UD, 0, "NO_SSE")
    x.fault_if(mode.cr0_bit(m, Cr0.TS), Vector.NM, 0, "NO_SSE")


@instruction()
def LDMXCSR(x: Insn, src: Operand) -> None:
    """Load the SSE control and status register; #GP(0) for reserved bits."""
    _sse(x)
    value = src.read()
    _check_mxcsr(x, value)
    _set_mxcsr(x.m, value)


@instruction()
def STMXCSR(x: Insn, dst: Operand) -> None:
    """Store the SSE control and status register."""
    _sse(x)
    dst.write(_image_doubleword(x.m, MXCSR))


@instruction()
def MMX(x: Insn, *_: Operand) -> None:
    """MMX: #UD with CR0.EM, #NM with CR0.TS, a pending #MF, else unsupported."""
    _mmx(x)
    ends.unsupported(x.m, "MMX")


@instruction()
def SSE(x: Insn, *_: Operand) -> None:
    """SSE and its successors: #UD with CR0.EM or without CR4.OSFXSR, #NM with CR0.TS, else unsupported."""
    _sse(x)
    ends.unsupported(x.m, "SSE")


@instruction()
def SSEMMX(x: Insn, operand: Operand) -> None:
    """Conversions between MMX and XMM registers: as SSE, and a pending #MF but for CVTPI2PD from memory (measured)."""
    _sse(x)
    if not (x.row.opcode == 0x2A and x.row.prefix == "66" and isinstance(operand, Memory)):
        _no_pending_exception(x)
    ends.unsupported(x.m, "SSE")


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
