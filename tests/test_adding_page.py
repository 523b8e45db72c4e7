"""The examples of docs/adding.md, applied to a copy of the tree: it builds, and passes the tests that they add."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/adding.md"
#: (language, file, text) of each block that names a file, by the heading it stands under.
BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHAPTERS = {
    title: BLOCK.findall(text)
    for title, _, text in (part.partition("\n") for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:])
}


def hunks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the old and the new lines of each place in a diff block."""
    for place in re.split(r"^@@\n", text, flags=re.MULTILINE):
        lines = [line or " " for line in place.splitlines()]
        assert {line[0] for line in lines} <= set(" +-"), place
        yield tuple("".join(f"{line[1:]}\n" for line in lines if line[0] in (" ", sign)) for sign in "-+")


def change(path: Path, language: str, text: str) -> None:
    """Apply one block to a file of the copy."""
    if language != "diff":
        before = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
        path.write_text(before + text, encoding="utf-8")
        return
    for old, new in hunks(text):
        before = path.read_text(encoding="utf-8")
        assert before.count(old) == 1, f"{path}: these lines are there {before.count(old)} times, not once:\n{old}"
        path.write_text(before.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree with all blocks applied."""
    made = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
    for name in ("dm", "protocol", "tests"):
        shutil.copytree(ROOT / name, made / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, made)
    for blocks in CHAPTERS.values():
        for language, name, text in blocks:
            change(made / name, language, text)
    return made


def python(copy: Path, *words: str) -> str:
    """Run Python on the copy, and return what it prints."""
    names = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    names.pop("DM_STRICT", None)  # the copy has not everything built
    names |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=copy, env=names, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def run_tests(copy: Path, *words: str) -> str:
    return python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *words)


@pytest.fixture(scope="module")
def built(copy: Path) -> Path:
    """Return the copy with its native engine."""
    python(copy, "-m", "dm.engine.native.build", "--out", str(copy / "objects"))
    return copy


def test_each_chapter_has_an_example() -> None:
    assert len(CHAPTERS) == 5
    assert all(CHAPTERS.values())


@pytest.mark.timeout(1200)
def test_the_instruction_runs_on_both_engines_and_every_form_of_it_is_executed(built: Path) -> None:
    copy = built
    tests = "tests/isa/test_remote_atomics.py", "tests/isa/test_announced.py"
    assert " passed" in run_tests(copy, "--write-executed", *tests)
    assert python(copy, "-m", "dm.cli", "isa", "--missing").endswith(" 0 without an executed test\n")
    assert "tests: isa/test_remote_atomics" in python(copy, "-m", "dm.cli", "isa").partition(" AADD ")[2]


@pytest.mark.timeout(1200)
def test_the_primitive_is_called_on_both_engines(built: Path) -> None:
    tests = "tests/isa/test_misc.py", "tests/isa/test_forms.py", "tests/engine/test_spin_hint.py"
    assert " passed" in run_tests(built, *tests)


def test_the_protocol_field_travels_and_is_in_all_that_is_generated(copy: Path) -> None:
    written = python(copy, "-m", "dm.protocol.generate") + python(copy, "-m", "dm.protocol.generate_c")
    assert "README.md: written" in written
    assert "messages.json: written" in written
    assert "age_ms" in (copy / "protocol/x86_dm.h").read_text(encoding="utf-8")
    assert " passed" in run_tests(copy, "tests/protocol/test_golden.py", "tests/protocol/test_codec.py")


def test_the_qmp_command_answers(copy: Path) -> None:
    assert " passed" in run_tests(copy, "tests/qmp/test_commands.py", "tests/qmp/test_schema.py")


def test_the_device_works_and_is_in_the_pc(copy: Path) -> None:
    assert " passed" in run_tests(copy, "tests/shim/devices/test_parallel.py", "tests/shim/test_pc.py")


def test_examples_are_written_as_the_tree_is(copy: Path) -> None:
    changed = sorted({name for blocks in CHAPTERS.values() for _, name, _ in blocks if name.endswith(".py")})
    for words in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        python(copy, "-m", "ruff", *words, *changed)
