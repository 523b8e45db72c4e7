"""The transport of a vCPU's messages: the ROUTER socket of its endpoint.

A ZeroMQ socket never changes thread: all of it belongs to the vCPU's.
"""

from __future__ import annotations

import logging
from typing import Final

import zmq

from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Error, ErrorClass, Message
from dm.protocol.waiter import Waiter
from dm.server.vcpu.endpoint import Endpoint

_log = logging.getLogger(__name__)

#: High-water mark: there is one exchange at a time, the rest is for repeats and errors.
_HWM: Final = 16

_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


class Transport:
    """A vCPU's socket; ``waiter`` waits for it and for one other descriptor."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: Endpoint,
        wake: int,
        counters: schema.VcpuCounters,
    ) -> None:
        """``endpoint`` is what is bound, ``wake`` the other descriptor.

        Bytes that come, and bytes and errors that are sent, are added to ``counters``.
        """
        self.socket: zmq.Socket[bytes]
        self._context, self._endpoint, self._counters = context, endpoint, counters
        self.waiter = Waiter()
        self.waiter.add(wake)

    def bind(self) -> None:
        """Make the socket and bind the endpoint; raises what ZeroMQ or the endpoint do."""
        self.socket = self._context.socket(zmq.ROUTER)
        options = ((zmq.ROUTER_MANDATORY, 1), (zmq.SNDHWM, _HWM), (zmq.RCVHWM, _HWM))
        for option, value in options:
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 4 * schema.MAX_MESSAGE)  # above this the peer is disconnected
        self._endpoint.bind(self.socket)
        descriptor = self.socket.getsockopt(zmq.FD)
        assert isinstance(descriptor, int)
        self.waiter.add(descriptor)

    def close(self, linger: int) -> None:
        """Close the socket, if it was made; what was sent may take ``linger`` ms more to go."""
        if hasattr(self, "socket"):
            self.socket.close(linger=linger)
        self._endpoint.clear()

    # ------------------------------------------------------------------------------------------ what comes in

    def readable(self) -> bool:
        """Return whether a message is there.  ZeroMQ's descriptor signals the next one only after a "no" (ZMQ_FD)."""
        return bool(self.socket.getsockopt(_EVENTS) & _POLLIN)  # type: ignore[operator]

    def receive(self) -> tuple[bytes, bytes, int] | None:
        """Return the next message if there is one: who sent it, its data (of several parts the last), its parts."""
        receive = self.socket.recv
        try:
            identity = receive(_NOBLOCK)
        except zmq.Again:
            return None
        frame = receive(_NOBLOCK, copy=False)
        parts = 1
        while frame.more:
            frame = receive(_NOBLOCK, copy=False)
            parts += 1
        return identity, frame.bytes, parts

    def decode(self, data: bytes, parts: int) -> Message:
        """Return the message that has come; of one with several parts ``data`` is the last.

        Raises:
            ProtocolError: it is none.
        """
        self._counters.bytes_in += len(data)
        if parts != 1:
            raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the message has {parts} parts", "one part")
        return codec.decode(data)

    # ------------------------------------------------------------------------------------------ what goes out

    def send(self, identity: bytes, message: Message) -> None:
        """Send a message; ProtocolError when it does not fit the schema."""
        data = codec.encode(message)
        if isinstance(message, Error):
            self._counters.errors += 1
        self.send_bytes(identity, data, message.NAME)

    def send_bytes(self, identity: bytes, data: bytes, name: str) -> None:
        """Send an encoded message, ``name`` in logs; if nobody takes it, it is dropped, and may be requested again."""
        self._counters.bytes_out += len(data)  # before it is sent: the receiver may compare counters at once
        try:
            try:
                self.socket.send(identity, _MORE)
            except zmq.Again:
                # The peer may have read since: ZeroMQ notices that when asked for its events, not here.
                self.socket.getsockopt(zmq.EVENTS)
                self.socket.send(identity, _MORE)
            self.socket.send(data, _NOBLOCK)
            return
        except zmq.Again:
            _log.warning("vCPU %d: peer does not read; %s dropped, it may ask again", self._counters.vcpu, name)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            _log.info("vCPU %d: peer is gone; %s waits for its return", self._counters.vcpu, name)
        self._counters.bytes_out -= len(data)
