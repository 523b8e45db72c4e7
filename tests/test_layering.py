"""Imports run downwards only; docs/architecture.md draws the layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dm

PACKAGE = Path(dm.__file__).parent

#: What each part of dm may import of the others.  A part that is not named here does not exist.
ALLOWED = {
    "microcode": set(),
    "fast": set(),
    "machine": {"fast", "microcode"},
    "isa": {"machine", "microcode"},
    "engine": {"isa", "machine", "microcode"},
    "protocol": {"fast", "machine"},
    "qmp": set(),
    "server": {"engine", "fast", "machine", "protocol", "qmp"},
    "shim": {"engine", "fast", "isa", "machine", "protocol"},
    "vectors": {"engine", "isa", "machine"},
    "bench": {"engine", "machine", "protocol", "server", "shim"},
    "commands": {"bench", "engine", "isa", "machine", "protocol", "qmp", "server", "shim", "vectors"},
    "cli": {"engine", "streams"},
    "emulator": {"engine", "machine"},
    "version": set(),
    "keys": set(),
    "claim": set(),
    "extension": set(),
    "streams": set(),
}
#: Rooms of dm/server: what each may import of the others.  All may know what stands beside them; that knows no room.
ROOMS = {"daemon": set(), "memory": set(), "vcpu": {"memory"}, "session": {"memory", "vcpu"}}
#: The rooms of dm/isa likewise.
ISA_ROOMS = {
    "map": set(),
    "softfloat": set(),
    "mechanisms": {"softfloat"},
    "instructions": {"map", "mechanisms", "softfloat"},
}
#: Anyone may know the version, what a key is, who may remove a socket, and what an extension module was made from.
COMMON = {"version", "keys", "claim", "extension"}
#: The engine and everything below it do no input or output over a network.
SILENT = ("microcode", "machine", "isa", "engine")
NETWORK = {"socket", "zmq", "asyncio", "selectors", "ssl", "http", "urllib"}


def modules(part: str) -> Iterator[tuple[Path, ast.Module]]:
    place = PACKAGE / part
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield node.lineno, node.module or ""
            if node.module == "dm":
                yield from ((node.lineno, f"dm.{alias.name}") for alias in node.names)


def parts() -> set[str]:
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    return found - {"__init__"}


def test_every_part_has_its_place() -> None:
    assert parts() <= ALLOWED.keys()


@pytest.mark.parametrize("part", sorted(parts()))
def test_imports_run_downwards(part: str) -> None:
    wrong = []
    for path, tree in modules(part):
        for line, name in imported(tree):
            words = name.split(".")
            if words[0] == "dm" and len(words) > 1 and words[1] not in ALLOWED[part] | COMMON | {part}:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not wrong, f"dm.{part} may import {sorted(ALLOWED[part])} only:\n" + "\n".join(wrong)


@pytest.mark.parametrize("part", sorted(parts()))
def test_nothing_is_allowed_that_is_not_used(part: str) -> None:
    used = {name.split(".")[1] for _, tree in modules(part) for _, name in imported(tree) if name.startswith("dm.")}
    assert ALLOWED[part] <= used


def crossings(part: str, allowed: dict[str, set[str]]) -> Iterator[str]:
    """Yield the imports from one room of a part into another that are not allowed."""
    rooms = {path.parent.name for path in (PACKAGE / part).glob("*/__init__.py")}
    assert rooms == allowed.keys()
    for path, tree in modules(part):
        room = path.relative_to(PACKAGE / part).parts[0]
        for line, name in imported(tree):
            words = name.split(".")
            other = words[2] if words[:2] == ["dm", part] and len(words) > 2 else room
            if room in rooms and other in rooms and other not in allowed[room] | {room}:
                yield f"{path.relative_to(PACKAGE)}:{line} imports {name}"


def test_rooms_of_the_server() -> None:
    """The daemon's process holds no guest memory and runs no guest code; a vCPU knows nothing of its session."""
    assert not list(crossings("server", ROOMS))


def test_rooms_of_the_instruction_set() -> None:
    """The map says which opcodes there are, mechanisms what several instructions do; neither knows an instruction.

    What a description is written with (dm.isa.insn: operands, forms) is no mechanism's either.
    """
    assert not list(crossings("isa", ISA_ROOMS))
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path, tree in modules("isa")
        for line, name in imported(tree)
        if path.parent.name == "mechanisms" and name in ("dm.isa.insn", "dm.isa.catalogue")
    ]
    assert not wrong, "\n".join(wrong)


def test_a_vcpus_state_machine_does_no_input_or_output() -> None:
    """It knows no socket, no thread and no clock, nor the modules that have them."""
    room = PACKAGE / "server" / "vcpu"
    machine = {"core", "paging", "report", "run"}
    allowed = {f"dm.server.vcpu.{name}" for name in machine}
    assert machine <= {path.stem for path in room.iterdir()}
    wrong = [
        f"{name}.py:{line} imports {other}"
        for name in sorted(machine)
        for line, other in imported(ast.parse((room / f"{name}.py").read_text(encoding="utf-8")))
        if other.split(".")[0] in NETWORK | {"os", "select", "threading", "time"}
        or (other.startswith("dm.server.vcpu.") and other not in allowed)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", SILENT)
def test_engine_and_below_know_no_network(part: str) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path, tree in modules(part)
        for line, name in imported(tree)
        if name.split(".")[0] in NETWORK
    ]
    assert not wrong, "\n".join(wrong)
