"""The client library: what a hypervisor's shim does, in Python.

::

    with Shim.connect("ipc:///run/x86-dm.sock", name="vm1") as shim:
        ram = Ram(1 << 20)
        block = shim.add_ram(ram)
        shim.set_map([Region(0, ram.size, Kind.RAM, block)])
        vcpu = shim.create_vcpu(0)
        done = vcpu.run(state, on_io=devices)       # state is brought up to date

A :class:`Shim` may be used from several threads.  A :class:`Vcpu` belongs to the thread that first runs it, since a
ZeroMQ socket never changes thread; only :meth:`Vcpu.kick` may be called from elsewhere.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import zmq

from dm.keys import Curve
from dm.machine.groups import changed, update
from dm.machine.state import State
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import (
    Cpuid,
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
    Region,
    Stop,
    UntilWord,
)
from dm.shim.link import Linked, link
from dm.shim.pages import PAGE, Kept
from dm.shim.ram import Ram

_M64: Final = (1 << 64) - 1
_M = TypeVar("_M", bound=Message)

#: How long a control request may take, in seconds; the first hello starts a worker.
_TIMEOUT: Final = 30.0


#: Milliseconds: a new connection is a new epoch, so a new socket; ZeroMQ shall not reconnect.  Its own word for that,
#: -1, throws away what has arrived but was not read when the daemon closes (libzmq terminates the endpoint's pipe).
_NO_RECONNECT: Final = 1 << 29

_NOBLOCK: Final = int(zmq.NOBLOCK)
#: What a socket's monitor says when two sides do not agree on who they are.
_NOT_AGREED: Final = int(
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

#: How long a run is waited for whose session is lost while its own socket is not, in seconds: a worker whose
#: supervisor has died gives every state back first.
_GRACE: Final = 5.0
#: Pause between two attempts to find a successor of the daemon, in seconds.
_PAUSE: Final = 0.05

#: Errors on the control socket that concern the session as a whole.
_ENDS: Final = frozenset({ErrorClass.SESSION_LOST, ErrorClass.UNKNOWN_SESSION, ErrorClass.STALE_EPOCH})


class ShimError(Exception):
    """The daemon cannot be used; the text says why."""


class Refused(ShimError):
    """The daemon refused a request.  ``error`` is its message: class, text, what would be right, field."""

    def __init__(self, error: Error) -> None:
        text = f"{error.error}: {error.text}"
        super().__init__(f"{text}; expected {error.expected}" if error.expected else text)
        self.error = error


class SessionLost(ShimError):
    """The daemon or the session is gone; :meth:`Shim.reconnect` may help."""


class _Raised(Exception):
    """A callback has raised ``error`` in the middle of a run."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class RunLost(SessionLost):
    """A run was lost in the middle: memory may have changed, the registers are unknown.  The VM must stop."""


@dataclass(slots=True)
class Answer:
    """Answer to a question.

    ``data`` are the bytes read.  ``fault`` raises #GP(0) (MSRs only).  ``map`` is a new memory map, already numbered by
    :meth:`Shim.next_map`.  ``window`` says whether an external interrupt waits.  ``stop`` ends the run after this
    instruction.  ``registers`` are those of a state port after the access, as the question's; empty: none changed.
    ``copied`` says how many elements of a copy have been copied, at least one; None: all.
    """

    data: bytes = b""
    fault: bool = False
    map: schema.Map | None = None
    window: bool | None = None
    stop: Stop = Stop.NONE
    registers: Sequence[int] = ()
    copied: int | None = None
    applied: int | None = None  # of memory by messages, set by the library


#: An answer of data alone.
_NOTHING_MORE: Final = Answer()
#: Called with each question but reports; returns the answer, or just the bytes read (None: none).
OnIo: TypeAlias = Callable[[Io], Answer | bytes | None]
#: Called with each coalesced write in order: guest-physical address, bytes.
OnPosted: TypeAlias = Callable[[int, bytes], None]
#: Called with page numbers (gpa >> 12) the guest has written.
OnPages: TypeAlias = Callable[[list[int]], None]


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


