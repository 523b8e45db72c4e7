"""The socket beside the control endpoint on which RAM descriptors arrive, since ZeroMQ cannot pass any.

An AF_UNIX SOCK_SEQPACKET socket in the daemon's own directory.  A peer must be the daemon's user or root
(SO_PEERCRED, unix(7)); each packet is one ``ram`` message with one descriptor (SCM_RIGHTS), answered by one packet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from dm.claim import Inode, listening_socket, remove
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass
from dm.server.daemon.ram_files import check_sealed
from dm.server.log import Sparse

_log = logging.getLogger(__name__)

#: A peer that is silent for this many seconds is disconnected.
_PATIENCE: Final = 10.0

#: Takes the message, its bytes, the descriptor (which the callee then owns) and what sends the answer.
OnRam: TypeAlias = Callable[[schema.Ram, bytes, int, Callable[[bytes], None]], None]


class RamSocket:
    """Accepts descriptors on the asyncio thread."""

    def __init__(self, path: str, on_ram: OnRam, most: int) -> None:
        """Bind to ``path``, mode 0600; at most ``most`` peers are served at a time.

        Raises:
            OSError: it cannot be bound.
        """
        self.path = path
        self._on_ram, self._most = on_ram, most
        self._loop = asyncio.get_running_loop()
        self._peers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._sparse = Sparse()
        self._listener = listening_socket(path, socket.SOCK_SEQPACKET, backlog=most)
        self._made = Inode.of(path)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Close it and all its connections."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for peer in list(self._peers):
            self._drop(peer)
        remove(self.path, self._made)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        refusal = ""
        if uid not in (0, os.geteuid()):
            refusal = f"user {uid} is neither root nor the daemon's"
        elif len(self._peers) >= self._most:
            refusal = f"there are {self._most} connections, the most there can be"
        if refusal:
            if (held := self._sparse()) is not None:
                _log.warning("RAM socket: refused: %s%s", refusal, held)
            peer.close()
            return
        peer.setblocking(False)
        self._peers[peer] = self._loop.call_later(_PATIENCE, self._drop, peer)
        self._loop.add_reader(peer, self._read, peer)

    def _drop(self, peer: socket.socket) -> None:
        if peer in self._peers:
            self._peers.pop(peer).cancel()
            self._loop.remove_reader(peer)
            peer.close()

    def _read(self, peer: socket.socket) -> None:
        try:
            data, fds, flags, _ = socket.recv_fds(peer, schema.MAX_CONTROL, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds, flags = b"", [], 0
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            for fd in fds:
                os.close(fd)
            self._drop(peer)
            return
        self._peers[peer].cancel()
        self._peers[peer] = self._loop.call_later(_PATIENCE, self._drop, peer)
        fd = -1
        try:
            fd = self._only(fds)
            if flags & socket.MSG_TRUNC:
                raise ProtocolError(ErrorClass.TOO_LARGE, "the packet is too large", f"at most {schema.MAX_CONTROL}")
            message = codec.decode(data, schema.MAX_CONTROL)
            if not isinstance(message, schema.Ram) or message.path or message.messages:
                raise ProtocolError(ErrorClass.BAD_MESSAGE, f"{message.NAME} came here", "ram without path", "type")
            check_sealed(fd)
            fd, mine = -1, fd
            self._on_ram(message, data, mine, lambda answer: self._answer(peer, answer))
        except ProtocolError as error:
            self._answer(peer, codec.encode(error.message()))
        finally:
            if fd >= 0:
                os.close(fd)

    def _only(self, fds: list[int]) -> int:
        """Return the only descriptor of a packet; otherwise close them all."""
        if len(fds) == 1:
            return fds[0]
        for fd in fds:
            os.close(fd)
        raise ProtocolError(ErrorClass.BAD_MEMORY, f"{len(fds)} descriptors came along", "one descriptor", "ram")

    def _answer(self, peer: socket.socket, data: bytes) -> None:
        if peer not in self._peers:
            return
        try:
            peer.send(data)
        except OSError:
            self._drop(peer)
