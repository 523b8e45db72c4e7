"""Bytes to messages and back, checked against the schema.

Sans-IO: no sockets here.  Every value is checked strictly (an integer is never a flag, text is never bytes) and a
refusal names the field, what it was and what would be right.  Unknown fields are ignored, unknown messages refused.
If :mod:`dm.fast` is built, it reads and writes valid, usual messages; all else is done here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgpack

from dm import fast
from dm.protocol import schema
from dm.protocol.schema import ErrorClass, FieldType, Message

_Convert: TypeAlias = Callable[[Any, str], Any]

_INTEGERS: Final = {int}


class ProtocolError(Exception):
    """A message, or what it asks, is not acceptable.

    ``error`` is the class that travels in the ``error`` message, ``text`` says what was wrong, ``expected`` what would
    be right, ``field`` where.  ``partial`` holds the identifying fields (seq, session, vcpu, epoch) that could be read.
    """

    def __init__(self, error: ErrorClass, text: str, expected: str = "", field: str = "") -> None:
        super().__init__(f"{text}; expected {expected}" if expected else text)
        self.error, self.text, self.expected, self.field = error, text, expected, field
        self.partial: dict[str, int] = {}

    def message(self, **known: int | None) -> schema.Error:
        """Return the ``error`` message for this; ``known`` adds seq, session, vcpu or epoch."""
        return schema.Error(
            error=self.error,
            text=clip(self.text, 512),
            expected=clip(self.expected, 512),
            field=clip(self.field, 128),
            **{**self.partial, **known},  # type: ignore[arg-type]
        )


def clip(text: str, limit: int) -> str:
    """Return ``text`` cut to ``limit`` bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


class _Repeating(dict[Any, Any]):
    """A map in which a key came more than once; MessagePack's decoder would silently keep the last."""


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeating(found)


