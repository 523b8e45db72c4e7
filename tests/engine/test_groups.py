"""State by groups: both engines take and give what get_state and set_state do, and refuse what does not fit."""

import pytest

from dm.engine import create
from dm.machine.state import GROUPS, State, get_group, group_layout


def every_value_different():
    """A state whose values all differ from those after RESET and, as far as their widths allow, from each other."""
    groups, number = {}, 3
    for group in GROUPS:
        values = []
        for _, width in group_layout(group):
            number += 1
            values.append(
                bytes([number % 251] * (width // 8)) if width > 64 else number * 0x0101010101010101 % (1 << width)
            )
        groups[group] = values
    groups["general"][9] = 0x246  # RFLAGS: bits that exist
    return groups


def plain(engine):
    return {group: list(values) for group, values in engine.get_groups().items()}


@pytest.fixture(params=["native", "python"])
def engine(request):
    made = create(request.param)
    yield made
    made.close()


def test_groups_are_the_state(engine):
    state = State.reset()
    state.rbx, state.fs.base, state.mtrr_mask[7], state.fxsave = 1 << 63, 5 << 40, 9, bytes(range(256)) * 2
    engine.set_state(state)
    assert plain(engine) == {group: get_group(state, group) for group in GROUPS}
    assert engine.get_state() == state


def test_what_goes_in_comes_out_again(engine):
    groups = every_value_different()
    engine.set_groups(groups)
    assert plain(engine) == groups


def test_a_delta_changes_its_groups_alone(engine):
    before = plain(engine)
    debug = [1, 2, 3, 4, 0xFFFF0FF1, 0x455]
    engine.set_groups({"debug": debug})
    assert plain(engine) == {**before, "debug": debug}


def test_unknown_groups_and_further_values_are_ignored(engine):
    before = plain(engine)
    engine.set_groups({"later": [1], "debug": [*before["debug"], 7]})
    assert plain(engine) == before


@pytest.mark.parametrize(
    ("group", "at", "label"), [(g, i, n) for g in GROUPS for i, (n, _) in enumerate(group_layout(g))]
)
def test_a_value_that_does_not_fit_is_named_and_changes_nothing(group, at, label):
    native = create("native")
    before = plain(native)
    width = group_layout(group)[at][1]
    for wrong in (bytes(width // 8 + 1), 1) if width > 64 else (1 << width, -1, b"x", True, 1.5, None):
        values = list(before[group])
        values[at] = wrong
        general = list(before["general"])
        general[0] ^= 1
        with pytest.raises(ValueError) as refusal:
            native.set_groups({group: values} if group == "general" else {"general": general, group: values})
        assert label in str(refusal.value)
        assert plain(native) == before
    native.close()


def test_missing_values_are_refused(engine):
    before = plain(engine)
    with pytest.raises(ValueError):
        engine.set_groups({"debug": before["debug"][:-1]})
    assert plain(engine) == before


def test_the_native_engine_reads_only_what_has_changed():
    native = create("native")
    before = native.get_groups()
    native.set_groups({"debug": [0, 0, 0, 5, 0xFFFF0FF0, 0x400]})
    after = native.get_groups()
    assert [group for group in GROUPS if after[group] is not before[group]] == ["debug"]
    assert before["debug"][3] == 0  # what was given out stays as it was
    native.close()


def test_a_closed_engine_has_no_groups(engine):
    engine.close()
    with pytest.raises(ValueError):
        engine.get_groups()
    with pytest.raises(ValueError):
        engine.set_groups({})
