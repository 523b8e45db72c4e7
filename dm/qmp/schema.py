"""QMP's types, derived from Python's: one description for introspection, argument checking and encoding.

A command is an async function: its keyword parameters are its arguments, its return annotation is what it returns.
An event is a dataclass with a ``NAME``.  Types map so:

=============================  ==========================================================
Python                         QMP
=============================  ==========================================================
``bool`` ``str`` ``float``     bool, str, number
``int``                        int, -2^63 to 2^63-1, or as :class:`Range` in ``Annotated`` says
``StrEnum`` subclass           enum
``list[T]``, ``tuple[T, ...]``  array
dataclass                      object; a field ``a_b`` is the member ``a-b``
``T | None``                   optional member or argument, left out when None
``None`` (return)              the empty object
``Any``                        any
=============================  ==========================================================

Descriptor objects (:class:`QmpType`) are built once, when a command or event is declared; a type that cannot be
described is refused there.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Protocol, Union, get_args, get_origin, get_type_hints

Json = Any  # what json.dumps takes; spelled out, the recursive type would say no more

Handler = Callable[..., Awaitable[Any]]


class SchemaError(ValueError):
    """A value does not fit its type; the text names where, and what would fit (QEMU's wording where it has one)."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of an ``int``, both included; ``Annotated[int, Range(0, 65535)]``."""

    low: int
    high: int


I64: Final = Range(-(2**63), 2**63 - 1)
U64 = Annotated[int, Range(0, 2**64 - 1)]


class QmpType(Protocol):
    """One QMP type."""

    def decode(self, value: Json, where: str) -> Any:
        """Return the Python value for a JSON value received as ``where``.

        Raises:
            SchemaError: it does not fit.
        """
        ...

    def encode(self, value: Any, where: str) -> Json:
        """Return the JSON value for a Python value to be sent as ``where``.

        Raises:
            SchemaError: it does not fit.
        """
        ...

    def name(self, names: Introspection) -> str:
        """Return the type's name in introspection output; describes it there on first use."""
        ...


@dataclass(frozen=True, slots=True)
class Builtin:
    """A JSON scalar: ``qmp`` is its name, ``json`` its kind in introspection, ``accepts`` the Python types."""

    qmp: str
    json: str
    accepts: tuple[type, ...]

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`."""
        if type(value) not in self.accepts:  # not isinstance: bool is an int
            raise SchemaError(f"Invalid parameter type for '{where}', expected: {self.json}")
        return value

    encode = decode

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""
        return names.define(self.qmp, {"name": self.qmp, "meta-type": "builtin", "json-type": self.json})


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON value."""

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`."""
        return value

    encode = decode

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""
        return names.define("any", {"name": "any", "meta-type": "builtin", "json-type": "value"})


@dataclass(frozen=True, slots=True)
class Integer:
    """An int within bounds; introspection does not show them, as in QEMU."""

    bounds: Range = I64

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`."""
        _INT.decode(value, where)
        if not self.bounds.low <= value <= self.bounds.high:
            raise SchemaError(f"Parameter '{where}' expects a number from {self.bounds.low} to {self.bounds.high}")
        return value

    encode = decode

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""
        return _INT.name(names)


@dataclass(frozen=True, slots=True)
class Enumeration:
    """One of the values of a StrEnum."""

    of: type[StrEnum]

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`."""
        _STR.decode(value, where)
        try:
            return self.of(value)
        except ValueError:
            known = ", ".join(repr(str(member)) for member in self.of)
            raise SchemaError(f"Parameter '{where}' does not accept value '{value}', only {known}") from None

    def encode(self, value: Any, where: str) -> Json:
        """See :class:`QmpType`."""
        return str(self.decode(str(value), where))

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""

        def entry(name: str) -> Json:
            values = [str(member) for member in self.of]
            return {"name": name, "meta-type": "enum", "members": [{"name": v} for v in values], "values": values}

        return names.describe(self.of, entry)


@dataclass(frozen=True, slots=True)
class Array:
    """A list of one type; decodes to a tuple."""

    of: QmpType

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`."""
        if not isinstance(value, list):
            raise SchemaError(f"Invalid parameter type for '{where}', expected: array")
        return tuple(self.of.decode(item, f"{where}[{i}]") for i, item in enumerate(value))

    def encode(self, value: Any, where: str) -> Json:
        """See :class:`QmpType`."""
        if not isinstance(value, list | tuple):
            raise SchemaError(f"Invalid parameter type for '{where}', expected: array")
        return [self.of.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""
        element = self.of.name(names)
        return names.define(f"[{element}]", {"name": f"[{element}]", "meta-type": "array", "element-type": element})


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: ``attribute`` in Python, ``qmp`` on the wire."""

    attribute: str
    qmp: str
    kind: QmpType
    optional: bool


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object.  ``make`` takes the decoded members as keywords; ``key`` identifies the type in introspection."""

    members: tuple[Member, ...]
    key: object
    make: type = dict

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`.  Absent optional members are not passed to ``make``."""
        if not isinstance(value, dict):
            raise SchemaError(f"Invalid parameter type for '{where}', expected: object")
        prefix = f"{where}." if where else ""
        known = {member.qmp for member in self.members}
        for given in value:
            if given not in known:
                raise SchemaError(f"Parameter '{prefix}{given}' is unexpected")
        result = {}
        for member in self.members:
            if member.qmp in value:
                result[member.attribute] = member.kind.decode(value[member.qmp], prefix + member.qmp)
            elif not member.optional:
                raise SchemaError(f"Parameter '{prefix}{member.qmp}' is missing")
        return self.make(**result)

    def encode(self, value: Any, where: str) -> Json:
        """See :class:`QmpType`."""
        if not isinstance(value, self.make):
            raise SchemaError(f"Invalid parameter type for '{where}', expected: {self.key}")
        result = {}
        for member in self.members:
            item = getattr(value, member.attribute)
            if item is not None or not member.optional:
                result[member.qmp] = member.kind.encode(item, f"{where}.{member.qmp}")
        return result

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""

        def entry(name: str) -> Json:
            members = []
            for member in self.members:
                shown = {"name": member.qmp, "type": member.kind.name(names)}
                members.append({**shown, "default": None} if member.optional else shown)
            return {"name": name, "meta-type": "object", "members": members}

        return names.describe(self.key, entry)


@dataclass(frozen=True, slots=True)
class Nothing:
    """What a command without a result returns: an empty object."""

    def decode(self, value: Json, where: str) -> Any:
        """See :class:`QmpType`."""
        _EMPTY.decode(value, where)
        return None

    def encode(self, value: Any, where: str) -> Json:
        """See :class:`QmpType`."""
        if value is not None:
            raise SchemaError(f"'{where}' returns nothing, not {value!r}")
        return {}

    def name(self, names: Introspection) -> str:
        """See :class:`QmpType`."""
        return _EMPTY.name(names)


_INT: Final = Builtin("int", "int", (int,))
_STR: Final = Builtin("str", "string", (str,))
_EMPTY: Final = Object((), "empty object")
_SCALARS: Final[Mapping[object, QmpType]] = {
    bool: Builtin("bool", "boolean", (bool,)),
    int: Integer(),
    str: _STR,
    float: Builtin("number", "number", (float, int)),
    Any: Anything(),
    None: Nothing(),
    type(None): Nothing(),
}


def kind_of(hint: Any) -> QmpType:
    """Return the QMP type for a Python type annotation (see the module's table).

    Raises:
        TypeError: the annotation has no QMP counterpart.
    """
    if isinstance(hint, type | types.NoneType) or hint is Any:
        if hint in _SCALARS:
            return _SCALARS[hint]
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            return Enumeration(hint)
        if isinstance(hint, type) and is_dataclass(hint):
            hints = get_type_hints(hint, include_extras=True)
            members = (_member(f.name, hints[f.name], f.default is not MISSING) for f in fields(hint))
            return Object(tuple(members), hint, hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is list or (origin is tuple and args[1:] == (...,)):
        return Array(kind_of(args[0]))
    if origin is Annotated and args[0] is int and isinstance(args[1], Range):
        return Integer(args[1])
    raise TypeError(f"{hint!r} has no QMP type; see dm.qmp.schema for those that have")


def _member(attribute: str, hint: Any, default: bool) -> Member:
    """Describe a field or parameter; it is optional on the wire if its type includes None."""
    optional = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    if optional:
        if not default:
            raise TypeError(f"'{attribute}' may be None, so it needs the default None")
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        if len(rest) != 1:
            raise TypeError(f"'{attribute}' must have one type besides None, not {hint!r}")
        hint = rest[0]
    return Member(attribute, attribute.replace("_", "-"), kind_of(hint), optional)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it takes, what it returns, who carries it out.

    ``oob``: it may run out-of-band, so it must not wait for anything an in-band command may hold.
    """

    name: str
    arguments: Object
    returns: QmpType
    handler: Handler
    oob: bool

    @classmethod
    def of(cls, name: str, handler: Handler, *, oob: bool = False) -> Command:
        """Describe ``handler`` by its signature; its first parameter is the context it is called with.

        Raises:
            TypeError: a parameter or the result has no QMP type.
        """
        hints = get_type_hints(handler, include_extras=True)
        parameters = list(inspect.signature(handler).parameters.values())[1:]
        members = tuple(_member(p.name, hints[p.name], p.default is not p.empty) for p in parameters)
        arguments = Object(members, ("arguments", name)) if members else _EMPTY
        return cls(name, arguments, kind_of(hints["return"]), handler, oob)


class Schema:
    """All commands and events of a monitor."""

    def __init__(self, commands: Iterable[Command], events: Iterable[type]) -> None:
        """Take the commands, and the events' dataclasses (each with a ``NAME``).

        Raises:
            TypeError: an event's field has no QMP type.
            ValueError: two commands or events share a name.
        """
        self.commands: dict[str, Command] = {}
        self.events: dict[str, Object] = {}
        for command in commands:
            if command.name in self.commands:
                raise ValueError(f"command {command.name!r} is declared twice")
            self.commands[command.name] = command
        for event in events:
            name, data = str(getattr(event, "NAME")), kind_of(event)  # noqa: B009 -- NAME is no attribute of type
            assert isinstance(data, Object)
            if name in self.events:
                raise ValueError(f"event {name!r} is declared twice")
            self.events[name] = data

    def introspect(self) -> list[Json]:
        """Return what ``query-qmp-schema`` answers: QEMU's SchemaInfo for each entity, types named by number."""
        names = Introspection()
        for command in self.commands.values():
            entry = {
                "name": command.name,
                "meta-type": "command",
                "arg-type": command.arguments.name(names),
                "ret-type": command.returns.name(names),
            }
            names.define(("command", command.name), {**entry, "allow-oob": True} if command.oob else entry)
        for name, data in self.events.items():
            entry = {"name": name, "meta-type": "event", "arg-type": (data if data.members else _EMPTY).name(names)}
            names.define(("event", name), entry)
        return names.entries


class Introspection:
    """SchemaInfo entries collected so far.

    Objects and enums are named by number: their real names are no interface (QEMU's docs/devel/qapi-code-gen, "Client
    JSON Protocol introspection").
    """

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self._names: dict[object, str] = {}
        self._numbered = 0

    def define(self, key: object, entry: Json) -> str:
        """Add ``entry`` unless ``key`` is known; return its name."""
        if key not in self._names:
            self._names[key] = entry["name"]
            self.entries.append(entry)
        return self._names[key]

    def describe(self, key: object, entry: Callable[[str], Json]) -> str:
        """Add what ``entry`` returns for a fresh number, unless ``key`` is known; return its name."""
        if key not in self._names:
            self._names[key] = name = str(self._numbered)
            self._numbered += 1
            self.entries.append(entry(name))
        return self._names[key]
