"""The compiled functions say the same as the state table's own."""

from __future__ import annotations

import gc
import random
import sys

import pytest

from dm.machine import groups as compiled
from dm.machine import state as table
from dm.machine.groups import changed, flatten, update
from dm.machine.state import GROUPS, State, get_group, group_layout


@pytest.fixture(params=["C", "Python"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of functions do the same."""
    if request.param == "Python":
        monkeypatch.setattr(compiled, "_FAST", None)
    elif compiled._FAST is None:
        pytest.skip("dm.fast is not built (python -m dm.fast.build)")


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


@pytest.mark.parametrize("seed", range(20))
def test_changed_names_the_groups_that_differ(seed: int) -> None:
    state, source = random_state(seed), random.Random(seed)
    known = flatten(state)
    assert changed(state, known) == {}
    assert changed(state, {}) == known
    assert changed(state, {group: list(values) for group, values in known.items()}) == {}
    other = random_state(seed + 1000)
    some = source.sample(GROUPS, source.randrange(len(GROUPS)))
    update(state, {group: flatten(other)[group] for group in some})
    delta = changed(state, known)
    assert list(delta) == [group for group in GROUPS if group in some]
    assert all(delta[group] == flatten(other)[group] for group in some)
    if "general" in delta:  # the delta keeps no list of the state
        state.gpr[0] += 1
        assert delta["general"] == flatten(other)["general"]


def test_changed_sees_a_value_in_a_list_and_in_a_segment() -> None:
    state = State.reset()
    known = flatten(state)
    state.gpr[3] = 77
    state.seg[5].limit += 1
    state.fxsave = bytes(511) + b"x"
    assert list(changed(state, known)) == ["general", "segments", "fpu"]


def test_changed_of_a_state_that_is_not_as_it_should_be() -> None:
    state = State.reset()
    known = flatten(state)
    state.gpr.append(1)
    assert changed(state, known) == {"general": flatten(state)["general"]}
    state.gpr.pop()
    state.rip = 65520.0  # type: ignore[assignment]  # equal to what is known
    assert changed(state, known) == {}
    state.rip = "x"  # type: ignore[assignment]
    assert changed(state, known) == {"general": flatten(state)["general"]}


def test_no_object_is_lost_or_kept() -> None:
    state, groups = random_state(3), flatten(random_state(4))

    def work() -> None:
        for _ in range(500):
            changed(state, {})
            update(state, groups)
            changed(state, groups)

    work()
    gc.collect()
    before = sys.getallocatedblocks()
    work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100
