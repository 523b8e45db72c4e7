"""A vCPU's endpoint: beside the control socket in the file system, or on a tcp port with CURVE."""

from __future__ import annotations

from typing import Final, Protocol

import zmq

from dm.claim import Inode, listening_socket, remove
from dm.keys import Keys
from dm.server.admission import HANDSHAKE_MS, secure

#: Connections that may wait to be accepted (listen(2)).
_BACKLOG: Final = 100


class Endpoint(Protocol):
    """A vCPU's endpoint, to be bound."""

    address: str

    def bind(self, socket: zmq.Socket[bytes]) -> None:
        """Bind; ``address`` is where clients connect from then on."""
        ...

    def clear(self) -> None:
        """Remove what libzmq leaves behind."""
        ...


class IpcEndpoint:
    """A socket of mode 0600 in a directory of the daemon's own."""

    def __init__(self, path: str) -> None:
        self.address = f"ipc://{path}"
        self._path = path
        self._made: Inode | None = None

    def bind(self, socket: zmq.Socket[bytes]) -> None:
        """See :meth:`Endpoint.bind`."""
        made = listening_socket(self._path, backlog=_BACKLOG)
        self._made = Inode.of(self._path)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        # By itself libzmq would remove whatever is at that path before it binds.
        socket.setsockopt(zmq.USE_FD, made.fileno())
        socket.bind(self.address)
        made.detach()  # it is libzmq's from now on

    def clear(self) -> None:
        """See :meth:`Endpoint.clear`."""
        if self._made is not None:
            remove(self._path, self._made)


class TcpEndpoint:
    """A free port of an address, for clients that an ``Admission`` in the same context admits."""

    def __init__(self, host: str, keys: Keys) -> None:
        self.address = f"tcp://{host}:*"
        self._host, self._keys = host, keys

    def bind(self, socket: zmq.Socket[bytes]) -> None:
        """See :meth:`Endpoint.bind`."""
        secure(socket, self._keys)
        socket.bind(self.address)
        port = bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").rpartition(b":")[2]
        self.address = f"tcp://{self._host}:{port.decode('ascii')}"

    def clear(self) -> None:
        """See :meth:`Endpoint.clear`."""
