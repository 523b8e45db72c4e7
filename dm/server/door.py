"""The control endpoint's door: closed while too many descriptors are open, since libzmq takes all who come.

An ipc listener cannot be told to wait, and unbinding it would cut all its connections.  But whoever connects needs the
socket's name: while the door is closed that is elsewhere, so that connecting fails at once, and is tried again by
ZeroMQ.  Connections that are there are not touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from typing import Any, Final

import zmq

from dm.claim import Claim, Inode
from dm.server import descriptors

_log = logging.getLogger(__name__)

_EVENTS: Final = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED)
_ADDRESS: Final = "inproc://door"
#: While it is closed it is looked so often, in milliseconds, whether it can be opened.
_LOOK_MS: Final = 200


class Door:
    """Watches over the connections of one listening ZeroMQ socket, in a thread of its own."""

    def __init__(self, socket: zmq.Socket[Any], claim: Claim, aside: str, most: int) -> None:
        """``aside`` is where the socket's name goes with ``most`` descriptors open; of the socket's thread."""
        self._socket, self._claim, self._aside, self._most = socket, claim, aside, most
        socket.monitor(_ADDRESS, _EVENTS)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context.underlying)
        self._closed = False
        self._ended = False
        self._thread = threading.Thread(target=self._main, name="door", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Watch no more; before the socket is closed, by its thread."""
        self._ended = True
        self._socket.disable_monitor()
        self._thread.join()

    def _main(self) -> None:
        watch = self._context.socket(zmq.PAIR)
        watch.connect(_ADDRESS)
        while True:
            if watch.poll(_LOOK_MS if self._closed else None):
                event, _ = watch.recv_multipart()
                if int.from_bytes(event[:2], sys.byteorder) & zmq.EVENT_MONITOR_STOPPED:
                    break
            if not self._ended:
                self._look()
        watch.close(linger=0)

    def _look(self) -> None:
        open_ = descriptors.count()
        with contextlib.suppress(OSError):  # the endpoint has been taken away, and another may have it
            if not self._closed and open_ >= self._most:
                if Inode.of(self._claim.path) == self._claim.made:
                    os.rename(self._claim.path, self._aside)
                    self._closed = True
                    _log.warning("%d descriptors are open: no more connections are taken until some end", open_)
            elif self._closed and open_ < self._most - self._most // 8:
                self._closed = False
                os.link(self._aside, self._claim.path)  # not over anything that may be there by now
                os.unlink(self._aside)
                _log.warning("%d descriptors are open: connections are taken again", open_)
