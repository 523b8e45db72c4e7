"""NOP UD CPUID RDTSC RDPMC RDRAND fences CLFLUSH MONITOR RSM."""

from __future__ import annotations

import pytest
from machine import Machine, Unsupported, Values, execute, fails

from dm.isa.parts import DEFAULT_CPUID


def able(m: Machine | None = None) -> Machine:
    m = m or Machine()
    m.features = (1 << 64) - 1
    return m


@pytest.mark.parametrize("code", ["90", "f390", "0f1f06ffff", "0f0d06ffff", "0f1800"])
def test_hints_access_nothing(code: str) -> None:
    execute(code, {"bx": 0xFFFF})


@pytest.mark.parametrize("code", ["0f0b", "0fb9c0", "0fb906ffff", "0fffc0", "0faa"])
def test_undefined(code: str) -> None:
    fails(code, 6, "NOT_IN_SMM" if code == "0faa" else "UNDEFINED")


def test_cpuid() -> None:
    eax, ebx, ecx, edx = DEFAULT_CPUID[0, 0]
    execute("0fa2", {"eax": 0}, {"eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx})
    m = Machine()
    m.model = 3
    fails("0fa2", 6, "UNDEFINED", m=m)


TSC: Values = {"eax": 0x9ABCDEF0, "edx": 0x12345678}


def test_rdtsc() -> None:
    execute("0f31", {}, TSC)
    m = Machine().protect(3)
    m.cr4 = 4
    fails("0f31", 13, "TSD", m=m)
    m = Machine().protect(0)
    m.cr4 = 4
    execute("0f31", {}, TSC, m)
    m = able()
    m.tsc_aux = 7
    execute("0f01f9", {"ecx": 1}, {**TSC, "ecx": 7}, m)
    fails("0f01f9", 6, "NO_FEATURE")


def test_rdpmc() -> None:
    fails("0f33", 13, "PCE", m=Machine().protect(3))
    with pytest.raises(Unsupported, match="RDPMC"):
        Machine().run(bytes.fromhex("0f33"))


def test_random() -> None:
    clear: Values = {"cf": 1, "of": 0, "sf": 0, "zf": 0, "af": 0, "pf": 0}
    execute("0fc7f3 ; rdrand bx", {"of": 1, "zf": 1}, {"bx": 0x3210, **clear}, able())
    execute("660fc7fb ; rdseed ebx", {"pf": 1}, {"ebx": 0x76543210, **clear}, able())
    fails("0fc7f3", 6, "NO_FEATURE")


def test_fences() -> None:
    assert execute("0faef0 ; mfence", m=able()).log == [("fence",)]
    assert execute("0faee8 ; lfence", m=able()).log == []
    assert execute("0faef8 ; sfence", m=able()).log == []
    fails("0faef0", 6, "NO_FEATURE")


def test_clflush_checks_its_address() -> None:
    execute("0fae3e0010", m=able())
    m = able()
    m.seg.limit[3] = 0xFFF
    fails("0fae3e0010", 13, "SEGMENT_LIMIT", m=m)


@pytest.mark.parametrize(("code", "name"), [("0f01c8", "MONITOR"), ("0f01c9", "MWAIT")])
def test_monitor(code: str, name: str) -> None:
    fails(code, 6, "NO_FEATURE")
    fails(code, 6, "CPL_NOT_0", m=able(Machine().protect(3)))
    with pytest.raises(Unsupported, match=name):
        able().run(bytes.fromhex(code))
