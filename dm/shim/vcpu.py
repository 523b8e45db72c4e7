"""A vCPU on the shim's side: its exchanges with the daemon, kicks, and reconnecting."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import zmq

from dm.keys import Curve
from dm.machine import groups
from dm.machine.state import State, checked
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import (
    Done,
    Emulate,
    Error,
    ErrorClass,
    Event,
    Groups,
    Io,
    IoAnswer,
    IoKind,
    Kick,
    Message,
    Reason,
    Stop,
    Until,
)
from dm.shim.answer import Answer, OnIo, OnPages, OnPosted, no_devices
from dm.shim.copies import Copy
from dm.shim.dealer import Watch, dealer
from dm.shim.errors import BadState, Refused, RunLost, SessionLost, ShimError
from dm.shim.link import Linked, link

#: Milliseconds, so long that ZeroMQ never reconnects: a new connection is a new epoch, which needs a new socket.  Its
#: own value for that, -1, drops what has arrived unread when the daemon closes (libzmq terminates the endpoint's pipe).
_NO_RECONNECT: Final = 1 << 29

#: How long to wait for a run whose session is lost while its own socket is not, in seconds: a worker whose supervisor
#: has died returns every state first.
_GRACE: Final = 5.0
#: How long to wait for an interrupted run, in seconds; a healthy daemon ends it at once.
_GOODBYE: Final = 2.0

#: An answer of data alone.
_NOTHING_MORE: Final = Answer()


class Session(Protocol):
    """What a vCPU needs of its session (:class:`dm.shim.client.Shim`)."""

    context: zmq.Context[zmq.Socket[bytes]]
    curve: Curve | None
    generation: int
    applied: int

    @property
    def session(self) -> int:
        """The session's number."""
        ...

    @property
    def secret(self) -> bytes:
        """The secret that a new socket must show; empty with a daemon that has none."""
        ...

    @property
    def lost(self) -> ShimError | None:
        """Why the session cannot be used any more, None while it can."""
        ...

    @property
    def closing(self) -> bool:
        """Whether the daemon is shutting down: runs end, new ones are refused."""
        ...

    def changed(self) -> list[schema.PageRange]:
        """Return the pages carried in messages that have changed here since the daemon got them; they count as told."""
        ...

    def read_pages(self, io: Io) -> Answer:
        """Answer a ``memory-read``."""
        ...

    def apply(self, patches: Sequence[schema.Patch], version: int) -> None:
        """Apply what the guest has changed in RAM carried in messages."""
        ...


