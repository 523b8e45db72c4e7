"""SYSENTER and SYSEXIT (SDM vol. 2); SYSCALL and SYSRET in legacy mode (AMD APM vol. 3)."""

from __future__ import annotations

import pytest
from system_machine import CS, SS, System

from dm.isa import features

GP, UD = 13, 6
SYSENTER, SYSEXIT, SYSCALL, SYSRET = b"\x0f\x34", b"\x0f\x35", b"\x0f\x05", b"\x0f\x07"
IF, RF, VM = 1 << 9, 1 << 16, 1 << 17


def machine() -> System:
    made = System()
    made.sysenter_cs, made.sysenter_esp, made.sysenter_eip = 0x43, 0x6000, 0xC0001000
    return made


def hidden(m: System, seg: int) -> tuple[int, int, int, int, int]:
    s = m.seg
    return s.selector[seg], s.base[seg], s.limit[seg], s.attributes[seg], s.unusable[seg]


@pytest.mark.parametrize("mode", ["ring3", "vm86"])
def test_sysenter(mode):
    m = getattr(machine(), mode)()
    m.flags |= IF
    assert m.attempt(SYSENTER) is None
    assert (m.cpl, m.eip, m.esp) == (0, 0xC0001000, 0x6000)
    assert hidden(m, CS) == (0x40, 0, 0xFFFFFFFF, 0xC09B, 0)
    assert hidden(m, SS) == (0x48, 0, 0xFFFFFFFF, 0xC093, 0)
    assert m.eflags & (IF | VM | RF) == 0


def test_sysexit():
    m = machine()
    m.gpr32[1], m.gpr32[2] = 0x9000, 0x401000
    assert m.attempt(SYSEXIT) is None
    assert (m.cpl, m.eip, m.esp) == (3, 0x401000, 0x9000)
    assert hidden(m, CS) == (0x53, 0, 0xFFFFFFFF, 0xC0FB, 0)
    assert hidden(m, SS) == (0x5B, 0, 0xFFFFFFFF, 0xC0F3, 0)


@pytest.mark.parametrize("code", [SYSENTER, SYSEXIT])
def test_refused(code):
    m = machine()
    m.sysenter_cs = 3
    assert m.attempt(code).cause == "SYSENTER_CS_NULL"
    m = machine().real_mode()
    fault = m.attempt(code)
    assert (fault.vector, fault.error, fault.cause) == (GP, 0, "NOT_PROTECTED_MODE")
    m = machine()
    m.features = 0
    assert m.attempt(code).vector == UD


@pytest.mark.parametrize("mode", ["ring3", "vm86"])
def test_sysexit_needs_level_0(mode):
    assert getattr(machine(), mode)().attempt(SYSEXIT).cause == "CPL_NOT_0"


def amd() -> System:
    m = System()
    m.vendor, m.efer, m.star = 1, 1, 0x0048_0040_00123000
    m.features |= 1 << list(features.TABLE).index("syscall")
    return m


def test_syscall_and_sysret():
    m = amd().ring3()
    m.flags |= IF
    assert m.attempt(SYSCALL) is None
    assert (m.cpl, m.eip, m.gpr32[1], m.flags & IF) == (0, 0x123000, 0x8002, 0)
    assert hidden(m, CS) == (0x40, 0, 0xFFFFFFFF, 0xC09B, 0)
    assert hidden(m, SS) == (0x48, 0, 0xFFFFFFFF, 0xC093, 0)
    assert m.attempt(SYSRET) is None
    assert (m.cpl, m.eip, m.flags & IF) == (3, 0x8002, IF)
    assert hidden(m, CS) == (0x4B, 0, 0xFFFFFFFF, 0xC0FB, 0)
    assert m.seg.selector[SS] == 0x53


@pytest.mark.parametrize("code", [SYSCALL, SYSRET])
@pytest.mark.parametrize(("field", "value"), [("vendor", 0), ("efer", 0), ("features", 0), ("cr0", 0x10)])
def test_syscall_is_undefined(code, field, value):
    m = amd()
    setattr(m, field, value)
    assert m.attempt(code).vector == UD


def test_sysret_needs_level_0():
    assert amd().ring3().attempt(SYSRET).cause == "CPL_NOT_0"
