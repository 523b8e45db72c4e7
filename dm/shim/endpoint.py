"""The daemon's endpoint as its clients see it: whether it is valid, and why nobody answers there."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
from dataclasses import dataclass
from typing import Final

from dm.shim.errors import EndpointError

#: Longest path of a Unix socket, in bytes (unix(7)).
_MAX_PATH: Final = 107
#: How long a tcp host may take to accept a connection, in seconds.
_TCP_TIMEOUT: Final = 3.0


def check(endpoint: str) -> None:
    """Check that ``endpoint`` is well-formed: ``ipc://PATH`` or ``tcp://ADDRESS:PORT``.

    Raises:
        EndpointError: saying what would be right.
    """
    transport, colon, place = endpoint.partition("://")
    if not colon or transport not in ("ipc", "tcp") or not place:
        raise EndpointError(
            f"endpoint {endpoint!r}: ipc:///PATH or tcp://ADDRESS:PORT is needed, as given to serve --listen"
        )
    if "\0" in place:
        raise EndpointError(f"endpoint {endpoint!r}: a path without zero bytes is needed")
    if transport == "ipc":
        if len(os.fsencode(place)) > _MAX_PATH:
            raise EndpointError(f"endpoint {endpoint!r}: the path of a socket has at most {_MAX_PATH} bytes")
    else:
        host, _, port = place.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise EndpointError(f"endpoint {endpoint!r}: tcp://ADDRESS:PORT with a port from 1 to 65535 is needed")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nobody can be reached; ``lasting`` if waiting for a daemon that is just starting would not help."""

    why: str
    lasting: bool = True


def obstacle(endpoint: str) -> Obstacle | None:
    """Return why nobody can be reached at ``endpoint`` now, None if connections are accepted there.

    A connection is tried and closed at once, because ZeroMQ itself would retry silently.
    """
    transport, _, place = endpoint.partition("://")
    nobody = f"no daemon answers at {endpoint}"
    try:
        if transport == "tcp":
            host, _, port = place.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _TCP_TIMEOUT).close()
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
                probe.connect("\0" + place[1:] if place.startswith("@") else place)
    except BlockingIOError:
        return None  # others are waiting there too
    except FileNotFoundError:
        return Obstacle(f"{nobody}: there is no such socket; is it running?", lasting=False)
    except PermissionError:
        return Obstacle(f"the daemon's socket {place} may not be used: {_denied(place)}")
    except ConnectionRefusedError:
        if transport == "ipc" and not _is_socket(place):
            return Obstacle(f"{nobody}: {place} is no socket")
        return Obstacle(f"{nobody}: nobody listens there; is it running?", lasting=False)
    except TimeoutError:
        return Obstacle(f"{nobody}: the host takes no connection", lasting=False)
    except OSError as error:
        return Obstacle(f"{nobody}: {error.strerror or error}")
    return None


def _is_socket(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def _denied(path: str) -> str:
    """Return what denies us a socket: the first directory on the way that may not be entered, or the socket itself."""
    path = os.path.abspath(path)
    at = "/"
    for part in path.split("/")[1:-1]:
        at = os.path.join(at, part)
        if not os.access(at, os.X_OK, effective_ids=True):
            return f"{_whose(at, 'directory')}, which we may not enter"
    return f"{_whose(path, 'socket')}, which we may not write to"


def _whose(path: str, what: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return f"{path}, a {what}"
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    return f"{path} is a {what} of {owner}'s with mode {stat.S_IMODE(found.st_mode):04o}"
