"""Breakpoints and single-stepping (SDM vol. 3B, chapter 17); the events they lead to are delivered at a boundary."""

from __future__ import annotations

from typing import Final

from dm.isa import flags
from dm.isa.cells import BASE, DR, DR7, EIP, PENDING_DEBUG, SHADOW, cell
from dm.isa.mechanisms import mode
from dm.machine.architecture import (
    Breakpoint,
    Cr4,
    DebugCtl,
    Dr7,
    Eflags,
    PendingDebug,
    breakpoint_enable,
    breakpoint_length,
    breakpoint_type,
)
from dm.machine.state import Seg
from dm.microcode import Microcode, Value, procedure

DEBUGCTL: Final = cell("debugctl")


def any_breakpoint(m: Microcode) -> Value:
    """Return whether DR7 enables a breakpoint, 1 bit."""
    return (m.get(DR7) & Dr7.ENABLED).nz()


def _kind(m: Microcode, dr7: Value, i: int) -> Value:
    """Return breakpoint ``i``'s R/W field where it is enabled, else FFFFFFFFh."""
    enabled = dr7.field(breakpoint_enable(i)) != 0
    return m.select(enabled, dr7.field(breakpoint_type(i)), m.const(32, 0xFFFFFFFF))


@procedure(result=8)
def instruction_breakpoints(m: Microcode) -> None:
    """Return B0-B3 of the enabled instruction breakpoints on CS:EIP (SDM vol. 3B, 17.3.1.1)."""
    dr7 = m.get(DR7).trunc(32)
    linear = m.get(BASE, Seg.CS).trunc(32) + m.get(EIP)
    hits = m.const(8, 0)
    for i in range(4):
        hit = (_kind(m, dr7, i) == Breakpoint.EXECUTE) & (m.get(DR, i) == linear.zext(64))
        hits = hits | (hit.zext(8) << i)
    m.return_(hits)


def _watch(m: Microcode, first: Value, size: Value, *kinds: Value) -> None:
    """Note the hits of an access that may wrap at 4 GiB; what lies beyond, only 64-bit code can meet (17.2.4)."""
    dr7 = m.get(DR7).trunc(32)
    hits = m.const(64, 0)
    for i in range(4):
        length = dr7.field(breakpoint_length(i))
        last = m.select(length == 2, m.const(32, 7), length)  # LEN 10b is 8 bytes
        address = m.get(DR, i)
        at = address.trunc(32) & ~last
        kind = _kind(m, dr7, i)
        meant = m.const(1, 0)
        for wanted in kinds:
            meant = meant | (kind == wanted)
        hit = meant & ((address >> 32) == 0) & ((first - at <= last) | (at - first < size))
        hits = hits | (hit.zext(64) << i)
    with m.If(hits != 0):
        m.set(PENDING_DEBUG, m.get(PENDING_DEBUG) | hits | PendingDebug.ENABLED)


@procedure(linear=32, size=32, write=1)
def data_breakpoints(m: Microcode, linear: Value, size: Value, write: Value) -> None:
    """Note the data breakpoints that an access meets (SDM vol. 3B, 17.2.4 and 17.3.1.2)."""
    with m.If(any_breakpoint(m)):
        # A read meets those for reads and writes only.
        access = m.const(32, Breakpoint.ACCESS)
        _watch(m, linear, size, m.select(write, m.const(32, Breakpoint.WRITE), access), access)


@procedure(port=32, size=32)
def port_breakpoints(m: Microcode, port: Value, size: Value) -> None:
    """Note the I/O breakpoints that an access to ports meets; there are none without CR4.DE (SDM vol. 3B, 17.2.4)."""
    with m.If(any_breakpoint(m) & mode.cr4_bit(m, Cr4.DE)):
        _watch(m, port, size, m.const(32, Breakpoint.IO))


@procedure(result=1)
def watched(m: Microcode) -> None:
    """Return whether something may happen behind every instruction, so that each is run on its own."""
    traps = flags.flag(m, Eflags.TF) | any_breakpoint(m) | m.get(PENDING_DEBUG).nz()
    m.return_(traps | m.get(SHADOW).nz() | mode.alignment_checked(m))


@procedure(result=1)
def begin_instruction(m: Microcode) -> None:
    """Begin an instruction: RF is spent, and with TF a trap is due behind it (SDM vol. 3B, 17.3.1.1 and 17.3.1.4).

    Returns 1 where the trap is due behind a taken branch only (IA32_DEBUGCTL.BTF, 17.4.3): :func:`branch_taken`.
    """
    stepped = flags.flag(m, Eflags.TF)
    by_branch = stepped & (m.get(DEBUGCTL) & DebugCtl.BTF).nz()
    with m.If(stepped & ~by_branch):
        m.set(PENDING_DEBUG, m.get(PENDING_DEBUG) | PendingDebug.BS)
    flags.set_flag(m, Eflags.RF, 0)
    m.return_(by_branch)


@procedure()
def branch_taken(m: Microcode) -> None:
    """The branch that a trap was waiting for has been taken."""
    m.set(PENDING_DEBUG, m.get(PENDING_DEBUG) | PendingDebug.BS)
