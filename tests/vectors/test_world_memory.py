from __future__ import annotations

import pytest

from dm.engine.api import RegionKind
from dm.vectors.world_memory import MemoryPiece, WorldMemory

LOW, HIGH = MemoryPiece(0, bytes(0x2000), compared=False), MemoryPiece(0x10000, b"\x55" * 0x3000)


def memory() -> WorldMemory:
    return WorldMemory((HIGH, LOW))


def test_the_map_shows_every_piece_as_ram_in_order() -> None:
    regions = memory().map().regions
    assert [(r.gpa, r.size, r.kind) for r in regions] == [
        (0, 0x2000, RegionKind.RAM),
        (0x10000, 0x3000, RegionKind.RAM),
    ]


def test_guest_sees_what_was_loaded_and_loads_are_expected() -> None:
    m = memory()
    m.load([(0x10FFF, b"ab")])
    assert m.read(0x10FFE, 4) == b"\x55ab\x55"
    assert bytes(m.map().regions[1].memory[0xFFF:0x1001]) == b"ab"
    assert m.differences((), {}) == []


def test_stray_and_missing_stores_are_found_in_compared_pieces_only() -> None:
    m = memory()
    live_low, live_high = (r.memory for r in m.map().regions)
    live_low[5] = 1
    live_high[0x2FFF] = 0xAA
    assert m.differences([(0x10000, b"\x66")], {}) == [(0x10000, 0x55, 0x66), (0x12FFF, 0xAA, 0x55)]


def test_masked_bits_do_not_count() -> None:
    m = memory()
    live = m.map().regions[1].memory
    live[0] = 0x54
    assert m.differences((), {0x10000: 0xFE}) == []
    assert m.differences((), {0x10000: 0x01}) == [(0x10000, 0x54, 0x55)]


@pytest.mark.parametrize("compare", [True, False])
def test_reset_puts_the_background_back(compare: bool) -> None:
    m = memory()
    m.load([(0x10010, b"xyz"), (0x10, b"low")])
    for region in m.map().regions:
        region.memory[0x100] = 0x77
    if compare:
        assert len(m.differences([(0x12000, b"z")], {})) == 2
    m.reset()
    assert m.read(0, 0x2000) == LOW.content
    assert m.read(0x10000, 0x3000) == HIGH.content
    assert m.differences((), {}) == []


@pytest.mark.parametrize("address", [0x1FFF, 0x2000, 0xFFFF, 0x12FFF])
def test_addresses_outside_are_refused(address: int) -> None:
    with pytest.raises(ValueError, match=f"2 bytes at {address:#x} lie outside"):
        memory().load([(address, b"ab")])
