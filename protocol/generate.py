"""Make what is made from the schema: the tables in ``README.md`` and the golden messages.

``python -m dm.protocol.generate`` writes them; with ``--check`` it only says what is out of date (exit status 1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from dm.machine.state import GROUPS, group_layout
from dm.protocol import codec, examples, schema

HERE: Final = Path(__file__).resolve().parent
README: Final = HERE / "README.md"
GOLDEN: Final = HERE / "golden" / "messages.json"
_BEGIN: Final = "<!-- generated from schema.py: do not edit below -->\n"


def _default(row: schema.FieldRow) -> str:
    if not row.optional:
        return "required"
    if row.default is None:
        return "not said"
    if isinstance(row.default, bool):
        return str(row.default).lower()
    if isinstance(row.default, StrEnum):
        return f"`{row.default}`"
    return str(row.default) if isinstance(row.default, int) else "empty" if not row.default else f"`{row.default}`"


def _table(cls: type[Any]) -> Iterator[str]:
    yield "| field | type | default | since | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for row in schema.rows(cls):
        yield f"| `{row.name}` | {row.kind} | {_default(row)} | {row.since} | {row.doc} |"
    yield ""


def _doc(cls: type[Any]) -> str:
    return "\n".join(line.strip() for line in (cls.__doc__ or "").strip().splitlines())


def _since(cls: type[schema.Message]) -> str:
    return f", since version {cls.SINCE}" if cls.SINCE > 1 else ""


def tables() -> str:
    """Return the generated part of the text: limits, messages, records, words, state groups."""
    out = ["## Limits", "", "| limit | value |", "| --- | --- |"]
    limits = ("VERSION", "OLDEST", "MAX_MESSAGE", "MAX_CONTROL", "MAX_DATA", "MAX_REGIONS", "MAX_VCPUS")
    limits += ("MAX_SECRET", "MAX_RAM_BLOCKS", "MAX_PAGES", "MAX_POSTED", "MAX_PATCHES")  # type: ignore[assignment]
    limits += ("MAX_PATCH_DATA", "MAX_MESSAGE_RAM", "MAX_PORTS", "MAX_GROUPS", "MAX_GROUP_VALUES", "MAX_GROUP_BLOB")  # type: ignore[assignment]
    out += [f"| `{name}` | {getattr(schema, name)} |" for name in limits]
    out += ["", "## Features", "", "| feature | since |", "| --- | --- |"]
    out += [f"| `{feature}` | {since} |" for feature, since in schema.FEATURES.items()]
    out += ["", "## Messages", ""]
    for message in schema.MESSAGES:
        where = "both endpoints" if message.ENDPOINT == "both" else f"{message.ENDPOINT} endpoint"
        intro = f"From the {message.SENDER}, {where}{_since(message)}. {_doc(message)}"
        out += [f"### {message.NAME}", "", intro, "", *_table(message)]
    out += ["## Records", "", "Arrays on the wire, values in this order.", ""]
    for record in schema.RECORDS:
        out += [f"### {record.__name__}", "", _doc(record), "", *_table(record)]
    out += ["## Words", ""]
    for enum in schema.ENUMS:
        out += [f"### {enum.__name__}", "", _doc(enum), "", ", ".join(f"`{word}`" for word in enum) + ".", ""]
    out += ["## State groups", "", "Each group is an array of these values in this order; blobs are bytes.", ""]
    for group in GROUPS:
        layout = group_layout(group)
        out += [f"### {group}", "", ", ".join(f"`{name}`:{width}" for name, width in layout) + ".", ""]
    return "\n".join(out)


def _plain(value: Any) -> Any:
    """Return a field's value as JSON can hold it; bytes become ``{"hex": ...}``."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, StrEnum):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        return {row.name: _plain(getattr(value, row.name)) for row in schema.rows(type(value))}
    return value


def golden() -> str:
    """Return the golden messages as JSON: bytes and meaning, all fields spelled out; then the wrong ones."""
    good = [
        {"what": what, "type": message.NAME, "hex": codec.encode(message).hex(), "fields": _plain(message)}
        for what, message in examples.GOOD
    ]
    bad = [
        {"what": what, "hex": data, "error": str(error), "field": field, "text": text}
        for what, data, error, field, text in examples.BAD
    ]
    return json.dumps({"version": schema.VERSION, "good": good, "bad": bad}, indent=1, ensure_ascii=True) + "\n"


def outdated(write: bool) -> list[str]:
    """Return the names of generated files that differ from what the schema says; ``write`` brings them up to date.

    Raises:
        ValueError: the README lacks the line that its generated part begins with.
    """
    text = README.read_text(encoding="utf-8")
    head, found, _ = text.partition(_BEGIN)
    if not found:
        raise ValueError(f"{README} lacks the line {_BEGIN.strip()}")
    wanted = {README: f"{head}{_BEGIN}\n{tables()}", GOLDEN: golden()}
    stale = [path for path, new in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != new]
    if write:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
    return [path.name for path in stale]


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit status."""
    check = arguments == ["--check"]
    stale = outdated(write=not check)
    for name in stale:
        print(f"{name}: {'out of date; run python -m dm.protocol.generate' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
