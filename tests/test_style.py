"""Linter and type checker as tests: the settings stand in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
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
