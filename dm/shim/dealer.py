"""Sockets for the daemon's endpoints: DEALER, with CURVE if there are keys, and a monitor of their connection."""

from __future__ import annotations

import sys
from typing import Final

import zmq

from dm.keys import Curve

#: What a socket's monitor reports when authentication fails.
_NOT_AGREED: Final = int(
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def dealer(context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None) -> zmq.Socket[bytes]:
    """Return a new socket for one of the daemon's endpoints."""
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    if curve is not None:
        made.setsockopt(zmq.CURVE_SERVERKEY, curve.server)
        made.setsockopt(zmq.CURVE_PUBLICKEY, curve.own.public)
        made.setsockopt(zmq.CURVE_SECRETKEY, curve.own.secret)
        made.setsockopt(zmq.IPV6, 1)
    return made


class Watch:
    """Tells when the peer of a socket has gone (zmq_socket_monitor).  Belongs to the socket's thread."""

    def __init__(self, watched: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self.socket = watched.get_monitor_socket(zmq.EVENT_DISCONNECTED | _NOT_AGREED)
        descriptor = self.socket.getsockopt(zmq.FD)
        assert isinstance(descriptor, int)
        self.descriptor = descriptor
        self.seen = False  # what gone() last said
        self.refused = False  # whether that was because the keys do not fit

    def gone(self) -> bool:
        """Return whether the connection has ended since the socket was made."""
        if not self.seen and self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # type: ignore[arg-type,operator]
            self.seen = True
            event, _ = self.socket.recv_multipart(zmq.NOBLOCK)
            self.refused = bool(int.from_bytes(event[:2], sys.byteorder) & _NOT_AGREED)
        return self.seen

    def close(self) -> None:
        """Stop monitoring; call it before the socket is closed."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)
