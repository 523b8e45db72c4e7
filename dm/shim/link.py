"""A vCPU's socket on the shim's side: send, wait for an answer, and notice other events meanwhile.

:class:`Link` does it with pyzmq; ``dm.fast`` has the equivalent in C, which saves 10 to 20 us of an exchange whose two
sides have slept: most of that is memory of the interpreter that is no longer in a cache.
"""

from __future__ import annotations

import select
from typing import Final, Protocol, cast

import zmq

from dm import fast
from dm.protocol import codec, libzmq, waiter
from dm.protocol.schema import Message

_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


class Linked(Protocol):
    """The interface of both kinds of link."""

    def call(self, message: Message) -> tuple[Message | bytes | None, int, int] | None:
        """Encode and send a message, wait for the next one and decode it, all at once.

        Returns:
            The next message, and how many bytes were sent and received.  In place of the message: None if nothing could
            be sent, or for receive's reasons; or bytes that ``codec.decode`` is to refuse.  None alone: nothing was
            done.
        """
        ...

    def send(self, data: bytes) -> bool:
        """Send a message; return False when it cannot be sent now."""
        ...

    def receive(self, timeout: int | None) -> bytes | None:
        """Return the next message, waiting up to ``timeout`` ms (None: no limit).

        Returns:
            None: time-out, a signal, an event on another descriptor, or nothing for a while.
        """
        ...

    def news(self) -> bool:
        """Return whether another descriptor has an event."""
        ...


class Link:
    """A socket of one thread, and other descriptors to wait for."""

    def __init__(self, socket: zmq.Socket[bytes], *others: int) -> None:
        self._socket = socket
        self._own = cast(int, socket.getsockopt(zmq.FD))
        self._waiter = waiter.Waiter()
        self._others = select.poll()
        for descriptor in (self._own, *others):
            self._waiter.add(descriptor)
        for descriptor in others:
            self._others.register(descriptor, select.POLLIN)

    def call(self, message: Message) -> None:
        """Do nothing: :meth:`send` and :meth:`receive` do it."""

    def send(self, data: bytes) -> bool:
        """Send a message; return False when it cannot be sent now."""
        for _ in range(2):
            try:
                self._socket.send(data, _NOBLOCK)
                return True
            except zmq.Again:
                pass
            # Either the peer has read since, which ZeroMQ looks for when asked for its events and not in send, or
            # nobody is there to take it.
            self._socket.getsockopt(zmq.EVENTS)
        return False

    def receive(self, timeout: int | None) -> bytes | None:
        """Return the next message, waiting up to ``timeout`` ms (None: for ever); None: time-out, or another event."""
        news = False
        while True:
            # The socket's descriptor signals new events only after it has been found empty (ZMQ_FD).
            if not (news or cast(int, self._socket.getsockopt(_EVENTS)) & _POLLIN):
                ready = [descriptor for descriptor, _ in self._waiter.wait(timeout)]
                if self._own not in ready:
                    return None
            try:
                return self._socket.recv(_NOBLOCK)
            except zmq.Again:  # it was another event
                news = False

    def news(self) -> bool:
        """Return whether another descriptor has an event."""
        return bool(self._others.poll(0))


def link(socket: zmq.Socket[bytes], *others: int) -> Linked:
    """Return the fastest link there is."""
    module = fast.module()
    if module is None or codec.FAST is None:
        return Link(socket, *others)
    try:
        functions = tuple(libzmq.functions().values())
    except LookupError:
        return Link(socket, *others)
    descriptors = (cast(int, socket.getsockopt(zmq.FD)), *others)
    made: Linked = module.Link(functions, codec.FAST, socket.underlying, descriptors)
    return made
