"""Far JMP, CALL and RET: direct, through call gates, task gates and TSSs (SDM vol. 2; vol. 3A, 5.8)."""

from __future__ import annotations

from dm.isa import ends
from dm.isa import primitives as p
from dm.isa.cells import CPL, GPR32, GPR64, SELECTOR
from dm.isa.features import is_amd
from dm.isa.insn import FarPointer, Insn, Memory, Operand, instruction
from dm.isa.mechanisms import frames, ia32e, mode, task
from dm.isa.mechanisms.code import check_code, enter_code, enter_outer, enter_real, gate_target, return_code
from dm.isa.mechanisms.descriptor import (
    ANY_TSS,
    CALL_GATES,
    Descriptor,
    error_code,
    fetch_descriptor,
    is_null,
    one_of,
    rpl,
)
from dm.isa.mechanisms.mode import fault_if
from dm.machine.architecture import System, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value, procedure


@procedure(selector=16, raw=64, jump=1, next_eip=32)
def through_64_bit_gate(m: Microcode, selector: Value, raw: Value, jump: Value, next_eip: Value) -> None:
    """JMP or CALL through a 16-byte call gate, whose other checks are done (SDM vol. 3A, 5.8.3.1 and 5.8.5.1)."""
    upper = m.call(ia32e.upper_half, selector)
    named = Descriptor(raw).gate_selector
    target = m.call(gate_target, named, jump)
    eip = ia32e.below_4_gib(m, Descriptor(raw).gate_offset.zext(64) | (upper << 32))
    with m.If(~jump):
        code, stack, old_cs = Descriptor(target), ia32e.Stack(m), m.get(SELECTOR, Seg.CS)
        with m.If(~code.is_conforming & (code.dpl < m.get(CPL))):
            inner = m.call(ia32e.tss_stack, ia32e.level_slot(code.dpl))
            m.call(ia32e.open_stack, inner, 32, code.dpl)
            top = ia32e.push(m, inner, stack.selector, stack.pointer, old_cs, next_eip)
            ia32e.null_stack(m, code.dpl.zext(16))
            m.set(GPR64, top, Gpr.SP)
        with m.Else():
            m.call(ia32e.open_stack, stack.pointer, 16, m.get(CPL))
            top = ia32e.push(m, stack.pointer, old_cs, next_eip)
            stack.keep()
            m.set(GPR64, top, Gpr.SP)
    m.call(enter_code, named, target, eip)


@procedure(selector=16, raw=64, next_eip=32, kind=8)
def transfer_to_task(m: Microcode, selector: Value, raw: Value, next_eip: Value, kind: Value) -> None:
    """JMP or CALL through a task gate or to a TSS descriptor."""
    with m.If(Descriptor(raw).type == System.TASK_GATE):
        tss = Descriptor(raw).gate_selector
        m.call(task.switch_task, tss, m.call(task.check_tss, tss, Vector.GP, 0), kind, next_eip)
    with m.Else():
        m.call(task.switch_task, selector, m.call(task.check_tss, selector, Vector.GP, 0), kind, next_eip)
    m.call(task.check_task_eip)


def _check_system(m: Microcode, selector: Value, d: Descriptor) -> None:
    """Check a call gate, task gate or TSS descriptor as the operand of a far JMP or CALL."""
    error, shown = error_code(selector), selector.zext(32)
    cpl = m.get(CPL)
    known = one_of(d.type, *ANY_TSS, *CALL_GATES, System.TASK_GATE)
    fault_if(m, ~known, Vector.GP, error, "DESCRIPTOR_TYPE", shown, d.type.zext(32))
    with m.If(mode.long_mode(m)):
        fault_if(m, d.type != System.CALL32, Vector.GP, error, "DESCRIPTOR_TYPE", shown, d.type.zext(32))
    low = (d.dpl < cpl) | (d.dpl < rpl(selector))
    fault_if(m, low, Vector.GP, error, "GATE_DPL", shown, d.dpl.zext(32), cpl.zext(32))
    with m.If(one_of(d.type, *ANY_TSS)):
        pass
    with m.Else():
        fault_if(m, ~d.present, Vector.NP, error, "GATE_NOT_PRESENT", shown)


