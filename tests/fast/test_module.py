"""The extension module dm.fast._fast: that one of other sources is not used, and that what it does, it does cleanly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dm
from dm import fast
from dm.fast import build

FUZZ = Path(__file__).with_name("fuzz.py")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g1")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(dm.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **more}


def fuzz(module: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(FUZZ), str(module), *arguments]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=500)


def test_a_module_of_other_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fuzz(build.build(tmp_path), "used")
    assert right.stdout == "used\n", right.stderr
    monkeypatch.setattr(fast, "digest", lambda: "another")
    wrong = fuzz(build.build(tmp_path), "used")
    assert wrong.stdout == "not used\n", wrong.stderr


def test_without_a_compiler_the_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(OSError, match="no-such-compiler"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_messages_and_odd_objects_under_sanitizers(tmp_path: Path) -> None:
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("gcc has no libasan")
    done = fuzz(
        build.build(tmp_path, SANITIZE),
        "fuzz",
        os.environ.get("DM_SEED", "20261121"),
        LD_PRELOAD=library,
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS="detect_leaks=0:exitcode=99",  # what the interpreter keeps to its end is not ours
        UBSAN_OPTIONS="print_stacktrace=1:exitcode=99",
    )
    report = "\n".join(done.stderr.splitlines()[-80:])
    assert done.returncode == 0, report
    assert "runtime error:" not in done.stderr, report
    understood, refused = map(int, done.stdout.split())
    assert understood > 1000
    assert refused > 1000
