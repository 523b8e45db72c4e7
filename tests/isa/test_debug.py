"""Breakpoints and single-stepping (SDM vol. 3B, chapter 17): the procedures that engines call."""

from __future__ import annotations

import pytest
from machine import function
from system_machine import System

from dm.isa.mechanisms import debug

ENABLED, BS, TF, RF, BTF = 1 << 12, 1 << 14, 1 << 8, 1 << 16, 2
TOP = 0xFFFFFFFE


def pending(procedure: str, *args: int, dr7: int, dr: tuple[int, ...] = (0, 0, 0, 0), cr4: int = 0) -> int:
    """Return PENDING_DEBUG after a procedure of debug.py."""
    m = System()
    m.dr7, m.dr, m.cr4 = dr7, list(dr), cr4
    function(procedure, getattr(debug, procedure))(m, *args)
    return int(m.pending_debug)


@pytest.mark.parametrize(
    ("control", "length", "at", "access", "size", "write", "hit"),
    [
        (1, 0, 0x100, 0x100, 1, True, True),
        (1, 0, 0x100, 0x100, 1, False, False),
        (3, 0, 0x100, 0x100, 1, False, True),
        (3, 0, 0x100, 0xFD, 4, False, True),
        (3, 0, 0x100, 0xFC, 4, False, False),
        (3, 3, 0x103, 0x100, 1, False, True),  # the low bits do not count
        (3, 1, 0x100, 0x102, 1, False, False),
        (3, 2, 0x100, 0x107, 1, False, True),
        (0, 0, 0x100, 0x100, 1, True, False),
        (2, 0, 0x100, 0x100, 1, True, False),
        (1, 0, 0, TOP, 4, True, True),  # an access that wraps at 4 GiB meets what lies at 0
        (1, 0, 1, TOP, 4, True, True),
        (1, 0, 2, TOP, 4, True, False),
        (1, 3, 0xFFFFFFFC, 0xFFFFFFFF, 2, True, True),
        (1, 0, 0xFFFFFFFF, 0, 8, True, False),
        (1, 0, 1 << 32, 0, 8, True, False),  # only 64-bit code meets it
    ],
)
def test_data_breakpoints(control: int, length: int, at: int, access: int, size: int, write: bool, hit: bool) -> None:
    dr7 = 1 << 4 | (control | length << 2) << 24
    dr = (0x5000, 0x5000, at, 0x5000)
    assert pending("data_breakpoints", access, size, write, dr7=dr7, dr=dr) == (ENABLED | 4 if hit else 0)
    assert pending("data_breakpoints", access, size, write, dr7=dr7 & ~0xFF, dr=dr) == 0


def test_several_at_once() -> None:
    dr7 = 0x55 | 0x1111 << 16
    assert pending("data_breakpoints", 0x100, 4, True, dr7=dr7, dr=(0x100, 0x103, 0x104, 0x102)) == ENABLED | 0b1011


def test_port_breakpoints() -> None:
    dr7, de = 1 | 2 << 16 | 1 << 18, 1 << 3
    dr = (0x60, 0, 0, 0)
    assert pending("port_breakpoints", 0x61, 1, dr7=dr7, dr=dr, cr4=de) == ENABLED | 1
    assert pending("port_breakpoints", 0x5E, 4, dr7=dr7, dr=dr, cr4=de) == ENABLED | 1
    assert pending("port_breakpoints", 0x62, 1, dr7=dr7, dr=dr, cr4=de) == 0
    assert pending("port_breakpoints", 0x60, 1, dr7=dr7, dr=dr) == 0  # there are none without CR4.DE
    assert pending("data_breakpoints", 0x60, 1, True, dr7=dr7, dr=dr, cr4=de) == 0


@pytest.mark.parametrize(
    ("flags", "debugctl", "now", "by_branch"), [(0, 0, 0, 0), (TF, 0, BS, 0), (TF, BTF, 0, 1), (0, BTF, 0, 0)]
)
def test_single_steps(flags: int, debugctl: int, now: int, by_branch: int) -> None:
    m = System()
    m.flags, m.debugctl = flags | RF, debugctl
    assert function("begin_instruction", debug.begin_instruction)(m) == by_branch
    assert (m.flags, m.pending_debug) == (flags, now)
    function("branch_taken", debug.branch_taken)(m)
    assert m.pending_debug == BS


@pytest.mark.parametrize(
    ("field", "value"), [("flags", TF), ("dr7", 0x401), ("pending_debug", 1), ("shadow", 1), ("flags", 1 << 18)]
)
def test_what_makes_every_boundary_count(field: str, value: int) -> None:
    m = System()
    watched = function("watched", debug.watched)
    m.cpl, m.cr0 = 3, m.cr0 | 1 << 18
    assert watched(m) == 0
    setattr(m, field, value)
    assert watched(m) == 1
