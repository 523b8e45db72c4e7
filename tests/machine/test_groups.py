"""The compiled functions say the same as the state table's own."""

from __future__ import annotations

import random

import pytest

from dm.machine import state as table
from dm.machine.groups import flatten, update
from dm.machine.state import GROUPS, State, get_group, group_layout


def random_state(seed: int) -> State:
    state, source = State(), random.Random(seed)
    for group in GROUPS:
        values = [
            source.randbytes(width // 8) if width > 64 else source.getrandbits(width)
            for _, width in group_layout(group)
        ]
        table.set_group(state, group, values)
    return state


@pytest.mark.parametrize("seed", range(20))
def test_flatten_is_get_group_of_every_group(seed: int) -> None:
    state = random_state(seed)
    assert flatten(state) == {group: get_group(state, group) for group in GROUPS}
    assert list(flatten(state)) == list(GROUPS)


def test_flatten_shares_no_list_with_the_state() -> None:
    state = State.reset()
    flatten(state)["general"][0] = 99
    assert state.gpr[0] == 0


@pytest.mark.parametrize("seed", range(20))
def test_update_is_the_way_back(seed: int) -> None:
    source, state = random_state(seed), State.reset()
    groups = flatten(source)
    update(state, {**{group: [*values, 1] for group, values in groups.items()}, "unknown": [1]})
    assert state == source
    groups["general"][0] = 0  # the state keeps no list of the message
    assert state == source


@pytest.mark.parametrize("group", GROUPS)
def test_update_refuses_what_does_not_fit_and_changes_nothing(group: str) -> None:
    state = random_state(1)
    good, kept = flatten(random_state(2))[group], flatten(state)
    label, width = group_layout(group)[-1]
    for bad in (-1, 1 << width, True, 1.0, None, b"xx", "x"):
        if width > 64 and isinstance(bad, int):
            bad = 7
        with pytest.raises(ValueError, match=label.replace("[", r"\[")):
            update(state, {group: [*good[:-1], bad]})
    with pytest.raises(ValueError, match="needed"):
        update(state, {group: good[:-1]})
    assert flatten(state) == kept
