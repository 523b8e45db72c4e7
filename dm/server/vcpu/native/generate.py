"""Prints what the exchange in C has to know of messages and states, from the schema and the state table.

The C knows fields by number only: a field that is added to the schema is one it does not understand, and a message that
has it goes to Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from dm import extension
from dm.machine.state import FIELD, GROUPS, group_layout
from dm.protocol import schema
from dm.server.vcpu.fields import REQUEST_ROWS, RUN, UNDERSTOOD, VCPU, CrossingField
from dm.server.vcpu.report import MERGE

_HERE: Final = Path(__file__).resolve().parent
_PACKAGE: Final = _HERE.parents[2]
#: What the exchange reads and writes.
MESSAGES: Final[tuple[type[schema.Message], ...]] = (schema.Emulate, schema.IoAnswer, schema.Io, schema.Done)
_ENUMS: Final[tuple[type[StrEnum], ...]] = (
    schema.Reason,
    schema.Until,
    schema.IoKind,
    schema.Stop,
    schema.DoneReason,
)
_POSTED: Final = [row.name for row in schema.rows(schema.Posted)]
#: What the extension is made from, beside its own directory.
_SOURCES: Final = (
    "protocol/schema.py",
    "machine/architecture.py",
    "machine/header.py",
    "machine/state.py",
    "machine/words.py",
    "engine/native/api.h",
    "server/vcpu/fields.py",
    "server/vcpu/report.py",
    "fast/messagepack.h",
    "fast/waiting.h",
    "fast/times.py",
)


def digest() -> str:
    """Return the SHA-256 of everything the extension is made from, as hex digits."""
    own = [path for path in _HERE.iterdir() if path.suffix in (".py", ".c", ".h")]
    return extension.digest(_PACKAGE, [*own, *(_PACKAGE / name for name in _SOURCES)])


def _upper(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").upper()


def _words(enum: type[StrEnum]) -> Iterator[str]:
    name = _upper(enum.__name__)
    yield "enum {" + ", ".join(f"{name}_{_upper(str(word))}" for word in enum) + f", {name}_COUNT}};"
    yield f"static const char *const {name.lower()}_words[] = {{" + ", ".join(f'"{word}"' for word in enum) + "};"


def _kind(row: schema.FieldRow) -> tuple[str, int, str]:
    """Return the kind's name in C, its limit, and its words."""
    match row.kind:
        case schema.U(bits):
            return "NUMBER", bits, "NULL"
        case schema.Flag():
            return "FLAG", 0, "NULL"
        case schema.Blob(limit):
            return "BLOB", limit, "NULL"
        case schema.Choice(enum) if enum in _ENUMS:
            return "WORD", len(enum), f"{_upper(enum.__name__).lower()}_words"
        case schema.ListOf(schema.U(64), limit):
            return "NUMBERS", limit, "NULL"
        case schema.ListOf(schema.Record(schema.Posted), limit) if _POSTED == ["gpa", "data", "size"]:
            return "WRITES", limit, "NULL"
        case schema.StateGroups():
            return "STATE", 0, "NULL"
        case _:
            return "OTHER", 0, "NULL"


def _preset(row: schema.FieldRow) -> int:
    if row.optional and isinstance(row.kind, schema.Choice):
        return list(row.kind.enum).index(row.default)
    return int(row.default) if row.optional and isinstance(row.default, int) else 0


def _message(cls: type[Any]) -> Iterator[str]:
    name, rows = _upper(cls.__name__), schema.rows(cls)
    yield "enum {" + ", ".join(f"{name}__{row.name.upper()}" for row in rows) + f", {name}__FIELDS}};"
    yield f"static const struct field {name.lower()}_fields[] = {{"
    for row in rows:
        kind, limit, words = _kind(row)
        use = "REQUIRED" if not row.optional else "NOT_SAID" if row.default is None else "OPTIONAL"
        yield f'    {{"{row.name}", {len(row.name)}, {kind}, {use}, {limit}, {_preset(row)}, {words}}},'
    yield "};"
    size = len(cls.NAME)
    yield f"static const struct form {name.lower()}_form ="
    yield f'    {{"{cls.NAME}", {size}, {name}__FIELDS, {name.lower()}_fields}};'
    yield ""


