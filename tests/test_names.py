"""A class's name says one thing: no two modules of dm have classes of the same name, but for what is reviewed here."""

from __future__ import annotations

import ast
from pathlib import Path

import dm

PACKAGE = Path(dm.__file__).parent

#: Names that several modules may have, and why: they are one idea, seen from several sides.
REVIEWED = {
    "Answer": "what a question of a device is answered with: by users of the library, and by those of the client",
    "MemoryMap": "the map of guest-physical memory: as an engine holds it, and as it travels",
    "Ram": "a block of guest RAM, and the message that makes it known",
    "Region": "one region of such a map, likewise",
}


def classes() -> dict[str, set[str]]:
    """Return the modules of each public class's name."""
    found: dict[str, set[str]] = {}
    for path in (*PACKAGE.rglob("*.py"), *(PACKAGE / "protocol").rglob("*.py")):  # in the tree a symlink, not followed
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, set()).add(module)
    return found


def test_no_two_classes_have_one_name() -> None:
    twice = {name: sorted(modules) for name, modules in classes().items() if len(modules) > 1}
    assert {name: modules for name, modules in twice.items() if name not in REVIEWED} == {}


def test_what_is_reviewed_is_there() -> None:
    assert sorted(REVIEWED) == sorted(name for name, modules in classes().items() if len(modules) > 1)
