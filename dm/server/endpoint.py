"""Control endpoints as users write them.

Imports neither ZeroMQ nor asyncio: it is used before ``--daemonize`` forks.
"""

from __future__ import annotations

import os
from typing import Final

#: Longest path of a control endpoint in bytes; the vCPUs' endpoints below it must fit into 107 (unix(7)).
MAX_PATH: Final = 80


def parse_endpoint(text: str) -> str:
    """Return the path of an ipc endpoint.

    Raises:
        ValueError: another transport, or a path that cannot be used.
    """
    transport, colon, path = text.partition("://")
    if not colon or transport not in ("ipc", "tcp"):
        raise ValueError(f"endpoint {text!r}: use ipc:///absolute/path")
    if transport == "tcp":
        raise ValueError(f"endpoint {text!r}: tcp needs CURVE keys, which this version cannot use; use ipc:///path")
    if not os.path.isabs(path):
        raise ValueError(f"endpoint {text!r}: the path must be absolute (ipc:///run/x86-dm.sock)")
    if len(os.fsencode(path)) > MAX_PATH:
        raise ValueError(f"endpoint {text!r}: the path must have at most {MAX_PATH} bytes")
    return path
