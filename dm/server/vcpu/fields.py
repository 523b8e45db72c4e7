"""What the state machine of a vCPU keeps in Python (:mod:`dm.server.vcpu.core`) and in C alike: one description.

``native/generate.py`` prints the C side from these rows, and Python copies by the same ones.  Nothing is imported here
but the schema, since the extension is built before the package is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, TypeAlias

from dm.protocol import schema
from dm.protocol.schema import Emulate, IoAnswer, Stop

#: Bits of an unsigned number (negative: of a signed one), a flag, or an enumeration, of which C has the index.
FieldKind: TypeAlias = int | type[bool] | type[StrEnum]


@dataclass(frozen=True, slots=True)
class CrossingField:
    """One value: its ``name`` in C, and ``path``, where Python has it (attributes with dots between them)."""

    name: str
    kind: FieldKind
    path: str


#: What is left between two runs; paths are from the core.
VCPU: Final = (
    CrossingField("epoch", 32, "epoch"),
    CrossingField("last", 64, "last"),
    CrossingField("known", bool, "known"),
    CrossingField("slice", 64, "slice.steps"),
)
#: How far a run is; paths are from the run.
RUN: Final = (
    CrossingField("steps", 64, "report.steps"),
    CrossingField("instructions", 64, "report.instructions"),
    CrossingField("ran_ns", -64, "ran_ns"),
    CrossingField("exchanged_ns", -64, "exchanged_ns"),
    CrossingField("tlb_flush", bool, "report.tlb_flush"),
    CrossingField("window", bool, "window"),
    CrossingField("stop", Stop, "stop"),
    CrossingField("questions", 32, "questions"),
    CrossingField("must_progress", bool, "must_progress"),
    CrossingField("open_steps", 32, "open_steps"),
    CrossingField("answered", bool, "answered"),
)
#: Fields of ``emulate`` that a run keeps.  Where one may be left out, has_... is beside it in C.
REQUEST: Final = (
    *("seq", "reason", "until", "steps", "microseconds", "acknowledge", "explain", "checkpoint", "code", "mmio"),
    "stop_at",
)
_ADDRESS: Final = ("session", "vcpu", "epoch")
#: Fields that C understands.  A message that has another one goes to Python.
UNDERSTOOD: Final[dict[type[schema.Message], tuple[str, ...]]] = {
    Emulate: (*_ADDRESS, *REQUEST, "generation", "base", "state", "window"),
    IoAnswer: (*_ADDRESS, "seq", "io", "data", "window", "stop"),
}

REQUEST_ROWS: Final = {row.name: row for row in schema.rows(Emulate) if row.name in REQUEST}


def to_c(fields: Iterable[CrossingField], owner: object, c: Any) -> None:
    """Copy the values of ``owner`` into a structure of C's."""
    for field in fields:
        value = attrgetter(field.path)(owner)
        setattr(c, field.name, list(type(value)).index(value) if isinstance(value, StrEnum) else value)


def from_c(fields: Iterable[CrossingField], c: Any, owner: object) -> None:
    """Copy the values of a structure of C's back."""
    for field in fields:
        value, kind = getattr(c, field.name), field.kind
        at, _, name = field.path.rpartition(".")
        if not isinstance(kind, int):
            value = bool(value) if kind is bool else list(kind)[value]
        setattr(attrgetter(at)(owner) if at else owner, name, value)


def request_to_c(request: Emulate, c: Any) -> None:
    """Copy what a run keeps of a request into C's."""
    for name, row in REQUEST_ROWS.items():
        value = getattr(request, name)
        if row.optional and row.default is None:
            setattr(c, f"has_{name}", value is not None)
            value = value or 0
        if isinstance(value, bytes):
            setattr(c, f"{name}_size", len(value))
        setattr(c, name, list(type(value)).index(value) if isinstance(value, StrEnum) else value)