def _places() -> Iterator[str]:
    """Yield where the values of each group are in struct wire of the engine."""
    at = 0
    starts: dict[str, int] = {}
    slots: list[str] = []
    groups: list[str] = []
    for group in GROUPS:
        start, first = at, len(slots)
        for label, width in group_layout(group):
            size = width // 8 if width > 64 else next(size for size in (1, 2, 4, 8) if width <= 8 * size)
            slots.append(f"    {{{width}, {size}, {at}}}, /* {label} */")
            starts[label] = at
            at += size
        groups.append(f'    {{"{group}", {len(group)}, {start}, {at}, {first}, {len(slots) - first}}},')
    yield f"enum {{WIRE_SIZE = {at}, GROUP_COUNT = {len(groups)}, CR0_AT = {starts[FIELD['cr0'].name]}}};"
    yield from ("static const struct slot slots[] = {", *slots, "};")
    yield from ("static const struct group groups[] = {", *groups, "};")


def schema_header() -> str:
    """Return the generated header."""
    lines = ["/* Made by generate.py from the schema and the state table. */", ""]
    lines.append(f"enum {{MAX_FIELDS = {max(len(schema.rows(cls)) for cls in MESSAGES)}, ")
    lines.append(f"      MAX_DATA = {schema.MAX_DATA}, MAX_POSTED = {schema.MAX_POSTED}, MERGE = {MERGE}}};")
    for enum in _ENUMS:
        lines += _words(enum)
    lines.append("")
    for cls in MESSAGES:
        lines += _message(cls)
    lines += _places()
    lines += ["", f'static const char sources[] = "{digest()}";', ""]
    return "\n".join(lines)


def _declared(field: CrossingField) -> str:
    if type(field.kind) is not int:
        return f"uint32_t {field.name};"
    return f"{'u' * (field.kind > 0)}int{abs(field.kind)}_t {field.name};"


def _request_row(row: schema.FieldRow) -> Iterator[str]:
    """Yield what a field of ``emulate`` is in struct dx_request."""
    if row.optional and row.default is None:
        yield f"uint32_t has_{row.name};"
    match row.kind:
        case schema.Blob(limit):
            yield f"uint32_t {row.name}_size;"
            yield f"uint8_t {row.name}[{limit}];"
        case schema.U(bits) if bits > 32:
            yield f"uint64_t {row.name};"
        case _:
            yield f"uint32_t {row.name};"


def machine_header() -> str:
    """Return what Python and C both keep of a vCPU and its run: plain declarations, which cffi reads too."""
    lines = ["/* Made by generate.py from dm/server/vcpu/fields.py. */", ""]
    lines += ["/* What is left of a vCPU between two runs. */", "struct dx_kept {"]
    lines += [f"    {_declared(field)}" for field in VCPU]
    lines += ["};", "", "/* Fields of emulate.  What may be left out has has_... beside it. */", "struct dx_request {"]
    lines += [f"    {line}" for row in REQUEST_ROWS.values() for line in _request_row(row)]
    lines += ["};", "", "/* A run, and how far it is. */", "struct dx_run {", "    struct dx_request request;"]
    lines += [f"    {_declared(field)}" for field in RUN]
    lines += ["    uint32_t page_count;", "};", ""]
    return "\n".join(lines)


def _taken(row: schema.FieldRow) -> Iterator[str]:
    value = f"v[EMULATE__{row.name.upper()}]"
    if row.optional and row.default is None:
        yield f"to->has_{row.name} = {value}.said;"
    if isinstance(row.kind, schema.Blob):
        yield f"to->{row.name}_size = {value}.size;"
        yield f"if ({value}.size)"
        yield f"    memcpy(to->{row.name}, {value}.data, {value}.size);"
    elif isinstance(row.kind, schema.U) and row.kind.bits > 32:
        yield f"to->{row.name} = {value}.number;"
    else:
        yield f"to->{row.name} = (uint32_t){value}.number;"


def request_header() -> str:
    """Return which fields of messages the C understands, and how a request is kept."""
    lines = ["/* Made by generate.py from dm/server/vcpu/fields.py. */", ""]
    for cls, names in UNDERSTOOD.items():
        name = _upper(cls.__name__)
        bits = " |\n    ".join(f"1ull << {name}__{one.upper()}" for one in names)
        lines += [f"static const uint64_t {name}_UNDERSTOOD =", f"    {bits};"]
    lines += ["", "static void take_request(struct dx_request *to, const struct value *v)", "{"]
    lines += [f"    {line}" for row in REQUEST_ROWS.values() for line in _taken(row)]
    lines += ["}", ""]
    return "\n".join(lines)
