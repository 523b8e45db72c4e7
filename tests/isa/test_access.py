"""What an access is checked against, and what engines keep of it: ends of segments, wraps, alignment, fetch limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine import function
from system_machine import CS, DS, SS, System

from dm.isa.mechanisms import access, cpuid, fetch
from dm.machine.architecture import Eflags

U32 = st.integers(0, 0xFFFFFFFF)
EDGES = st.one_of(U32, st.sampled_from([0, 1, 7, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFFF8, 0xFFFFFFFE, 0xFFFFFFFF]))


def rule(name: str, m: System, *args: int) -> int | None:
    """Call a procedure of access.py."""
    result = function(name, getattr(access, name))(m, *args)
    return None if result is None else int(result)


@given(
    st.integers(0, 0xFFFF), EDGES, EDGES, st.sampled_from([1, 2, 4, 8, 108]), st.sampled_from(["real", "pm", "vm"]),
    st.booleans(),
)  # fmt: skip
def test_the_ends_allow_what_the_check_allows(
    attributes: int, limit: int, offset: int, size: int, mode: str, unusable: bool
) -> None:
    """Never more; and never less, but for expand-down segments, which have no end."""
    m = System()
    m.cr0 = 0x10 if mode == "real" else 0x11
    m.flags = Eflags.VM if mode == "vm" else 0
    for seg in (DS, SS):
        m.load(seg, 0, 0, limit, attributes, int(unusable))
        down = not attributes & 8 and attributes & 4
        allowed = [m.check(seg, offset, size, write) is None for write in (0, 1)]
        inside = [not rule(name, m, seg, offset, size) for name in ("beyond_read", "beyond_write", "beyond_change")]
        assert inside == ([False] * 3 if down else [*allowed, all(allowed)])


@pytest.mark.parametrize(("attributes", "mask"), [(0x93, 0xFFFF), (0x4093, 0xFFFFFFFF)])
def test_the_stack_pointer_s_mask(attributes: int, mask: int) -> None:
    m = System()
    m.load(SS, 0, 0, 0xFFFF, attributes)
    assert m.stack_mask == mask


def test_linear_addresses_wrap_at_4_gib() -> None:
    m = System()
    m.seg.base[DS] = 0xFFFFF000
    assert rule("linear_address", m, DS, 0x1004) == 4
    m.seg.base[DS] = 0x1_00000010  # what 64-bit code has left there
    assert rule("linear_address", m, DS, 4) == 0x14


def test_both_pieces_of_an_access_at_the_end_of_4_gib() -> None:
    m = System()
    asked = []
    m.translate = lambda linear, kind: asked.append((linear, kind)) or linear ^ 0x1000
    rule("reach", m, 0xFFFFFFFE, 4, 1)
    assert asked == [(0xFFFFFFFE, 1), (0, 1)]
    assert (m.reached, m.reached_first) == ([0xFFFFEFFE, 0x1000], 2)
    rule("reach", m, 0x1FFC, 4, 0)
    assert (asked[2:], m.reached_first) == ([(0x1FFC, 0)], 4)


@pytest.mark.parametrize(
    ("size", "pages"),
    [(0, []), (1, [0xFFFFEFFF]), (2, [0xFFFFEFFF, 0xFFFFF000]), (0x1002, [0xFFFFEFFF, 0xFFFFF000, 0])],
)
def test_a_probe_looks_at_each_page(size: int, pages: list[int]) -> None:
    m = System()
    asked = []
    m.translate = lambda linear, kind: asked.append(linear) or linear
    m.seg.base[DS] = 0xFFFFE000
    rule("probe_access", m, DS, 0xFFF, size, 1)
    assert asked == pages


@pytest.mark.parametrize(
    ("linear", "size", "fault"),
    [(1, 1, False), (1, 2, True), (2, 4, True), (4, 4, False), (4, 8, True), (8, 8, False), (1, 512, False)],
)
def test_alignment(linear: int, size: int, fault: bool) -> None:
    m = System()
    check = function("check_alignment", access.check_alignment)
    for cpl, am, ac in ((3, 0, 1), (3, 1, 0), (2, 1, 1)):
        m.cpl, m.cr0, m.flags = cpl, 0x11 | am << 18, ac << 18
        check(m, linear, size)
    m.cpl, m.cr0, m.flags = 3, 0x11 | 1 << 18, 1 << 18
    if not fault:
        check(m, linear, size)
        return
    with pytest.raises(Exception, match="ALIGNMENT"):
        check(m, linear, size)


@pytest.mark.parametrize(
    ("offset", "physical", "wanted", "down", "wide", "size", "count"),
    [
        (0x100, 0x100, 50, 0, 1, 1, 50),
        (0x100, 0x8FC0, 50, 0, 1, 4, 16),  # the page
        (0x100, 0x8010, 50, 1, 1, 4, 5),
        (0xFFF0, 0x8000, 50, 0, 0, 2, 8),  # 64 KiB
        (0xFFFFFFF8, 0x8000, 50, 0, 1, 4, 2),  # 4 GiB
        (6, 0x8FFE, 50, 1, 1, 2, 4),  # offset 0
        (0xFFFF, 0x8000, 50, 0, 0, 4, 1),
        (0x100, 0x100, 1, 0, 1, 1, 1),
    ],
)
def test_elements_in_line(offset: int, physical: int, wanted: int, down: int, wide: int, size: int, count: int) -> None:
    m = System()
    m.segment_changed(DS)
    assert rule("elements_in_line", m, DS, offset, physical, wanted, down, wide, size, 1) == count
    m.flags |= 1 << 8  # with TF something happens behind each
    assert rule("elements_in_line", m, DS, offset, physical, wanted, down, wide, size, 1) == 1


def test_elements_keep_inside_the_segment() -> None:
    m = System()
    m.load(DS, 0x10, 0, 0x10F, 0x93)
    assert rule("elements_in_line", m, DS, 0x100, 0x100, 50, 0, 1, 2, 1) == 8
    m.load(DS, 0x10, 0, 0xFFF, 0x97)  # expand-down: one by one
    assert rule("elements_in_line", m, DS, 0x2000, 0x100, 50, 0, 1, 2, 1) == 1


@pytest.mark.parametrize(
    ("eip", "limit", "count", "room"),
    [
        (0x100, 0xFFFF, 0, 15), (0x100, 0xFFFF, 10, 5), (0x100, 0x105, 0, 6), (0x100, 0x105, 6, 0), (0x100, 0xFF, 0, 0),
        (0x1FFC, 0xFFFF, 0, 4), (0x1FFC, 0xFFFF, 4, 11), (0xFFFFFFFE, 0xFFFFFFFF, 0, 2), (0xFFFFFFFE, 0xFFFFFFFF, 2, 0),
    ],
)  # fmt: skip
def test_bytes_to_fetch(eip: int, limit: int, count: int, room: int) -> None:
    m = System()
    m.load(CS, 8, 0, limit, 0xC09B)
    m.eip = eip
    assert function("fetch_room", fetch.fetch_room)(m, count) == room
    asked = []
    m.translate = lambda linear, kind: asked.append((linear, kind)) or linear
    address = function("fetch_address", fetch.fetch_address)
    if room:
        assert address(m, count) == eip + count
        assert asked == [(eip + count, 4)]
    else:
        with pytest.raises(Exception, match="CS_FETCH_LIMIT"):
            address(m, count)
    assert function("beyond_code", fetch.beyond_code)(m, eip, count + 1) == (not room)


@pytest.mark.parametrize(
    ("leaf", "subleaf", "found"),
    [(1, 0, 0x11), (1, 9, 0x11), (7, 0, 0x77), (7, 1, 0), (0xD, 1, 0xD1), (0xD, 0, 0), (2, 0, 0), (0x8000001D, 3, 0)],
)
def test_rows_of_cpuid(leaf: int, subleaf: int, found: int) -> None:
    m = System()
    m.cpuid = {
        (1, 0): (0, 0x11, 0, 0), (7, 0): (0, 0x77, 0, 0), (0xD, 1): (0, 0xD1, 0, 0), (0x8000001D, 0): (0, 1, 0, 0),
    }  # fmt: skip
    assert function("cpuid_register", cpuid.cpuid_register)(m, leaf, subleaf, 1) == found
