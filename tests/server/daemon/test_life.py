"""The daemon's life: whatever its parent has closed, ignored or blocked, and whatever becomes of its log."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time

import pytest
import zmq
from harness import (
    FOREVER,
    Daemon,
    Qmp,
    children,
    command,
    daemon_pid,
    environment,
    eventually,
    flat,
    free_port,
    run,
    session,
    when_it_runs,
)
from processes import runs

from dm.keys import Curve, load_keys, load_public, make_keys
from dm.protocol.schema import DoneReason
from dm.shim.client import Shim
from dm.shim.dealer import dealer

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} x86-dm\[\d+\]: (DEBUG|INFO|WARNING|ERROR): ")


@contextlib.contextmanager
def daemonized(tmp_path, *options, closed=(), prepare=None, cwd=None):
    """``x86-dm serve --daemonize`` with some of its standard descriptors closed; yields its pid."""

    def close():
        for number in closed:
            os.close(number)
        if prepare is not None:
            prepare()

    endpoint, log = f"ipc://{tmp_path}/c", tmp_path / "log"
    words = ["--listen", endpoint, "--engine", "fake_engine:create", "--daemonize", *options]
    if "--log-file" not in options:
        words += ["--log-file", str(log)]
    started = subprocess.run(command(*words), env=environment(), preexec_fn=close, cwd=cwd, timeout=60, check=False)
    assert started.returncode == 0
    pid = daemon_pid(endpoint)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: not runs(pid))
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_descriptors(tmp_path, closed):
    with daemonized(tmp_path, closed=closed) as pid:
        with session(f"ipc://{tmp_path}/c", b"h") as (_, vcpu):
            assert vcpu.run(flat()).reason is DoneReason.HALT
        assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in (0, 1)} == {"/dev/null"}
        assert os.readlink(f"/proc/{pid}/fd/2") == str(tmp_path / "log")


def test_relative_paths_are_those_of_the_start(tmp_path):
    with daemonized(tmp_path, "--qmp", "unix:qmp", "--log-file", "mylog", "--memory-path", ".", cwd=tmp_path) as pid:
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        with Qmp(tmp_path / "qmp") as qmp:
            assert qmp.ask("query-status")["running"]
        (tmp_path / "vm").write_bytes(bytes(4096))
        with Shim.connect(f"ipc://{tmp_path}/c") as shim:
            shim.add_ram_file(str(tmp_path / "vm"), 4096)
        os.rename(tmp_path / "mylog", tmp_path / "mylog.1")
        os.kill(pid, signal.SIGHUP)
        eventually((tmp_path / "mylog").exists)
    assert {entry.name for entry in tmp_path.iterdir()} == {"mylog", "mylog.1", "vm"}


def ignored():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})


@pytest.mark.parametrize("prepare", [ignored, blocked])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_that_the_parent_ignored_or_blocked_end_it_all_the_same(tmp_path, prepare, number):
    with Daemon(tmp_path, prepare=prepare) as daemon, session(daemon.endpoint, FOREVER) as (shim, vcpu):
        when_it_runs(shim, lambda: daemon.process.send_signal(number))
        done = vcpu.run(flat())
        assert (done.reason, done.closing) == (DoneReason.KICKED, True)
        assert daemon.process.wait(60) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"log"}


def test_a_worker_is_reaped_though_the_parent_ignored_that(tmp_path):
    with (
        Daemon(tmp_path, "--qmp", f"unix:{tmp_path}/qmp", prepare=ignored) as daemon,
        Qmp(tmp_path / "qmp") as qmp,
        session(daemon.endpoint),
    ):
        (worker,) = children(daemon.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert "SIGKILL" in qmp.event("X86_DM_SESSION_CLOSED")["data"]["reason"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_signals_that_do_not_end_it(tmp_path, number):
    """SIGHUP opens the log anew.  Sent to all of its processes, as from a terminal, they do the workers no harm."""
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, FOREVER) as (shim, vcpu):
        (worker,) = children(daemon.process.pid)

        def signal_both():
            for pid in (worker, daemon.process.pid):
                os.kill(pid, number)
            time.sleep(0.3)
            vcpu.kick()

        when_it_runs(shim, signal_both)
        done = vcpu.run(flat())
        assert (done.reason, done.closing) == (DoneReason.KICKED, False)


def test_hanging_up_without_a_log_file_ends_it_in_order(tmp_path):
    endpoint = f"ipc://{tmp_path}/c"
    words = command("--listen", endpoint, "--engine", "fake_engine:create")
    with open(tmp_path / "err", "wb") as error:
        process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stderr=error)
    with session(endpoint, FOREVER) as (shim, vcpu):
        when_it_runs(shim, lambda: process.send_signal(signal.SIGHUP))
        assert vcpu.run(flat()).closing
    assert process.wait(60) == 0


def test_a_renamed_log_is_opened_anew_by_all(tmp_path):
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, name="vm1") as (shim, _):
        (worker,) = children(daemon.process.pid)
        os.rename(daemon.log, tmp_path / "log.1")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(daemon.log.exists)
        inode = daemon.log.stat().st_ino
        for pid in (daemon.process.pid, worker):
            eventually(lambda pid=pid: os.stat(f"/proc/{pid}/fd/2").st_ino == inode)
        shim.close()
        eventually(lambda: "(vm1): closed: its shim said bye" in daemon.log.read_text())
    assert "(vm1): opened" in (tmp_path / "log.1").read_text()


def test_a_log_that_cannot_be_opened_anew_goes_on(tmp_path):
    place = tmp_path / "logs"
    place.mkdir()
    with Daemon(tmp_path, "--log-file", str(place / "log")) as daemon, session(daemon.endpoint):
        os.rename(place, tmp_path / "elsewhere")
        daemon.process.send_signal(signal.SIGHUP)
        old = tmp_path / "elsewhere" / "log"
        eventually(lambda: "the log goes on in its old file: " in old.read_text())


@pytest.mark.parametrize("daemonize", [(), ("--daemonize",)])
def test_a_full_disk_is_said_before_the_log_is_redirected(tmp_path, daemonize):
    words = ["--listen", f"ipc://{tmp_path}/c", "--engine", "fake_engine:create", "--log-file", "/dev/full"]
    out = run(*words, *daemonize)
    assert out.returncode == 1
    assert out.stderr == "x86-dm serve: /dev/full: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_later_is_said_to_whoever_started_it_too(tmp_path):
    (tmp_path / "c").write_text("")
    out = run("--listen", f"ipc://{tmp_path}/c", "--engine", "fake_engine:create", "--log-file", str(tmp_path / "log"))
    assert out.returncode == 1
    assert "exists and is not a socket" in out.stderr
    assert "exists and is not a socket" in (tmp_path / "log").read_text()


def full():
    """No file may grow beyond some lines: as a disk that gets full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))


