"""Every public function of dm says in its docstring what it raises itself."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dm

PACKAGE = Path(dm.__file__).parent
#: Every module; dm/protocol is a link in the tree, which rglob does not follow.
SOURCES = sorted({*PACKAGE.rglob("*.py"), *(PACKAGE / "protocol").rglob("*.py")})
#: What says that there is nothing here to be called, or that this cannot happen.
NOT_TOLD = {"NotImplementedError", "AssertionError"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, Function]]:
    """Yield (name, function) of public functions and methods; a method's name begins with its class's."""
    for node in body:
        if isinstance(node, Function):
            if not node.name.startswith("_") or node.name == "__init__":
                yield f"{inside}{node.name}", node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body, f"{inside}{node.name}.")


def raised(node: ast.AST, caught: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the names of exceptions that a function's own statements raise and do not catch."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            what = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            name = what.attr if isinstance(what, ast.Attribute) else getattr(what, "id", "")
            if name[:1].isupper() and not caught & family(name):
                yield name
        if isinstance(child, ast.Try):
            kinds = {name for handler in child.handlers for name in names(handler.type)}
            for part in child.body:
                yield from raised(ast.Module([part], []), caught | kinds)
            rest = [*child.handlers, *child.orelse, *child.finalbody]
            for part in rest:
                yield from raised(part, caught)
        else:
            yield from raised(child, caught)


def names(node: ast.expr | None) -> Iterator[str]:
    """Yield the names in what an except clause catches."""
    if node is None:
        yield "BaseException"
    for part in node.elts if isinstance(node, ast.Tuple) else [node] if node else []:
        yield part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")


def bases() -> dict[str, set[str]]:
    """Return the names of all bases of every class of dm, by its name."""
    direct: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                direct.setdefault(node.name, set()).update(name for base in node.bases for name in names(base))
    return direct


BASES = bases()


def family(name: str) -> set[str]:
    """Return an exception's name with those of its bases."""
    found = {name}
    if isinstance(known := getattr(builtins, name, None), type):
        found |= {base.__name__ for base in known.__mro__}
    for base in BASES.get(name, ()):
        found |= family(base)
    return found - {"object"}


def documented(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of classes and functions.  A property's setter says its part in the getter's."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function):
            yield f"{inside}{node.name}", ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                yield from documented(node.body, f"{node.name}.")


def contracts() -> dict[str, str]:
    """Return the docstrings of everything in dm, by its name, a method's with its class's."""
    found: dict[str, str] = {}
    for path in SOURCES:
        for name, text in documented(ast.parse(path.read_text(encoding="utf-8")).body):
            found[name] = f"{found.get(name, '')}\n{text}"
    return found


CONTRACTS = contracts()


def said(name: str, own: dict[str, str]) -> str:
    """Return what is said of a function: by itself, by its class of all methods, and by what it says to see."""
    around, _, method = name.rpartition(".")
    text = f"{own.get(name, '')}\n{own.get(around, '')}"
    for seen in re.findall(r"[Ss]ee :(?:class|meth|func):`~?([\w.]+)`", own.get(name, "")):
        ends = seen.split(".")
        text += "".join(CONTRACTS.get(key, "") for key in (".".join(ends[-2:]), f"{ends[-1]}.{method}"))
    return text


def untold(tree: ast.Module) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line, name, exceptions) of public functions that do not say what they raise."""
    own: dict[str, str] = {}
    for name, text in documented(tree.body):
        own[name] = f"{own.get(name, '')}\n{text}"
    for name, function in public(tree.body):
        text = said(name, own)
        told = set(re.findall(r"\w+", text)) | NOT_TOLD
        lacking = {exception for exception in raised(function) if not told & (family(exception) - {"Exception"})}
        if lacking:
            yield function.lineno, name, sorted(lacking)


EXAMPLE = '''
class Closed(ValueError):
    pass

class Door:
    """A door.  Made without a width it is a TypeError."""

    def __init__(self, width):
        if width is None:
            raise TypeError

    def open(self):
        """Open it; ValueError if it is locked."""
        raise Closed("locked")

    def close(self):
        """Close it."""
        raise Closed("it is")

    def knock(self):
        """Knock."""
        try:
            raise KeyError(1)
        except LookupError as e:
            raise OSError(2) from e

    def paint(self):
        """See :class:`Knob`."""
        raise SchemaError(7)

    def decode(self):
        """See :class:`Knob`."""
        raise SchemaError(7)

    def _hidden(self):
        raise KeyError
'''


def test_the_search_finds_what_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "Closed", {"ValueError"})
    monkeypatch.setitem(CONTRACTS, "Knob.decode", "SchemaError: it does not fit.")
    found = [(name, what) for _, name, what in untold(ast.parse(EXAMPLE))]
    assert found == [("Door.close", ["Closed"]), ("Door.knock", ["OSError"]), ("Door.paint", ["SchemaError"])]


def found(name: str) -> bool:
    """Whether a dotted name is a module of dm, or in one: also an attribute that instances alone have."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[1:size])
        path = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
        if path is not None:
            words = set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
            return words.issuperset(parts[size:])
    return False


def test_references_lead_somewhere() -> None:
    """What docstrings and comments name in full, by a role or plainly, is there."""
    named = re.compile(
        r":(?:class|func|meth|mod|data|attr|exc):`~?(dm\.[\w.]+)`|(?<![-.\w])(dm(?:\.[a-z_]\w*){2,}(?:\.\w+)*)\b"
    )
    wrong = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for names in named.findall(line):
                name = "".join(names).rstrip(".")
                if not found(name) and not name.endswith(("._native", "._exchange", "._fast")):
                    wrong.append(f"{path.relative_to(PACKAGE)}:{number}: {name}")
    assert not wrong, "\n".join(wrong)


def test_public_functions_say_what_they_raise() -> None:
    wrong = [
        f"dm/{path.relative_to(PACKAGE)}:{line} {name}: {', '.join(what)}"
        for path in SOURCES
        for line, name, what in untold(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not wrong, "\n".join(wrong)
