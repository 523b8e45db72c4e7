import os
import socket
import tempfile

import pytest

from dm.shim.endpoint import check, obstacle
from dm.shim.errors import EndpointError


@pytest.mark.parametrize(
    "endpoint", ["ipc:///run/x", "ipc://relative", "ipc://@abstract", "tcp://[::1]:1", "tcp://h:65535"]
)
def test_endpoints(endpoint):
    check(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "right"),
    [
        ("", "ipc:///PATH or tcp"),
        ("foo", "ipc:///PATH or tcp"),
        ("/run/x86-dm", "ipc:///PATH or tcp"),
        ("inproc://x", "ipc:///PATH or tcp"),
        ("ipc://", "ipc:///PATH or tcp"),
        ("ipc:///a\0b", "without zero bytes"),
        ("ipc:///" + "x" * 107, "at most 107 bytes"),
        ("tcp://host", "port from 1 to 65535"),
        ("tcp://:1", "port from 1 to 65535"),
        ("tcp://host:0", "port from 1 to 65535"),
        ("tcp://host:65536", "port from 1 to 65535"),
        ("tcp://host:*", "port from 1 to 65535"),
    ],
)
def test_what_cannot_be_one_is_answered_with_what_would_be_right(endpoint, right):
    with pytest.raises(EndpointError, match=right):
        check(endpoint)


@pytest.fixture
def place(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/socket")
        listener.listen()
        yield tmp_path


def test_somebody_listens(place):
    assert obstacle(f"ipc://{place}/socket") is None


def test_somebody_listens_to_whom_many_want_to_speak(place):
    waiting = []
    try:
        while True:
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            waiting.append(one)
            one.connect(f"{place}/socket")
    except BlockingIOError:
        pass
    assert obstacle(f"ipc://{place}/socket") is None
    for one in waiting:
        one.close()


@pytest.mark.parametrize(
    ("name", "why", "lasting"),
    [
        ("none", "there is no such socket", False),
        ("file/socket", "Not a directory", True),
        ("file", "file is no socket", True),
        ("dead", "nobody listens there", False),
        ("packets", "wrong type", True),
    ],
)
def test_why_nobody_can_be_reached(place, name, why, lasting):
    (place / "file").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{place}/dead")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets:
        packets.bind(f"{place}/packets")
        packets.listen()
        found = obstacle(f"ipc://{place}/{name}")
    assert why in found.why
    assert found.lasting is lasting


def test_nobody_on_tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert obstacle(f"tcp://127.0.0.1:{port}") is None
    assert "nobody listens" in obstacle(f"tcp://127.0.0.1:{port}").why


@pytest.mark.parametrize("what", ["directory", "socket"])
def test_what_may_not_be_used_is_named_with_its_owner_and_mode(what):
    """As somebody else, where these are root's tests: root may do everything."""
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/socket")
        listener.listen()
        denied = place if what == "directory" else f"{place}/socket"
        os.chmod(place, 0o755)
        os.chmod(denied, 0)
        if not (child := os.fork()):
            try:
                if os.geteuid() == 0:
                    os.seteuid(65534)
                os.write(writer, obstacle(f"ipc://{place}/socket").why.encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        os.chmod(place, 0o755)
        with open(reader, "rb") as pipe:
            said = pipe.read().decode()
    assert said.startswith(f"the daemon's socket {place}/socket may not be used: {denied} is a {what} of "), said
    assert "with mode 0000" in said