@procedure(selector=16, eip=32, next_eip=32)
def jump_protected(m: Microcode, selector: Value, eip: Value, next_eip: Value) -> None:
    """Far JMP in protected mode (SDM vol. 2, JMP)."""
    fault_if(m, is_null(selector), Vector.GP, 0, "CS_SELECTOR_NULL")
    raw = m.call(fetch_descriptor, selector, Vector.GP)
    d = Descriptor(raw)
    with m.If(d.is_segment):
        m.call(check_code, selector, raw)
        m.call(enter_code, selector, raw, eip)
        m.return_()
    _check_system(m, selector, d)
    with m.If(mode.long_mode(m)):
        m.call(through_64_bit_gate, selector, raw, 1, next_eip)
        m.return_()
    with m.If(one_of(d.type, *CALL_GATES)):
        target = m.call(gate_target, d.gate_selector, 1)
        m.call(enter_code, d.gate_selector, target, d.gate_offset)
    with m.Else():
        m.call(transfer_to_task, selector, raw, next_eip, task.JMP)


@procedure(raw=64, target=64, next_eip=32)
def call_inner(m: Microcode, raw: Value, target: Value, next_eip: Value) -> None:
    """CALL through a call gate to a more privileged level: stack switch and parameter copy (SDM vol. 3A, 5.8.5)."""
    gate, code = Descriptor(raw), Descriptor(target)
    wide, count = gate.is_wide, gate.gate_count
    size = frames.element_size(m, wide)
    level = code.dpl
    stack = m.call(frames.inner_stack, level)
    stack_raw = frames.check_stack(m, stack, level)
    m.call(frames.check_room, stack, stack_raw, count + 4, wide)
    old_cs, old_ss, old_esp = m.get(SELECTOR, Seg.CS), m.get(SELECTOR, Seg.SS), m.get(GPR32, Gpr.SP)
    # Parameters go over first, while SS is still the old stack: below the two words that will hold SS:ESP.
    new_base, new_mask = Descriptor(stack_raw).base.trunc(32), frames.stack_mask(m, stack_raw)
    copied = m.var(32, 0)
    with m.Loop():
        done = copied.v
        m.break_if(done == count)
        value = m.call(frames.peek, done * size, wide)
        at = new_base + ((stack.trunc(32) - (count - done + 2) * size) & new_mask)
        with m.If(wide):
            m.call(p.STORE_SYSTEM[32], at, value)
        with m.Else():
            m.call(p.STORE_SYSTEM[16], at, value.trunc(16))
        copied.v = done + 1
    m.call(frames.enter_stack, stack, stack_raw, level)
    m.call(frames.push, old_ss.zext(32), wide)
    m.call(frames.push, old_esp, wide)
    frames.release(m, m.const(32, 0) - count * size)
    m.call(frames.push, old_cs.zext(32), wide)
    m.call(frames.push, next_eip, wide)
    m.call(enter_code, gate.gate_selector, target, gate.gate_offset)


@procedure(selector=16, eip=32, next_eip=32, wide=1)
def call_protected(m: Microcode, selector: Value, eip: Value, next_eip: Value, wide: Value) -> None:
    """Far CALL in protected mode; ``wide``: 32-bit operand size (SDM vol. 2, CALL)."""
    fault_if(m, is_null(selector), Vector.GP, 0, "CS_SELECTOR_NULL")
    raw = m.call(fetch_descriptor, selector, Vector.GP)
    d = Descriptor(raw)
    with m.If(d.is_segment):
        m.call(check_code, selector, raw)
        # What has been pushed stays in memory when a later push or the offset faults (measured, Intel's and AMD's).
        m.call(p.KEEP)
        down = -frames.element_size(m, wide)
        m.call(frames.poke, down, m.get(SELECTOR, Seg.CS).zext(32), wide)
        m.call(frames.poke, down * 2, next_eip, wide)
        m.call(enter_code, selector, raw, eip)
        frames.release(m, down * 2)
        m.return_()
    _check_system(m, selector, d)
    with m.If(mode.long_mode(m)):
        m.call(through_64_bit_gate, selector, raw, 0, next_eip)
        m.return_()
    with m.If(one_of(d.type, *CALL_GATES)):
        target = m.call(gate_target, d.gate_selector, 0)
        code = Descriptor(target)
        with m.If(~code.is_conforming & (code.dpl < m.get(CPL))):
            m.call(call_inner, raw, target, next_eip)
        with m.Else():
            m.call(frames.push, m.get(SELECTOR, Seg.CS).zext(32), d.is_wide)
            m.call(frames.push, next_eip, d.is_wide)
            m.call(enter_code, d.gate_selector, target, d.gate_offset)
    with m.Else():
        m.call(transfer_to_task, selector, raw, next_eip, task.CALL)


