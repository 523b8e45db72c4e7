"""Make the C client ``x86_dm.h`` from the schema, the state table, the C core of dm/fast and ``x86_dm.in.h``.

``python -m dm.protocol.generate_c`` writes it; with ``--check`` it only says whether it is out of date (exit status 1).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from dm import fast
from dm.fast import times
from dm.machine.state import FIELDS, GROUPS, Seg, State, get_group, group_layout
from dm.protocol import schema

HERE: Final = Path(__file__).resolve().parent
TEMPLATE: Final = HERE / "x86_dm.in.h"
HEADER: Final = HERE / "x86_dm.h"
#: What all C here reads, writes and waits by; printed as it stands.
CORE: Final = tuple(Path(fast.__file__).resolve().parent / name for name in ("messagepack.h", "waiting.h"))

_LIMITS: Final = (
    *("VERSION", "OLDEST", "MAX_MESSAGE", "MAX_CONTROL", "MAX_DATA", "MAX_REGIONS", "MAX_VCPUS"),
    *("MAX_RAM_BLOCKS", "MAX_PAGES", "MAX_POSTED", "MAX_PATCHES", "MAX_PATCH_DATA", "MAX_PORTS"),
)
#: Limits that only the C codec itself needs.
_INNER_LIMITS: Final = ("MAX_GROUPS", "MAX_GROUP_VALUES", "MAX_GROUP_BLOB")


def _snake(cls: type[Any]) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__.removesuffix("Word")).lower()


def _upper(text: str) -> str:
    return text.replace("-", "_").upper()


def _word(enum: type[StrEnum], word: StrEnum) -> str:
    return f"X86_DM_{_snake(enum).upper()}_{_upper(str(word))}"


def _comment(text: str) -> str:
    return "/* " + " ".join(text.replace("``", "").replace("`", "").split()) + " */"


def _uint(bits: int) -> str:
    return f"uint{next(size for size in (8, 16, 32, 64) if bits <= size)}_t"


def _c_type(kind: schema.FieldType) -> str:
    """Return the C type that holds one value."""
    match kind:
        case schema.U(bits):
            return _uint(bits) + " "
        case schema.Flag():
            return "bool "
        case schema.Text():
            return "const char *"
        case schema.Blob():
            return "struct x86_dm_blob "
        case schema.Choice(enum):
            return f"enum x86_dm_{_snake(enum)} "
        case schema.Record(cls):
            return f"struct x86_dm_{_snake(cls)} "
        case schema.ListOf(of):
            inner = _c_type(of)
            return inner + "const *" if inner.endswith("*") else f"const {inner}*"
        case schema.StateGroups():
            return "struct x86_dm_groups "


def _struct(cls: type[Any]) -> Iterator[str]:
    yield _comment(cls.__doc__ or "")
    yield f"struct x86_dm_{_snake(cls)} {{"
    for row in schema.rows(cls):
        if isinstance(row.kind, schema.ListOf):
            yield f"    uint32_t n_{row.name};"
        elif row.optional and row.default is None:
            yield f"    bool has_{row.name};"
        yield f"    {_c_type(row.kind)}{row.name}; {_comment(row.doc)}"
    yield "};"
    yield ""


def _state_fields() -> Iterator[str]:
    """Yield the members of the segment and state structures."""
    yield "/* One segment register with its hidden part; limit counts bytes, attributes are descriptor bits 40-55. */"
    yield "struct x86_dm_segment {"
    for row in FIELDS:
        if row.name.startswith("seg."):
            yield f"    {_uint(row.width)} {row.name[4:]}; {_comment(row.doc)}"
    yield "};"
    yield ""
    yield "enum {"
    yield from (f"    X86_DM_SEG_{seg.name} = {seg}," for seg in Seg)
    yield "};"
    yield ""
    yield "/* Everything architectural about one vCPU. */"
    yield "struct x86_dm_state {"
    seen = False
    for row in FIELDS:
        if row.name.startswith("seg."):
            if not seen:
                yield f"    struct x86_dm_segment seg[{row.count}]; /* ES CS SS DS FS GS LDTR TR */"
            seen = True
            continue
        length = f"[{row.count}]" if row.count else ""
        yield f"    {_uint(row.width)} {row.name}{length}; {_comment(row.doc)}"
    yield "};"
    yield ""
    yield "/* State groups: bits of x86_dm_groups.present. */"
    yield "enum {"
    yield from (f"    X86_DM_GROUP_{group.upper()} = 1 << {index}," for index, group in enumerate(GROUPS))
    yield f"    X86_DM_GROUPS = {len(GROUPS)},"
    yield f"    X86_DM_ALL_GROUPS = (1 << {len(GROUPS)}) - 1"
    yield "};"
    yield ""
    yield "/* Some or all groups of a state. */"
    yield "struct x86_dm_groups {"
    yield "    uint32_t present; /* X86_DM_GROUP_... */"
    yield "    struct x86_dm_state state; /* only the groups in present count */"
    yield "};"
    yield ""


def declarations() -> str:
    """Return limits, enumerations, and the structures of state, records and messages."""
    out = [f"#define X86_DM_{name} {getattr(schema, name)}u" for name in _LIMITS] + [""]
    for enum in schema.ENUMS:
        out += [_comment(enum.__doc__ or ""), f"enum x86_dm_{_snake(enum)} {{"]
        out += [f"    {_word(enum, word)}," for word in enum]
        out += ["};", ""]
    out += _state_fields()
    for cls in (*schema.RECORDS, *schema.MESSAGES):
        out += _struct(cls)
    out += ["enum x86_dm_type {"]
    out += [f"    X86_DM_{_upper(cls.NAME)}," for cls in schema.MESSAGES]
    out += ["    X86_DM_TYPES", "};", ""]
    out += ["/* Any message.  What x86_dm_unpack() made is freed with x86_dm_message_free(). */"]
    out += ["struct x86_dm_message {", "    enum x86_dm_type type;", "    union {"]
    out += [f"        struct x86_dm_{_snake(cls)} {_snake(cls)};" for cls in schema.MESSAGES]
    out += ["    };", "    void *zone, *bytes; /* private: what the pointers above point into */", "};"]
    return "\n".join(out) + "\n"


def _kind(kind: schema.FieldType) -> tuple[str, int, str, str]:
    """Return the kind's C name, its width or limit, its table, and the size of a value."""
    size = f"sizeof({_c_type(kind).strip()})"
    match kind:
        case schema.U(bits):
            return "U", bits, "NULL", size
        case schema.Flag():
            return "FLAG", 0, "NULL", size
        case schema.Text(limit):
            return "TEXT", limit, "NULL", size
        case schema.Blob(limit):
            return "BLOB", limit, "NULL", size
        case schema.Choice(enum):
            return "WORD", len(enum), f"x86_dm__{_snake(enum)}_words", size
        case schema.Record(cls):
            return "RECORD", 0, f"&x86_dm__{_snake(cls)}_table", size
        case schema.StateGroups():
            return "STATE", 0, "NULL", size
        case schema.ListOf():
            raise TypeError("a list of lists")