def _dealer(context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None) -> zmq.Socket[bytes]:
    """Return a new socket for one of the daemon's endpoints."""
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    if curve is not None:
        made.setsockopt(zmq.CURVE_SERVERKEY, curve.server)
        made.setsockopt(zmq.CURVE_PUBLICKEY, curve.own.public)
        made.setsockopt(zmq.CURVE_SECRETKEY, curve.own.secret)
        made.setsockopt(zmq.IPV6, 1)
    return made


class _Watch:
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
        if not self.seen and self.socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
            self.seen = True
            event, _ = self.socket.recv_multipart(_NOBLOCK)
            self.refused = bool(int.from_bytes(event[:2], sys.byteorder) & _NOT_AGREED)
        return self.seen

    def close(self) -> None:
        """End the watch; before the socket is closed."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)


def _no_devices(io: Io) -> Answer:
    """Answer as an empty bus: all ones; MSRs fault."""
    if io.kind in (IoKind.MSR_READ, IoKind.MSR_WRITE):
        return Answer(fault=True)
    return Answer(b"\xff" * (io.size * io.count) if io.kind in (IoKind.PORT_IN, IoKind.MMIO_READ) else b"")


def _single(io: Io, kind: IoKind, address: int, data: bytes = b"") -> Io:
    """Return one access of a copy as a question of its own."""
    return Io(
        session=io.session,
        vcpu=io.vcpu,
        epoch=io.epoch,
        seq=io.seq,
        io=io.io,
        kind=kind,
        address=address & _M64,
        size=io.size,
        data=data,
        instructions=io.instructions,
        steps=io.steps,
        checkpoint=io.checkpoint,
    )


def _ask(io: Io, on_io: OnIo) -> Answer:
    """Return the answer to one access of a copy.

    Raises:
        Refused: it does not fit, as the daemon would have said.
    """
    given = on_io(io)
    answer = given if isinstance(given, Answer) else Answer(given or b"")
    wanted = io.size if io.kind is IoKind.MMIO_READ else 0
    if len(answer.data) != wanted or answer.fault:
        text = f"fault answers {io.kind}" if answer.fault else f"data has {len(answer.data)} bytes"
        field = "fault" if answer.fault else "data"
        expected = "only for MSRs" if answer.fault else f"{wanted} for {io.kind} of 1 x {io.size}"
        raise Refused(Error(error=ErrorClass.BAD_ANSWER, text=text, expected=expected, field=field, seq=io.seq))
    return answer


class _Control:
    """The control socket and the thread that owns it: requests, answers, heartbeats."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, curve: Curve | None) -> None:
        self.endpoint = endpoint
        self._curve = curve
        self.lost: ShimError | None = None
        self.closing = False
        self.session = 0
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

    def request(self, message: Message, kind: type[_M], timeout: float = _TIMEOUT) -> _M:
        """Send a request (its ``seq`` is filled in) and return its answer.

        Raises:
            Refused: the daemon refused it.
            SessionLost: no answer came, the session is gone, or the daemon is shutting down.
        """
        future: Future[Message] = Future()
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
            raise SessionLost(f"no daemon answers at {self.endpoint} within {timeout:g} s; is it running?") from None
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
        link = _dealer(self._context, self._curve)
        watch = _Watch(link)
        link.connect(self.endpoint)
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
                    link.send(data, zmq.NOBLOCK)  # a peer that has refused us would be waited for without end
                    self._waiting[seq] = future
                    self._queue.popleft()
            with contextlib.suppress(zmq.Again):
                while True:
                    self._receive(link.recv(zmq.NOBLOCK))
                    heard = time.monotonic()
            if self.lost is None and watch.gone():
                poller.unregister(watch.socket)
                how = "does not know these CURVE keys" if watch.refused else "is gone"
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


