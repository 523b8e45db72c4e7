"""The rules of tests/conftest.py, held on small test files in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

FILE = """
import pytest

def test_plain_skip():
    pytest.skip("no reason good enough")

@pytest.mark.kvm
def test_host_skip():
    pytest.skip("no /dev/kvm")

@pytest.fixture
def absent():
    pytest.skip("not here")

def test_fixture_skip(absent):
    pass

@pytest.mark.xfail(reason="known")
def test_xfail():
    assert False

def test_pass():
    pass

@pytest.mark.long
def test_long():
    pass
"""


def run(tmp_path: Path, *words: str, content: str = FILE, strict: bool = False) -> tuple[int, str]:
    shutil.copy(HERE / "conftest.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\nmarkers = ["long", "kvm"]\n'
    )
    (tmp_path / "test_it.py").write_text(content)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DM_STRICT", "PYTEST_"))}
    # Python may have been told not to look where it is started (PYTHONSAFEPATH).
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    if strict:
        environment["DM_STRICT"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_skips_are_skips_by_default(tmp_path: Path) -> None:
    code, out = run(tmp_path)
    assert code == 0, out
    assert "1 passed, 3 skipped, 1 deselected, 1 xfailed" in out


def test_only_a_hosts_lack_may_be_skipped_under_strict(tmp_path: Path) -> None:
    code, out = run(tmp_path, strict=True)
    assert code == 1, out
    assert "1 passed, 1 skipped, 1 deselected, 1 xfailed" in out
    assert "FAILED test_it.py::test_plain_skip" in out
    assert "ERROR test_it.py::test_fixture_skip" in out
    assert "no reason good enough" in out


def test_a_module_that_skips_itself_fails_under_strict(tmp_path: Path) -> None:
    content = "import pytest\npytest.importorskip('no_such_module')\n"
    assert run(tmp_path, content=content)[0] == 5
    code, out = run(tmp_path, content=content, strict=True)
    assert code == 2, out
    assert "module skipped under DM_STRICT=1" in out


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (["-m", "long"], "1 passed, 5 deselected"),
        (["-m", "long or kvm"], "1 passed, 1 skipped, 4 deselected"),
        (["test_it.py::test_long"], "1 passed"),
        (["-m", "not kvm"], "1 passed, 2 skipped, 2 deselected, 1 xfailed"),
    ],
)
def test_long_tests_run_when_they_are_named(tmp_path: Path, words: list[str], result: str) -> None:
    code, out = run(tmp_path, *words)
    assert code == 0, out
    assert f"{result} in " in out


#: A plugin, which the processes of pytest-xdist load too: what is claimed of test_it.
CLAIMS = """
from dm.isa.map import coverage

NOP, HLT = (coverage.Execution(row, "16", "test_it", "real") for row in ("NP 90 NOP", "F4 HLT"))
coverage.load = lambda: {NOP, HLT, HLT._replace(test="test_other")}
coverage.save = lambda table, path: print("kept", sorted((e.test, e.row) for e in table))
"""
EXECUTES = """
from dm.isa.map import coverage
from dm.isa.map.decode import decode

def test_nop():
    coverage.executed(decode(b"\\x90", False), "real", completed=True)

def test_hlt():
    coverage.executed(decode(b"\\xf4", False), "real", completed=%s)
"""


def run_claims(tmp_path: Path, *words: str, completed: bool) -> tuple[int, str]:
    (tmp_path / "claims.py").write_text(CLAIMS)
    return run(tmp_path, "-p", "claims", *words, content=EXECUTES % completed)


@pytest.mark.parametrize(
    ("words", "completed", "status"),
    [
        ((), True, 0),
        ((), False, 1),
        (("-n2",), True, 0),
        (("-n2",), False, 1),
        (("-k", "nop"), False, 0),  # not all of the module
        (("test_it.py::test_nop",), False, 0),
    ],
)
def test_what_a_module_is_said_to_execute_it_executes(
    tmp_path: Path, words: tuple[str, ...], completed: bool, status: int
) -> None:
    found, out = run_claims(tmp_path, *words, completed=completed)
    assert found == status, out
    assert ("1 claims about forms are not true" in out) == bool(status)
    assert ("F4 HLT" in out) == bool(status)
    assert ("1 failed, 2 passed in" in out) == bool(status)  # the last line, which is all that some look at


def test_claims_are_renewed_of_the_modules_that_ran(tmp_path: Path) -> None:
    found, out = run_claims(tmp_path, "--write-executed", completed=False)
    assert found == 0
    assert "kept [('test_it', 'NP 90 NOP'), ('test_other', 'F4 HLT')]" in out


ENVIRONMENT_FILE = """
import os, signal, subprocess, sys

def test_signals():
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        assert signal.getsignal(number) is signal.SIG_DFL, number
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())

def test_children():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout == b"True\\n"

def test_descriptors():
    for descriptor in range(3):
        os.fstat(descriptor)
    assert os.open(os.devnull, os.O_RDONLY) > 2
"""


@pytest.mark.parametrize(
    "parent", ['trap "" HUP INT QUIT TERM CHLD USR1; exec "$@"', 'exec "$@" <&-', '{ "$@"; } </dev/null & wait $!']
)
def test_what_a_parent_leaves_behind_is_undone(tmp_path: Path, parent: str) -> None:
    shutil.copy(HERE / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(ENVIRONMENT_FILE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DM_STRICT", "PYTEST_"))}
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "test_it.py"]
    done = subprocess.run(
        ["sh", "-c", parent, "sh", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "3 passed" in done.stdout, done.stdout + done.stderr