def _preset(row: schema.FieldRow) -> tuple[str, str]:
    """Return the default as a number and as text."""
    if isinstance(row.kind, schema.Choice) and row.optional:
        return str(list(row.kind.enum).index(row.default)), "NULL"
    if isinstance(row.default, str) and row.default:
        return "0", f'"{row.default}"'
    return (str(int(row.default)), "NULL") if isinstance(row.default, int) else ("0", "NULL")


def _table(cls: type[Any], name: str, endpoint: str) -> Iterator[str]:
    struct = f"struct x86_dm_{_snake(cls)}"
    yield f"static const struct x86_dm__row x86_dm__{_snake(cls)}_rows[] = {{"
    for row in schema.rows(cls):
        of = row.kind.of if isinstance(row.kind, schema.ListOf) else row.kind
        kind, width, table, size = _kind(of)
        limit = row.kind.limit if isinstance(row.kind, schema.ListOf) else 0
        not_said = row.optional and row.default is None
        use = "NOT_SAID" if not_said else "OPTIONAL" if row.optional else "REQUIRED"
        beside = f"n_{row.name}" if limit else f"has_{row.name}" if not_said else row.name
        number, text = _preset(row)
        yield (
            f'    {{"{row.name}", X86_DM__{kind}, X86_DM__{use}, {width}, {limit}, offsetof({struct}, {row.name}),\n'
            f"     offsetof({struct}, {beside}), {size}, {number}, {text}, {table}}},"
        )
    yield "};"
    yield (
        f'static const struct x86_dm__table x86_dm__{_snake(cls)}_table = {{"{name}", x86_dm__{_snake(cls)}_rows, '
        f"{len(schema.rows(cls))}, {endpoint}}};"
    )
    yield ""


