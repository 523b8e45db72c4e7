"""Linter and type checker as tests: the settings stand in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def check(*words: str) -> None:
    """Run a tool on the tree and fail with what it prints."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"


def test_ruff_has_nothing_to_say() -> None:
    check("ruff", "check", "--no-cache", ".")


@pytest.mark.timeout(600)
def test_mypy_strict_has_nothing_to_say(tmp_path: Path) -> None:
    check("mypy", "--cache-dir", str(tmp_path), "-p", "dm")


def seconds(node: ast.expr | None) -> float:
    """Return the number that ``node`` is, infinity for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    return float("inf")


def short_bounds(tree: ast.Module) -> Iterator[int]:
    """Yield the lines with a bound on what must end that is shorter than a hang."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, "id", "")
            given = next((word.value for word in node.keywords if word.arg == "timeout"), None)
            if owner == "subprocess" or node.func.attr == "communicate":
                if seconds(given) < 60:
                    yield node.lineno
            elif node.func.attr == "settimeout" and node.args and 1 <= seconds(node.args[0]) < 60:
                yield node.lineno
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
            names = {getattr(target, "id", "") for target in node.targets}
            if names & {"deadline", "end"} and seconds(node.value.right) < 60:
                yield node.lineno


def test_time_outs_of_tests_only_catch_hangs() -> None:
    """A machine with twenty times the load it has processors for is slow, and no test fails for that."""
    example = "subprocess.run(x, timeout=30)\nx.settimeout(0.1)\nend = now() + 10\nx.communicate(timeout=60)"
    assert sorted(short_bounds(ast.parse(example))) == [1, 3]
    short = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in sorted(short_bounds(ast.parse(path.read_text())))
    ]
    assert not short
