"""A whole state to groups and back, fast: functions compiled from the state table, as dataclasses make their methods.

The same as :func:`dm.machine.state.get_group` for every group and :func:`dm.machine.state.update`, in a fraction of the
time; a value that does not fit is left to the latter, which names it.  If :mod:`dm.fast` is built, it does what every
exchange needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final, TypeAlias

from dm import fast
from dm.machine.state import FIELD, FIELDS, GROUPS, Seg, Segment, State, checked, group_layout, set_group

Groups: TypeAlias = dict[str, list[int | bytes]]

_SEGMENTS: Final = FIELD["seg.base"].group


def _compile(lines: list[str]) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)  # made from the state table alone
    function: Callable[..., Any] = names["function"]
    return function


def _places(group: str) -> list[tuple[str, int]]:
    """Return where a group's values are in a State, as a Python target, and how many each holds (0: one, bare)."""
    if group == _SEGMENTS:
        return [(f"s{seg.value}.{part.name}", 0) for seg in Seg for part in fields(Segment)]
    return [(f"state.{row.name}", 0 if row.blob else row.count) for row in FIELDS if row.group == group]


_UNPACK_SEGMENTS: Final = f"  {', '.join(f's{seg.value}' for seg in Seg)} = state.seg"


def _flattener() -> Callable[[State], Groups]:
    lines = ["def function(state):", _UNPACK_SEGMENTS, "  return {"]
    for group in GROUPS:
        values = ", ".join(f"*{place}" if count else place for place, count in _places(group))
        lines.append(f"    {group!r}: [{values}],")
    return _compile([*lines, "  }"])


def _storer(group: str) -> Callable[[State, list[Any]], bool]:
    """Return what stores a group's values and says whether it has; if not, nothing has changed."""
    layout = group_layout(group)
    names = [f"v{at}" for at in range(len(layout))]
    lines = ["def function(state, values):", f"  if len(values) < {len(layout)}: return False"]
    lines.append(f"  {', '.join(names)}, *_ = values")
    for name, (_, width) in zip(names, layout, strict=True):
        right = f"{name}.__class__ is int and 0 <= {name} <= {(1 << width) - 1:#x}"
        if width > 64:
            right = f"{name}.__class__ is bytes and len({name}) == {width // 8}"
        lines.append(f"  if not ({right}): return False")
    if group == _SEGMENTS:
        lines.append(_UNPACK_SEGMENTS)
    at = 0
    for place, count in _places(group):
        many = f"[{', '.join(names[at : at + count])}]"
        lines.append(f"  {place} = {many if count else names[at]}")
        at += count or 1
    return _compile([*lines, "  return True"])


_STORERS: Final = {group: _storer(group) for group in GROUPS}

#: Return all groups of a state.
flatten: Final[Callable[[State], Groups]] = _flattener()


def _fast() -> Any:
    """Return ``dm.fast``'s Groups for this state table, or None."""
    module = fast.module()
    if module is None:
        return None
    rows = []
    for group in GROUPS:
        places = tuple(
            (
                row.name.removeprefix("seg."),
                0 if row.blob or group == _SEGMENTS else row.count,
                row.count if row.blob else 0,
                (1 << row.width) - 1,
            )
            for row in FIELDS
            if row.group == group
        )
        rows.append((group, group == _SEGMENTS, places))
    return module.Groups(State, Segment, "seg", len(Seg), tuple(rows))


_FAST: Final = _fast()


def changed(state: State, known: Groups) -> Groups:
    """Return the groups of a state that are not as in ``known``; a group that is missing there has changed."""
    if _FAST is not None and (found := _FAST.changed(state, known)) is not None:
        return found  # type: ignore[no-any-return]
    return {group: values for group, values in flatten(state).items() if values != known.get(group)}


def delta(state: State, known: Groups) -> Groups:
    """Return the same as :func:`changed`, of a state that others have filled in.

    Raises:
        ValueError: a field does not hold what the table says.  Single values are checked only where C has not checked
            them: the codec checks every value that comes from the wire.
    """
    if _FAST is not None and (found := _FAST.changed(state, known)) is not None:
        return found  # type: ignore[no-any-return]
    return {group: values for group, values in checked(state).items() if values != known.get(group)}


def update(state: State, delta: Groups) -> None:
    """Store the groups of ``delta`` in a state; unknown groups are ignored.

    Raises:
        ValueError: a value does not fit (nothing has been changed by that group).
    """
    if _FAST is not None and _FAST.store(state, delta):
        return
    for group, values in delta.items():
        store = _STORERS.get(group)
        if store is not None and not store(state, values):
            set_group(state, group, values)
