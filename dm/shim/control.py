"""The control connection of a session: requests and their answers, heartbeats, and notice of its end."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

import zmq

from dm.keys import Curve
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Error, ErrorClass, Message
from dm.shim.dealer import Watch, dealer
from dm.shim.endpoint import obstacle
from dm.shim.errors import Refused, SessionLost, ShimError

MessageT = TypeVar("MessageT", bound=Message)

#: How long a control request may take, in seconds; the first hello starts a worker.
TIMEOUT: Final = 30.0

#: Errors on the control socket that concern the session as a whole.
_ENDS: Final = frozenset({ErrorClass.SESSION_LOST, ErrorClass.UNKNOWN_SESSION, ErrorClass.STALE_EPOCH})


class ControlSocket:
    """The control socket and the thread that owns it: requests, answers, heartbeats."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, curve: Curve | None) -> None:
        self.endpoint = endpoint
        self._curve = curve
        self.lost: ShimError | None = None
        self.closing = False
        self.session = 0
        #: Moment (time.monotonic) by which every answer must have come, whatever a request says.
        self.deadline = math.inf
        self._interval = 1.0
        self._context = context
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._queue: deque[tuple[int, bytes, Future[Message]]] = deque()
        self._waiting: dict[int, Future[Message]] = {}
        self._seq = 0
        self._lock = threading.Lock()
        self._stop = False
        self._on_loss: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._main, name="shim-control", daemon=True)
        self._thread.start()

    def request(self, message: Message, kind: type[MessageT], timeout: float = TIMEOUT) -> MessageT:
        """Send a request (its ``seq`` is filled in) and return its answer.

        Raises:
            Refused: the daemon refused it.
            SessionLost: no answer came, the session is gone, or the daemon is shutting down.
            ShimError: the answer is of another kind than ``kind``.
        """
        future: Future[Message] = Future()
        timeout = min(timeout, max(0.0, self.deadline - time.monotonic()))
        with self._lock:
            if self._stop:
                raise SessionLost("the connection is closed")
            if self.lost is not None:
                raise self.lost
            self._seq += 1
            message.seq = self._seq  # type: ignore[attr-defined]
            self._queue.append((self._seq, codec.encode(message), future))
            os.eventfd_write(self._wake, 1)
        try:
            answer = future.result(timeout)
        except TimeoutError:
            silent = f"no daemon answers at {self.endpoint} within {timeout:.3g} s, though something is listening there"
            found = obstacle(self.endpoint)
            raise SessionLost(found.why if found else silent) from None
        if isinstance(answer, Error):
            if answer.error is ErrorClass.SHUTTING_DOWN:
                raise SessionLost("the daemon is shutting down")
            raise Refused(answer)
        if not isinstance(answer, kind):
            raise ShimError(f"{message.NAME} was answered by {answer.NAME}, {kind.NAME} expected")
        return answer

    def keep_alive(self, session: int, timeout: float) -> None:
        """Send heartbeats for a session that the daemon frees after ``timeout`` seconds of silence."""
        self._interval, self.session = timeout / 4, session
        os.eventfd_write(self._wake, 1)

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call this on the control thread when the session is lost."""
        self._on_loss.append(call)

    def close(self) -> None:
        """End the thread and its socket."""
        with self._lock:
            if self._stop:
                return
            self._stop = True
            os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _main(self) -> None:
        link = dealer(self._context, self._curve)
        watch = Watch(link)
        try:
            link.connect(self.endpoint)
        except zmq.ZMQError as error:
            self._lose(SessionLost(f"{self.endpoint} is no endpoint: {error}"))
        poller = zmq.Poller()
        poller.register(link, zmq.POLLIN)
        poller.register(watch.socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        heard = due = time.monotonic()
        while not self._stop:
            poller.poll(None if not self.session else max(1, int((due - time.monotonic()) * 1000)))
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with contextlib.suppress(zmq.Again):  # nobody to send to: the watch below says why
                while self._queue:
                    seq, data, future = self._queue[0]
                    link.send(data, zmq.NOBLOCK)  # otherwise a peer that has refused us would be waited for for ever
                    self._waiting[seq] = future
                    self._queue.popleft()
            with contextlib.suppress(zmq.Again):
                while True:
                    self._receive(link.recv(zmq.NOBLOCK))
                    heard = time.monotonic()
            if self.lost is None and watch.gone():
                poller.unregister(watch.socket)
                how = "is gone"
                if watch.refused:  # before the handshake was over
                    how = "takes no more connections" if self._curve is None else "does not know these CURVE keys"
                if self.closing:
                    how = "has shut down"
                self._lose(SessionLost(f"the daemon at {self.endpoint} {how}"))
            now = time.monotonic()
            if self.session and now >= due:
                due = now + self._interval
                if now - heard > 3 * self._interval:
                    self._lose(SessionLost(f"the daemon at {self.endpoint} is silent"))
                with contextlib.suppress(zmq.Again):
                    link.send(codec.encode(schema.Ping(seq=0, session=self.session)), zmq.NOBLOCK)
        watch.close()
        link.close()
        for future in [*self._waiting.values(), *(entry[2] for entry in self._queue)]:
            future.set_exception(SessionLost("the connection is closed"))

    def _receive(self, data: bytes) -> None:
        try:
            message = codec.decode(data, schema.MAX_CONTROL)
        except ProtocolError as error:
            self._lose(SessionLost(f"the daemon does not speak this protocol: {error}"))
            return
        seq = getattr(message, "seq", 0)
        if seq in self._waiting:
            self._waiting.pop(seq).set_result(message)
        elif isinstance(message, Error) and message.error is ErrorClass.SHUTTING_DOWN:
            self.closing = True  # a run under way still ends with its done
        elif isinstance(message, Error) and message.error in _ENDS and message.session in (0, self.session):
            self._lose(SessionLost(str(Refused(message))))

    def _lose(self, error: ShimError) -> None:
        with self._lock:
            if self.lost is not None:
                return
            self.lost = error
        for future in [*self._waiting.values(), *(entry[2] for entry in self._queue)]:
            future.set_exception(error)
        self._waiting.clear()
        self._queue.clear()
        for call in self._on_loss:
            call()
