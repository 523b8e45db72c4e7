"""States as JSON that people write: names of the manual, numbers or "0x…" strings, absent fields as after RESET."""

from __future__ import annotations

import difflib
from typing import Any

from dm.machine.state import FIELDS, FieldInfo, Gpr, Seg, Segment, State, misfit

_REGISTERS = {f"r{g.name.lower()}": int(g) for g in Gpr}
_SEGMENTS = {s.name.lower(): s for s in Seg}
_PARTS = {row.name.removeprefix("seg."): row for row in FIELDS if row.name.startswith("seg.")}
_FIELDS = {row.name: row for row in FIELDS if row.name != "gpr" and not row.name.startswith("seg.")}


def to_json(state: State) -> dict[str, Any]:
    """Return the whole state: general registers and fields by name, segments as objects, numbers as hex strings."""
    out: dict[str, Any] = {name: hex(state.gpr[index]) for name, index in _REGISTERS.items()}
    for name, seg in _SEGMENTS.items():
        out[name] = {part: hex(getattr(state.seg[seg], part)) for part in _PARTS}
    for name, row in _FIELDS.items():
        value = getattr(state, name)
        out[name] = value.hex() if row.blob else [hex(v) for v in value] if row.count else hex(value)
    return out


def from_json(table: Any) -> State:
    """Return the state that :func:`to_json` or a person wrote.

    Raises:
        ValueError: an unknown name (with the nearest known one), or a value that does not fit its field.
    """
    if not isinstance(table, dict):
        raise ValueError(f"a state is an object with register names, not {type(table).__name__}")
    state = State.reset()
    for name, value in table.items():
        if name in _REGISTERS:
            state.gpr[_REGISTERS[name]] = _number(name, value, 64)
        elif name in _SEGMENTS:
            _segment(name, value, state.seg[_SEGMENTS[name]])
        elif name in _FIELDS:
            setattr(state, name, _field(_FIELDS[name], value))
        else:
            raise ValueError(f"{name!r} is no field of the state{_nearest(name, [*_REGISTERS, *_SEGMENTS, *_FIELDS])}")
    return state


def _segment(name: str, table: Any, segment: Segment) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{name} is an object with {', '.join(_PARTS)}")
    for part, value in table.items():
        if part not in _PARTS:
            raise ValueError(f"{name} has no {part!r}{_nearest(part, list(_PARTS))}")
        setattr(segment, part, _number(f"{name}.{part}", value, _PARTS[part].width))


def _field(row: FieldInfo, value: Any) -> Any:
    if row.blob:
        try:
            data = bytes.fromhex(value)
        except (TypeError, ValueError):
            data = b""
        if len(data) != row.count:
            raise ValueError(f"{row.name} is a string of {row.count} bytes in hexadecimal")
        return data
    if not row.count:
        return _number(row.name, value, row.width)
    if not isinstance(value, list) or len(value) != row.count:
        raise ValueError(f"{row.name} is a list of {row.count} numbers")
    return [_number(f"{row.name}[{i}]", v, row.width) for i, v in enumerate(value)]


def _number(name: str, value: Any, width: int) -> int:
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            raise ValueError(f'{name} is {value!r}, a number like 4096 or "0x1000" is needed') from None
    if (wrong := misfit(name, width, value)) is not None:
        raise ValueError(wrong)
    return int(value)


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