@procedure(extra=32, wide=1)
def return_protected(m: Microcode, extra: Value, wide: Value) -> None:
    """Far RET in protected mode; ``extra``: bytes of parameters to drop (SDM vol. 2, RET)."""
    size = frames.element_size(m, wide)
    cs = frames.peek_selector(m, size, wide)  # before EIP (live oracle)
    eip = m.call(frames.peek, 0, wide)
    same = rpl(cs) == m.get(CPL)
    with m.If(is_amd(m) & ~same):
        # AMD's parts pop ESP and SS before they look at CS (APM vol. 3, RETF; recorded).
        for element in (2, 3):
            m.call(frames.peek, size * element + extra, wide)
    code = m.call(return_code, cs)
    with m.If(same):
        m.call(enter_code, cs, code, eip)
        frames.release(m, size * 2 + extra)
    with m.Else():
        esp = m.call(frames.peek, size * 2 + extra, wide)
        ss = m.call(frames.peek, size * 3 + extra, wide).trunc(16)
        m.call(enter_outer, cs, code, eip, ss, esp, extra)


@procedure(extra=32, wide=1)
def return_real(m: Microcode, extra: Value, wide: Value) -> None:
    """Far RET in real-address and virtual-8086 mode."""
    size = frames.element_size(m, wide)
    eip = m.call(frames.peek, 0, wide)
    cs = frames.peek_selector(m, size, wide)
    m.call(enter_real, cs, eip)
    frames.release(m, size * 2 + extra)


def _far_target(x: Insn, target: Operand) -> tuple[Value, Value]:
    """Return selector (16 bits) and offset (32 bits) of a far pointer; in memory they are two accesses."""
    if isinstance(target, FarPointer):
        return target.selector(), target.offset()
    assert isinstance(target, Memory)
    offset = target.load(x.osize)
    return target.load(16, x.osize // 8), offset.zext(32)


@instruction()
def JMPF(x: Insn, target: Operand) -> None:
    """Jump far."""
    m = x.m
    selector, eip = _far_target(x, target)
    with m.If(mode.protected(m)):
        m.call(jump_protected, selector, eip, ends.next_eip(m))
    with m.Else():
        m.call(enter_real, selector, eip)
    m.end(ends.TRANSFER)


@instruction()
def CALLF(x: Insn, target: Operand) -> None:
    """Call far."""
    m = x.m
    selector, eip = _far_target(x, target)
    wide = int(x.osize == 32)
    with m.If(mode.protected(m)):
        m.call(call_protected, selector, eip, ends.next_eip(m), wide)
    with m.Else():
        m.call(frames.push, m.get(SELECTOR, Seg.CS).zext(32), wide)
        m.call(frames.push, ends.next_eip(m), wide)
        m.call(enter_real, selector, eip)
    m.end(ends.TRANSFER)


@instruction()
def RETF(x: Insn, count: Operand | None = None) -> None:
    """Return far, dropping ``count`` bytes of parameters."""
    m = x.m
    extra = count.read().zext(32) if count else m.const(32, 0)
    wide = int(x.osize == 32)
    with m.If(mode.protected(m)):
        m.call(return_protected, extra, wide)
    with m.Else():
        m.call(return_real, extra, wide)
    m.end(ends.TRANSFER)
