"""The script ./run where it does not need to set anything up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "run"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *words], env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_script_is_posix_shell() -> None:
    assert RUN.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", RUN], check=False).returncode == 0
    assert subprocess.run(["sh", "-n", ROOT / "tests/fresh.sh"], check=False).returncode == 0
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=False).returncode == 0


def test_shellcheck_has_nothing_to_say() -> None:
    need("shellcheck")
    scripts = [RUN, ROOT / "tests/fresh.sh", ROOT / "qemu-patches/build.sh", ROOT / ".ci/run"]
    done = subprocess.run(["shellcheck", "--severity=warning", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_names_every_command() -> None:
    done = run("-h")
    assert done.returncode == 0
    for command in ("demo", "test", "venv", "packages", "fresh"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("words", [[], ["tset"], ["demo", "now"], ["venv", "x"], ["packages", "x"]])
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: ./run COMMAND" in done.stderr or "takes no argument" in done.stderr


@pytest.mark.parametrize(
    ("word", "meant"),
    [("tset", "test"), ("dmeo", "demo"), ("env", "venv"), ("--hepl", "--help"), ("fersh", "fresh"), ("xyzzy", None)],
)
def test_a_wrong_command_suggests_the_right_one(word: str, meant: str | None) -> None:
    first = run(word).stderr.splitlines()[0]
    assert first == f"run: unknown command '{word}'" + (f"; did you mean '{meant}'?" if meant else "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_taken_by_files(closed: str) -> None:
    done = subprocess.run(["sh", "-c", f'exec "$0" venv x {closed}', RUN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("" if "2>" in closed else "run: venv takes no arguments\n")


def test_it_runs_from_a_directory_whose_name_has_spaces(tmp_path: Path) -> None:
    place = tmp_path / "a clone of  it"
    place.mkdir()
    for name in ("run", "qemu-patches", "protocol"):
        (place / name).symlink_to(ROOT / name)
    shutil.copy(RUN, place / "copy")
    done = subprocess.run([place / "copy", "packages", "test"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
