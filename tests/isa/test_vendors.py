"""Where AMD's parts and Intel's differ, or the manuals say nothing and AMD's hardware decides (found by the oracle)."""

from __future__ import annotations

import pytest
from machine import Fault, Machine
from system_machine import SS, System

from dm.machine.state import Seg

INTEL, AMD = 0, 1


@pytest.mark.parametrize(
    ("code", "zf", "intel", "amd"),
    [
        ("e110", 1, True, True),  # LOOPE
        ("f3e110", 1, True, True),
        ("f2e110", 1, True, False),  # the opposite prefix turns AMD's condition round
        ("f2e110", 0, False, True),
        ("e010", 0, True, True),  # LOOPNE
        ("f2e010", 0, True, True),
        ("f3e010", 0, True, False),
        ("f3e010", 1, False, True),
    ],
)
def test_repeat_prefixes_before_loops(code: str, zf: int, intel: bool, amd: bool) -> None:
    for vendor, jumps in ((INTEL, intel), (AMD, amd)):
        m = Machine()
        m.vendor = vendor
        m["cx"], m["zf"] = 5, zf
        m.run(bytes.fromhex(code))
        assert m.eip == 0x8000 + len(code) // 2 + 0x10 * jumps
        assert m["cx"] == 4


@pytest.mark.parametrize(("vendor", "kept"), [(INTEL, 0), (AMD, 3)])
def test_what_pusha_has_pushed_when_a_later_push_faults(vendor: int, kept: int) -> None:
    """There is room for EAX, ECX and EDX: they stay in memory on AMD's parts; ESP is as before on all."""
    m = System()
    m.vendor = vendor
    m.load(SS, 0x10, 0, 0x6FF3, 0x4097)  # expand-down, 32-bit: from 6FF4h on
    m.gpr32[:4] = [0xA0, 0xC1, 0xD2, 0xB3]
    fault = m.attempt(b"\x60")
    assert (fault.vector, m.esp) == (12, 0x7000)
    assert [m.at(0x6FFC - 4 * n) for n in range(4)] == [0xA0, 0xC1, 0xD2, 0][:kept] + [0] * (4 - kept)


@pytest.mark.parametrize(("vendor", "kept"), [(INTEL, 0), (AMD, 2)])
def test_what_popa_has_popped_when_a_later_pop_faults(vendor: int, kept: int) -> None:
    m = System()
    m.vendor = vendor
    m.load(SS, 0x10, 0, 0x7007, 0x4093)
    m.put(0x7000, 0xD1, 4)
    m.put(0x7004, 0x51, 4)
    fault = m.attempt(b"\x61")
    assert (fault.vector, m.esp) == (12, 0x7000)
    assert (m.gpr32[7], m.gpr32[6]) == ((0xD1, 0x51) if kept else (0, 0))


def order_of_reads(code: str, size: int) -> list[int]:
    """Return the offsets from SP that an instruction reads, in order, at level 0."""
    m = System()
    seen: list[int] = []
    load = m.any_load

    def watch(width: int, seg: int, offset: int) -> int:
        if seg == SS:
            seen.append((offset - 0x7000) // size)
        return load(width, seg, offset)

    m.any_load = watch  # type: ignore[method-assign]
    m.put(0x7000, 0x9000, size)
    m.put(0x7000 + size, 8, 2)
    m.put(0x7000 + 2 * size, 2, size)
    m.run(bytes.fromhex(code))
    assert m.eip == 0x9000
    return seen


@pytest.mark.parametrize(("prefix", "size"), [("", 4), ("66", 2)])
def test_far_returns_read_their_frame_from_its_end(prefix: str, size: int) -> None:
    """Which element faults first shows in #SS against #AC, and in CR2."""
    assert order_of_reads(prefix + "cb", size) == [1, 0]
    assert order_of_reads(prefix + "cf", size) == [2, 1, 0]


def test_repe_cmpsb_reads_its_source_first() -> None:
    """REPE CMPSB alone reads DS:SI first, all other CMPS ES:DI: which of two faults is reported depends on it."""
    for code, first in (("a6", "di"), ("a7", "di"), ("f3a6", "si"), ("f2a6", "di"), ("f3a7", "di")):
        m = Machine()
        m["cx"] = 2
        m.seg.unusable[Seg.ES] = m.seg.unusable[Seg.DS] = 1
        m["si"], m["di"] = 0x1000, 0x2000
        m.cr0 = 0x11
        with pytest.raises(Fault) as raised:
            m.run(bytes.fromhex(code))
        assert hex(m[first]) in str(raised.value), code
