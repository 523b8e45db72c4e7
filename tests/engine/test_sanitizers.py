"""The native engine under AddressSanitizer and UndefinedBehaviorSanitizer: random worlds and recorded vectors, clean.

The extension is built anew with both and loaded into a process of its own (fuzz.py), libasan first.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dm

FUZZ = Path(__file__).with_name("fuzz.py")
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g1")
VECTORS = Path(os.environ.get("DM_VECTORS", Path(__file__).resolve().parents[3] / "shared" / "vectors"))
SEED = int(os.environ.get("DM_SEED", "20250101"))


def _run(arguments: list[str], env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def _environment() -> dict[str, str]:
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(Path(dm.__file__).parents[1]), env.get("PYTHONPATH", "")])
    return env


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The sanitized extension, and the environment that a process needs to load it."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    library = _run([compiler, "-print-file-name=libasan.so"], _environment(), 60).stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("gcc has no libasan")
    # Processes of one test run share the build.
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if os.environ.get("PYTEST_XDIST_WORKER") else shared) / "sanitized"
    shared.mkdir(exist_ok=True)
    env = _environment()
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        modules = list(shared.glob("_native*.so"))
        if not modules:
            build = [sys.executable, "-P", "-m", "dm.engine.native.build", "--out", str(shared / "objects")]
            (shared / "objects").mkdir(exist_ok=True)
            flags = [f"--cflag={flag}" for flag in FLAGS]
            made = _run([*build, "--target", str(shared), *flags], env | {"CC": compiler}, 900)
            assert made.returncode == 0, made.stderr
            modules = list(shared.glob("_native*.so"))
    env["LD_PRELOAD"] = library
    # What the interpreter does not free when it ends is not the engine's.
    env["ASAN_OPTIONS"] = "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1:exitcode=99"
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:exitcode=99"
    env["PYTHONMALLOC"] = "malloc"  # memory of the guest has guards of its own
    return modules[0], env


def _fuzz(sanitized: tuple[Path, dict[str, str]], *arguments: object, timeout: float = 280) -> None:
    module, env = sanitized
    done = _run([sys.executable, "-P", str(FUZZ), str(module), *map(str, arguments)], env, timeout)
    report = "\n".join(done.stderr.splitlines()[-120:])
    assert done.returncode == 0, f"{done.stdout}\n{report}"
    assert "ERROR: AddressSanitizer" not in done.stderr, report
    assert "runtime error:" not in done.stderr, report
    print(done.stdout)


@pytest.mark.timeout(1500)
def test_random_worlds_for_a_minute(sanitized: tuple[Path, dict[str, str]]) -> None:
    _fuzz(sanitized, "worlds", 60, SEED)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("share", [0.1, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["hw286", "hwamd"])
def test_recorded_vectors(sanitized: tuple[Path, dict[str, str]], kind: str, share: float) -> None:
    if not (VECTORS / kind).is_dir():
        pytest.skip(f"no recorded vectors at {VECTORS / kind}")
    _fuzz(sanitized, "vectors", VECTORS / kind, share, SEED, timeout=1400)


@pytest.mark.long
@pytest.mark.timeout(4000)
def test_random_worlds_for_an_hour(sanitized: tuple[Path, dict[str, str]]) -> None:
    _fuzz(sanitized, "worlds", 3600, random.SystemRandom().getrandbits(48), timeout=3900)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("code", "words"),
    [("v = malloc(64); memset(v, n, 64 + n); n = v[5] != 0", "AddressSanitizer"), ("n <<= n + 31", "runtime error")],
)
def test_the_flags_find_mistakes(tmp_path: Path, code: str, words: str) -> None:
    """A program with an error is reported the same way."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    source = tmp_path / "wrong.c"
    source.write_text(
        f"#include <stdlib.h>\n#include <string.h>\nint main(int n, char **v) {{ {code}; return n > 99; }}\n"
    )
    program = tmp_path / "wrong"
    subprocess.run([compiler, *FLAGS, str(source), "-o", str(program)], check=True)
    done = _run([str(program)], _environment(), 60)
    assert done.returncode != 0
    assert words in done.stderr
