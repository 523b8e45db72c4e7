"""Stacks of far transfers and events: inner stacks, and pushes and pops whose size is known only when they run.

Each push is an access of its own through SS, wrapping at the stack-pointer size (SS.B), as the manual's Push() is.
"""

from __future__ import annotations

from dm.isa import primitives as p
from dm.isa.cells import ATTRIBUTES, BASE, CPL, GPR32, LIMIT, SELECTOR, STACK_MASK
from dm.isa.features import is_amd
from dm.isa.mechanisms.descriptor import (
    Descriptor,
    error_code,
    in_descriptor,
    load_cache,
    mark_accessed,
)
from dm.isa.mechanisms.mode import fault_if
from dm.isa.mechanisms.segmentation import stack_segment
from dm.machine.architecture import Rights, Vector
from dm.machine.state import Gpr, Seg
from dm.microcode import Microcode, Value, procedure


def element_size(m: Microcode, wide: Value) -> Value:
    """Return 4 where ``wide`` holds, else 2 (32 bits)."""
    return m.select(wide, m.const(32, 4), m.const(32, 2))


def set_stack_pointer(m: Microcode, value: Value) -> None:
    """Set SP or ESP, by SS.B; the rest of ESP stays."""
    mask = m.get(STACK_MASK)
    m.set(GPR32, m.get(GPR32, Gpr.SP) & ~mask | value & mask, Gpr.SP)


@procedure(value=32, wide=1)
def push(m: Microcode, value: Value, wide: Value) -> None:
    """Push a doubleword, or the low word."""
    at = (m.get(GPR32, Gpr.SP) - element_size(m, wide)) & m.get(STACK_MASK)
    with m.If(wide):
        m.call(p.STORE[32], Seg.SS, at, value)
    with m.Else():
        m.call(p.STORE[16], Seg.SS, at, value.trunc(16))
    set_stack_pointer(m, at)


def element_offset(m: Microcode, distance: Value) -> Value:
    """Return the offset in SS that lies ``distance`` bytes above the top of the stack, or below it when negative."""
    return (m.get(GPR32, Gpr.SP) + distance) & m.get(STACK_MASK)


@procedure(result=32, distance=32, wide=1)
def peek(m: Microcode, distance: Value, wide: Value) -> None:
    """Return the doubleword or word ``distance`` bytes above the top of the stack."""
    at = element_offset(m, distance)
    with m.If(wide):
        m.return_(m.call(p.LOAD[32], Seg.SS, at))
    m.return_(m.call(p.LOAD[16], Seg.SS, at).zext(32))


@procedure(distance=32, value=32, wide=1)
def poke(m: Microcode, distance: Value, value: Value, wide: Value) -> None:
    """Store a doubleword, or the low word, ``distance`` bytes above the top of the stack."""
    at = element_offset(m, distance)
    with m.If(wide):
        m.call(p.STORE[32], Seg.SS, at, value)
    with m.Else():
        m.call(p.STORE[16], Seg.SS, at, value.trunc(16))


def peek_selector(m: Microcode, distance: Value, wide: Value) -> Value:
    """Return CS of a far return's frame: of a doubleword's slot Intel's parts read the lower half only (16 bits)."""
    return m.call(peek, distance, wide & is_amd(m)).trunc(16)


def release(m: Microcode, size: Value) -> None:
    """Take ``size`` bytes off the stack."""
    set_stack_pointer(m, m.get(GPR32, Gpr.SP) + size)


@procedure(result=64, level=8)
def inner_stack(m: Microcode, level: Value) -> None:
    """Return the stack that the TSS keeps for a level: selector in bits 32-47, pointer below (SDM vol. 3A, 5.8.5)."""
    base, limit = m.get(BASE, Seg.TR).trunc(32), m.get(LIMIT, Seg.TR)
    error = error_code(m.get(SELECTOR, Seg.TR))
    number = level.zext(32)
    with m.If(m.get(ATTRIBUTES, Seg.TR).has(Rights.WIDE)):
        at = (number << 3) + 4
        fault_if(m, at + 5 > limit, Vector.TS, error, "TSS_LIMIT", at, limit)
        pointer = m.call(p.LOAD_SYSTEM[32], base + at)
        selector = m.call(p.LOAD_SYSTEM[16], base + at + 4)
        m.return_((selector.zext(64) << 32) | pointer.zext(64))
    short = (number << 2) + 2
    fault_if(m, short + 3 > limit, Vector.TS, error, "TSS_LIMIT", short, limit)
    pointer = m.call(p.LOAD_SYSTEM[16], base + short)
    selector = m.call(p.LOAD_SYSTEM[16], base + short + 2)
    m.return_((selector.zext(64) << 32) | pointer.zext(64))


def check_stack(m: Microcode, stack: Value, level: Value) -> Value:
    """Return the descriptor of the stack that :func:`inner_stack` gave, checked for privilege ``level``."""
    return m.call(stack_segment, (stack >> 32).trunc(16), level, Vector.TS)


def stack_mask(m: Microcode, raw: Value) -> Value:
    """Return the stack-pointer mask of a stack descriptor, 32 bits."""
    return m.select(raw.has(in_descriptor(Rights.DB)), m.const(32, 0xFFFFFFFF), m.const(32, 0xFFFF))


@procedure(stack=64, raw=64, count=32, wide=1)
def check_room(m: Microcode, stack: Value, raw: Value, count: Value, wide: Value) -> None:
    """#SS(selector) unless ``count`` pushes stay within the limit of a stack not yet switched to."""
    d = Descriptor(raw)
    size, mask, limit, down = (
        element_size(m, wide),
        stack_mask(m, raw),
        d.limit,
        raw.has(in_descriptor(Rights.EXPAND_DOWN)),
    )
    top = m.select(down, mask, limit)
    left, at = m.var(32, count), m.var(32, stack.trunc(32))
    with m.Loop():
        m.break_if(left.v == 0)
        left.v = left.v - 1
        at.v = (at.v - size) & mask
        first = at.v
        bad = (first > top) | (size - 1 > top - first) | (down & (first <= limit))
        fault_if(m, bad, Vector.SS, error_code((stack >> 32).trunc(16)), "SS_LIMIT", first, size, limit)


@procedure(stack=64, raw=64, level=8)
def enter_stack(m: Microcode, stack: Value, raw: Value, level: Value) -> None:
    """Go to privilege ``level`` and its stack, all checks being done."""
    selector = (stack >> 32).trunc(16)
    marked = m.call(mark_accessed, selector, raw)
    m.set(CPL, level)
    m.call(load_cache, Seg.SS, selector, marked)
    set_stack_pointer(m, stack.trunc(32))