class _Raised(Exception):
    """A callback has raised ``error`` in the middle of a run."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class StateError(ProtocolError, ValueError):
    """A value of a state does not fit its field; the text says which."""


def _checked(state: State) -> Groups:
    """Return all groups of a state; raises StateError."""
    try:
        return checked(state)
    except ValueError as error:
        raise StateError(ErrorClass.BAD_STATE, str(error)) from None


@dataclass(slots=True)
class Stats:
    """What a vCPU has done, counted on this side; without reconnects the daemon's counters say the same."""

    requests: int = 0
    io: int = 0
    instructions: int = 0
    steps: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def __add__(self, other: Stats) -> Stats:
        return Stats(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class Vcpu:
    """One vCPU.  ``stats`` counts what it has done."""

    def __init__(self, shim: Session, create: schema.VcpuCreate, endpoint: str) -> None:
        """Made by :meth:`dm.shim.client.Shim.create_vcpu`."""
        self.number, self.create, self.endpoint = create.vcpu, create, endpoint
        self.stats = Stats()
        self._shim = shim
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._socket: zmq.Socket[bytes] | None = None
        self._watch: Watch
        self._give_up_at = 0.0
        self._wait_until = math.inf  # for the daemon in any case
        self._unheard = False
        self._link: Linked
        self._epoch = 0
        self._is_known = False  # a run on this socket has been answered: the daemon has seen the secret
        self._seq = 0
        self._base = 0
        self._known: Groups = {}
        # Made once: making them takes longer than the rest of an exchange here.
        self._emulate = Emulate(session=0, vcpu=create.vcpu, epoch=0, seq=0, generation=0, state={})
        self._answer = IoAnswer(session=0, vcpu=create.vcpu, epoch=0, seq=0, io=0)
        self._request: Emulate | None = None  # that of the run under way
        self._answered = 0  # number of its last question that has been answered, with _answer
        self._kicks: deque[tuple[Stop, bool | None]] = deque()
        self._waits = False  # the daemon has been told that an interrupt is pending
        self._copy: Copy | None = None  # the current one, if it is made of single accesses
        self._renewed: tuple[str, bool] | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------ any thread

    def kick(self, stop: Stop = Stop.KICK, window: bool | None = None) -> None:
        """End the current run soon, or with ``stop`` none only tell whether an interrupt is pending.

        Without a current run the next one is kicked.
        """
        self._kicks.append((stop, window))
        self.wake()

    def wake(self) -> None:
        """Wake a waiting :meth:`run` so that it notices what has changed."""
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def renew(self, endpoint: str, *, same: bool) -> None:
        """Use a new socket and epoch from now on; ``same`` False: with a daemon that knows of no earlier run."""
        self._renewed = endpoint, same and (self._renewed is None or self._renewed[1])
        self.wake()

    # ------------------------------------------------------------------------------------------ its own thread

    def run(
        self,
        state: State,
        *,
        until: Until | str = Until.NEVER,
        steps: int | None = None,
        microseconds: int | None = None,
        reason: Reason | str = Reason.REQUEST,
        on_io: OnIo = no_devices,
        on_copy: OnIo | None = None,
        on_posted: OnPosted | None = None,
        on_pages: OnPages | None = None,
        window: bool = False,
        acknowledge: bool = False,
        inject: Event | None = None,
        code: bytes = b"",
        mmio: int | None = None,
        explain: bool = False,
        checkpoint: bool = False,
        stop_at: int | None = None,
    ) -> Done:
        """Run guest code from ``state``, which is brought up to date, and return how it ended.

        Arguments are the fields of ``emulate`` (see the protocol's text).  Questions go to ``on_io``, coalesced writes
        one by one and in order to ``on_posted``, numbers of written pages to ``on_pages``, all on this thread.  A copy
        from device to device goes to ``on_copy`` as it is, or without that to ``on_io`` as single reads and writes, in
        order and up to the first answer that ends the run, changes the map or says that an interrupt is pending.  If
        one of these raises, its question is answered as by an empty bus, the run ends after the current instruction,
        and the state is still brought up to date.

        Raises:
            Refused: the daemon refused the request; nothing has run.
            RunLost: the run was lost in the middle.
            SessionLost: the session is gone; no run was under way.
            ValueError: a value of the state does not fit, with the field's name and width; nothing has run.  Where the
                daemon has seen it, it is Refused as well, else ProtocolError.
            ProtocolError: an argument does not fit; nothing has run.
        """
        if self._closed:
            raise SessionLost(f"vCPU {self.number} is closed")
        if self._renewed is not None or self._socket is None:
            self._renew_if_asked()
        shim = self._shim
        if shim.closing:
            raise SessionLost("the daemon is shutting down")
        if shim.lost is not None:
            raise shim.lost
        self._give_up_at, self._unheard = 0.0, False
        self._copy, self._waits = None, window
        if self._link.news() and self._watch.gone():
            raise SessionLost(f"vCPU {self.number}'s thread in the daemon is gone")
        if not self._base:
            self._known = {}
        request = self._emulate
        request.state = delta = groups.delta(state, self._known)
        request.session, request.generation, request.base = shim.session, shim.generation, self._base
        request.reason = reason if reason.__class__ is Reason else Reason(reason)
        request.until = until if until.__class__ is Until else Until(until)
        request.steps, request.microseconds = steps, microseconds
        request.window, request.acknowledge, request.inject = window, acknowledge, inject
        request.code, request.mmio, request.explain, request.checkpoint = code, mmio, explain, checkpoint
        request.stop_at = stop_at
        request.changed, request.applied = shim.changed(), shim.applied
        request.secret = b"" if self._is_known else shim.secret
        self._seq += 1
        request.seq, self._answered = self._seq, 0
        self._request = request
        try:
            self.stats.requests += 1
            try:
                message = self._call(request)
            except ProtocolError:  # perhaps the state is at fault, or holds names instead of numbers
                whole = _checked(state)
                request.state = delta = {name: whole[name] for name in delta}
                message = self._call(request)
            done = self._converse(request, message, on_io, on_posted, on_pages, on_copy)
            self._take(state, delta, done)
        except Refused:
            self._base = 0
            raise
        except ProtocolError:  # an argument does not fit: nothing has been sent
            self.stats.requests -= 1
            raise
        except ShimError:
            raise
        except _Raised as raised:
            self._give_up(state, delta)
            raise raised.error from None
        except BaseException:  # Ctrl-C may have lost a message: repeating the request brings it again
            self._send(request)
            self._wait_until = time.monotonic() + _GOODBYE
            self._give_up(state, delta)
            raise
        finally:
            self._request, self._wait_until = None, math.inf
        self._deliver(done, on_posted, on_pages)
        return done

    def _take(self, state: State, delta: Groups, done: Done) -> None:
        """Bring the state up to date at the end of a run that began with ``delta``."""
        groups.update(state, done.state)
        self._base, self._is_known = done.seq, True
        self._known |= delta
        self._known |= done.state
        self.stats.instructions += done.instructions
        self.stats.steps += done.steps

    def _give_up(self, state: State, delta: Groups) -> None:
        """End a run in which a callback has raised; its question has been answered."""
        assert self._request is not None
        self._kicks.append((Stop.KICK, None))
        try:
            done = self._converse(self._request, None, no_devices, None, None)
        except ShimError:  # lost as well; the first exception says more
            self._base = 0
            return
        self._kicks.clear()
        self._take(state, delta, done)
        self._deliver(done, None, None)

    def _converse(
        self,
        request: Emulate,
        message: Message | None,
        on_io: OnIo,
        on_posted: OnPosted | None,
        on_pages: OnPages | None,
        on_copy: OnIo | None = None,
    ) -> Done:
        """Answer questions until the run is over; ``message`` is the first message, if it has arrived already."""
        question: Io | None = None
        while True:
            if message is None:
                message = self._receive()
            following: Message | None = None
            match message:
                case Done(seq=request.seq):
                    return message
                case Io(seq=request.seq) if message.io <= self._answered:
                    if message.io == self._answered:  # our answer was lost: repeat it, touch no device
                        self._send(self._answer)
                case Io(seq=request.seq):
                    self.stats.io += 1
                    question = message
                    try:
                        self._deliver(message, on_posted, on_pages)
                        if message.kind is IoKind.REPORT:
                            given: Answer | bytes | None = None
                        elif message.kind is IoKind.MEMORY_READ:
                            given = self._shim.read_pages(message)
                        elif message.kind is IoKind.MEMORY_COPY:
                            given = self._copy_singly(message, on_io) if on_copy is None else on_copy(message)
                        else:
                            given = on_io(message)
                        answer = self._answer_to(message, given)
                    except BaseException as error:
                        self._send(self._last_answer_to(message))
                        raise _Raised(error) from None
                    try:
                        following = self._call(answer)
                    except ProtocolError as error:  # what the callback gave cannot be encoded
                        self._send(self._last_answer_to(message))
                        raise _Raised(error) from None
                case Error(seq=request.seq) | Error(seq=0):
                    if message.error is ErrorClass.UNKNOWN_BASE:  # the daemon has forgotten the state: send it in full
                        request.base, request.state = 0, self._known | request.state
                        self._send(request)
                    elif message.error in (ErrorClass.ABORTED, ErrorClass.INTERNAL):
                        self._base = 0
                        raise RunLost(str(Refused(message)))
                    elif message.error is ErrorClass.SHUTTING_DOWN:
                        raise SessionLost("the daemon is shutting down")
                    elif message.error is ErrorClass.BAD_ANSWER and question is not None:  # it is still open
                        self._send(self._last_answer_to(question))
                        raise _Raised(Refused(message))
                    else:
                        raise BadState(message) if message.error is ErrorClass.BAD_STATE else Refused(message)
            message = following

    def _copy_singly(self, io: Io, on_io: OnIo) -> Answer:
        self._copy = Copy(io)
        whole = self._copy.carry_out(on_io, self._waits)
        self._copy = None
        return whole

    def _deliver(self, message: Io | Done, on_posted: OnPosted | None, on_pages: OnPages | None) -> None:
        if message.version:
            self._shim.apply(message.patches, message.version)
        if on_posted is not None:
            for post in message.posted:
                for at in range(0, len(post.data), post.size or 1):
                    on_posted(post.gpa + at, post.data[at : at + (post.size or 1)])
        if on_pages is not None and message.pages:
            on_pages(message.pages)

    def _answer_to(self, io: Io, given: Answer | bytes | None) -> IoAnswer:
        """Return the answer to a question, and record it as given."""
        more = given if isinstance(given, Answer) else _NOTHING_MORE
        answer = self._answer
        answer.session, answer.seq, answer.io = io.session, io.seq, io.io
        answer.data = (given or b"") if given is not more else more.data  # type: ignore[assignment]
        answer.fault, answer.map, answer.window, answer.stop = more.fault, more.map, more.window, more.stop
        answer.registers, answer.copied, answer.native = list(more.registers), more.copied, more.native
        answer.changed = self._shim.changed()
        answer.applied = self._shim.applied if more.applied is None else more.applied
        self._answered = io.io
        if more.window is not None or io.kind is IoKind.INTERRUPT_ACK:
            self._waits = bool(more.window)
        return answer

    def _last_answer_to(self, io: Io) -> IoAnswer:
        """Return the answer to a question whose callback has raised: an empty bus, and the run ends."""
        copied = None if self._copy is None else self._copy.copied
        self._copy = None
        return self._answer_to(io, replace(no_devices(io), stop=Stop.KICK, copied=copied))

    def _call(self, message: Emulate | IoAnswer) -> Message | None:
        """Send a message and return the next one, or None if something else has to be handled first."""
        if not (self._kicks or self._watch.seen or self._renewed is not None or self._shim.lost is not None):
            message.epoch = self._epoch
            said = self._link.call(message)
            if said is not None:
                following, sent, received = said
                self.stats.bytes_sent += sent
                self.stats.bytes_received += received
                return self._decode(following) if isinstance(following, bytes) else following
        self._send(message)
        return None

    def _send(self, message: Emulate | IoAnswer | Kick) -> None:
        message.epoch = self._epoch
        data = codec.encode(message)
        if self._link.send(data):  # otherwise nobody is there to receive it; it is sent again after a reconnect
            self.stats.bytes_sent += len(data)

    def _receive(self) -> Message:
        """Return the next message; carry out kicks and reconnects meanwhile."""
        while True:
            if self._renewed is not None:  # before anything that the old socket may still hold
                self._renew_if_asked()
            if self._kicks:
                self._pass_kicks()
            data = self._link.receive(self._patience())
            if data is None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                self._watch.gone()
                continue
            self.stats.bytes_received += len(data)
            return self._decode(data)

    def _decode(self, data: bytes) -> Message:
        try:
            return codec.decode(data)
        except ProtocolError as error:
            raise RunLost(f"the daemon does not speak this protocol: {error}") from None

    def _patience(self) -> int | None:
        """Return how long to wait for the daemon, in milliseconds; None while all is well.

        Raises:
            RunLost: the session is lost, and this vCPU's thread in the daemon with it; or nobody answers at all.
        """
        lost = self._shim.lost
        if (lost is None and not self._watch.seen) or self._renewed is not None:
            if self._wait_until == math.inf:
                return None
            if (left := self._wait_until - time.monotonic()) <= 0:
                raise RunLost("the daemon does not answer")
            return int(left * 1000) + 1
        now = time.monotonic()
        self._give_up_at = self._give_up_at or now + _GRACE
        if (lost is not None and self._unheard) or now >= self._give_up_at:
            raise RunLost(f"a run was lost in the middle: {lost or 'its connection is gone'}")
        self._unheard = self._watch.gone()  # there may be a last message
        return 0 if self._unheard and lost is not None else int((self._give_up_at - now) * 1000) + 1

    def _pass_kicks(self) -> None:
        while self._kicks and self._request is not None:
            stop, window = self._kicks.popleft()
            self._waits = self._waits if window is None else window
            self._send(
                Kick(
                    session=self._request.session,
                    vcpu=self.number,
                    epoch=self._epoch,
                    seq=self._request.seq,
                    stop=stop,
                    window=window,
                    changed=self._shim.changed(),
                )
            )

    def _renew_if_asked(self) -> None:
        """Open the socket the first time; after a reconnect use a new one and send an unanswered request again."""
        renewed, self._renewed = self._renewed, None
        if renewed is None and self._socket is not None:
            return
        if renewed is not None:
            self.endpoint = renewed[0]
        self._drop_socket()
        self._socket = dealer(self._shim.context, self._shim.curve)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _NO_RECONNECT)
        self._watch = Watch(self._socket)
        self._give_up_at, self._unheard = 0.0, False
        try:
            self._socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            self._watch.close()
            self._socket.close(linger=0)
            self._socket = None
            raise SessionLost(f"the daemon named {self.endpoint} for vCPU {self.number}: {error}") from None
        self._link = link(self._socket, self._wake, self._watch.descriptor)
        self._epoch += 1
        self._is_known = False
        if renewed is not None and not renewed[1]:
            self._base = 0
            if self._request is not None:
                raise RunLost("a run was lost in the middle: the daemon is another one")
        elif self._request is not None:
            self._request.secret = self._shim.secret
            self._send(self._request)

    def _drop_socket(self) -> None:
        if self._socket is not None:
            del self._link
            self._watch.close()
            self._socket.close(linger=0)
            self._socket = None

    def close(self) -> None:
        """Give up the socket; called by :meth:`dm.shim.client.Shim.close` when no run is under way."""
        if not self._closed:
            self._closed = True
            self._drop_socket()
            os.close(self._wake)
