"""No module of dm, and no C file of the native engine, needs another one that needs it in turn."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import dm

PACKAGE = Path(dm.__file__).parent
NATIVE = PACKAGE / "engine/native"


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the nodes of a circle, the first one again at its end; empty where there is none."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph[node]):
            if found := search(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


def test_a_circle_is_found_and_named() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def modules() -> dict[str, Path]:
    """Return the Python modules of dm by name."""
    found = {}
    for path in (*PACKAGE.rglob("*.py"), *(PACKAGE / "protocol").rglob("*.py")):  # in the tree a symlink, not followed
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Yield the modules that one imports: at its top, in functions, and for its types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in known:
                    yield name
                elif not alias.name.startswith("_"):  # an extension module
                    yield node.module


def test_python_modules_have_no_circle() -> None:
    known = modules()
    assert len(known) > 200
    graph = {
        name: set(imports(ast.parse(path.read_text(encoding="utf-8")), set(known))) - {name}
        for name, path in known.items()
    }
    found = circle(graph)
    assert not found, " -> ".join(found)


#: The beginning of a function's definition in C source without comments and strings; handlers are behind a macro.
FUNCTION = re.compile(r"^(?:HANDLER\((\w+)\)|(?!static\b|HANDLER)[\w* ]*?\b(\w+)\([^;{}]*\))\s*\{", re.MULTILINE)


def code(path: Path) -> str:
    """Return C source without comments and strings."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"', " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_c_files_of_the_native_engine_have_no_circle() -> None:
    sources = {path.name: code(path) for path in NATIVE.glob("*.c")}
    owners = {a or b: name for name, text in sources.items() for a, b in FUNCTION.findall(text)}
    assert owners["commit_stores"] == "journal.c"
    assert owners["miss_read"] == "tlb.c"
    assert owners["dm_run"] == "run.c"
    graph: dict[str, set[str]] = {}
    for name, text in sources.items():
        own = set(re.findall(r"^static [^;{}(]*?\b(\w+)\(", text, re.MULTILINE))
        # Called, or a handler whose address is taken.
        used = set(re.findall(r"\b(\w+)\(", text)) | set(re.findall(r"\(void \*\)(\w+)", text))
        graph[name] = {owners[word] for word in used - own if word in owners} - {name}
    assert graph["fetch.c"] >= {"transact.c", "abandon.c"}
    found = circle(graph)
    assert not found, " -> ".join(found)
