"""IN OUT and the I/O permission bit map."""

from __future__ import annotations

import pytest
from machine import Machine, execute, fails

from dm.machine.state import Seg


def test_in_and_out() -> None:
    m = Machine()
    m.ports = [0x41]
    m = execute("e460 ; in al,60", {"ah": 9}, {"al": 0x41}, m)
    assert m.log == [("in", 0x60, 1)]
    m = Machine()
    m.ports = [0x12345678]
    m = execute("66ed ; in eax,dx", {"dx": 0xCF8}, {"eax": 0x12345678}, m)
    assert m.log == [("in", 0xCF8, 4)]
    m = execute("e780 ; out 80,ax", {"ax": 0x1234})
    assert m.log == [("out", 0x80, 2, 0x1234)]
    m = execute("ee ; out dx,al", {"dx": 0x3F8, "al": 7})
    assert m.log == [("out", 0x3F8, 1, 7)]


def with_map(allowed: set[int], m: Machine) -> Machine:
    """Give the TSS an I/O map of 128 ports and its closing byte, 0 for ``allowed``."""
    bits = bytearray(b"\xff" * 17)
    for port in allowed:
        bits[port >> 3] &= ~(1 << (port & 7))
    m.memory[0x18068 : 0x18068 + 17] = bits
    m.seg.limit[Seg.TR] = 0x68 + 16
    return m


@pytest.mark.parametrize("cpl", [0, 3])
def test_iopl_suffices(cpl: int) -> None:
    m = execute("e680", {}, {}, Machine().protect(cpl, iopl=cpl))
    assert m.log == [("out", 0x80, 1, 0)]


def test_no_map() -> None:
    fails("e680", 13, "IO_MAP_LIMIT", m=Machine().protect(3))
    m = Machine().protect(3)
    m.seg.attributes[Seg.TR] = 0x83
    fails("e680", 13, "IO_NO_MAP", m=m)
    m = Machine().protect(3)
    m.seg.limit[Seg.TR] = 0x66
    fails("e680", 13, "IO_NO_MAP", m=m)


@pytest.mark.parametrize("mode", ["protect", "virtual_8086"])
def test_map(mode: str) -> None:
    def machine(*allowed: int) -> Machine:
        m = Machine().virtual_8086(iopl=3) if mode == "virtual_8086" else Machine().protect(3)
        return with_map(set(allowed), m)

    assert execute("e660", {}, {}, machine(0x60)).log == [("out", 0x60, 1, 0)]
    fails("e661", 13, "IO_DENIED", m=machine(0x60))
    # all ports of the access count, those in the next byte of the map too
    wide = "e7" if mode == "protect" else "66e7"
    fails(wide + "66", 13, "IO_DENIED", m=machine(0x66, 0x67, 0x68))
    assert execute(wide + "66", {}, {}, machine(0x66, 0x67, 0x68, 0x69)).log == [("out", 0x66, 4, 0)]
    # the last port with a byte behind its own, and the first without
    assert execute("e67f", {}, {}, machine(0x7F)).log == [("out", 0x7F, 1, 0)]
    fails("e688", 13, "IO_MAP_LIMIT", m=machine())
