"""``x86-dm serve`` as a command: arguments, messages, --daemonize."""

import os
import signal
import subprocess
import sys
import time

import pytest
from harness import arguments, daemon_pid, environment, flat, run, session

from dm.commands import serve
from dm.protocol.schema import DoneReason
from dm.server.daemon.endpoint import parse_endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run/x", "use ipc:///absolute/path"),
        ("udp://1.2.3.4:5", "use ipc:///absolute/path"),
        ("tcp://*:5555", "use tcp://ADDRESS:PORT"),
        ("tcp://0.0.0.0:5555", "name the one address"),
        ("tcp://localhost:5555", "use tcp://ADDRESS:PORT"),
        ("tcp://::1:5555", "use tcp://ADDRESS:PORT"),
        ("tcp://127.0.0.1", "use tcp://ADDRESS:PORT"),
        ("tcp://127.0.0.1:0", "the port must be 1 to 65535"),
        ("tcp://127.0.0.1:http", "the port must be 1 to 65535"),
        ("ipc://relative", "the path must be absolute"),
        ("ipc://@abstract", "the path must be absolute"),
        ("ipc:///" + "x" * 80, "at most 80 bytes"),
    ],
)
def test_bad_endpoints(text, expected):
    with pytest.raises(ValueError) as caught:
        parse_endpoint(text)
    assert expected in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--listen", "tcp://127.0.0.1:1"], "tcp needs CURVE keys"),
        (["--listen", "ipc:///tmp/x", "--qmp", "udp:1"], "expected unix:PATH or tcp:HOST:PORT"),
        (["--listen", "ipc:///tmp/x", "--memory-path", "/no/such/dir"], "an existing directory is needed"),
        (["--listen", "ipc:///tmp/x", "--memory-path", "/"], "would open every file"),
        (["--listen", "ipc:///tmp/x", "--engine", "fast"], "use native or python"),
        (["--listen", "ipc:///tmp/x", "--session-timeout", "0"], "use 0.1 to 86400 seconds"),
    ],
)
def test_bad_arguments(words, expected, capsys):
    assert serve.main(arguments(*words)) == 2
    assert expected in capsys.readouterr().err


def test_importing_the_command_imports_neither_zmq_nor_asyncio():
    code = (
        "import sys; import dm.commands.serve; sys.exit(any(m in sys.modules for m in ('zmq', 'asyncio', 'threading')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), timeout=100).returncode == 0


def test_a_file_is_kept(tmp_path):  # a short name: socket paths are limited
    (tmp_path / "file").write_text("data")
    out = run("--listen", f"ipc://{tmp_path}/file", "--engine", "fake_engine:create")
    assert out.returncode == 1
    assert "is not a socket" in out.stderr
    assert (tmp_path / "file").read_text() == "data"


def test_it_does_not_use_a_foreign_directory(tmp_path):
    (tmp_path / "c.d").write_text("a file")
    out = run("--listen", f"ipc://{tmp_path}/c", "--engine", "fake_engine:create")
    assert out.returncode == 1
    assert "is not a directory of ours" in out.stderr


def test_a_place_that_does_not_exist(tmp_path):
    out = run("--listen", f"ipc://{tmp_path}/no/c", "--engine", "fake_engine:create")
    assert out.returncode == 1
    assert "Traceback" not in out.stderr
    assert "/no/c" in out.stderr


class TestDaemonize:
    def test_it_returns_when_it_serves(self, tmp_path):
        log = tmp_path / "log"
        endpoint = f"ipc://{tmp_path}/c"
        out = run("--listen", endpoint, "--engine", "fake_engine:create", "--daemonize", "--log-file", str(log))
        assert out.returncode == 0, out.stderr
        pid = daemon_pid(log)
        try:
            with session(endpoint, b"h") as (_, vcpu):
                assert vcpu.run(flat()).reason is DoneReason.HALT
            assert os.getsid(pid) != os.getsid(0)
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1)} == {"/dev/null"}
        finally:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while (tmp_path / "c").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert {entry.name for entry in tmp_path.iterdir()} == {"log"}

    def test_it_says_why_it_cannot(self, tmp_path):
        (tmp_path / "c").write_text("")
        out = run("--listen", f"ipc://{tmp_path}/c", "--engine", "fake_engine:create", "--daemonize")
        assert out.returncode == 1
        assert f"{tmp_path}/c exists and is not a socket" in out.stderr

    def test_a_bad_engine_is_reported(self, tmp_path):
        out = run("--listen", f"ipc://{tmp_path}/c", "--engine", "no_such_module:create", "--daemonize")
        assert out.returncode == 1
        assert "no_such_module" in out.stderr