class Shim:
    """A session with a daemon.  ``welcome`` is what the daemon said: version, features, limits, engine."""

    welcome: schema.Welcome

    def __init__(
        self,
        endpoint: str,
        name: str = "",
        features: Sequence[str] = tuple(schema.FEATURES),
        curve: Curve | None = None,
    ) -> None:
        """Use :meth:`connect`."""
        self.endpoint = endpoint
        self.curve = curve
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.generation = 0
        self.vcpus: dict[int, Vcpu] = {}
        self._name, self._features = name, list(features)
        self._epoch = 0
        self._whole = True  # whether the session has all its RAM, map and vCPUs
        self._blocks: dict[int, Ram | Kept | tuple[str, int]] = {}
        self._by_messages = False  # whether there ever was a Kept among them
        self._state_ports: list[schema.PortRange] = []
        self._pages_lock = threading.Lock()  # patches and pages of all vCPUs
        #: Version up to which, without gaps, changes of the guest to memory by messages have been applied.
        self.applied = 0
        self._ahead: set[int] = set()  # versions applied above a gap
        self._map: schema.Map | None = None
        self._control: _Control

    @classmethod
    def connect(
        cls,
        endpoint: str,
        name: str = "",
        features: Sequence[str] = tuple(schema.FEATURES),
        timeout: float = _TIMEOUT,
        curve: Curve | None = None,
    ) -> Shim:
        """Open a session at a daemon's control endpoint; ``name`` is the VM's, for logs, ``curve`` the keys for tcp.

        Raises:
            Refused: the daemon does not want it.
            SessionLost: no daemon answers within ``timeout`` seconds, or it does not know the keys.
            ShimError: tcp without keys.
        """
        if curve is None and endpoint.startswith("tcp:"):
            raise ShimError(f"{endpoint}: tcp needs CURVE keys, and none are given")
        shim = cls(endpoint, name, features, curve)
        try:
            shim._hello(0, timeout)
        except BaseException:
            shim.close(bye=False)
            raise
        return shim

    @property
    def session(self) -> int:
        """The session's number."""
        return self.welcome.session

    @property
    def lost(self) -> ShimError | None:
        """Why the session cannot be used any more, None while it can."""
        return self._control.lost

    @property
    def closing(self) -> bool:
        """Whether the daemon is shutting down: runs end, new ones are refused."""
        return self._control.closing

    def _hello(self, resume: int, timeout: float) -> None:
        self._epoch += 1
        self._control = control = _Control(self.context, self.endpoint, self.curve)
        control.on_loss(self._wake_all)
        hello = schema.Hello(
            seq=0,
            min_version=schema.OLDEST,
            max_version=schema.VERSION,
            features=self._features,
            name=self._name,
            resume=resume,
            epoch=self._epoch,
        )
        self.welcome = control.request(hello, schema.Welcome, timeout)
        control.keep_alive(self.welcome.session, self.welcome.timeout_ms / 1000)

    def _wake_all(self) -> None:
        for vcpu in list(self.vcpus.values()):
            vcpu.wake()

    def request(self, message: Message, kind: type[_M] = schema.Ok) -> _M:  # type: ignore[assignment]
        """Send a control request and return its answer; ``seq`` and ``session`` are filled in.

        Raises:
            Refused: the daemon refused it.
            SessionLost: the session is gone.
        """
        if self.lost is not None:
            raise self.lost
        message.session = self.session  # type: ignore[attr-defined]
        return self._control.request(message, kind)

    # ------------------------------------------------------------------------------------------ memory

    def add_ram(self, ram: Ram) -> int:
        """Share a block of RAM by its descriptor; returns the number that regions name it by."""
        number = self._new_block()
        self._share(number, ram)
        self._blocks[number] = ram
        return number

    def add_ram_file(self, path: str, size: int) -> int:
        """Share RAM that is a file below the daemon's memory path; returns the block's number."""
        number = self._new_block()
        self.request(schema.Ram(seq=0, session=0, ram=number, size=size, path=path))
        self._blocks[number] = (path, size)
        return number

    def add_ram_by_messages(self, view: mmap.mmap | bytearray) -> int:
        """Use RAM that the daemon cannot map; returns the block's number.

        Its pages are sent when the guest touches them and what it writes comes back with each exchange.  Changes made
        on this side are noticed when a run begins and with each answer; :meth:`Vcpu.kick` makes a run see them sooner.
        """
        number, kept = self._new_block(), Kept(view)
        self._keep(number, kept)
        self._blocks[number], self._by_messages = kept, True
        return number

    def _keep(self, number: int, kept: Kept) -> None:
        if "ram-messages" not in self.welcome.features:
            raise ShimError("this daemon knows no memory by messages; share RAM by descriptor or by path instead")
        kept.forget()
        self.request(schema.Ram(seq=0, session=0, ram=number, size=len(kept), messages=True))

    def read_pages(self, io: Io) -> Answer:
        """Answer a ``memory-read``."""
        with self._pages_lock:
            applied = self.applied
            return Answer(self.kept(io.ram).read(io.address, io.size * io.count), applied=applied)

    def apply(self, patches: Sequence[schema.Patch], version: int) -> None:
        """Apply what the guest has changed in memory by messages."""
        with self._pages_lock:
            for patch in patches:
                self.kept(patch.ram).patch(patch.offset, patch.data, version)
            self._ahead.add(version)
            while self.applied + 1 in self._ahead:
                self.applied += 1
                self._ahead.discard(self.applied)

    def kept(self, number: int) -> Kept:
        """Return a block by messages; ShimError when it is none."""
        block = self._blocks.get(number)
        if not isinstance(block, Kept):
            raise ShimError(f"the daemon asks for RAM block {number}, which is none by messages")
        return block

    def changed(self) -> list[schema.PageRange]:
        """Return the pages by messages that have changed here since the daemon got them; it is taken to be told."""
        if not self._by_messages:
            return []
        blocks = [(number, block) for number, block in self._blocks.items() if isinstance(block, Kept)]
        with self._pages_lock:
            return self._changed(blocks)

    def _changed(self, blocks: list[tuple[int, Kept]]) -> list[schema.PageRange]:
        found = [pages for number, block in blocks for pages in block.changed(number)]
        if len(found) > schema.MAX_PATCHES:
            found = [schema.PageRange(number, 0, len(block) // PAGE) for number, block in blocks]
            for _, block in blocks:
                block.forget()
        return found

    def set_state_ports(self, *ports: int | range) -> None:
        """Say which ports' devices read and change CPU registers (VMware's backdoor); replaces what was said before.

        Questions about them carry ``registers``, and so may their answers.
        """
        if "state-ports" not in self.welcome.features:
            raise ShimError("this daemon knows no state ports")
        self._state_ports = [
            schema.PortRange(port, port) if isinstance(port, int) else schema.PortRange(port.start, port.stop - 1)
            for port in ports
        ]
        self.request(schema.StatePorts(seq=0, session=0, ports=self._state_ports))

    def remove_ram(self, number: int) -> None:
        """Take back a block that the map no longer uses."""
        self.request(schema.RamRemove(seq=0, session=0, ram=number))
        self._blocks.pop(number, None)

    def _new_block(self) -> int:
        return max(self._blocks, default=0) + 1

    def _share(self, number: int, ram: Ram) -> None:
        """Send a descriptor over the RAM socket (ZeroMQ cannot pass any)."""
        if not self.welcome.ram_socket:
            raise ShimError("this daemon takes no descriptors; share files below its memory path instead")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as side:
            side.settimeout(_TIMEOUT)
            try:
                side.connect(self.welcome.ram_socket)
                message = schema.Ram(seq=1, session=self.session, ram=number, size=ram.size)
                socket.send_fds(side, [codec.encode(message)], [ram.fd])
                answer = codec.decode(side.recv(schema.MAX_CONTROL), schema.MAX_CONTROL)
            except (OSError, ProtocolError) as error:
                raise SessionLost(f"the RAM socket does not answer: {error}") from None
        if isinstance(answer, Error):
            raise Refused(answer)

    def next_map(self, regions: Sequence[Region], a20: bool = True) -> schema.Map:
        """Return a map with the next generation, to go with an :class:`Answer`; it counts as sent."""
        self.generation += 1
        self._map = schema.Map(self.generation, list(regions), a20)
        return self._map

    def set_map(self, regions: Sequence[Region], a20: bool = True) -> int:
        """Replace the memory map; returns its generation."""
        new = schema.Map(self.generation + 1, list(regions), a20)
        self.request(schema.MemoryMap(seq=0, session=0, map=new))
        self.generation, self._map = new.generation, new
        return new.generation

    # ------------------------------------------------------------------------------------------ vCPUs and life

    def create_vcpu(self, number: int, cpuid: Sequence[Cpuid] = (), model: str = "p6") -> Vcpu:
        """Create a vCPU; ``cpuid`` empty means the model's own table."""
        create = schema.VcpuCreate(seq=0, session=0, vcpu=number, model=model, cpuid=list(cpuid))
        ready = self.request(create, schema.VcpuReady)
        vcpu = self.vcpus[number] = Vcpu(self, create, ready.endpoint)
        return vcpu

    def destroy_vcpu(self, number: int) -> None:
        """Destroy a vCPU; its run, if any, is given up."""
        self.request(schema.VcpuDestroy(seq=0, session=0, vcpu=number))
        self.vcpus.pop(number).close()

    def counters(self) -> schema.Counters:
        """Return the daemon's counters of this session."""
        return self.request(schema.Query(seq=0, session=0), schema.Counters)

    def stats(self) -> Stats:
        """Return this side's counters, summed over the vCPUs."""
        return sum((vcpu.stats for vcpu in self.vcpus.values()), Stats())

    def reconnect(self, timeout: float = _TIMEOUT) -> bool:
        """Take the session up again with new sockets and a new epoch.

        A run under way goes on: its request is sent again and answered from the daemon's record.  Where the daemon
        does not know the session any more (it is another one), a new session gets the same RAM, map and vCPUs; a run
        that was under way is then lost and raises :class:`RunLost`.  A daemon that is not there yet is waited for.

        Returns:
            Whether the session is still the old one.

        Raises:
            SessionLost: no daemon answers within ``timeout`` seconds.
            Refused: the daemon does not want it.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._control.close()
            try:
                return self._resume(max(_PAUSE, deadline - time.monotonic()))
            except SessionLost:  # this daemon goes too, or has not gone yet: its successor is waited for
                if time.monotonic() + _PAUSE >= deadline:
                    raise
            time.sleep(_PAUSE)

    def _resume(self, timeout: float) -> bool:
        """Make one attempt of :meth:`reconnect`."""
        if self._whole:
            try:
                self._hello(self.session, timeout)
            except Refused as refused:
                if refused.error.error is not ErrorClass.UNKNOWN_SESSION:
                    raise
                self._control.close()
            else:
                for vcpu in self.vcpus.values():
                    vcpu.renew(vcpu.endpoint, same=True)
                return True
        self._whole = False
        self._hello(0, timeout)
        self._rebuild()
        self._whole = True
        return False

    def _rebuild(self) -> None:
        """Give a new session all that the old one had."""
        self.applied = 0
        self._ahead.clear()
        for number, block in self._blocks.items():
            if isinstance(block, Ram):
                self._share(number, block)
            elif isinstance(block, Kept):
                self._keep(number, block)
            else:
                self.request(schema.Ram(seq=0, session=0, ram=number, path=block[0], size=block[1]))
        if self._map is not None:
            self.request(schema.MemoryMap(seq=0, session=0, map=self._map))
        if self._state_ports:
            self.request(schema.StatePorts(seq=0, session=0, ports=self._state_ports))
        for vcpu in self.vcpus.values():
            vcpu.renew(self.request(vcpu.create, schema.VcpuReady).endpoint, same=False)

    def close(self, bye: bool = True) -> None:
        """End the session; ``bye`` False just vanishes, as a crashed hypervisor does."""
        if hasattr(self, "_control"):
            if bye and self.lost is None and not self.closing and hasattr(self, "welcome"):
                with contextlib.suppress(ShimError):
                    self._control.session = 0  # no heartbeat may follow
                    self._control.request(schema.Bye(seq=0, session=self.session), schema.Ok, 2.0)
            self._control.close()
        for vcpu in self.vcpus.values():
            vcpu.close()
        self.vcpus.clear()
        self.context.term()

    def __enter__(self) -> Shim:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Vcpu:
    """One vCPU.  ``stats`` counts what it has done."""

    def __init__(self, shim: Shim, create: schema.VcpuCreate, endpoint: str) -> None:
        """Made by :meth:`Shim.create_vcpu`."""
        self.number, self.create, self.endpoint = create.vcpu, create, endpoint
        self.stats = Stats()
        self._shim = shim
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._socket: zmq.Socket[bytes] | None = None
        self._watch: _Watch
        self._give_up_at = 0.0
        self._unheard = False
        self._link: Linked
        self._epoch = 0
        self._seq = 0
        self._base = 0
        self._known: Groups = {}
        # Made once: making them takes longer than all else that an exchange does here.
        self._emulate = Emulate(session=0, vcpu=create.vcpu, epoch=0, seq=0, generation=0, state={})
        self._answer = IoAnswer(session=0, vcpu=create.vcpu, epoch=0, seq=0, io=0)
        self._request: Emulate | None = None  # that of the run under way
        self._answered = 0  # number of its last question that has been answered, with _answer
        self._kicks: deque[tuple[Stop, bool | None]] = deque()
        self._waits = False  # the daemon has been told that an interrupt waits
        self._copied: int | None = None  # elements of the copy at hand that are done
        self._renewed: tuple[str, bool] | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------ any thread

    def kick(self, stop: Stop = Stop.KICK, window: bool | None = None) -> None:
        """End the run under way soon, or with ``stop`` none only tell whether an interrupt waits.

        Without a run under way the next one is kicked.
        """
        self._kicks.append((stop, window))
        self.wake()

    def wake(self) -> None:
        """Make a waiting :meth:`run` look at what has changed."""
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
        until: UntilWord | str = UntilWord.NEVER,
        steps: int | None = None,
        microseconds: int | None = None,
        reason: Reason | str = Reason.REQUEST,
        on_io: OnIo = _no_devices,
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
    ) -> Done:
        """Run guest code from ``state``, which is brought up to date, and return how it ended.

        Arguments are the fields of ``emulate`` (see the protocol's text).  Questions go to ``on_io``, coalesced writes
        one by one and in order to ``on_posted``, numbers of written pages to ``on_pages``, all on this thread.  A copy
        from device to device goes to ``on_copy`` as it is, or without that to ``on_io`` as single reads and writes, in
        order and up to the first answer that ends the run, changes the map or says that an interrupt waits.  What these
        raise ends the run after the instruction at hand, which is answered as by an empty bus; the state is
        brought up to date all the same.

        Raises:
            Refused: the daemon refused the request; nothing has run.
            RunLost: the run was lost in the middle.
            SessionLost: the session is gone; no run was under way.
            ProtocolError: an argument or a value of the state does not fit; nothing has run.
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
        self._copied, self._waits = None, window
        if self._link.news() and self._watch.gone():
            raise SessionLost(f"vCPU {self.number}'s thread in the daemon is gone")
        if not self._base:
            self._known = {}
        request = self._emulate
        request.state = delta = changed(state, self._known)
        request.session, request.generation, request.base = shim.session, shim.generation, self._base
        request.reason = reason if reason.__class__ is Reason else Reason(reason)
        request.until = until if until.__class__ is UntilWord else UntilWord(until)
        request.steps, request.microseconds = steps, microseconds
        request.window, request.acknowledge, request.inject = window, acknowledge, inject
        request.code, request.mmio, request.explain, request.checkpoint = code, mmio, explain, checkpoint
        request.changed, request.applied = shim.changed(), shim.applied
        self._seq += 1
        request.seq, self._answered = self._seq, 0
        self._request = request
        try:
            self.stats.requests += 1
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
        except BaseException:  # Ctrl-C; it may have swallowed a message: said once more, the request brings it again
            self._send(request)
            self._give_up(state, delta)
            raise
        finally:
            self._request = None
        self._deliver(done, on_posted, on_pages)
        return done

    def _take(self, state: State, delta: Groups, done: Done) -> None:
        """Bring the state up to date at the end of a run that began with ``delta``."""
        update(state, done.state)
        self._base = done.seq
        self._known |= delta
        self._known |= done.state
        self.stats.instructions += done.instructions
        self.stats.steps += done.steps

    def _give_up(self, state: State, delta: Groups) -> None:
        """End a run in which a callback has raised; its question has been answered."""
        assert self._request is not None
        self._kicks.append((Stop.KICK, None))
        try:
            done = self._converse(self._request, None, _no_devices, None, None)
        except ShimError:  # lost as well; what has been raised says more
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
        """Answer questions until the run is over; ``message`` is the first message, where it has come already."""
        question: Io | None = None
        while True:
            if message is None:
                message = self._receive()
            following: Message | None = None
            match message:
                case Done(seq=request.seq):
                    return message
                case Io(seq=request.seq) if message.io <= self._answered:
                    if message.io == self._answered:  # our answer was lost: say it again, touch no device
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
                            given = self._copy(message, on_io) if on_copy is None else on_copy(message)
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
                    if message.error is ErrorClass.UNKNOWN_BASE:  # the daemon has forgotten: say it in full
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
                        raise Refused(message)
            message = following

    def _copy(self, io: Io, on_io: OnIo) -> Answer:
        """Carry out a copy as single reads and writes."""
        step, whole = -io.size if io.down else io.size, Answer()
        for n in range(io.count):
            self._copied = n + 1  # what raises counts as done
            read = _ask(_single(io, IoKind.MMIO_READ, io.address + n * step), on_io)
            wrote = _ask(_single(io, IoKind.MMIO_WRITE, io.target + n * step, read.data), on_io)
            for answer in (read, wrote):
                whole.map = whole.map if answer.map is None else answer.map
                whole.window = whole.window if answer.window is None else answer.window
                whole.stop = whole.stop if answer.stop is Stop.NONE else answer.stop
            if whole.stop is not Stop.NONE or whole.map is not None or (whole.window and not self._waits):
                whole.copied = n + 1
                break
        self._copied = None
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
        """Return the answer to a question; it counts as given."""
        more = given if isinstance(given, Answer) else _NOTHING_MORE
        answer = self._answer
        answer.session, answer.seq, answer.io = io.session, io.seq, io.io
        answer.data = (given or b"") if given is not more else more.data  # type: ignore[assignment]
        answer.fault, answer.map, answer.window, answer.stop = more.fault, more.map, more.window, more.stop
        answer.registers, answer.copied = list(more.registers), more.copied
        answer.changed = self._shim.changed()
        answer.applied = self._shim.applied if more.applied is None else more.applied
        self._answered = io.io
        if more.window is not None or io.kind is IoKind.INTERRUPT_ACK:
            self._waits = bool(more.window)
        return answer

    def _last_answer_to(self, io: Io) -> IoAnswer:
        """Return the answer to a question whose callback has raised: an empty bus, and the run ends."""
        copied, self._copied = self._copied, None
        return self._answer_to(io, replace(_no_devices(io), stop=Stop.KICK, copied=copied))

    def _call(self, message: Emulate | IoAnswer) -> Message | None:
        """Send a message and return the next one, or None when something else wants to be seen to first."""
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
        if self._link.send(data):  # else nobody is there to take it; it is sent again after a reconnect
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
            RunLost: the session is lost, and this vCPU's thread in the daemon with it.
        """
        lost = self._shim.lost
        if (lost is None and not self._watch.seen) or self._renewed is not None:
            return None
        now = time.monotonic()
        self._give_up_at = self._give_up_at or now + _GRACE
        if (lost is not None and self._unheard) or now >= self._give_up_at:
            raise RunLost(f"a run was lost in the middle: {lost or 'its connection is gone'}")
        self._unheard = self._watch.gone()  # there may be a last word
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
        self._socket = _dealer(self._shim.context, self._shim.curve)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _NO_RECONNECT)
        self._watch = _Watch(self._socket)
        self._give_up_at, self._unheard = 0.0, False
        self._socket.connect(self.endpoint)
        self._link = link(self._socket, self._wake, self._watch.descriptor)
        self._epoch += 1
        if renewed is not None and not renewed[1]:
            self._base = 0
            if self._request is not None:
                raise RunLost("a run was lost in the middle: the daemon is another one")
        elif self._request is not None:
            self._send(self._request)

    def _drop_socket(self) -> None:
        if self._socket is not None:
            del self._link
            self._watch.close()
            self._socket.close(linger=0)
            self._socket = None

    def close(self) -> None:
        """Give up the socket; called by :meth:`Shim.close` when no run is under way."""
        if not self._closed:
            self._closed = True
            self._drop_socket()
            os.close(self._wake)
