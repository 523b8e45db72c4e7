"""Types derived from Python: checking, encoding, introspection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest

from dm.qmp.commands import SCHEMA
from dm.qmp.schema import U64, Command, Range, Schema, SchemaError, kind_of


class Colour(StrEnum):
    RED = "red"
    DARK_BLUE = "dark-blue"


@dataclass(frozen=True)
class Point:
    x_pos: int
    colour: Colour | None = None
    tags: tuple[str, ...] | None = None


async def paint(
    context: object,
    at: Point,
    width: Annotated[int, Range(1, 10)],
    points: list[Point] | None = None,
    scale: float | None = None,
    dry_run: bool | None = None,
    note: Any | None = None,
) -> list[Point]:
    return [at]


PAINT = Command.of("paint", paint)
POINT = {"x-pos": 1}


def decode(**arguments: Any) -> Any:
    return PAINT.arguments.decode({k.replace("_", "-"): v for k, v in arguments.items()}, "")


def test_arguments_are_decoded() -> None:
    point = {"x-pos": -1, "colour": "dark-blue", "tags": ["a"]}
    assert decode(at=point, width=10, points=[POINT], scale=1, dry_run=False, note=[None]) == {
        "at": Point(-1, Colour.DARK_BLUE, ("a",)),
        "width": 10,
        "points": (Point(1),),
        "scale": 1,
        "dry_run": False,
        "note": [None],
    }


def test_optional_arguments_may_be_absent() -> None:
    assert decode(at=POINT, width=1) == {"at": Point(1), "width": 1}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bogus": 1}, "Parameter 'bogus' is unexpected"),
        ({"at": {}}, "Parameter 'at.x-pos' is missing"),
        ({"at": {"x-pos": 1, "y": 2}}, "Parameter 'at.y' is unexpected"),
        ({"at": 1}, "Invalid parameter type for 'at', expected: object"),
        ({"at": {"x-pos": "1"}}, "Invalid parameter type for 'at.x-pos', expected: int"),
        ({"at": {"x-pos": True}}, "Invalid parameter type for 'at.x-pos', expected: int"),
        ({"at": {"x-pos": 1.0}}, "Invalid parameter type for 'at.x-pos', expected: int"),
        ({"at": {"x-pos": None}}, "Invalid parameter type for 'at.x-pos', expected: int"),
        ({"at": {"x-pos": 2**63}}, f"Parameter 'at.x-pos' expects a number from {-(2**63)} to {2**63 - 1}"),
        ({"at": {"x-pos": 1, "colour": 1}}, "Invalid parameter type for 'at.colour', expected: string"),
        (
            {"at": {"x-pos": 1, "colour": "DARK_BLUE"}},
            "Parameter 'at.colour' does not accept value 'DARK_BLUE', only 'red', 'dark-blue'",
        ),
        ({"at": {"x-pos": 1, "tags": ["a", 2]}}, "Invalid parameter type for 'at.tags[1]', expected: string"),
        ({"points": {}}, "Invalid parameter type for 'points', expected: array"),
        ({"points": [POINT, {}]}, "Parameter 'points[1].x-pos' is missing"),
        ({"points": None}, "Invalid parameter type for 'points', expected: array"),
        ({"width": 0}, "Parameter 'width' expects a number from 1 to 10"),
        ({"width": 11}, "Parameter 'width' expects a number from 1 to 10"),
        ({"scale": "1"}, "Invalid parameter type for 'scale', expected: number"),
        ({"dry_run": 0}, "Invalid parameter type for 'dry-run', expected: boolean"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: str) -> None:
    with pytest.raises(SchemaError) as caught:
        decode(**{"at": POINT, "width": 1, **change})
    assert str(caught.value) == error


def test_missing_argument() -> None:
    with pytest.raises(SchemaError, match="Parameter 'width' is missing"):
        decode(at=POINT)


def test_results_are_encoded() -> None:
    result = [Point(1), Point(2, Colour.RED, ())]
    assert PAINT.returns.encode(result, "paint") == [{"x-pos": 1}, {"x-pos": 2, "colour": "red", "tags": []}]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (None, {}),
        (int, "1"),
        (int, True),
        (U64, -1),
        (U64, 2**64),
        (Colour, "green"),
        (Point, {"x-pos": 1}),
        (Point, Point("1")),  # type: ignore[arg-type]
        (list[int], 1),
        (list[int], [None]),
    ],
)
def test_wrong_results_are_refused(hint: Any, value: Any) -> None:
    with pytest.raises(SchemaError):
        kind_of(hint).encode(value, "result")


@pytest.mark.parametrize(
    "hint", [bytes, dict[str, int], set[int], tuple[int, int], object, Annotated[str, "x"], int | str]
)
def test_types_without_counterpart_are_refused(hint: Any) -> None:
    with pytest.raises(TypeError, match="no QMP type"):
        kind_of(hint)


def test_optional_argument_needs_a_default() -> None:
    async def handler(context: object, a: int | None) -> None: ...

    with pytest.raises(TypeError, match="'a' may be None"):
        Command.of("x", handler)


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="command 'paint' is declared twice"):
        Schema([PAINT, PAINT], [])


@dataclass
class Done:
    NAME: ClassVar[str] = "DONE"
    where: Point


@dataclass
class Empty:
    NAME: ClassVar[str] = "EMPTY"


def test_introspection() -> None:
    """The whole output for a small schema, checked against QEMU's SchemaInfo (qapi/introspect.json)."""

    async def stop(context: object) -> None: ...

    schema = Schema([PAINT, Command.of("stop", stop, oob=True)], [Done, Empty])
    by_name = {entry["name"]: entry for entry in schema.introspect()}
    paint = by_name["paint"]
    arguments = by_name[paint["arg-type"]]
    members = {member["name"]: member for member in arguments["members"]}
    point = members["at"]["type"]
    colour = next(m["type"] for m in by_name[point]["members"] if m["name"] == "colour")
    assert paint == {"name": "paint", "meta-type": "command", "arg-type": paint["arg-type"], "ret-type": f"[{point}]"}
    assert arguments == {
        "name": paint["arg-type"],
        "meta-type": "object",
        "members": [
            {"name": "at", "type": point},
            {"name": "width", "type": "int"},
            {"name": "points", "type": f"[{point}]", "default": None},
            {"name": "scale", "type": "number", "default": None},
            {"name": "dry-run", "type": "bool", "default": None},
            {"name": "note", "type": "any", "default": None},
        ],
    }
    assert by_name[f"[{point}]"] == {"name": f"[{point}]", "meta-type": "array", "element-type": point}
    assert by_name[colour] == {
        "name": colour,
        "meta-type": "enum",
        "members": [{"name": "red"}, {"name": "dark-blue"}],
        "values": ["red", "dark-blue"],
    }
    empty = by_name["stop"]["arg-type"]
    assert by_name["stop"] == {
        "name": "stop",
        "meta-type": "command",
        "arg-type": empty,
        "ret-type": empty,
        "allow-oob": True,
    }
    assert by_name[empty] == {"name": empty, "meta-type": "object", "members": []}
    assert by_name["EMPTY"] == {"name": "EMPTY", "meta-type": "event", "arg-type": empty}
    assert by_name[by_name["DONE"]["arg-type"]]["members"] == [{"name": "where", "type": point}]
    builtins = {e["name"]: e["json-type"] for e in by_name.values() if e["meta-type"] == "builtin"}
    assert builtins == {"int": "int", "str": "string", "number": "number", "bool": "boolean", "any": "value"}


def test_introspection_of_the_monitor_is_closed() -> None:
    """Every type named is described, every type described is used, and names are unique."""
    entries = SCHEMA.introspect()
    described = [entry["name"] for entry in entries]
    assert len(described) == len(set(described))
    used = set()
    for entry in entries:
        used |= {entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry}
        used |= {member["type"] for member in entry.get("members", ()) if "type" in member}
    types = {entry["name"] for entry in entries if entry["meta-type"] not in ("command", "event")}
    assert used == types
    assert {e["name"] for e in entries if e["meta-type"] == "command"} == set(SCHEMA.commands)
    assert {e["name"] for e in entries if e["meta-type"] == "event"} == set(SCHEMA.events)


def test_introspection_is_repeatable() -> None:
    assert SCHEMA.introspect() == SCHEMA.introspect()
