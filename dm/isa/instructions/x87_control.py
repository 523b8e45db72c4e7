"""x87 control: words, environment and state (SDM vol. 1, 8.1.10 to 8.1.12, 8.3.7).

They note nothing in the instruction and data pointers.  Those that begin with FN do not wait for what is pending.
"""

from __future__ import annotations

from dm.isa import ends
from dm.isa import primitives as p
from dm.isa.cells import CR0, FXSAVE, FXSAVE16, FXSAVE32, FXSAVE64
from dm.isa.insn import Insn, Memory, Operand, instruction
from dm.isa.instructions import x87_common
from dm.isa.mechanisms import mode, x87
from dm.isa.mechanisms.x87 import FCS, FCW, FDP, FDS, FIP, FOP, FTW
from dm.isa.softfloat.formats import Extended
from dm.machine.architecture import Cr0, Vector, X87Control, X87Status
from dm.microcode import Microcode, Value, procedure


@instruction()
def FWAIT(x: Insn) -> None:
    """Wait for the x87: its pending exception is raised here."""
    both = Cr0.MP | Cr0.TS
    x.fault_if((x.m.get(CR0) & both) == both, Vector.NM, 0, "NO_X87")
    x87_common.no_pending_exception(x.m)


@instruction()
def X87(x: Insn, operand: Operand) -> None:
    """What no instruction is made of: #UD, unless there is no x87 to refuse it."""
    x87_common.ready(x, operand if isinstance(operand, Memory) else None, waits=False)
    x.fault(Vector.UD, 0, "UNDEFINED")


@instruction("F2XM1", "FYL2X", "FYL2XP1", "FPTAN", "FPATAN", "FSIN", "FCOS", "FSINCOS")
def TRANSCENDENTAL(x: Insn) -> None:
    """Not executed yet."""
    x87_common.ready(x)
    ends.unsupported(x.m, x.row.mnemonic)


@instruction("FNENI", "FNDISI", "FNSETPM")
def FNENI(x: Insn) -> None:
    """What mattered to the 8087 and the 80287 alone."""
    x87_common.ready(x, waits=False)


@instruction()
def FNCLEX(x: Insn) -> None:
    """Clear exception flags, stack fault, ES and B."""
    x87_common.ready(x, waits=False)
    clear = X87Status.EXCEPTIONS | X87Status.SF | X87Status.PENDING
    x87.set_status(x.m, x87.status(x.m) & ~clear)


def _initialize(m: Microcode) -> None:
    m.set(FXSAVE16, X87Control.INITIAL, FCW)
    x87.set_status(m, 0)
    m.set(FXSAVE16, 0, FTW)
    m.set(FXSAVE16, 0, FOP)
    m.set(FXSAVE64, 0, FIP)
    m.set(FXSAVE64, 0, FDP)


@instruction()
def FNINIT(x: Insn) -> None:
    """Initialize; the registers keep what they hold, and are empty."""
    x87_common.ready(x, waits=False)
    _initialize(x.m)


def _set_control(m: Microcode, word: Value) -> None:
    """Replace the control word; unmasking an exception that waits makes it pending, masking it the opposite."""
    word = (word & X87Control.ALL) | X87Control.FIXED
    m.set(FXSAVE16, word, FCW)
    x87.set_status(m, x87.with_pending(m, x87.status(m), word))


@instruction()
def FLDCW(x: Insn, src: Memory) -> None:
    """Load the control word."""
    x87_common.ready(x, src)
    _set_control(x.m, src.read())


@instruction()
def FNSTCW(x: Insn, dst: Memory) -> None:
    """Store the control word."""
    x87_common.ready(x, dst, waits=False)
    dst.write(x87.control(x.m))


@instruction()
def FNSTSW(x: Insn, dst: Operand) -> None:
    """Store the status word."""
    x87_common.ready(x, dst if isinstance(dst, Memory) else None, waits=False)
    dst.write(x87.status(x.m))


# ------------------------------------------------------------------------------------------------ the environment


@procedure(result=16)
def x87_tag_word(m: Microcode) -> None:
    """Tags of two bits, of all registers: valid, zero, special (NaN, infinity, denormal, unsupported), empty."""
    word, number = m.var(16, 0), m.var(8, 8)
    with m.Loop():
        m.break_if(number.v == 0)
        number.v = number.v - 1
        value = Extended(x87.get_register(m, number.v))
        special = value.special | (value.exponent == 0)
        kind = m.select(value.zero, 1, m.select(special, 2, 0, 16))
        tag = m.select(x87.is_empty(m, number.v), m.const(16, 3), kind)
        word.v = (word.v << 2) | tag
    m.return_(word.v)


@procedure(word=16)
def x87_set_tag_word(m: Microcode, word: Value) -> None:
    """Take tags of two bits; all that counts is which registers are empty."""
    tags, number = m.var(8, 0), m.var(8, 8)
    with m.Loop():
        m.break_if(number.v == 0)
        number.v = number.v - 1
        two = (word >> (number.v << 1)) & 3
        tags.v = (tags.v << 1) | (two != 3).zext(8)
    m.set(FXSAVE, tags.v, FTW)


def _environment_size(x: Insn) -> int:
    return 14 if x.osize == 16 else 28


