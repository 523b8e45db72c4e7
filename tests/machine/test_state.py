"""The state table: what it promises to codec, engines and people."""

from __future__ import annotations

import random
import re

import pytest

from dm.machine.state import (
    FIELDS,
    GROUPS,
    Activity,
    FieldInfo,
    Gpr,
    Seg,
    Segment,
    State,
    checked,
    difference,
    get_group,
    group_layout,
    set_group,
    update,
)


def scrambled(seed: int) -> State:
    """A state with every bit of every field in use."""
    rng = random.Random(seed)
    state = State()
    for group in GROUPS:
        values: list[int | bytes] = []
        for _, width in group_layout(group):
            values.append(rng.randbytes(width // 8) if width > 64 else rng.getrandbits(width))
        set_group(state, group, values)
    return state


def test_every_field_has_a_group_and_every_group_a_layout() -> None:
    assert {row.group for row in FIELDS} == set(GROUPS)
    for group in GROUPS:
        assert len(group_layout(group)) == len(get_group(State(), group))


def test_groups_carry_a_state_without_loss() -> None:
    state = scrambled(1)
    other = State()
    update(other, {group: get_group(state, group) for group in GROUPS})
    assert other == state


def test_a_delta_holds_only_groups_that_differ() -> None:
    old = scrambled(2)
    new = old.copy()
    assert difference(old, new) == {}
    new.cr3 ^= 0x1000
    assert list(difference(old, new)) == ["control"]
    update(old, difference(old, new))
    assert old == new


def test_extra_values_of_a_later_version_are_ignored() -> None:
    state = State.reset()
    set_group(state, "tables", [1, 2, 3, 4, 99])
    assert (state.gdtr_base, state.idtr_limit) == (1, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 0x10000, 3, 4], "gdtr_limit is 65536"),
        ([1, -1, 3, 4], "gdtr_limit is -1"),
        ([1, True, 3, 4], "gdtr_limit is True"),
        ([1, 2, 3], "3 values, 4 needed"),
        ([b"x", 2, 3, 4], "gdtr_base has 1 bytes"),
    ],
)
def test_a_value_that_does_not_fit_is_named(values: list[int | bytes], message: str) -> None:
    state = State()
    with pytest.raises(ValueError, match=message):
        set_group(state, "tables", values)
    assert state == State()


def test_short_names_keep_the_upper_bits() -> None:
    state = State()
    state.rax = 0x1122334455667788
    state.ax = 0xAAAA
    assert state.rax == 0x112233445566AAAA
    state.eax = 1
    assert state.rax == 0x1122334400000001
    assert (state.eax, state.ax) == (1, 1)


def test_copy_is_independent() -> None:
    state = State.reset()
    other = state.copy()
    other.gpr[Gpr.AX] = 5
    other.cs.base = 7
    assert state.rax == 0
    assert state.cs.base == 0xFFFF0000


def test_reset_is_the_manuals() -> None:
    """SDM vol. 3A, table 10-1."""
    state = State.reset()
    assert (state.rip, state.rflags, state.cr0) == (0xFFF0, 2, 0x60000010)
    assert (state.cs.selector, state.cs.base, state.cs.limit) == (0xF000, 0xFFFF0000, 0xFFFF)
    assert all(
        state.seg[s].limit == 0xFFFF and state.seg[s].type == 3 for s in (Seg.DS, Seg.ES, Seg.FS, Seg.GS, Seg.SS)
    )
    assert (state.dr6, state.dr7) == (0xFFFF0FF0, 0x400)


@pytest.mark.parametrize("value", [-1, 1 << 70, True, 1.0, "1", None, b"\1"])
@pytest.mark.parametrize(("name", "width"), [("rax", 64), ("edi", 32), ("sp", 16)])
def test_a_register_takes_no_value_that_does_not_fit(name: str, width: int, value: object) -> None:
    state = State.reset()
    before = state.copy()
    with pytest.raises(ValueError, match=rf"^{name} (is|has) .*, an integer below 2\*\*{width} is needed$"):
        setattr(state, name, value)
    assert state == before


def test_a_checked_state_is_its_groups_in_numbers() -> None:
    state = State.reset()
    state.activity = Activity.HALTED
    found = checked(state)
    assert found == {group: get_group(state, group) for group in GROUPS}
    assert {type(value) for values in found.values() for value in values} == {int, bytes}


@pytest.mark.parametrize("row", FIELDS, ids=lambda row: row.name)
def test_every_field_is_checked(row: FieldInfo) -> None:
    wrong: list[object] = [None, 1.0, "1", True, bytes(row.count + 1), bytearray(row.count)]
    wrong += [] if row.blob else [-1, 1 << row.width]
    for value in wrong:
        state = State.reset()
        label = row.name
        if row.name.startswith("seg."):
            label = label.replace("seg", "gs")
            setattr(state.gs, row.name.removeprefix("seg."), value)
        elif row.count and not row.blob:
            label += f"[{row.count - 1}]"
            getattr(state, row.name)[-1] = value
        else:
            setattr(state, row.name, value)
        needed = f"{row.count} (bytes are )?needed" if row.blob else rf"an integer below 2\*\*{row.width} is needed"
        with pytest.raises(ValueError, match=rf"^{re.escape(label)} (is|has) .*{needed}$"):
            checked(state)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("gpr", [0] * 9, "gpr has 9 values, 8 needed"),
        ("gpr", (0,) * 8, r"gpr is \(0, .*, a list of 8 values is needed"),
        ("dr", None, "dr is None, a list of 4 values is needed"),
        ("seg", [Segment()] * 7, "seg is .*, a list of 8 segments is needed"),
        ("seg", [0] * 8, "seg is .*, a list of 8 segments is needed"),
        ("seg", 1, "seg is 1, a list of 8 segments is needed"),
    ],
)
def test_lists_of_another_shape_are_refused(name: str, value: object, wrong: str) -> None:
    state = State.reset()
    setattr(state, name, value)
    with pytest.raises(ValueError, match=wrong):
        checked(state)
