"""The control endpoint's door: admits as many connections as there are descriptors for.

libzmq accepts every connection, and aborts its process when accept(2) finds no free descriptor.  It cannot be told to
wait, and unbinding a listener cuts the connections that came through it.  So it never has a listener that clients can
find: they connect to ours.  When clients wait there, and there are descriptors for a full backlog, another listener
gets the name, and libzmq gets the old one, at which nobody can arrive any more.  That one is unbound when all its
connections are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket as unix
from typing import Final

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from dm.claim import Claim
from dm.server.daemon import descriptors
from dm.server.daemon.descriptors import Shares
from dm.server.log import Sparse

_log = logging.getLogger(__name__)

#: For the next listener, and for clients that found a listener just before it lost its name.
_SPARE: Final = 8
#: Seconds until the next check whether libzmq has accepted all waiting connections.
_SOON: Final = 0.001


class Door:
    """The door of one ROUTER socket; on the asyncio thread."""

    def __init__(self, socket: zmq.asyncio.Socket, claim: Claim, aside: str, shares: Shares) -> None:
        """Bind the name of ``claim``; new listeners are bound to names that begin with ``aside`` before they get it.

        Raises:
            OSError: it cannot be bound.
        """
        self._socket, self._claim, self._aside, self._shares = socket, claim, aside, shares
        self._loop = asyncio.get_running_loop()
        self._sparse = Sparse()
        self._made = 0
        self._inside: dict[str, int] = {}  # endpoints of listeners that libzmq has: connections through each
        self._newest, self._newest_at = -1, ""  # descriptor and endpoint of the last of them, while it is there
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._listener: unix.socket | None = claim.bind(backlog=shares.backlog)
        self._watch = self._loop.create_task(self._count())
        self._loop.add_reader(self._listener, self._knock)

    def close(self) -> None:
        """Admit no more connections; before the socket is closed."""
        self._watch.cancel()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _knock(self) -> None:
        """Somebody waits."""
        assert self._listener is not None
        if self._newest >= 0 and _is_waited_for(self._newest):
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_SOON, self._look_again, self._listener)
            return
        if descriptors.count() + self._shares.backlog + _SPARE >= self._shares.open:
            self._turn_away()
        else:
            self._let_in()

    def _look_again(self, listener: unix.socket) -> None:
        if self._listener is listener:
            self._loop.add_reader(listener, self._knock)

    def _turn_away(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        if (held := self._sparse()) is not None:
            _log.warning("connection refused: %d descriptors are open%s", descriptors.count(), held)

    def _let_in(self) -> None:
        """Give our listener to libzmq, and the name to a new one."""
        old = self._listener
        assert old is not None
        self._loop.remove_reader(old)
        self._made += 1
        try:
            self._listener = self._claim.replace(f"{self._aside}{self._made}", self._shares.backlog)
            self._loop.add_reader(self._listener, self._knock)
        except OSError as error:
            self._listener = None
            _log.error("nobody can connect any more: %s", error)
        endpoint = f"ipc://{old.getsockname()}"
        self._newest, self._newest_at = old.fileno(), endpoint
        self._inside[endpoint] = 0
        self._socket.setsockopt(zmq.USE_FD, self._newest)
        self._socket.bind(endpoint)
        self._socket.setsockopt(zmq.USE_FD, -1)
        old.detach()

    async def _count(self) -> None:
        """Count connections, and unbind listeners that have none left."""
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())
            endpoint = event["endpoint"].decode("utf-8", "surrogateescape")
            if endpoint not in self._inside:
                continue
            self._inside[endpoint] += 1 if event["event"] == zmq.EVENT_ACCEPTED else -1
            if not self._inside[endpoint]:
                self._loop.call_later(1.0, self._unbind, endpoint)  # others that waited there may be on their way

    def _unbind(self, endpoint: str) -> None:
        if self._watch.cancelled() or self._inside.get(endpoint) != 0:
            return
        del self._inside[endpoint]
        if endpoint == self._newest_at:
            self._newest = -1
        with contextlib.suppress(zmq.ZMQError):
            self._socket.unbind(endpoint)


def _is_waited_for(listener: int) -> bool:
    """Return whether a connection waits at a listener."""
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    return bool(waiting.poll(0))
