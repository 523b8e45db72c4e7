"""Control endpoints as users write them.

Imports neither ZeroMQ nor asyncio: it is used before ``--daemonize`` forks.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Final

#: Longest path of a control endpoint in bytes; the vCPUs' endpoints below it must fit into 107 (unix(7)).
MAX_PATH: Final = 80


@dataclass(frozen=True, slots=True)
class ControlEndpoint:
    """A control endpoint: ``path`` of ipc, or ``host`` (as in the endpoint's text) and ``port`` of tcp."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"ipc://{self.path}" if self.path else f"tcp://{self.host}:{self.port}"


def parse_endpoint(text: str) -> ControlEndpoint:
    """Return a control endpoint: ipc:///PATH or tcp://ADDRESS:PORT.

    Raises:
        ValueError: another transport, or a path or address that cannot be used.
    """
    transport, colon, place = text.partition("://")
    if not colon or transport not in ("ipc", "tcp"):
        raise ValueError(f"endpoint {text!r}: use ipc:///absolute/path or tcp://ADDRESS:PORT")
    if transport == "tcp":
        return _tcp(text, place)
    if not os.path.isabs(place):
        raise ValueError(f"endpoint {text!r}: the path must be absolute (ipc:///run/x86-dm.sock)")
    if len(os.fsencode(place)) > MAX_PATH:
        raise ValueError(f"endpoint {text!r}: the path must have at most {MAX_PATH} bytes")
    return ControlEndpoint(path=place)


def _tcp(text: str, place: str) -> ControlEndpoint:
    host, _, port = place.rpartition(":")
    try:
        address = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        if (address.version == 6) != host.startswith("["):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"endpoint {text!r}: use tcp://ADDRESS:PORT, tcp://127.0.0.1:5555 or tcp://[::1]:5555"
        ) from None
    if address.is_unspecified:
        raise ValueError(f"endpoint {text!r}: name the one address that clients connect to")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"endpoint {text!r}: the port must be 1 to 65535")
    return ControlEndpoint(host=host, port=int(port))
