"""Who may connect to the sockets of daemon and workers: random connection names, and CURVE keys on tcp."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Collection
from typing import Any, Final

import zmq

from dm.keys import Keys
from dm.server.log import Sparse

_log = logging.getLogger(__name__)

#: ZAP domain of our sockets (https://rfc.zeromq.org/spec/27).
_DOMAIN: Final = "x86-dm"
#: A peer must complete its part of ZMTP's handshake within this many milliseconds.
HANDSHAKE_MS: Final = 5000


def draw_names() -> None:
    """Make libzmq's names of connections random, before this process makes a ROUTER socket.

    A peer may choose its own name, even one that libzmq would give to another peer: then it passes for that peer, or
    libzmq aborts when it reaches that name.  libzmq counts from a number of rand(3), which nobody has seeded.
    """
    ctypes.CDLL(None).srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))


def secure(socket: zmq.Socket[Any], keys: Keys) -> None:
    """Restrict a socket to clients whose key is admitted; before it is bound."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an Admission nobody is admitted
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, 1)


class Admission:
    """Admits clients to a context's secured sockets by their public keys (ZAP)."""

    def __init__(self, context: zmq.Context[Any], clients: Collection[bytes]) -> None:
        """``clients`` are public keys in Z85."""
        from zmq.auth.thread import ThreadAuthenticator  # brings asyncio: a tenth of a worker's start, for tcp alone

        self._clients = clients
        self._sparse = Sparse()
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(_DOMAIN, credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether a key is admitted; called by the authenticator."""
        admitted = key in self._clients
        if not admitted and (held := self._sparse()) is not None:
            _log.warning("key refused: %s%s", key.decode("ascii", "replace"), held)
        return admitted

    def close(self) -> None:
        """Stop; before the context is terminated."""
        self._authenticator.stop()