def _store_environment(x: Insn, area: Memory) -> None:
    """Write the environment in the layout of operand size and mode (SDM vol. 1, figures 8-9 to 8-12)."""
    m = x.m
    words = [x87.control(m), x87.status(m), m.call(x87_tag_word)]
    fip, fdp = m.get(FXSAVE32, FIP), m.get(FXSAVE32, FDP)
    fcs, fds = m.get(FXSAVE16, FCS), m.get(FXSAVE16, FDS)
    opcode = m.get(FXSAVE16, FOP) & x87.FOP_BITS
    protected = mode.protected(m)
    # Real-address and virtual-8086 mode: linear addresses.
    linear_ip, linear_dp = fip + (fcs.zext(32) << 4), fdp + (fds.zext(32) << 4)
    if x.osize == 16:
        upper_ip, upper_dp = ((linear_ip >> 4) & 0xF000).trunc(16), ((linear_dp >> 4) & 0xF000).trunc(16)
        words += [
            m.select(protected, fip, linear_ip).trunc(16),
            m.select(protected, fcs, upper_ip | opcode),
            m.select(protected, fdp, linear_dp).trunc(16),
            m.select(protected, fds, upper_dp),
        ]
        for at, word in enumerate(words):
            area.store(word, 2 * at)
        return
    upper = m.const(32, 0xFFFF0000)
    upper_ip, upper_dp = (linear_ip & 0xFFFF0000) >> 4, (linear_dp & 0xFFFF0000) >> 4
    longs = [word.zext(32) | upper for word in words]
    longs += [
        m.select(protected, fip, linear_ip & 0xFFFF | upper),
        m.select(protected, (opcode.zext(32) << 16) | fcs.zext(32), upper_ip | opcode.zext(32)),
        m.select(protected, fdp, linear_dp & 0xFFFF | upper),
        m.select(protected, fds.zext(32) | upper, upper_dp),
    ]
    for at, long in enumerate(longs):
        area.store(long, 4 * at)


def _load_environment(x: Insn, area: Memory) -> dict[str, Value]:
    """Read an environment in the layout of operand size and mode."""
    m = x.m
    protected = mode.protected(m)
    none16, none32 = m.const(16, 0), m.const(32, 0)
    if x.osize == 16:
        fcw, fsw, ftw, ip, cs, dp, ds = (area.load(16, 2 * at) for at in range(7))
        upper_ip, upper_dp = (cs.zext(32) & 0xF000) << 4, (ds.zext(32) & 0xF000) << 4
        found = {
            "fip": ip.zext(32) | m.select(protected, none32, upper_ip),
            "fcs": m.select(protected, cs, none16),
            "fop": m.select(protected, none16, cs & x87.FOP_BITS),
            "fdp": dp.zext(32) | m.select(protected, none32, upper_dp),
            "fds": m.select(protected, ds, none16),
        }
    else:
        words = [area.load(32, 4 * at) for at in range(7)]
        fcw, fsw, ftw = (word.trunc(16) for word in words[:3])
        ip, cs, dp, ds = words[3:]
        upper_ip, upper_dp = (cs & 0x0FFFF000) << 4, (ds & 0x0FFFF000) << 4
        found = {
            "fip": m.select(protected, ip, (ip & 0xFFFF) | upper_ip),
            "fcs": m.select(protected, cs.trunc(16), none16),
            "fop": m.select(protected, (cs >> 16).trunc(16), cs.trunc(16)) & x87.FOP_BITS,
            "fdp": m.select(protected, dp, (dp & 0xFFFF) | upper_dp),
            "fds": m.select(protected, ds.trunc(16), none16),
        }
    return found | {"fcw": fcw, "fsw": fsw, "ftw": ftw}


def _set_environment(m: Microcode, found: dict[str, Value]) -> None:
    x87.set_status(m, found["fsw"])
    _set_control(m, found["fcw"])
    m.call(x87_set_tag_word, found["ftw"])
    x87.set_pointers(m, found["fop"], found["fip"], found["fcs"], found["fdp"], found["fds"])


@instruction()
def FNSTENV(x: Insn, area: Memory) -> None:
    """Store the environment, then mask all exceptions."""
    m = x.m
    x87_common.ready(x, area, waits=False)
    _store_environment(x, area)
    _set_control(m, x87.control(m) | X87Control.MASKS)


@instruction()
def FLDENV(x: Insn, area: Memory) -> None:
    """Load the environment; an exception in it that it does not mask is pending at once."""
    x87_common.ready(x, area)
    _set_environment(x.m, _load_environment(x, area))


@instruction()
def FNSAVE(x: Insn, area: Memory) -> None:
    """Store environment and registers, then initialize.

    A significand is one access, which does not wrap at 64 KiB, but is not held to an alignment (measured).
    """
    m = x.m
    size = _environment_size(x)
    x87_common.ready(x, area, waits=False)
    _store_environment(x, area)
    for index in range(8):
        value = x87.operand(m, index)
        at = size + 10 * index
        for part in range(4):
            offset = area.offset(at) + 2 * part
            m.call(p.STORE[16], area.segment, offset, (value >> 16 * part).trunc(16))
        area.store((value >> 64).trunc(16), at + 8)
    _initialize(m)


@instruction()
def FRSTOR(x: Insn, area: Memory) -> None:
    """Load environment and registers."""
    m = x.m
    size = _environment_size(x)
    x87_common.ready(x, area)
    found = _load_environment(x, area)
    values = []
    for index in range(8):
        at = size + 10 * index
        value = area.load(16, at + 8).zext(128) << 64
        for part in range(4):
            word = m.call(p.LOAD[16], area.segment, area.offset(at) + 2 * part)
            value = value | (word.zext(128) << 16 * part)
        values.append(value)
    _set_environment(m, found)
    for index, value in enumerate(values):
        x87.set_register(m, x87.register(m, index), value)
