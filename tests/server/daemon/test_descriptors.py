"""Descriptors run out politely: what would need more is refused, and everybody else is served on."""

import contextlib
import resource
import socket

import pytest
from harness import Daemon, Peer, Qmp, eventually, flat, free_port, session

from dm.keys import Curve, load_keys, load_public, make_keys
from dm.protocol import schema
from dm.protocol.schema import DoneReason, ErrorClass
from dm.server.daemon.descriptors import LEAST, shares
from dm.shim.client import Shim
from dm.shim.errors import SessionLost, ShimError


def limited(soft, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("limit", [LEAST, 1000, 1024, 4096, 20000, 1 << 20])
def test_shares_leave_room(limit):
    made = shares(limit, 64)
    assert made.open + 5 * made.sessions + made.qmp + made.ram <= limit
    assert made.open > 64 + 2 * made.backlog
    assert made.backlog >= 12
    assert min(made.sessions, made.qmp, made.ram) >= 12
    assert shares(limit, 3).sessions == 3


def test_too_few_are_refused_at_the_start(tmp_path):
    with Daemon(tmp_path, prepare=limited(64, 64)) as daemon:
        assert daemon.process.wait(60) == 1
    said = "only 64 descriptors may be open (ulimit -Hn): at least 256 are needed"
    assert said in daemon.log.read_text()
    assert {entry.name for entry in tmp_path.iterdir()} == {"log"}


def test_the_soft_limit_is_raised(tmp_path):
    with Daemon(tmp_path, prepare=limited(64, 2000)) as daemon, session(daemon.endpoint, b"h") as (_, vcpu):
        assert vcpu.run(flat()).reason is DoneReason.HALT
        assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (2000, 2000)


def connect(path):
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(path)
    except OSError:
        one.close()
        raise
    return one


def gets_in(daemon):
    try:
        Shim.connect(daemon.endpoint, timeout=60).close()
    except SessionLost as error:
        assert "takes no more connections" in str(error)
        return False
    return True


@pytest.mark.parametrize("limit", [256, 1024])
def test_connections_that_say_nothing(tmp_path, limit):
    """More than there are descriptors, as fast as they can be made, again and again."""
    path = str(tmp_path / "control")
    with Daemon(tmp_path, prepare=limited(limit, limit)) as daemon, session(daemon.endpoint, b"h") as (_, vcpu):
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(1300):
                    stack.enter_context(connect(path))
                assert daemon.process.poll() is None
                assert vcpu.run(flat()).reason is DoneReason.HALT
                eventually(lambda: gets_in(daemon))  # who says nothing is cut off, though nobody has closed anything
        assert daemon.stop() == 0
        assert "connection refused: " in daemon.log.read_text()
    assert {entry.name for entry in tmp_path.iterdir()} == {"log"}


def test_sessions_beyond_what_the_limit_allows(tmp_path):
    with Daemon(tmp_path, prepare=limited(256, 256)) as daemon, contextlib.ExitStack() as stack:
        eventually(daemon.log.exists)
        for _ in range(12):
            stack.enter_context(Peer(daemon.endpoint)).send(schema.Hello(seq=1, min_version=1, max_version=3))
        eventually(lambda: daemon.log.read_text().count(": opened, ") == 12)
        error = stack.enter_context(Peer(daemon.endpoint)).hello(max_version=3)
        assert (error.error, error.expected) == (ErrorClass.LIMIT, "at most 12")
        assert "session refused: there are 12, the most there can be" in daemon.log.read_text()


def test_monitors_beyond_what_the_limit_allows(tmp_path):
    path = tmp_path / "qmp"
    with Daemon(tmp_path, "--qmp", f"unix:{path}", prepare=limited(256, 256)) as daemon:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(Qmp(path))
            for _ in range(11):
                stack.enter_context(Qmp(path))
            extra = stack.enter_context(connect(str(path)))
            assert b"Too many QMP clients, the limit is 12" in extra.recv(4096)
            assert first.ask("query-status")["running"]
        assert daemon.stop() == 0


def test_ram_peers_beyond_what_the_limit_allows(tmp_path):
    with Daemon(tmp_path, prepare=limited(256, 256)) as daemon, session(daemon.endpoint) as (shim, _):
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                one.connect(shim.welcome.ram_socket)
            assert one.recv(100) == b""  # the last one was refused
        eventually(lambda: "RAM socket: refused: there are 12 connections" in daemon.log.read_text())


def test_a_tcp_endpoint_outlives_a_flood_too(tmp_path):
    (tmp_path / "clients").mkdir()
    for name in ("daemon", "clients/one"):
        make_keys(tmp_path / name)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    words = ["--curve-secret-key", str(tmp_path / "daemon.key_secret"), "--curve-clients", str(tmp_path / "clients")]
    curve = Curve(load_keys(tmp_path / "clients" / "one.key_secret"), load_public(tmp_path / "daemon.key"))
    with Daemon(tmp_path, *words, "--listen", endpoint, prepare=limited(256, 256)) as daemon:
        with Shim.connect(endpoint, curve=curve) as shim, contextlib.ExitStack() as stack:
            for _ in range(400):
                one = stack.enter_context(socket.socket())
                one.settimeout(60)
                one.connect(("127.0.0.1", int(endpoint.rpartition(":")[2])))
            assert shim.counters().vcpus == []

            def gets_in():
                with contextlib.suppress(ShimError), Shim.connect(endpoint, curve=curve, timeout=60):
                    return True
                return False

            eventually(gets_in)
        assert daemon.stop() == 0