def _show(value: Any) -> str:
    """Return a short description of a bad value; a peer's megabyte is not sent back to it."""
    if type(value) is _Repeating:
        return "a map with a repeated key"
    if isinstance(value, bytes | list | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _bad(where: str, value: Any, expected: str) -> ProtocolError:
    return ProtocolError(ErrorClass.BAD_MESSAGE, f"{where} is {_show(value)}", expected, where)


def _unsigned(bits: int) -> _Convert:
    end = 1 << bits

    def convert(value: Any, where: str) -> int:
        if type(value) is int and 0 <= value < end:
            return value
        raise _bad(where, value, f"an integer from 0 to {end - 1:#x}")

    return convert


def _flag(value: Any, where: str) -> bool:
    if type(value) is bool:
        return value
    raise _bad(where, value, "true or false")


def _text(limit: int) -> _Convert:
    def convert(value: Any, where: str) -> str:
        if type(value) is str and len(value) <= limit and (value.isascii() or len(value.encode()) <= limit):
            return value
        raise _bad(where, value, f"text of at most {limit} bytes")

    return convert


def _blob(limit: int) -> _Convert:
    def convert(value: Any, where: str) -> bytes:
        if type(value) is bytes and len(value) <= limit:
            return value
        raise _bad(where, value, f"at most {limit} bytes")

    return convert


def _choice(kind: schema.Choice) -> _Convert:
    words = {str(word): word for word in kind.enum}
    expected = "one of " + ", ".join(words)

    def convert(value: Any, where: str) -> Any:
        word = words.get(value) if isinstance(value, str) else None
        if word is not None:
            return word
        raise _bad(where, value, expected)

    return convert


def _list(kind: schema.ListOf) -> _Convert:
    item, limit = _converter(kind.of), kind.limit
    expected = f"a list of at most {limit} values"

    def convert(value: Any, where: str) -> list[Any]:
        if type(value) is not list or len(value) > limit:
            raise _bad(where, value, expected)
        return [item(one, f"{where}[{index}]") for index, one in enumerate(value)] if value else []

    return convert


def _groups(value: Any, where: str) -> schema.Groups:
    if type(value) is not dict or len(value) > schema.MAX_GROUPS:
        raise _bad(where, value, f"a map of at most {schema.MAX_GROUPS} state groups, each once")
    for name, values in value.items():
        if type(name) is not str:
            raise _bad(where, name, "group names that are text")
        if type(values) is not list or len(values) > schema.MAX_GROUP_VALUES:
            raise _bad(f"{where}.{name}", values, f"a list of at most {schema.MAX_GROUP_VALUES} values")
        if set(map(type, values)) == _INTEGERS and min(values) >= 0:
            continue
        for index, one in enumerate(values):
            if type(one) is int:
                if one >= 0:
                    continue
            elif type(one) is bytes and len(one) <= schema.MAX_GROUP_BLOB:
                continue
            raise _bad(f"{where}.{name}[{index}]", one, "an unsigned integer or bytes")
    return value


def _record_in(cls: type[Any]) -> _Convert:
    parts = [(row.name, _converter(row.kind)) for row in schema.rows(cls)]
    needed = sum(not row.optional for row in schema.rows(cls))
    expected = f"an array of {needed if needed == len(parts) else f'{needed} to {len(parts)}'} values ({cls.__name__})"

    def convert(value: Any, where: str) -> Any:
        if type(value) is not list or len(value) < needed:
            raise _bad(where, value, expected)
        return cls(*[convert(one, f"{where}.{name}") for (name, convert), one in zip(parts, value, strict=False)])

    return convert


def _record_out(cls: type[Any]) -> _Convert:
    parts = [(row.name, _writer(row.kind)) for row in schema.rows(cls)]

    def convert(value: Any, where: str) -> list[Any]:
        if type(value) is not cls:
            raise _bad(where, value, f"a {cls.__name__}")
        return [convert(getattr(value, name), f"{where}.{name}") for name, convert in parts]

    return convert


def _list_out(kind: schema.ListOf) -> _Convert:
    item, limit = _writer(kind.of), kind.limit

    def convert(value: Any, where: str) -> list[Any]:
        if type(value) is not list or len(value) > limit:
            raise _bad(where, value, f"a list of at most {limit} values")
        return [item(one, f"{where}[{index}]") for index, one in enumerate(value)] if value else []

    return convert


def _converter(kind: FieldType) -> _Convert:
    """Return what checks a decoded value of this type and makes the Python one of it."""
    match kind:
        case schema.U(bits):
            return _unsigned(bits)
        case schema.Flag():
            return _flag
        case schema.Text(limit):
            return _text(limit)
        case schema.Blob(limit):
            return _blob(limit)
        case schema.Choice():
            return _choice(kind)
        case schema.Record(cls):
            return _record_in(cls)
        case schema.ListOf():
            return _list(kind)
        case schema.StateGroups():
            return _groups


def _writer(kind: FieldType) -> _Convert:
    """Return what checks a Python value of this type and makes the one to encode of it."""
    match kind:
        case schema.Record(cls):
            return _record_out(cls)
        case schema.ListOf():
            return _list_out(kind)
        case _:
            return _converter(kind)


# Reading and writing a message is compiled to a function of its own, as dataclasses do with __init__: integers, flags
# and bytes are checked in line, anything else, and every refusal, is left to the functions above.
_ABSENT: Final = object()


def _fits(kind: FieldType) -> str:
    """Return the Python condition under which ``value`` is valid as it is; "False" if a function must check it."""
    match kind:
        case schema.U(bits):
            return f"value.__class__ is int and 0 <= value <= {(1 << bits) - 1:#x}"
        case schema.Flag():
            return "value is True or value is False"
        case schema.Blob(limit):
            return f"value.__class__ is bytes and len(value) <= {limit}"
        case _:
            return "False"


def _absent(row: schema.FieldRow) -> str:
    """Return the statement in Python for a field that a message does not have."""
    if not row.optional:
        return f"raise missing({row.name!r})"
    fresh = repr(row.default) if isinstance(row.default, list | dict) else f"default_{row.name}"  # those are empty
    return f"made.{row.name} = {fresh}"


def _compile(lines: list[str], names: dict[str, Any]) -> Callable[[Any], Any]:
    exec("\n".join(lines), names)  # made from the schema alone
    function: Callable[[Any], Any] = names["function"]
    return function


def _reader(cls: type[Message]) -> Callable[[dict[Any, Any]], Message]:
    """Return what makes a message of a decoded map."""

    def missing(field: str) -> ProtocolError:
        return ProtocolError(ErrorClass.BAD_MESSAGE, f"{cls.NAME}.{field} is missing", "a value for it", field)

    names: dict[str, Any] = {"new": cls.__new__, "cls": cls, "absent": _ABSENT, "missing": missing}
    lines = ["def function(raw):", "  made, get = new(cls), raw.get"]
    for row in schema.rows(cls):
        name = row.name
        names |= {f"check_{name}": _converter(row.kind), f"default_{name}": row.default}
        lines += [
            f"  value = get({name!r}, absent)",
            f"  if value is absent: {_absent(row)}",
            f"  elif {_fits(row.kind)}: made.{name} = value",
            f"  else: made.{name} = check_{name}(value, {name!r})",
        ]
    return _compile([*lines, "  return made"], names)


def _dumper(cls: type[Message]) -> Callable[[Message], dict[str, Any]]:
    """Return what makes the map to encode of a message; fields that have their default are left out."""
    names: dict[str, Any] = {}
    lines = ["def function(message):", f"  out = {{'type': {cls.NAME!r}}}"]
    for row in schema.rows(cls):
        name, default = row.name, f"default_{row.name}"
        names |= {f"check_{name}": _writer(row.kind), default: row.default}
        right = _fits(row.kind)
        if isinstance(row.kind, schema.Choice):
            right, names[f"enum_{name}"] = f"value.__class__ is enum_{name}", row.kind.enum
        said = f"value is not {default} and value is not None and value != {default}" if row.optional else "True"
        lines += [
            f"  value = message.{name}",
            f"  if {said}:",
            f"    if {right}: out[{name!r}] = value",
            f"    else: out[{name!r}] = check_{name}(value, {name!r})",
        ]
    return _compile([*lines, "  return out"], names)


class _Made(dict[type[Message], Callable[[Any], Any]]):
    """Functions by message class, made when they are first needed: most never are, and a daemon starts faster."""

    def __init__(self, make: Callable[[type[Message]], Callable[[Any], Any]]) -> None:
        self._make = make

    def __missing__(self, cls: type[Message]) -> Callable[[Any], Any]:
        made = self[cls] = self._make(cls)
        return made


_CLASSES: Final = {cls.NAME: cls for cls in schema.MESSAGES}
_READERS: Final = _Made(_reader)
_DUMPERS: Final = _Made(_dumper)
_IDENTIFYING: Final = (("seq", 64), ("session", 32), ("vcpu", 16), ("epoch", 32))


def _fast_type(kind: FieldType) -> tuple[Any, ...]:
    """Return a field's type as ``dm.fast`` takes it."""
    match kind:
        case schema.U(bits):
            return ("u", (1 << bits) - 1)
        case schema.Flag():
            return ("f",)
        case schema.Text(limit):
            return ("t", limit)
        case schema.Blob(limit):
            return ("b", limit)
        case schema.Choice(enum):
            return ("c", tuple(enum))
        case schema.Record(cls):
            return ("r", cls, _fast_rows(cls))
        case schema.ListOf(of, limit):
            return ("l", limit, _fast_type(of))
        case schema.StateGroups():
            return ("g", schema.MAX_GROUPS, schema.MAX_GROUP_VALUES, schema.MAX_GROUP_BLOB)


def _fast_rows(cls: type[Any]) -> tuple[Any, ...]:
    return tuple((row.name, _fast_type(row.kind), row.optional, row.default) for row in schema.rows(cls))


def _limit(cls: type[Message]) -> int:
    return schema.MAX_CONTROL if cls.ENDPOINT == "control" else schema.MAX_MESSAGE


def _fast() -> Any:
    """Return ``dm.fast``'s Codec for this schema, or None."""
    module = fast.module()
    if module is None:
        return None
    return module.Codec(tuple((cls, cls.NAME, _limit(cls), _fast_rows(cls)) for cls in schema.MESSAGES))


#: The codec in C, if there is one.
FAST: Final = _fast()


class _Local(threading.local):
    """A packer for each thread: making one with its buffer takes longer than most messages do."""

    def __init__(self) -> None:
        self.pack: Callable[[dict[str, Any]], bytes] = msgpack.Packer(use_bin_type=True).pack


_local: Final = _Local()


def encode(message: Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: a value does not fit the schema, named as in :func:`decode`.
    """
    if FAST is not None and (packed := FAST.pack(message)) is not None:
        return packed  # type: ignore[no-any-return]
    return encode_in_python(message)


def encode_in_python(message: Message) -> bytes:
    """The same as :func:`encode`, and its definition.  See :func:`encode` for what it raises."""
    out = _DUMPERS[type(message)](message)
    try:
        data = _local.pack(out)
    except (OverflowError, ValueError) as error:
        raise ProtocolError(ErrorClass.BAD_MESSAGE, f"{message.NAME} cannot be encoded: {error}") from error
    limit = _limit(type(message))
    if len(data) > limit:
        raise ProtocolError(ErrorClass.TOO_LARGE, f"{message.NAME} has {len(data)} bytes", f"at most {limit}")
    return data


def decode(data: bytes, limit: int = schema.MAX_MESSAGE) -> Message:
    """Return the message in ``data``, which may be no longer than ``limit`` bytes.

    Raises:
        ProtocolError: too large, not MessagePack, unknown, or a field is missing or wrong.  Its ``partial`` holds
            the identifying fields that could be read all the same, so that the sender can tell which request it was.
    """
    if FAST is not None and len(data) <= limit and (message := FAST.unpack(data)) is not None:
        return message  # type: ignore[no-any-return]
    return decode_in_python(data, limit)


def decode_in_python(data: bytes, limit: int = schema.MAX_MESSAGE) -> Message:
    """The same as :func:`decode`, and its definition.  See :func:`decode` for what it raises."""
    if len(data) > limit:
        raise ProtocolError(ErrorClass.TOO_LARGE, f"the message has {len(data)} bytes", f"at most {limit}")
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=_unique)
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(
            ErrorClass.BAD_MESSAGE, f"not MessagePack: {error or type(error).__name__}", "one complete MessagePack map"
        ) from error
    if not isinstance(raw, dict):
        raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the message is {_show(raw)}", "a map with the key type")
    try:
        return _message(raw)
    except ProtocolError as error:
        for name, bits in _IDENTIFYING:
            value = raw.get(name)
            if type(value) is int and 0 <= value < 1 << bits:
                error.partial[name] = value
        raise


def _message(raw: dict[Any, Any]) -> Message:
    if type(raw) is _Repeating:
        raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the message is {_show(raw)}", "each key once")
    name = raw.get("type")
    if type(name) is not str:
        raise (
            _bad("type", name, "the name of a message")
            if "type" in raw
            else ProtocolError(ErrorClass.BAD_MESSAGE, "type is missing", "the name of a message", "type")
        )
    cls = _CLASSES.get(name)
    if cls is None:
        raise ProtocolError(
            ErrorClass.UNKNOWN_MESSAGE, f"there is no message {_show(name)}", "one of " + ", ".join(_CLASSES), "type"
        )
    message: Message = _READERS[cls](raw)
    return message