def _slots() -> Iterator[str]:
    """Yield where each value of each state group is kept, and RESET's values."""
    for group in GROUPS:
        yield f"static const struct x86_dm__slot x86_dm__{group}_slots[] = {{"
        for label, width in group_layout(group):
            part = re.fullmatch(r"(\w+)\.(\w+)", label)
            member = f"seg[X86_DM_SEG_{part[1].upper()}].{part[2]}" if part else label
            yield f'    {{"{label}", {width}, offsetof(struct x86_dm_state, {member})}},'
        yield "};"
    yield "static const struct x86_dm__group x86_dm__groups[X86_DM_GROUPS] = {"
    for group in GROUPS:
        yield f'    {{"{group}", x86_dm__{group}_slots, {len(group_layout(group))}}},'
    yield "};"
    yield ""
    yield "/* State after RESET (SDM vol. 3A, table 10-1); what is 0 is left out. */"
    yield "static const struct x86_dm__reset { uint32_t group, slot; uint64_t value; } x86_dm__reset[] = {"
    state = State.reset()
    for index, group in enumerate(GROUPS):
        for slot, value in enumerate(get_group(state, group)):
            if isinstance(value, int) and value:
                yield f"    {{{index}, {slot}, UINT64_C({value:#x})}},"
    yield "};"
    yield "static const struct x86_dm__reset_byte { uint32_t at; uint8_t value; } x86_dm__reset_fxsave[] = {"
    yield from (f"    {{{at}, {value:#x}}}," for at, value in enumerate(state.fxsave) if value)
    yield "};"


def tables() -> str:
    """Return the tables that the C codec works from."""
    out = [f"#define X86_DM__{name} {getattr(schema, name)}u" for name in _INNER_LIMITS]
    out += [f"#define X86_DM__MAX_FIELDS {max(len(schema.rows(cls)) for cls in schema.MESSAGES)}", ""]
    for enum in schema.ENUMS:
        words = ", ".join(f'"{word}"' for word in enum)
        out += [f"static const char *const x86_dm__{_snake(enum)}_words[] = {{{words}}};"]
    out += [""]
    ordered = sorted(schema.RECORDS, key=lambda cls: cls is schema.Map)  # a map holds regions
    for cls in ordered:
        out += _table(cls, cls.__name__, "0")
    for message in schema.MESSAGES:
        out += _table(
            message, message.NAME, "X86_DM_MAX_" + ("CONTROL" if message.ENDPOINT == "control" else "MESSAGE")
        )
    out += ["static const struct x86_dm__table *const x86_dm__tables[X86_DM_TYPES] = {"]
    out += [f"    &x86_dm__{_snake(cls)}_table," for cls in schema.MESSAGES]
    out += ["};", "static const char *const x86_dm__features[] = {"]
    out += ["    " + ", ".join(f'"{feature}"' for feature in schema.FEATURES), "};"]
    out += _slots()
    return "\n".join(out) + "\n"


def core() -> str:
    """Return the reader, the writer and the waits that dm.fast and the worker have too, and their times."""
    macros = [f"#define {name} {value}" for name, value in times.MACROS.items()]
    return "\n".join([*macros, "", *(path.read_text(encoding="utf-8") for path in CORE)])


def header() -> str:
    """Return the whole header.

    Raises:
        ValueError: the template lacks a mark, or has it twice.
    """
    text = TEMPLATE.read_text(encoding="utf-8")
    for mark, made in (
        ("@VERSION@", str(schema.VERSION)),
        ("@DECLARATIONS@\n", declarations()),
        ("@CORE@\n", core()),
        ("@TABLES@\n", tables()),
    ):
        if text.count(mark) != 1:
            raise ValueError(f"{TEMPLATE} needs one line {mark.strip()}")
        text = text.replace(mark, made)
    return text


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit status."""
    new = header()
    if HEADER.exists() and HEADER.read_text(encoding="utf-8") == new:
        return 0
    if arguments == ["--check"]:
        print(f"{HEADER.name}: out of date; run python -m dm.protocol.generate_c")
        return 1
    HEADER.write_text(new, encoding="utf-8")
    print(f"{HEADER.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
