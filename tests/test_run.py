"""The script ./run where it does not need to set anything up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "run"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *words], env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_script_is_posix_shell() -> None:
    assert RUN.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", RUN], check=False).returncode == 0
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=False).returncode == 0


def test_help_names_every_command() -> None:
    done = run("-h")
    assert done.returncode == 0
    for command in ("demo", "test", "venv"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("words", [[], ["tset"], ["demo", "now"], ["venv", "x"]])
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: ./run COMMAND" in done.stderr or "takes no arguments" in done.stderr


def test_an_old_python_is_refused_and_named(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run("venv", PYTHON=str(old))
    assert done.returncode == 2
    assert "no Python 3.11 or later" in done.stderr
    assert str(old) in done.stderr


def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    """On a PATH without gcc and without apt-get all the script can do is to say what is missing."""
    for tool in ("sh", "dirname", "cat", "tr", "id", "flock", "cut", "sha256sum", "find", "sort", "grub-mkrescue"):
        found = shutil.which(tool)
        if found:
            (tmp_path / tool).symlink_to(found)
    done = run("test", PATH=str(tmp_path), PYTHON=sys.executable, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert "apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev" in done.stderr
    assert not (tmp_path / "cache").exists()
