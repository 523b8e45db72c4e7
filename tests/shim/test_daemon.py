import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dm.shim import daemon
from dm.shim.daemon import DaemonError, OwnDaemon


@pytest.fixture
def command(monkeypatch):
    """Replace the daemon's program by a Python text; it finds the socket's path in its arguments."""

    def use(text):
        real = subprocess.Popen

        def popen(words, **options):
            return real([sys.executable, "-c", text, *words], **options)

        monkeypatch.setattr(daemon.subprocess, "Popen", popen)

    return use


LISTEN = "import sys, time; open(sys.argv[-3].removeprefix('ipc://'), 'w').close(); time.sleep(60)"


def test_starts_waits_and_ends(command):
    command(LISTEN)
    with OwnDaemon("python") as own:
        pid = own.pid
        assert pid > 0
        path = own.endpoint.removeprefix("ipc://")
        assert Path(path).read_bytes() == b""
    assert own.pid == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not Path(path).parent.exists()


def test_death_at_start_is_told_in_its_own_words(command):
    command("import sys; sys.exit('no such engine')")
    with pytest.raises(DaemonError, match="no such engine"), OwnDaemon():
        pass


def test_silent_start_times_out(command, monkeypatch):
    monkeypatch.setattr(daemon, "_START", 0.2)
    command("import time; time.sleep(60)")
    with pytest.raises(DaemonError, match="does not listen"), OwnDaemon():
        pass


def test_a_daemon_that_does_not_end_is_killed(command, monkeypatch):
    monkeypatch.setattr(daemon, "_END", 0.2)
    command("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + LISTEN)
    with OwnDaemon() as own:
        assert own.pid
    assert own.pid == 0


SHIM = """
import sys, time
from dm.shim.daemon import OwnDaemon
with OwnDaemon("python") as own:
    print(own.pid, own.endpoint, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary():
    """A directory for temporary files with a path short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="dm-") as path:
        yield Path(path)


def test_nothing_is_left_of_a_shim_that_was_killed(temporary):
    shim = subprocess.Popen(
        [sys.executable, "-c", SHIM], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    )
    pid, endpoint = shim.stdout.readline().split()
    directory = Path(endpoint.removeprefix("ipc://")).parent
    assert directory.parent == temporary
    assert (directory / "control").exists()
    shim.kill()
    shim.wait()
    shim.stdout.close()
    deadline = time.monotonic() + 100
    while directory.exists() or Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, list(temporary.rglob("*"))
        time.sleep(0.02)
    assert not list(temporary.iterdir())


def test_an_orderly_shim_removes_its_directory_itself(temporary, monkeypatch):
    monkeypatch.setattr(daemon.tempfile, "tempdir", str(temporary))
    with OwnDaemon("python"):
        assert [entry.name.startswith("x86-dm-") for entry in temporary.iterdir()] == [True]
    assert not list(temporary.iterdir())
