"""Addresses: forms, modes, stale sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from dm.qmp.address import Address, TcpAddress, UnixAddress, bind, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/dm/qmp.sock", UnixAddress("/run/dm/qmp.sock")),
        ("unix:a:b", UnixAddress("a:b")),
        ("tcp:127.0.0.1:4444", TcpAddress("127.0.0.1", 4444)),
        ("tcp:localhost:0", TcpAddress("127.0.0.1", 0)),
        ("tcp:[::1]:1", TcpAddress("::1", 1)),
    ],
)
def test_parse(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected unix:PATH or tcp:HOST:PORT"),
        ("/run/qmp", "expected unix:PATH or tcp:HOST:PORT"),
        ("unix:", "expected unix:PATH or tcp:HOST:PORT"),
        ("udp:127.0.0.1:1", "expected unix:PATH or tcp:HOST:PORT"),
        ("unix:/run/qmp,server=on", "options after a comma are not taken"),
        ("tcp:127.0.0.1", "'127.0.0.1'"),
        ("tcp:127.0.0.1:", "expected a port from 0 to 65535, not ''"),
        ("tcp:127.0.0.1:65536", "expected a port from 0 to 65535, not '65536'"),
        ("tcp:127.0.0.1:-1", "expected a port from 0 to 65535, not '-1'"),
        ("tcp::4444", "'' is not a loopback address"),
        ("tcp:0.0.0.0:4444", "'0.0.0.0' is not a loopback address; use 127.0.0.1 or a unix: socket"),
        ("tcp:192.0.2.1:4444", "'192.0.2.1' is not a loopback address"),
        ("tcp:example.org:4444", "'example.org' is not a loopback address"),
        ("tcp:localhost.example.org:4444", "is not a loopback address"),
    ],
)
def test_parse_refuses(text: str, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert error in str(caught.value)


def test_unix_socket_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    sock, claim = bind(UnixAddress(str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sock.close()
    claim.close()
    assert list(tmp_path.iterdir()) == []


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "qmp"))
    first, claim = bind(address)
    first.close()
    os.close(claim._file)  # the files stay, as after kill -9
    sock, claim = bind(address)
    with sock:
        sock.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)
    claim.close()
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_somebody_else_left_stays(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    with pytest.raises(OSError, match="is a socket that no daemon has left here; remove it, or choose another path"):
        bind(UnixAddress(str(path)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["qmp"]


def test_live_socket_is_left_alone(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "qmp"))
    sock, claim = bind(address)
    with sock:
        sock.listen()
        with pytest.raises(OSError, match=f"QMP cannot listen on {address}: Address already in use"):
            bind(address)
        assert (tmp_path / "qmp").exists()
    claim.close()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    path.write_text("precious")
    with pytest.raises(OSError, match="exists and is not a socket"):
        bind(UnixAddress(str(path)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(("path", "error"), [("no/such/dir/qmp", "No such file"), ("x" * 200, "path too long")])
def test_unusable_path(tmp_path: Path, path: str, error: str) -> None:
    with pytest.raises(OSError) as caught:
        bind(UnixAddress(str(tmp_path / path)))
    assert error in str(caught.value)
    assert "QMP cannot listen on unix:" in str(caught.value)


def test_tcp_port_in_use() -> None:
    sock, _ = bind(TcpAddress("127.0.0.1", 0))
    with sock:
        sock.listen()
        with pytest.raises(OSError, match=r"QMP cannot listen on tcp:127\.0\.0\.1:"):
            bind(TcpAddress("127.0.0.1", sock.getsockname()[1]))
