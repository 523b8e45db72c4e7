"""The line between supervisor and worker: datagrams on a Unix socket pair, file descriptors alongside.

A datagram is a MessagePack array ``[operation, tag, body]``; the answer to a request carries its tag.  Requests of a
shim travel as the very bytes it sent (operation ``message``), so this line adds no second contract.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any, Final

import msgpack

#: Largest datagram in bytes; a control message (64 KiB) fits with room to spare.
MAX_DATAGRAM: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Datagram:
    """One datagram.  ``fd`` is a received descriptor that now belongs to the receiver, or -1."""

    operation: str
    tag: int
    body: Any
    fd: int = -1


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new line."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_DATAGRAM)
    return left, right


def send(line: socket.socket, operation: str, tag: int = 0, body: Any = None, fd: int = -1) -> None:
    """Send one datagram; ``fd`` (if any) is duplicated to the receiver.

    Raises:
        OSError: the other end is gone, or (non-blocking) its buffer is full.
    """
    data = msgpack.packb([operation, tag, body])
    if fd >= 0:
        socket.send_fds(line, [data], [fd])
    else:
        line.send(data)


def receive(line: socket.socket) -> Datagram | None:
    """Return the next datagram, or None when the other end is gone.

    Raises:
        BlockingIOError: (non-blocking) nothing is there.
    """
    try:
        data, fds, _, _ = socket.recv_fds(line, MAX_DATAGRAM, 1)
    except ConnectionError:
        return None
    if not data:
        for fd in fds:
            os.close(fd)
        return None
    operation, tag, body = msgpack.unpackb(data)
    return Datagram(operation, tag, body, fds[0] if fds else -1)
