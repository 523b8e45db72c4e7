"""``./run fresh``: a fresh system is made, used and removed, whatever happens to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "x86-dm" / "fresh"
TOOLS = "awk bash cat comm cp cut date dirname env find flock git grep head id mkdir mktemp rm sh sort tr true"


def fresh(*words: str, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [root / "run", "fresh", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def systems() -> set[str]:
    return {path.name for path in CACHE.glob("run.*")}


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_help() -> None:
    done = fresh("--help")
    assert done.returncode == 0
    assert "--suite" in done.stdout
    assert fresh().returncode == 2


def test_a_suite_that_cannot_be_one_is_refused() -> None:
    """It becomes part of a path."""
    for suite in ("", "../x", "Bookworm", "a b"):
        done = fresh("--suite", suite, "demo")
        assert (done.returncode, done.stdout) == (2, "")
        assert "--suite takes a release of Debian" in done.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A PATH on which the script's own tools are and nothing that makes a system."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS.split():
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path / "bin"


def test_what_is_missing_is_named(bare: Path, tmp_path: Path) -> None:
    (bare / "id").unlink()
    (bare / "id").write_text("#!/bin/sh\necho 12345\n")
    (bare / "id").chmod(0o755)
    done = fresh("demo", PATH=str(bare), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 2
    command = "apt-get update && apt-get install -y --no-install-recommends mmdebstrap util-linux uidmap"
    assert f"install them and run this again (as root): {command}" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_without_namespaces_it_says_what_it_needs(bare: Path, tmp_path: Path) -> None:
    for tool, text in {
        "id": "case $1 in -un) echo nosuchuser ;; *) echo 12345 ;; esac",
        "unshare": "echo unshare: unshare failed: Operation not permitted >&2; exit 1",
        "mmdebstrap": "exit 1",
        "newuidmap": "exit 1",
    }.items():
        (bare / tool).unlink(missing_ok=True)
        (bare / tool).write_text(f"#!/bin/sh\n{text}\n")
        (bare / tool).chmod(0o755)
    done = fresh("demo", PATH=str(bare), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert "needs root, or user namespaces" in done.stderr
    assert "nosuchuser" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
class TestThrowAway:
    """With a real system, which takes the network: it is gone afterwards, and only it."""

    def test_it_has_the_tracked_files_and_nothing_of_this_machine(self) -> None:
        before, mounted = systems(), mounts()
        done = fresh("packages", "test")
        assert done.returncode == 0, done.stderr
        packages = done.stdout.split()
        assert packages[:2] == ["gcc", "libc6-dev"]
        assert {"python3", "nasm", "bochs", "ipxe-qemu", "seabios"} <= set(packages)
        assert "status 0 after" in done.stderr
        assert (systems(), mounts()) == (before, mounted)

    def test_a_status_comes_through(self) -> None:
        done = fresh("tset")
        assert done.returncode == 2
        assert "did you mean 'test'" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_an_interrupted_run_leaves_nothing(self, number: signal.Signals) -> None:
        before, mounted = systems(), mounts()
        running = subprocess.Popen([ROOT / "run", "fresh", "demo"], stderr=subprocess.PIPE, text=True)
        assert running.stderr is not None
        seen = ""
        while "run: installing" not in seen:
            seen += (line := running.stderr.readline())
            assert line, seen
        (mine,) = systems() - before
        running.send_signal(number)
        status = running.wait()
        if number == signal.SIGKILL:  # the kernel ends what it had started, and the next run removes what is left
            running.stderr.read()
            assert fresh("--suite", "bookworm", "help").returncode == 0
        else:
            assert status == 128 + number
        assert mine not in systems()
        assert mounts() == mounted
        running.stderr.close()

    def test_side_by_side(self) -> None:
        before = systems()
        several = [subprocess.Popen([ROOT / "run", "fresh", "help"], stdout=subprocess.PIPE) for _ in range(3)]
        assert [b"usage: ./run" in process.communicate()[0] for process in several] == [True] * 3
        assert [process.returncode for process in several] == [0] * 3
        assert systems() == before

    def test_what_is_not_known_as_ours_is_left_alone(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        other, empty = CACHE / "run.others", CACHE / "run.empty"
        for path in (other, empty):
            path.mkdir()
        (other / "owner").write_text("somebody else\n")
        try:
            assert fresh("help").returncode == 0
            assert (other / "owner").exists()
            assert empty.exists()
        finally:
            shutil.rmtree(other)
            empty.rmdir()


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_readme_command_on(suite: str, command: str) -> None:
    """Debian 12 with Python 3.11, Debian 13 with Python 3.13; everything, with no skip but for the processor's sake."""
    started = time.monotonic()
    done = fresh("--suite", suite, command, DM_STRICT="1")
    print(f"\n{suite} {command}: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
