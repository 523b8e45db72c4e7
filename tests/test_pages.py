"""What the pages say of the tree is so: paths and names exist, links lead somewhere, tables agree with the code."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from test_layering import ALLOWED, COMMON, PACKAGE

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "protocol/README.md", ROOT / "qemu-patches/README.md"]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
#: Pages that speak of names in the code.
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "docs/adding.md"]
#: Names of files that stand for any.
EXAMPLES = {"tests/isa/test_x.py"}
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
#: A path, or the name of a source file.
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)+|\w[\w.-]*\.(?:py|c|h|in\.h|md|txt|json|sh|rst|patch)")
#: Dotted names: of modules, and what is in them.
NAME = re.compile(r"dm(?:\.[A-Za-z_]\w*)+(?<!\.mak)")
#: A plain name that looks like one of the code: with an underscore, or in capitals and longer than a register's.
WORD = re.compile(r"[A-Za-z]+_\w+|[A-Z]{5,}")


@cache
def paths() -> frozenset[str]:
    """Return the files and folders of the tree."""
    found = set()
    for name in ("dm", "docs", "protocol", "qemu-patches", "tests", ".ci"):
        found |= {str(path.relative_to(ROOT)) for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts}
    found |= {path.name for path in ROOT.iterdir()}
    return frozenset(found)


@cache
def qemu_paths() -> frozenset[str]:
    """Return the files that the patches for QEMU change."""
    patches = (path.read_text(encoding="utf-8") for path in (ROOT / "qemu-patches").rglob("*.patch"))
    return frozenset(re.findall(r"^\+\+\+ b/(\S+)", "\n".join(patches), re.MULTILINE))


@cache
def words() -> frozenset[str]:
    """Return every word of the sources."""
    files = [path for path in map(ROOT.joinpath, paths()) if path.suffix in (".py", ".c", ".h", ".patch", ".sh")]
    text = [path.read_text(encoding="utf-8") for path in (*files, ROOT / "run", ROOT / "pyproject.toml")]
    return frozenset(re.findall(r"\w+", "\n".join(text)))


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def created(page: Path) -> set[str]:
    """Return the files that the page's examples make."""
    return {head.split()[-1] for head, _ in BLOCK.findall(page.read_text(encoding="utf-8")) if " " in head}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_exist(page: Path) -> None:
    tops = {path.partition("/")[0] for path in paths()}
    known = paths() | qemu_paths() | created(page) | EXAMPLES
    names = {path.rpartition("/")[2] for path in known}
    missing = []
    for token in QUOTED.findall(prose(page)):
        if not FILE.fullmatch(token):
            continue
        token = token.rstrip("/")
        if "/" not in token:
            found = token in names
        else:
            beside = str((page.parent / token).relative_to(ROOT)) if ".." not in token else token
            found = token in known or beside in known or token.partition("/")[0] not in tops
        if not found:
            missing.append(token)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", prose(page))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_names_exist(page: Path) -> None:
    run = re.findall(r"-m (dm[\w.]+)", page.read_text(encoding="utf-8"))
    missing = [name for name in [*QUOTED.findall(prose(page)), *run] if NAME.fullmatch(name) and not exists(name)]
    assert not missing


def exists(name: str) -> bool:
    """Whether a dotted name is a module, an extension's name, or something in a module."""
    parts = name.split(".")
    if parts[-1].startswith("_"):  # an extension, which may not be built
        return (PACKAGE / Path(*parts[1:])).with_suffix(".pyi").exists()
    for size in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            thing = getattr(thing, part, None)
        return thing is not None
    return False


@pytest.mark.parametrize("page", GUIDES, ids=[page.name for page in GUIDES])
def test_guides_speak_of_names_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    own = set(re.findall(r"\w+", "".join(code for _, code in BLOCK.findall(text))))
    asked = {word for word in QUOTED.findall(prose(page)) if WORD.fullmatch(word)}
    assert asked
    assert asked - own - words() == set()


def table(page: Path, head: str) -> list[list[str]]:
    """Return the cells of the rows below a table's head."""
    lines = page.read_text(encoding="utf-8").split(f"{head}\n", 1)[1].splitlines()[1:]
    rows = lines[: next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_house_is_what_the_layers_are() -> None:
    """docs/architecture.md, The house: a row for each part of dm, with exactly what it may import."""
    rows: dict[str, set[str]] = {}
    for folder, what, imports in table(ROOT / "docs/architecture.md", "| folder | what belongs there | may import |"):
        (name,) = re.findall(r"^`(?:dm/)?([a-z]+)(?:\.py)?`", folder)
        assert what
        rows[name] = set() if imports == "nothing" else set(imports.split(", "))
    assert rows == ALLOWED
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"Anybody may import {', '.join(f'`{name}`' for name in sorted(COMMON))}" in text


def test_the_readme_names_every_folder() -> None:
    rows = table(ROOT / "README.md", "| folder | what |")
    named = {re.sub(r"`(?:dm/)?([\w.-]+?)(?:\.py)?`", r"\1", row[0]) for row in rows}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    folders |= {"qemu-patches", "tests", "docs"}
    assert folders <= named


def listed(cell: str) -> set[int]:
    """Return the functions that a cell of the table of services lists, by AH: ``00h-02h 1Ah E801h``."""
    found: set[int] = set()
    for first, last in re.findall(r"\b([0-9A-F]{2})(?:[0-9A-F]{2})?h(?:-([0-9A-F]{2})h)?", cell):
        found |= set(range(int(first, 16), int(last or first, 16) + 1))
    return found


def handled(name: str) -> set[int]:
    """Return the functions that a module of dm/shim/bios handles: keys of its tables, and what AH is compared with."""
    tree = ast.parse((PACKAGE / f"shim/bios/{name}.py").read_text(encoding="utf-8"))
    found: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Dict)
            and node.values
            and all(isinstance(value, ast.Attribute) for value in node.values)
        ):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
        if isinstance(node, ast.FunctionDef) and node.name == "service":
            tests = [test for test in ast.walk(node) if isinstance(test, ast.Compare)]
            chosen = [test for test in tests if ast.unparse(test.left) in ("call.ah", "function")]
            found |= {test.comparators[0].value for test in chosen if isinstance(test.comparators[0], ast.Constant)}
    return found


def test_the_services_are_those_of_the_firmware() -> None:
    """docs/architecture.md, Small PC: the shim's column has the functions that its modules handle."""
    rows = {row[0]: row for row in table(ROOT / "docs/architecture.md", "| INT | by the ROM | by the shim |")}
    modules = {"10h": "video", "13h": "disk", "15h": "system", "16h": "keyboard", "1Ah": "timer"}
    for vector, module in modules.items():
        _, rom, shim = rows[vector]
        graphics = listed(rom) if "graphics" in shim else set()  # where the shim draws what the ROM does in text modes
        assert listed(shim) <= handled(module), vector
        assert handled(module) <= listed(shim) | graphics, vector