def test_a_log_that_gets_full_ends_nothing(tmp_path):
    with Daemon(tmp_path, prepare=full) as daemon:
        for _ in range(5):
            with session(daemon.endpoint, b"h", name="a rather long name") as (_, vcpu):
                assert vcpu.run(flat()).reason is DoneReason.HALT
        assert daemon.log.stat().st_size == 600
        assert daemon.stop() == 0


def test_a_log_that_nobody_reads_ends_nothing(tmp_path):
    """A pipe that is full, then one that is closed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    endpoint = f"ipc://{tmp_path}/c"
    words = command("--listen", endpoint, "--engine", "fake_engine:create", "--qmp", f"unix:{tmp_path}/qmp")
    os.read(reader, 8192)  # room for its first line
    process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    try:
        for turn in range(4):
            with session(endpoint, b"h", name="x" * 60) as (_, vcpu):
                assert vcpu.run(flat()).reason is DoneReason.HALT
            if turn == 1:
                os.close(reader)
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_line_says_when_how_bad_and_whose(tmp_path):
    with Daemon(tmp_path) as daemon:
        with session(daemon.endpoint, FOREVER, name="vm\n1\x1b[2J") as (shim, vcpu):
            number = shim.session
            (worker,) = children(daemon.process.pid)
            when_it_runs(shim, lambda: os.kill(worker, signal.SIGSEGV))
            with contextlib.suppress(Exception):
                vcpu.run(flat())
            eventually(lambda: ": closed: " in daemon.log.read_text())
        lines = daemon.log.read_text().splitlines()
    mine = [line for line in lines if f"session {number} " in line]
    assert all(LINE.match(line) for line in mine)
    words = [LINE.sub("", line).removeprefix(f"session {number} (vm\\n1\\x1b[2J): ") for line in mine]
    assert words[0].startswith("opened, version 3, engine fake, worker ")
    assert words[1:] == [
        "lost: its worker process ended unexpectedly (SIGSEGV)",
        "closed: its worker process ended unexpectedly (SIGSEGV)",
    ]


def test_what_the_engine_does_not_support_is_logged_once_in_a_while(tmp_path):
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, b"z", name="vm1") as (shim, vcpu):
        for _ in range(50):
            assert vcpu.run(flat()).reason is DoneReason.UNSUPPORTED
        lines = [line for line in daemon.log.read_text().splitlines() if "unsupported" in line]
        assert 1 <= len(lines) <= 40
        assert LINE.sub("", lines[0]) == f"session {shim.session} (vm1): vCPU 0: unsupported at f000:0: letter 'z'"


def test_a_refused_key_is_logged(tmp_path):
    (tmp_path / "clients").mkdir()
    for name in ("daemon", "clients/one", "two"):
        make_keys(tmp_path / name)
    endpoint, log = f"tcp://127.0.0.1:{free_port()}", tmp_path / "log"
    words = ["--listen", endpoint, "--engine", "fake_engine:create", "--log-file", str(log)]
    words += ["--curve-secret-key", "daemon.key_secret", "--curve-clients", "clients", "--daemonize"]
    started = subprocess.run(command(*words), env=environment(), cwd=tmp_path, timeout=60, check=False)
    assert started.returncode == 0  # keys by relative paths, too
    pid = daemon_pid(endpoint)
    try:
        keys = load_keys(tmp_path / "two.key_secret")
        with zmq.Context() as context:
            one = dealer(context, Curve(keys, load_public(tmp_path / "daemon.key")))
            one.connect(endpoint)
            one.send(b"")
            eventually(lambda: f"WARNING: key refused: {keys.public.decode()}" in log.read_text())
            one.close(0)
    finally:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not os.path.exists(f"/proc/{pid}"))
