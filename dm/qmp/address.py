"""Where a monitor listens: a Unix socket only its owner may open, or a TCP port on loopback."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from dm.claim import Claim

_FORMS: Final = "unix:PATH or tcp:HOST:PORT"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket's path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A literal loopback address and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """Return the address ``unix:PATH`` or ``tcp:HOST:PORT`` names; HOST is ``localhost`` or a loopback address.

    Raises:
        ValueError: saying what is wrong and what would be right.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("unix", "tcp") or not rest:
        raise ValueError(f"QMP address {text!r}: expected {_FORMS}")
    if "," in rest:
        raise ValueError(f"QMP address {text!r}: options after a comma are not taken, expected {_FORMS}")
    if kind == "unix":
        return UnixAddress(rest)
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").replace("localhost", "127.0.0.1")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"QMP address {text!r}: expected a port from 0 to 65535, not {port!r}")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"QMP address {text!r}: {host!r} is not a loopback address; use 127.0.0.1 or a unix: socket")
    return TcpAddress(host, int(port))


def bind(address: Address) -> tuple[socket.socket, Claim | None]:
    """Return a bound socket, not yet listening, and of a Unix socket the claim to be closed after it.

    A socket file that a daemon has left behind is replaced; any other is left alone, and refused.

    Raises:
        OSError: naming the address.
    """
    try:
        return _bind_unix(address.path) if isinstance(address, UnixAddress) else (_bind_tcp(address), None)
    except OSError as error:
        code = error.errno or errno.EINVAL  # an over-long path has none
        raise OSError(code, f"QMP cannot listen on {address}: {error.strerror or error}") from None


def _bind_tcp(address: TcpAddress) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> tuple[socket.socket, Claim]:
    try:
        claim = Claim(path)
    except BlockingIOError:
        raise OSError(errno.EADDRINUSE, "Address already in use: another daemon serves it") from None
    try:
        return claim.bind(), claim
    except BaseException:
        claim.close()
        raise
