"""What tests need of the machine is listed, is installed by ./run, and is here: these run on a fresh system too."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
#: Functions that are given names of programs and files.
CALLS = frozenset({"which", "need", "missing", "make"})
#: Where Debian's packages put files that a test might read.
SYSTEM = re.compile(r"/(usr|boot|lib|opt)/\S+")


def constants(nodes: list[ast.expr]) -> Iterator[str]:
    """Yield those of ``nodes`` that are texts."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named(tree: ast.Module) -> Iterator[str]:
    """Yield the programs and files that a test module names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SYSTEM.fullmatch(node.value):
            yield node.value
        if not isinstance(node, ast.Call):
            continue
        function, owner = node.func, ""
        if isinstance(function, ast.Attribute):
            function, owner = ast.Name(function.attr), getattr(function.value, "id", "")
        name = getattr(function, "id", "")
        if owner == "subprocess" and node.args and isinstance(node.args[0], ast.List):
            yield from constants(node.args[0].elts[:1])
        elif name in CALLS:
            yield from constants(node.args if name in ("need", "missing") else node.args[:1])


def used() -> dict[str, set[str]]:
    """Return what is named, and by which modules."""
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        if path.name not in ("needs.py", Path(__file__).name):
            for name in named(ast.parse(path.read_text())):
                found.setdefault(name, set()).add(str(path.relative_to(TESTS)))
    return found


def test_the_search_sees_what_tests_do() -> None:
    source = """
A = Path("/usr/lib/a")
need("b", A)
subprocess.run(["c", "d"])
if shutil.which("g") is None or subprocess.Popen([*x, "h"]) or run("i"): text = "in /usr/lib/j"
"""
    assert sorted(named(ast.parse(source))) == ["/usr/lib/a", "b", "c", "g"]
    assert {"bochs", "grub-mkrescue", "/usr/lib/ipxe/ipxe.iso"} <= used().keys()


def test_what_tests_use_is_listed() -> None:
    unknown = {name: where for name, where in used().items() if name not in needs.ALWAYS | needs.PACKAGES.keys()}
    assert not unknown, f"not in tests/needs.py: {unknown}"


@pytest.mark.fresh
def test_run_installs_every_package() -> None:
    """Each package has a line with its check in ./run, or is one of those that patched QEMU is built of."""
    installs = set(re.findall(r"\|\| echo (\S+)", (ROOT / "run").read_text()))
    (listed,) = re.findall(r"^packages='(.*?)'", (ROOT / "qemu-patches/build.sh").read_text(), re.M | re.S)
    assert set(needs.PACKAGES.values()) <= installs | set(listed.split())


@pytest.mark.fresh
def test_all_of_it_is_here() -> None:
    assert needs.missing(*needs.PACKAGES) == []
    assert [name for name in needs.ALWAYS if shutil.which(name) is None] == []


@pytest.mark.fresh
def test_run_misses_nothing() -> None:
    done = subprocess.run([ROOT / "run", "packages", "test"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
